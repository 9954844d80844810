//! One counter of the 8254: six modes, latches, binary and BCD (Intel 231164, "Mode Definitions").

use serde::{Deserialize, Serialize};

/// What the counting element does. Ticks may lie before power-on, so they wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// No count since the control word, or not triggered yet.
    Idle,
    /// Stopped by GATE after this many clocks.
    Held { elapsed: u64 },
    /// Counting; the element held the initial count at tick `since`.
    Counting { since: u64 },
}

/// One counter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counter {
    mode: u8,
    bcd: bool,
    /// Bytes of an access: 1 low, 2 high, 3 low then high.
    access: u8,
    gate: bool,
    /// The count register: what was written, 1..=65536.
    reload: u32,
    /// The count register has something the counting element does not have yet.
    unloaded: bool,
    /// The count that runs now.
    initial: u32,
    run: Run,
    /// Modes 2 and 3: tick at which the count register is taken over.
    switch_at: Option<u64>,
    low_written: Option<u8>,
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// Tick up to which edges have been reported.
    seen: u64,
}

impl Counter {
    /// A counter before its first control word, with its GATE input at `gate`.
    pub fn new(gate: bool) -> Counter {
        Counter {
            mode: 3,
            bcd: false,
            access: 3,
            gate,
            reload: 0,
            unloaded: true,
            initial: 2,
            run: Run::Idle,
            switch_at: None,
            low_written: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            seen: 0,
        }
    }

    /// Takes a control word: latches, or sets mode and format and stops the counter.
    pub fn control(&mut self, word: u8, tick: u64) {
        self.advance(tick);
        let access = word >> 4 & 3;
        if access == 0 {
            self.latch(true, false, tick);
            return;
        }
        let mode = word >> 1 & 7;
        *self = Counter {
            // Modes 6 and 7 are 2 and 3: the high bit is not decoded.
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: word & 1 != 0,
            access,
            seen: tick,
            ..Counter::new(self.gate)
        };
    }

    /// Latches count and status; a latch that has not been read stays.
    pub fn latch(&mut self, count: bool, status: bool, tick: u64) {
        if count && self.latched_count.is_none() {
            self.latched_count = Some(self.count(tick));
        }
        if status && self.latched_status.is_none() {
            let null = self.unloaded || self.switch_at.is_some() || self.loads_after(tick);
            let mode_bits = self.access << 4 | self.mode << 1 | u8::from(self.bcd);
            self.latched_status = Some(u8::from(self.out(tick)) << 7 | u8::from(null) << 6 | mode_bits);
        }
    }

    /// Reads the next byte: status latch, count latch, or the count itself.
    pub fn read(&mut self, tick: u64) -> u8 {
        self.advance(tick);
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched_count.unwrap_or_else(|| self.count(tick));
        let high = self.access == 2 || self.access == 3 && self.read_high;
        if self.access == 3 {
            self.read_high = !self.read_high;
        }
        if self.access != 3 || high {
            self.latched_count = None;
        }
        count.to_le_bytes()[usize::from(high)]
    }

    /// Writes the next byte of the count register.
    pub fn write(&mut self, value: u8, tick: u64) {
        self.advance(tick);
        let count = match (self.access, self.low_written.take()) {
            (1, _) => u16::from(value),
            (2, _) => u16::from(value) << 8,
            (_, Some(low)) => u16::from_le_bytes([low, value]),
            (_, None) => {
                self.low_written = Some(value);
                if self.mode == 0 {
                    // The first byte stops the count and lowers OUT.
                    self.run = Run::Idle;
                }
                return;
            }
        };
        self.reload = self.decode(count);
        self.unloaded = true;
        match (self.mode, self.run) {
            // Started by a trigger.
            (1 | 5, _) => {}
            (2 | 3, Run::Counting { since }) => self.switch_at = Some(self.boundary(since, tick)),
            (2 | 3, Run::Held { .. }) => {}
            _ => self.load(tick),
        }
    }

    /// Changes the GATE input.
    pub fn set_gate(&mut self, gate: bool, tick: u64) {
        self.advance(tick);
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate, self.run) {
            (0 | 2 | 3 | 4, false, Run::Counting { since }) => {
                self.run = Run::Held { elapsed: elapsed(since, tick) };
                self.switch_at = None;
            }
            (0 | 4, true, Run::Held { elapsed }) => {
                self.run = Run::Counting { since: tick.wrapping_sub(elapsed) }
            }
            (2 | 3, true, Run::Held { .. }) => self.load(tick),
            // A rising edge triggers; without a count there is nothing to start.
            (1 | 5, true, _) if self.reload != 0 => self.load(tick),
            _ => {}
        }
    }

    /// Level of OUT.
    pub fn out(&self, tick: u64) -> bool {
        let initial = u64::from(self.initial);
        let elapsed = match self.run {
            Run::Idle => return self.mode != 0,
            Run::Held { .. } if matches!(self.mode, 2 | 3) => return true,
            Run::Held { elapsed } => elapsed,
            Run::Counting { since } => elapsed(since, tick),
        };
        match self.mode {
            0 | 1 => elapsed >= initial,
            2 => elapsed % initial != initial - 1,
            3 => elapsed % initial < initial.div_ceil(2),
            _ => elapsed != initial,
        }
    }

    /// Moves on to `tick`; whether OUT rose on the way.
    pub fn advance(&mut self, tick: u64) -> bool {
        let mut rose = false;
        if let Some(at) = self.switch_at.filter(|&at| at <= tick) {
            rose |= self.rise_after(self.seen).is_some_and(|rise| rise <= at);
            self.switch(at);
        }
        rose |= self.rise_after(self.seen).is_some_and(|rise| rise <= tick);
        self.seen = tick;
        rose
    }

    /// Tick of the next rising edge of OUT.
    pub fn next_rise(&self) -> Option<u64> {
        let rise = self.rise_after(self.seen)?;
        match self.switch_at {
            Some(at) if rise > at => {
                let mut after = self.clone();
                after.switch(at);
                after.rise_after(at)
            }
            _ => Some(rise),
        }
    }

    /// First rising edge after `tick` with the count that runs now.
    fn rise_after(&self, tick: u64) -> Option<u64> {
        let Run::Counting { since } = self.run else { return None };
        let initial = u64::from(self.initial);
        let after = match self.mode {
            0 | 1 => initial,
            2 | 3 => (elapsed(since, tick) / initial + 1) * initial,
            _ => initial + 1,
        };
        let rise = since.wrapping_add(after);
        (rise > tick).then_some(rise)
    }

    /// Takes the count register over at the next clock, or holds it there while GATE is low.
    fn load(&mut self, tick: u64) {
        self.initial = self.effective_reload();
        self.unloaded = false;
        self.switch_at = None;
        let stopped = !self.gate && matches!(self.mode, 0 | 2 | 3 | 4);
        self.run = if stopped { Run::Held { elapsed: 0 } } else { Run::Counting { since: tick + 1 } };
    }

    /// Takes the count register over at the end of a cycle (mode 2) or half-cycle (mode 3).
    fn switch(&mut self, at: u64) {
        let Run::Counting { since } = self.run else { return };
        let at_cycle_end = elapsed(since, at).is_multiple_of(u64::from(self.initial));
        self.initial = self.effective_reload();
        let into_cycle = if at_cycle_end { 0 } else { u64::from(self.initial).div_ceil(2) };
        self.run = Run::Counting { since: at.wrapping_sub(into_cycle) };
        self.unloaded = false;
        self.switch_at = None;
        self.seen = at;
    }

    /// End of the current cycle (mode 2) or half-cycle (mode 3).
    fn boundary(&self, since: u64, tick: u64) -> u64 {
        let initial = u64::from(self.initial);
        let (cycles, phase) = (elapsed(since, tick) / initial, elapsed(since, tick) % initial);
        let high = initial.div_ceil(2);
        let end = if self.mode == 3 && phase < high { high } else { initial };
        since.wrapping_add(cycles * initial + end)
    }

    /// A count of 1 is not allowed in modes 2 and 3; it counts as the shortest that is.
    fn effective_reload(&self) -> u32 {
        if matches!(self.mode, 2 | 3) { self.reload.max(2) } else { self.reload.max(1) }
    }

    fn loads_after(&self, tick: u64) -> bool {
        matches!(self.run, Run::Counting { since } if tick.wrapping_sub(since) as i64 <= -1)
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The counting element as the guest reads it.
    fn count(&self, tick: u64) -> u16 {
        let elapsed = match self.run {
            Run::Idle => return 0,
            Run::Held { elapsed } => elapsed,
            Run::Counting { since } => elapsed(since, tick),
        };
        let initial = u64::from(self.initial);
        let modulus = u64::from(self.modulus());
        let value = match self.mode {
            2 => initial - elapsed % initial,
            3 => square_wave_count(initial, elapsed % initial),
            _ => initial + modulus - elapsed % modulus,
        };
        self.encode((value % modulus) as u16)
    }

    /// A written count: zero is the largest.
    fn decode(&self, raw: u16) -> u32 {
        let value = if self.bcd {
            (0..4).rev().fold(0, |value, digit| value * 10 + u32::from(raw >> (4 * digit) & 15))
        } else {
            u32::from(raw)
        };
        if value == 0 { self.modulus() } else { value.min(self.modulus()) }
    }

    fn encode(&self, value: u16) -> u16 {
        if !self.bcd {
            return value;
        }
        (0..4).map(|digit| (value / 10u16.pow(digit) % 10) << (4 * digit)).sum()
    }
}

/// Clocks since `since`; none have passed if it lies ahead.
fn elapsed(since: u64, tick: u64) -> u64 {
    (tick.wrapping_sub(since) as i64).max(0) as u64
}

/// Mode 3 counts down by two, from an even number, in each half of the wave.
fn square_wave_count(initial: u64, phase: u64) -> u64 {
    let high = initial.div_ceil(2);
    let into_half = if phase < high { phase } else { phase - high };
    (initial & !1) - 2 * into_half
}
