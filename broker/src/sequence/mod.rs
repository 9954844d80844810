//! The one loop that waits for everything, and so decides the order of what reaches the guest.
//!
//! Sources: the vCPU's doorbell and journal, back-ends, monitors, signals, children, time. What arrives for the guest goes
//! into the lane in the order in which it is seen here; what the vCPU makes of it comes back through the journal.

pub mod core;
pub mod ending;
pub mod notices;
pub mod relog;
pub mod swap;

use self::core::Core;
use self::swap::Swapper;
use crate::cli::options::DeviceExit;
use crate::hmp::host::{Host, Ticket};
use crate::launch::children::{Children, Role};
use crate::launch::signals::Signals;
use crate::launch::tree::Call;
use crate::monitor_port::{MonitorPort, Wish};
use crate::snapshots::Keeper;
use crate::snapshots::keeper::Hands;
use ending::End;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use relog::Relog;
use replay::event::ShutdownCause;
use replay::message::Offer;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time between two looks at the journal.
const TICK: Duration = Duration::from_millis(50);
/// How long a machine may take to end after it was told to.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to end in order when a device has died.
const FAILURE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long to look for another child that died with, or before, the one that was seen.
const BLAME_TIME: Duration = Duration::from_millis(30);

/// How long a vCPU process may take to say why it could not start, when a back-end has hung up.
const START_BLAME_TIME: Duration = Duration::from_secs(1);

/// A run: everything that is waited for.
pub struct Sequence<'a> {
    /// The machine's side.
    pub core: Core,
    /// Rung by the vCPU process.
    pub doorbell: Arc<EventFd>,
    /// Back-ends to which the broker listens.
    pub calls: Vec<Call>,
    /// Monitors.
    pub monitors: Vec<MonitorPort>,
    /// The processes.
    pub children: Children,
    /// Puts back-ends in the place of others.
    pub swapper: Swapper,
    /// Keeps snapshots.
    pub keeper: Keeper,
    /// Changes what is logged.
    pub relog: Relog,
    /// What happens when a device process ends.
    pub on_device_exit: DeviceExit,
    /// Signals to this process.
    pub signals: &'a Signals,
}

/// What poll said.
#[derive(Default)]
struct Ready {
    doorbell: bool,
    signals: bool,
    calls: Vec<bool>,
    monitors: Vec<bool>,
    /// Devices whose back-ends of somebody else have hung up.
    hung_up: Vec<u16>,
}

impl Sequence<'_> {
    /// Runs until the end. `progress` is told the icount at every tick.
    pub fn run(&mut self, progress: &mut dyn FnMut(u64)) -> End {
        let mut begun = self.keeper.announce(&mut self.core);
        let end = loop {
            if let Err(error) = std::mem::replace(&mut begun, Ok(())) {
                break End::Failed(error);
            }
            if let Err(error) = self.core.pump() {
                break End::Failed(error);
            }
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(errno) => break End::Failed(format!("cannot wait for events: {errno}")),
            };
            let ended = self.step(&ready);
            self.tell();
            if let Some(end) = ended {
                break end;
            }
            progress(self.core.icount());
        };
        self.finish(end)
    }

    /// One round: the vCPU first, so that what it said is known before anything new is offered.
    fn step(&mut self, ready: &Ready) -> Option<End> {
        if ready.doorbell {
            let _ = self.doorbell.read();
        }
        if let Some(end) = self.attend_lane() {
            return Some(end);
        }
        if ready.signals
            && let Some(signal) = self.signals.take()
        {
            // ^C on a terminal that makes a signal of it: first it ends the way to a place.
            if signal == libc::SIGINT && self.core.seek_progress().is_some() {
                if let Err(error) = self.core.stop() {
                    return Some(End::Failed(error));
                }
            } else {
                self.ask_to_end(ShutdownCause::HostSignal { signal });
            }
        }
        self.attend_calls(&ready.calls);
        self.attend_monitors(&ready.monitors);
        if let Err(error) = self.attend_swaps() {
            return Some(End::Failed(error));
        }
        if let Err(error) = self.attend_snapshots() {
            return Some(End::Failed(error));
        }
        if let Err(error) = self.attend_log() {
            return Some(End::Failed(error));
        }
        if let Err(error) = self.core.attend_debugger() {
            return Some(End::Failed(error));
        }
        self.core.release_due_keys(Instant::now());
        self.monitors.iter_mut().for_each(|monitor| monitor.tick(&self.core, Instant::now()));
        if self.core.take_quit_request() {
            self.ask_to_end(ShutdownCause::HostQuit);
        }
        if let Some(error) = self.core.take_error() {
            return Some(End::Failed(error));
        }
        for device in &ready.hung_up {
            if let Some(end) = self.hung_up(*device) {
                return Some(end);
            }
        }
        if self.children.reap()
            && let Some(end) = self.child_ended()
        {
            return Some(end);
        }
        self.core.overdue(Instant::now()).then(|| {
            End::Failed(format!(
                "the vcpu process did not end within {} s; it is killed",
                QUIT_TIMEOUT.as_secs()
            ))
        })
    }

    fn wait(&self) -> Result<Ready, nix::errno::Errno> {
        let mut fds = vec![
            PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.calls.iter().map(|call| PollFd::new(call.fd.as_fd(), PollFlags::POLLIN)));
        let monitor_fds = self.monitors.iter().map(|monitor| {
            monitor.poll().map(|(fd, input, output)| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::POLLIN, input);
                flags.set(PollFlags::POLLOUT, output);
                PollFd::new(fd, flags)
            })
        });
        let foreign_at = fds.len();
        let mut foreign_devices = Vec::new();
        for (device, socket) in self.swapper.foreign() {
            foreign_devices.push(device);
            fds.push(PollFd::new(socket.as_fd(), PollFlags::empty()));
        }
        let mut monitor_at = Vec::new();
        for fd in monitor_fds {
            monitor_at.push(fd.is_some().then_some(fds.len()));
            fds.extend(fd);
        }
        let now = Instant::now();
        let deadlines = self.core.next_deadline().into_iter().chain(self.keeper.next_deadline());
        let wait = deadlines.min().map_or(TICK, |at| at.saturating_duration_since(now).min(TICK));
        // At least one millisecond, so that a deadline that is nearly due does not spin.
        let timeout = PollTimeout::try_from(wait.max(Duration::from_millis(1))).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let calls_end = 2 + self.calls.len();
        Ok(Ready {
            doorbell: is_ready(&fds[0]),
            signals: is_ready(&fds[1]),
            calls: fds[2..calls_end].iter().map(is_ready).collect(),
            hung_up: (foreign_devices.into_iter().zip(&fds[foreign_at..]))
                .filter(|(_, fd)| is_ready(fd))
                .map(|(device, _)| device)
                .collect(),
            monitors: monitor_at.iter().map(|at| at.is_some_and(|at| is_ready(&fds[at]))).collect(),
        })
    }

    fn attend_lane(&mut self) -> Option<End> {
        let result = self.core.receive();
        // What happened before an answer is told before it.
        self.tell();
        if let Err(error) = self.tell_done() {
            return Some(End::Failed(error));
        }
        match result {
            Ok(end) => end,
            Err(error) => Some(End::Failed(error)),
        }
    }

    fn ticket_done(&mut self, ticket: Ticket) -> Result<(), String> {
        for monitor in &mut self.monitors {
            monitor.ticket_done(ticket, &mut self.core);
        }
        self.core.job_ticket_done(ticket);
        let told = self.core.debugger_ticket_done(ticket);
        self.core.forget(ticket);
        told
    }

    /// Tells monitors what has happened.
    fn tell(&mut self) {
        for notice in self.core.take_notices() {
            self.monitors.iter_mut().for_each(|monitor| monitor.notice(&notice));
        }
    }

    fn attend_calls(&mut self, ready: &[bool]) {
        for (call, _) in self.calls.iter().zip(ready).filter(|(_, ready)| **ready) {
            if call.fd.read().is_ok() {
                self.core.offer_from_host(Offer::DeviceReady { device: call.device, queue: call.queue });
            }
        }
    }

    fn attend_monitors(&mut self, ready: &[bool]) {
        let mut quit = false;
        for (monitor, _) in self.monitors.iter_mut().zip(ready).filter(|(_, ready)| **ready) {
            monitor.write();
            quit |= monitor.read(&mut self.core) == Wish::Quit;
        }
        if quit {
            self.ask_to_end(ShutdownCause::HostQuit);
        }
    }

    /// Begins and completes what monitors asked for: other back-ends.
    fn attend_swaps(&mut self) -> Result<(), String> {
        let mut outcomes = Vec::new();
        for (ticket, request) in self.core.take_swaps() {
            outcomes.extend(self.swapper.begin(ticket, request, &mut self.children, &mut self.calls));
        }
        outcomes.extend(self.swapper.proceed(&mut self.children, &mut self.calls));
        if outcomes.is_empty() {
            return Ok(());
        }
        self.core.set_chardevs(self.swapper.chardevs());
        for outcome in outcomes {
            self.core.swapped(outcome)?;
        }
        self.tell_done()
    }

    /// Saves and loads.
    fn attend_snapshots(&mut self) -> Result<(), String> {
        let Sequence { core, swapper, children, .. } = self;
        let result = self.keeper.attend(&mut Hands { core, swapper, children });
        self.tell_done()?;
        result
    }

    /// Changes what is logged.
    fn attend_log(&mut self) -> Result<(), String> {
        let Sequence { core, swapper, children, relog, .. } = self;
        relog.attend(core, swapper, children);
        self.tell_done()
    }

    fn tell_done(&mut self) -> Result<(), String> {
        for ticket in self.core.take_done_tickets() {
            self.swapper.ticket_done(ticket, self.core.has_failed(ticket));
            self.keeper.ticket_done(ticket, &mut self.core);
            self.ticket_done(ticket)?;
        }
        Ok(())
    }

    /// Asks the machine to end in order; the first to ask is the cause.
    fn ask_to_end(&mut self, cause: ShutdownCause) {
        self.core.ask_to_end(cause, Instant::now() + QUIT_TIMEOUT);
    }

    /// A child has ended although nothing ended the run: which, why, and how much of the run can be closed in order.
    fn child_ended(&mut self) -> Option<End> {
        if let Some(cause) = self.core.asked_to_end() {
            // Part of the end that was asked for; the vCPU's word or its exit completes it.
            let left = self.children.vcpu().is_some_and(|vcpu| vcpu.status().is_some());
            return self.attend_lane().or(left.then_some(End::Shutdown(cause)));
        }
        std::thread::sleep(BLAME_TIME);
        self.children.reap();
        // It may have ended because the run did.
        if let Some(end) = self.attend_lane() {
            return Some(end);
        }
        if self.children.first_cause().is_some_and(|member| self.swapper.is_pending(member.pid())) {
            // It never was a back-end; the monitor is told.
            return None;
        }
        if self.on_device_exit == DeviceExit::Pause
            && let Some(end) = self.pause_without_device()
        {
            return end;
        }
        let member = self.children.first_cause()?;
        let said_why =
            member.role == Role::Vcpu && member.status().is_some_and(|status| status.code().is_some());
        let text = format!("{}; the run ends", member.describe_end());
        if said_why && self.core.is_starting() {
            // It could not start, and it has told the user why.
            return Some(End::FailedAndSaid);
        }
        if self.children.vcpu().is_none_or(|vcpu| vcpu.status().is_none()) {
            self.end_after_failure();
        }
        Some(End::Failed(text))
    }

    /// A back-end that is somebody else's is gone: the run ends, or waits for it to come back.
    fn hung_up(&mut self, device: u16) -> Option<End> {
        let text = self.swapper.hung_up(device);
        if self.core.asked_to_end().is_some() {
            return None;
        }
        if self.core.is_starting() && self.children.wait(Role::Vcpu, START_BLAME_TIME) {
            // It says more exactly in what it was left alone.
            self.children.reap();
            return self.child_ended();
        }
        if self.on_device_exit == DeviceExit::Pause {
            return self.stop_without(device, &text);
        }
        self.end_after_failure();
        Some(End::Failed(format!("{text}; the run ends")))
    }

    fn stop_without(&mut self, device: u16, text: &str) -> Option<End> {
        let id = self.core.device_id(device).unwrap_or_default();
        eprintln!("reprise: {text}; the machine is stopped: device_restart {id}, then cont");
        self.core.lost_back_end(device).err().map(End::Failed)
    }

    /// Stops the machine because a device process ended, if that is what happened; then the run goes on or not.
    fn pause_without_device(&mut self) -> Option<Option<End>> {
        if self.children.vcpu().is_some_and(|vcpu| vcpu.status().is_some()) {
            return None;
        }
        let member = self.children.first_cause()?;
        let (pid, text) = (member.pid(), member.describe_end());
        let device = self.swapper.device_of(pid)?;
        self.children.forget(pid);
        Some(self.stop_without(device, &text))
    }

    /// Lets the vCPU stamp the end, for the log's sake, if it does so at once.
    fn end_after_failure(&mut self) {
        let deadline = Instant::now() + FAILURE_TIMEOUT;
        self.core.ask_to_end(ShutdownCause::HostError, deadline);
        while Instant::now() < deadline && self.attend_lane().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes the log, then ends the processes: in order when the run ended in order.
    fn finish(&mut self, end: End) -> End {
        let end = self.core.close(end);
        self.core.note_end(&end);
        self.tell();
        self.monitors.iter_mut().for_each(MonitorPort::write);
        self.monitors.clear();
        if end.is_orderly() {
            self.core.release_vcpu();
            let deadline = Instant::now() + QUIT_TIMEOUT;
            // A vCPU that still has something to say must not wait for a full ring.
            while !self.children.wait(Role::Vcpu, Duration::from_millis(5)) && Instant::now() < deadline {
                let _ = self.core.receive();
            }
            self.children.wait(Role::Device, DRAIN_TIMEOUT);
        }
        self.children.end_all();
        end
    }
}

/// How long devices may take to write out what the guest has said: a little more than they promise to take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests;
