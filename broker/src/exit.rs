//! How a run ended, as a process status and as a line for the user.

use replay::event::ShutdownCause;

/// Status of a run that ended with an error.
pub const STATUS_FAILURE: u8 = 1;

/// The status with which the program ends. QEMU's where it has one.
pub fn status(cause: ShutdownCause) -> u8 {
    match cause {
        ShutdownCause::GuestShutdown | ShutdownCause::GuestReset | ShutdownCause::HostQuit => 0,
        ShutdownCause::GuestPanic | ShutdownCause::TripleFault | ShutdownCause::HostError => STATUS_FAILURE,
        ShutdownCause::DebugExit { value } => value << 1 | 1,
        // As a shell tells of a program that a signal ended.
        ShutdownCause::HostSignal { signal } => 128 | (signal as u8 & 0x7f),
    }
}

/// What the user is told; nothing about an end that was asked for.
pub fn message(cause: ShutdownCause) -> Option<String> {
    match cause {
        ShutdownCause::GuestShutdown
        | ShutdownCause::GuestReset
        | ShutdownCause::HostQuit
        | ShutdownCause::DebugExit { .. } => None,
        ShutdownCause::GuestPanic => Some("the guest panicked".to_owned()),
        ShutdownCause::TripleFault => Some("the guest failed: triple fault".to_owned()),
        ShutdownCause::HostSignal { signal } => Some(format!("terminating on signal {signal}")),
        ShutdownCause::HostError => Some("the run ended because of an error of the host".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (cause, wanted) in [
            (ShutdownCause::GuestShutdown, 0),
            (ShutdownCause::GuestReset, 0),
            (ShutdownCause::HostQuit, 0),
            (ShutdownCause::DebugExit { value: 0 }, 1),
            (ShutdownCause::DebugExit { value: 0x10 }, 0x21),
            (ShutdownCause::DebugExit { value: 0xff }, 0xff),
            (ShutdownCause::GuestPanic, 1),
            (ShutdownCause::HostSignal { signal: 15 }, 143),
        ] {
            assert_eq!(status(cause), wanted, "{cause:?}");
        }
    }
}
