//! `user`: a network of its own, made by libslirp out of the host's ordinary sockets.
//!
//! libslirp says after each step which descriptors it waits for and for how long. An epoll instance holds them, a timer and a
//! wake-up, so that the whole network is one descriptor for the device's worker thread. Level-triggered: libslirp asks for events
//! only while it has room for what they bring.

use super::fragments::{Fragments, Passed};
use super::frame::Frame;
use super::netdev::{Netdev, Sent};
use super::slirp::{POLL_ERR, POLL_HUP, POLL_IN, POLL_OUT, POLL_PRI, Slirp};
use super::spec_user::{Protocol, UserSpec};
use super::{CSUM_FEATURES, checksum};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Events taken from the host at a time.
const EVENTS_MAX: usize = 64;
/// What libslirp calls an event and what epoll calls it.
const EVENTS: [(c_int, EventSet); 5] = [
    (POLL_IN, EventSet::IN),
    (POLL_OUT, EventSet::OUT),
    (POLL_PRI, EventSet::PRIORITY),
    (POLL_ERR, EventSet::ERROR),
    (POLL_HUP, EventSet::HANG_UP),
];

/// The network.
pub struct User {
    slirp: Slirp,
    fragments: Fragments,
    epoll: Epoll,
    timer: TimerFd,
    /// When the timer will fire.
    timer_at: Option<Instant>,
    again: EventFd,
    /// Descriptors in the set and the events they are there for.
    watched: BTreeMap<RawFd, c_int>,
}

impl User {
    /// Makes the network and listens on its forwarded ports.
    pub fn open(spec: &UserSpec, label: &str) -> Result<User, String> {
        let failed = |what: &str, why: &dyn std::fmt::Display| format!("{label}: cannot make {what}: {why}");
        let mut slirp = Slirp::new(spec).map_err(|message| format!("{label}: {message}"))?;
        if let Some(directory) = &spec.tftp
            && !std::path::Path::new(directory).is_dir()
        {
            return Err(format!("{label}: the directory for tftp, '{directory}', is not there"));
        }
        for forward in &spec.hostfwd {
            slirp.add_hostfwd(forward).map_err(|error| {
                let protocol = if forward.protocol == Protocol::Tcp { "tcp" } else { "udp" };
                let (host, port) = (forward.host, forward.host_port);
                let why = error.desc();
                format!(
                    "{label}: hostfwd '{}': cannot listen on {protocol} {host}:{port}: {why}",
                    forward.text
                )
            })?;
        }
        let epoll = Epoll::new().map_err(|error| failed("an epoll instance", &error))?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .map_err(|error| failed("a timer", &error.desc()))?;
        let again = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| failed("an eventfd", &error.desc()))?;
        for fd in [timer.as_fd().as_raw_fd(), again.as_fd().as_raw_fd()] {
            let event = EpollEvent::new(EventSet::IN, fd as u64);
            epoll.ctl(ControlOperation::Add, fd, event).map_err(|error| failed("an epoll set", &error))?;
        }
        let fragments = Fragments::default();
        let mut user =
            User { slirp, fragments, epoll, timer, timer_at: None, again, watched: BTreeMap::new() };
        user.settle().map_err(|message| format!("{label}: {message}"))?;
        Ok(user)
    }

    /// Takes in events and lets libslirp act on them.
    fn attend_for(&mut self, timeout_ms: i32) -> Result<(), String> {
        let mut events = [EpollEvent::default(); EVENTS_MAX];
        let count = match self.epoll.wait(timeout_ms, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(format!("cannot wait for the host: {error}")),
        };
        let mut happened = BTreeMap::new();
        for event in &events[..count] {
            let (fd, set) = (event.data() as RawFd, event.event_set());
            if fd == self.again.as_fd().as_raw_fd() {
                // Fails only when there was no wake-up.
                let _ = self.again.read();
            } else if fd == self.timer.as_fd().as_raw_fd() {
                self.timer_at = None;
                // Non-blocking, and it was readable; a failure would only mean one more round.
                let _ = self.timer.wait();
            } else {
                let known = EVENTS.iter().filter(|(_, bit)| set.contains(*bit));
                happened.insert(fd, known.fold(0, |sum, (event, _)| sum | event));
            }
        }
        self.slirp.poll(|fd| happened.get(&fd).copied().unwrap_or(0));
        self.settle()
    }

    fn watch(&mut self, fd: RawFd, events: c_int) -> Result<(), String> {
        let wanted = EVENTS.iter().filter(|(event, _)| events & event != 0);
        let set = wanted.fold(EventSet::empty(), |sum, (_, bit)| sum | *bit);
        let event = EpollEvent::new(set, fd as u64);
        let known = self.watched.insert(fd, events).is_some();
        let first = if known { ControlOperation::Modify } else { ControlOperation::Add };
        let result = self.epoll.ctl(first, fd, event).or_else(|error| match error.raw_os_error() {
            // The number was closed and opened, or is in the set for another event.
            Some(code) if code == Errno::ENOENT as i32 => self.epoll.ctl(ControlOperation::Add, fd, event),
            Some(code) if code == Errno::EEXIST as i32 => self.epoll.ctl(ControlOperation::Modify, fd, event),
            _ => Err(error),
        });
        result.map_err(|error| format!("cannot wait for a socket: {error}"))
    }

    fn set_timer(&mut self, timeout_ms: Option<u32>) -> Result<(), String> {
        let Some(timeout_ms) = timeout_ms else { return Ok(()) };
        // Zero would switch the timer off.
        let timeout = Duration::from_millis(u64::from(timeout_ms.max(1)));
        let at = Instant::now() + timeout;
        // Never later than it is set already: a guest that keeps sending must not stop the clock.
        if self.timer_at.is_some_and(|already| already <= at) {
            return Ok(());
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(timeout));
        self.timer
            .set(expiration, TimerSetTimeFlags::empty())
            .map_err(|error| format!("cannot set a timer: {}", error.desc()))?;
        self.timer_at = Some(at);
        Ok(())
    }
}

impl Netdev for User {
    fn features(&self) -> u64 {
        CSUM_FEATURES
    }

    fn poll_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn attend(&mut self) -> Result<(), String> {
        self.attend_for(0)
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if !checksum::complete(frame) {
            return Sent::Refused;
        }
        match self.fragments.pass(frame.ethernet(), Instant::now()) {
            Passed::AsItIs => self.slirp.input(frame.ethernet()),
            Passed::Whole(whole) => self.slirp.input(&whole),
            Passed::Kept => {}
        }
        Sent::Taken
    }

    fn receive(&mut self) -> Option<Frame> {
        self.slirp.next_frame()
    }

    fn settle(&mut self) -> Result<(), String> {
        let (wanted, timeout_ms) = self.slirp.wanted();
        let wanted: Vec<(RawFd, c_int)> = wanted.to_vec();
        for fd in self.slirp.take_forgotten() {
            self.watched.remove(&fd);
            // A closed descriptor has left by itself, a new one was never there.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        for &(fd, events) in &wanted {
            if self.watched.get(&fd) != Some(&events) {
                self.watch(fd, events)?;
            }
        }
        if self.watched.len() > wanted.len() {
            let wanted: BTreeSet<RawFd> = wanted.iter().map(|&(fd, _)| fd).collect();
            let epoll = &self.epoll;
            self.watched.retain(|&fd, _| {
                let keep = wanted.contains(&fd);
                if !keep {
                    // A closed descriptor has left by itself.
                    let _ = epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
                }
                keep
            });
        }
        self.set_timer(timeout_ms)
    }

    fn wake(&self) {
        // Fails only when 2^64 wakes are pending: it is readable then.
        let _ = self.again.write(1);
    }

    fn wait(&mut self, timeout_ms: u16) {
        // Called at the end only; what fails now fails for nobody.
        let _ = self.attend_for(i32::from(timeout_ms));
    }

    fn dropped(&self) -> u64 {
        self.slirp.dropped()
    }
}
