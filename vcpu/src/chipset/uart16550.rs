//! A 16550A UART as PCs wire it: FIFOs, loopback, prioritised interrupts, OUT2 gating the line.
//!
//! Register semantics follow the PC16550D data sheet (National Semiconductor, June 1995). A byte written
//! to THR leaves at once, so THR is always empty again when the guest looks; what the guest sends is in
//! `output` until the owner takes it, which it must do after every write. What the host sends waits in
//! `pending` and moves into the receive FIFO as the guest makes room, so input never overruns.

use super::bytewise;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes from the host that may wait for room in the receive FIFO.
pub const PENDING_MAX: usize = 64 * 1024;

/// Depth of the receive FIFO.
const FIFO_DEPTH: usize = 16;
/// Input clock of the baud generator.
const CLOCK_HZ: u64 = 1_843_200;
/// The baud generator gives sixteen clocks a bit.
const CLOCKS_PER_BIT: u64 = 16;
/// A receive time-out is four character times without a byte read or received.
const TIMEOUT_CHARACTERS: u64 = 4;

mod ier {
    pub const RECEIVED: u8 = 1 << 0;
    pub const THR_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const ALL: u8 = 0x0f;
}

mod iir {
    pub const MODEM_STATUS: u8 = 0x00;
    pub const NONE: u8 = 0x01;
    pub const THR_EMPTY: u8 = 0x02;
    pub const RECEIVED: u8 = 0x04;
    pub const LINE_STATUS: u8 = 0x06;
    pub const TIMEOUT: u8 = 0x0c;
    pub const FIFOS_ON: u8 = 0xc0;
}

mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVE: u8 = 1 << 1;
}

mod lcr {
    pub const TWO_STOP_BITS: u8 = 1 << 2;
    pub const PARITY: u8 = 1 << 3;
    pub const BREAK: u8 = 1 << 6;
    pub const DLAB: u8 = 1 << 7;
}

mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
    pub const ALL: u8 = 0x1f;
}

mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const PARITY: u8 = 1 << 2;
    pub const FRAMING: u8 = 1 << 3;
    pub const BREAK: u8 = 1 << 4;
    pub const THR_EMPTY: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
    pub const FIFO_ERROR: u8 = 1 << 7;
    pub const ERRORS: u8 = OVERRUN | PARITY | FRAMING | BREAK;
}

mod msr {
    pub const DELTA_CTS: u8 = 1 << 0;
    pub const DELTA_DSR: u8 = 1 << 1;
    pub const TRAILING_RI: u8 = 1 << 2;
    pub const DELTA_DCD: u8 = 1 << 3;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const DELTAS: u8 = 0x0f;
}

/// A received character and the line status that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Character {
    byte: u8,
    /// `lsr::PARITY`, `FRAMING`, `BREAK` bits.
    errors: u8,
}

/// One serial port: eight byte registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uart16550 {
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scratch: u8,
    overrun: bool,
    /// Error bits of the character at the top of the FIFO; reading LSR clears them.
    top_errors: u8,
    /// The THRE interrupt is latched: it is not a level of the empty THR.
    thr_empty_pending: bool,
    timeout_pending: bool,
    timeout_at: Option<Vtime>,
    /// Receive FIFO; with FIFOs off only RBR, one deep.
    received: VecDeque<Character>,
    /// From the host, not yet received.
    pending: VecDeque<Character>,
    /// Sent by the guest, not yet taken.
    output: Vec<u8>,
}

impl Default for Uart16550 {
    fn default() -> Uart16550 {
        Uart16550::new()
    }
}

impl Uart16550 {
    /// A UART after reset, with a ready peer: CTS, DSR and DCD on.
    pub fn new() -> Uart16550 {
        Uart16550 {
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr: msr::CTS | msr::DSR | msr::DCD,
            scratch: 0,
            overrun: false,
            top_errors: 0,
            thr_empty_pending: false,
            timeout_pending: false,
            timeout_at: None,
            received: VecDeque::new(),
            pending: VecDeque::new(),
            output: Vec::new(),
        }
    }

    /// Machine reset. Input of the host that the guest has not received stays: the wire has it.
    pub fn reset(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let output = std::mem::take(&mut self.output);
        *self = Uart16550 { pending, output, ..Uart16550::new() };
    }

    /// Reads registers from `offset` (0..8) on.
    pub fn read(&mut self, offset: u64, size: u8, now: Vtime) -> u64 {
        self.advance(now);
        bytewise::read(offset, size, |register| self.read_register(register, now))
    }

    /// Writes registers from `offset` (0..8) on.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        self.advance(now);
        bytewise::write(offset, size, value, |register, byte| self.write_register(register, byte, now));
    }

    /// When the receive time-out interrupt comes, if one is to come.
    pub fn deadline(&self) -> Option<Vtime> {
        if self.timeout_pending { None } else { self.timeout_at }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Vtime) {
        self.receive_pending(now);
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            self.timeout_pending = true;
        }
    }

    /// Level of the interrupt output. OUT2 drives the buffer of the line on a PC; loopback holds it off.
    pub fn line(&self) -> bool {
        self.mcr & (mcr::OUT2 | mcr::LOOPBACK) == mcr::OUT2 && self.interrupt() != iir::NONE
    }

    /// How many bytes `receive` takes now.
    pub fn room(&self) -> usize {
        PENDING_MAX - self.pending.len()
    }

    /// Takes bytes from the host; returns how many fitted.
    pub fn receive(&mut self, bytes: &[u8], now: Vtime) -> usize {
        let count = bytes.len().min(self.room());
        self.pending.extend(bytes[..count].iter().map(|&byte| Character { byte, errors: 0 }));
        self.advance(now);
        count
    }

    /// Takes a break condition from the host; false when there is no room.
    pub fn receive_break(&mut self, now: Vtime) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.pending.push_back(Character { byte: 0, errors: lsr::BREAK });
        self.advance(now);
        true
    }

    /// Whether the guest has sent anything since `take_output`.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes what the guest has sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Bits a second as the divisor latch says.
    pub fn baud(&self) -> u64 {
        CLOCK_HZ / (CLOCKS_PER_BIT * self.divisor_value())
    }

    fn read_register(&mut self, register: u64, now: Vtime) -> u8 {
        let divisor_latch = self.lcr & lcr::DLAB != 0;
        match register & 7 {
            0 if divisor_latch => self.divisor as u8,
            0 => self.read_rbr(now),
            1 if divisor_latch => (self.divisor >> 8) as u8,
            1 => self.ier,
            2 => self.read_iir(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.read_lsr(),
            6 => self.read_msr(),
            _ => self.scratch,
        }
    }

    fn write_register(&mut self, register: u64, value: u8, now: Vtime) {
        let divisor_latch = self.lcr & lcr::DLAB != 0;
        match register & 7 {
            0 if divisor_latch => self.divisor = self.divisor & 0xff00 | u16::from(value),
            0 => self.write_thr(value, now),
            1 if divisor_latch => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            1 => self.write_ier(value),
            2 => self.write_fcr(value, now),
            3 => self.write_lcr(value, now),
            4 => self.write_mcr(value, now),
            // LSR is for factory tests (8.6.4), MSR is an input.
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    fn read_rbr(&mut self, now: Vtime) -> u8 {
        let byte = self.received.pop_front().map_or(0, |character| character.byte);
        self.timeout_pending = false;
        self.expose_top();
        self.receive_pending(now);
        self.restart_timeout(now);
        byte
    }

    fn read_iir(&mut self) -> u8 {
        let cause = self.interrupt();
        if cause == iir::THR_EMPTY {
            self.thr_empty_pending = false;
        }
        cause | if self.fifos_on() { iir::FIFOS_ON } else { 0 }
    }

    fn read_lsr(&mut self) -> u8 {
        let value = self.lsr();
        self.overrun = false;
        self.top_errors = 0;
        if let Some(top) = self.received.front_mut() {
            top.errors = 0;
        }
        value
    }

    fn read_msr(&mut self) -> u8 {
        let value = self.msr;
        self.msr &= !msr::DELTAS;
        value
    }

    /// The byte leaves at once, so writing THR ends one THRE interrupt and begins the next.
    fn write_thr(&mut self, value: u8, now: Vtime) {
        if self.mcr & mcr::LOOPBACK != 0 {
            self.accept(Character { byte: value, errors: 0 }, now);
        } else {
            self.output.push(value);
        }
        self.thr_empty_pending = true;
    }

    /// Enabling the THRE interrupt while THR is empty raises it (8.6.2, and what drivers test for).
    fn write_ier(&mut self, value: u8) {
        let enabled = value & !self.ier & ier::THR_EMPTY != 0;
        self.ier = value & ier::ALL;
        if enabled {
            self.thr_empty_pending = true;
        }
    }

    fn write_fcr(&mut self, value: u8, now: Vtime) {
        let switched = (value ^ self.fcr) & fcr::ENABLE != 0;
        if switched || value & fcr::CLEAR_RECEIVE != 0 {
            self.received.clear();
            self.top_errors = 0;
            self.timeout_pending = false;
        }
        // The other bits are only programmed together with the enable bit (8.6.3).
        self.fcr = if value & fcr::ENABLE != 0 { value & 0xc9 } else { 0 };
        self.receive_pending(now);
        self.restart_timeout(now);
    }

    fn write_lcr(&mut self, value: u8, now: Vtime) {
        let break_begins = value & !self.lcr & lcr::BREAK != 0;
        self.lcr = value;
        if break_begins && self.mcr & mcr::LOOPBACK != 0 {
            self.accept(Character { byte: 0, errors: lsr::BREAK }, now);
        }
    }

    fn write_mcr(&mut self, value: u8, now: Vtime) {
        self.mcr = value & mcr::ALL;
        let inputs = if self.mcr & mcr::LOOPBACK != 0 {
            LOOPBACK_WIRES.iter().filter(|(from, _)| self.mcr & from != 0).fold(0, |all, (_, to)| all | to)
        } else {
            msr::CTS | msr::DSR | msr::DCD
        };
        self.set_modem_inputs(inputs);
        self.receive_pending(now);
    }

    fn set_modem_inputs(&mut self, inputs: u8) {
        let old = self.msr & !msr::DELTAS;
        let changed = old ^ inputs;
        let mut deltas = self.msr & msr::DELTAS;
        for (input, delta) in
            [(msr::CTS, msr::DELTA_CTS), (msr::DSR, msr::DELTA_DSR), (msr::DCD, msr::DELTA_DCD)]
        {
            if changed & input != 0 {
                deltas |= delta;
            }
        }
        if changed & old & msr::RI != 0 {
            deltas |= msr::TRAILING_RI;
        }
        self.msr = inputs | deltas;
    }

    /// Moves what the host sent into the FIFO while there is room; loopback disconnects the wire.
    fn receive_pending(&mut self, now: Vtime) {
        if self.mcr & mcr::LOOPBACK != 0 || self.pending.is_empty() {
            return;
        }
        let room = self.depth() - self.received.len().min(self.depth());
        let count = room.min(self.pending.len());
        if count == 0 {
            return;
        }
        self.received.extend(self.pending.drain(..count));
        self.expose_top();
        self.restart_timeout(now);
    }

    /// A character arrives whether or not there is room for it.
    fn accept(&mut self, character: Character, now: Vtime) {
        if self.received.len() >= self.depth() {
            self.overrun = true;
            // Without FIFOs the new character replaces the one in RBR; with FIFOs the new one is lost.
            if self.fifos_on() {
                return;
            }
            self.received.clear();
        }
        self.received.push_back(character);
        self.expose_top();
        self.restart_timeout(now);
    }

    /// Errors show in LSR when their character is the next to be read (8.6.4).
    fn expose_top(&mut self) {
        self.top_errors = self.received.front().map_or(0, |top| top.errors);
    }

    fn restart_timeout(&mut self, now: Vtime) {
        let waiting = self.fifos_on() && !self.received.is_empty();
        self.timeout_at =
            waiting.then(|| Vtime(now.0.saturating_add(TIMEOUT_CHARACTERS * self.character_ns())));
    }

    fn lsr(&self) -> u8 {
        let mut value = lsr::THR_EMPTY | lsr::TRANSMITTER_EMPTY | self.top_errors;
        if !self.received.is_empty() {
            value |= lsr::DATA_READY;
        }
        if self.overrun {
            value |= lsr::OVERRUN;
        }
        if self.fifos_on() && self.received.iter().any(|character| character.errors != 0) {
            value |= lsr::FIFO_ERROR;
        }
        value
    }

    /// The cause with the highest priority (table III).
    fn interrupt(&self) -> u8 {
        let causes = [
            (ier::LINE_STATUS, self.lsr() & lsr::ERRORS != 0, iir::LINE_STATUS),
            (ier::RECEIVED, self.received.len() >= self.trigger(), iir::RECEIVED),
            (ier::RECEIVED, self.timeout_pending, iir::TIMEOUT),
            (ier::THR_EMPTY, self.thr_empty_pending, iir::THR_EMPTY),
            (ier::MODEM_STATUS, self.msr & msr::DELTAS != 0, iir::MODEM_STATUS),
        ];
        let active = causes.iter().find(|(enable, active, _)| self.ier & enable != 0 && *active);
        active.map_or(iir::NONE, |&(_, _, cause)| cause)
    }

    fn fifos_on(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifos_on() { FIFO_DEPTH } else { 1 }
    }

    /// Characters that raise the received-data interrupt.
    fn trigger(&self) -> usize {
        if self.fifos_on() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    /// A divisor of zero counts through all 16 bits.
    fn divisor_value(&self) -> u64 {
        if self.divisor == 0 { 0x1_0000 } else { u64::from(self.divisor) }
    }

    /// Time on the wire of one character with the current frame and baud rate.
    fn character_ns(&self) -> u64 {
        let data_bits = 5 + u64::from(self.lcr & 3);
        let parity_bits = u64::from(self.lcr & lcr::PARITY != 0);
        let stop_half_bits = match (self.lcr & lcr::TWO_STOP_BITS != 0, data_bits) {
            (false, _) => 2,
            (true, 5) => 3,
            (true, _) => 4,
        };
        let half_bits = 2 * (1 + data_bits + parity_bits) + stop_half_bits;
        half_bits * CLOCKS_PER_BIT * self.divisor_value() * 1_000_000_000 / (2 * CLOCK_HZ)
    }
}

/// Modem outputs that loopback connects to modem inputs (8.6.7).
const LOOPBACK_WIRES: [(u8, u8); 4] =
    [(mcr::DTR, msr::DSR), (mcr::RTS, msr::CTS), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)];

#[cfg(test)]
#[path = "uart16550_tests.rs"]
mod tests;
