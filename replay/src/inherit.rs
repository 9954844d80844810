//! File descriptors that the parent process handed down by number.
//!
//! The one place where a number from the command line or the setup becomes an owned descriptor. What came through
//! exec is not close-on-exec; what this process opened or took over is. So no descriptor gets two owners.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over descriptor `number` and marks it close-on-exec.
///
/// # Errors
/// The number names no open descriptor, or one that was not inherited or is taken already.
pub fn take(number: RawFd) -> Result<OwnedFd, String> {
    let refused = |why: &str| format!("file descriptor {number}: {why}");
    if number < 0 {
        return Err(refused("not a number of one"));
    }
    // SAFETY: the borrow ends in this statement; a number that is not open makes fcntl answer EBADF.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD);
    let flags = FdFlag::from_bits_retain(flags.map_err(|error| refused(error.desc()))?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(refused("was not inherited, or is in use already"));
    }
    // SAFETY: the descriptor is open and not close-on-exec (checked above): it was inherited, and nothing in the
    // process owns it, because all that the process opens or takes is close-on-exec.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| refused(error.desc()))?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_descriptor_is_taken_once() {
        let (end, _other) = nix::unistd::pipe().expect("a pipe");
        let number = end.into_raw_fd();
        let taken = take(number).expect("open and not close-on-exec");
        assert!(take(number).unwrap_err().contains("in use already"));
        drop(taken);
        assert!(take(-1).is_err());
    }

    #[test]
    fn what_the_process_opened_is_refused() {
        let file = std::fs::File::open("/dev/null").expect("there is one");
        assert!(take(std::os::fd::AsRawFd::as_raw_fd(&file)).is_err());
    }
}
