//! Guest time as a function of icount, rate changes and idle skips (design section 4).

use replay::time::Vtime;

/// Maps icount to guest nanoseconds: a line with slope 2^shift through a base point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VirtualClock {
    base_icount: u64,
    base_ns: u64,
    shift: u8,
}

impl VirtualClock {
    /// Time zero at icount zero, 2^shift nanoseconds an instruction.
    pub fn new(shift: u8) -> VirtualClock {
        VirtualClock { base_icount: 0, base_ns: 0, shift }
    }

    /// Guest time when `icount` instructions have retired; `icount` is not before the last change.
    #[inline(always)]
    pub fn at(&self, icount: u64) -> Vtime {
        Vtime(self.base_ns + ((icount - self.base_icount) << self.shift))
    }

    /// First icount at which guest time is `deadline` or later.
    pub fn icount_at(&self, deadline: Vtime) -> u64 {
        let ahead = deadline.0.saturating_sub(self.base_ns);
        let unit = 1u64 << self.shift;
        self.base_icount + ahead.div_ceil(unit)
    }

    /// Rate in use: 2^shift nanoseconds an instruction.
    pub fn shift(&self) -> u8 {
        self.shift
    }

    /// Changes the rate from `icount` on.
    pub fn set_shift(&mut self, icount: u64, shift: u8) {
        *self = VirtualClock { base_icount: icount, base_ns: self.at(icount).0, shift };
    }

    /// Lets guest time jump forward to `to` at `icount`: the machine was idle.
    pub fn skip_to(&mut self, icount: u64, to: Vtime) {
        assert!(to >= self.at(icount), "guest time goes back from {} to {to}", self.at(icount));
        *self = VirtualClock { base_icount: icount, base_ns: to.0, shift: self.shift };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_exact() {
        let mut clock = VirtualClock::new(3);
        assert_eq!(clock.at(10), Vtime(80));
        assert_eq!(clock.icount_at(Vtime(80)), 10);
        assert_eq!(clock.icount_at(Vtime(81)), 11);
        clock.skip_to(10, Vtime(1000));
        clock.set_shift(12, 0);
        assert_eq!(clock.at(13), Vtime(1017));
        assert_eq!(clock.icount_at(Vtime(5)), 12);
    }
}
