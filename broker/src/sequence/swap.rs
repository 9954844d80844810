//! Another back-end for a device while the machine runs: `device_restart` and `chardev-change`.
//!
//! The vCPU process gets the new connection and call eventfds through its control socket and submits unanswered requests
//! again; the guest does not notice. A new process opens what it needs in its own time; the loop goes on meanwhile.

use crate::cli::chardev::{Backend, Chardev};
use crate::hmp::host::Ticket;
use crate::launch::back_end::BackEnd;
use crate::launch::children::Children;
use crate::launch::plan::{Plan, Task, Top};
use crate::launch::process::{Progress, READY_TIMEOUT, Starting};
use crate::launch::tree::{self, Call, is_listened_to};
use crate::launch::{foreign, host};
use crate::logging::LogSettings;
use crate::streams::{Language, Stream};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use replay::device::{DeviceKind, Image};
use replay::setup::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// What a monitor asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The same back-end again, by the name of the device or its function.
    Restart(String),
    /// Another stream in the place of the one with this name.
    Change(Chardev),
}

/// A request that waits for processes.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    device: u16,
    stage: Stage,
    /// The stream as it will be.
    stream: Option<Stream>,
    /// Requests that are fulfilled with this one.
    others: Vec<Ticket>,
}

/// How far a request is.
#[derive(Debug)]
enum Stage {
    /// These end first: two must not have the same image or port.
    Ending(Vec<i32>),
    /// The new process opens what it needs, until then.
    Starting(Starting, Instant),
    /// It is ready, and the one in whose place it comes ends.
    Replacing(Starting, Vec<i32>),
}

/// What came of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The request.
    pub ticket: Ticket,
    /// The device.
    pub device: u16,
    /// What is on its way to the vCPU process, or why nothing is.
    pub result: Result<Connection, Failure>,
}

/// A device's new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It goes on as before.
    Same,
    /// A disk goes on after a save or a load.
    GoesOn,
    /// The one of another request.
    OfAnother,
}

/// Why a device has no new back-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A line for the user.
    pub why: String,
    /// It has lost the one it had.
    pub lost: bool,
}

/// Puts back-ends in the place of others.
#[derive(Debug)]
pub struct Swapper {
    plan: Plan,
    control: OwnedFd,
    /// Process ids of the device processes, by device.
    pids: BTreeMap<u16, i32>,
    /// Connections to back-ends of somebody else, by device. What they say is for the vCPU process; here only a hang-up counts.
    foreign: BTreeMap<u16, UnixStream>,
    /// Devices that have had a process from the start.
    connected: BTreeSet<u16>,
    pending: Vec<Pending>,
    /// Connections on their way to the vCPU process, by request.
    connecting: BTreeMap<Ticket, (u16, Connection)>,
    /// Disks that get nothing from the guest before they go on after a save or a load.
    waiting: BTreeSet<u16>,
}

impl Swapper {
    /// For a running tree; `control` is its way to hand descriptors to the vCPU process.
    pub fn new(
        plan: Plan,
        control: OwnedFd,
        pids: BTreeMap<u16, i32>,
        foreign: BTreeMap<u16, UnixStream>,
    ) -> Swapper {
        let connected = pids.keys().copied().collect();
        Swapper {
            plan,
            control,
            pids,
            foreign,
            connected,
            pending: Vec::new(),
            connecting: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// Connections to watch for hang-ups.
    pub fn foreign(&self) -> impl Iterator<Item = (u16, &UnixStream)> {
        self.foreign.iter().map(|(device, socket)| (*device, socket))
    }

    /// The back-end of somebody else behind `device` has hung up: who it was, for the user.
    pub fn hung_up(&mut self, device: u16) -> String {
        self.foreign.remove(&device);
        let choice = &self.plan.machine.devices[usize::from(device)];
        let place = match &choice.kind {
            DeviceKind::Foreign { socket } => socket.display().to_string(),
            DeviceKind::Chardev
            | DeviceKind::Block(_)
            | DeviceKind::Net { .. }
            | DeviceKind::Entropy { .. } => "its socket".to_owned(),
        };
        format!("the vhost-user back-end of device \"{}\" on '{place}' hung up", choice.id)
    }

    /// The device that a process serves.
    pub fn device_of(&self, pid: i32) -> Option<u16> {
        self.pids.iter().find(|(_, known)| **known == pid).map(|(device, _)| *device)
    }

    /// Whether the process is one that has not become a back-end yet.
    pub fn is_pending(&self, pid: i32) -> bool {
        let is_it = |pending: &Pending| match &pending.stage {
            Stage::Starting(starting, _) | Stage::Replacing(starting, _) => starting.pid == pid,
            Stage::Ending(_) => false,
        };
        self.pending.iter().any(is_it)
    }

    /// All streams: id and file name.
    pub fn chardevs(&self) -> Vec<(String, String)> {
        let streams = self.plan.streams.iter();
        streams.map(|stream| (stream.chardev.id.clone(), stream.chardev.filename())).collect()
    }

    /// Begins with a request; `calls` are those to which the broker listens.
    pub fn begin(
        &mut self,
        ticket: Ticket,
        request: Request,
        children: &mut Children,
        calls: &mut Vec<Call>,
    ) -> Option<Outcome> {
        let result = match request {
            Request::Restart(id) => self.restart(ticket, &id, children, calls),
            Request::Change(chardev) => self.change(ticket, chardev, children).map(|()| None),
        };
        match result {
            Ok(None) => None,
            Ok(Some(device)) => {
                self.connecting.insert(ticket, (device, Connection::Same));
                Some(Outcome { ticket, device, result: Ok(Connection::Same) })
            }
            // Nothing has been touched yet.
            Err(why) => Some(Outcome { ticket, device: 0, result: Err(Failure { why, lost: false }) }),
        }
    }

    fn find(&self, id: &str) -> Result<u16, String> {
        let machine = &self.plan.machine;
        if let Some(index) = machine.devices.iter().position(|device| device.id == id) {
            return Ok(index as u16);
        }
        if let Some(stream) = self.plan.streams.iter().find(|stream| stream.chardev.id == id)
            && let Some(device) = stream.device
        {
            return Ok(device);
        }
        let function = machine.functions.iter().find(|function| function.id == id);
        match function.map(|function| function.kind.back_ends()).as_deref() {
            Some([(device, _)]) => Ok(*device),
            _ => Err(format!("Device '{id}' not found")),
        }
    }

    /// Starts a back-end again. The device itself, if that was all there is to do.
    fn restart(
        &mut self,
        ticket: Ticket,
        id: &str,
        children: &mut Children,
        calls: &mut Vec<Call>,
    ) -> Result<Option<u16>, String> {
        let device = self.find(id)?;
        self.check_free(device)?;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = match BackEnd::of(&self.plan, device) {
            BackEnd::None => return Err(format!("a replay has no back-end for '{id}'")),
            BackEnd::Accept(_) => {
                return Err(format!("'{id}': its back-end connects to us and cannot be restarted from here"));
            }
            BackEnd::Connect(path) => {
                let socket = foreign::connect(id, &path).map_err(|error| text(&error))?;
                let watched = socket.try_clone().map_err(|error| text(&error))?;
                self.hand_over(device, socket.as_raw_fd(), calls)?;
                self.foreign.insert(device, watched);
                return Ok(Some(device));
            }
            BackEnd::Stream => {
                let stream = self.stream_of(device).ok_or_else(|| format!("'{id}' has no stream"))?;
                check_no_monitor(stream)?;
                self.check_connected(device, id)?;
                Some(stream.clone())
            }
            BackEnd::Process(_) => {
                self.check_restartable(device)?;
                None
            }
        };
        let ending = self.end_old(device, children);
        self.wait_for(ticket, device, Stage::Ending(ending), stream);
        Ok(None)
    }

    fn change(&mut self, ticket: Ticket, chardev: Chardev, children: &mut Children) -> Result<(), String> {
        let id = chardev.id.clone();
        let found = self.plan.streams.iter().find(|stream| stream.chardev.id == id);
        let old = found.ok_or_else(|| format!("Chardev '{id}' does not exist"))?;
        check_no_monitor(old)?;
        let device = old.device.ok_or_else(|| format!("Chardev '{id}' serves no device"))?;
        let is_stdio = |stream: &Stream| matches!(stream.chardev.backend, Backend::Stdio { .. });
        let stream = Stream { chardev, device: Some(device), monitor: false, language: Language::Human };
        if is_stdio(&stream) && self.plan.streams.iter().any(is_stdio) {
            return Err("cannot use stdio by multiple character devices".to_owned());
        }
        self.check_free(device)?;
        self.check_connected(device, &id)?;
        let starting = tree::start_stream_process(&stream, &self.plan, children);
        let starting = starting.map_err(|error| error.to_string())?;
        self.wait_for(ticket, device, starting_now(starting), Some(stream));
        Ok(())
    }

    /// The socket to the vCPU process that carries descriptors.
    pub fn control_fd(&self) -> RawFd {
        self.control.as_raw_fd()
    }

    /// What is being run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What processes log that are started from now on.
    pub fn set_log(&mut self, log: LogSettings) {
        self.plan.log = log;
    }

    /// Lets a disk go on in a new layer, by another process; the vCPU process holds its requests back.
    pub fn begin_layer(&mut self, ticket: Ticket, device: u16, top: Top, children: &mut Children) {
        self.plan.tops.insert(device, top);
        self.go_on(ticket, device, children);
    }

    /// Lets a disk of a replay begin elsewhere, by another process; none: at its image.
    pub fn begin_elsewhere(
        &mut self,
        ticket: Ticket,
        device: u16,
        top: Option<Top>,
        children: &mut Children,
    ) {
        match top {
            Some(top) => drop(self.plan.tops.insert(device, top)),
            None => drop(self.plan.tops.remove(&device)),
        }
        self.go_on(ticket, device, children);
    }

    /// Lets a disk that is written in place go on in another process, which notes changes in `changed` and has something to do.
    pub fn begin_upkeep(
        &mut self,
        ticket: Ticket,
        device: u16,
        (changed, task): (OwnedFd, Option<Task>),
        children: &mut Children,
    ) {
        let upkeep = self.plan.upkeep.entry(device).or_default();
        (upkeep.changed, upkeep.task) = (Some(changed), task);
        self.go_on(ticket, device, children);
    }

    /// Another process for a disk. One that is just being started, for a monitor, is not wanted any more: this one comes in its place.
    fn go_on(&mut self, ticket: Ticket, device: u16, children: &mut Children) {
        let mut ending = self.end_old(device, children);
        let mut others = vec![];
        for pending in self.pending.extract_if(.., |pending| pending.device == device) {
            others.push(pending.ticket);
            others.extend(pending.others);
            match pending.stage {
                Stage::Ending(pids) => ending.extend(pids),
                Stage::Starting(starting, _) => {
                    children.begin_to_end(starting.pid);
                    ending.push(starting.pid);
                }
                Stage::Replacing(starting, old) => {
                    children.begin_to_end(starting.pid);
                    ending.push(starting.pid);
                    ending.extend(old);
                }
            }
        }
        let stage = Stage::Ending(ending);
        self.waiting.insert(device);
        self.pending.push(Pending { ticket, device, stage, stream: None, others });
    }

    /// The ones before have ended: starts a process.
    fn start(&mut self, pending: &Pending, children: &mut Children) -> Result<Starting, String> {
        let device = pending.device;
        let started = match &pending.stream {
            Some(stream) => {
                let mut stream = stream.clone();
                if let Backend::File { append, .. } = &mut stream.chardev.backend {
                    // What was written so far stays.
                    *append = true;
                }
                tree::start_stream_process(&stream, &self.plan, children).map(Some)
            }
            None => tree::start_device_process(&self.plan, device, children),
        };
        if let Some(upkeep) = self.plan.upkeep.get_mut(&device) {
            // Only this process keeps; what is to be restored is so until a process has done it.
            upkeep.task.take_if(|task| matches!(task, Task::Keep { .. }));
        }
        let started = started.map_err(|error| error.to_string())?;
        started.ok_or_else(|| "this device has no process".to_owned())
    }

    fn check_free(&self, device: u16) -> Result<(), String> {
        let is_pending = self.pending.iter().any(|pending| pending.device == device);
        if is_pending || self.connecting.values().any(|(connecting, _)| *connecting == device) {
            return Err("another back-end is being started for this device".to_owned());
        }
        Ok(())
    }

    /// A device that had no process at the start has no window that could be connected again.
    fn check_connected(&self, device: u16, id: &str) -> Result<(), String> {
        if self.connected.contains(&device) {
            return Ok(());
        }
        Err(format!("chardev '{id}' was null at the start; it cannot be replaced while the machine runs"))
    }

    /// What was written must be there again.
    fn check_restartable(&self, device: u16) -> Result<(), String> {
        let choice = &self.plan.machine.devices[usize::from(device)];
        let DeviceKind::Block(disk) = &choice.kind else { return Ok(()) };
        let id = &choice.id;
        match (&disk.image, self.plan.mode) {
            _ if disk.read_only => Ok(()),
            (Image::Null { .. }, _) => Ok(()),
            (Image::Memory { .. }, Mode::Plain | Mode::Record) => Ok(()),
            (Image::Memory { .. }, Mode::Replay) => {
                Err(format!("'{id}' is in the memory of its process; it would be lost"))
            }
            (Image::File { .. }, Mode::Replay) => {
                Err(format!("'{id}': what a replay writes goes with its process; start the replay again"))
            }
            (Image::File { .. }, Mode::Plain | Mode::Record) => Ok(()),
        }
    }

    fn stream_of(&self, device: u16) -> Option<&Stream> {
        self.plan.streams.iter().find(|stream| stream.device == Some(device))
    }

    /// Lets the process that serves a device end.
    fn end_old(&mut self, device: u16, children: &mut Children) -> Vec<i32> {
        let old = self.pids.remove(&device);
        old.into_iter().inspect(|pid| children.begin_to_end(*pid)).collect()
    }

    fn wait_for(&mut self, ticket: Ticket, device: u16, stage: Stage, stream: Option<Stream>) {
        self.pending.push(Pending { ticket, device, stage, stream, others: vec![] });
    }

    /// The vCPU process has taken a connection, or has not.
    pub fn ticket_done(&mut self, ticket: Ticket, failed: bool) {
        // One that came before the disk waited was taken and not used.
        if let Some((device, Connection::GoesOn)) = self.connecting.remove(&ticket)
            && !failed
        {
            self.waiting.remove(&device);
        }
    }

    /// Looks at the processes that were started; tells what came of them.
    pub fn proceed(&mut self, children: &mut Children, calls: &mut Vec<Call>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            let Some(result) = self.advance(&mut pending, children, calls) else {
                self.pending.push(pending);
                continue;
            };
            let Pending { ticket, device, others, .. } = pending;
            let waits = self.waiting.contains(&device);
            let connection = if waits { Connection::GoesOn } else { Connection::Same };
            if result.is_ok() {
                self.connecting.insert(ticket, (device, connection));
            }
            let of_others = result.clone().map(|()| Connection::OfAnother);
            outcomes.push(Outcome { ticket, device, result: result.map(|()| connection) });
            let other = |ticket| Outcome { ticket, device, result: of_others.clone() };
            outcomes.extend(others.into_iter().map(other));
        }
        outcomes
    }

    /// Goes on with one request as far as it goes without waiting; what came of it, if that is known.
    fn advance(
        &mut self,
        pending: &mut Pending,
        children: &mut Children,
        calls: &mut Vec<Call>,
    ) -> Option<Result<(), Failure>> {
        loop {
            match &mut pending.stage {
                Stage::Ending(pids) => {
                    if children.are_leaving(pids) {
                        return None;
                    }
                    match self.start(pending, children) {
                        Ok(starting) => pending.stage = starting_now(starting),
                        Err(why) => return Some(Err(Failure { why, lost: true })),
                    }
                }
                Stage::Starting(starting, deadline) => {
                    let overdue = !starting.patient && Instant::now() >= *deadline;
                    match starting.progress() {
                        Progress::Starting if !overdue => return None,
                        Progress::Ready => {
                            let ending = self.end_old(pending.device, children);
                            let Stage::Starting(starting, _) =
                                std::mem::replace(&mut pending.stage, Stage::Ending(vec![]))
                            else {
                                return None;
                            };
                            pending.stage = Stage::Replacing(starting, ending);
                        }
                        Progress::Starting | Progress::Failed => {
                            children.begin_to_end(starting.pid);
                            let why = format!("{} could not start", starting.name);
                            let lost = !self.pids.contains_key(&pending.device);
                            return Some(Err(Failure { why, lost }));
                        }
                    }
                }
                Stage::Replacing(_, old) if children.are_leaving(old) => return None,
                Stage::Replacing(starting, _) => {
                    let (pid, socket) = (starting.pid, starting.socket.take());
                    let stream = pending.stream.take();
                    let done = self.complete((pending.device, pid), socket, stream, calls);
                    // The old one has been ended.
                    return Some(done.map_err(|why| Failure { why, lost: true }));
                }
            }
        }
    }

    fn complete(
        &mut self,
        (device, pid): (u16, i32),
        socket: Option<UnixStream>,
        stream: Option<Stream>,
        calls: &mut Vec<Call>,
    ) -> Result<(), String> {
        let socket = socket.ok_or("the new process serves no device")?;
        self.pids.insert(device, pid);
        if let Some(top) = self.plan.tops.get_mut(&device)
            && let Some(layer) = top.layer.take()
        {
            // It is there now.
            (top.image, top.format) = (layer, "qcow2".to_owned());
        }
        if let Some(upkeep) = self.plan.upkeep.get_mut(&device) {
            upkeep.task = None;
        }
        if let Some(new) = stream
            && let Some(old) = self.plan.streams.iter_mut().find(|stream| stream.device == Some(device))
        {
            *old = new;
        }
        self.hand_over(device, socket.as_raw_fd(), calls)
    }

    /// Gives the vCPU process a connection and new call eventfds.
    fn hand_over(&self, device: u16, socket: RawFd, calls: &mut Vec<Call>) -> Result<(), String> {
        let made = tree::make_calls(&self.plan.machine, device).map_err(|error| error.to_string())?;
        let mut fds = vec![socket];
        fds.extend(made.iter().map(|call| call.fd.as_fd().as_raw_fd()));
        let bytes = device.to_le_bytes();
        let rights = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(
            self.control.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            &rights,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        );
        host("hand a back-end to the vcpu process", sent).map_err(|error| error.to_string())?;
        calls.retain(|call| call.device != device);
        let heard = |call: &Call| is_listened_to(&self.plan, call.device, call.queue);
        calls.extend(made.into_iter().filter(heard));
        Ok(())
    }
}

fn starting_now(starting: Starting) -> Stage {
    Stage::Starting(starting, Instant::now() + READY_TIMEOUT)
}

fn check_no_monitor(stream: &Stream) -> Result<(), String> {
    if stream.monitor {
        return Err(format!("chardev '{}': a monitor is on it; it cannot be replaced", stream.chardev.id));
    }
    Ok(())
}
