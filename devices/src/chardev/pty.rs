//! A pseudo-terminal whose other end the user opens.

use super::descriptor::not_now;
use super::poller::Poller;
use super::stream::{Input, Presence, Stream};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{read, ttyname, write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nothing tells the master that its other end was opened; it looks this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The master side of a pseudo-terminal.
pub struct Pty {
    master: OwnedFd,
    path: PathBuf,
    timer: TimerFd,
    present: bool,
}

impl Pty {
    /// Makes one and says on stderr where it is, in QEMU's words.
    pub fn open(label: &str) -> Result<Pty, String> {
        let failed = |error: Errno| format!("{label}: cannot make a pseudo-terminal: {}", error.desc());
        let pair = openpty(None, None).map_err(failed)?;
        let mut modes = tcgetattr(&pair.slave).map_err(failed)?;
        cfmakeraw(&mut modes);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &modes).map_err(failed)?;
        let path = ttyname(&pair.slave).map_err(failed)?;
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).map_err(failed)?;
        fcntl(&pair.master, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map_err(failed)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(failed)?;
        let interval = Expiration::Interval(TimeSpec::from_duration(LOOK_INTERVAL));
        timer.set(interval, TimerSetTimeFlags::empty()).map_err(failed)?;
        eprintln!("char device redirected to {} (label {label})", path.display());
        Ok(Pty { master: pair.master, path, timer, present: false })
    }

    /// Path of the end that the user opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn someone_has_it_open(&self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_ok() && !fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

impl Stream for Pty {
    fn watch(&mut self, poller: &Poller) -> Result<(), String> {
        poller.watch(&self.timer)?;
        poller.watch(&self.master)
    }

    fn attend(&mut self) -> Option<Presence> {
        // Edge-triggered: what the timer counted need not be read.
        let now = self.someone_has_it_open();
        match (std::mem::replace(&mut self.present, now), now) {
            (false, true) => Some(Presence::Arrived),
            (true, false) => Some(Presence::Left),
            (false, false) | (true, true) => None,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<Input> {
        // EIO: nobody has the other end open.
        not_now(read(&self.master, buffer)).ok()?.filter(|&count| count > 0).map(Input::Bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.someone_has_it_open() {
            return Some(bytes.len());
        }
        not_now(write(&self.master, bytes)).unwrap_or(Some(bytes.len()))
    }

    fn is_interactive(&self) -> bool {
        true
    }
}
