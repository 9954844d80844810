//! The guest machine: core, interpreter, consoles, and what happens to it from outside.

use super::connect::{Outside, receive_listener, receive_session, receive_unused};
use super::consoles::Consoles;
use super::digest::{self, RamDigest};
use super::error::RunError;
use super::incoming::Incoming;
use super::power_on;
use super::save::SaveBase;
use crate::chipset::rtc::Look;
use crate::core::Core;
use crate::gdb::Debugger;
use crate::interp::{Interpreter, Stop};
use crate::snapshot::History;
use crate::snapshot::history::Place;
use crate::system::entropy::Entropy;
use crate::virtio::{Service, Tag};
use crate::window::requests::Done;
use replay::event::{DeviceIndex, Event, ShutdownCause};
use replay::lane::Waker;
use replay::machine::PanicAction;
use replay::setup::VcpuSetup;
use replay::time::Vtime;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// End of guest physical RAM.
fn span(core: &Core) -> u64 {
    core.mem.ram.low_end().max(core.mem.ram.high_end())
}

/// A seed from journaled bytes: the first 32, zeros after the end of a shorter one.
fn seed_of(bytes: &[u8]) -> [u8; 32] {
    let mut seed = [0; 32];
    let len = bytes.len().min(seed.len());
    seed[..len].copy_from_slice(&bytes[..len]);
    seed
}

/// Digests `(registers, memory)` of a machine.
pub type Digests = (u64, u64);

/// What a machine wants for itself, by its guest's doing or the monitor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To start again.
    Reset {
        /// By the guest's doing.
        guest: bool,
    },
    /// To stand still for this reason.
    Pause(ShutdownCause),
    /// To end.
    End(ShutdownCause),
}

/// A machine that runs.
pub struct Machine {
    /// CPU, memory and chipset.
    pub core: Core,
    /// Where bytes of UARTs and the debug port go and come from.
    pub consoles: Consoles,
    /// What the machine was built from.
    pub description: replay::machine::Machine,
    /// The back-ends of the virtio functions.
    pub(super) service: Service,
    /// Answers that the next event brings into RAM, where the event has only their digests.
    pub(super) answers: VecDeque<Done<Tag>>,
    pub(super) control: Option<OwnedFd>,
    /// Connections that came for devices which wait for another one.
    unused: Vec<(DeviceIndex, OwnedFd)>,
    interpreter: Interpreter,
    memory_digest: RamDigest,
    pub(super) history: Option<History>,
    pub(super) save_base: SaveBase,
    /// The state that it is about to take.
    pub(super) incoming: Option<Box<Incoming>>,
    /// How the copying of a saved state ended that had to be completed at once.
    pub(super) copied: Option<std::io::Result<()>>,
    /// The monitor asked for a reset: what comes of it is decided where the guest's own resets are.
    reset_asked: bool,
    /// Who looks at the machine from outside.
    pub debugger: Debugger,
    /// The guest is about to read a time that follows the host's clock.
    pub(super) rtc_look: Option<Look>,
}

impl Machine {
    /// Builds a machine at power-on, its kernel loaded.
    pub fn new(setup: &VcpuSetup, outside: Outside) -> Result<Machine, RunError> {
        Ok(Machine::around(power_on::build(&setup.machine)?, setup, outside))
    }

    /// The same with nothing in RAM.
    #[cfg(test)]
    pub fn bare(setup: &VcpuSetup, outside: Outside) -> Result<Machine, RunError> {
        Ok(Machine::around(power_on::bare(&setup.machine)?, setup, outside))
    }

    fn around(mut core: Core, setup: &VcpuSetup, outside: Outside) -> Machine {
        outside.service.offer_own(&mut core);
        Machine {
            memory_digest: RamDigest::new(span(&core)),
            core,
            consoles: outside.consoles,
            service: outside.service,
            answers: VecDeque::new(),
            control: outside.control,
            unused: Vec::new(),
            description: setup.machine.clone(),
            interpreter: Interpreter::default(),
            history: None,
            save_base: SaveBase::default(),
            incoming: None,
            copied: None,
            reset_asked: false,
            debugger: Debugger::new(setup.mode),
            rtc_look: None,
        }
    }

    /// Instructions retired.
    pub fn icount(&self) -> u64 {
        self.core.cpu.icount
    }

    /// Guest time.
    pub fn vtime(&self) -> Vtime {
        self.core.clock.at(self.icount())
    }

    /// The CPU is in HLT.
    pub fn halted(&self) -> bool {
        self.core.cpu.activity == crate::state::Activity::Halted
    }

    /// Lets every timer fire that is due now.
    pub fn advance_timers(&mut self) {
        let now = self.vtime();
        if self.core.chipset.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.core.chipset.advance(now);
        }
    }

    /// The icount of the next timer.
    pub fn timer_icount(&self) -> u64 {
        let next = self.core.chipset.next_deadline();
        next.map_or(u64::MAX, |deadline| self.core.clock.icount_at(deadline))
    }

    /// Executes until `limit`, the next timer, or something to look at.
    pub fn run(&mut self, limit: u64) -> Stop {
        if self.core.probe.watches() {
            self.core.probe_device_writes();
        }
        let limit = limit.min(self.timer_icount()).min(self.debugger.limit());
        self.interpreter.run(&mut self.core, limit)
    }

    /// Applies an event that changes the guest. Events that are notes do nothing.
    pub fn apply(&mut self, event: &Event) -> Result<(), RunError> {
        let (icount, now) = (self.icount(), self.vtime());
        let core = &mut self.core;
        match event {
            Event::QueueUsed { device, queue, entries } if self.service.function_of(*device).is_some() => {
                self.deliver(*device, *queue, entries)?;
            }
            Event::QueueUsed { device, entries, .. } => {
                for bytes in super::consoles::received(entries) {
                    self.consoles.input(&mut core.chipset, *device, bytes, now);
                }
            }
            Event::ConfigChanged { .. } => {}
            Event::DeviceOffered { device, features, config } => {
                self.service.apply_offer(core, *device, *features, config);
            }
            Event::Sent { .. } | Event::DeviceRestarted { .. } => {}
            Event::Input(input) => core.chipset.input(input, now),
            Event::PowerButton => core.chipset.press_power_button(now),
            Event::Nmi => core.chipset.raise_nmi(),
            Event::Reset => self.reset_asked = true,
            Event::PortWrite { port, size: size @ (1 | 2 | 4), value } => {
                core.chipset.port_write(*port, *size, *value, now);
            }
            Event::PortWrite { .. } => {}
            Event::HostClock { unix_ns } => core.chipset.follow_host_clock(*unix_ns, now),
            Event::Entropy { bytes } => core.entropy = Entropy::new(seed_of(bytes)),
            Event::IdleWake { vtime } => core.clock.skip_to(icount, *vtime),
            Event::Rate { shift } => core.clock.set_shift(icount, *shift),
            Event::Shutdown { .. } | Event::End | Event::Digest { .. } => {}
        }
        Ok(())
    }

    /// Takes another back-end for `device`.
    pub fn reconnect(&mut self, device: DeviceIndex, goes_on: bool) -> Result<(), RunError> {
        let index = usize::from(device);
        let (Some(control), Some(choice)) = (&self.control, self.description.devices.get(index)) else {
            return Err(RunError::Setup(format!("there is no device {device} to connect again")));
        };
        if self.service.is_held(device) && !goes_on {
            // The contents of the disk are kept as they were at the save: the one that leaves them so is to come. The broker ends this
            // one then; if it was left now, it would end by itself and be missed.
            let fds = receive_unused(control, &choice.id)?;
            self.unused.extend(fds.into_iter().map(|fd| (device, fd)));
            return Ok(());
        }
        self.unused.retain(|(of, _)| *of != device);
        let session = receive_session(control, &choice.id, self.description.queue_count(device))?;
        if let Some(back_end) = self.service.back_end(device) {
            back_end.reconnect(session)?;
        } else if let Some(back_end) = self.consoles.back_end(device) {
            back_end.reconnect(session)?;
        } else if !self.service.reconnect_shared(&self.core, device, session)? {
            return Err(RunError::Setup(format!("device {} had no back-end and cannot get one", choice.id)));
        }
        Ok(())
    }

    /// Expects debuggers on the socket that is on its way, or on none.
    pub fn debugger_listens(&mut self, listens: bool, waker: Waker) -> Result<(), RunError> {
        let listener = match (&self.control, listens) {
            (Some(control), true) => Some(receive_listener(control)?),
            _ => None,
        };
        self.debugger.listen(listener, waker)
    }

    /// Restarts the machine as its reset line does, and loads the kernel again.
    pub fn reset(&mut self) -> Result<(), RunError> {
        // RAM is about to go from under them.
        self.service.stop_all_shared()?;
        self.finish_copying();
        self.save_base.forget();
        self.interpreter.forget_blocks();
        power_on::reset(&mut self.core, &self.description)?;
        self.memory_digest = RamDigest::new(span(&self.core));
        if let Some(history) = &mut self.history {
            history.note_all();
        }
        if let Some(incoming) = &mut self.incoming {
            incoming.begin_again(self.core.mem.ram.touched()?);
        }
        Ok(())
    }

    /// Whether `serve_effects` has something to do. An event that leaves something is the last of its batch, in a
    /// recording as in a replay.
    pub fn has_effects(&self) -> bool {
        self.reset_asked || self.core.chipset.has_effects()
    }

    /// Does what the guest asked of the machine since the last call; what it wants beyond that.
    pub fn serve_effects(&mut self) -> Option<Request> {
        if std::mem::take(&mut self.reset_asked) {
            return Some(self.resets(ShutdownCause::GuestReset, false));
        }
        if !self.core.chipset.has_effects() {
            return None;
        }
        let effects = self.core.chipset.take_effects();
        if let Some(gpa) = effects.fw_cfg_dma {
            self.core.chipset.fw_cfg_dma(gpa, &mut self.core.mem);
        }
        if effects.a20_changed {
            self.core.set_a20(self.core.chipset.a20());
        }
        self.rtc_look = effects.rtc_look.or(self.rtc_look);
        if let Some(value) = effects.debug_exit {
            Some(Request::End(ShutdownCause::DebugExit { value }))
        } else if effects.power_off {
            Some(self.shuts_down(ShutdownCause::GuestShutdown))
        } else if effects.reset || effects.init {
            // Without firmware a CPU that gets INIT has nowhere to go but to a fresh start.
            Some(self.guest_resets(ShutdownCause::GuestReset))
        } else if effects.panicked {
            self.panics()
        } else {
            None
        }
    }

    /// Takes what the guest is about to read of an RTC that follows the host's clock.
    pub fn take_rtc_look(&mut self) -> Option<Look> {
        self.rtc_look.take()
    }

    /// What a reset by the guest comes to. After a panic, the panic is why.
    pub fn guest_resets(&self, cause: ShutdownCause) -> Request {
        let cause = if self.core.chipset.panicked() { ShutdownCause::GuestPanic } else { cause };
        self.resets(cause, true)
    }

    fn resets(&self, cause: ShutdownCause, guest: bool) -> Request {
        if self.description.no_reboot { Request::End(cause) } else { Request::Reset { guest } }
    }

    fn shuts_down(&self, cause: ShutdownCause) -> Request {
        if self.description.no_shutdown { Request::Pause(cause) } else { Request::End(cause) }
    }

    fn panics(&self) -> Option<Request> {
        match self.description.panic_action {
            PanicAction::None => None,
            PanicAction::Pause => Some(Request::Pause(ShutdownCause::GuestPanic)),
            PanicAction::Shutdown => Some(self.shuts_down(ShutdownCause::GuestPanic)),
            PanicAction::ExitFailure => Some(Request::End(ShutdownCause::GuestPanic)),
        }
    }

    /// Tells those who follow RAM which pages were written.
    pub(super) fn note_written(&mut self) {
        self.core.cpu.tlb.drop_fast_writes();
        let pages = self.note_replaced();
        if let Some(history) = &mut self.history {
            history.note(&pages);
        }
    }

    /// The same for those who care for what RAM is and not for who wrote it.
    fn note_replaced(&mut self) -> Vec<u64> {
        let pages = self.core.mem.ram.take_dirty();
        self.memory_digest.note(&pages);
        self.save_base.note(&pages);
        if let Some(incoming) = &mut self.incoming {
            incoming.note(&pages);
        }
        pages
    }

    /// Keeps snapshots from here on.
    pub fn keep_history(&mut self) {
        let mut history = History::default();
        if self.service.keeps_answers() {
            history.disks_begin(Place::default());
        }
        self.history = Some(history);
    }

    /// The snapshots that are kept.
    pub fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// Whether nothing is on its way that a snapshot would not hold.
    pub fn is_quiet(&self) -> bool {
        !self.has_effects() && self.answers.is_empty() && self.rtc_look.is_none()
    }

    /// Takes a snapshot; `events`: events of the log that were applied.
    pub fn take_snapshot(&mut self, events: u64) -> Result<(), RunError> {
        self.flush_consoles()?;
        self.note_written();
        let here = Place { icount: self.icount(), events };
        if let Some(history) = &mut self.history {
            history.take(&self.core, here);
        }
        Ok(())
    }

    /// The machine is where a snapshot may be: what is written from here on counts from it.
    pub fn pass_snapshot(&mut self, events: u64) {
        self.note_written();
        let here = Place { icount: self.icount(), events };
        if let Some(history) = &mut self.history {
            history.pass(here);
        }
    }

    /// Goes back, or forward, to a snapshot.
    pub fn restore_snapshot(&mut self, place: Place) -> Result<(), RunError> {
        self.flush_consoles()?;
        self.note_written();
        if let Some(history) = &mut self.history {
            history.restore(&mut self.core, place).map_err(|error| RunError::Setup(error.to_string()))?;
        }
        // The pages that were put back are no writes of the guest for the history.
        self.note_replaced();
        self.state_was_replaced();
        self.core.probe.moved(place.events);
        Ok(())
    }

    /// Nothing of what was before is left. Decoded blocks are: pages that were written drop theirs as ever, and the rest is code still.
    pub(super) fn state_was_replaced(&mut self) {
        self.note_written();
        self.reset_asked = false;
        self.rtc_look = None;
        self.answers.clear();
    }

    /// Digests of all state. Console output goes out first: how much of it waits depends on the host.
    pub fn digests(&mut self) -> Result<Digests, RunError> {
        self.flush_consoles()?;
        self.note_written();
        Ok((digest::registers(&self.core), self.memory_digest.update(&self.core)))
    }

    /// A console that has no room for what the guest wrote, now as before: the guest stands still.
    pub fn backlogged(&mut self) -> Result<Option<DeviceIndex>, RunError> {
        if self.consoles.backlogged().is_none() {
            return Ok(None);
        }
        self.flush_consoles()?;
        Ok(self.consoles.backlogged())
    }

    /// Sends what the guest wrote to its consoles, as far as they have room.
    pub fn flush_consoles(&mut self) -> Result<(), RunError> {
        self.consoles.flush(&mut self.core.chipset)
    }
}
