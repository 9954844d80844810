//! The one conversion that the vhost crate's eventfd type lacks. The `unsafe` of the windows is all here.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use vmm_sys_util::eventfd::EventFd;

/// The vhost crate's type for an eventfd that we were given.
pub fn event_fd(fd: OwnedFd) -> EventFd {
    // SAFETY: `into_raw_fd` gives up the ownership that the EventFd takes over.
    unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
}
