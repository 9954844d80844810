//! What is started and how it is wired.
//!
//! Back-ends first, each on a socket of its own; when all are ready, the vCPU process gets the connected sockets, the
//! lane and the call eventfds.

use super::back_end::BackEnd;
use super::children::{Children, Role};
use super::foreign;
use super::plan::{Plan, Task};
use super::process::{Request, Starting, wait_ready};
use super::signals::Signals;
use super::spawn::Spawn;
use super::{HostError, LaunchError, host};
use crate::cli::chardev::{Address, Backend};
use crate::logging::link::Link;
use crate::streams::Stream;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use replay::device::VirtioKind;
use replay::lane::{self, BrokerEnd};
use replay::machine::Machine;
use replay::setup::{DeviceFds, Mode, VcpuSetup};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

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
    /// Process ids of the device processes, by device.
    pub pids: BTreeMap<u16, i32>,
    /// Connections to back-ends of somebody else, by device, on which a hang-up is noticed.
    pub foreign: BTreeMap<u16, UnixStream>,
    /// Hands descriptors to the running vCPU process.
    pub control: OwnedFd,
    /// The vCPU process's end of it.
    control_theirs: OwnedFd,
    /// The vCPU process's end of the lane.
    lane_file: OwnedFd,
    /// Connections to the back-ends, for the vCPU process.
    sockets: Vec<Option<UnixStream>>,
    /// The processes. The last field: they end after our ends of their sockets are closed.
    pub children: Children,
}

/// Starts the device processes, connects to foreign back-ends, and waits until all are ready.
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
        pids: BTreeMap::new(),
        foreign: BTreeMap::new(),
        control,
        control_theirs,
        lane_file,
        sockets: plan.machine.devices.iter().map(|_| None).collect(),
        children: Children::default(),
    };
    let mut starting = Vec::new();
    for stream in plan.streams.iter().filter(|stream| needs_process(stream)) {
        starting.push(tree.start_stream(stream, plan)?);
    }
    for index in 0..plan.machine.devices.len() as u16 {
        starting.extend(tree.start_back_end(plan, index)?);
    }
    wait_ready(&mut starting, &mut tree.children, signals)?;
    for index in 0..plan.machine.devices.len() as u16 {
        tree.connect_foreign(plan, index, signals)?;
    }
    Ok(tree)
}

/// Output to nowhere needs no process.
fn needs_process(stream: &Stream) -> bool {
    stream.monitor || stream.chardev.backend != Backend::Null || stream.chardev.logfile.is_some()
}

/// An eventfd of ours.
pub fn event_fd() -> Result<EventFd, HostError> {
    host("make an eventfd", EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC))
}

/// Starts the process of a stream.
pub fn start_stream_process(
    stream: &Stream,
    plan: &Plan,
    children: &mut Children,
) -> Result<Starting, HostError> {
    let chardev = &stream.chardev;
    let request = Request {
        kind: "chardev",
        label: &chardev.id,
        arguments: &[format!("--chardev={}", chardev.spec())],
        served: stream.device.is_some(),
        monitored: stream.monitor,
        inherited: inherited_of(&chardev.backend),
        stdio: matches!(chardev.backend, Backend::Stdio { .. }),
        patient: matches!(&chardev.backend, Backend::Socket(socket) if socket.server && socket.wait),
    };
    request.start(&plan.log, children)
}

fn inherited_of(backend: &Backend) -> Vec<RawFd> {
    match backend {
        Backend::Socket(socket) => match socket.address {
            Address::Fd(fd) => vec![fd],
            Address::Unix { .. } | Address::Tcp { .. } => vec![],
        },
        _ => vec![],
    }
}

/// Starts the process of a device that is no stream; none if it needs no process of ours.
pub fn start_device_process(
    plan: &Plan,
    index: u16,
    children: &mut Children,
) -> Result<Option<Starting>, HostError> {
    let BackEnd::Process(program) = BackEnd::of(plan, index) else { return Ok(None) };
    let request = Request {
        kind: program.kind,
        label: &plan.machine.devices[usize::from(index)].id,
        arguments: &program.arguments,
        served: true,
        monitored: false,
        inherited: program.inherited,
        stdio: false,
        // Who restores a disk compares all of it.
        patient: matches!(
            plan.upkeep.get(&index).and_then(|upkeep| upkeep.task.as_ref()),
            Some(Task::Restore { .. })
        ),
    };
    request.start(&plan.log, children).map(Some)
}

impl Tree {
    fn start_stream(&mut self, stream: &Stream, plan: &Plan) -> Result<Starting, HostError> {
        let mut starting = start_stream_process(stream, plan, &mut self.children)?;
        if let Some(socket) = starting.monitor.take() {
            self.monitors.push(MonitorLink { socket, stream: stream.clone() });
        }
        if let Some(index) = stream.device {
            self.pids.insert(index, starting.pid);
            self.sockets[usize::from(index)] = starting.socket.take();
        }
        Ok(starting)
    }

    fn start_back_end(&mut self, plan: &Plan, index: u16) -> Result<Option<Starting>, HostError> {
        let mut starting = start_device_process(plan, index, &mut self.children)?;
        if let Some(starting) = &mut starting {
            self.pids.insert(index, starting.pid);
            self.sockets[usize::from(index)] = starting.socket.take();
        }
        Ok(starting)
    }

    fn connect_foreign(&mut self, plan: &Plan, index: u16, signals: &Signals) -> Result<(), LaunchError> {
        let id = &plan.machine.devices[usize::from(index)].id;
        let socket = match BackEnd::of(plan, index) {
            BackEnd::Connect(path) => foreign::connect(id, &path)?,
            BackEnd::Accept(path) => foreign::accept(id, &path, signals)?,
            BackEnd::None | BackEnd::Stream | BackEnd::Process(_) => return Ok(()),
        };
        self.foreign.insert(index, host("duplicate a socket", socket.try_clone())?);
        self.sockets[usize::from(index)] = Some(socket);
        Ok(())
    }

    /// Starts the vCPU process.
    pub fn start_vcpu(&mut self, plan: &Plan) -> Result<(), LaunchError> {
        let sockets = std::mem::take(&mut self.sockets);
        let (devices, calls) = wire(&plan.machine, &sockets)?;
        let captures = plan.captures.iter();
        let setup = VcpuSetup {
            machine: plan.machine.clone(),
            mode: plan.mode,
            lane_fd: self.lane_file.as_raw_fd(),
            doorbell_fd: self.doorbell.as_fd().as_raw_fd(),
            control_fd: self.control_theirs.as_raw_fd(),
            debugger_fd: plan.debugger.as_ref().map(AsRawFd::as_raw_fd),
            captures: captures.map(|(function, file)| (*function, file.as_raw_fd())).collect(),
            devices,
            awaits_state: plan.awaits_state,
            // Without a monitor or a debugger nobody can ask for it.
            keeps_past: plan.seeks || plan.debugger.is_some() || !self.monitors.is_empty(),
            start_paused: plan.start_paused || plan.saves_first,
            digest_interval: plan.digest_interval,
        };
        let setup_file = setup_memory(&setup)?;
        let mut keep = vec![self.lane_file.as_fd(), self.doorbell.as_fd(), setup_file.as_fd()];
        keep.push(self.control_theirs.as_fd());
        keep.extend(plan.debugger.as_ref().map(AsFd::as_fd));
        keep.extend(sockets.iter().flatten().map(AsFd::as_fd));
        keep.extend(calls.iter().map(|call| call.fd.as_fd()));
        keep.extend(plan.captures.iter().map(|(_, file)| file.as_fd()));
        let arguments = vec!["vcpu".to_owned(), format!("--setup-fd={}", setup_file.as_raw_fd())];
        let (link, link_child) = Link::pair()?;
        keep.push(link_child.as_fd());
        let spawn = Spawn {
            arguments,
            environment: plan.log.environment_with(&link_child),
            keep,
            keep_inherited: vec![],
            stdio: false,
            death_signal: Signal::SIGKILL,
        };
        let child = host("start the vcpu process", spawn.start())?;
        let pid = self.children.add(Role::Vcpu, "vcpu process".to_owned(), child);
        self.children.add_link(pid, link);
        self.calls = calls.into_iter().filter(|call| is_listened_to(plan, call.device, call.queue)).collect();
        Ok(())
    }
}

/// Whether the broker tells the vCPU process of a back-end's signal. In a replay nothing of the outside is listened to.
/// A queue that only goes out is the vCPU process's own business: what it sent has no effect on the guest.
pub fn is_listened_to(plan: &Plan, device: u16, queue: u16) -> bool {
    if plan.mode == Mode::Replay {
        return false;
    }
    let function = plan.machine.function_of(device).map(|function| &plan.machine.functions[function]);
    match function {
        // Without a window the back-end itself completes what it sent, in guest RAM.
        Some(function) if !function.window => true,
        Some(function) => match &function.kind {
            VirtioKind::Block { .. } | VirtioKind::Entropy { .. } | VirtioKind::Other { .. } => true,
            VirtioKind::Net { .. } | VirtioKind::Console { .. } => queue == 0,
        },
        None => queue == 0,
    }
}

/// What the vCPU process is told of each back-end, and the eventfds that the back-ends signal.
fn wire(machine: &Machine, sockets: &[Option<UnixStream>]) -> Result<(Vec<DeviceFds>, Vec<Call>), HostError> {
    let (mut devices, mut calls) = (Vec::new(), Vec::new());
    for (index, socket) in sockets.iter().enumerate() {
        let made = if socket.is_some() { make_calls(machine, index as u16)? } else { Vec::new() };
        let call_fds = made.iter().map(|call| call.fd.as_fd().as_raw_fd()).collect();
        devices.push(DeviceFds { socket_fd: socket.as_ref().map(AsRawFd::as_raw_fd), call_fds });
        calls.extend(made);
    }
    Ok((devices, calls))
}

/// New eventfds for all queues of a device.
pub fn make_calls(machine: &Machine, device: u16) -> Result<Vec<Call>, HostError> {
    (0..machine.queue_count(device)).map(|queue| Ok(Call { fd: event_fd()?, device, queue })).collect()
}

fn setup_memory(setup: &VcpuSetup) -> Result<File, LaunchError> {
    let text = serde_json::to_vec(setup).map_err(std::io::Error::other);
    let text = host("describe the machine", text)?;
    let file = host("make a memory file", memfd_create(c"reprise-setup", MFdFlags::MFD_CLOEXEC))?;
    let mut file = File::from(file);
    host("write the setup", file.write_all(&text).and_then(|()| file.rewind()))?;
    Ok(file)
}
