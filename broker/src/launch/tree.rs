//! What is started and how it is wired.
//!
//! Device processes first, each on a listening socket of its own to which only we connect; when all are ready, the vCPU
//! process gets the connected sockets, the lane and the call eventfds.

use super::children::{Children, Role};
use super::signals::Signals;
use super::spawn::Spawn;
use super::{HostError, LaunchError, host};
use crate::cli::chardev::{Address, Backend, Chardev};
use crate::logging::LogSettings;
use crate::streams::Stream;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use replay::lane::{self, BrokerEnd};
use replay::machine::Machine;
use replay::setup::{DeviceFds, Mode, VcpuSetup};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

/// Virtqueues of a console: receive, transmit.
const CONSOLE_QUEUES: usize = 2;

/// What to start.
#[derive(Debug)]
pub struct Plan {
    /// The machine.
    pub machine: Machine,
    /// Its streams.
    pub streams: Vec<Stream>,
    /// Where inputs come from.
    pub mode: Mode,
    /// `-S`.
    pub start_paused: bool,
    /// Instructions between two digests.
    pub digest_interval: u64,
    /// What the children log.
    pub log: LogSettings,
}

/// An eventfd that a back-end signals.
#[derive(Debug)]
pub struct Call {
    /// The eventfd.
    pub fd: EventFd,
    /// The device.
    pub device: u16,
    /// The virtqueue.
    pub queue: u16,
}

/// A stream with a monitor.
#[derive(Debug)]
pub struct MonitorLink {
    /// Connection to the stream's device process.
    pub socket: UnixStream,
    /// The stream.
    pub stream: Stream,
}

/// The running tree.
#[derive(Debug)]
pub struct Tree {
    /// The lane to the vCPU process.
    pub lane: BrokerEnd,
    /// Rung by the vCPU process.
    pub doorbell: EventFd,
    /// Signals of back-ends to which the broker listens.
    pub calls: Vec<Call>,
    /// Streams with monitors.
    pub monitors: Vec<MonitorLink>,
    /// Hands descriptors to the running vCPU process.
    pub control: OwnedFd,
    /// The vCPU process's end of it.
    control_theirs: OwnedFd,
    /// The vCPU process's end of the lane.
    lane_file: OwnedFd,
    /// Connections to the device processes, for the vCPU process.
    sockets: Vec<Option<UnixStream>>,
    /// The processes. The last field: they end after our ends of their sockets are closed.
    pub children: Children,
}

/// A device process that was started.
struct Device {
    name: String,
    ready: File,
    /// Waits for a client without a limit.
    patient: bool,
}

/// Starts the device processes and waits until all are ready.
pub fn start_devices(plan: &Plan, signals: &Signals) -> Result<Tree, LaunchError> {
    let (lane, lane_file) = lane::create()?;
    let (control, control_theirs) = host(
        "make a socket pair",
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC),
    )?;
    let mut tree = Tree {
        lane,
        doorbell: event_fd()?,
        calls: Vec::new(),
        monitors: Vec::new(),
        control,
        control_theirs,
        lane_file,
        sockets: plan.machine.devices.iter().map(|_| None).collect(),
        children: Children::default(),
    };
    let mut devices = Vec::new();
    for stream in plan.streams.iter().filter(|stream| needs_process(stream)) {
        devices.push(start_device(stream, &plan.log, &mut tree)?);
    }
    wait_ready(&mut devices, &mut tree.children, signals)?;
    Ok(tree)
}

/// Output to nowhere needs no process.
fn needs_process(stream: &Stream) -> bool {
    stream.monitor || stream.chardev.backend != Backend::Null || stream.chardev.logfile.is_some()
}

fn event_fd() -> Result<EventFd, HostError> {
    host("make an eventfd", EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC))
}

/// Name of a device process in messages.
fn device_name(chardev: &Chardev) -> String {
    format!("device process chardev \"{}\"", chardev.id)
}

fn start_device(stream: &Stream, log: &LogSettings, tree: &mut Tree) -> Result<Device, LaunchError> {
    let chardev = &stream.chardev;
    let (ready, ready_child) = host("make a pipe", std::io::pipe())?;
    let mut arguments =
        vec!["device".to_owned(), "chardev".to_owned(), format!("--chardev={}", chardev.spec())];
    arguments.push(format!("--label={}", chardev.id));
    arguments.push(format!("--ready-fd={}", ready_child.as_raw_fd()));
    let mut keep = vec![ready_child.as_fd()];
    let pair = stream.device.is_some().then(listen_and_connect).transpose()?;
    if let Some((listener, _)) = &pair {
        arguments.push(format!("--listen-fd={}", listener.as_raw_fd()));
        keep.push(listener.as_fd());
    }
    let monitor = if stream.monitor { Some(host("make a socket pair", UnixStream::pair())?) } else { None };
    if let Some((_, theirs)) = &monitor {
        arguments.push(format!("--monitor-fd={}", theirs.as_raw_fd()));
        keep.push(theirs.as_fd());
    }
    let keep_inherited = match &chardev.backend {
        Backend::Socket(socket) => match socket.address {
            Address::Fd(fd) => vec![fd],
            Address::Unix { .. } | Address::Tcp { .. } => vec![],
        },
        _ => vec![],
    };
    let stdio = matches!(chardev.backend, Backend::Stdio { .. });
    let environment = log.environment();
    let spawn = Spawn { arguments, environment, keep, keep_inherited, stdio, death_signal: Signal::SIGTERM };
    let name = device_name(chardev);
    let child = host(&format!("start {name}"), spawn.start())?;
    tree.children.add(Role::Device, name.clone(), child);
    if let Some((socket, _)) = monitor {
        host("set up a monitor", socket.set_nonblocking(true))?;
        tree.monitors.push(MonitorLink { socket, stream: stream.clone() });
    }
    let patient = matches!(&chardev.backend, Backend::Socket(socket) if socket.server && socket.wait);
    if let (Some(index), Some((_, socket))) = (stream.device, pair) {
        tree.sockets[usize::from(index)] = Some(socket);
    }
    Ok(Device { name, ready: File::from(OwnedFd::from(ready)), patient })
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

/// Longest time a device may take to open its stream, unless it waits for a client.
const READY_TIMEOUT_MS: u16 = 10_000;

fn wait_ready(devices: &mut [Device], children: &mut Children, signals: &Signals) -> Result<(), LaunchError> {
    for device in devices {
        loop {
            let timeout =
                if device.patient { PollTimeout::NONE } else { PollTimeout::from(READY_TIMEOUT_MS) };
            let mut fds = [
                PollFd::new(device.ready.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(0) => {
                    return Err(LaunchError::Child { name: device.name.clone(), said_why: false });
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => host("wait for devices", Err(errno))?,
            }
            if let Some(signal) = signals.take() {
                return Err(LaunchError::Signal(signal));
            }
            if fds[0].any().unwrap_or(false) {
                break;
            }
        }
        let mut byte = [0];
        if !matches!(device.ready.read(&mut byte), Ok(1)) {
            // It ends by itself, or it was killed.
            let status = children.wait_named(&device.name, Duration::from_millis(500));
            let said_why = status.is_some_and(|status| status.code().is_some());
            return Err(LaunchError::Child { name: device.name.clone(), said_why });
        }
    }
    Ok(())
}

impl Tree {
    /// Starts the vCPU process.
    pub fn start_vcpu(&mut self, plan: &Plan) -> Result<(), LaunchError> {
        let sockets = std::mem::take(&mut self.sockets);
        let (devices, calls) = wire_consoles(&sockets)?;
        let setup = VcpuSetup {
            machine: plan.machine.clone(),
            mode: plan.mode,
            lane_fd: self.lane_file.as_raw_fd(),
            doorbell_fd: self.doorbell.as_fd().as_raw_fd(),
            control_fd: self.control_theirs.as_raw_fd(),
            captures: Vec::new(),
            devices,
            start_paused: plan.start_paused,
            digest_interval: plan.digest_interval,
        };
        let setup_file = setup_memory(&setup)?;
        let mut keep = vec![self.lane_file.as_fd(), self.doorbell.as_fd(), setup_file.as_fd()];
        keep.push(self.control_theirs.as_fd());
        keep.extend(sockets.iter().flatten().map(AsFd::as_fd));
        keep.extend(calls.iter().map(|call| call.fd.as_fd()));
        let arguments = vec!["vcpu".to_owned(), format!("--setup-fd={}", setup_file.as_raw_fd())];
        let spawn = Spawn {
            arguments,
            environment: plan.log.environment(),
            keep,
            keep_inherited: vec![],
            stdio: false,
            death_signal: Signal::SIGKILL,
        };
        let child = host("start the vcpu process", spawn.start())?;
        self.children.add(Role::Vcpu, "vcpu process".to_owned(), child);
        // In a replay nothing of the outside is listened to. Transmit queues are the vCPU's own business: what it
        // sent has no effect on the guest.
        if plan.mode != Mode::Replay {
            self.calls = calls.into_iter().filter(|call| call.queue == 0).collect();
        }
        Ok(())
    }
}

/// What the vCPU process is told of each back-end, and the eventfds that the back-ends signal.
fn wire_consoles(sockets: &[Option<UnixStream>]) -> Result<(Vec<DeviceFds>, Vec<Call>), HostError> {
    let (mut devices, mut calls) = (Vec::new(), Vec::new());
    for (index, socket) in sockets.iter().enumerate() {
        let mut call_fds = Vec::new();
        if socket.is_some() {
            for queue in 0..CONSOLE_QUEUES {
                let call = Call { fd: event_fd()?, device: index as u16, queue: queue as u16 };
                call_fds.push(call.fd.as_fd().as_raw_fd());
                calls.push(call);
            }
        }
        devices.push(DeviceFds { socket_fd: socket.as_ref().map(AsRawFd::as_raw_fd), call_fds });
    }
    Ok((devices, calls))
}

fn setup_memory(setup: &VcpuSetup) -> Result<File, LaunchError> {
    let text = serde_json::to_vec(setup).map_err(std::io::Error::other);
    let text = host("describe the machine", text)?;
    let file = host("make a memory file", memfd_create(c"reprise-setup", MFdFlags::MFD_CLOEXEC))?;
    let mut file = File::from(file);
    host("write the setup", file.write_all(&text).and_then(|()| file.rewind()))?;
    Ok(file)
}
