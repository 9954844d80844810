//! The local APIC's timer: one-shot, periodic and TSC-deadline (SDM 3A 11.5.4).
//!
//! What is kept is the time of the next expiry; the current count is what is missing to it.

use super::frequency::{LAPIC_TIMER_HZ, NS_PER_S, PERIOD_NS_MIN, tsc_at, tsc_ticks_to_ns};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Nanoseconds of one input clock before the divider.
const CLOCK_NS: u64 = NS_PER_S / LAPIC_TIMER_HZ;

/// Bits 18:17 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerMode {
    /// Counts down once.
    #[default]
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Expires when the time-stamp counter reaches IA32_TSC_DEADLINE.
    TscDeadline,
    /// 11b is reserved: nothing counts.
    Reserved,
}

impl TimerMode {
    /// Decodes the timer's LVT entry.
    pub fn decode(lvt: u32) -> TimerMode {
        match lvt >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, TimerMode::OneShot | TimerMode::Periodic)
    }
}

/// State of one timer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LapicTimer {
    mode: TimerMode,
    divide: u32,
    initial: u32,
    /// IA32_TSC_DEADLINE: zero is disarmed.
    tsc_deadline: u64,
    expiry: Option<Vtime>,
}

impl LapicTimer {
    /// The initial count register.
    pub fn initial_count(&self) -> u32 {
        self.initial
    }

    /// The divide configuration register.
    pub fn divide_register(&self) -> u32 {
        self.divide
    }

    /// The current count register; the caller has called `advance`.
    pub fn current_count(&self, now: Vtime) -> u32 {
        let Some(expiry) = self.expiry.filter(|_| self.mode.counts()) else { return 0 };
        let missing = expiry.0.saturating_sub(now.0).div_ceil(self.count_ns());
        u32::try_from(missing).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Starts the timer; zero stops it. Ignored in TSC-deadline mode.
    pub fn set_initial_count(&mut self, count: u32, now: Vtime) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial = count;
        let running = count != 0 && self.mode.counts();
        self.expiry = running.then(|| Vtime(now.0.saturating_add(self.cycle_ns())));
    }

    /// Changes the divider; the count that is left goes on at the new rate.
    pub fn set_divide(&mut self, divide: u32, now: Vtime) {
        let left = self.current_count(now);
        self.divide = divide & 0b1011;
        if self.mode.counts() && self.expiry.is_some() {
            self.expiry = Some(Vtime(now.0.saturating_add(u64::from(left) * self.count_ns())));
        }
    }

    /// Follows a write to the LVT entry. To and from TSC-deadline mode the timer is disarmed (SDM 3A 11.5.4.1).
    pub fn set_mode(&mut self, mode: TimerMode) {
        if mode.counts() != self.mode.counts() || mode == TimerMode::Reserved {
            self.expiry = None;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
    }

    /// Reads IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Writes IA32_TSC_DEADLINE; zero disarms. Outside TSC-deadline mode the write has no effect.
    pub fn set_tsc_deadline(&mut self, value: u64, tsc_offset: u64, now: Vtime) {
        if self.mode != TimerMode::TscDeadline {
            return;
        }
        self.tsc_deadline = value;
        let missing = value.saturating_sub(tsc_at(now, tsc_offset));
        // A deadline beyond the end of time stays armed and never comes.
        self.expiry = now.0.checked_add(tsc_ticks_to_ns(missing)).filter(|_| value != 0).map(Vtime);
    }

    /// Follows a change of the time-stamp counter itself.
    pub fn tsc_changed(&mut self, tsc_offset: u64, now: Vtime) {
        if self.tsc_deadline != 0 {
            self.set_tsc_deadline(self.tsc_deadline, tsc_offset, now);
        }
    }

    /// Time of the next expiry.
    pub fn deadline(&self) -> Option<Vtime> {
        self.expiry
    }

    /// Does what is due at `now`; whether the timer expired, once or more often.
    pub fn advance(&mut self, now: Vtime) -> bool {
        let Some(expiry) = self.expiry.filter(|&expiry| expiry <= now) else { return false };
        self.tsc_deadline = 0;
        self.expiry = match self.mode {
            TimerMode::Periodic => {
                let cycle = self.cycle_ns();
                let cycles = (now.0 - expiry.0) / cycle + 1;
                cycle.checked_mul(cycles).and_then(|ahead| expiry.0.checked_add(ahead)).map(Vtime)
            }
            TimerMode::OneShot | TimerMode::TscDeadline | TimerMode::Reserved => None,
        };
        true
    }

    /// Nanoseconds of one count: the divider is in bits 3, 1 and 0 (SDM 3A figure 11-10).
    fn count_ns(&self) -> u64 {
        let code = self.divide >> 1 & 4 | self.divide & 3;
        CLOCK_NS << ((code + 1) & 7)
    }

    /// Nanoseconds from the initial count to zero.
    fn cycle_ns(&self) -> u64 {
        let cycle = u64::from(self.initial) * self.count_ns();
        if self.mode == TimerMode::Periodic { cycle.max(PERIOD_NS_MIN) } else { cycle.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divider_values_are_those_of_the_manual() {
        for (register, divider) in [
            (0b0000, 2),
            (0b0001, 4),
            (0b0010, 8),
            (0b0011, 16),
            (0b1000, 32),
            (0b1001, 64),
            (0b1010, 128),
            (0b1011, 1),
        ] {
            let timer = LapicTimer { divide: register, ..LapicTimer::default() };
            assert_eq!(timer.count_ns(), divider, "register {register:#b}");
        }
    }

    #[test]
    fn one_shot_counts_to_zero_and_stays() {
        let mut timer = LapicTimer::default();
        timer.set_divide(0b0011, Vtime(0));
        timer.set_initial_count(100, Vtime(1000));
        assert_eq!(timer.deadline(), Some(Vtime(2600)));
        for (now, count) in [(1000, 100), (1015, 100), (1016, 99), (2599, 1)] {
            assert_eq!(timer.current_count(Vtime(now)), count, "at {now}");
        }
        assert!(!timer.advance(Vtime(2599)));
        assert!(timer.advance(Vtime(2600)));
        assert_eq!((timer.current_count(Vtime(2600)), timer.deadline()), (0, None));
        assert_eq!(timer.initial_count(), 100);
    }

    #[test]
    fn periodic_keeps_its_phase_and_joins_missed_periods() {
        let mut timer = LapicTimer::default();
        timer.set_mode(TimerMode::Periodic);
        timer.set_divide(0b1011, Vtime(0));
        timer.set_initial_count(10_000, Vtime(5));
        assert!(timer.advance(Vtime(10_005)));
        assert_eq!(timer.deadline(), Some(Vtime(20_005)));
        assert!(timer.advance(Vtime(55_555)));
        assert!(!timer.advance(Vtime(55_555)));
        assert_eq!(timer.deadline(), Some(Vtime(60_005)));
        assert_eq!(timer.current_count(Vtime(60_000)), 5);
    }

    #[test]
    fn shortest_period_is_bounded() {
        let mut timer = LapicTimer::default();
        timer.set_mode(TimerMode::Periodic);
        timer.set_divide(0b1011, Vtime(0));
        timer.set_initial_count(1, Vtime(0));
        assert!(timer.advance(Vtime(1_000_000)));
        assert_eq!(timer.deadline(), Some(Vtime(1_001_000)));
    }

    #[test]
    fn divider_change_keeps_the_count() {
        let mut timer = LapicTimer::default();
        timer.set_divide(0b1011, Vtime(0));
        timer.set_initial_count(1000, Vtime(0));
        timer.set_divide(0b0000, Vtime(400));
        assert_eq!((timer.current_count(Vtime(400)), timer.deadline()), (600, Some(Vtime(1600))));
    }

    #[test]
    fn tsc_deadline_is_exact_and_disarms_itself() {
        let mut timer = LapicTimer::default();
        timer.set_tsc_deadline(500, 0, Vtime(0));
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None), "not in that mode");
        timer.set_mode(TimerMode::TscDeadline);
        timer.set_tsc_deadline(2_005, 1000, Vtime(100));
        // TSC is 1200 now; 805 ticks are 402.5 ns.
        assert_eq!(timer.deadline(), Some(Vtime(503)));
        timer.tsc_changed(0, Vtime(200));
        assert_eq!(timer.deadline(), Some(Vtime(1003)));
        assert!(timer.advance(Vtime(1003)));
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
        timer.set_tsc_deadline(1, 0, Vtime(1003));
        assert!(timer.advance(Vtime(1003)), "a deadline in the past expires at once");
        timer.set_tsc_deadline(1 << 40, 0, Vtime(1003));
        timer.set_initial_count(7, Vtime(1003));
        assert_eq!(timer.tsc_deadline(), 1 << 40);
        timer.set_mode(TimerMode::OneShot);
        assert_eq!(timer.deadline(), None);
        timer.set_mode(TimerMode::TscDeadline);
        timer.set_tsc_deadline(u64::MAX, 0, Vtime(u64::MAX - 5));
        assert_eq!((timer.deadline(), timer.tsc_deadline()), (None, u64::MAX));
    }
}
