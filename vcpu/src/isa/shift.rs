//! SHL SHR SAR ROL ROR RCL RCR SHLD SHRD (SDM vol. 2).
//!
//! Undefined flags have one canonical value: AF clear after shifts, OF as if the last of the steps had been
//! a shift by one, CF clear when an 8- or 16-bit operand was shifted by more than its size.

use super::registers::Reg;
use super::{Op, Row, forms};
use crate::core::Core;
use crate::fault::Fault;
use crate::mem::access::Word;
use crate::state::Status;
use crate::state::regs::gpr::RCX;
use iced_x86::Code::*;

/// A shift or rotate by a count that is not zero: result and flags.
trait Shift {
    fn apply<T: Reg>(value: u64, count: u32, flags: Status) -> (u64, Status);
}

#[inline(always)]
fn mask<T: Word>() -> u64 {
    u64::MAX >> (64 - T::BITS)
}

#[inline(always)]
fn top<T: Word>(value: u64) -> bool {
    value >> (T::BITS - 1) & 1 != 0
}

#[inline(always)]
fn second<T: Word>(value: u64) -> bool {
    value >> (T::BITS - 2) & 1 != 0
}

/// SF, ZF and PF of a result.
#[inline(always)]
pub(super) fn sign_zero_parity<T: Reg>(value: u64) -> Status {
    let (_, flags) = T::from_u64(value).host_and(T::from_u64(value));
    Status(flags.0 & (Status::SF | Status::ZF | Status::PF))
}

#[inline(always)]
fn shifted<T: Reg>(value: u64, carry: bool, overflow: bool) -> (u64, Status) {
    let value = value & mask::<T>();
    (value, sign_zero_parity::<T>(value).with(Status::CF, carry).with(Status::OF, overflow))
}

struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, _: Status) -> (u64, Status) {
        let carry = count <= T::BITS && value >> (T::BITS - count) & 1 != 0;
        let result = value << count;
        shifted::<T>(result, carry, top::<T>(result) != carry)
    }
}

struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, _: Status) -> (u64, Status) {
        let before_last = value >> (count - 1);
        shifted::<T>(before_last >> 1, before_last & 1 != 0, top::<T>(before_last))
    }
}

struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, _: Status) -> (u64, Status) {
        let unused = 64 - T::BITS;
        let signed = (value << unused) as i64 >> unused;
        let before_last = signed >> (count - 1);
        shifted::<T>((before_last >> 1) as u64, before_last & 1 != 0, false)
    }
}

struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, flags: Status) -> (u64, Status) {
        let n = count % T::BITS;
        let result = if n == 0 { value } else { (value << n | value >> (T::BITS - n)) & mask::<T>() };
        let carry = result & 1 != 0;
        (result, flags.with(Status::CF, carry).with(Status::OF, top::<T>(result) != carry))
    }
}

struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, flags: Status) -> (u64, Status) {
        let n = count % T::BITS;
        let result = if n == 0 { value } else { (value >> n | value << (T::BITS - n)) & mask::<T>() };
        let overflow = top::<T>(result) != second::<T>(result);
        (result, flags.with(Status::CF, top::<T>(result)).with(Status::OF, overflow))
    }
}

/// Rotates `T::BITS + 1` bits, CF being the topmost, left by `n`: new value and carry.
#[inline(always)]
fn rotate_carry<T: Word>(value: u64, carry: bool, n: u32) -> (u64, bool) {
    let wide = u128::from(value) | u128::from(carry) << T::BITS;
    let bits = T::BITS + 1;
    let turned = if n == 0 { wide } else { wide << n | wide >> (bits - n) };
    (turned as u64 & mask::<T>(), turned >> T::BITS & 1 != 0)
}

struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, flags: Status) -> (u64, Status) {
        let (result, carry) = rotate_carry::<T>(value, flags.has(Status::CF), count % (T::BITS + 1));
        (result, flags.with(Status::CF, carry).with(Status::OF, top::<T>(result) != carry))
    }
}

struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Reg>(value: u64, count: u32, flags: Status) -> (u64, Status) {
        let bits = T::BITS + 1;
        let n = count % bits;
        let (result, carry) = rotate_carry::<T>(value, flags.has(Status::CF), (bits - n) % bits);
        let overflow = top::<T>(result) != second::<T>(result);
        (result, flags.with(Status::CF, carry).with(Status::OF, overflow))
    }
}

#[inline(always)]
fn shift_rm<S: Shift, T: Reg>(core: &mut Core, op: &Op, count: u32) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let value = T::get(data, op.rm);
    let (result, flags) = if count == 0 {
        (value.to_u64(), data.status)
    } else {
        S::apply::<T>(value.to_u64(), count, data.status)
    };
    data.status = flags;
    T::set(data, op.rm, T::from_u64(result));
    Ok(())
}

#[inline(always)]
fn shift_mem<S: Shift, T: Reg>(core: &mut Core, op: &Op, count: u32) -> Result<(), Fault> {
    core.load_modify::<T>(op, |core, old| {
        if count == 0 {
            return old;
        }
        let (result, flags) = S::apply::<T>(old.to_u64(), count, core.cpu.data.status);
        core.cpu.data.status = flags;
        T::from_u64(result)
    })
}

/// Counts are taken modulo 32, or 64 for 64-bit operands.
#[inline(always)]
fn count_of<T: Word>(count: u64) -> u32 {
    count as u32 & if T::SIZE == 8 { 63 } else { 31 }
}

fn rm_imm<S: Shift, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    shift_rm::<S, T>(core, op, count_of::<T>(op.imm))
}

fn mem_imm<S: Shift, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    shift_mem::<S, T>(core, op, count_of::<T>(op.imm))
}

fn rm_one<S: Shift, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    shift_rm::<S, T>(core, op, 1)
}

fn mem_one<S: Shift, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    shift_mem::<S, T>(core, op, 1)
}

fn rm_cl<S: Shift, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let count = count_of::<T>(core.cpu.data.gpr[RCX]);
    shift_rm::<S, T>(core, op, count)
}

fn mem_cl<S: Shift, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let count = count_of::<T>(core.cpu.data.gpr[RCX]);
    shift_mem::<S, T>(core, op, count)
}

/// SHLD (`LEFT`) and SHRD. A 16-bit operand shifted by more than 16 takes its bits from destination,
/// source, destination in turn, as CPUs do.
fn double<T: Reg, const LEFT: bool>(core: &mut Core, op: &Op, count: u32) -> Result<(), Fault> {
    let source = T::get(&core.cpu.data, op.reg).to_u64();
    let change = |core: &mut Core, old: T| {
        if count == 0 {
            return old;
        }
        let (result, carry) = double_shift::<T, LEFT>(old.to_u64(), source, count);
        let overflow = top::<T>(result) != top::<T>(old.to_u64());
        let flags = sign_zero_parity::<T>(result);
        core.cpu.data.status = flags.with(Status::CF, carry).with(Status::OF, overflow);
        T::from_u64(result)
    };
    if op.is_memory() {
        return core.load_modify::<T>(op, change);
    }
    let old = T::get(&core.cpu.data, op.rm);
    let result = change(core, old);
    T::set(&mut core.cpu.data, op.rm, result);
    Ok(())
}

fn double_shift<T: Word, const LEFT: bool>(value: u64, source: u64, count: u32) -> (u64, bool) {
    let bits = T::BITS;
    let wide = |high: u64, low: u64| u128::from(high) << bits | u128::from(low);
    if LEFT {
        let (high, low, n) =
            if count > bits { (source, value, count - bits) } else { (value, source, count) };
        let all = wide(high, low);
        ((all >> (bits - n)) as u64 & mask::<T>(), all >> (2 * bits - n) & 1 != 0)
    } else {
        let (high, low, n) =
            if count > bits { (value, source, count - bits) } else { (source, value, count) };
        let all = wide(high, low);
        ((all >> n) as u64 & mask::<T>(), all >> (n - 1) & 1 != 0)
    }
}

fn double_imm<T: Reg, const LEFT: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    double::<T, LEFT>(core, op, count_of::<T>(op.imm))
}

fn double_cl<T: Reg, const LEFT: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let count = count_of::<T>(core.cpu.data.gpr[RCX]);
    double::<T, LEFT>(core, op, count)
}

/// Undefined after a shift: AF always, OF and CF for some counts.
const SHIFT_UNDEFINED: u16 = Status::AF | Status::OF;

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    forms(Shl_rm8_imm8, rm_imm::<Shl, u8>, mem_imm::<Shl, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shl_rm8_1, rm_one::<Shl, u8>, mem_one::<Shl, u8>).undefined(Status::AF),
    forms(Shl_rm8_CL, rm_cl::<Shl, u8>, mem_cl::<Shl, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shl_rm16_imm8, rm_imm::<Shl, u16>, mem_imm::<Shl, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shl_rm16_1, rm_one::<Shl, u16>, mem_one::<Shl, u16>).undefined(Status::AF),
    forms(Shl_rm16_CL, rm_cl::<Shl, u16>, mem_cl::<Shl, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shl_rm32_imm8, rm_imm::<Shl, u32>, mem_imm::<Shl, u32>).undefined(SHIFT_UNDEFINED),
    forms(Shl_rm32_1, rm_one::<Shl, u32>, mem_one::<Shl, u32>).undefined(Status::AF),
    forms(Shl_rm32_CL, rm_cl::<Shl, u32>, mem_cl::<Shl, u32>).undefined(SHIFT_UNDEFINED),
    forms(Shl_rm64_imm8, rm_imm::<Shl, u64>, mem_imm::<Shl, u64>).undefined(SHIFT_UNDEFINED),
    forms(Shl_rm64_1, rm_one::<Shl, u64>, mem_one::<Shl, u64>).undefined(Status::AF),
    forms(Shl_rm64_CL, rm_cl::<Shl, u64>, mem_cl::<Shl, u64>).undefined(SHIFT_UNDEFINED),
    forms(Sal_rm8_imm8, rm_imm::<Shl, u8>, mem_imm::<Shl, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sal_rm8_1, rm_one::<Shl, u8>, mem_one::<Shl, u8>).undefined(Status::AF),
    forms(Sal_rm8_CL, rm_cl::<Shl, u8>, mem_cl::<Shl, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sal_rm16_imm8, rm_imm::<Shl, u16>, mem_imm::<Shl, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sal_rm16_1, rm_one::<Shl, u16>, mem_one::<Shl, u16>).undefined(Status::AF),
    forms(Sal_rm16_CL, rm_cl::<Shl, u16>, mem_cl::<Shl, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sal_rm32_imm8, rm_imm::<Shl, u32>, mem_imm::<Shl, u32>).undefined(SHIFT_UNDEFINED),
    forms(Sal_rm32_1, rm_one::<Shl, u32>, mem_one::<Shl, u32>).undefined(Status::AF),
    forms(Sal_rm32_CL, rm_cl::<Shl, u32>, mem_cl::<Shl, u32>).undefined(SHIFT_UNDEFINED),
    forms(Sal_rm64_imm8, rm_imm::<Shl, u64>, mem_imm::<Shl, u64>).undefined(SHIFT_UNDEFINED),
    forms(Sal_rm64_1, rm_one::<Shl, u64>, mem_one::<Shl, u64>).undefined(Status::AF),
    forms(Sal_rm64_CL, rm_cl::<Shl, u64>, mem_cl::<Shl, u64>).undefined(SHIFT_UNDEFINED),
    forms(Shr_rm8_imm8, rm_imm::<Shr, u8>, mem_imm::<Shr, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shr_rm8_1, rm_one::<Shr, u8>, mem_one::<Shr, u8>).undefined(Status::AF),
    forms(Shr_rm8_CL, rm_cl::<Shr, u8>, mem_cl::<Shr, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shr_rm16_imm8, rm_imm::<Shr, u16>, mem_imm::<Shr, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shr_rm16_1, rm_one::<Shr, u16>, mem_one::<Shr, u16>).undefined(Status::AF),
    forms(Shr_rm16_CL, rm_cl::<Shr, u16>, mem_cl::<Shr, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Shr_rm32_imm8, rm_imm::<Shr, u32>, mem_imm::<Shr, u32>).undefined(SHIFT_UNDEFINED),
    forms(Shr_rm32_1, rm_one::<Shr, u32>, mem_one::<Shr, u32>).undefined(Status::AF),
    forms(Shr_rm32_CL, rm_cl::<Shr, u32>, mem_cl::<Shr, u32>).undefined(SHIFT_UNDEFINED),
    forms(Shr_rm64_imm8, rm_imm::<Shr, u64>, mem_imm::<Shr, u64>).undefined(SHIFT_UNDEFINED),
    forms(Shr_rm64_1, rm_one::<Shr, u64>, mem_one::<Shr, u64>).undefined(Status::AF),
    forms(Shr_rm64_CL, rm_cl::<Shr, u64>, mem_cl::<Shr, u64>).undefined(SHIFT_UNDEFINED),
    forms(Sar_rm8_imm8, rm_imm::<Sar, u8>, mem_imm::<Sar, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sar_rm8_1, rm_one::<Sar, u8>, mem_one::<Sar, u8>).undefined(Status::AF),
    forms(Sar_rm8_CL, rm_cl::<Sar, u8>, mem_cl::<Sar, u8>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sar_rm16_imm8, rm_imm::<Sar, u16>, mem_imm::<Sar, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sar_rm16_1, rm_one::<Sar, u16>, mem_one::<Sar, u16>).undefined(Status::AF),
    forms(Sar_rm16_CL, rm_cl::<Sar, u16>, mem_cl::<Sar, u16>).undefined(SHIFT_UNDEFINED | Status::CF),
    forms(Sar_rm32_imm8, rm_imm::<Sar, u32>, mem_imm::<Sar, u32>).undefined(SHIFT_UNDEFINED),
    forms(Sar_rm32_1, rm_one::<Sar, u32>, mem_one::<Sar, u32>).undefined(Status::AF),
    forms(Sar_rm32_CL, rm_cl::<Sar, u32>, mem_cl::<Sar, u32>).undefined(SHIFT_UNDEFINED),
    forms(Sar_rm64_imm8, rm_imm::<Sar, u64>, mem_imm::<Sar, u64>).undefined(SHIFT_UNDEFINED),
    forms(Sar_rm64_1, rm_one::<Sar, u64>, mem_one::<Sar, u64>).undefined(Status::AF),
    forms(Sar_rm64_CL, rm_cl::<Sar, u64>, mem_cl::<Sar, u64>).undefined(SHIFT_UNDEFINED),
    forms(Rol_rm8_imm8, rm_imm::<Rol, u8>, mem_imm::<Rol, u8>).undefined(Status::OF),
    forms(Rol_rm8_1, rm_one::<Rol, u8>, mem_one::<Rol, u8>).undefined(0),
    forms(Rol_rm8_CL, rm_cl::<Rol, u8>, mem_cl::<Rol, u8>).undefined(Status::OF),
    forms(Rol_rm16_imm8, rm_imm::<Rol, u16>, mem_imm::<Rol, u16>).undefined(Status::OF),
    forms(Rol_rm16_1, rm_one::<Rol, u16>, mem_one::<Rol, u16>).undefined(0),
    forms(Rol_rm16_CL, rm_cl::<Rol, u16>, mem_cl::<Rol, u16>).undefined(Status::OF),
    forms(Rol_rm32_imm8, rm_imm::<Rol, u32>, mem_imm::<Rol, u32>).undefined(Status::OF),
    forms(Rol_rm32_1, rm_one::<Rol, u32>, mem_one::<Rol, u32>).undefined(0),
    forms(Rol_rm32_CL, rm_cl::<Rol, u32>, mem_cl::<Rol, u32>).undefined(Status::OF),
    forms(Rol_rm64_imm8, rm_imm::<Rol, u64>, mem_imm::<Rol, u64>).undefined(Status::OF),
    forms(Rol_rm64_1, rm_one::<Rol, u64>, mem_one::<Rol, u64>).undefined(0),
    forms(Rol_rm64_CL, rm_cl::<Rol, u64>, mem_cl::<Rol, u64>).undefined(Status::OF),
    forms(Ror_rm8_imm8, rm_imm::<Ror, u8>, mem_imm::<Ror, u8>).undefined(Status::OF),
    forms(Ror_rm8_1, rm_one::<Ror, u8>, mem_one::<Ror, u8>).undefined(0),
    forms(Ror_rm8_CL, rm_cl::<Ror, u8>, mem_cl::<Ror, u8>).undefined(Status::OF),
    forms(Ror_rm16_imm8, rm_imm::<Ror, u16>, mem_imm::<Ror, u16>).undefined(Status::OF),
    forms(Ror_rm16_1, rm_one::<Ror, u16>, mem_one::<Ror, u16>).undefined(0),
    forms(Ror_rm16_CL, rm_cl::<Ror, u16>, mem_cl::<Ror, u16>).undefined(Status::OF),
    forms(Ror_rm32_imm8, rm_imm::<Ror, u32>, mem_imm::<Ror, u32>).undefined(Status::OF),
    forms(Ror_rm32_1, rm_one::<Ror, u32>, mem_one::<Ror, u32>).undefined(0),
    forms(Ror_rm32_CL, rm_cl::<Ror, u32>, mem_cl::<Ror, u32>).undefined(Status::OF),
    forms(Ror_rm64_imm8, rm_imm::<Ror, u64>, mem_imm::<Ror, u64>).undefined(Status::OF),
    forms(Ror_rm64_1, rm_one::<Ror, u64>, mem_one::<Ror, u64>).undefined(0),
    forms(Ror_rm64_CL, rm_cl::<Ror, u64>, mem_cl::<Ror, u64>).undefined(Status::OF),
    forms(Rcl_rm8_imm8, rm_imm::<Rcl, u8>, mem_imm::<Rcl, u8>).undefined(Status::OF),
    forms(Rcl_rm8_1, rm_one::<Rcl, u8>, mem_one::<Rcl, u8>).undefined(0),
    forms(Rcl_rm8_CL, rm_cl::<Rcl, u8>, mem_cl::<Rcl, u8>).undefined(Status::OF),
    forms(Rcl_rm16_imm8, rm_imm::<Rcl, u16>, mem_imm::<Rcl, u16>).undefined(Status::OF),
    forms(Rcl_rm16_1, rm_one::<Rcl, u16>, mem_one::<Rcl, u16>).undefined(0),
    forms(Rcl_rm16_CL, rm_cl::<Rcl, u16>, mem_cl::<Rcl, u16>).undefined(Status::OF),
    forms(Rcl_rm32_imm8, rm_imm::<Rcl, u32>, mem_imm::<Rcl, u32>).undefined(Status::OF),
    forms(Rcl_rm32_1, rm_one::<Rcl, u32>, mem_one::<Rcl, u32>).undefined(0),
    forms(Rcl_rm32_CL, rm_cl::<Rcl, u32>, mem_cl::<Rcl, u32>).undefined(Status::OF),
    forms(Rcl_rm64_imm8, rm_imm::<Rcl, u64>, mem_imm::<Rcl, u64>).undefined(Status::OF),
    forms(Rcl_rm64_1, rm_one::<Rcl, u64>, mem_one::<Rcl, u64>).undefined(0),
    forms(Rcl_rm64_CL, rm_cl::<Rcl, u64>, mem_cl::<Rcl, u64>).undefined(Status::OF),
    forms(Rcr_rm8_imm8, rm_imm::<Rcr, u8>, mem_imm::<Rcr, u8>).undefined(Status::OF),
    forms(Rcr_rm8_1, rm_one::<Rcr, u8>, mem_one::<Rcr, u8>).undefined(0),
    forms(Rcr_rm8_CL, rm_cl::<Rcr, u8>, mem_cl::<Rcr, u8>).undefined(Status::OF),
    forms(Rcr_rm16_imm8, rm_imm::<Rcr, u16>, mem_imm::<Rcr, u16>).undefined(Status::OF),
    forms(Rcr_rm16_1, rm_one::<Rcr, u16>, mem_one::<Rcr, u16>).undefined(0),
    forms(Rcr_rm16_CL, rm_cl::<Rcr, u16>, mem_cl::<Rcr, u16>).undefined(Status::OF),
    forms(Rcr_rm32_imm8, rm_imm::<Rcr, u32>, mem_imm::<Rcr, u32>).undefined(Status::OF),
    forms(Rcr_rm32_1, rm_one::<Rcr, u32>, mem_one::<Rcr, u32>).undefined(0),
    forms(Rcr_rm32_CL, rm_cl::<Rcr, u32>, mem_cl::<Rcr, u32>).undefined(Status::OF),
    forms(Rcr_rm64_imm8, rm_imm::<Rcr, u64>, mem_imm::<Rcr, u64>).undefined(Status::OF),
    forms(Rcr_rm64_1, rm_one::<Rcr, u64>, mem_one::<Rcr, u64>).undefined(0),
    forms(Rcr_rm64_CL, rm_cl::<Rcr, u64>, mem_cl::<Rcr, u64>).undefined(Status::OF),
    forms(Shld_rm16_r16_imm8, double_imm::<u16, true>, double_imm::<u16, true>).undefined(Status::ALL),
    forms(Shld_rm16_r16_CL, double_cl::<u16, true>, double_cl::<u16, true>).undefined(Status::ALL),
    forms(Shld_rm32_r32_imm8, double_imm::<u32, true>, double_imm::<u32, true>).undefined(SHIFT_UNDEFINED),
    forms(Shld_rm32_r32_CL, double_cl::<u32, true>, double_cl::<u32, true>).undefined(SHIFT_UNDEFINED),
    forms(Shld_rm64_r64_imm8, double_imm::<u64, true>, double_imm::<u64, true>).undefined(SHIFT_UNDEFINED),
    forms(Shld_rm64_r64_CL, double_cl::<u64, true>, double_cl::<u64, true>).undefined(SHIFT_UNDEFINED),
    forms(Shrd_rm16_r16_imm8, double_imm::<u16, false>, double_imm::<u16, false>).undefined(Status::ALL),
    forms(Shrd_rm16_r16_CL, double_cl::<u16, false>, double_cl::<u16, false>).undefined(Status::ALL),
    forms(Shrd_rm32_r32_imm8, double_imm::<u32, false>, double_imm::<u32, false>).undefined(SHIFT_UNDEFINED),
    forms(Shrd_rm32_r32_CL, double_cl::<u32, false>, double_cl::<u32, false>).undefined(SHIFT_UNDEFINED),
    forms(Shrd_rm64_r64_imm8, double_imm::<u64, false>, double_imm::<u64, false>).undefined(SHIFT_UNDEFINED),
    forms(Shrd_rm64_r64_CL, double_cl::<u64, false>, double_cl::<u64, false>).undefined(SHIFT_UNDEFINED),
];
