//! Inputs from the log: every event at exactly its icount, every note compared.

use super::answers::Ready;
use super::consoles::DRAIN_TIMEOUT;
use super::error::RunError;
use super::inputs::{Flow, Inputs};
use super::machine::Machine;
use super::pace::HostClock;
use super::patience::{Patience, Stillness};
use super::saves::Saves;
use super::seek::Seek;
use super::stall::Stall;
use crate::gdb;
use crate::state::rflags;
use replay::event::{DeviceIndex, Event, ShutdownCause, Stamped};
use replay::lane::{RunState, VcpuEnd};
use replay::message::{Inbound, Outbound, PauseReason};
use replay::setup::VcpuSetup;
use replay::time::Icount;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Instructions between two looks at the attention word.
const QUANTUM: u64 = 65_536;
/// Longest wait for the broker to read on in the log.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a device that runs its requests again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Quanta after which console output is sent although little has come together.
const FLUSH_QUANTA: u32 = 4;

/// What the log says comes next.
pub(super) enum Next {
    Event(Stamped),
    /// The log holds no more events.
    End(u64),
}

/// Inputs from the log.
pub struct Playback {
    pub(super) lane: VcpuEnd,
    pub(super) clock: Box<dyn HostClock>,
    pub(super) ahead: VecDeque<Next>,
    pub(super) paused: bool,
    /// In a pause, of which the broker and the debugger know.
    pub(super) standing: bool,
    /// Nothing comes after this: every attempt to go on ends with this reason.
    pub(super) over: Option<PauseReason>,
    /// The guest has ended itself as recorded: what is left in the log is its end.
    pub(super) guest_ended: bool,
    pub(super) quanta: u32,
    pub(super) stall: Stall,
    pub(super) patience: Patience,
    pub(super) stillness: Stillness,
    pub(super) seek: Seek,
    pub(super) saves: Saves,
    /// A state is to be loaded before anything else.
    pub(super) awaits_state: bool,
    /// It was asked for on the way to a goal.
    pub(super) fetching: bool,
    /// It is the start: the broker's request, and devices that then wait for other back-ends.
    pub(super) start_asked: Option<(u64, Vec<DeviceIndex>)>,
}

impl Playback {
    /// A replay from power-on, or from a state that is loaded first.
    pub fn new(lane: VcpuEnd, setup: &VcpuSetup, clock: Box<dyn HostClock>) -> Playback {
        Playback {
            lane,
            clock,
            ahead: VecDeque::new(),
            paused: setup.start_paused,
            standing: false,
            over: None,
            guest_ended: false,
            quanta: 0,
            stall: Stall::default(),
            patience: Patience::default(),
            stillness: Stillness::default(),
            seek: Seek::default(),
            saves: Saves::default(),
            awaits_state: setup.awaits_state,
            fetching: false,
            start_asked: None,
        }
    }

    pub(super) fn publish(&self, machine: &Machine, state: RunState) {
        self.lane.publish(Icount(machine.icount()), machine.vtime());
        self.lane.publish_state(state);
    }

    fn take(&mut self, machine: &mut Machine, message: Inbound) -> Result<Flow, RunError> {
        match message {
            Inbound::Apply(_) | Inbound::LogEnds { .. } if self.seek.discards => {}
            Inbound::Apply(stamped) => self.ahead.push_back(Next::Event(stamped)),
            Inbound::LogEnds { icount, .. } => self.ahead.push_back(Next::End(icount.0)),
            Inbound::Rewound => self.seek.discards = false,
            Inbound::Control { sequence, control } => return self.control(machine, sequence, control),
            Inbound::Debugger(message) => machine.debugger.take(message),
            Inbound::Offer(_) => {
                let text = "input from outside is ignored in a replay".into();
                self.lane.send(&Outbound::Note { text })?;
            }
        }
        Ok(Flow::Go)
    }

    pub(super) fn receive(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        if self.lane.attention().load(Ordering::Relaxed) == 0 && !machine.debugger.wants_stop() {
            return Ok(Flow::Go);
        }
        self.lane.take_attention();
        while let Some(message) = self.lane.receive()? {
            if self.take(machine, message)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
        }
        gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
        Ok(Flow::Go)
    }

    /// Makes sure that the next event is known; `Leave` when told to go meanwhile.
    pub(super) fn look_ahead(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        while self.ahead.is_empty() {
            let clock = &mut self.clock;
            let sleep = |lane: &mut VcpuEnd, time| clock.wait(lane, VcpuEnd::wait_message, Some(time));
            let Some(message) = self.lane.wait_inbound_with(EVENT_TIMEOUT, sleep)? else {
                let seconds = EVENT_TIMEOUT.as_secs();
                return Err(RunError::NoEvents { seconds, icount: machine.icount() });
            };
            if self.take(machine, message)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
            // The wait has taken attention, which may have been for this.
            gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
        }
        Ok(Flow::Go)
    }

    pub(super) fn next_icount(&self) -> u64 {
        match self.ahead.front() {
            Some(Next::Event(stamped)) => stamped.icount.0,
            Some(Next::End(icount)) => *icount,
            None => 0,
        }
    }

    /// Stands still until told to go on, or to another place.
    pub(super) fn pause(&mut self, machine: &mut Machine, reason: PauseReason) -> Result<Flow, RunError> {
        machine.flush_consoles()?;
        machine.consoles.drain(DRAIN_TIMEOUT)?;
        self.leave_way(machine)?;
        self.paused = true;
        self.over = match reason {
            PauseReason::Stopped | PauseReason::Debugger | PauseReason::Place => self.over,
            PauseReason::EndOfLog | PauseReason::Divergence | PauseReason::Shutdown(_) => Some(reason),
        };
        self.seek.stands(machine);
        self.publish(machine, RunState::Paused);
        let told = gdb::stand(machine, reason);
        self.lane.send(&Outbound::Paused { icount: Icount(machine.icount()), reason: told })?;
        // Whoever hears of the arrival finds the machine paused.
        self.forget_goal()?;
        if told != PauseReason::Debugger {
            self.lane.ring_doorbell()?;
        }
        self.standing = true;
        let flow = self.stand_still(machine)?;
        self.standing = false;
        if flow != Flow::Leave {
            self.publish(machine, RunState::Running);
        }
        Ok(flow)
    }

    fn stand_still(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
        while self.paused && self.seek.wish.is_none() {
            if self.attend_saves(machine)? == Some(Flow::Leave) {
                return Ok(Flow::Leave);
            }
            let nap = self.saves.nap().or(machine.consoles.nap());
            self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, nap)?;
            machine.backlogged()?;
            if self.receive(machine)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
        }
        Ok(Flow::Again)
    }

    /// The log has nothing more: the end of a replay, or as far as a seek can go.
    fn end_of_log(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        if self.seek.goal.is_some() {
            self.arrive(machine)
        } else {
            self.pause(machine, PauseReason::EndOfLog)
        }
    }

    /// Applies one event that is due now.
    fn apply(&mut self, machine: &mut Machine, stamped: Stamped) -> Result<Flow, RunError> {
        if stamped.icount.0 != machine.icount() {
            let expected = format!("{:?} at icount {}", stamped.event, stamped.icount);
            return self.diverged(
                machine,
                "position of an event",
                expected,
                format!("icount {}", machine.icount()),
            );
        }
        match stamped.event {
            Event::Digest { registers, memory } => self.compare(machine, registers, memory),
            Event::Shutdown { cause } if cause.is_from_host() => Ok(Flow::Go),
            Event::Shutdown { .. } => unreachable!("`guest_ended` takes it, or the place is wrong"),
            Event::End | Event::DeviceRestarted { .. } => Ok(Flow::Go),
            Event::Sent { .. } => {
                let expected = format!("{:?}", stamped.event);
                self.diverged(machine, "what the guest sends", expected, "nothing".into())
            }
            event => {
                machine.apply(&event)?;
                machine.advance_timers();
                Ok(Flow::Again)
            }
        }
    }

    /// Waits until what the next event needs of a back-end is there; a flow if there is nothing to apply.
    fn wait_for_answers(&mut self, machine: &mut Machine) -> Result<Option<Flow>, RunError> {
        loop {
            let Some(Next::Event(stamped)) = self.ahead.front() else { return Ok(None) };
            match machine.prepare(&stamped.event)? {
                Ready::Now => {
                    if let Some(message) = self.stall.over() {
                        self.lane.send(&message)?;
                    }
                    return Ok(None);
                }
                Ready::Differs { field, expected, found } => {
                    return self.diverged(machine, &field, expected, found).map(Some);
                }
                Ready::Waiting(device) => {
                    if self.stalled(machine, device)? == Flow::Leave {
                        return Ok(Some(Flow::Leave));
                    }
                }
            }
        }
    }

    /// An `IdleWake` waits for the timers before it, unless guest time already is what it says.
    fn must_idle_first(&self, machine: &Machine) -> bool {
        match self.ahead.front() {
            Some(Next::Event(Stamped { event: Event::IdleWake { vtime }, .. })) => {
                machine.halted() && *vtime != machine.vtime()
            }
            _ => false,
        }
    }

    /// The guest is to end itself here: what it does now it does before it retires another instruction.
    pub(super) fn must_end_here(&self, machine: &Machine) -> bool {
        match self.ahead.front() {
            Some(Next::Event(Stamped { icount, event: Event::Shutdown { cause } })) => {
                icount.0 == machine.icount() && !cause.is_from_host()
            }
            _ => false,
        }
    }

    /// The next event is taken from the log.
    pub(super) fn took_event(&mut self, machine: &mut Machine) {
        let here = self.seek.here(machine);
        self.seek.events += 1;
        machine.core.probe.applies_event(here, self.seek.events);
    }

    fn apply_due(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        loop {
            if self.seek.has_arrived(machine) {
                return self.arrive(machine);
            }
            if self.look_ahead(machine)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
            if self.next_icount() > machine.icount() || self.must_end_here(machine) {
                return Ok(Flow::Go);
            }
            // The CPU was still halted when this came, so nothing could be delivered: only time goes on.
            if self.must_idle_first(machine) {
                return self.idle(machine);
            }
            if let Some(flow) = self.wait_for_answers(machine)? {
                return Ok(flow);
            }
            let flow = match self.ahead.pop_front() {
                Some(Next::Event(stamped)) => {
                    self.took_event(machine);
                    self.apply(machine, stamped)?
                }
                Some(end @ Next::End(..)) => {
                    self.ahead.push_front(end);
                    return self.end_of_log(machine);
                }
                None => Flow::Go,
            };
            // After a difference nothing more is applied.
            if flow == Flow::Leave || machine.has_effects() || self.over.is_some() {
                return Ok(flow);
            }
            if self.seek.has_arrived(machine) {
                return Ok(Flow::Again);
            }
        }
    }
}

impl Inputs for Playback {
    fn checkpoint(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        self.publish(machine, RunState::Running);
        self.quanta += 1;
        if self.quanta.is_multiple_of(FLUSH_QUANTA) {
            machine.flush_consoles()?;
        }
        if self.receive(machine)? == Flow::Leave {
            return Ok(Flow::Leave);
        }
        if let Some(message) = self.stall.over() {
            self.lane.send(&message)?;
        }
        if self.compare_sent(machine)? == Flow::Leave {
            return Ok(Flow::Leave);
        }
        if let Some(flow) = self.attend_saves(machine)? {
            return Ok(flow);
        }
        if gdb::comes_to_stop(machine, self.paused) {
            return self.pause(machine, PauseReason::Stopped);
        }
        if machine.core.probe.has_reached() {
            return self.arrive(machine);
        }
        let leaves = self.seek.wish.is_some() || machine.debugger.wants_back();
        if machine.core.between_delivery_and_retirement() && !self.guest_ended && !leaves {
            return if self.stillness.is_long() { self.stuck(machine) } else { Ok(Flow::Go) };
        }
        self.stillness = Stillness::default();
        if let Some(flow) = self.attend_seek(machine)? {
            return Ok(flow);
        }
        if self.paused {
            return self.pause(machine, PauseReason::Stopped);
        }
        self.apply_due(machine)
    }

    fn limit(&self, machine: &Machine) -> u64 {
        // At its limit an engine delivers nothing. One that retires an instruction here after all is behind the
        // event at the next checkpoint, and has diverged.
        let next = if self.must_end_here(machine) { machine.icount() + 1 } else { self.next_icount() };
        next.min(machine.icount() + QUANTUM).min(self.seek.limit(machine))
    }

    fn stalled(&mut self, machine: &mut Machine, device: DeviceIndex) -> Result<Flow, RunError> {
        // Whoever reads the output may take any time.
        let must_answer = machine.is_virtio(device);
        if must_answer && self.stall.lasted(self.clock.now()) >= ANSWER_TIMEOUT {
            return Err(RunError::NoAnswer {
                device: machine.device_name(device).to_string(),
                seconds: ANSWER_TIMEOUT.as_secs(),
                icount: machine.icount(),
            });
        }
        self.stall.wait(machine, device, &mut *self.clock, &mut self.lane)?;
        let flow = self.receive(machine)?;
        Ok(if flow == Flow::Leave { flow } else { Flow::Again })
    }

    /// Never sleeps: guest time jumps to the next timer, or to what the log says.
    fn idle(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        if self.look_ahead(machine)? == Flow::Leave {
            return Ok(Flow::Leave);
        }
        let icount = machine.icount();
        let deadline = machine.core.chipset.next_deadline();
        let wake = match self.ahead.front() {
            Some(Next::Event(Stamped { icount: at, event: Event::IdleWake { vtime } })) if at.0 == icount => {
                Some(*vtime)
            }
            _ => None,
        };
        match (wake, deadline) {
            (Some(vtime), deadline) if deadline.is_none_or(|at| at > vtime) => {
                if vtime < machine.vtime() {
                    let (expected, found) =
                        (format!("wake at {vtime}"), format!("guest time {}", machine.vtime()));
                    return self.diverged(machine, "guest time", expected, found);
                }
                machine.core.clock.skip_to(icount, vtime);
                Ok(Flow::Again)
            }
            (wake, Some(at)) => {
                let interrupts_on = machine.core.cpu.eflags & rflags::IF != 0;
                if wake.is_none()
                    && let Some(count) = self.patience.skip(icount, interrupts_on)
                {
                    let found = format!("{count} timers that do not wake the CPU from HLT");
                    return self.no_progress(machine, found);
                }
                machine.core.clock.skip_to(icount, at.max(machine.vtime()));
                Ok(Flow::Again)
            }
            (None, None) => self.nothing_left(machine),
            (Some(_), None) => unreachable!("handled by the first arm"),
        }
    }

    /// The recording paused here, without an event; what the user did then comes next.
    fn guest_pauses(&mut self, _machine: &mut Machine, _cause: ShutdownCause) -> Result<Flow, RunError> {
        Ok(Flow::Again)
    }

    fn guest_ended(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError> {
        if self.look_ahead(machine)? == Flow::Leave {
            return Ok(Flow::Leave);
        }
        match self.ahead.pop_front() {
            Some(Next::Event(Stamped { icount, event: Event::Shutdown { cause: recorded } }))
                if icount.0 == machine.icount() && recorded == cause =>
            {
                self.took_event(machine);
                self.guest_ended = true;
                Ok(Flow::Again)
            }
            Some(Next::Event(other)) => {
                let expected = format!("{:?} at icount {}", other.event, other.icount);
                self.diverged(machine, "end of the run", expected, format!("the guest ends with {cause:?}"))
            }
            Some(Next::End(at)) if at > machine.icount() => {
                let expected = format!("the end of the log at icount {at}");
                self.diverged(machine, "end of the run", expected, format!("the guest ends with {cause:?}"))
            }
            // A log that was cut may end with the guest.
            end => {
                self.ahead.extend(end);
                self.end_of_log(machine)
            }
        }
    }

    /// What is passed on the way to another place is not told.
    fn was_reset(&mut self, guest: bool) -> Result<(), RunError> {
        if self.seek.goal.is_none() {
            self.lane.send(&Outbound::WasReset { guest })?;
            self.lane.ring_doorbell()?;
        }
        Ok(())
    }

    /// The log goes on behind this icount, so the recording went on: with patience, this run does too.
    fn stuck(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        match self.patience.stuck(machine.icount()) {
            None => Ok(Flow::Go),
            Some(_) => self.no_progress(machine, "exceptions without end".into()),
        }
    }
}
