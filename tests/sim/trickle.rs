//! A playback that sends a few events at a time, so that the vCPU comes to the end of what it knows at any place.

use crate::dice::Dice;
use broker::journal::{Journal, JournalError, Playback};
use replay::event::{ShutdownCause, Stamped};
use replay::lane::BrokerEnd;
use replay::message::Offer;
use replay::setup::Mode;
use replay::time::Icount;
use std::io::Read;
use std::path::Path;

/// A playback that is slow.
pub struct Trickle<R: Read> {
    playback: Playback<R>,
    dice: Dice,
}

impl<R: Read> Trickle<R> {
    pub fn new(playback: Playback<R>, dice: Dice) -> Trickle<R> {
        Trickle { playback, dice }
    }
}

impl<R: Read> Journal for Trickle<R> {
    fn mode(&self) -> Mode {
        self.playback.mode()
    }

    fn recording(&self) -> Option<&Path> {
        self.playback.recording()
    }

    fn pump(&mut self, lane: &mut BrokerEnd) -> Result<(), JournalError> {
        for _ in 0..self.dice.below(4) {
            self.playback.send_next(lane)?;
        }
        Ok(lane.pump()?)
    }

    fn offer(&mut self, lane: &mut BrokerEnd, offer: Offer) -> Result<(), JournalError> {
        self.playback.offer(lane, offer)
    }

    fn on_event(&mut self, stamped: &Stamped) -> Result<(), JournalError> {
        self.playback.on_event(stamped)
    }

    fn flush(&mut self, progress: Icount) -> Result<(), JournalError> {
        self.playback.flush(progress)
    }

    fn finish(&mut self, icount: Icount, cause: ShutdownCause) -> Result<(), JournalError> {
        self.playback.finish(icount, cause)
    }

    fn take_warning(&mut self) -> Option<String> {
        self.playback.take_warning()
    }
}
