//! The 8254 interval timer (Intel 231164) and system control port B (0x61), which holds its gate.
//!
//! A counter is a function of guest time: what is kept is the tick at which it was loaded. A count written
//! at tick w is in the counting element at tick w + 1, so that OUT of mode 0 rises N + 1 clocks after
//! the write, as on the data sheet.

use super::frequency::{PIT_HZ, ticks_at, time_of_tick};
use super::pit_counter::Counter;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

const GATE_2: u8 = 1 << 0;
/// Bits of port 0x61 that keep what is written: gate, speaker, parity and channel check enables.
const CONTROL_B_WRITABLE: u8 = 0x0f;

/// Clocks between two memory refresh requests: the count the BIOS gives counter 1.
const REFRESH_TICKS: u64 = 18;

/// Three counters at ports 0x40–0x43 and port 0x61.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pit {
    counters: [Counter; 3],
    control_b: u8,
    /// Level of OUT 0 when it was last looked at, and whether it has risen since then.
    out: bool,
    rose: bool,
}

impl Default for Pit {
    fn default() -> Pit {
        Pit {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            control_b: 0,
            // OUT of mode 3 is high until a count says otherwise.
            out: true,
            rose: false,
        }
    }
}

impl Pit {
    /// Reads counter `offset` (0..=2); the control port reads as zero.
    pub fn read(&mut self, offset: u64, now: Vtime) -> u8 {
        match self.counters.get_mut(offset as usize) {
            Some(counter) => counter.read(ticks_at(now, PIT_HZ)),
            None => 0,
        }
    }

    /// Writes counter `offset` (0..=2) or the control word (3).
    pub fn write(&mut self, offset: u64, value: u8, now: Vtime) {
        self.advance(now);
        let tick = ticks_at(now, PIT_HZ);
        match (offset, value >> 6) {
            (0..=2, _) => self.counters[offset as usize].write(value, tick),
            (_, 3) => self.read_back(value, tick),
            (_, counter) => self.counters[usize::from(counter)].control(value, tick),
        }
        self.advance(now);
    }

    /// The read-back command latches count and status of several counters at once.
    fn read_back(&mut self, value: u8, tick: u64) {
        for (i, counter) in self.counters.iter_mut().enumerate() {
            if value & 2 << i != 0 {
                counter.advance(tick);
                counter.latch(value & 1 << 5 == 0, value & 1 << 4 == 0, tick);
            }
        }
    }

    /// Reads port 0x61.
    pub fn read_control_b(&mut self, now: Vtime) -> u8 {
        let tick = ticks_at(now, PIT_HZ);
        let refresh = !(tick / REFRESH_TICKS).is_multiple_of(2);
        self.control_b | u8::from(refresh) << 4 | u8::from(self.counters[2].out(tick)) << 5
    }

    /// Writes port 0x61.
    pub fn write_control_b(&mut self, value: u8, now: Vtime) {
        self.control_b = value & CONTROL_B_WRITABLE;
        self.counters[2].set_gate(value & GATE_2 != 0, ticks_at(now, PIT_HZ));
    }

    /// Next rising edge of OUT 0, which is an interrupt.
    pub fn deadline(&self) -> Option<Vtime> {
        time_of_tick(self.counters[0].next_rise()?, PIT_HZ)
    }

    /// Follows OUT 0 up to `now`; any number of edges is one.
    pub fn advance(&mut self, now: Vtime) {
        let tick = ticks_at(now, PIT_HZ);
        self.rose |= self.counters[0].advance(tick);
        let out = self.counters[0].out(tick);
        self.rose |= out && !self.out;
        self.out = out;
    }

    /// Level of OUT 0, which is IRQ 0, at the last `advance`.
    pub fn line(&self) -> bool {
        self.out
    }

    /// Whether OUT 0 has risen since the last call.
    pub fn take_edge(&mut self) -> bool {
        std::mem::take(&mut self.rose)
    }
}

#[cfg(test)]
#[path = "pit_tests.rs"]
mod tests;
