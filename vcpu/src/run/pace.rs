//! The host's clocks and sleep: how long an idle machine sleeps, which rate `shift=auto` picks, and the date for
//! `-rtc clock=host`.
//!
//! Invariant: nothing read here reaches the guest but through a journaled event (`IdleWake`, `Rate`, `HostClock`).

use replay::lane::{LaneError, VcpuEnd, Wake};
use std::time::{Duration, Instant, SystemTime};

/// Rates that `shift=auto` may pick: 1 ns … 1024 ns an instruction.
const SHIFT_MAX: u8 = 10;
/// Host time between two looks at the rate.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A rate is changed when the other one is nearer by this factor, so that it does not swing to and fro.
const HYSTERESIS: f64 = 1.2;

/// One of the ways in which a lane sleeps: `VcpuEnd::wait_attention` or `VcpuEnd::wait_message`.
pub type Sleep = fn(&mut VcpuEnd, Option<Duration>) -> Result<Wake, LaneError>;

/// Host time and the ways to wait in it. A parameter, so that a test can run a machine in a time of its own.
pub trait HostClock {
    /// Host time since a fixed point.
    fn now(&self) -> Duration;

    /// The host's date: nanoseconds since 1970-01-01 UTC.
    fn unix_ns(&self) -> u64;

    /// Sleeps in the lane's way `sleep`, at most for `timeout`.
    fn wait(
        &mut self,
        lane: &mut VcpuEnd,
        sleep: Sleep,
        timeout: Option<Duration>,
    ) -> Result<Wake, LaneError>;
}

/// The clock and the sleep of this host.
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// Starts at zero.
    #[expect(clippy::new_without_default, reason = "a clock is started, not a value by default")]
    pub fn new() -> RealClock {
        RealClock { start: Instant::now() }
    }
}

impl HostClock for RealClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn wait(
        &mut self,
        lane: &mut VcpuEnd,
        sleep: Sleep,
        timeout: Option<Duration>,
    ) -> Result<Wake, LaneError> {
        sleep(lane, timeout)
    }
}

/// Measures the speed of the guest on this host.
pub struct Pace {
    since: Duration,
    icount: u64,
    slept: Duration,
}

impl Pace {
    /// Starts measuring at `icount`, at host time `now`.
    pub fn new(icount: u64, now: Duration) -> Pace {
        Pace { since: now, icount, slept: Duration::ZERO }
    }

    /// Notes that the machine slept on the host.
    pub fn slept(&mut self, time: Duration) {
        self.slept += time;
    }

    /// The rate that follows the host's speed, when it is time to look and it is another than `shift`.
    pub fn better_shift(&mut self, icount: u64, shift: u8, now: Duration) -> Option<u8> {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < LOOK_INTERVAL {
            return None;
        }
        let executed = icount - self.icount;
        let busy = elapsed.saturating_sub(self.slept);
        *self = Pace::new(icount, now);
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
