//! Inputs from the log: every event at exactly its icount, every note compared.

use super::answers::Ready;
use super::error::RunError;
use super::inputs::{Flow, Inputs};
use super::machine::Machine;
use super::pace::HostClock;
use super::patience::{Patience, Stillness};
use super::stall::Stall;
use crate::gdb;
use crate::state::rflags;
use replay::event::{DeviceIndex, Event, ShutdownCause, Stamped};
use replay::lane::{RunState, VcpuEnd};
use replay::message::{Control, Inbound, Outbound, PauseReason};
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
enum Next {
    Event(Stamped),
    /// The log holds no more events.
    End(u64),
}

/// Inputs from the log.
pub struct Playback {
    lane: VcpuEnd,
    clock: Box<dyn HostClock>,
    ahead: VecDeque<Next>,
    paused: bool,
    /// In a pause, of which the broker and the debugger know.
    standing: bool,
    over: bool,
    /// The guest has ended itself as recorded: what is left in the log is its end.
    guest_ended: bool,
    quanta: u32,
    stall: Stall,
    patience: Patience,
    stillness: Stillness,
}

impl Playback {
    /// A replay from power-on.
    pub fn new(lane: VcpuEnd, start_paused: bool, clock: Box<dyn HostClock>) -> Playback {
        Playback {
            lane,
            clock,
            ahead: VecDeque::new(),
            paused: start_paused,
            standing: false,
            over: false,
            guest_ended: false,
            quanta: 0,
            stall: Stall::default(),
            patience: Patience::default(),
            stillness: Stillness::default(),
        }
    }

    fn publish(&self, machine: &Machine, state: RunState) {
        self.lane.publish(Icount(machine.icount()), machine.vtime());
        self.lane.publish_state(state);
    }

    fn take(&mut self, machine: &mut Machine, message: Inbound) -> Result<Flow, RunError> {
        match message {
            Inbound::Apply(stamped) => self.ahead.push_back(Next::Event(stamped)),
            Inbound::LogEnds { icount, .. } => self.ahead.push_back(Next::End(icount.0)),
            Inbound::Control { sequence, control } => {
                match control {
                    Control::Stop => {
                        self.paused = true;
                        gdb::overruled(machine);
                    }
                    Control::Continue => {
                        self.paused = false;
                        gdb::overruled(machine);
                    }
                    Control::Debugger { listens } => {
                        machine.debugger_listens(listens, self.lane.waker())?;
                    }
                    Control::Quit => return Ok(Flow::Leave),
                    Control::Reconnect { .. } => {
                        return Err(RunError::Setup("a replay has no back-end to connect again".into()));
                    }
                }
                if self.paused {
                    self.publish(machine, RunState::Paused);
                }
                self.lane.send(&Outbound::Ack { sequence })?;
                self.lane.ring_doorbell()?;
            }
            Inbound::Debugger(message) => machine.debugger.take(message),
            Inbound::Offer(_) => {
                let text = "input from outside is ignored in a replay".into();
                self.lane.send(&Outbound::Note { text })?;
            }
        }
        Ok(Flow::Go)
    }

    fn receive(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
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
    fn look_ahead(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
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

    fn next_icount(&self) -> u64 {
        match self.ahead.front() {
            Some(Next::Event(stamped)) => stamped.icount.0,
            Some(Next::End(icount)) => *icount,
            None => 0,
        }
    }

    /// Stands still until told to go on; the end of the log and a divergence are for good.
    fn pause(&mut self, machine: &mut Machine, reason: PauseReason) -> Result<Flow, RunError> {
        machine.flush_consoles()?;
        machine.consoles.drain()?;
        self.paused = true;
        self.over |= reason != PauseReason::Stopped;
        self.publish(machine, RunState::Paused);
        let told = gdb::stand(machine, reason);
        self.lane.send(&Outbound::Paused { icount: Icount(machine.icount()), reason: told })?;
        if told != PauseReason::Debugger {
            self.lane.ring_doorbell()?;
        }
        self.standing = true;
        let flow = self.stand_still(machine, reason)?;
        self.standing = false;
        if flow != Flow::Leave {
            self.publish(machine, RunState::Running);
        }
        Ok(flow)
    }

    fn stand_still(&mut self, machine: &mut Machine, reason: PauseReason) -> Result<Flow, RunError> {
        gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
        while self.paused || self.over {
            if machine.debugger.waits_in_vain() && self.over {
                gdb::stand(machine, reason);
                self.paused = true;
                gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
                continue;
            }
            self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, None)?;
            if self.receive(machine)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
        }
        Ok(Flow::Again)
    }

    fn diverged(
        &mut self,
        machine: &mut Machine,
        field: &str,
        expected: String,
        found: String,
    ) -> Result<Flow, RunError> {
        let icount = Icount(machine.icount());
        let field = field.to_string();
        self.lane.send(&Outbound::Divergence { icount, field, expected, found })?;
        self.pause(machine, PauseReason::Divergence)
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
            Event::Shutdown { cause } if from_host(cause) => Ok(Flow::Go),
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

    /// Compares what the guest has sent with the log.
    fn compare_sent(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        for note in machine.take_sent() {
            if self.look_ahead(machine)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
            let icount = Icount(machine.icount());
            let expected = match self.ahead.front() {
                Some(Next::Event(next)) if next.icount == icount && next.event == note => {
                    self.ahead.pop_front();
                    continue;
                }
                Some(Next::Event(next)) => format!("{:?} at icount {}", next.event, next.icount),
                // A log that was cut may end before the note.
                Some(Next::End(_)) | None => return Ok(Flow::Go),
            };
            return self.diverged(machine, "what the guest sends", expected, format!("{note:?}"));
        }
        Ok(Flow::Go)
    }

    fn compare(&mut self, machine: &mut Machine, registers: u64, memory: u64) -> Result<Flow, RunError> {
        let found = machine.digests()?;
        if found.0 != registers {
            return self.diverged(
                machine,
                "digest of registers",
                format!("{registers:016x}"),
                format!("{:016x}", found.0),
            );
        }
        if found.1 != memory {
            return self.diverged(
                machine,
                "digest of memory",
                format!("{memory:016x}"),
                format!("{:016x}", found.1),
            );
        }
        Ok(Flow::Go)
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
    fn must_end_here(&self, machine: &Machine) -> bool {
        match self.ahead.front() {
            Some(Next::Event(Stamped { icount, event: Event::Shutdown { cause } })) => {
                icount.0 == machine.icount() && !from_host(*cause)
            }
            _ => false,
        }
    }

    fn apply_due(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        loop {
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
                Some(Next::Event(stamped)) => self.apply(machine, stamped)?,
                Some(Next::End(..)) => self.pause(machine, PauseReason::EndOfLog)?,
                None => Flow::Go,
            };
            if flow == Flow::Leave || machine.has_effects() {
                return Ok(flow);
            }
        }
    }
}

/// Causes that come from outside: the guest does nothing to bring them about.
fn from_host(cause: ShutdownCause) -> bool {
    match cause {
        ShutdownCause::HostQuit | ShutdownCause::HostSignal { .. } | ShutdownCause::HostError => true,
        ShutdownCause::GuestShutdown
        | ShutdownCause::GuestReset
        | ShutdownCause::GuestPanic
        | ShutdownCause::TripleFault
        | ShutdownCause::DebugExit { .. } => false,
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
        if gdb::comes_to_stop(machine, self.paused) {
            return self.pause(machine, PauseReason::Stopped);
        }
        if machine.core.between_delivery_and_retirement() && !self.guest_ended {
            return if self.stillness.is_long() { self.stuck(machine) } else { Ok(Flow::Go) };
        }
        self.stillness = Stillness::default();
        if self.paused {
            return self.pause(machine, PauseReason::Stopped);
        }
        self.apply_due(machine)
    }

    fn limit(&self, machine: &Machine) -> u64 {
        // At its limit an engine delivers nothing. One that retires an instruction here after all is behind the
        // event at the next checkpoint, and has diverged.
        let next = if self.must_end_here(machine) { machine.icount() + 1 } else { self.next_icount() };
        next.min(machine.icount() + QUANTUM)
    }

    fn stalled(&mut self, machine: &mut Machine, device: DeviceIndex) -> Result<Flow, RunError> {
        if self.stall.lasted(self.clock.now()) >= ANSWER_TIMEOUT {
            return Err(RunError::NoAnswer {
                device: machine.device_name(device).to_string(),
                seconds: ANSWER_TIMEOUT.as_secs(),
                icount: machine.icount(),
            });
        }
        let wait = self.stall.begin(machine, device, self.clock.now(), &mut self.lane)?;
        self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, Some(wait))?;
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
            _ => self.pause(machine, PauseReason::EndOfLog),
        }
    }

    /// The log goes on behind this icount, so the recording went on: with patience, this run does too.
    fn stuck(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        match self.patience.stuck(machine.icount()) {
            None => Ok(Flow::Go),
            Some(_) => self.no_progress(machine, "exceptions without end".into()),
        }
    }
}

impl Playback {
    /// A halted CPU without a timer: only the log's next event can go on, and it must be here.
    fn nothing_left(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        match self.ahead.front() {
            Some(_) if self.next_icount() > machine.icount() || self.must_end_here(machine) => {
                self.no_progress(machine, "the CPU is halted for ever".into())
            }
            _ => Ok(Flow::Again),
        }
    }

    /// The log goes on behind this icount and the guest does not.
    fn no_progress(&mut self, machine: &mut Machine, found: String) -> Result<Flow, RunError> {
        let expected = match self.ahead.front() {
            Some(Next::Event(stamped)) => format!("{:?} at icount {}", stamped.event, stamped.icount),
            Some(Next::End(icount)) => format!("the end of the log at icount {icount}"),
            None => "an instruction".into(),
        };
        self.diverged(machine, "progress", expected, found)
    }
}
