//! Descriptors and gates of the test guests (SDM 3A 3.4.5, 6.11, 6.14.1).

/// Selectors in the test guests' GDT. The order from `USER_CODE32` on is the one that SYSRET wants.
pub mod selector {
    /// 64-bit code of ring 0.
    pub const KERNEL_CODE: u16 = 0x08;
    /// Data of ring 0.
    pub const KERNEL_DATA: u16 = 0x10;
    /// 32-bit code of ring 3.
    pub const USER_CODE32: u16 = 0x1b;
    /// Data of ring 3.
    pub const USER_DATA: u16 = 0x23;
    /// 64-bit code of ring 3.
    pub const USER_CODE: u16 = 0x2b;
    /// 32-bit code of ring 0.
    pub const KERNEL_CODE32: u16 = 0x30;
    /// The task-state segment, 16 bytes long in long mode.
    pub const TSS: u16 = 0x40;
    /// The local descriptor table.
    pub const LDT: u16 = 0x50;
    /// Free for tests: 0x60…0xf8.
    pub const SPARE: u16 = 0x60;
    /// Limit of the GDT.
    pub const LIMIT: u16 = 0xff;
}

/// 64-bit code; like the next ones flat (base 0, limit 4 GiB) and accessed.
pub const CODE64: u64 = 0x00af_9b00_0000_ffff;
/// 32-bit code.
pub const CODE32: u64 = 0x00cf_9b00_0000_ffff;
/// Data.
pub const DATA32: u64 = 0x00cf_9300_0000_ffff;
/// Added to a descriptor or gate for DPL 3.
pub const DPL3: u64 = 3 << 45;

/// A code or data descriptor; `access` is its byte 5, `flags` the upper four bits of byte 6 (G, D/B, L, AVL).
pub const fn segment(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    (limit as u64 & 0xffff)
        | (base as u64 & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit as u64 >> 16 & 15) << 48
        | (flags as u64 & 15) << 52
        | (base as u64 >> 24) << 56
}

/// A gate of the IDT, or a call gate.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Where it leads.
    pub offset: u64,
    /// Code segment it leads to.
    pub selector: u16,
    /// Type field: 14 is an interrupt gate, 15 a trap gate, 12 a call gate.
    pub kind: u8,
    /// Lowest privilege that may use it.
    pub dpl: u8,
    /// P.
    pub present: bool,
    /// IST index in 64-bit interrupt gates, number of parameters in 32-bit call gates.
    pub extra: u8,
}

/// Type of an interrupt gate of 32 or 64 bits.
pub const INTERRUPT_GATE: u8 = 14;
/// Type of a trap gate.
pub const TRAP_GATE: u8 = 15;
/// Type of a call gate.
pub const CALL_GATE: u8 = 12;

impl Gate {
    /// A present gate of DPL 0.
    pub const fn new(kind: u8, selector: u16, offset: u64) -> Gate {
        Gate { offset, selector, kind, dpl: 0, present: true, extra: 0 }
    }

    /// The same gate, open to ring 3.
    pub const fn user(self) -> Gate {
        Gate { dpl: 3, ..self }
    }

    /// The same gate with an IST index or a number of parameters.
    pub const fn extra(self, extra: u8) -> Gate {
        Gate { extra, ..self }
    }

    /// The same gate, not present.
    pub const fn absent(self) -> Gate {
        Gate { present: false, ..self }
    }

    /// The low eight bytes: all of it outside long mode.
    pub const fn low(self) -> u64 {
        (self.offset & 0xffff)
            | (self.selector as u64) << 16
            | (self.extra as u64) << 32
            | (self.kind as u64) << 40
            | (self.dpl as u64) << 45
            | (self.present as u64) << 47
            | (self.offset >> 16 & 0xffff) << 48
    }

    /// The upper eight bytes in long mode.
    pub const fn high(self) -> u64 {
        self.offset >> 32
    }
}
