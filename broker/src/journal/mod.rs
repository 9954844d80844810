//! Where a run's inputs come from and where its events go: plain, recording or replay.
//!
//! The three are types behind one trait, chosen at start. Nothing else in the broker asks which one it is. The broker's
//! loop does, at least every 50 ms:
//!
//! 1. read [`BrokerEnd::status`], then receive until the lane is empty; hand each `Journal` message to
//!    [`Journal::on_event`]. In that order, every event before the status' icount has been seen;
//! 2. [`Journal::flush`] with that icount;
//! 3. [`Journal::pump`].
//!
//! What the host has for the guest goes through [`Journal::offer`]. At the end, whatever it is, [`Journal::finish`].

mod plain;
mod playback;
mod record;

pub use plain::Plain;
pub use playback::Playback;
pub use record::Record;

use replay::branch::Cut;
use replay::event::{ShutdownCause, Stamped};
use replay::lane::{BrokerEnd, LaneError};
use replay::log::LogError;
use replay::manifest::{LogPlace, Manifest};
use replay::message::{Inbound, Offer};
use replay::recording::RecordingError;
use replay::setup::Mode;
use replay::time::Icount;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The number of a control message that a journal sends by itself; the broker's own begin at 1.
pub const JOURNAL_SEQUENCE: u64 = 0;

/// Source of a run's inputs and sink of its events.
pub trait Journal {
    /// Which of the three it is: for the vCPU's setup and for `info replay`.
    fn mode(&self) -> Mode;

    /// The recording's directory, if there is one.
    fn recording(&self) -> Option<&Path>;

    /// Sends what the vCPU may use from here on. Never blocks.
    fn pump(&mut self, lane: &mut BrokerEnd) -> Result<(), JournalError>;

    /// Passes on something from the host, or refuses it: a replay takes its inputs from the log.
    ///
    /// [`Offer::Quit`] is never refused.
    fn offer(&mut self, lane: &mut BrokerEnd, offer: Offer) -> Result<(), JournalError>;

    /// Takes an event that took effect.
    fn on_event(&mut self, stamped: &Stamped) -> Result<(), JournalError>;

    /// Makes what was taken safe against the death of any process, and that no other event lies before `progress`.
    fn flush(&mut self, progress: Icount) -> Result<(), JournalError>;

    /// Ends the run at `icount`. Says so if what was recorded or replayed is not whole.
    fn finish(&mut self, icount: Icount, cause: ShutdownCause) -> Result<(), JournalError>;

    /// Where the log ends that is played, as far as it is known.
    fn log_end(&self) -> Option<Icount> {
        None
    }

    /// A line that the user should see now, if there is one.
    fn take_warning(&mut self) -> Option<String>;

    /// Where the run is in its log; a replay tells its events itself.
    fn place(&self) -> Option<LogPlace> {
        None
    }

    /// What the recording says about itself, then what those said that were cut off it.
    fn manifests(&self) -> Vec<Manifest> {
        Vec::new()
    }

    /// The machine was put elsewhere: the log goes on from there.
    fn cut(&mut self, _cut: &Cut) -> Result<(), JournalError> {
        Ok(())
    }

    /// The vCPU went to another place: sends the log again from behind the first `events` events.
    fn rewind(&mut self, _lane: &mut BrokerEnd, _events: u64) -> Result<(), JournalError> {
        Err(JournalError::NoLog)
    }
}

/// What can go wrong with a journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// There is no log to go back in.
    #[error("only a replay can go back in its log")]
    NoLog,
    /// The lane to the vCPU process is of no more use.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The recording cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The log cannot be read or written on.
    #[error("{}: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: LogError,
    },
    /// The recording could not be written to its end; it was said before why.
    #[error("the recording {} is not finished: it ends at instruction {icount}", path.display())]
    Unfinished {
        /// The recording.
        path: PathBuf,
        /// What can be replayed.
        icount: Icount,
    },
    /// The log is damaged; what was replayed lies before the damage.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Offset, instructions and what does not fit.
        what: String,
    },
    /// Input from the host during a replay.
    #[error("{what} is not possible in a replay: all input comes from the recording")]
    Refused {
        /// The input.
        what: &'static str,
    },
    /// The vCPU process journals although it replays.
    #[error("the vCPU process reported a new event in a replay: {0:?}")]
    Unexpected(Box<Stamped>),
}

/// Sends an offer to a machine that takes its inputs from the host.
fn send_offer(lane: &mut BrokerEnd, offer: Offer) -> Result<(), JournalError> {
    lane.send(&Inbound::Offer(offer))?;
    lane.raise_attention();
    Ok(())
}

#[cfg(test)]
mod tests;
