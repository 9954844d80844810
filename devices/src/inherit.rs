//! File descriptors that the parent process handed down by number.
//!
//! The one place where a number from the command line becomes an owned descriptor.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over descriptor `number`, which the command line named, and marks it close-on-exec.
pub fn take(number: RawFd) -> Result<OwnedFd, String> {
    if number < 0 {
        return Err(format!("file descriptor {number}: not a number of one"));
    }
    // SAFETY: the borrow ends in this statement; a number that is not open makes fcntl answer EBADF.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD);
    flags.map_err(|error| format!("file descriptor {number}: {}", error.desc()))?;
    // SAFETY: the descriptor is open (checked above), was inherited for this use, and each number on the
    // command line is taken once, so nothing else in the process owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|error| format!("file descriptor {number}: {}", error.desc()))?;
    Ok(owned)
}
