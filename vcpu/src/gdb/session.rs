//! The conversation with one client: which packets go to gdbstub, which are answered here.
//!
//! gdbstub gives up at a packet that it does not expect. Here such a packet gets an error as its answer and the conversation goes
//! on: a new state machine takes over, with what was agreed upon at the start.

use super::description::Architecture;
use super::frame::{Framer, PACKET_MAX, Unit, from_hex, packet, to_hex};
use super::target::X86;
use crate::run::machine::Machine;
use gdbstub::arch::Arch;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use std::collections::VecDeque;
use std::convert::Infallible;

/// Errors as numbers, as QEMU answers them.
const INVALID: &[u8] = b"E22";
/// Why a change of the guest is refused.
const READ_ONLY: &str =
    "E.the guest may be changed in a plain run only: a recording or replay would no longer be true";

/// Why the machine stands still, as gdb is told.
pub type StopReason = SingleThreadStopReason<<X86 as Arch>::Usize>;

/// What gdbstub writes.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Connection for Line {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

type Stub = GdbStubStateMachine<'static, Machine, Line>;

/// What a packet came to, beside its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more.
    None,
    /// The machine is to go on, as `Debugger::action` says.
    Resume,
    /// The client leaves, and the machine goes on.
    Detach,
    /// The run is to end.
    Kill,
    /// A command for the monitor.
    Command(String),
    /// Memory is to be read by physical addresses, or by linear ones.
    Physical(bool),
    /// What the next client is to take the CPU for.
    Architecture(Architecture),
}

/// A conversation.
pub struct Session {
    framer: Framer,
    unread: VecDeque<u8>,
    stub: Option<Stub>,
    /// Packets by which client and stub agreed on how to speak, the last of each kind.
    agreed: Vec<Vec<u8>>,
    out: Vec<u8>,
    /// The last answer, should it have to be said again.
    last: Vec<u8>,
    /// A command's answer is to come.
    waits: bool,
}

impl Session {
    /// A conversation that begins.
    pub fn new(machine: &mut Machine) -> Session {
        Session {
            framer: Framer::default(),
            unread: VecDeque::new(),
            stub: new_stub(machine),
            agreed: Vec::new(),
            out: Vec::new(),
            last: Vec::new(),
            waits: false,
        }
    }

    /// Takes what the client said, for later.
    pub fn put(&mut self, bytes: &[u8]) {
        self.unread.extend(bytes);
    }

    /// Takes what the client is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The client waits for the machine to stop.
    pub fn is_running(&self) -> bool {
        matches!(self.stub, Some(GdbStubStateMachine::Running(_)))
    }

    /// The client waits for a command's answer.
    pub fn waits_for_answer(&self) -> bool {
        self.waits
    }

    /// While the machine runs: true when the client says something that wants it to stop.
    pub fn wants_stop(&mut self) -> bool {
        while let Some(byte) = self.unread.front() {
            match byte {
                3 => {
                    self.unread.pop_front();
                    return true;
                }
                // As in QEMU, a packet stops the machine and is answered then.
                b'$' => return true,
                _ => {
                    self.unread.pop_front();
                }
            }
        }
        false
    }

    /// Takes up the next packet; `None` when there is no whole one.
    pub fn next(&mut self, machine: &mut Machine) -> Option<Outcome> {
        loop {
            let byte = self.unread.pop_front()?;
            match self.framer.push(byte) {
                // The machine stands still already.
                None | Some(Unit::Interrupt) => {}
                Some(Unit::Nack) => self.out.extend(&self.last),
                Some(Unit::Broken) => self.out.extend(if self.is_acknowledged() { &b"-"[..] } else { b"" }),
                Some(Unit::TooLong) => self.answer(INVALID),
                Some(Unit::Packet(body)) => return Some(self.packet(machine, &body)),
            }
        }
    }

    fn is_acknowledged(&self) -> bool {
        !self.agreed.iter().any(|body| body.starts_with(b"QStartNoAckMode"))
    }

    /// Sends a packet of our own as the answer to one that gdbstub has not seen.
    fn answer(&mut self, body: &[u8]) {
        if self.is_acknowledged() {
            self.out.push(b'+');
        }
        self.say(body);
    }

    fn say(&mut self, body: &[u8]) {
        self.last = packet(body);
        self.out.extend(&self.last);
    }

    fn packet(&mut self, machine: &mut Machine, body: &[u8]) -> Outcome {
        match self.ours(machine, body) {
            Some(outcome) => outcome,
            None => self.theirs(machine, body),
        }
    }

    /// Packets that gdbstub does not know, or must not see.
    fn ours(&mut self, machine: &mut Machine, body: &[u8]) -> Option<Outcome> {
        match body {
            // Only a replay has a past.
            b"bs" | b"bc" if !machine.debugger.is_replay() => self.answer(INVALID),
            b"k" => return Some(Outcome::Kill),
            b"qqemu.sstepbits" => self.answer(b"ENABLE=1"),
            b"qqemu.sstep" => self.answer(b"0x1"),
            b"qqemu.PhyMemMode" => {
                let answer: &[u8] = if machine.debugger.physical() { b"1" } else { b"0" };
                self.answer(answer);
            }
            b"Qqemu.PhyMemMode:0" | b"Qqemu.PhyMemMode:1" => {
                self.answer(b"OK");
                return Some(Outcome::Physical(body.ends_with(b"1")));
            }
            _ if body.starts_with(b"vKill;") => {
                self.answer(b"OK");
                return Some(Outcome::Kill);
            }
            _ if body.starts_with(b"qRcmd,") => return Some(self.command(&body[6..])),
            // Nothing may go on from another address: what stands there has not been reached.
            [b'c' | b's', _, ..] => self.answer(INVALID),
            [b'm', rest @ ..] if !is_short_read(rest) => self.answer(INVALID),
            [b'M' | b'X' | b'P' | b'G', ..] if !machine.debugger.may_write() && !is_empty_write(body) => {
                machine.debugger.note_refused_write();
                self.answer(READ_ONLY.as_bytes());
            }
            _ => return None,
        }
        Some(Outcome::None)
    }

    fn command(&mut self, digits: &[u8]) -> Outcome {
        let line = from_hex(digits).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        let Some(line) = line else {
            self.answer(INVALID);
            return Outcome::None;
        };
        if self.is_acknowledged() {
            self.out.push(b'+');
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let outcome = match words[..] {
            ["gdb", "physical", on @ ("on" | "off")] => Outcome::Physical(on == "on"),
            ["gdb", "architecture", name] => {
                Architecture::named(name).map_or(Outcome::None, Outcome::Architecture)
            }
            ["gdb", ..] => Outcome::None,
            _ => {
                self.waits = true;
                return Outcome::Command(line);
            }
        };
        match outcome {
            Outcome::None => {
                self.text("usage: gdb physical on|off\n       gdb architecture i386:x86-64|i386|i8086\n");
            }
            Outcome::Architecture(_) => {
                self.text("for whoever connects next: disconnect, set architecture auto, target remote\n");
            }
            _ => {}
        }
        self.say(b"OK");
        outcome
    }

    /// The monitor's answer to a command.
    pub fn command_done(&mut self, text: &str) {
        if std::mem::take(&mut self.waits) {
            self.text(text);
            self.say(b"OK");
        }
    }

    /// Text for the user; gdb takes it while it waits for the machine or for a command.
    pub fn text(&mut self, text: &str) {
        for part in text.as_bytes().chunks(PACKET_MAX / 4) {
            self.out.extend(packet(format!("O{}", to_hex(part)).as_bytes()));
        }
    }

    /// Packets for gdbstub.
    fn theirs(&mut self, machine: &mut Machine, body: &[u8]) -> Outcome {
        let before = self.out.len();
        let fed = self.feed(machine, body);
        let outcome = match (fed, &self.stub) {
            (false, _) | (true, None) => {
                self.renew(machine);
                self.answer(INVALID);
                Outcome::None
            }
            (true, Some(GdbStubStateMachine::Running(_))) => Outcome::Resume,
            (true, Some(GdbStubStateMachine::Disconnected(stub))) => match stub.get_reason() {
                DisconnectReason::Kill => Outcome::Kill,
                DisconnectReason::Disconnect
                | DisconnectReason::TargetExited(_)
                | DisconnectReason::TargetTerminated(_) => Outcome::Detach,
            },
            (true, Some(_)) => {
                self.remember(body);
                Outcome::None
            }
        };
        self.last = self.out[before..].to_vec();
        outcome
    }

    fn remember(&mut self, body: &[u8]) {
        for kind in [&b"qSupported"[..], b"QStartNoAckMode"] {
            if body.starts_with(kind) {
                self.agreed.retain(|known| !known.starts_with(kind));
                self.agreed.push(body.to_vec());
            }
        }
    }

    /// Puts a packet through gdbstub; false when it gave up.
    fn feed(&mut self, machine: &mut Machine, body: &[u8]) -> bool {
        for byte in packet(body) {
            let next = match self.stub.take() {
                Some(GdbStubStateMachine::Idle(stub)) => stub.incoming_data(machine, byte),
                Some(GdbStubStateMachine::Running(stub)) => stub.incoming_data(machine, byte),
                // It never sees an interrupt, and nothing after it was left.
                other @ (None
                | Some(
                    GdbStubStateMachine::CtrlCInterrupt(_) | GdbStubStateMachine::Disconnected(_),
                )) => {
                    self.stub = other;
                    return false;
                }
            };
            match next {
                Ok(stub) => self.stub = Some(stub),
                Err(error) => {
                    tracing::debug!("a debugger's packet is refused: {error}");
                    return false;
                }
            }
            self.collect();
        }
        true
    }

    fn collect(&mut self) {
        let line = match &mut self.stub {
            Some(GdbStubStateMachine::Idle(stub)) => stub.borrow_conn(),
            Some(GdbStubStateMachine::Running(stub)) => stub.borrow_conn(),
            Some(GdbStubStateMachine::CtrlCInterrupt(stub)) => stub.borrow_conn(),
            Some(GdbStubStateMachine::Disconnected(stub)) => stub.borrow_conn(),
            None => return,
        };
        self.out.append(&mut line.0);
    }

    /// Takes another state machine that knows what was agreed upon.
    fn renew(&mut self, machine: &mut Machine) {
        let said = std::mem::take(&mut self.out);
        self.stub = new_stub(machine);
        for body in self.agreed.clone() {
            self.feed(machine, &body);
        }
        self.out = said;
    }

    /// Tells a waiting client that the machine stands still.
    pub fn report(&mut self, machine: &mut Machine, reason: StopReason) {
        match self.stub.take() {
            Some(GdbStubStateMachine::Running(stub)) => {
                match stub.report_stop(machine, reason) {
                    Ok(stub) => self.stub = Some(stub),
                    Err(error) => {
                        tracing::debug!("a stop cannot be reported: {error}");
                        self.renew(machine);
                        self.say(b"S05");
                    }
                }
                let before = self.out.len();
                self.collect();
                self.last = self.out[before..].to_vec();
            }
            other => self.stub = other,
        }
    }
}

fn new_stub(machine: &mut Machine) -> Option<Stub> {
    // Room for the largest packet, and for a byte of its frame.
    let stub = GdbStub::builder(Line::default()).packet_buffer_size(PACKET_MAX + 16).build().ok()?;
    stub.run_state_machine(machine).ok()
}

/// `ADDRESS,LENGTH` of a read that one packet can answer.
fn is_short_read(arguments: &[u8]) -> bool {
    let length = arguments.split(|byte| *byte == b',').nth(1);
    let length = length.and_then(|text| std::str::from_utf8(text).ok());
    length
        .and_then(|text| usize::from_str_radix(text, 16).ok())
        .is_some_and(|length| length <= PACKET_MAX / 2)
}

/// A write of no bytes, by which gdb finds out how it may write.
fn is_empty_write(body: &[u8]) -> bool {
    matches!(body, [b'M' | b'X', .., b':']) && body.windows(3).any(|part| part == b",0:")
}
