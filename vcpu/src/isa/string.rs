//! String instructions: MOVS STOS LODS CMPS SCAS with REP.
//!
//! A repeated string instruction is one instruction: it is counted once and events never split it. On a
//! fault the registers show the elements done so far (SDM 2B, REP). The exception is a debug trap, which comes
//! after an element: then each piece between two traps counts as an instruction.

use super::registers::Reg;
use super::{Op, Row, opflag, row};
use crate::core::Core;
use crate::fault::Fault;
use crate::mem::access::Word;
use crate::mem::ram::PAGE_SIZE;
use crate::state::regs::gpr::{RAX, RCX, RDI, RSI};
use crate::state::{Status, rflags, seg};
use iced_x86::Code::*;

/// Mask of the registers by address size.
fn address_mask(op: &Op) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(op.address_size))
}

/// A register written with the address size: 16-bit writes keep the rest, 32-bit ones clear it.
fn set_register(core: &mut Core, register: usize, value: u64, op: &Op) {
    let place = &mut core.cpu.data.gpr[register];
    *place = match op.address_size {
        2 => *place & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
}

/// Distance from one element to the next.
fn step<T: Word>(core: &Core) -> u64 {
    if core.cpu.eflags & rflags::DF != 0 { T::SIZE.wrapping_neg() } else { T::SIZE }
}

fn advance<T: Word>(core: &mut Core, register: usize, elements: u64, op: &Op) {
    let value = core.cpu.data.gpr[register].wrapping_add(step::<T>(core).wrapping_mul(elements));
    set_register(core, register, value, op);
}

/// Linear address of the source element; its segment may be overridden.
pub(super) fn source<T: Word>(core: &Core, op: &Op) -> Result<u64, Fault> {
    let offset = core.cpu.data.gpr[RSI] & address_mask(op);
    core.segment_address(op.checked_segment as usize, offset, T::SIZE, false)
}

/// Linear address of the destination element, always in ES.
pub(super) fn target<T: Word>(core: &Core, op: &Op, write: bool) -> Result<u64, Fault> {
    let offset = core.cpu.data.gpr[RDI] & address_mask(op);
    core.segment_address(seg::ES, offset, T::SIZE, write)
}

pub(super) fn repeats(op: &Op) -> bool {
    op.flags & (opflag::REP | opflag::REPNE) != 0
}

/// A repeated string instruction with 32-bit addresses clears the upper halves of its count, and of the pointers that
/// it writes in one go, even when it does not complete one element, as Intel CPUs do.
fn truncate(core: &mut Core, op: &Op, registers: &[usize]) {
    if repeats(op) && op.address_size == 4 {
        for &register in registers {
            core.cpu.data.gpr[register] &= 0xffff_ffff;
        }
    }
}

/// Runs `element` once, or RCX times under REP. It returns how many elements it did (at least one).
pub(super) fn repeat(
    core: &mut Core,
    op: &Op,
    mut element: impl FnMut(&mut Core, u64) -> Result<u64, Fault>,
) -> Result<(), Fault> {
    if !repeats(op) {
        return element(core, 1).map(drop);
    }
    truncate(core, op, &[RCX]);
    loop {
        let left = core.cpu.data.gpr[RCX] & address_mask(op);
        if left == 0 {
            return Ok(());
        }
        let done = element(core, if core.trap_flag { 1 } else { left })?;
        set_register(core, RCX, left - done, op);
        if left != done && trap_is_due(core) {
            split(core, op);
            return Ok(());
        }
    }
}

/// A single step or a breakpoint on data: a #DB follows the element that was just done (SDM 3B 17.3.1).
fn trap_is_due(core: &Core) -> bool {
    core.trap_flag || core.cpu.debug_pending != 0
}

/// Ends the instruction in its middle: it goes on with the next element. RF in the image that #DB pushes keeps an
/// instruction breakpoint from firing again (SDM 3B 17.3.1.1).
fn split(core: &mut Core, op: &Op) {
    core.cpu.rip = core.this_rip(op);
    core.cpu.eflags |= rflags::RF;
    core.jumped = true;
    core.leave_block = true;
}

/// Elements from `gva` to the end of its page, going up.
fn run_length<T: Word>(gva: u64, limit: u64) -> u64 {
    ((PAGE_SIZE - (gva & (PAGE_SIZE - 1))) / T::SIZE).min(limit)
}

/// Bulk work is for ascending 64-bit strings; the rest goes element by element.
fn bulk(core: &Core, op: &Op, limit: u64) -> bool {
    limit > 1 && core.mode.bits == 64 && op.address_size == 8 && core.cpu.eflags & rflags::DF == 0
}

fn movs<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    truncate(core, op, &[RSI, RDI]);
    repeat(core, op, |core, limit| {
        let (from, to) = (source::<T>(core, op)?, target::<T>(core, op, true)?);
        let done = match move_run::<T>(core, op, from, to, limit) {
            Some(done) => done,
            None => {
                let value = core.read::<T>(from)?;
                core.write(to, value)?;
                1
            }
        };
        advance::<T>(core, RSI, done, op);
        advance::<T>(core, RDI, done, op);
        Ok(done)
    })
}

/// Moves as many elements as lie in one page on both sides, if both pages need no check.
fn move_run<T: Word>(core: &mut Core, op: &Op, from: u64, to: u64, limit: u64) -> Option<u64> {
    if !bulk(core, op, limit) {
        return None;
    }
    let count = run_length::<T>(from, limit).min(run_length::<T>(to, limit));
    let (source, target) = (core.fast_read::<u8>(from)?, core.fast_write::<u8>(to)?);
    let bytes = count * T::SIZE;
    let overlaps_upwards = target > source && target - source < bytes;
    if count == 0 || overlaps_upwards {
        return None;
    }
    core.mem.ram.copy_fast(source, target, bytes);
    Some(count)
}

fn stos<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, RAX as u8);
    truncate(core, op, &[RDI]);
    repeat(core, op, |core, limit| {
        let to = target::<T>(core, op, true)?;
        let count = run_length::<T>(to, limit);
        let done = match core.fast_write::<u8>(to) {
            Some(gpa) if count > 0 && bulk(core, op, limit) => {
                core.mem.ram.fill_fast(gpa, value, count);
                count
            }
            _ => {
                core.write(to, value)?;
                1
            }
        };
        advance::<T>(core, RDI, done, op);
        Ok(done)
    })
}

fn lods<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    repeat(core, op, |core, _| {
        let from = source::<T>(core, op)?;
        let value = core.read::<T>(from)?;
        T::set(&mut core.cpu.data, RAX as u8, value);
        advance::<T>(core, RSI, 1, op);
        Ok(1)
    })
}

/// Runs a comparing element under REPE/REPNE: stops when ZF says so. A fault leaves the flags as they were before the
/// instruction (SDM 2B, REP).
fn compare(
    core: &mut Core,
    op: &Op,
    mut element: impl FnMut(&mut Core) -> Result<Status, Fault>,
) -> Result<(), Fault> {
    if !repeats(op) {
        core.cpu.data.status = element(core)?;
        return Ok(());
    }
    truncate(core, op, &[RCX]);
    let mut flags = core.cpu.data.status;
    loop {
        let left = core.cpu.data.gpr[RCX] & address_mask(op);
        if left == 0 {
            break;
        }
        flags = element(core)?;
        set_register(core, RCX, left - 1, op);
        if left == 1 || flags.has(Status::ZF) != (op.flags & opflag::REP != 0) {
            break;
        }
        if trap_is_due(core) {
            split(core, op);
            break;
        }
    }
    core.cpu.data.status = flags;
    Ok(())
}

fn cmps<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    compare(core, op, |core| {
        let (from, to) = (source::<T>(core, op)?, target::<T>(core, op, false)?);
        // The second operand is read first: which of two faults is raised depends on it.
        let b = core.read::<T>(to)?;
        let a = core.read::<T>(from)?;
        advance::<T>(core, RSI, 1, op);
        advance::<T>(core, RDI, 1, op);
        Ok(a.host_sub(b).1)
    })
}

fn scas<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, RAX as u8);
    compare(core, op, |core| {
        let to = target::<T>(core, op, false)?;
        let other = core.read::<T>(to)?;
        advance::<T>(core, RDI, 1, op);
        Ok(value.host_sub(other).1)
    })
}

/// INS: the port is read after the destination is known to be writable.
fn ins<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let port = core.cpu.data.gpr[crate::state::regs::gpr::RDX] as u16;
    core.check_port(port, T::SIZE)?;
    repeat(core, op, |core, _| {
        let to = target::<T>(core, op, true)?;
        core.probe_write(to, T::SIZE)?;
        let value = core.port_in(port, T::SIZE as u8);
        core.write(to, T::from_u64(u64::from(value)))?;
        advance::<T>(core, RDI, 1, op);
        Ok(1)
    })
}

fn outs<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let port = core.cpu.data.gpr[crate::state::regs::gpr::RDX] as u16;
    core.check_port(port, T::SIZE)?;
    repeat(core, op, |core, _| {
        let from = source::<T>(core, op)?;
        let value = core.read::<T>(from)?;
        core.port_out(port, T::SIZE as u8, value.to_u64() as u32);
        advance::<T>(core, RSI, 1, op);
        Ok(1)
    })
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Movsb_m8_m8, movs::<u8>), row(Movsw_m16_m16, movs::<u16>), row(Movsd_m32_m32, movs::<u32>), row(Movsq_m64_m64, movs::<u64>),
    row(Stosb_m8_AL, stos::<u8>), row(Stosw_m16_AX, stos::<u16>), row(Stosd_m32_EAX, stos::<u32>), row(Stosq_m64_RAX, stos::<u64>),
    row(Lodsb_AL_m8, lods::<u8>), row(Lodsw_AX_m16, lods::<u16>), row(Lodsd_EAX_m32, lods::<u32>), row(Lodsq_RAX_m64, lods::<u64>),
    row(Cmpsb_m8_m8, cmps::<u8>), row(Cmpsw_m16_m16, cmps::<u16>), row(Cmpsd_m32_m32, cmps::<u32>), row(Cmpsq_m64_m64, cmps::<u64>),
    row(Scasb_AL_m8, scas::<u8>), row(Scasw_AX_m16, scas::<u16>), row(Scasd_EAX_m32, scas::<u32>), row(Scasq_RAX_m64, scas::<u64>),
    super::last(Insb_m8_DX, ins::<u8>), super::last(Insw_m16_DX, ins::<u16>), super::last(Insd_m32_DX, ins::<u32>),
    super::last(Outsb_DX_m8, outs::<u8>), super::last(Outsw_DX_m16, outs::<u16>), super::last(Outsd_DX_m32, outs::<u32>),
];
