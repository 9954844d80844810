//! Pushes and pops whose registers are committed only when all of them went through.

use super::segment::within_limit;
use crate::core::Core;
use crate::fault::Fault;
use crate::state::regs::gpr;
use crate::state::{Segment, seg};

/// A stack in use by one instruction: the current one, or one that is being switched to.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// SS with its hidden part.
    pub segment: Segment,
    /// The stack pointer.
    pub pointer: u64,
    /// Bits of the stack pointer that count: 16, 32 or 64 of them.
    mask: u64,
    /// Error code of #SS when a reference goes beyond the segment.
    code: u32,
}

impl Stack {
    /// The stack that SS:RSP names now.
    pub fn current(core: &Core) -> Stack {
        let segment = core.cpu.segments[seg::SS];
        let mask = if core.mode.bits == 64 { u64::MAX } else { segment_mask(&segment) };
        Stack { segment, pointer: core.cpu.data.gpr[gpr::RSP], mask, code: 0 }
    }

    /// A stack outside 64-bit mode that is being switched to; `code` goes with #SS.
    pub fn switched(segment: Segment, pointer: u64, code: u32) -> Stack {
        Stack { segment, pointer, mask: segment_mask(&segment), code }
    }

    /// The stack that RSP names once `code` and `segment` are loaded.
    pub fn new(core: &Core, code: &Segment, segment: Segment) -> Stack {
        let mask = if core.is_64bit(code) { u64::MAX } else { segment_mask(&segment) };
        Stack { segment, pointer: core.cpu.data.gpr[gpr::RSP], mask, code: 0 }
    }

    /// A stack in 64-bit mode that is being switched to.
    pub fn long(segment: Segment, pointer: u64) -> Stack {
        Stack { segment, pointer, mask: u64::MAX, code: 0 }
    }

    /// Linear address of `size` bytes at the offset, checked against the segment.
    fn address(&self, core: &Core, offset: u64, size: u8) -> Result<u64, Fault> {
        if self.mask == u64::MAX {
            return Ok(offset);
        }
        let usable = !core.mode.protected || self.segment.is_writable() && !self.segment.is_null();
        if !usable || !within_limit(&self.segment, offset, u64::from(size)) {
            return Err(Fault::ss(self.code));
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Pushes the low `size` bytes (2, 4, 8) of a value with the rights of the current CPL.
    pub fn push(&mut self, core: &mut Core, size: u8, value: u64) -> Result<(), Fault> {
        let offset = self.pointer.wrapping_sub(u64::from(size)) & self.mask;
        let gva = self.address(core, offset, size)?;
        let written = match size {
            2 => core.write(gva, value as u16),
            4 => core.write(gva, value as u32),
            _ => core.write(gva, value),
        };
        written.map_err(|fault| core.stack_fault(fault))?;
        self.pointer = self.pointer & !self.mask | offset;
        Ok(())
    }

    /// Pushes a selector. With a 32-bit operand only 16 bits of the slot are written (SDM 2, PUSH).
    pub fn push_selector(&mut self, core: &mut Core, size: u8, selector: u16) -> Result<(), Fault> {
        if size != 4 {
            return self.push(core, size, u64::from(selector));
        }
        let offset = self.pointer.wrapping_sub(4) & self.mask;
        let gva = self.address(core, offset, 4)?;
        core.write(gva, selector).map_err(|fault| core.stack_fault(fault))?;
        self.pointer = self.pointer & !self.mask | offset;
        Ok(())
    }

    /// Pops `size` bytes (2, 4, 8), zero-extended.
    pub fn pop(&mut self, core: &mut Core, size: u8) -> Result<u64, Fault> {
        let offset = self.pointer & self.mask;
        let gva = self.address(core, offset, size)?;
        let read = match size {
            2 => core.read::<u16>(gva).map(u64::from),
            4 => core.read::<u32>(gva).map(u64::from),
            _ => core.read::<u64>(gva),
        };
        let value = read.map_err(|fault| core.stack_fault(fault))?;
        self.skip(u64::from(size));
        Ok(value)
    }

    /// Moves the pointer up without reading.
    pub fn skip(&mut self, bytes: u64) {
        self.pointer = self.pointer & !self.mask | self.pointer.wrapping_add(bytes) & self.mask;
    }

    /// Makes it the current stack pointer. SS is the caller's.
    pub fn commit(&self, core: &mut Core) {
        core.set_stack_pointer(self.pointer, self.mask);
    }
}

/// Bits of the stack pointer that a stack segment outside 64-bit mode uses.
pub fn segment_mask(segment: &Segment) -> u64 {
    if segment.has(Segment::DB) { 0xffff_ffff } else { 0xffff }
}

impl Core {
    /// Writes the bits of RSP that `mask` names; a 32-bit stack clears the upper half.
    pub fn set_stack_pointer(&mut self, value: u64, mask: u64) {
        let rsp = &mut self.cpu.data.gpr[gpr::RSP];
        *rsp = match mask {
            0xffff => *rsp & !0xffff | value & 0xffff,
            _ => value & mask,
        };
    }
}
