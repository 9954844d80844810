//! A guest exception on its way to delivery.

/// An exception raised by an instruction: vector and error code. A value, passed with `?`.
///
/// For #PF the linear address is in `Core::fault_address`. Packed in one word so that a
/// `Result<u64, Fault>` travels in two registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault(u64);

/// Exception vectors (SDM 3A table 6-1).
pub mod vector {
    /// #DE, divide error.
    pub const DE: u8 = 0;
    /// #DB, debug.
    pub const DB: u8 = 1;
    /// Nonmaskable interrupt.
    pub const NMI: u8 = 2;
    /// #BP, breakpoint.
    pub const BP: u8 = 3;
    /// #OF, overflow.
    pub const OF: u8 = 4;
    /// #BR, BOUND range exceeded.
    pub const BR: u8 = 5;
    /// #UD, invalid opcode.
    pub const UD: u8 = 6;
    /// #NM, device not available.
    pub const NM: u8 = 7;
    /// #DF, double fault.
    pub const DF: u8 = 8;
    /// #TS, invalid TSS.
    pub const TS: u8 = 10;
    /// #NP, segment not present.
    pub const NP: u8 = 11;
    /// #SS, stack-segment fault.
    pub const SS: u8 = 12;
    /// #GP, general protection.
    pub const GP: u8 = 13;
    /// #PF, page fault.
    pub const PF: u8 = 14;
    /// #MF, x87 floating-point error.
    pub const MF: u8 = 16;
    /// #AC, alignment check.
    pub const AC: u8 = 17;
    /// #MC, machine check.
    pub const MC: u8 = 18;
    /// #XM, SIMD floating-point exception.
    pub const XM: u8 = 19;
}

impl Fault {
    /// An exception without an error code.
    pub const fn new(vector: u8) -> Fault {
        Fault(vector as u64)
    }

    /// An exception that pushes `code`.
    pub const fn with_code(vector: u8, code: u32) -> Fault {
        Fault(vector as u64 | 1 << 8 | (code as u64) << 32)
    }

    /// #UD.
    pub const fn ud() -> Fault {
        Fault::new(vector::UD)
    }

    /// #GP with an error code.
    pub const fn gp(code: u32) -> Fault {
        Fault::with_code(vector::GP, code)
    }

    /// #SS with an error code.
    pub const fn ss(code: u32) -> Fault {
        Fault::with_code(vector::SS, code)
    }

    /// The exception's vector.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The error code, where this exception has one.
    pub const fn code(self) -> Option<u32> {
        if self.0 & 1 << 8 != 0 { Some((self.0 >> 32) as u32) } else { None }
    }
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fault(vector {}, code {:x?})", self.vector(), self.code())
    }
}
