//! MUL IMUL DIV IDIV (SDM vol. 2).
//!
//! Canonical for what the manual leaves undefined: after a multiplication SF, ZF and PF of the lower half and
//! AF clear; a division leaves all flags as they were.

use super::registers::Reg;
use super::shift::sign_zero_parity;
use super::{Op, Row, forms};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::mem::access::Word;
use crate::state::Status;
use crate::state::regs::gpr::{RAX, RDX};
use iced_x86::Code::*;

#[inline(always)]
fn signed<T: Word>(value: T) -> i128 {
    let unused = 64 - T::BITS;
    i128::from((value.to_u64() << unused) as i64 >> unused)
}

/// Flags of a product: CF and OF tell that the upper half matters.
#[inline(always)]
fn product_flags<T: Reg>(low: u64, overflow: bool) -> Status {
    sign_zero_parity::<T>(low).with(Status::CF, overflow).with(Status::OF, overflow)
}

#[inline(always)]
fn operand<T: Reg>(core: &mut Core, op: &Op) -> Result<T, Fault> {
    if op.is_memory() { core.load::<T>(op) } else { Ok(T::get(&core.cpu.data, op.rm)) }
}

/// Puts a double-size value into rDX:rAX, or AX for bytes.
#[inline(always)]
fn set_pair<T: Reg>(core: &mut Core, value: u128) {
    let data = &mut core.cpu.data;
    if T::SIZE == 1 {
        u16::set(data, RAX as u8, value as u16);
    } else {
        T::set(data, RAX as u8, T::from_u64(value as u64));
        T::set(data, RDX as u8, T::from_u64((value >> T::BITS) as u64));
    }
}

/// rDX:rAX, or AX for bytes.
#[inline(always)]
fn pair<T: Reg>(core: &Core) -> u128 {
    let data = &core.cpu.data;
    if T::SIZE == 1 {
        return u128::from(u16::get(data, RAX as u8));
    }
    let high = T::get(data, RDX as u8).to_u64();
    u128::from(high) << T::BITS | u128::from(T::get(data, RAX as u8).to_u64())
}

fn mul<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let other = operand::<T>(core, op)?;
    let product = u128::from(T::get(&core.cpu.data, RAX as u8).to_u64()) * u128::from(other.to_u64());
    set_pair::<T>(core, product);
    core.cpu.data.status = product_flags::<T>(product as u64, product >> T::BITS != 0);
    Ok(())
}

fn imul<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let other = operand::<T>(core, op)?;
    let product = signed(T::get(&core.cpu.data, RAX as u8)) * signed(other);
    set_pair::<T>(core, product as u128);
    core.cpu.data.status = product_flags::<T>(product as u64, signed(T::from_u64(product as u64)) != product);
    Ok(())
}

#[inline(always)]
fn imul_into<T: Reg>(core: &mut Core, op: &Op, a: T, b: T) {
    let product = signed(a) * signed(b);
    T::set(&mut core.cpu.data, op.reg, T::from_u64(product as u64));
    core.cpu.data.status = product_flags::<T>(product as u64, signed(T::from_u64(product as u64)) != product);
}

fn imul_two<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let other = operand::<T>(core, op)?;
    let mine = T::get(&core.cpu.data, op.reg);
    imul_into(core, op, mine, other);
    Ok(())
}

fn imul_three<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let other = operand::<T>(core, op)?;
    imul_into(core, op, other, T::from_u64(op.imm));
    Ok(())
}

/// Quotient to the lower, remainder to the upper half.
#[inline(always)]
fn set_quotient<T: Reg>(core: &mut Core, quotient: u64, remainder: u64) {
    let mask = u64::MAX >> (64 - T::BITS);
    set_pair::<T>(core, u128::from(remainder & mask) << T::BITS | u128::from(quotient & mask));
}

fn div<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let divisor = u128::from(operand::<T>(core, op)?.to_u64());
    let dividend = pair::<T>(core);
    if divisor == 0 {
        return Err(Fault::new(vector::DE));
    }
    // 128-bit division is slow; dividends that fit are the rule.
    let (quotient, remainder) = if dividend >> 64 == 0 {
        let (a, b) = (dividend as u64, divisor as u64);
        (u128::from(a / b), a % b)
    } else {
        (dividend / divisor, (dividend % divisor) as u64)
    };
    if quotient >> T::BITS != 0 {
        return Err(Fault::new(vector::DE));
    }
    set_quotient::<T>(core, quotient as u64, remainder);
    Ok(())
}

fn idiv<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let divisor = signed(operand::<T>(core, op)?);
    let double_bits = 2 * T::BITS;
    let dividend = (pair::<T>(core) << (128 - double_bits)) as i128 >> (128 - double_bits);
    let (Some(quotient), Some(remainder)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(Fault::new(vector::DE));
    };
    if signed(T::from_u64(quotient as u64)) != quotient {
        return Err(Fault::new(vector::DE));
    }
    set_quotient::<T>(core, quotient as u64, remainder as u64);
    Ok(())
}

/// CF and OF alone are defined after a multiplication.
const MUL_UNDEFINED: u16 = Status::SF | Status::ZF | Status::AF | Status::PF;

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    forms(Mul_rm8, mul::<u8>, mul::<u8>).undefined(MUL_UNDEFINED),
    forms(Imul_rm8, imul::<u8>, imul::<u8>).undefined(MUL_UNDEFINED),
    forms(Div_rm8, div::<u8>, div::<u8>).undefined(Status::ALL),
    forms(Idiv_rm8, idiv::<u8>, idiv::<u8>).undefined(Status::ALL),
    forms(Mul_rm16, mul::<u16>, mul::<u16>).undefined(MUL_UNDEFINED),
    forms(Imul_rm16, imul::<u16>, imul::<u16>).undefined(MUL_UNDEFINED),
    forms(Div_rm16, div::<u16>, div::<u16>).undefined(Status::ALL),
    forms(Idiv_rm16, idiv::<u16>, idiv::<u16>).undefined(Status::ALL),
    forms(Imul_r16_rm16, imul_two::<u16>, imul_two::<u16>).undefined(MUL_UNDEFINED),
    forms(Imul_r16_rm16_imm8, imul_three::<u16>, imul_three::<u16>).undefined(MUL_UNDEFINED),
    forms(Imul_r16_rm16_imm16, imul_three::<u16>, imul_three::<u16>).undefined(MUL_UNDEFINED),
    forms(Mul_rm32, mul::<u32>, mul::<u32>).undefined(MUL_UNDEFINED),
    forms(Imul_rm32, imul::<u32>, imul::<u32>).undefined(MUL_UNDEFINED),
    forms(Div_rm32, div::<u32>, div::<u32>).undefined(Status::ALL),
    forms(Idiv_rm32, idiv::<u32>, idiv::<u32>).undefined(Status::ALL),
    forms(Imul_r32_rm32, imul_two::<u32>, imul_two::<u32>).undefined(MUL_UNDEFINED),
    forms(Imul_r32_rm32_imm8, imul_three::<u32>, imul_three::<u32>).undefined(MUL_UNDEFINED),
    forms(Imul_r32_rm32_imm32, imul_three::<u32>, imul_three::<u32>).undefined(MUL_UNDEFINED),
    forms(Mul_rm64, mul::<u64>, mul::<u64>).undefined(MUL_UNDEFINED),
    forms(Imul_rm64, imul::<u64>, imul::<u64>).undefined(MUL_UNDEFINED),
    forms(Div_rm64, div::<u64>, div::<u64>).undefined(Status::ALL),
    forms(Idiv_rm64, idiv::<u64>, idiv::<u64>).undefined(Status::ALL),
    forms(Imul_r64_rm64, imul_two::<u64>, imul_two::<u64>).undefined(MUL_UNDEFINED),
    forms(Imul_r64_rm64_imm8, imul_three::<u64>, imul_three::<u64>).undefined(MUL_UNDEFINED),
    forms(Imul_r64_rm64_imm32, imul_three::<u64>, imul_three::<u64>).undefined(MUL_UNDEFINED),
];
