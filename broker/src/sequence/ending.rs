//! How a run came to its end.

use crate::exit;
use replay::event::ShutdownCause;
use replay::machine::PanicAction;

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine ended; or the user ended a replay.
    Shutdown(ShutdownCause),
    /// The guest panicked, and `-action panic=shutdown` says that this is no failure.
    PanicShutdown,
    /// A replay has come to the end of what was recorded.
    Replayed,
    /// A replay differs from its recording.
    Diverged(Divergence),
    /// A failure: what the user is told.
    Failed(String),
    /// A failure of which the user was told by another process.
    FailedAndSaid,
}

/// The first difference between a replay and its recording.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Divergence {
    /// Where it was seen.
    pub icount: u64,
    /// What differs.
    pub field: String,
    /// The recording's value.
    pub expected: String,
    /// The replay's value.
    pub found: String,
}

impl End {
    /// The end as the machine's user wants a panic to count.
    pub fn under(self, action: PanicAction) -> End {
        match (self, action) {
            (End::Shutdown(ShutdownCause::GuestPanic), PanicAction::Shutdown) => End::PanicShutdown,
            (end, _) => end,
        }
    }

    /// The processes may end by themselves.
    pub fn is_orderly(&self) -> bool {
        match self {
            End::Shutdown(_) | End::PanicShutdown | End::Replayed | End::Diverged(_) => true,
            End::Failed(_) | End::FailedAndSaid => false,
        }
    }

    /// What the log closes with.
    pub fn cause(&self) -> ShutdownCause {
        match self {
            End::Shutdown(cause) => *cause,
            End::PanicShutdown => ShutdownCause::GuestPanic,
            End::Replayed => ShutdownCause::HostQuit,
            End::Diverged(_) | End::Failed(_) | End::FailedAndSaid => ShutdownCause::HostError,
        }
    }

    /// The program's status.
    pub fn status(&self) -> u8 {
        match self {
            End::Shutdown(cause) => exit::status(*cause),
            End::Replayed | End::PanicShutdown => 0,
            End::Diverged(_) | End::Failed(_) | End::FailedAndSaid => exit::STATUS_FAILURE,
        }
    }

    /// What the user is told.
    pub fn message(&self) -> Option<String> {
        match self {
            End::Shutdown(cause) => exit::message(*cause),
            End::PanicShutdown => exit::message(ShutdownCause::GuestPanic),
            End::Replayed | End::FailedAndSaid => None,
            End::Diverged(difference) => Some(difference.to_string()),
            End::Failed(why) => Some(why.clone()),
        }
    }
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Divergence { icount, field, expected, found } = self;
        write!(f, "the replay differs from the recording at instruction {icount}: ")?;
        write!(f, "{field}: recorded {expected}, replayed {found}")
    }
}
