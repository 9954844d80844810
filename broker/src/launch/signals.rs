//! Signals as something to wait for: they end the run in order, or say that a child has changed.

use super::{HostError, host};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};

/// Signals that end a run.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The blocked signals of this process.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals from here on. Children start with an empty mask.
    pub fn block() -> Result<Signals, HostError> {
        let mut set = SigSet::empty();
        for signal in ENDING.into_iter().chain([Signal::SIGCHLD]) {
            set.add(signal);
        }
        host("block signals", sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Signals { fd: host("wait for signals", SignalFd::with_flags(&set, flags))? })
    }

    /// The signal that asks for the end, if one came. SIGCHLD is taken and not told: children are asked anyway.
    pub fn take(&self) -> Option<i32> {
        let mut ending = None;
        while let Ok(Some(info)) = self.fd.read_signal() {
            let number = info.ssi_signo as i32;
            if number != libc::SIGCHLD {
                ending = ending.or(Some(number));
            }
        }
        ending
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
