//! A segment register with its hidden part.

/// Selector and cached descriptor (SDM 3A 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Descriptor bits 40…55: type (0…3), S (4), DPL (5…6), P (7), limit bits dropped, AVL (12), L (13), D/B (14), G (15).
    pub attributes: u16,
    /// In bytes, granularity applied.
    pub limit: u32,
    /// Linear address of the segment's first byte.
    pub base: u64,
}

impl Segment {
    /// Code or data, not a system segment.
    pub const S: u16 = 1 << 4;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Available to software.
    pub const AVL: u16 = 1 << 12;
    /// 64-bit code.
    pub const L: u16 = 1 << 13;
    /// 32-bit default operand size or stack pointer.
    pub const DB: u16 = 1 << 14;
    /// Limit counted in pages.
    pub const G: u16 = 1 << 15;

    /// Segment type, 0…15.
    pub fn kind(&self) -> u16 {
        self.attributes & 15
    }

    /// Descriptor privilege level, 0…3.
    pub fn dpl(&self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }

    /// Whether any attribute of `mask` is set.
    pub fn has(&self, mask: u16) -> bool {
        self.attributes & mask != 0
    }

    /// A null selector was loaded: not usable for memory outside 64-bit mode.
    pub fn is_null(&self) -> bool {
        !self.has(Self::P)
    }

    /// Code segment.
    pub fn is_code(&self) -> bool {
        self.has(Self::S) && self.attributes & 8 != 0
    }

    /// Writable data segment.
    pub fn is_writable(&self) -> bool {
        self.has(Self::S) && self.attributes & 0xa == 2
    }
}
