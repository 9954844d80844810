//! The stack: PUSH POP PUSHA POPA ENTER LEAVE, and what other families use to push and pop.

use super::registers::Reg;
use super::{Op, Row, forms, row};
use crate::core::Core;
use crate::fault::Fault;
use crate::mem::access::Word;
use crate::state::regs::gpr::{RBP, RSP};
use crate::state::{Segment, seg};
use iced_x86::Code::*;

impl Core {
    /// Mask of the stack pointer: SP, ESP or RSP (SDM 1 6.2.3).
    pub fn stack_mask(&self) -> u64 {
        match self.mode.bits {
            64 => u64::MAX,
            _ if self.cpu.segments[seg::SS].has(Segment::DB) => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    /// Sets the stack pointer at its size.
    fn set_sp(&mut self, value: u64) {
        self.set_stack_pointer(value, self.stack_mask());
    }

    /// Linear address of `offset` bytes above the stack pointer.
    fn stack_address(&self, offset: u64, len: u64, write: bool) -> Result<u64, Fault> {
        let at = self.cpu.data.gpr[RSP].wrapping_add(offset) & self.stack_mask();
        self.segment_address(seg::SS, at, len, write)
    }

    /// Pushes a value. On a fault RSP is unchanged.
    #[inline(always)]
    pub fn push<T: Word>(&mut self, value: T) -> Result<(), Fault> {
        if self.mode.bits == 64 {
            let at = self.cpu.data.gpr[RSP].wrapping_sub(T::SIZE);
            self.write(at, value).map_err(|fault| self.stack_fault(fault))?;
            self.cpu.data.gpr[RSP] = at;
            return Ok(());
        }
        self.push_slow(value)
    }

    #[inline(never)]
    fn push_slow<T: Word>(&mut self, value: T) -> Result<(), Fault> {
        let at = self.stack_address(T::SIZE.wrapping_neg(), T::SIZE, true)?;
        self.write(at, value)?;
        self.set_sp(self.cpu.data.gpr[RSP].wrapping_sub(T::SIZE));
        Ok(())
    }

    /// Reads the value `offset` bytes above the stack pointer, which stays.
    #[inline(always)]
    pub fn peek<T: Word>(&mut self, offset: u64) -> Result<T, Fault> {
        if self.mode.bits == 64 {
            let at = self.cpu.data.gpr[RSP].wrapping_add(offset);
            return self.read(at).map_err(|fault| self.stack_fault(fault));
        }
        let at = self.stack_address(offset, T::SIZE, false)?;
        self.read(at)
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    pub fn release_stack(&mut self, bytes: u64) {
        if self.mode.bits == 64 {
            self.cpu.data.gpr[RSP] = self.cpu.data.gpr[RSP].wrapping_add(bytes);
        } else {
            self.set_sp(self.cpu.data.gpr[RSP].wrapping_add(bytes));
        }
    }

    /// Pops a value. On a fault RSP is unchanged.
    #[inline(always)]
    pub fn pop<T: Word>(&mut self) -> Result<T, Fault> {
        let value = self.peek(0)?;
        self.release_stack(T::SIZE);
        Ok(value)
    }
}

fn push_reg<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, op.reg);
    core.push(value)
}

fn push_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, op.rm);
    core.push(value)
}

fn push_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.load::<T>(op)?;
    core.push(value)
}

fn push_imm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.push(T::from_u64(op.imm))
}

/// POP rSP loads the popped value, not the moved pointer.
fn pop_reg<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.pop::<T>()?;
    T::set(&mut core.cpu.data, op.reg, value);
    Ok(())
}

fn pop_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.pop::<T>()?;
    T::set(&mut core.cpu.data, op.rm, value);
    Ok(())
}

/// The address is computed with RSP already moved (SDM 2B, POP); a fault moves it back.
fn pop_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let before = core.cpu.data.gpr[RSP];
    let value = core.pop::<T>()?;
    core.store(op, value).inspect_err(|_| core.cpu.data.gpr[RSP] = before)
}

/// PUSHA: eight registers, with the stack pointer as it was before.
fn push_all<T: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let before = core.cpu.data.gpr[RSP];
    for index in 0..8 {
        let value = if index == RSP as u8 { T::from_u64(before) } else { T::get(&core.cpu.data, index) };
        core.push(value).inspect_err(|_| core.cpu.data.gpr[RSP] = before)?;
    }
    Ok(())
}

/// POPA: eight registers, the saved stack pointer skipped.
fn pop_all<T: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let mut values = [T::default(); 8];
    for (place, value) in values.iter_mut().enumerate() {
        *value = core.peek::<T>(place as u64 * T::SIZE)?;
    }
    core.release_stack(8 * T::SIZE);
    for (place, &value) in values.iter().enumerate() {
        let index = 7 - place;
        if index != RSP {
            T::set(&mut core.cpu.data, index as u8, value);
        }
    }
    Ok(())
}

/// ENTER size, level: `imm` holds the size, `aux` the nesting level.
fn enter<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let level = u64::from(op.aux & 31);
    let before = (core.cpu.data.gpr[RSP], core.cpu.data.gpr[RBP]);
    let result = enter_frame::<T>(core, level, op.imm & 0xffff);
    if result.is_err() {
        (core.cpu.data.gpr[RSP], core.cpu.data.gpr[RBP]) = before;
    }
    result
}

fn enter_frame<T: Reg>(core: &mut Core, level: u64, size: u64) -> Result<(), Fault> {
    let frame_pointer = T::get(&core.cpu.data, RBP as u8);
    core.push(frame_pointer)?;
    let frame = core.cpu.data.gpr[RSP];
    for depth in 1..level {
        let at = core.cpu.data.gpr[RBP].wrapping_sub(depth * T::SIZE) & core.stack_mask();
        let at = core.segment_address(seg::SS, at, T::SIZE, false)?;
        let outer = core.read::<T>(at).map_err(|fault| core.stack_fault(fault))?;
        core.push(outer)?;
    }
    if level > 0 {
        core.push(T::from_u64(frame))?;
    }
    core.set_sp(core.cpu.data.gpr[RSP].wrapping_sub(size));
    // The frame must be writable at its new end (SDM 2A, ENTER).
    let end = core.stack_address(0, T::SIZE, true)?;
    core.probe_write(end, T::SIZE).map_err(|fault| core.stack_fault(fault))?;
    T::set(&mut core.cpu.data, RBP as u8, T::from_u64(frame));
    Ok(())
}

fn leave<T: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let before = core.cpu.data.gpr[RSP];
    core.set_sp(core.cpu.data.gpr[RBP]);
    match core.pop::<T>() {
        Ok(value) => T::set(&mut core.cpu.data, RBP as u8, value),
        Err(fault) => {
            core.cpu.data.gpr[RSP] = before;
            return Err(fault);
        }
    }
    Ok(())
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Push_r16, push_reg::<u16>), row(Push_r32, push_reg::<u32>), row(Push_r64, push_reg::<u64>),
    row(Pop_r16, pop_reg::<u16>), row(Pop_r32, pop_reg::<u32>), row(Pop_r64, pop_reg::<u64>),
    forms(Push_rm16, push_rm::<u16>, push_mem::<u16>),
    forms(Push_rm32, push_rm::<u32>, push_mem::<u32>),
    forms(Push_rm64, push_rm::<u64>, push_mem::<u64>),
    forms(Pop_rm16, pop_rm::<u16>, pop_mem::<u16>),
    forms(Pop_rm32, pop_rm::<u32>, pop_mem::<u32>),
    forms(Pop_rm64, pop_rm::<u64>, pop_mem::<u64>),
    row(Push_imm16, push_imm::<u16>), row(Pushd_imm32, push_imm::<u32>), row(Pushq_imm32, push_imm::<u64>),
    row(Pushw_imm8, push_imm::<u16>), row(Pushd_imm8, push_imm::<u32>), row(Pushq_imm8, push_imm::<u64>),
    row(Pushaw, push_all::<u16>), row(Pushad, push_all::<u32>),
    row(Popaw, pop_all::<u16>), row(Popad, pop_all::<u32>),
    row(Enterw_imm16_imm8, enter::<u16>), row(Enterd_imm16_imm8, enter::<u32>), row(Enterq_imm16_imm8, enter::<u64>),
    row(Leavew, leave::<u16>), row(Leaved, leave::<u32>), row(Leaveq, leave::<u64>),
];
