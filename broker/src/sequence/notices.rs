//! What happened to a run, as those are told who do not ask: the events of QMP.

use super::ending::End;
use crate::host_clock;
use crate::qmp::jobs::Status;
use replay::event::ShutdownCause;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The machine stands still.
    Stop,
    /// It goes on.
    Resume,
    /// The run is over, or the guest has ended under `-no-shutdown`.
    Shutdown {
        /// By the guest's doing.
        guest: bool,
        /// QEMU's word for the cause.
        reason: &'static str,
    },
    /// The machine was reset.
    Reset {
        /// By the guest's doing.
        guest: bool,
    },
    /// The power button was pressed.
    Powerdown,
    /// A job is further in its life.
    Job {
        /// Its name.
        id: String,
        /// Where it is now.
        status: Status,
    },
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub what: What,
    /// Host time: microseconds since 1970-01-01 UTC.
    pub unix_us: u64,
}

/// More than this many that nobody has taken are a bug of ours: the loop takes them at every turn.
const NOTICES_MAX: usize = 1 << 16;

/// Notices that were not told yet.
#[derive(Debug, Default)]
pub struct Notices {
    list: Vec<Notice>,
}

impl Notices {
    /// Something happened now.
    pub fn add(&mut self, what: What) {
        assert!(self.list.len() < NOTICES_MAX, "nobody takes notices");
        self.list.push(Notice { what, unix_us: host_clock::now_us() });
    }

    /// Takes all, in order.
    pub fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.list)
    }
}

/// The end of a machine, in QEMU's words.
pub fn shutdown(cause: ShutdownCause) -> What {
    let (guest, reason) = match cause {
        ShutdownCause::GuestShutdown => (true, "guest-shutdown"),
        ShutdownCause::GuestReset | ShutdownCause::TripleFault => (true, "guest-reset"),
        ShutdownCause::GuestPanic => (true, "guest-panic"),
        ShutdownCause::DebugExit { .. } => (true, "guest-shutdown"),
        ShutdownCause::HostQuit => (false, "host-qmp-quit"),
        ShutdownCause::HostSignal { .. } => (false, "host-signal"),
        ShutdownCause::HostError => (false, "host-error"),
    };
    What::Shutdown { guest, reason }
}

/// The same of a run.
pub fn end(end: &End) -> What {
    match end {
        End::Shutdown(cause) => shutdown(*cause),
        End::PanicShutdown => shutdown(ShutdownCause::GuestPanic),
        // Nobody asked for the end of a log.
        End::Replayed => What::Shutdown { guest: false, reason: "none" },
        End::Diverged(_) | End::Failed(_) | End::FailedAndSaid => shutdown(ShutdownCause::HostError),
    }
}
