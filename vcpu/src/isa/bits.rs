//! Bit tests and scans: BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT.
//!
//! Canonical where the manual is silent: BT and its kin change only CF; BSF and BSR of zero leave the
//! destination alone (as CPUs do) and clear all flags but ZF.

use super::registers::Reg;
use super::{Op, Row, forms};
use crate::core::Core;
use crate::fault::Fault;
use crate::state::Status;
use iced_x86::Code::*;

/// What happens to the tested bit.
trait Change {
    const WRITES: bool = true;
    fn apply(value: u64, bit: u64) -> u64;
}

struct Keep;
impl Change for Keep {
    const WRITES: bool = false;
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}

struct Set;
impl Change for Set {
    fn apply(value: u64, bit: u64) -> u64 {
        value | bit
    }
}

struct Reset;
impl Change for Reset {
    fn apply(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}

struct Complement;
impl Change for Complement {
    fn apply(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

#[inline(always)]
fn test_rm<C: Change, T: Reg>(core: &mut Core, op: &Op, index: u64) -> Result<(), Fault> {
    let bit = 1u64 << (index & u64::from(T::BITS - 1));
    let data = &mut core.cpu.data;
    let value = T::get(data, op.rm).to_u64();
    data.status = data.status.with(Status::CF, value & bit != 0);
    if C::WRITES {
        T::set(data, op.rm, T::from_u64(C::apply(value, bit)));
    }
    Ok(())
}

#[inline(always)]
fn test_memory<C: Change, T: Reg>(core: &mut Core, op: &Op, index: u64) -> Result<(), Fault> {
    let bit = 1u64 << (index & u64::from(T::BITS - 1));
    if !C::WRITES {
        let value = core.load::<T>(op)?.to_u64();
        core.cpu.data.status = core.cpu.data.status.with(Status::CF, value & bit != 0);
        return Ok(());
    }
    core.load_modify::<T>(op, |core, old| {
        core.cpu.data.status = core.cpu.data.status.with(Status::CF, old.to_u64() & bit != 0);
        T::from_u64(C::apply(old.to_u64(), bit))
    })
}

fn rm_imm<C: Change, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    test_rm::<C, T>(core, op, op.imm)
}

fn mem_imm<C: Change, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    test_memory::<C, T>(core, op, op.imm)
}

fn rm_reg<C: Change, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let index = T::get(&core.cpu.data, op.reg).to_u64();
    test_rm::<C, T>(core, op, index)
}

/// With a register index the operand is a bit string that reaches beyond the addressed word (SDM 2A, BT).
fn mem_reg<C: Change, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let unused = 64 - T::BITS;
    let index = (T::get(&core.cpu.data, op.reg).to_u64() << unused) as i64 >> unused;
    let words = index >> T::BITS.trailing_zeros();
    let moved = Op { disp: op.disp.wrapping_add(words.wrapping_mul(T::SIZE as i64)), ..op.clone() };
    test_memory::<C, T>(core, &moved, index as u64)
}

#[inline(always)]
fn operand<T: Reg>(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    if op.is_memory() {
        core.load::<T>(op).map(T::to_u64)
    } else {
        Ok(T::get(&core.cpu.data, op.rm).to_u64())
    }
}

fn scan<T: Reg>(core: &mut Core, op: &Op, find: fn(u64) -> u32) -> Result<(), Fault> {
    let value = operand::<T>(core, op)?;
    let data = &mut core.cpu.data;
    data.status = Status(0).with(Status::ZF, value == 0);
    if value != 0 {
        T::set(data, op.reg, T::from_u64(u64::from(find(value))));
    }
    Ok(())
}

fn bsf<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    scan::<T>(core, op, u64::trailing_zeros)
}

fn bsr<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    scan::<T>(core, op, u64::ilog2)
}

/// TZCNT and LZCNT: CF tells a zero operand, ZF a zero count; the other flags are undefined, canonically clear.
fn count<T: Reg>(core: &mut Core, op: &Op, counted: fn(u64) -> u32) -> Result<(), Fault> {
    let value = operand::<T>(core, op)?;
    let zeros = counted(value).min(T::BITS);
    let data = &mut core.cpu.data;
    data.status = Status(0).with(Status::CF, value == 0).with(Status::ZF, zeros == 0);
    T::set(data, op.reg, T::from_u64(u64::from(zeros)));
    Ok(())
}

fn tzcnt<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    count::<T>(core, op, u64::trailing_zeros)
}

fn lzcnt<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let leading: fn(u64) -> u32 = match T::SIZE {
        2 => |value| (value as u16).leading_zeros(),
        4 => |value| (value as u32).leading_zeros(),
        _ => u64::leading_zeros,
    };
    count::<T>(core, op, leading)
}

/// All flags are defined: ZF tells a zero operand, the others are clear.
fn popcnt<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = operand::<T>(core, op)?;
    let data = &mut core.cpu.data;
    data.status = Status(0).with(Status::ZF, value == 0);
    T::set(data, op.reg, T::from_u64(u64::from(value.count_ones())));
    Ok(())
}

const BT_UNDEFINED: u16 = Status::OF | Status::SF | Status::AF | Status::PF;
const SCAN_UNDEFINED: u16 = BT_UNDEFINED | Status::CF;

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    forms(Bt_rm16_imm8, rm_imm::<Keep, u16>, mem_imm::<Keep, u16>).undefined(BT_UNDEFINED),
    forms(Bt_rm16_r16, rm_reg::<Keep, u16>, mem_reg::<Keep, u16>).undefined(BT_UNDEFINED),
    forms(Bts_rm16_imm8, rm_imm::<Set, u16>, mem_imm::<Set, u16>).undefined(BT_UNDEFINED),
    forms(Bts_rm16_r16, rm_reg::<Set, u16>, mem_reg::<Set, u16>).undefined(BT_UNDEFINED),
    forms(Btr_rm16_imm8, rm_imm::<Reset, u16>, mem_imm::<Reset, u16>).undefined(BT_UNDEFINED),
    forms(Btr_rm16_r16, rm_reg::<Reset, u16>, mem_reg::<Reset, u16>).undefined(BT_UNDEFINED),
    forms(Btc_rm16_imm8, rm_imm::<Complement, u16>, mem_imm::<Complement, u16>).undefined(BT_UNDEFINED),
    forms(Btc_rm16_r16, rm_reg::<Complement, u16>, mem_reg::<Complement, u16>).undefined(BT_UNDEFINED),
    forms(Bsf_r16_rm16, bsf::<u16>, bsf::<u16>).undefined(SCAN_UNDEFINED),
    forms(Bsr_r16_rm16, bsr::<u16>, bsr::<u16>).undefined(SCAN_UNDEFINED),
    forms(Tzcnt_r16_rm16, tzcnt::<u16>, tzcnt::<u16>).undefined(BT_UNDEFINED),
    forms(Lzcnt_r16_rm16, lzcnt::<u16>, lzcnt::<u16>).undefined(BT_UNDEFINED),
    forms(Popcnt_r16_rm16, popcnt::<u16>, popcnt::<u16>),
    forms(Bt_rm32_imm8, rm_imm::<Keep, u32>, mem_imm::<Keep, u32>).undefined(BT_UNDEFINED),
    forms(Bt_rm32_r32, rm_reg::<Keep, u32>, mem_reg::<Keep, u32>).undefined(BT_UNDEFINED),
    forms(Bts_rm32_imm8, rm_imm::<Set, u32>, mem_imm::<Set, u32>).undefined(BT_UNDEFINED),
    forms(Bts_rm32_r32, rm_reg::<Set, u32>, mem_reg::<Set, u32>).undefined(BT_UNDEFINED),
    forms(Btr_rm32_imm8, rm_imm::<Reset, u32>, mem_imm::<Reset, u32>).undefined(BT_UNDEFINED),
    forms(Btr_rm32_r32, rm_reg::<Reset, u32>, mem_reg::<Reset, u32>).undefined(BT_UNDEFINED),
    forms(Btc_rm32_imm8, rm_imm::<Complement, u32>, mem_imm::<Complement, u32>).undefined(BT_UNDEFINED),
    forms(Btc_rm32_r32, rm_reg::<Complement, u32>, mem_reg::<Complement, u32>).undefined(BT_UNDEFINED),
    forms(Bsf_r32_rm32, bsf::<u32>, bsf::<u32>).undefined(SCAN_UNDEFINED),
    forms(Bsr_r32_rm32, bsr::<u32>, bsr::<u32>).undefined(SCAN_UNDEFINED),
    forms(Tzcnt_r32_rm32, tzcnt::<u32>, tzcnt::<u32>).undefined(BT_UNDEFINED),
    forms(Lzcnt_r32_rm32, lzcnt::<u32>, lzcnt::<u32>).undefined(BT_UNDEFINED),
    forms(Popcnt_r32_rm32, popcnt::<u32>, popcnt::<u32>),
    forms(Bt_rm64_imm8, rm_imm::<Keep, u64>, mem_imm::<Keep, u64>).undefined(BT_UNDEFINED),
    forms(Bt_rm64_r64, rm_reg::<Keep, u64>, mem_reg::<Keep, u64>).undefined(BT_UNDEFINED),
    forms(Bts_rm64_imm8, rm_imm::<Set, u64>, mem_imm::<Set, u64>).undefined(BT_UNDEFINED),
    forms(Bts_rm64_r64, rm_reg::<Set, u64>, mem_reg::<Set, u64>).undefined(BT_UNDEFINED),
    forms(Btr_rm64_imm8, rm_imm::<Reset, u64>, mem_imm::<Reset, u64>).undefined(BT_UNDEFINED),
    forms(Btr_rm64_r64, rm_reg::<Reset, u64>, mem_reg::<Reset, u64>).undefined(BT_UNDEFINED),
    forms(Btc_rm64_imm8, rm_imm::<Complement, u64>, mem_imm::<Complement, u64>).undefined(BT_UNDEFINED),
    forms(Btc_rm64_r64, rm_reg::<Complement, u64>, mem_reg::<Complement, u64>).undefined(BT_UNDEFINED),
    forms(Bsf_r64_rm64, bsf::<u64>, bsf::<u64>).undefined(SCAN_UNDEFINED),
    forms(Bsr_r64_rm64, bsr::<u64>, bsr::<u64>).undefined(SCAN_UNDEFINED),
    forms(Tzcnt_r64_rm64, tzcnt::<u64>, tzcnt::<u64>).undefined(BT_UNDEFINED),
    forms(Lzcnt_r64_rm64, lzcnt::<u64>, lzcnt::<u64>).undefined(BT_UNDEFINED),
    forms(Popcnt_r64_rm64, popcnt::<u64>, popcnt::<u64>),
];
