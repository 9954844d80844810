//! The high precision event timer (IA-PC HPET Specification 1.0a): one 100 MHz counter, three comparators.
//!
//! The counter is a function of guest time. A comparator keeps the time of its next match, so that a match
//! is found by comparing times, not by counting.

use super::frequency::{HPET_PERIOD_FS, HPET_TICK_NS, PERIOD_NS_MIN};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Number of comparators.
const TIMERS: usize = 3;

/// Capabilities: period, vendor 0x8086, legacy routes, 64-bit counter, three timers, revision 1.
const CAPABILITIES: u64 =
    (HPET_PERIOD_FS as u64) << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1;

const GENERAL_CAPABILITIES: u64 = 0x00;
const GENERAL_CONFIGURATION: u64 = 0x10;
const INTERRUPT_STATUS: u64 = 0x20;
const MAIN_COUNTER: u64 = 0xf0;
const TIMER_BLOCK: u64 = 0x100;

const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

const TIMER_LEVEL: u64 = 1 << 1;
const TIMER_INTERRUPT: u64 = 1 << 2;
const TIMER_PERIODIC: u64 = 1 << 3;
const TIMER_SET_VALUE: u64 = 1 << 6;
const TIMER_32BIT: u64 = 1 << 8;
const TIMER_ROUTE_SHIFT: u32 = 9;
const TIMER_WRITABLE: u64 =
    TIMER_LEVEL | TIMER_INTERRUPT | TIMER_PERIODIC | TIMER_SET_VALUE | TIMER_32BIT | 0x1f << 9;
/// Periodic and 64-bit capable; routable to I/O APIC pins 20–23.
const TIMER_CAPABILITIES: u64 = (ROUTES as u64) << 32 | 1 << 5 | 1 << 4;
const ROUTES: u32 = 0x00f0_0000;

/// One comparator.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    next_match: Option<Vtime>,
}

impl Timer {
    fn mask(&self) -> u64 {
        if self.config & TIMER_32BIT != 0 { 0xffff_ffff } else { u64::MAX }
    }

    fn interrupts(&self) -> bool {
        self.config & TIMER_INTERRUPT != 0
    }

    fn is_level(&self) -> bool {
        self.config & TIMER_LEVEL != 0
    }
}

/// State of the HPET.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hpet {
    config: u64,
    status: u64,
    /// Counter at `base_time` while it runs, the counter itself while it is halted.
    base_count: u64,
    base_time: Vtime,
    timers: [Timer; TIMERS],
    /// I/O APIC pins and ISA interrupts (0 and 8) on which an edge was raised since `take_edges`.
    edges: u32,
    /// Lines that an edge left high: the legacy ones, which the 8259 wants to stay.
    held: u32,
}

impl Hpet {
    /// Reads `size` bytes that do not cross a register.
    pub fn read(&mut self, offset: u64, size: u8, now: Vtime) -> u64 {
        self.advance(now);
        self.read_register(offset & !7, now) >> (8 * (offset & 7)) & byte_mask(size)
    }

    /// Writes `size` bytes that do not cross a register.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        self.advance(now);
        let shift = 8 * (offset & 7);
        self.write_register(offset & !7, value << shift, byte_mask(size) << shift, now);
    }

    fn read_register(&self, offset: u64, now: Vtime) -> u64 {
        match offset {
            GENERAL_CAPABILITIES => CAPABILITIES,
            GENERAL_CONFIGURATION => self.config,
            INTERRUPT_STATUS => self.status,
            MAIN_COUNTER => self.counter(now),
            _ => match timer_register(offset) {
                Some((n, 0x00)) => self.timers[n].config | TIMER_CAPABILITIES,
                Some((n, 0x08)) => self.timers[n].comparator,
                // FSB interrupts are not offered.
                _ => 0,
            },
        }
    }

    /// Writes the bits in `written` of a register.
    fn write_register(&mut self, offset: u64, value: u64, written: u64, now: Vtime) {
        let merge = |old: u64, writable: u64| old & !(written & writable) | value & written & writable;
        match offset {
            GENERAL_CONFIGURATION => self.set_config(merge(self.config, ENABLE | LEGACY), now),
            INTERRUPT_STATUS => self.status &= !(value & written),
            MAIN_COUNTER if self.config & ENABLE == 0 => {
                self.base_count = merge(self.base_count, u64::MAX);
            }
            _ => match timer_register(offset) {
                Some((n, 0x00)) => {
                    let config = merge(self.timers[n].config, TIMER_WRITABLE);
                    self.set_timer_config(n, config, now);
                }
                Some((n, 0x08)) => self.set_comparator(n, value, written, now),
                _ => {}
            },
        }
    }

    /// The main counter.
    fn counter(&self, now: Vtime) -> u64 {
        let running = self.config & ENABLE != 0;
        let passed = if running { (now.0 - self.base_time.0) / HPET_TICK_NS } else { 0 };
        self.base_count.wrapping_add(passed)
    }

    fn set_config(&mut self, config: u64, now: Vtime) {
        if (config ^ self.config) & ENABLE != 0 {
            self.base_count = self.counter(now);
            self.base_time = now;
        }
        if (config ^ self.config) & LEGACY != 0 {
            self.held = 0;
        }
        self.config = config;
        for n in 0..TIMERS {
            self.schedule(n, now);
        }
    }

    fn set_timer_config(&mut self, n: usize, config: u64, now: Vtime) {
        let timer = &mut self.timers[n];
        timer.config = config;
        timer.comparator &= timer.mask();
        timer.period &= timer.mask();
        if timer.config & TIMER_LEVEL == 0 {
            self.status &= !(1 << n);
        }
        self.schedule(n, now);
    }

    /// A periodic timer's comparator register takes the period; with VAL_SET also the first match.
    fn set_comparator(&mut self, n: usize, value: u64, written: u64, now: Vtime) {
        let timer = &mut self.timers[n];
        let merge = |old: u64, mask: u64| (old & !written | value & written) & mask;
        let periodic = timer.config & TIMER_PERIODIC != 0;
        if !periodic || timer.config & TIMER_SET_VALUE != 0 {
            timer.comparator = merge(timer.comparator, timer.mask());
        }
        if periodic {
            timer.period = merge(timer.period, timer.mask());
        }
        timer.config &= !TIMER_SET_VALUE;
        self.schedule(n, now);
    }

    /// Finds when the counter next reaches a comparator. One that equals it now has matched already.
    fn schedule(&mut self, n: usize, now: Vtime) {
        let counter = self.counter(now);
        let timer = &mut self.timers[n];
        let ahead = timer.comparator.wrapping_sub(counter) & timer.mask();
        let ahead = if ahead == 0 { u128::from(timer.mask()) + 1 } else { u128::from(ahead) };
        let tick = u128::from((now.0 - self.base_time.0) / HPET_TICK_NS) + ahead;
        let time = u128::from(self.base_time.0) + tick * u128::from(HPET_TICK_NS);
        let running = self.config & ENABLE != 0;
        timer.next_match = u64::try_from(time).ok().filter(|_| running).map(Vtime);
    }

    /// Next match that interrupts.
    pub fn deadline(&self) -> Option<Vtime> {
        self.timers.iter().filter(|timer| timer.interrupts()).filter_map(|timer| timer.next_match).min()
    }

    /// Does every match up to `now`; missed periods are one interrupt.
    pub fn advance(&mut self, now: Vtime) {
        for n in 0..TIMERS {
            if self.timers[n].next_match.is_some_and(|time| time <= now) {
                self.fire(n);
                self.step(n, now);
            }
        }
    }

    fn fire(&mut self, n: usize) {
        let timer = self.timers[n];
        if timer.is_level() {
            self.status |= 1 << n;
        } else if let Some(line) = self.line_of(n).filter(|_| timer.interrupts()) {
            self.edges |= 1 << line;
            if self.is_legacy() {
                self.held |= 1 << line & (1 << 0 | 1 << 8);
            }
        }
    }

    /// Moves a comparator past `now` by whole periods.
    fn step(&mut self, n: usize, now: Vtime) {
        let counter = self.counter(now);
        let timer = &mut self.timers[n];
        if timer.config & TIMER_PERIODIC != 0 && timer.period != 0 {
            let late = counter.wrapping_sub(timer.comparator) & timer.mask();
            let periods = (late / timer.period).wrapping_add(1);
            timer.comparator =
                timer.comparator.wrapping_add(periods.wrapping_mul(timer.period)) & timer.mask();
        }
        let short =
            timer.config & TIMER_PERIODIC != 0 && (1..PERIOD_NS_MIN / HPET_TICK_NS).contains(&timer.period);
        self.schedule(n, now);
        if short {
            let earliest = Vtime(now.0.saturating_add(PERIOD_NS_MIN));
            let next = &mut self.timers[n].next_match;
            *next = next.map(|time| time.max(earliest));
        }
    }

    /// Whether timers 0 and 1 replace the 8254 and the RTC on IRQ 0 and 8.
    pub fn is_legacy(&self) -> bool {
        self.config & LEGACY != 0
    }

    /// ISA interrupt 0 or 8, or I/O APIC pin, of a timer.
    fn line_of(&self, n: usize) -> Option<u32> {
        match n {
            0 if self.is_legacy() => Some(0),
            1 if self.is_legacy() => Some(8),
            _ => {
                let pin = (self.timers[n].config >> TIMER_ROUTE_SHIFT & 31) as u32;
                (ROUTES & 1 << pin != 0).then_some(pin)
            }
        }
    }

    /// Lines that are high: ISA interrupts 0 and 8 with legacy routes, I/O APIC pins 20–23.
    pub fn lines(&self) -> u32 {
        if self.config & ENABLE == 0 {
            return self.held;
        }
        (0..TIMERS)
            .filter(|&n| self.status & 1 << n != 0 && self.timers[n].interrupts())
            .filter_map(|n| self.line_of(n))
            .fold(self.held, |lines, line| lines | 1 << line)
    }

    /// Lines on which an edge was raised since the last call.
    pub fn take_edges(&mut self) -> u32 {
        std::mem::take(&mut self.edges)
    }
}

/// The low `size` bytes of a register.
fn byte_mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// Timer and register of an offset in the timer blocks.
fn timer_register(offset: u64) -> Option<(usize, u64)> {
    let offset = offset.checked_sub(TIMER_BLOCK)?;
    let n = (offset / 0x20) as usize;
    (n < TIMERS).then_some((n, offset % 0x20))
}

#[cfg(test)]
#[path = "hpet_tests.rs"]
mod tests;
