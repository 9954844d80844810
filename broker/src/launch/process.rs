//! One device process: how it is started, and how it says that it is ready.

use super::children::{Children, Role};
use super::signals::Signals;
use super::spawn::Spawn;
use super::{HostError, LaunchError, host};
use crate::logging::LogSettings;
use crate::logging::link::Link;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

/// What a device process is started with.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its kind: `chardev`, `block`…
    pub kind: &'a str,
    /// The device's name.
    pub label: &'a str,
    /// Arguments of its kind.
    pub arguments: &'a [String],
    /// It serves a device: a window is connected to it.
    pub served: bool,
    /// A monitor speaks on its stream.
    pub monitored: bool,
    /// Numbers of descriptors that we were given for it.
    pub inherited: Vec<RawFd>,
    /// It has our standard input and output.
    pub stdio: bool,
    /// It waits for a client without a limit.
    pub patient: bool,
}

/// A device process that was started and may not be ready yet.
#[derive(Debug)]
pub struct Starting {
    /// Its name in messages.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    /// Connection for the vCPU process.
    pub socket: Option<UnixStream>,
    /// Connection for the monitor.
    pub monitor: Option<UnixStream>,
    /// Gets a byte when it is ready.
    pub ready: File,
    /// It may take as long as it wants.
    pub patient: bool,
}

/// Name of a device process in messages.
pub fn name(kind: &str, label: &str) -> String {
    format!("device process {kind} \"{label}\"")
}

impl Request<'_> {
    /// Starts it, and takes it among the children.
    pub fn start(self, log: &LogSettings, children: &mut Children) -> Result<Starting, HostError> {
        let (ready, ready_child) = host("make a pipe", std::io::pipe())?;
        let ready = File::from(OwnedFd::from(ready));
        host("set up a pipe", fcntl(&ready, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)))?;
        let mut arguments = vec!["device".to_owned(), self.kind.to_owned()];
        arguments.extend(self.arguments.iter().cloned());
        arguments.push(format!("--label={}", self.label));
        arguments.push(format!("--ready-fd={}", ready_child.as_raw_fd()));
        let mut keep = vec![ready_child.as_fd()];
        let pair = self.served.then(listen_and_connect).transpose()?;
        if let Some((listener, _)) = &pair {
            arguments.push(format!("--listen-fd={}", listener.as_raw_fd()));
            keep.push(listener.as_fd());
        }
        let monitor =
            if self.monitored { Some(host("make a socket pair", UnixStream::pair())?) } else { None };
        if let Some((ours, theirs)) = &monitor {
            host("set up a monitor", ours.set_nonblocking(true))?;
            arguments.push(format!("--monitor-fd={}", theirs.as_raw_fd()));
            keep.push(theirs.as_fd());
        }
        let (link, link_child) = Link::pair()?;
        keep.push(link_child.as_fd());
        let spawn = Spawn {
            arguments,
            environment: log.environment_with(&link_child),
            keep,
            keep_inherited: self.inherited,
            stdio: self.stdio,
            death_signal: Signal::SIGTERM,
        };
        let name = name(self.kind, self.label);
        let child = host(&format!("start {name}"), spawn.start())?;
        let pid = children.add(Role::Device, name.clone(), child);
        children.add_link(pid, link);
        Ok(Starting {
            name,
            pid,
            socket: pair.map(|(_, socket)| socket),
            monitor: monitor.map(|(ours, _)| ours),
            ready,
            patient: self.patient,
        })
    }
}

/// A listening socket and the first connection to it. The name is nobody else's and ours is the first connection, so
/// that the one which the device accepts is ours.
fn listen_and_connect() -> Result<(UnixListener, UnixStream), HostError> {
    let name = format!("reprise-{}", uuid::Uuid::new_v4());
    let address = host("name a socket", SocketAddr::from_abstract_name(name.as_bytes()))?;
    let listener = host("listen for a device", UnixListener::bind_addr(&address))?;
    let socket = host("connect to a device", UnixStream::connect_addr(&address))?;
    Ok((listener, socket))
}

/// Longest time a device may take to open what it needs, unless it waits for a client.
pub const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until all are ready, or one cannot start, or a signal ends the wait.
pub fn wait_ready(
    devices: &mut [Starting],
    children: &mut Children,
    signals: &Signals,
) -> Result<(), LaunchError> {
    for device in devices {
        wait_readable(device.ready.as_fd(), device.patient, signals)?
            .then_some(())
            .ok_or_else(|| LaunchError::Child { name: device.name.clone(), said_why: false })?;
        if device.progress() != Progress::Ready {
            // It ends by itself, or it was killed.
            let status = children.wait_one(device.pid, Duration::from_millis(500));
            let said_why = status.is_some_and(|status| status.code().is_some());
            return Err(LaunchError::Child { name: device.name.clone(), said_why });
        }
    }
    Ok(())
}

/// How far a device process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not said anything.
    Starting,
    /// It serves.
    Ready,
    /// It could not start.
    Failed,
}

impl Starting {
    /// How far it has come; does not wait.
    pub fn progress(&mut self) -> Progress {
        match self.ready.read(&mut [0]) {
            Ok(1) => Progress::Ready,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Starting,
            Ok(_) | Err(_) => Progress::Failed,
        }
    }
}

/// Waits for something to read; false: it took too long.
pub fn wait_readable(
    fd: std::os::fd::BorrowedFd<'_>,
    patient: bool,
    signals: &Signals,
) -> Result<bool, LaunchError> {
    let timeout = u16::try_from(READY_TIMEOUT.as_millis()).map_or(PollTimeout::NONE, PollTimeout::from);
    let timeout = if patient { PollTimeout::NONE } else { timeout };
    loop {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => host("wait for devices", Err(errno))?,
        }
        if let Some(signal) = signals.take() {
            return Err(LaunchError::Signal(signal));
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(true);
        }
    }
}
