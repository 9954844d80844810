//! The six status flags in the form that LAHF and SETO give them.
//!
//! The host computes them with the very instruction that the guest runs; keeping them in this form
//! costs two host instructions per guest instruction and no tables.

/// `AX` after `lahf; seto al`: SF ZF - AF - PF 1 CF in bits 15…8, OF in bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub u16);

impl Status {
    /// Overflow.
    pub const OF: u16 = 1;
    /// Carry.
    pub const CF: u16 = 1 << 8;
    /// Parity.
    pub const PF: u16 = 1 << 10;
    /// Auxiliary carry.
    pub const AF: u16 = 1 << 12;
    /// Zero.
    pub const ZF: u16 = 1 << 14;
    /// Sign.
    pub const SF: u16 = 1 << 15;
    /// All six.
    pub const ALL: u16 = Self::OF | Self::CF | Self::PF | Self::AF | Self::ZF | Self::SF;

    /// The flags at their RFLAGS positions.
    pub fn to_rflags(self) -> u32 {
        u32::from(self.0 >> 8) & 0xd5 | u32::from(self.0 & 1) << 11
    }

    /// Takes the six flags out of an RFLAGS value.
    pub fn from_rflags(rflags: u32) -> Status {
        Status(((rflags & 0xd5) << 8) as u16 | (rflags >> 11 & 1) as u16)
    }

    /// Whether any flag of `mask` is set.
    pub fn has(self, mask: u16) -> bool {
        self.0 & mask != 0
    }

    /// These flags with those of `mask` set or cleared.
    pub fn with(self, mask: u16, on: bool) -> Status {
        Status(if on { self.0 | mask } else { self.0 & !mask })
    }

    /// Evaluates a condition code (the low four bits of Jcc, SETcc, CMOVcc opcodes).
    #[inline(always)]
    pub fn condition(self, code: u8) -> bool {
        let f = self.0;
        let met = match code >> 1 & 7 {
            0 => f & Self::OF != 0,
            1 => f & Self::CF != 0,
            2 => f & Self::ZF != 0,
            3 => f & (Self::CF | Self::ZF) != 0,
            4 => f & Self::SF != 0,
            5 => f & Self::PF != 0,
            6 => (f >> 15) ^ (f & 1) != 0,
            _ => (f >> 15) ^ (f & 1) != 0 || f & Self::ZF != 0,
        };
        met != (code & 1 != 0)
    }
}

/// RFLAGS bits outside the status flags.
pub mod rflags {
    /// Trap.
    pub const TF: u32 = 1 << 8;
    /// Interrupt enable.
    pub const IF: u32 = 1 << 9;
    /// Direction.
    pub const DF: u32 = 1 << 10;
    /// I/O privilege level, two bits.
    pub const IOPL: u32 = 3 << 12;
    /// Nested task.
    pub const NT: u32 = 1 << 14;
    /// Resume.
    pub const RF: u32 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u32 = 1 << 17;
    /// Alignment check, access control.
    pub const AC: u32 = 1 << 18;
    /// Virtual interrupt.
    pub const VIF: u32 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u32 = 1 << 20;
    /// CPUID exists.
    pub const ID: u32 = 1 << 21;
    /// The six status flags at their RFLAGS positions.
    pub const STATUS: u32 = 0x8d5;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rflags_round_trip() {
        for bits in 0..0x1000u32 {
            let kept = bits & rflags::STATUS;
            assert_eq!(Status::from_rflags(bits).to_rflags(), kept);
        }
    }
}
