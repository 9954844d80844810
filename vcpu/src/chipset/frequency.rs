//! Frequencies of the machine's clocks and the exact conversions between them and guest time.
//!
//! Guest time is the only clock; every counter is a function of it. A conversion from ticks gives the
//! first nanosecond at which that tick has happened, so a deadline is never early and never a tick late.

use replay::time::Vtime;

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Frequency of the time-stamp counter, also told to the guest by CPUID leaf 0x15.
pub const TSC_HZ: u64 = 2_000_000_000;

/// Input clock of the local APIC timer before its divider, the core crystal clock of CPUID leaf 0x15.
pub const LAPIC_TIMER_HZ: u64 = 1_000_000_000;

/// Input clock of the 8254: a third of the NTSC colour subcarrier's quarter.
pub const PIT_HZ: u64 = 1_193_182;

/// Period of the HPET's main counter in femtoseconds: 100 MHz.
pub const HPET_PERIOD_FS: u32 = 10_000_000;

/// Nanoseconds in one tick of the HPET's main counter.
pub const HPET_TICK_NS: u64 = HPET_PERIOD_FS as u64 / 1_000_000;

/// Shortest period of a periodic timer; shorter ones fire at this rate, so that a guest cannot ask for
/// more events than instructions.
pub const PERIOD_NS_MIN: u64 = 1_000;

const TSC_PER_NS: u64 = TSC_HZ / NS_PER_S;

/// The time-stamp counter at `now`; `offset` is what WRMSR to IA32_TIME_STAMP_COUNTER made of it.
#[inline]
pub fn tsc_at(now: Vtime, offset: u64) -> u64 {
    now.0.wrapping_mul(TSC_PER_NS).wrapping_add(offset)
}

/// Nanoseconds until the time-stamp counter has advanced by `ticks`.
pub fn tsc_ticks_to_ns(ticks: u64) -> u64 {
    ticks.div_ceil(TSC_PER_NS)
}

/// Whole ticks of a clock of `hz` that have passed at `now`.
pub fn ticks_at(now: Vtime, hz: u64) -> u64 {
    let ticks = u128::from(now.0) * u128::from(hz) / u128::from(NS_PER_S);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// First time at which `tick` ticks of a clock of `hz` have passed; none beyond the end of time.
pub fn time_of_tick(tick: u64, hz: u64) -> Option<Vtime> {
    let ns = (u128::from(tick) * u128::from(NS_PER_S)).div_ceil(u128::from(hz));
    u64::try_from(ns).ok().map(Vtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_first_nanosecond_of_its_tick() {
        for tick in [0, 1, 2, 11_931, 65_536, 1_193_182, 987_654_321_012] {
            let at = time_of_tick(tick, PIT_HZ).expect("in range");
            assert_eq!(ticks_at(at, PIT_HZ), tick);
            if at.0 > 0 {
                assert_eq!(ticks_at(Vtime(at.0 - 1), PIT_HZ), tick - 1);
            }
        }
        assert_eq!(time_of_tick(u64::MAX, PIT_HZ), None);
    }

    #[test]
    fn tsc_runs_at_two_ticks_a_nanosecond() {
        assert_eq!(tsc_at(Vtime(1_000_000_000), 5), TSC_HZ + 5);
        assert_eq!(tsc_ticks_to_ns(3), 2);
    }
}
