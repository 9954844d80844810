//! Effective addresses of decoded memory operands, and loads and stores through them.

use super::access::Word;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, opflag};
use crate::state::{Segment, seg};

/// Bits of `Op::address_size` 2, 4 and 8.
fn address_mask(size: u8) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

impl Core {
    /// Offset of the memory operand in its segment, before truncation to the address size.
    #[inline(always)]
    fn offset(&self, op: &Op) -> u64 {
        let gpr = &self.cpu.data.gpr;
        gpr[(op.base & 31) as usize]
            .wrapping_add(gpr[(op.index & 31) as usize] << (op.scale & 3))
            .wrapping_add(op.disp as u64)
    }

    /// Effective address as LEA computes it: truncated to the address size, no segment base.
    #[inline(always)]
    pub fn effective_offset(&self, op: &Op) -> u64 {
        self.offset(op) & address_mask(op.address_size)
    }

    /// Linear address of the op's memory operand.
    #[inline(always)]
    pub fn operand_address(&mut self, op: &Op) -> Result<u64, Fault> {
        if op.flags & opflag::SLOW_ADDRESS == 0 {
            Ok(self.offset(op).wrapping_add(self.cpu.ea_base[(op.segment & 7) as usize]))
        } else {
            self.operand_address_slow(op)
        }
    }

    #[cold]
    #[inline(never)]
    fn operand_address_slow(&mut self, op: &Op) -> Result<u64, Fault> {
        let offset = self.effective_offset(op);
        if self.mode.bits == 64 {
            return Ok(offset.wrapping_add(self.cpu.ea_base[(op.segment & 7) as usize]));
        }
        let write = op.flags & opflag::WRITES != 0;
        self.segment_address(op.checked_segment as usize, offset, u64::from(op.size.max(1)), write)
    }

    /// Linear address of `offset` in a segment, after the checks of SDM 3A 5.3 and 5.5. In 64-bit mode only the base counts.
    pub fn segment_address(&self, segment: usize, offset: u64, len: u64, write: bool) -> Result<u64, Fault> {
        let index = segment.min(seg::GS);
        if self.mode.bits == 64 {
            let base = if index >= seg::FS { self.cpu.segments[index].base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        let descriptor = &self.cpu.segments[index];
        let fault = Fault::with_code(if index == seg::SS { vector::SS } else { vector::GP }, 0);
        if self.mode.protected && (descriptor.is_null() || !usable(descriptor, write)) {
            return Err(fault);
        }
        if !inside(descriptor, offset, len) {
            return Err(fault);
        }
        Ok(descriptor.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Turns the #GP of a stack access into #SS: an access raises #GP only for a non-canonical address (SDM 3A 6.15).
    #[cold]
    pub fn stack_fault(&self, fault: Fault) -> Fault {
        if fault.vector() == vector::GP { Fault::ss(0) } else { fault }
    }

    /// The fault of an access to the op's memory operand: #SS instead of #GP in the stack segment.
    pub fn refine_fault(&self, op: &Op, fault: Fault) -> Fault {
        if op.checked_segment as usize == seg::SS { self.stack_fault(fault) } else { fault }
    }

    /// Loads the op's memory operand.
    #[inline(always)]
    pub fn load<T: Word>(&mut self, op: &Op) -> Result<T, Fault> {
        let gva = self.operand_address(op)?;
        self.read(gva).map_err(|fault| self.refine_fault(op, fault))
    }

    /// Stores to the op's memory operand.
    #[inline(always)]
    pub fn store<T: Word>(&mut self, op: &Op, value: T) -> Result<(), Fault> {
        let gva = self.operand_address(op)?;
        self.write(gva, value).map_err(|fault| self.refine_fault(op, fault))
    }

    /// Reads the op's memory operand, applies `change`, writes it back.
    #[inline(always)]
    pub fn load_modify<T: Word>(
        &mut self,
        op: &Op,
        change: impl FnOnce(&mut Core, T) -> T,
    ) -> Result<(), Fault> {
        let gva = self.operand_address(op)?;
        self.modify(gva, change).map_err(|fault| self.refine_fault(op, fault))
    }
}

fn usable(descriptor: &Segment, write: bool) -> bool {
    let readable = !descriptor.is_code() || descriptor.attributes & 2 != 0;
    if write { descriptor.is_writable() } else { readable }
}

/// Limit check; data segments of type bit 2 expand down (SDM 3A 5.3).
fn inside(descriptor: &Segment, offset: u64, len: u64) -> bool {
    let last = offset + (len - 1);
    let limit = u64::from(descriptor.limit);
    let expands_down = descriptor.has(Segment::S) && descriptor.attributes & 0xc == 4;
    if expands_down {
        let top = if descriptor.has(Segment::DB) { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}
