//! A run that is not recorded.

use super::{Journal, JournalError, send_offer};
use replay::event::{ShutdownCause, Stamped};
use replay::lane::BrokerEnd;
use replay::message::Offer;
use replay::setup::Mode;
use replay::time::Icount;
use std::path::Path;

/// Inputs from the host; events are dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Journal for Plain {
    fn mode(&self) -> Mode {
        Mode::Plain
    }

    fn recording(&self) -> Option<&Path> {
        None
    }

    fn pump(&mut self, lane: &mut BrokerEnd) -> Result<(), JournalError> {
        Ok(lane.pump()?)
    }

    fn offer(&mut self, lane: &mut BrokerEnd, offer: Offer) -> Result<(), JournalError> {
        send_offer(lane, offer)
    }

    fn on_event(&mut self, _stamped: &Stamped) -> Result<(), JournalError> {
        Ok(())
    }

    fn flush(&mut self, _progress: Icount) -> Result<(), JournalError> {
        Ok(())
    }

    fn finish(&mut self, _icount: Icount, _cause: ShutdownCause) -> Result<(), JournalError> {
        Ok(())
    }

    fn take_warning(&mut self) -> Option<String> {
        None
    }
}
