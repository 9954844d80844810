//! The debugger that is attached to this process: gdb's remote protocol over gdbstub.
//!
//! A debugger watches and never takes part: it stops the machine between two instructions, looks, and lets it go on. The
//! journal and every digest are the same with and without it. The run loop gives it its turn at checkpoints (`attend`), tells
//! it of every pause (`stand`), and asks whether its breakpoints and steps end here (`comes_to_stop`).

mod description;
mod frame;
pub mod port;
pub mod registers;
pub mod session;
mod target;

use crate::probe::{Hit, Watched};
use crate::run::error::RunError;
use crate::run::machine::Machine;
use description::Architecture;
use gdbstub::common::Signal;
use gdbstub::stub::BaseStopReason;
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::breakpoints::WatchKind;
use port::Port;
use replay::event::ShutdownCause;
use replay::lane::{VcpuEnd, Waker};
use replay::message::{FromDebugger, Outbound, PauseReason, ToDebugger};
use replay::setup::Mode;
use session::{Outcome, Session, StopReason};
use std::os::fd::OwnedFd;

/// How a client wants the machine to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Continue,
    /// One instruction.
    Step,
    /// At least one instruction, and until RIP leaves a range.
    StepWithin {
        start: u64,
        end: u64,
    },
    /// Backwards.
    Back(Back),
}

/// How a client wants the machine to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// By one instruction.
    Step,
    /// To what would stop it last before here.
    Continue,
}

/// What a client is told of a way back at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A step is done.
    Step,
    /// This would have stopped it.
    Met(Hit),
    /// There is nothing before.
    Begin,
}

/// The debugger's side of a machine.
pub struct Debugger {
    port: Option<Port>,
    session: Option<Session>,
    /// Number of the client, of all that came.
    client: u64,
    mode: Mode,
    back: Option<Back>,
    requests: Vec<FromDebugger>,
    notes: Vec<String>,
    refused_write_told: bool,
    /// What the last packet wants.
    action: Option<Action>,
    /// The machine is to stop at this icount.
    stop_at: Option<u64>,
    /// Not while the program counter that gdb sees is in here.
    range: Option<(u64, u64)>,
    /// Why the machine is about to stop.
    reason: Option<StopReason>,
    /// The client wants the machine to stand still.
    wants_stop: bool,
    /// The machine stands still for the debugger alone.
    holds: bool,
    /// The broker was asked to let the machine go on, and has not answered yet. Until then a machine that stands still is
    /// about to run: no client is told that it stopped, not even one that came after who asked.
    asked: bool,
    physical: bool,
    /// What the next client is told of the CPU, and what this one was.
    architecture: Architecture,
    shown: Architecture,
    /// The answer to a client that leaves.
    farewell: Option<Vec<u8>>,
    exit_code: u8,
}

impl Debugger {
    /// No debugger yet, in a run of this kind.
    pub fn new(mode: Mode) -> Debugger {
        Debugger {
            port: None,
            session: None,
            client: 0,
            mode,
            back: None,
            requests: Vec::new(),
            notes: Vec::new(),
            refused_write_told: false,
            action: None,
            stop_at: None,
            range: None,
            reason: None,
            wants_stop: false,
            holds: false,
            asked: false,
            physical: false,
            architecture: Architecture::default(),
            shown: Architecture::default(),
            farewell: None,
            exit_code: 0,
        }
    }

    /// Expects debuggers on another socket, or on none; an attached one is left.
    pub fn listen(&mut self, listener: Option<OwnedFd>, waker: Waker) -> Result<(), RunError> {
        if let Some(port) = self.port.take() {
            port.drain();
        }
        if let Some(listener) = listener {
            self.port = Some(Port::new(listener, waker).map_err(RunError::Debugger)?);
        }
        Ok(())
    }

    /// The client wants to go back.
    pub fn wants_back(&self) -> bool {
        self.back.is_some()
    }

    /// Takes the client's wish to go back.
    pub fn take_back(&mut self) -> Option<Back> {
        self.back.take()
    }

    /// A client is there.
    pub fn is_attached(&self) -> bool {
        self.session.is_some()
    }

    /// A way back is at its end: the machine is to be paused.
    pub fn came_back(&mut self, told: Told) {
        self.holds = true;
        self.reason = Some(match told {
            Told::Step => signal(Signal::SIGTRAP),
            Told::Met(hit) => met(hit),
            Told::Begin => BaseStopReason::ReplayLog { tid: Some(()), pos: ReplayLogPosition::Begin },
        });
    }

    /// Takes a message of the broker.
    pub fn take(&mut self, message: ToDebugger) {
        match (message, &mut self.session) {
            (ToDebugger::Answer { number, text }, Some(session)) if number == self.client => {
                session.command_done(&text);
            }
            (ToDebugger::Refused { why }, session) => {
                self.asked = false;
                // One that came after who asked does not wait for an answer.
                if let Some(session) = session.as_mut().filter(|session| session.is_running()) {
                    session.text(&format!("{why}\n"));
                    self.reason = Some(signal(Signal::SIGSTOP));
                    self.wants_stop = true;
                }
            }
            (ToDebugger::Granted, _) => self.asked = false,
            (ToDebugger::Answer { .. }, _) => {}
        }
    }

    /// The machine ends; a client is told when the process does.
    pub fn note_end(&mut self, cause: ShutdownCause) {
        self.exit_code = match cause {
            ShutdownCause::DebugExit { value } => value << 1 | 1,
            ShutdownCause::HostError => 1,
            ShutdownCause::HostQuit
            | ShutdownCause::HostSignal { .. }
            | ShutdownCause::GuestShutdown
            | ShutdownCause::GuestReset
            | ShutdownCause::GuestPanic
            | ShutdownCause::TripleFault => 0,
        };
    }

    /// Icount at which a step ends.
    pub fn limit(&self) -> u64 {
        self.stop_at.unwrap_or(u64::MAX)
    }

    /// A client wants the machine to stop, which has not happened yet.
    pub fn wants_stop(&self) -> bool {
        self.wants_stop
    }

    fn may_write(&self) -> bool {
        self.mode == Mode::Plain
    }

    fn is_replay(&self) -> bool {
        self.mode == Mode::Replay
    }

    fn physical(&self) -> bool {
        self.physical
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn note_refused_write(&mut self) {
        if !std::mem::replace(&mut self.refused_write_told, true) {
            self.note(
                "gdb: registers and memory cannot be changed in a recording or replay, which would no longer be true; \
                 they can in a plain run"
                    .to_owned(),
            );
        }
    }

    fn forget(&mut self) {
        self.session = None;
        (self.stop_at, self.range, self.reason, self.action) = (None, None, None, None);
        self.back = None;
        (self.wants_stop, self.holds, self.physical) = (false, false, false);
    }

    fn send(&mut self) {
        let Some(port) = &self.port else { return };
        if let Some(bytes) = self.farewell.take() {
            port.send(self.client, &bytes);
            port.hang_up(self.client);
        } else if let Some(session) = &mut self.session {
            port.send(self.client, &session.take_output());
        }
    }
}

fn signal(signal: Signal) -> StopReason {
    BaseStopReason::SignalWithThread { tid: (), signal }
}

/// Gives the debugger its turn, between two instructions. `standing`: the machine stands still and says so; else it stands
/// still soon if `paused`.
pub fn attend(
    machine: &mut Machine,
    lane: &mut VcpuEnd,
    paused: &mut bool,
    standing: bool,
) -> Result<(), RunError> {
    if machine.debugger.port.is_none() && machine.debugger.session.is_none() {
        return Ok(());
    }
    meet(machine);
    converse(machine, paused, standing);
    if machine.debugger.wants_stop && !*paused && !standing {
        *paused = true;
        machine.debugger.holds = true;
    }
    let debugger = &mut machine.debugger;
    for text in debugger.notes.drain(..) {
        lane.send(&Outbound::Note { text })?;
    }
    let is_urgent = |request: &FromDebugger| *request != FromDebugger::Resumed;
    let ring = debugger.requests.iter().any(is_urgent);
    for request in debugger.requests.drain(..) {
        lane.send(&Outbound::Debugger(request))?;
    }
    if ring {
        lane.ring_doorbell()?;
    }
    // The broker knows it before the client: who asks the monitor next gets an answer that fits.
    debugger.send();
    Ok(())
}

/// Takes note of clients that came and went, and of what they said.
fn meet(machine: &mut Machine) {
    let news = match &machine.debugger.port {
        Some(port) => port.take_news(),
        None => port::News { gone: true, ..port::News::default() },
    };
    if news.connected || news.gone && machine.debugger.session.is_some() {
        if machine.debugger.session.is_some() {
            machine.core.clear_probe();
            machine.debugger.forget();
            machine.debugger.requests.push(FromDebugger::Detached);
        }
        if news.connected && !news.gone {
            machine.debugger.shown = machine.debugger.architecture;
            machine.debugger.session = Some(Session::new(machine));
            machine.debugger.client = news.client;
            machine.debugger.farewell = None;
            machine.debugger.wants_stop = true;
            machine.debugger.reason = Some(signal(Signal::SIGTRAP));
            machine.debugger.requests.push(FromDebugger::Attached);
        }
    }
    if let Some(session) = &mut machine.debugger.session {
        session.put(&news.bytes);
    }
}

/// Answers packets as long as the machine is where the client believes it to be.
fn converse(machine: &mut Machine, paused: &mut bool, standing: bool) {
    while let Some(mut session) = machine.debugger.session.take() {
        if session.is_running() {
            let debugger = &mut machine.debugger;
            let stop = !debugger.wants_stop && !debugger.asked && session.wants_stop();
            if stop {
                debugger.wants_stop = true;
                debugger.reason = Some(signal(Signal::SIGINT));
            }
        }
        let (wants_stop, running) = (machine.debugger.wants_stop, session.is_running());
        // What was let go in this very turn, or is about to be, has to come to a stop first.
        if wants_stop && standing && *paused && !machine.debugger.asked {
            machine.debugger.session = Some(session);
            tell(machine, PauseReason::Stopped);
            continue;
        }
        if running || wants_stop || session.waits_for_answer() {
            machine.debugger.session = Some(session);
            return;
        }
        let outcome = session.next(machine);
        machine.debugger.session = Some(session);
        match outcome {
            None => return,
            Some(outcome) => obey(machine, outcome, paused),
        }
    }
}

fn obey(machine: &mut Machine, outcome: Outcome, paused: &mut bool) {
    let icount = machine.icount();
    let debugger = &mut machine.debugger;
    match outcome {
        Outcome::None => {}
        Outcome::Physical(on) => debugger.physical = on,
        Outcome::Architecture(architecture) => debugger.architecture = architecture,
        Outcome::Command(line) => {
            debugger.requests.push(FromDebugger::Command { number: debugger.client, line })
        }
        Outcome::Kill => debugger.requests.push(FromDebugger::Quit),
        Outcome::Resume => {
            let action = debugger.action.take();
            debugger.back = match action {
                Some(Action::Back(back)) => Some(back),
                Some(Action::Continue | Action::Step | Action::StepWithin { .. }) | None => None,
            };
            (debugger.stop_at, debugger.range) = match action {
                Some(Action::Step) => (Some(icount + 1), None),
                Some(Action::StepWithin { start, end }) => (Some(icount + 1), Some((start, end))),
                Some(Action::Continue | Action::Back(_)) | None => (None, None),
            };
            go_on(debugger, paused);
        }
        Outcome::Detach => {
            go_on(debugger, paused);
            debugger.farewell = debugger.session.as_mut().map(Session::take_output);
            debugger.forget();
            debugger.requests.push(FromDebugger::Detached);
            machine.core.clear_probe();
        }
    }
}

/// Lets the machine run, or asks the broker for it when the machine does not stand still for the debugger alone.
fn go_on(debugger: &mut Debugger, paused: &mut bool) {
    if std::mem::take(&mut debugger.holds) {
        *paused = false;
        debugger.requests.push(FromDebugger::Resumed);
    } else if *paused {
        debugger.asked = true;
        debugger.requests.push(FromDebugger::Continue);
    }
}

/// At a checkpoint: whether a breakpoint, a watchpoint or a step of the debugger ends here. Then the machine is to be paused.
pub fn comes_to_stop(machine: &mut Machine, paused: bool) -> bool {
    let hit = machine.core.probe.take_hit();
    let icount = machine.icount();
    let debugger = &mut machine.debugger;
    let reason = match hit {
        Some(hit) => met(hit),
        None if debugger.stop_at.is_none_or(|at| icount < at) => return false,
        None => {
            let pc = registers::pc(&machine.core, debugger.shown);
            if debugger.range.is_some_and(|(start, end)| (start..end).contains(&pc)) && !paused {
                debugger.stop_at = Some(icount + 1);
                return false;
            }
            signal(Signal::SIGTRAP)
        }
    };
    debugger.reason = Some(reason);
    debugger.holds |= !paused;
    true
}

fn met(hit: Hit) -> StopReason {
    match hit {
        Hit::Breakpoint { hardware: false } => BaseStopReason::SwBreak(()),
        Hit::Breakpoint { hardware: true } => BaseStopReason::HwBreak(()),
        Hit::Watchpoint(point) => {
            let kind = match point.accesses {
                Watched::Writes => WatchKind::Write,
                Watched::Reads => WatchKind::Read,
                Watched::Both => WatchKind::ReadWrite,
            };
            BaseStopReason::Watch { tid: (), kind, addr: point.address }
        }
    }
}

/// The machine is paused: the reason as the broker is told. The client is told by the next `attend`.
pub fn stand(machine: &mut Machine, reason: PauseReason) -> PauseReason {
    tell(machine, reason);
    match reason {
        PauseReason::Stopped if machine.debugger.holds => PauseReason::Debugger,
        reason => reason,
    }
}

/// Ends what the client waits for. A machine that cannot go on stands still for the debugger as well as for anybody.
fn tell(machine: &mut Machine, reason: PauseReason) {
    let debugger = &mut machine.debugger;
    let own = debugger.reason.take();
    (debugger.stop_at, debugger.range, debugger.back) = (None, None, None);
    debugger.wants_stop = false;
    let told = match reason {
        PauseReason::Stopped | PauseReason::Debugger => own.unwrap_or(signal(Signal::SIGINT)),
        PauseReason::Place => own.unwrap_or(signal(Signal::SIGTRAP)),
        PauseReason::EndOfLog => {
            debugger.holds = true;
            BaseStopReason::ReplayLog { tid: Some(()), pos: ReplayLogPosition::End }
        }
        PauseReason::Divergence => {
            debugger.holds = true;
            signal(Signal::SIGABRT)
        }
        PauseReason::Shutdown(ShutdownCause::GuestPanic) => signal(Signal::SIGABRT),
        PauseReason::Shutdown(_) => signal(Signal::SIGQUIT),
    };
    if let Some(mut session) = machine.debugger.session.take() {
        session.report(machine, told);
        machine.debugger.session = Some(session);
    }
}

/// The broker has stopped the machine, or lets it run: it no longer stands still for the debugger alone.
pub fn overruled(machine: &mut Machine) {
    machine.debugger.holds = false;
}

/// The process ends: tells the client.
pub fn finish(machine: &mut Machine, well: bool) {
    let code = machine.debugger.exit_code;
    let reason =
        if well { BaseStopReason::Exited(code) } else { BaseStopReason::Terminated(Signal::SIGABRT) };
    if let Some(mut session) = machine.debugger.session.take() {
        session.report(machine, reason);
        machine.debugger.session = Some(session);
        machine.debugger.send();
    }
    if let Some(port) = &machine.debugger.port {
        port.drain();
    }
}
