//! XADD CMPXCHG CMPXCHG8B CMPXCHG16B. LOCK needs nothing: one thread runs all guest CPUs.

use super::registers::Reg;
use super::{Op, Row, forms, row};
use crate::core::Core;
use crate::fault::Fault;
use crate::state::Status;
use crate::state::regs::gpr::{RAX, RBX, RCX, RDX};
use iced_x86::Code::*;

fn xadd_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (old, addend) = (T::get(data, op.rm), T::get(data, op.reg));
    let (sum, flags) = old.host_add(addend);
    data.status = flags;
    T::set(data, op.reg, old);
    T::set(data, op.rm, sum);
    Ok(())
}

fn xadd_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let addend = T::get(&core.cpu.data, op.reg);
    let mut before = T::default();
    core.load_modify::<T>(op, |core, old| {
        before = old;
        let (sum, flags) = old.host_add(addend);
        core.cpu.data.status = flags;
        sum
    })?;
    T::set(&mut core.cpu.data, op.reg, before);
    Ok(())
}

/// What CMPXCHG leaves in its destination, after setting flags; the accumulator is loaded when unequal.
#[inline(always)]
fn compare_exchange<T: Reg>(core: &mut Core, op: &Op, old: T) -> (T, bool) {
    let data = &mut core.cpu.data;
    let (_, flags) = T::get(data, RAX as u8).host_sub(old);
    data.status = flags;
    let equal = flags.has(Status::ZF);
    (if equal { T::get(data, op.reg) } else { old }, equal)
}

fn cmpxchg_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let old = T::get(&core.cpu.data, op.rm);
    let (new, equal) = compare_exchange(core, op, old);
    // Only one of the two is written: a 32-bit write would clear an upper half.
    let (index, value) = if equal { (op.rm, new) } else { (RAX as u8, old) };
    T::set(&mut core.cpu.data, index, value);
    Ok(())
}

/// The destination is written in any case (SDM 2A, CMPXCHG).
fn cmpxchg_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let mut unequal = None;
    core.load_modify::<T>(op, |core, old| {
        let (new, equal) = compare_exchange(core, op, old);
        if !equal {
            unequal = Some(old);
        }
        new
    })?;
    if let Some(old) = unequal {
        T::set(&mut core.cpu.data, RAX as u8, old);
    }
    Ok(())
}

/// CMPXCHG8B (`T` = u32) and CMPXCHG16B (`T` = u64, aligned or #GP).
fn cmpxchg_pair<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let gva = core.operand_address(op)?;
    if T::SIZE == 8 && !gva.is_multiple_of(16) {
        return Err(Fault::gp(0));
    }
    core.probe_write(gva, 2 * T::SIZE).map_err(|fault| core.refine_fault(op, fault))?;
    let low = core.read::<T>(gva)?;
    let high = core.read::<T>(gva.wrapping_add(T::SIZE))?;
    let data = &core.cpu.data;
    let equal = low == T::get(data, RAX as u8) && high == T::get(data, RDX as u8);
    let new = if equal { (T::get(data, RBX as u8), T::get(data, RCX as u8)) } else { (low, high) };
    core.write(gva, new.0)?;
    core.write(gva.wrapping_add(T::SIZE), new.1)?;
    let data = &mut core.cpu.data;
    if !equal {
        T::set(data, RAX as u8, low);
        T::set(data, RDX as u8, high);
    }
    data.status = data.status.with(Status::ZF, equal);
    Ok(())
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    forms(Xadd_rm8_r8, xadd_rm::<u8>, xadd_mem::<u8>),
    forms(Xadd_rm16_r16, xadd_rm::<u16>, xadd_mem::<u16>),
    forms(Xadd_rm32_r32, xadd_rm::<u32>, xadd_mem::<u32>),
    forms(Xadd_rm64_r64, xadd_rm::<u64>, xadd_mem::<u64>),
    forms(Cmpxchg_rm8_r8, cmpxchg_rm::<u8>, cmpxchg_mem::<u8>),
    forms(Cmpxchg_rm16_r16, cmpxchg_rm::<u16>, cmpxchg_mem::<u16>),
    forms(Cmpxchg_rm32_r32, cmpxchg_rm::<u32>, cmpxchg_mem::<u32>),
    forms(Cmpxchg_rm64_r64, cmpxchg_rm::<u64>, cmpxchg_mem::<u64>),
    row(Cmpxchg8b_m64, cmpxchg_pair::<u32>),
    row(Cmpxchg16b_m128, cmpxchg_pair::<u64>),
];
