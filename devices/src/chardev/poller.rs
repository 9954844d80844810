//! The set of descriptors a chardev waits for.
//!
//! Edge-triggered throughout: a stream that has nothing to do with an event (no receive buffers, a client that
//! hung up) costs nothing, and interest never has to be changed. The price: everyone reads and writes until told "not now".

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

/// A shared handle on one epoll instance and an event that wakes it.
#[derive(Clone)]
pub struct Poller {
    shared: Arc<Shared>,
}

struct Shared {
    epoll: Epoll,
    again: EventFd,
}

impl Poller {
    /// An empty set.
    pub fn new() -> Result<Poller, String> {
        let failed = |error: Errno| format!("cannot make an epoll instance: {}", error.desc());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let again = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        let poller = Poller { shared: Arc::new(Shared { epoll, again }) };
        poller.watch(&poller.shared.again)?;
        Ok(poller)
    }

    /// Adds a descriptor; it leaves when it is closed. One that cannot be waited for, a file, is always ready.
    pub fn watch(&self, fd: impl AsFd) -> Result<(), String> {
        let events =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        match self.shared.epoll.add(fd, EpollEvent::new(events, 0)) {
            Ok(()) | Err(Errno::EPERM | Errno::EEXIST) => Ok(()),
            Err(error) => Err(format!("cannot wait for a descriptor: {}", error.desc())),
        }
    }

    /// Makes the set ready once more.
    pub fn wake(&self) {
        // Fails only when 2^64 wakes are pending: it is ready then.
        let _ = self.shared.again.write(1);
    }

    /// Takes in all events; true if there was one. Waits up to `timeout_ms` for the first.
    pub fn drain(&self, timeout_ms: u16) -> bool {
        let mut events = [EpollEvent::empty(); 16];
        let mut any = false;
        loop {
            let timeout = if any { EpollTimeout::ZERO } else { EpollTimeout::from(timeout_ms) };
            match self.shared.epoll.wait(&mut events, timeout) {
                Ok(0) => return any,
                Ok(count) => {
                    any = true;
                    if count < events.len() {
                        return true;
                    }
                }
                // A signal is as good a reason to look as an event.
                Err(_) => return true,
            }
        }
    }

    /// The descriptor that is readable while there are events.
    pub fn raw_fd(&self) -> RawFd {
        self.shared.epoll.0.as_raw_fd()
    }
}
