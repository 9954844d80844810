//! Segment, system and gate descriptors as they lie in memory (SDM 3A 3.4.5, 3.5, 6.11, 6.14.1).

use crate::core::Core;
use crate::fault::Fault;
use crate::state::{Cpu, Segment};

/// The part of a selector that error codes show: index and table indicator.
pub const SELECTOR_INDEX: u16 = 0xfffc;

/// System segment and gate types (SDM 3A table 3-2).
pub mod kind {
    /// 16-bit TSS, available.
    pub const TSS16: u8 = 1;
    /// LDT.
    pub const LDT: u8 = 2;
    /// 16-bit TSS, busy.
    pub const TSS16_BUSY: u8 = 3;
    /// 16-bit call gate.
    pub const CALL_GATE16: u8 = 4;
    /// Task gate.
    pub const TASK_GATE: u8 = 5;
    /// 16-bit interrupt gate.
    pub const INTERRUPT_GATE16: u8 = 6;
    /// 16-bit trap gate.
    pub const TRAP_GATE16: u8 = 7;
    /// 32-bit, or 64-bit in long mode; so are the next ones.
    pub const TSS: u8 = 9;
    /// TSS, busy.
    pub const TSS_BUSY: u8 = 11;
    /// Call gate.
    pub const CALL_GATE: u8 = 12;
    /// Interrupt gate.
    pub const INTERRUPT_GATE: u8 = 14;
    /// Trap gate.
    pub const TRAP_GATE: u8 = 15;
}

/// The low eight bytes of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Type field, bits 40…43.
    pub fn kind(self) -> u8 {
        (self.0 >> 40 & 15) as u8
    }

    /// Descriptor privilege level, 0…3.
    pub fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    /// P bit.
    pub fn present(self) -> bool {
        self.0 & 1 << 47 != 0
    }

    /// Bit S clear: LDT, TSS or gate.
    pub fn is_system(self) -> bool {
        self.0 & 1 << 44 == 0
    }

    /// Code segment.
    pub fn is_code(self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }

    /// Conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// A data segment, or a code segment that may be read.
    pub fn is_readable(self) -> bool {
        !self.is_system() && self.kind() & 0xa != 8
    }

    /// Data segment that may be written.
    pub fn is_writable(self) -> bool {
        !self.is_system() && self.kind() & 0xa == 2
    }

    /// A bit of a code or data segment.
    pub fn is_accessed(self) -> bool {
        self.kind() & 1 != 0
    }

    /// L bit: 64-bit code.
    pub fn is_long(self) -> bool {
        self.0 & 1 << 53 != 0
    }

    /// D/B bit.
    pub fn is_big(self) -> bool {
        self.0 & 1 << 54 != 0
    }

    /// Segment base, its low 32 bits.
    pub fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | (self.0 >> 56 & 0xff) << 24
    }

    /// Limit in bytes, granularity applied.
    pub fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 & 1 << 55 != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// The hidden part of a segment register that was loaded with this descriptor.
    pub fn segment(self, selector: u16) -> Segment {
        let attributes = (self.0 >> 40) as u16 & 0xf0ff;
        Segment { selector, attributes, limit: self.limit(), base: self.base() }
    }

    /// Selector of a gate.
    pub fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Low 32 bits of a gate's offset; a 16-bit gate has only the low half.
    pub fn gate_offset(self) -> u32 {
        (self.0 & 0xffff | self.0 >> 32 & 0xffff_0000) as u32
    }

    /// Parameter count of a call gate.
    pub fn gate_parameters(self) -> u8 {
        (self.0 >> 32 & 31) as u8
    }

    /// Interrupt-stack-table index of a 64-bit interrupt or trap gate.
    pub fn gate_ist(self) -> u8 {
        (self.0 >> 32 & 7) as u8
    }
}

/// A selector that names no descriptor.
pub fn is_null(selector: u16) -> bool {
    selector & SELECTOR_INDEX == 0
}

/// Error code that names a selector.
pub fn code_of(selector: u16) -> u32 {
    u32::from(selector & SELECTOR_INDEX)
}

/// Linear address of the descriptor of `selector`, if `len` bytes of it are inside its table.
fn descriptor_address(cpu: &Cpu, selector: u16, len: u64) -> Option<u64> {
    let offset = u64::from(selector & 0xfff8);
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr.base, u64::from(cpu.gdtr.limit))
    } else if cpu.ldtr.is_null() {
        return None;
    } else {
        (cpu.ldtr.base, u64::from(cpu.ldtr.limit))
    };
    (offset + len - 1 <= limit).then(|| base.wrapping_add(offset))
}

impl Core {
    /// The descriptor of a selector that is not null; outside its table: `outside` with the selector as code.
    pub(super) fn descriptor(&mut self, selector: u16, outside: u8) -> Result<Descriptor, Fault> {
        match self.find_descriptor(selector)? {
            Some(found) => Ok(found),
            None => Err(Fault::with_code(outside, code_of(selector))),
        }
    }

    /// The descriptor of a selector that is not null, if it is inside its table.
    pub(super) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        match descriptor_address(&self.cpu, selector, 8) {
            Some(gva) => Ok(Some(Descriptor(self.read_system(gva)?))),
            None => Ok(None),
        }
    }

    /// The upper half of a 16-byte descriptor.
    pub(super) fn descriptor_high(&mut self, selector: u16, outside: u8) -> Result<u64, Fault> {
        match descriptor_address(&self.cpu, selector, 16) {
            Some(gva) => self.read_system(gva.wrapping_add(8)),
            None => Err(Fault::with_code(outside, code_of(selector))),
        }
    }

    /// Sets the accessed bit in memory and in the value.
    pub(super) fn mark_accessed(
        &mut self,
        selector: u16,
        descriptor: Descriptor,
    ) -> Result<Descriptor, Fault> {
        if descriptor.is_accessed() {
            return Ok(descriptor);
        }
        let accessed = Descriptor(descriptor.0 | 1 << 40);
        self.write_type(selector, accessed)?;
        Ok(accessed)
    }

    /// Writes the descriptor's byte that holds its type, as marking it accessed or busy does.
    pub(super) fn write_type(&mut self, selector: u16, descriptor: Descriptor) -> Result<(), Fault> {
        match descriptor_address(&self.cpu, selector, 8) {
            Some(gva) => self.write_system(gva.wrapping_add(5), (descriptor.0 >> 40) as u8),
            None => Err(Fault::gp(code_of(selector))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_flat_code_segment() {
        let code = Descriptor(0x00cf_9b00_0000_ffff);
        assert!(code.is_code() && code.is_readable() && !code.is_writable() && !code.is_conforming());
        assert!(code.present() && code.is_big() && !code.is_long() && code.is_accessed());
        assert_eq!((code.base(), code.limit(), code.dpl()), (0, 0xffff_ffff, 0));
        assert_eq!(code.segment(8).attributes, 0xc09b);
    }

    #[test]
    fn base_and_limit_are_gathered() {
        let data = Descriptor(0x1245_f234_5678_9abc);
        assert_eq!(data.base(), 0x1234_5678);
        assert_eq!(data.limit(), 0x5_9abc);
        assert_eq!(data.dpl(), 3);
        assert!(data.is_writable());
    }

    #[test]
    fn fields_of_gates() {
        let gate = Descriptor(0x8765_ee05_0010_4321);
        assert_eq!(gate.gate_offset(), 0x8765_4321);
        assert_eq!(gate.gate_selector(), 0x10);
        assert_eq!((gate.gate_ist(), gate.gate_parameters()), (5, 5));
        assert_eq!((gate.kind(), gate.dpl(), gate.present()), (kind::INTERRUPT_GATE, 3, true));
    }
}
