//! Inputs from the host: stamped here, journaled, and so made repeatable.
//!
//! Events land only where a replay can put them: never between a delivered exception and the next retired
//! instruction, and in a halted CPU only right after an `IdleWake` that fixes guest time.

use super::consoles::{DRAIN_TIMEOUT, QUIT_DRAIN_TIMEOUT};
use super::error::RunError;
use super::inputs::{Flow, Inputs};
use super::machine::Machine;
use super::pace::{HostClock, Pace};
use super::patience::Stillness;
use super::saves::Saves;
use super::silence::Silence;
use super::stall::Stall;
use crate::chipset::rtc::Look;
use crate::gdb;
use replay::event::{DeviceIndex, Event, ShutdownCause, Stamped};
use replay::lane::{RunState, VcpuEnd, Wake};
use replay::message::{Control, Inbound, Offer, Outbound, PauseReason};
use replay::time::{Icount, Vtime};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Instructions between two looks at the attention word: about 50 µs.
const QUANTUM: u64 = 4096;
/// Quanta after which console output is sent although little has come together.
const FLUSH_QUANTA: u32 = 16;
/// Shortest host time between two looks at the host's date, for a guest that asks whether an update is near: it is
/// about to read the whole time, and what it reads within this must fit together.
const DATE_INTERVAL: Duration = Duration::from_millis(10);
/// The same for a guest that reads a register of the time: it may be in the middle of reading them all.
const DATE_INTERVAL_INSIDE: Duration = Duration::from_secs(1);
/// Host time between two looks at disks that owe an answer.
const SILENCE_INTERVAL: Duration = Duration::from_secs(1);
/// Quanta between the same.
const SILENCE_QUANTA: u32 = 4096;
/// Host time between two looks at a machine that makes no progress.
const STUCK_NAP: Duration = Duration::from_millis(100);
/// Longest sleep of a machine without a timer, in one piece.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Inputs from the host.
pub struct Live {
    pub(super) lane: VcpuEnd,
    pub(super) clock: Box<dyn HostClock>,
    pub(super) pace: Pace,
    pub(super) auto: bool,
    pub(super) sleep: bool,
    pub(super) digest_interval: u64,
    pub(super) next_digest: u64,
    pub(super) offers: VecDeque<Offer>,
    /// Devices with input that had no room yet.
    pub(super) waiting: BTreeSet<u16>,
    pub(super) paused: bool,
    /// In a pause, of which the broker and the debugger know.
    pub(super) standing: bool,
    /// icount at which events were last allowed.
    pub(super) last_icount: Option<u64>,
    pub(super) quanta: u32,
    pub(super) stillness: Stillness,
    /// When the RTC was last told the host's date.
    pub(super) date_told: Option<Duration>,
    /// Where the machine went idle and when on the host: being asked things does not make it sleep longer.
    pub(super) idle_since: Option<(u64, Vtime, Duration)>,
    pub(super) stall: Stall,
    pub(super) silence: Silence,
    /// Devices that have another back-end, of which the journal does not know yet.
    pub(super) restarted: Vec<DeviceIndex>,
    pub(super) saves: Saves,
    /// A state is to be loaded before the first instruction.
    pub(super) awaits_state: bool,
}

impl Live {
    /// `entropy` seeds the guest's random numbers; it is the first event.
    pub fn new(
        lane: VcpuEnd,
        setup: &replay::setup::VcpuSetup,
        machine: &mut Machine,
        entropy: [u8; 32],
        clock: Box<dyn HostClock>,
    ) -> Result<Live, RunError> {
        let interval = setup.digest_interval;
        let mut live = Live {
            lane,
            pace: Pace::new(0, clock.now()),
            clock,
            auto: setup.machine.clock.auto,
            sleep: setup.machine.clock.sleep,
            digest_interval: interval,
            next_digest: if interval == 0 { u64::MAX } else { interval },
            offers: VecDeque::new(),
            waiting: BTreeSet::new(),
            paused: setup.start_paused,
            standing: false,
            last_icount: None,
            quanta: 0,
            stillness: Stillness::default(),
            date_told: None,
            idle_since: None,
            stall: Stall::default(),
            silence: Silence::default(),
            restarted: Vec::new(),
            saves: Saves::default(),
            awaits_state: setup.awaits_state,
        };
        live.apply(machine, Event::Entropy { bytes: entropy.to_vec() })?;
        for offer in machine.offers()? {
            live.apply(machine, offer)?;
        }
        machine.consoles.start_receiving()?;
        Ok(live)
    }

    fn journal(&mut self, machine: &Machine, event: Event) -> Result<(), RunError> {
        let stamped = Stamped { icount: Icount(machine.icount()), event };
        Ok(self.lane.send(&Outbound::Journal(stamped))?)
    }

    fn apply(&mut self, machine: &mut Machine, event: Event) -> Result<(), RunError> {
        machine.advance_timers();
        machine.apply(&event)?;
        self.journal(machine, event)
    }

    /// Takes all messages: controls act, offers wait their turn.
    pub(super) fn receive(&mut self, machine: &mut Machine) -> Result<Option<Flow>, RunError> {
        if self.lane.attention().load(Ordering::Relaxed) == 0 && !machine.debugger.wants_stop() {
            return Ok(None);
        }
        self.lane.take_attention();
        while let Some(message) = self.lane.receive()? {
            match message {
                Inbound::Offer(offer) => self.offers.push_back(offer),
                Inbound::Control { sequence, control } => {
                    if self.control(machine, sequence, control)? == Flow::Leave {
                        return Ok(Some(Flow::Leave));
                    }
                }
                Inbound::Debugger(message) => machine.debugger.take(message),
                Inbound::Apply(_) | Inbound::LogEnds { .. } | Inbound::Rewound => {
                    return Err(RunError::Setup("the broker sent a replay's message to a live run".into()));
                }
            }
        }
        gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
        Ok(None)
    }

    fn control(&mut self, machine: &mut Machine, sequence: u64, control: Control) -> Result<Flow, RunError> {
        let mut flow = Flow::Go;
        match control {
            Control::Save { full, held } => {
                self.saves.ask_to_save(sequence, full, held);
                return Ok(Flow::Go);
            }
            Control::Load { held } => {
                self.saves.ask_to_load(machine, sequence, held)?;
                return Ok(Flow::Go);
            }
            Control::Stop => {
                self.paused = true;
                gdb::overruled(machine);
            }
            Control::Continue => {
                self.paused = false;
                gdb::overruled(machine);
            }
            Control::Quit => flow = Flow::Leave,
            Control::Debugger { listens } => machine.debugger_listens(listens, self.lane.waker())?,
            Control::Reconnect { device, goes_on } => {
                if let Err(why) = self.reconnect(machine, device, goes_on) {
                    let why = why.to_string();
                    self.lane.send(&Outbound::NotConnected { sequence, device, why })?;
                    self.lane.ring_doorbell()?;
                    return Ok(Flow::Go);
                }
            }
            Control::Inspect { query } => {
                let answer = crate::inspect::answer(&machine.core, query);
                self.lane.send(&Outbound::Inspected { sequence, answer })?;
                self.lane.ring_doorbell()?;
                return Ok(flow);
            }
            Control::Seek { .. }
            | Control::SeekTime { .. }
            | Control::Known { .. }
            | Control::LoadStart { .. }
            | Control::Break { .. }
            | Control::BreakTime { .. }
            | Control::DeleteBreak { .. } => {
                return Err(RunError::Setup("the broker asked a live run to seek".into()));
            }
        }
        if self.paused {
            self.publish(machine, RunState::Paused);
        }
        self.lane.send(&Outbound::Ack { sequence })?;
        self.lane.ring_doorbell()?;
        Ok(flow)
    }

    /// Takes another back-end. Without one the machine stands still: the broker has stopped it.
    fn reconnect(
        &mut self,
        machine: &mut Machine,
        device: DeviceIndex,
        goes_on: bool,
    ) -> Result<(), RunError> {
        machine.reconnect(device, goes_on)?;
        self.restarted.push(device);
        // The signals of the back-end before it may be lost.
        let queues = machine.description.queue_count(device);
        self.offers.extend((0..queues).map(|queue| Offer::DeviceReady { device, queue }));
        Ok(())
    }

    pub(super) fn publish(&self, machine: &Machine, state: RunState) {
        self.lane.publish(Icount(machine.icount()), machine.vtime());
        self.lane.publish_state(state);
    }

    /// Stands still until the monitor says otherwise. Guest time stands still too.
    fn pause(&mut self, machine: &mut Machine, reason: PauseReason) -> Result<Flow, RunError> {
        machine.flush_consoles()?;
        self.paused = true;
        self.publish(machine, RunState::Paused);
        let reason = gdb::stand(machine, reason);
        self.lane.send(&Outbound::Paused { icount: Icount(machine.icount()), reason })?;
        if reason != PauseReason::Debugger {
            self.lane.ring_doorbell()?;
        }
        self.standing = true;
        let flow = self.stand_still(machine)?;
        self.standing = false;
        if flow == Flow::Leave {
            return Ok(flow);
        }
        self.idle_since = None;
        self.silence.begin_anew();
        self.paused = false;
        self.pace = Pace::new(machine.icount(), self.clock.now());
        self.publish(machine, RunState::Running);
        Ok(Flow::Again)
    }

    fn stand_still(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        gdb::attend(machine, &mut self.lane, &mut self.paused, self.standing)?;
        while self.paused {
            if let Some(cause) = self.quit_offered() {
                self.fix_time(machine, None)?;
                return self.end(machine, cause);
            }
            if self.attend_saves(machine)? == Some(Flow::Leave) {
                return Ok(Flow::Leave);
            }
            let nap = self.saves.nap().or(machine.consoles.nap());
            self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, nap)?;
            machine.backlogged()?;
            if self.receive(machine)? == Some(Flow::Leave) {
                return Ok(Flow::Leave);
            }
        }
        Ok(Flow::Again)
    }

    pub(super) fn quit_offered(&self) -> Option<ShutdownCause> {
        self.offers.iter().find_map(|offer| match offer {
            Offer::Quit { cause } => Some(*cause),
            _ => None,
        })
    }

    pub(super) fn end(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError> {
        machine.flush_consoles()?;
        let is_wanted = cause.is_from_host();
        machine.consoles.drain(if is_wanted { QUIT_DRAIN_TIMEOUT } else { DRAIN_TIMEOUT })?;
        machine.debugger.note_end(cause);
        self.journal(machine, Event::Shutdown { cause })?;
        self.publish(machine, RunState::Ended);
        self.lane.send(&Outbound::Ended { cause, icount: Icount(machine.icount()) })?;
        self.lane.ring_doorbell()?;
        Ok(Flow::Leave)
    }

    /// Applies what the host offered; in a halted CPU only after guest time is fixed in the journal.
    fn apply_offers(&mut self, machine: &mut Machine, wake: Option<Vtime>) -> Result<Flow, RunError> {
        if let Some(cause) = self.quit_offered() {
            self.fix_time(machine, wake)?;
            return self.end(machine, cause);
        }
        let mut changed = false;
        while let Some(offer) = self.offers.pop_front() {
            let answers_of = match offer {
                Offer::DeviceReady { device, .. }
                    if machine.is_virtio(device) && !machine.shares_ram(device) =>
                {
                    machine.reap(device)?;
                    Some(device)
                }
                _ => None,
            };
            while let Some(event) = self.event_of(machine, &offer)? {
                if !changed {
                    self.fix_time(machine, wake)?;
                }
                self.apply(machine, event)?;
                changed = true;
                if answers_of.is_none() || machine.has_effects() {
                    break;
                }
            }
            if machine.has_effects() {
                // There may be more answers: they are looked for again.
                self.offers.extend(answers_of.map(|device| Offer::DeviceReady { device, queue: 0 }));
                break;
            }
        }
        Ok(if changed { Flow::Again } else { Flow::Go })
    }

    fn fix_time(&mut self, machine: &mut Machine, wake: Option<Vtime>) -> Result<(), RunError> {
        if machine.halted() {
            let vtime = wake.unwrap_or(machine.vtime());
            self.apply(machine, Event::IdleWake { vtime })?;
        }
        Ok(())
    }

    fn event_of(&mut self, machine: &mut Machine, offer: &Offer) -> Result<Option<Event>, RunError> {
        Ok(match *offer {
            Offer::DeviceReady { device, queue } if machine.shares_ram(device) => {
                machine.shared_signal(device, queue)
            }
            Offer::DeviceReady { device, .. } if machine.is_virtio(device) => machine.next_answer(device),
            Offer::DeviceReady { device, queue } => {
                let entries = machine.consoles.take_input(&machine.core.chipset, device)?;
                if entries.is_empty() {
                    self.waiting.insert(device);
                    return Ok(None);
                }
                self.waiting.remove(&device);
                Some(Event::QueueUsed { device, queue, entries })
            }
            Offer::Input(ref input) => Some(Event::Input(input.clone())),
            Offer::PowerButton => Some(Event::PowerButton),
            Offer::Nmi => Some(Event::Nmi),
            Offer::Reset => Some(Event::Reset),
            Offer::PortWrite { port, size, value } => Some(Event::PortWrite { port, size, value }),
            Offer::Quit { .. } => None,
        })
    }

    /// Waits in HLT for the next timer or the host.
    fn wait_idle(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        machine.flush_consoles()?;
        let icount = machine.icount();
        let now = machine.vtime();
        let deadline = machine.core.chipset.next_deadline();
        let ahead = deadline.map_or(SLEEP_MAX, |at| Duration::from_nanos(at.0.saturating_sub(now.0)));
        self.publish(machine, RunState::Idle);
        let start = match self.idle_since {
            Some((at, vtime, start)) if (at, vtime) == (icount, now) => start,
            _ => self.clock.now(),
        };
        self.idle_since = Some((icount, now, start));
        // The guest may wait for nothing but that.
        self.offer_waiting_again();
        if !self.offers.is_empty() {
            let flow = self.apply_offers(machine, None)?;
            if flow != Flow::Go {
                return Ok(flow);
            }
        }
        let elapsed =
            if self.sleep || deadline.is_none() { self.sleep_until(machine, start, ahead)? } else { ahead };
        if self.receive(machine)? == Some(Flow::Leave) {
            return Ok(Flow::Leave);
        }
        // Guest time as it would be had it run along with the host's, before the next timer.
        let last = deadline.map_or(u64::MAX, |at| at.0.saturating_sub(1)).max(now.0);
        let reached = if self.sleep { now.0.saturating_add(elapsed.as_nanos() as u64) } else { now.0 };
        if !self.offers.is_empty() {
            let flow = self.apply_offers(machine, Some(Vtime(reached.min(last))))?;
            if flow != Flow::Go {
                return Ok(flow);
            }
        }
        if let (Some(at), false, true) = (deadline, self.paused, elapsed >= ahead) {
            machine.core.clock.skip_to(icount, at.max(now));
        }
        Ok(Flow::Again)
    }

    /// Sleeps until `ahead` has passed since `start` or the broker wants attention; host time since `start`.
    fn sleep_until(
        &mut self,
        machine: &Machine,
        start: Duration,
        ahead: Duration,
    ) -> Result<Duration, RunError> {
        loop {
            let now = self.clock.now();
            self.silence.look(machine, now, &mut self.lane)?;
            let elapsed = now.saturating_sub(start);
            if elapsed >= ahead {
                return Ok(elapsed);
            }
            let left = ahead - elapsed;
            let nap = if self.silence.is_expecting() { left.min(SILENCE_INTERVAL) } else { left };
            // Pages are on their way: they are seen to in between.
            let busy = self.saves.nap();
            let wait = busy.map_or(nap, |busy| busy.min(nap));
            let woken = self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, Some(wait))?;
            if woken == Wake::Attention || busy.is_some() {
                return Ok(elapsed);
            }
        }
    }

    /// Tells an RTC that follows the host's clock the date, before the guest reads it.
    fn tell_date(&mut self, machine: &mut Machine) -> Result<(), RunError> {
        let interval = match machine.take_rtc_look() {
            None => return Ok(()),
            Some(Look::Update) => DATE_INTERVAL,
            Some(Look::Time) => DATE_INTERVAL_INSIDE,
        };
        let now = self.clock.now();
        if self.date_told.is_some_and(|told| now.saturating_sub(told) < interval) {
            return Ok(());
        }
        self.date_told = Some(now);
        let unix_ns = self.clock.unix_ns();
        self.apply(machine, Event::HostClock { unix_ns })
    }

    /// A full UART may have drained: asks the back-ends with waiting input again.
    fn offer_waiting_again(&mut self) {
        let again = std::mem::take(&mut self.waiting);
        self.offers.extend(again.into_iter().map(|device| Offer::DeviceReady { device, queue: 0 }));
    }

    fn periodic(&mut self, machine: &mut Machine) -> Result<(), RunError> {
        self.quanta = self.quanta.wrapping_add(1);
        if self.quanta.is_multiple_of(FLUSH_QUANTA) {
            machine.flush_consoles()?;
            self.offer_waiting_again();
        }
        if self.quanta.is_multiple_of(SILENCE_QUANTA) {
            self.silence.look(machine, self.clock.now(), &mut self.lane)?;
        }
        if self.auto && self.quanta.is_multiple_of(64) {
            let shift = machine.core.clock.shift();
            if let Some(shift) = self.pace.better_shift(machine.icount(), shift, self.clock.now()) {
                self.apply(machine, Event::Rate { shift })?;
            }
        }
        Ok(())
    }
}

impl Inputs for Live {
    fn checkpoint(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        self.publish(machine, RunState::Running);
        machine.watch_shared()?;
        if self.receive(machine)? == Some(Flow::Leave) {
            return Ok(Flow::Leave);
        }
        if let Some(event) = self.stall.over() {
            self.lane.send(&event)?;
        }
        // What the last instruction sent: it has retired, so these have a place in the journal.
        for note in machine.take_sent() {
            self.journal(machine, note)?;
        }
        if let Some(flow) = self.attend_saves(machine)? {
            return Ok(flow);
        }
        if gdb::comes_to_stop(machine, self.paused) {
            return self.pause(machine, PauseReason::Stopped);
        }
        if machine.core.between_delivery_and_retirement() {
            return if self.stillness.is_long() { self.stuck(machine) } else { Ok(Flow::Go) };
        }
        self.stillness = Stillness::default();
        for device in std::mem::take(&mut self.restarted) {
            self.journal(machine, Event::DeviceRestarted { device })?;
        }
        if self.paused {
            return self.pause(machine, PauseReason::Stopped);
        }
        if machine.icount() >= self.next_digest {
            assert_eq!(machine.icount(), self.next_digest, "ran past the icount of a digest");
            self.next_digest += self.digest_interval;
            let (registers, memory) = machine.digests()?;
            self.journal(machine, Event::Digest { registers, memory })?;
        }
        if self.last_icount == Some(machine.icount()) && !machine.halted() {
            return Ok(Flow::Go);
        }
        self.last_icount = Some(machine.icount());
        if !machine.halted() {
            self.tell_date(machine)?;
            self.periodic(machine)?;
        }
        let flow = if self.offers.is_empty() { Flow::Go } else { self.apply_offers(machine, None)? };
        Ok(flow)
    }

    fn limit(&self, machine: &Machine) -> u64 {
        (machine.icount() + QUANTUM).min(self.next_digest)
    }

    fn stalled(&mut self, machine: &mut Machine, device: DeviceIndex) -> Result<Flow, RunError> {
        if let Some(cause) = self.quit_offered() {
            return self.end(machine, cause);
        }
        let entered = self.clock.now();
        self.stall.wait(machine, device, &mut *self.clock, &mut self.lane)?;
        self.pace.slept(self.clock.now().saturating_sub(entered));
        Ok(self.receive(machine)?.unwrap_or(Flow::Again))
    }

    fn idle(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        let entered = self.clock.now();
        let flow = self.wait_idle(machine)?;
        self.pace.slept(self.clock.now().saturating_sub(entered));
        Ok(flow)
    }

    fn guest_pauses(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError> {
        self.pause(machine, PauseReason::Shutdown(cause))
    }

    fn guest_ended(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError> {
        self.end(machine, cause)
    }

    fn was_reset(&mut self, guest: bool) -> Result<(), RunError> {
        self.lane.send(&Outbound::WasReset { guest })?;
        Ok(self.lane.ring_doorbell()?)
    }

    fn stuck(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        machine.flush_consoles()?;
        let nap = self.saves.nap().unwrap_or(STUCK_NAP);
        self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, Some(nap))?;
        if self.receive(machine)? == Some(Flow::Leave) {
            return Ok(Flow::Leave);
        }
        if let Some(cause) = self.quit_offered() {
            return self.end(machine, cause);
        }
        if self.paused {
            return self.pause(machine, PauseReason::Stopped);
        }
        // No event may land here. But what the exceptions did at this icount a reset undoes: a replay applies it
        // before them, and comes to the same.
        if let Some(at) = self.offers.iter().position(|offer| *offer == Offer::Reset) {
            self.offers.remove(at);
            self.apply(machine, Event::Reset)?;
        }
        Ok(Flow::Go)
    }
}
