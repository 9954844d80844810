//! Guests that stand still: when that is noticed, and how long a replay waits for one that its log says went on.
//!
//! A guest that has diverged may stand still where timers go on for ever, or raise exceptions for ever. The limits are
//! beyond what a guest does that does go on.

/// Timers that fire in a CPU which is halted with interrupts off: only an NMI can wake it. Some seconds.
const SKIPS_MAX_WITHOUT_INTERRUPTS: u32 = 4_000_000;
/// Timers that fire in a halted CPU and do not wake it: twelve days of a masked timer at 1 kHz. Some minutes.
const SKIPS_MAX: u32 = 1 << 30;
/// Times that the CPU counts as stuck, by the engine after 100 000 exceptions each: more than the largest RAM has room for
/// frames on a stack. Some minutes.
const STUCK_MAX: u32 = 20_000;

/// Checkpoints between a delivery and the next retired instruction after which the CPU counts as stuck. The engine
/// comes back from every delivery whose stack is a device's, and sees no loop.
const CHECKPOINTS_MAX: u32 = 10_000;

/// Counts checkpoints between a delivery and the next retired instruction.
#[derive(Debug, Default)]
pub struct Stillness(u32);

impl Stillness {
    /// One more; true now and then when there are very many.
    pub fn is_long(&mut self) -> bool {
        self.0 = (self.0 + 1) % CHECKPOINTS_MAX;
        self.0 == 0
    }
}

/// Counts what happens at one icount.
#[derive(Debug, Default)]
pub struct Patience {
    icount: u64,
    skips: u32,
    stuck: u32,
}

impl Patience {
    /// A timer fires in a CPU that is halted at `icount`. The number of times it did, if that is too often.
    pub fn skip(&mut self, icount: u64, interrupts_on: bool) -> Option<u32> {
        self.come_to(icount);
        self.skips += 1;
        let limit = if interrupts_on { SKIPS_MAX } else { SKIPS_MAX_WITHOUT_INTERRUPTS };
        (self.skips > limit).then_some(self.skips)
    }

    /// The CPU is stuck at `icount`. The number of times it was, if that is too often.
    pub fn stuck(&mut self, icount: u64) -> Option<u32> {
        self.come_to(icount);
        self.stuck += 1;
        (self.stuck > STUCK_MAX).then_some(self.stuck)
    }

    fn come_to(&mut self, icount: u64) {
        if icount != self.icount {
            *self = Patience { icount, ..Patience::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_at_one_icount_and_is_new_at_the_next() {
        let mut patience = Patience::default();
        for _ in 0..STUCK_MAX {
            assert_eq!(patience.stuck(7), None);
        }
        assert_eq!(patience.stuck(7), Some(STUCK_MAX + 1));
        assert_eq!(patience.stuck(8), None);
        for _ in 0..SKIPS_MAX_WITHOUT_INTERRUPTS {
            assert_eq!(patience.skip(8, false), None);
        }
        assert_eq!(patience.skip(8, true), None, "an interrupt may still come");
        assert!(patience.skip(8, false).is_some());
        assert_eq!(patience.skip(9, false), None);
    }
}
