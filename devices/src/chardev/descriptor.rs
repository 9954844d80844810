//! Reading and writing descriptors without blocking and without changing what others share.
//!
//! O_NONBLOCK belongs to the open file description, and stdin, stdout and inherited pipes share theirs with the shell. Terminals
//! and pipes are opened anew through /proc/self/fd; where that is not possible each access is preceded by poll.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{read, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A pipe that polls writable takes this much without blocking (pipe(7), PIPE_BUF).
const SHARED_WRITE_MAX: usize = 4096;

/// An open descriptor that never makes the caller wait.
pub struct Descriptor {
    fd: OwnedFd,
    /// Its description is shared and may block.
    shared: bool,
}

impl Descriptor {
    /// A descriptor of our own, opened with O_NONBLOCK, or a regular file.
    pub fn own(fd: OwnedFd) -> Descriptor {
        Descriptor { fd, shared: false }
    }

    /// A descriptor whose description others use too.
    pub fn shared(fd: OwnedFd, access: OFlag) -> Descriptor {
        let kind = fstat(&fd).map(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT);
        match kind {
            // Opening a regular file again would lose the position.
            Ok(SFlag::S_IFREG) => Descriptor::own(fd),
            Ok(SFlag::S_IFIFO | SFlag::S_IFCHR) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                match open(path.as_str(), flags, Mode::empty()) {
                    Ok(anew) => Descriptor::own(anew),
                    Err(_) => Descriptor { fd, shared: true },
                }
            }
            _ => Descriptor { fd, shared: true },
        }
    }

    fn ready(&self, events: PollFlags) -> bool {
        if !self.shared {
            return true;
        }
        let mut fds = [PollFd::new(self.fd.as_fd(), events)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Reads; `Ok(None)`: nothing now; `Ok(Some(0))`: the end.
    pub fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        if !self.ready(PollFlags::POLLIN) {
            return Ok(None);
        }
        not_now(read(&self.fd, buffer))
    }

    /// Writes; `Ok(None)`: no room now.
    pub fn write(&self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        if !self.ready(PollFlags::POLLOUT) {
            return Ok(None);
        }
        let count_max = if self.shared { bytes.len().min(SHARED_WRITE_MAX) } else { bytes.len() };
        not_now(write(&self.fd, &bytes[..count_max]))
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Turns "would block" into `None`.
pub fn not_now(result: Result<usize, Errno>) -> Result<Option<usize>, Errno> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Host input from a descriptor. The end and errors mean that nothing more comes.
pub struct Source {
    descriptor: Option<Descriptor>,
}

impl Source {
    /// Reads from `descriptor`, or never has anything.
    pub fn new(descriptor: Option<Descriptor>) -> Source {
        Source { descriptor }
    }

    /// The descriptor to wait for.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.descriptor.as_ref()
    }

    /// Bytes that are there now.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.descriptor.as_ref()?.read(buffer) {
            Ok(None) => None,
            Ok(Some(count)) if count > 0 => Some(count),
            Ok(Some(_)) | Err(_) => {
                self.descriptor = None;
                None
            }
        }
    }
}

/// Host output to a descriptor. A reader that went away or a full disk is reported once; output is dropped from there on.
pub struct Sink {
    descriptor: Descriptor,
    label: String,
    broken: bool,
}

impl Sink {
    /// Writes to `descriptor`; `label` names the device in messages.
    pub fn new(descriptor: Descriptor, label: &str) -> Sink {
        Sink { descriptor, label: label.to_string(), broken: false }
    }

    /// The descriptor to wait for.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Writes what fits; `None`: no room now.
    pub fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.broken {
            return Some(bytes.len());
        }
        match self.descriptor.write(bytes) {
            Ok(progress) => progress,
            Err(error) => {
                let (label, reason) = (&self.label, error.desc());
                eprintln!("reprise device: {label}: output is dropped from here on: {reason}");
                self.broken = true;
                Some(bytes.len())
            }
        }
    }
}
