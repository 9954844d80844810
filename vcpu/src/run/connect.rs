//! Connections to the back-ends: at the start, and to another process later.

use super::consoles::{BackEnd as ConsoleBackEnd, Consoles};
use super::error::RunError;
use crate::virtio::capture::Capture;
use crate::virtio::{BackEnd, Service, SharedBackEnd, Tag};
use crate::window::requests::QueueShape;
use crate::window::session::Session;
use crate::window::{Console, DeviceWindow};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use replay::device::{DeviceChoice, DeviceKind};
use replay::event::DeviceIndex;
use replay::setup::{DeviceFds, VcpuSetup};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Descriptors of a queue in a window: more than that wait in the guest's rings.
const WINDOW_QUEUE_SIZE: u16 = 256;
/// Bytes for the requests of a queue, several of the largest (`REQUEST_BYTES_MAX`). The memory is used from its start, and only what is used costs.
const BLOCK_ARENA: usize = 32 << 20;
const STREAM_ARENA: usize = 24 << 20;

/// All that the machine reaches outside.
pub struct Outside {
    /// Back-ends of the UARTs and the debug console.
    pub consoles: Consoles,
    /// Back-ends of the virtio functions.
    pub service: Service,
    /// Hands descriptors over while the machine runs.
    pub control: Option<OwnedFd>,
}

impl From<Consoles> for Outside {
    /// A machine without virtio functions.
    fn from(consoles: Consoles) -> Outside {
        Outside { consoles, service: Service::default(), control: None }
    }
}

/// Connects everything that the setup names.
pub fn connect(setup: &VcpuSetup) -> Result<Outside, RunError> {
    let machine = &setup.machine;
    let mut of_consoles: Vec<Option<Box<dyn ConsoleBackEnd>>> = Vec::new();
    let mut of_functions: Vec<Option<Box<dyn BackEnd>>> = Vec::new();
    let mut sharing = Vec::new();
    for (index, (device, fds)) in machine.devices.iter().zip(&setup.devices).enumerate() {
        let connected = take(device, fds, machine.queue_count(index as DeviceIndex))?;
        let (mut console, mut back_end) = (None, None);
        if let Some((socket, calls)) = connected {
            let function =
                machine.function_of(index as DeviceIndex).map(|function| &machine.functions[function]);
            if function.is_some_and(|function| !function.window) {
                let session = Session::connect(socket, calls, &device.id)?;
                sharing.push((index as DeviceIndex, SharedBackEnd::new(session)));
            } else if function.is_some() {
                let shapes = shapes(&device.kind, calls.len());
                let window = DeviceWindow::<Tag>::connect(socket, calls, &device.id, &shapes)?;
                back_end = Some(Box::new(window) as Box<dyn BackEnd>);
            } else {
                let calls = <[OwnedFd; 2]>::try_from(calls)
                    .map_err(|calls| RunError::Setup(format!("{} has {} queues", device.id, calls.len())))?;
                console =
                    Some(Box::new(Console::connect(socket, calls, &device.id)?) as Box<dyn ConsoleBackEnd>);
            }
        }
        of_consoles.push(console);
        of_functions.push(back_end);
    }
    let mut service = Service::new(&machine.functions, of_functions);
    sharing.into_iter().for_each(|(device, back_end)| service.share(device, back_end));
    for &(function, fd) in &setup.captures {
        let file = File::from(inherited(fd)?);
        if usize::from(function) >= machine.functions.len() {
            return Err(RunError::Setup(format!("a capture of function {function}, which there is not")));
        }
        service.capture(function.into(), Capture::new(file, machine.clock.rtc_base));
    }
    let debug = machine.debug_console.map(|(_, device)| device);
    let consoles =
        Consoles::new(&machine.uarts, debug, |device| of_consoles.get_mut(usize::from(device))?.take());
    let control = (setup.control_fd >= 0).then(|| inherited(setup.control_fd)).transpose()?;
    Ok(Outside { consoles, service, control })
}

/// Takes a descriptor of the parent over.
pub fn inherited(fd: i32) -> Result<OwnedFd, RunError> {
    replay::inherit::take(fd).map_err(RunError::Setup)
}

fn take(
    device: &DeviceChoice,
    fds: &DeviceFds,
    queues: u16,
) -> Result<Option<(UnixStream, Vec<OwnedFd>)>, RunError> {
    let Some(socket) = fds.socket_fd else { return Ok(None) };
    if fds.call_fds.len() != usize::from(queues) {
        return Err(RunError::Setup(format!(
            "{} needs {queues} call descriptors, got {}",
            device.id,
            fds.call_fds.len()
        )));
    }
    let calls = fds.call_fds.iter().map(|&fd| inherited(fd)).collect::<Result<_, _>>()?;
    Ok(Some((UnixStream::from(inherited(socket)?), calls)))
}

/// Shapes of the queues of a function's back-end.
fn shapes(kind: &DeviceKind, queues: usize) -> Vec<QueueShape> {
    let shape = |queue: usize| {
        let (arena_bytes, signals) = match kind {
            DeviceKind::Block(_) | DeviceKind::Foreign { .. } => (BLOCK_ARENA, true),
            DeviceKind::Net { .. } | DeviceKind::Chardev => (STREAM_ARENA, queue == 0),
            DeviceKind::Entropy { .. } => (STREAM_ARENA, true),
        };
        QueueShape { size: WINDOW_QUEUE_SIZE, arena_bytes, signals }
    };
    (0..queues).map(shape).collect()
}

/// Takes the new connection of `device` from the control socket.
pub fn receive_session(control: &OwnedFd, device: &str, queues: u16) -> Result<Session, RunError> {
    let failed = |why: String| RunError::Setup(format!("{device}: cannot take another back-end: {why}"));
    let mut fds = receive_fds(control).map_err(failed)?;
    if fds.len() != usize::from(queues) + 1 {
        return Err(failed(format!("{} descriptors for {queues} queues", fds.len())));
    }
    let calls = fds.split_off(1);
    let socket = fds.pop().expect("there is one more than queues");
    Ok(Session::connect(UnixStream::from(socket), calls, device)?)
}

/// Takes another back-end from the control socket and does not speak to it.
pub fn receive_unused(control: &OwnedFd, device: &str) -> Result<Vec<OwnedFd>, RunError> {
    let failed = |why: String| RunError::Setup(format!("{device}: cannot take another back-end: {why}"));
    receive_fds(control).map_err(failed)
}

/// Takes a debugger's listening socket from the control socket.
pub fn receive_listener(control: &OwnedFd) -> Result<OwnedFd, RunError> {
    let failed = |why: String| RunError::Setup(format!("gdbserver: cannot take the socket: {why}"));
    let mut fds = receive_fds(control).map_err(failed)?;
    match fds.len() {
        1 => Ok(fds.remove(0)),
        count => Err(failed(format!("{count} descriptors instead of one"))),
    }
}

/// The descriptors of one message.
fn receive_fds(control: &OwnedFd) -> Result<Vec<OwnedFd>, String> {
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 64]);
    let message = recvmsg::<()>(control.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_DONTWAIT)
        .map_err(|error| error.desc().to_owned())?;
    let mut fds = Vec::new();
    for message in message.cmsgs().map_err(|error| error.desc().to_owned())? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            fds.extend(numbers.into_iter().map(inherited));
        }
    }
    fds.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
}
