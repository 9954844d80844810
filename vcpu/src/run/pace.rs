//! The host's clock, for pace only: how long an idle machine sleeps, and which rate `shift=auto` picks.
//!
//! Invariant: nothing read here reaches the guest but through a journaled event (`IdleWake`, `Rate`).

use std::time::{Duration, Instant};

/// Rates that `shift=auto` may pick: 1 ns … 1024 ns an instruction.
const SHIFT_MAX: u8 = 10;
/// Host time between two looks at the rate.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A rate is changed when the other one is nearer by this factor, so that it does not swing to and fro.
const HYSTERESIS: f64 = 1.2;

/// Measures the speed of the guest on this host.
pub struct Pace {
    since: Instant,
    icount: u64,
    slept: Duration,
}

impl Pace {
    /// Starts measuring at `icount`.
    pub fn new(icount: u64) -> Pace {
        Pace { since: Instant::now(), icount, slept: Duration::ZERO }
    }

    /// Host time since `start`.
    pub fn since(start: Instant) -> Duration {
        start.elapsed()
    }

    /// The host's clock now.
    pub fn now() -> Instant {
        Instant::now()
    }

    /// Notes that the machine slept on the host.
    pub fn slept(&mut self, time: Duration) {
        self.slept += time;
    }

    /// The rate that follows the host's speed, when it is time to look and it is another than `shift`.
    pub fn better_shift(&mut self, icount: u64, shift: u8) -> Option<u8> {
        let elapsed = self.since.elapsed();
        if elapsed < LOOK_INTERVAL {
            return None;
        }
        let executed = icount - self.icount;
        let busy = elapsed.saturating_sub(self.slept);
        *self = Pace::new(icount);
        // Too few instructions say nothing about speed.
        if executed < 100_000 {
            return None;
        }
        let ns_each = busy.as_nanos() as f64 / executed as f64;
        let ratio = ns_each / f64::from(1u32 << shift);
        let limit = std::f64::consts::SQRT_2 * HYSTERESIS;
        if ratio > limit && shift < SHIFT_MAX {
            Some(shift + 1)
        } else if ratio < 1.0 / limit && shift > 0 {
            Some(shift - 1)
        } else {
            None
        }
    }
}
