//! Decimal adjustment, 32-bit code only: DAA DAS AAA AAS AAM AAD SALC (SDM 2A).
//!
//! Canonical for undefined flags: OF clear; AAA and AAS set SF, ZF and PF from AL.

use super::registers::Reg;
use super::shift::sign_zero_parity;
use super::{Op, Row, row};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::state::Status;
use iced_x86::Code::*;

const AL: u8 = 0;
const AH: u8 = 1;

/// Sets AL and the flags: SF, ZF, PF from AL, with these CF and AF.
fn set_al(core: &mut Core, al: u8, carry: bool, adjust: bool) {
    let data = &mut core.cpu.data;
    u8::set(data, AL, al);
    data.status = sign_zero_parity::<u8>(u64::from(al)).with(Status::CF, carry).with(Status::AF, adjust);
}

/// DAA and DAS; `correct` adds or subtracts.
fn decimal(core: &mut Core, correct: fn(u8, u8) -> u8, borrows: fn(u8, u8) -> bool) {
    let status = core.cpu.data.status;
    let old = u8::get(&core.cpu.data, AL);
    let (mut al, mut carry) = (old, false);
    let adjust = old & 15 > 9 || status.has(Status::AF);
    if adjust {
        carry = status.has(Status::CF) || borrows(al, 6);
        al = correct(al, 6);
    }
    if old > 0x99 || status.has(Status::CF) {
        al = correct(al, 0x60);
        carry = true;
    }
    set_al(core, al, carry, adjust);
}

fn daa(core: &mut Core, _: &Op) -> Result<(), Fault> {
    decimal(core, u8::wrapping_add, |al, n| al.checked_add(n).is_none());
    Ok(())
}

fn das(core: &mut Core, _: &Op) -> Result<(), Fault> {
    decimal(core, u8::wrapping_sub, |al, n| al < n);
    Ok(())
}

/// AAA and AAS; `correct` adds or subtracts 106h to AX.
fn ascii(core: &mut Core, correct: fn(u16, u16) -> u16) {
    let adjust = u8::get(&core.cpu.data, AL) & 15 > 9 || core.cpu.data.status.has(Status::AF);
    if adjust {
        let ax = correct(u16::get(&core.cpu.data, 0), 0x106);
        u16::set(&mut core.cpu.data, 0, ax);
    }
    let al = u8::get(&core.cpu.data, AL) & 15;
    set_al(core, al, adjust, adjust);
}

fn aaa(core: &mut Core, _: &Op) -> Result<(), Fault> {
    ascii(core, u16::wrapping_add);
    Ok(())
}

fn aas(core: &mut Core, _: &Op) -> Result<(), Fault> {
    ascii(core, u16::wrapping_sub);
    Ok(())
}

fn aam(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let base = op.imm as u8;
    let al = u8::get(&core.cpu.data, AL);
    let (Some(quotient), Some(remainder)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Fault::new(vector::DE));
    };
    u8::set(&mut core.cpu.data, AH, quotient);
    set_al(core, remainder, false, false);
    Ok(())
}

fn aad(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &core.cpu.data;
    let al = u8::get(data, AL).wrapping_add(u8::get(data, AH).wrapping_mul(op.imm as u8));
    u8::set(&mut core.cpu.data, AH, 0);
    set_al(core, al, false, false);
    Ok(())
}

/// SALC: AL all ones if CF, else zero; undocumented, known to every CPU.
fn salc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let al = if core.cpu.data.status.has(Status::CF) { 0xff } else { 0 };
    u8::set(&mut core.cpu.data, AL, al);
    Ok(())
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Daa, daa).undefined(Status::OF), row(Das, das).undefined(Status::OF),
    row(Aaa, aaa).undefined(Status::OF | Status::SF | Status::ZF | Status::PF),
    row(Aas, aas).undefined(Status::OF | Status::SF | Status::ZF | Status::PF),
    row(Aam_imm8, aam).undefined(Status::OF | Status::AF | Status::CF),
    row(Aad_imm8, aad).undefined(Status::OF | Status::AF | Status::CF),
    row(Salc, salc),
];
