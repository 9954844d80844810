//! Data movement: MOV MOVZX MOVSX MOVSXD LEA XCHG CMOVcc SETcc BSWAP MOVBE XLAT, and sign extensions of the accumulator.

use super::registers::Reg;
use super::{Op, Row, forms, row};
use crate::core::Core;
use crate::fault::Fault;
use crate::mem::access::Word;
use crate::state::regs::gpr;
use iced_x86::Code::*;

fn mov_rm_reg<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, op.reg);
    T::set(&mut core.cpu.data, op.rm, value);
    Ok(())
}

fn mov_mem_reg<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, op.reg);
    core.store(op, value)
}

fn mov_reg_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, op.rm);
    T::set(&mut core.cpu.data, op.reg, value);
    Ok(())
}

fn mov_reg_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.load::<T>(op)?;
    T::set(&mut core.cpu.data, op.reg, value);
    Ok(())
}

fn mov_reg_imm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    T::set(&mut core.cpu.data, op.reg, T::from_u64(op.imm));
    Ok(())
}

fn mov_rm_imm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    T::set(&mut core.cpu.data, op.rm, T::from_u64(op.imm));
    Ok(())
}

fn mov_mem_imm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.store(op, T::from_u64(op.imm))
}

/// Accumulator ← absolute address. The decoder makes the moffs an ordinary memory operand.
fn mov_acc_moffs<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.load::<T>(op)?;
    T::set(&mut core.cpu.data, 0, value);
    Ok(())
}

fn mov_moffs_acc<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = T::get(&core.cpu.data, 0);
    core.store(op, value)
}

/// Sign-extends a value of type `S` to 64 bits.
#[inline(always)]
fn sign_extend<S: Word>(value: S) -> u64 {
    let shift = 64 - S::BITS;
    ((value.to_u64() << shift) as i64 >> shift) as u64
}

fn movzx_rm<D: Reg, S: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = S::get(&core.cpu.data, op.rm).to_u64();
    D::set(&mut core.cpu.data, op.reg, D::from_u64(value));
    Ok(())
}

fn movzx_mem<D: Reg, S: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.load::<S>(op)?.to_u64();
    D::set(&mut core.cpu.data, op.reg, D::from_u64(value));
    Ok(())
}

fn movsx_rm<D: Reg, S: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = sign_extend(S::get(&core.cpu.data, op.rm));
    D::set(&mut core.cpu.data, op.reg, D::from_u64(value));
    Ok(())
}

fn movsx_mem<D: Reg, S: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = sign_extend(core.load::<S>(op)?);
    D::set(&mut core.cpu.data, op.reg, D::from_u64(value));
    Ok(())
}

fn lea<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.effective_offset(op);
    T::set(&mut core.cpu.data, op.reg, T::from_u64(value));
    Ok(())
}

fn xchg_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (a, b) = (T::get(data, op.reg), T::get(data, op.rm));
    T::set(data, op.rm, a);
    T::set(data, op.reg, b);
    Ok(())
}

fn xchg_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let mine = T::get(&core.cpu.data, op.reg);
    let mut theirs = T::default();
    core.load_modify::<T>(op, |_, old| {
        theirs = old;
        mine
    })?;
    T::set(&mut core.cpu.data, op.reg, theirs);
    Ok(())
}

/// XCHG with the accumulator; the other register is in the opcode.
fn xchg_acc<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (a, b) = (T::get(data, 0), T::get(data, op.reg));
    T::set(data, op.reg, a);
    T::set(data, 0, b);
    Ok(())
}

/// A 32-bit CMOV clears the upper half of its destination even when the condition is false.
fn cmov_rm<T: Reg, const CONDITION: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let from = if data.status.condition(CONDITION) { op.rm } else { op.reg };
    let value = T::get(data, from);
    T::set(data, op.reg, value);
    Ok(())
}

/// The memory operand is read, and may fault, whatever the condition.
fn cmov_mem<T: Reg, const CONDITION: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let loaded = core.load::<T>(op)?;
    let data = &mut core.cpu.data;
    let value = if data.status.condition(CONDITION) { loaded } else { T::get(data, op.reg) };
    T::set(data, op.reg, value);
    Ok(())
}

fn setcc_rm<const CONDITION: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = u8::from(core.cpu.data.status.condition(CONDITION));
    u8::set(&mut core.cpu.data, op.rm, value);
    Ok(())
}

fn setcc_mem<const CONDITION: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = u8::from(core.cpu.data.status.condition(CONDITION));
    core.store(op, value)
}

/// BSWAP of a 16-bit register is undefined; canonically zero, as Intel CPUs do.
fn bswap16(core: &mut Core, op: &Op) -> Result<(), Fault> {
    u16::set(&mut core.cpu.data, op.reg, 0);
    Ok(())
}

fn bswap32(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = u32::get(&core.cpu.data, op.reg).swap_bytes();
    u32::set(&mut core.cpu.data, op.reg, value);
    Ok(())
}

fn bswap64(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = u64::get(&core.cpu.data, op.reg).swap_bytes();
    u64::set(&mut core.cpu.data, op.reg, value);
    Ok(())
}

#[inline(always)]
fn swapped<T: Word>(value: T) -> T {
    T::from_u64(value.to_u64().swap_bytes() >> (64 - T::BITS))
}

fn movbe_load<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = swapped(core.load::<T>(op)?);
    T::set(&mut core.cpu.data, op.reg, value);
    Ok(())
}

fn movbe_store<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = swapped(T::get(&core.cpu.data, op.reg));
    core.store(op, value)
}

/// XLAT: the decoder makes [rBX + AL] base RBX; AL is added here.
fn xlat(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let table = Op { disp: i64::from(u8::get(&core.cpu.data, 0)), index: gpr::ZERO as u8, ..op.clone() };
    let value = core.load::<u8>(&table)?;
    u8::set(&mut core.cpu.data, 0, value);
    Ok(())
}

/// CBW, CWDE, CDQE: the accumulator's lower half, sign-extended.
fn extend_acc<D: Reg, S: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let value = sign_extend(S::get(&core.cpu.data, 0));
    D::set(&mut core.cpu.data, 0, D::from_u64(value));
    Ok(())
}

/// CWD, CDQ, CQO: rDX filled with the accumulator's sign.
fn sign_to_dx<T: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let negative = sign_extend(T::get(&core.cpu.data, 0)) >> 63 != 0;
    T::set(&mut core.cpu.data, gpr::RDX as u8, T::from_u64(if negative { u64::MAX } else { 0 }));
    Ok(())
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    forms(Mov_rm8_r8, mov_rm_reg::<u8>, mov_mem_reg::<u8>),
    forms(Mov_r8_rm8, mov_reg_rm::<u8>, mov_reg_mem::<u8>),
    row(Mov_r8_imm8, mov_reg_imm::<u8>),
    forms(Mov_rm8_imm8, mov_rm_imm::<u8>, mov_mem_imm::<u8>),
    row(Mov_AL_moffs8, mov_acc_moffs::<u8>),
    row(Mov_moffs8_AL, mov_moffs_acc::<u8>),
    forms(Xchg_rm8_r8, xchg_rm::<u8>, xchg_mem::<u8>),
    forms(Mov_rm16_r16, mov_rm_reg::<u16>, mov_mem_reg::<u16>),
    forms(Mov_r16_rm16, mov_reg_rm::<u16>, mov_reg_mem::<u16>),
    row(Mov_r16_imm16, mov_reg_imm::<u16>),
    forms(Mov_rm16_imm16, mov_rm_imm::<u16>, mov_mem_imm::<u16>),
    row(Mov_AX_moffs16, mov_acc_moffs::<u16>),
    row(Mov_moffs16_AX, mov_moffs_acc::<u16>),
    forms(Xchg_rm16_r16, xchg_rm::<u16>, xchg_mem::<u16>),
    row(Xchg_r16_AX, xchg_acc::<u16>),
    row(Lea_r16_m, lea::<u16>),
    row(Movbe_r16_m16, movbe_load::<u16>),
    row(Movbe_m16_r16, movbe_store::<u16>),
    row(Bswap_r16, bswap16),
    forms(Movzx_r16_rm8, movzx_rm::<u16, u8>, movzx_mem::<u16, u8>),
    forms(Movsx_r16_rm8, movsx_rm::<u16, u8>, movsx_mem::<u16, u8>),
    forms(Movzx_r16_rm16, movzx_rm::<u16, u16>, movzx_mem::<u16, u16>),
    forms(Movsx_r16_rm16, movsx_rm::<u16, u16>, movsx_mem::<u16, u16>),
    forms(Movsxd_r16_rm16, movsx_rm::<u16, u16>, movsx_mem::<u16, u16>),
    forms(Mov_rm32_r32, mov_rm_reg::<u32>, mov_mem_reg::<u32>),
    forms(Mov_r32_rm32, mov_reg_rm::<u32>, mov_reg_mem::<u32>),
    row(Mov_r32_imm32, mov_reg_imm::<u32>),
    forms(Mov_rm32_imm32, mov_rm_imm::<u32>, mov_mem_imm::<u32>),
    row(Mov_EAX_moffs32, mov_acc_moffs::<u32>),
    row(Mov_moffs32_EAX, mov_moffs_acc::<u32>),
    forms(Xchg_rm32_r32, xchg_rm::<u32>, xchg_mem::<u32>),
    row(Xchg_r32_EAX, xchg_acc::<u32>),
    row(Lea_r32_m, lea::<u32>),
    row(Movbe_r32_m32, movbe_load::<u32>),
    row(Movbe_m32_r32, movbe_store::<u32>),
    row(Bswap_r32, bswap32),
    forms(Movzx_r32_rm8, movzx_rm::<u32, u8>, movzx_mem::<u32, u8>),
    forms(Movsx_r32_rm8, movsx_rm::<u32, u8>, movsx_mem::<u32, u8>),
    forms(Movzx_r32_rm16, movzx_rm::<u32, u16>, movzx_mem::<u32, u16>),
    forms(Movsx_r32_rm16, movsx_rm::<u32, u16>, movsx_mem::<u32, u16>),
    forms(Movsxd_r32_rm32, movsx_rm::<u32, u32>, movsx_mem::<u32, u32>),
    forms(Mov_rm64_r64, mov_rm_reg::<u64>, mov_mem_reg::<u64>),
    forms(Mov_r64_rm64, mov_reg_rm::<u64>, mov_reg_mem::<u64>),
    row(Mov_r64_imm64, mov_reg_imm::<u64>),
    forms(Mov_rm64_imm32, mov_rm_imm::<u64>, mov_mem_imm::<u64>),
    row(Mov_RAX_moffs64, mov_acc_moffs::<u64>),
    row(Mov_moffs64_RAX, mov_moffs_acc::<u64>),
    forms(Xchg_rm64_r64, xchg_rm::<u64>, xchg_mem::<u64>),
    row(Xchg_r64_RAX, xchg_acc::<u64>),
    row(Lea_r64_m, lea::<u64>),
    row(Movbe_r64_m64, movbe_load::<u64>),
    row(Movbe_m64_r64, movbe_store::<u64>),
    row(Bswap_r64, bswap64),
    forms(Movzx_r64_rm8, movzx_rm::<u64, u8>, movzx_mem::<u64, u8>),
    forms(Movsx_r64_rm8, movsx_rm::<u64, u8>, movsx_mem::<u64, u8>),
    forms(Movzx_r64_rm16, movzx_rm::<u64, u16>, movzx_mem::<u64, u16>),
    forms(Movsx_r64_rm16, movsx_rm::<u64, u16>, movsx_mem::<u64, u16>),
    forms(Movsxd_r64_rm32, movsx_rm::<u64, u32>, movsx_mem::<u64, u32>),
    row(Xlat_m8, xlat),
    row(Cbw, extend_acc::<u16, u8>),
    row(Cwde, extend_acc::<u32, u16>),
    row(Cdqe, extend_acc::<u64, u32>),
    row(Cwd, sign_to_dx::<u16>),
    row(Cdq, sign_to_dx::<u32>),
    row(Cqo, sign_to_dx::<u64>),
    forms(Cmovo_r16_rm16, cmov_rm::<u16, 0>, cmov_mem::<u16, 0>),
    forms(Cmovo_r32_rm32, cmov_rm::<u32, 0>, cmov_mem::<u32, 0>),
    forms(Cmovo_r64_rm64, cmov_rm::<u64, 0>, cmov_mem::<u64, 0>),
    forms(Seto_rm8, setcc_rm::<0>, setcc_mem::<0>),
    forms(Cmovno_r16_rm16, cmov_rm::<u16, 1>, cmov_mem::<u16, 1>),
    forms(Cmovno_r32_rm32, cmov_rm::<u32, 1>, cmov_mem::<u32, 1>),
    forms(Cmovno_r64_rm64, cmov_rm::<u64, 1>, cmov_mem::<u64, 1>),
    forms(Setno_rm8, setcc_rm::<1>, setcc_mem::<1>),
    forms(Cmovb_r16_rm16, cmov_rm::<u16, 2>, cmov_mem::<u16, 2>),
    forms(Cmovb_r32_rm32, cmov_rm::<u32, 2>, cmov_mem::<u32, 2>),
    forms(Cmovb_r64_rm64, cmov_rm::<u64, 2>, cmov_mem::<u64, 2>),
    forms(Setb_rm8, setcc_rm::<2>, setcc_mem::<2>),
    forms(Cmovae_r16_rm16, cmov_rm::<u16, 3>, cmov_mem::<u16, 3>),
    forms(Cmovae_r32_rm32, cmov_rm::<u32, 3>, cmov_mem::<u32, 3>),
    forms(Cmovae_r64_rm64, cmov_rm::<u64, 3>, cmov_mem::<u64, 3>),
    forms(Setae_rm8, setcc_rm::<3>, setcc_mem::<3>),
    forms(Cmove_r16_rm16, cmov_rm::<u16, 4>, cmov_mem::<u16, 4>),
    forms(Cmove_r32_rm32, cmov_rm::<u32, 4>, cmov_mem::<u32, 4>),
    forms(Cmove_r64_rm64, cmov_rm::<u64, 4>, cmov_mem::<u64, 4>),
    forms(Sete_rm8, setcc_rm::<4>, setcc_mem::<4>),
    forms(Cmovne_r16_rm16, cmov_rm::<u16, 5>, cmov_mem::<u16, 5>),
    forms(Cmovne_r32_rm32, cmov_rm::<u32, 5>, cmov_mem::<u32, 5>),
    forms(Cmovne_r64_rm64, cmov_rm::<u64, 5>, cmov_mem::<u64, 5>),
    forms(Setne_rm8, setcc_rm::<5>, setcc_mem::<5>),
    forms(Cmovbe_r16_rm16, cmov_rm::<u16, 6>, cmov_mem::<u16, 6>),
    forms(Cmovbe_r32_rm32, cmov_rm::<u32, 6>, cmov_mem::<u32, 6>),
    forms(Cmovbe_r64_rm64, cmov_rm::<u64, 6>, cmov_mem::<u64, 6>),
    forms(Setbe_rm8, setcc_rm::<6>, setcc_mem::<6>),
    forms(Cmova_r16_rm16, cmov_rm::<u16, 7>, cmov_mem::<u16, 7>),
    forms(Cmova_r32_rm32, cmov_rm::<u32, 7>, cmov_mem::<u32, 7>),
    forms(Cmova_r64_rm64, cmov_rm::<u64, 7>, cmov_mem::<u64, 7>),
    forms(Seta_rm8, setcc_rm::<7>, setcc_mem::<7>),
    forms(Cmovs_r16_rm16, cmov_rm::<u16, 8>, cmov_mem::<u16, 8>),
    forms(Cmovs_r32_rm32, cmov_rm::<u32, 8>, cmov_mem::<u32, 8>),
    forms(Cmovs_r64_rm64, cmov_rm::<u64, 8>, cmov_mem::<u64, 8>),
    forms(Sets_rm8, setcc_rm::<8>, setcc_mem::<8>),
    forms(Cmovns_r16_rm16, cmov_rm::<u16, 9>, cmov_mem::<u16, 9>),
    forms(Cmovns_r32_rm32, cmov_rm::<u32, 9>, cmov_mem::<u32, 9>),
    forms(Cmovns_r64_rm64, cmov_rm::<u64, 9>, cmov_mem::<u64, 9>),
    forms(Setns_rm8, setcc_rm::<9>, setcc_mem::<9>),
    forms(Cmovp_r16_rm16, cmov_rm::<u16, 10>, cmov_mem::<u16, 10>),
    forms(Cmovp_r32_rm32, cmov_rm::<u32, 10>, cmov_mem::<u32, 10>),
    forms(Cmovp_r64_rm64, cmov_rm::<u64, 10>, cmov_mem::<u64, 10>),
    forms(Setp_rm8, setcc_rm::<10>, setcc_mem::<10>),
    forms(Cmovnp_r16_rm16, cmov_rm::<u16, 11>, cmov_mem::<u16, 11>),
    forms(Cmovnp_r32_rm32, cmov_rm::<u32, 11>, cmov_mem::<u32, 11>),
    forms(Cmovnp_r64_rm64, cmov_rm::<u64, 11>, cmov_mem::<u64, 11>),
    forms(Setnp_rm8, setcc_rm::<11>, setcc_mem::<11>),
    forms(Cmovl_r16_rm16, cmov_rm::<u16, 12>, cmov_mem::<u16, 12>),
    forms(Cmovl_r32_rm32, cmov_rm::<u32, 12>, cmov_mem::<u32, 12>),
    forms(Cmovl_r64_rm64, cmov_rm::<u64, 12>, cmov_mem::<u64, 12>),
    forms(Setl_rm8, setcc_rm::<12>, setcc_mem::<12>),
    forms(Cmovge_r16_rm16, cmov_rm::<u16, 13>, cmov_mem::<u16, 13>),
    forms(Cmovge_r32_rm32, cmov_rm::<u32, 13>, cmov_mem::<u32, 13>),
    forms(Cmovge_r64_rm64, cmov_rm::<u64, 13>, cmov_mem::<u64, 13>),
    forms(Setge_rm8, setcc_rm::<13>, setcc_mem::<13>),
    forms(Cmovle_r16_rm16, cmov_rm::<u16, 14>, cmov_mem::<u16, 14>),
    forms(Cmovle_r32_rm32, cmov_rm::<u32, 14>, cmov_mem::<u32, 14>),
    forms(Cmovle_r64_rm64, cmov_rm::<u64, 14>, cmov_mem::<u64, 14>),
    forms(Setle_rm8, setcc_rm::<14>, setcc_mem::<14>),
    forms(Cmovg_r16_rm16, cmov_rm::<u16, 15>, cmov_mem::<u16, 15>),
    forms(Cmovg_r32_rm32, cmov_rm::<u32, 15>, cmov_mem::<u32, 15>),
    forms(Cmovg_r64_rm64, cmov_rm::<u64, 15>, cmov_mem::<u64, 15>),
    forms(Setg_rm8, setcc_rm::<15>, setcc_mem::<15>),
];
