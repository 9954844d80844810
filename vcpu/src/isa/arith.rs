//! ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT, ADCX ADOX (SDM vol. 2).

use super::registers::Reg;
use super::{Op, Row, forms};
use crate::core::Core;
use crate::fault::Fault;
use crate::state::Status;
use iced_x86::Code::*;

/// A two-operand operation: result and flags.
pub trait Binary {
    /// Whether the result is written (CMP and TEST only set flags).
    const WRITES: bool = true;
    /// Result and status flags for operands `a` and `b` and the flags before.
    fn apply<T: Reg>(a: T, b: T, flags: Status) -> (T, Status);
}

/// AND, OR, XOR, TEST leave AF undefined: canonically clear.
#[inline(always)]
fn logic<T>((value, flags): (T, Status)) -> (T, Status) {
    (value, flags.with(Status::AF, false))
}

macro_rules! binary_ops {
    ($($name:ident: $writes:literal, |$a:ident, $b:ident, $f:ident| $e:expr;)*) => {$(
        /// The operation of that name.
        pub struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: Reg>($a: T, $b: T, $f: Status) -> (T, Status) {
                let _ = $f;
                $e
            }
        }
    )*};
}

binary_ops! {
    Add: true, |a, b, flags| a.host_add(b);
    Or: true, |a, b, flags| logic(a.host_or(b));
    Adc: true, |a, b, flags| a.host_adc(b, flags);
    Sbb: true, |a, b, flags| a.host_sbb(b, flags);
    And: true, |a, b, flags| logic(a.host_and(b));
    Sub: true, |a, b, flags| a.host_sub(b);
    Xor: true, |a, b, flags| logic(a.host_xor(b));
    Cmp: false, |a, b, flags| a.host_sub(b);
    Test: false, |a, b, flags| logic(a.host_and(b));
}

/// Register `reg` ← `reg` op register `rm`.
fn reg_rm<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (value, flags) = B::apply(T::get(data, op.reg), T::get(data, op.rm), data.status);
    data.status = flags;
    if B::WRITES {
        T::set(data, op.reg, value);
    }
    Ok(())
}

/// Register `reg` ← `reg` op memory.
fn reg_mem<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let other = core.load::<T>(op)?;
    let data = &mut core.cpu.data;
    let (value, flags) = B::apply(T::get(data, op.reg), other, data.status);
    data.status = flags;
    if B::WRITES {
        T::set(data, op.reg, value);
    }
    Ok(())
}

/// Register `rm` ← `rm` op register `reg`.
fn rm_reg<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (value, flags) = B::apply(T::get(data, op.rm), T::get(data, op.reg), data.status);
    data.status = flags;
    if B::WRITES {
        T::set(data, op.rm, value);
    }
    Ok(())
}

/// Memory ← memory op `other`.
#[inline(always)]
fn memory<B: Binary, T: Reg>(core: &mut Core, op: &Op, other: T) -> Result<(), Fault> {
    if B::WRITES {
        return core.load_modify::<T>(op, |core, old| {
            let (value, flags) = B::apply(old, other, core.cpu.data.status);
            core.cpu.data.status = flags;
            value
        });
    }
    let old = core.load::<T>(op)?;
    core.cpu.data.status = B::apply(old, other, core.cpu.data.status).1;
    Ok(())
}

fn mem_reg<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let other = T::get(&core.cpu.data, op.reg);
    memory::<B, T>(core, op, other)
}

fn mem_imm<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    memory::<B, T>(core, op, T::from_u64(op.imm))
}

/// Register `rm` ← `rm` op immediate.
fn rm_imm<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (value, flags) = B::apply(T::get(data, op.rm), T::from_u64(op.imm), data.status);
    data.status = flags;
    if B::WRITES {
        T::set(data, op.rm, value);
    }
    Ok(())
}

/// Accumulator ← accumulator op immediate.
fn acc_imm<B: Binary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (value, flags) = B::apply(T::get(data, 0), T::from_u64(op.imm), data.status);
    data.status = flags;
    if B::WRITES {
        T::set(data, 0, value);
    }
    Ok(())
}

/// A one-operand operation: result and flags.
trait Unary {
    fn apply<T: Reg>(a: T, flags: Status) -> (T, Status);
}

struct Inc;
impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Reg>(a: T, flags: Status) -> (T, Status) {
        a.host_inc(flags)
    }
}

struct Dec;
impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Reg>(a: T, flags: Status) -> (T, Status) {
        a.host_dec(flags)
    }
}

struct Neg;
impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Reg>(a: T, _: Status) -> (T, Status) {
        a.host_neg()
    }
}

struct Not;
impl Unary for Not {
    #[inline(always)]
    fn apply<T: Reg>(a: T, flags: Status) -> (T, Status) {
        (T::from_u64(!a.to_u64()), flags)
    }
}

fn one_rm<U: Unary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (value, flags) = U::apply(T::get(data, op.rm), data.status);
    data.status = flags;
    T::set(data, op.rm, value);
    Ok(())
}

fn one_mem<U: Unary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.load_modify::<T>(op, |core, old| {
        let (value, flags) = U::apply(old, core.cpu.data.status);
        core.cpu.data.status = flags;
        value
    })
}

/// INC and DEC with the register in the opcode (one-byte forms of 32-bit code).
fn one_reg<U: Unary, T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let data = &mut core.cpu.data;
    let (value, flags) = U::apply(T::get(data, op.reg), data.status);
    data.status = flags;
    T::set(data, op.reg, value);
    Ok(())
}

/// ADCX (`carry` is CF) and ADOX (`carry` is OF).
fn add_extended<T: Reg>(core: &mut Core, op: &Op, carry: u16) -> Result<(), Fault> {
    let other = if op.is_memory() { core.load::<T>(op)? } else { T::get(&core.cpu.data, op.rm) };
    let data = &mut core.cpu.data;
    let carry_in = Status(0).with(Status::CF, data.status.has(carry));
    let (value, flags) = T::get(data, op.reg).host_adc(other, carry_in);
    data.status = data.status.with(carry, flags.has(Status::CF));
    T::set(data, op.reg, value);
    Ok(())
}

fn adcx<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    add_extended::<T>(core, op, Status::CF)
}

fn adox<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    add_extended::<T>(core, op, Status::OF)
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    forms(Add_rm8_r8, rm_reg::<Add, u8>, mem_reg::<Add, u8>),
    forms(Add_r8_rm8, reg_rm::<Add, u8>, reg_mem::<Add, u8>),
    forms(Add_AL_imm8, acc_imm::<Add, u8>, acc_imm::<Add, u8>),
    forms(Add_rm8_imm8, rm_imm::<Add, u8>, mem_imm::<Add, u8>),
    forms(Add_rm8_imm8_82, rm_imm::<Add, u8>, mem_imm::<Add, u8>),
    forms(Add_rm16_r16, rm_reg::<Add, u16>, mem_reg::<Add, u16>),
    forms(Add_r16_rm16, reg_rm::<Add, u16>, reg_mem::<Add, u16>),
    forms(Add_AX_imm16, acc_imm::<Add, u16>, acc_imm::<Add, u16>),
    forms(Add_rm16_imm16, rm_imm::<Add, u16>, mem_imm::<Add, u16>),
    forms(Add_rm16_imm8, rm_imm::<Add, u16>, mem_imm::<Add, u16>),
    forms(Add_rm32_r32, rm_reg::<Add, u32>, mem_reg::<Add, u32>),
    forms(Add_r32_rm32, reg_rm::<Add, u32>, reg_mem::<Add, u32>),
    forms(Add_EAX_imm32, acc_imm::<Add, u32>, acc_imm::<Add, u32>),
    forms(Add_rm32_imm32, rm_imm::<Add, u32>, mem_imm::<Add, u32>),
    forms(Add_rm32_imm8, rm_imm::<Add, u32>, mem_imm::<Add, u32>),
    forms(Add_rm64_r64, rm_reg::<Add, u64>, mem_reg::<Add, u64>),
    forms(Add_r64_rm64, reg_rm::<Add, u64>, reg_mem::<Add, u64>),
    forms(Add_RAX_imm32, acc_imm::<Add, u64>, acc_imm::<Add, u64>),
    forms(Add_rm64_imm32, rm_imm::<Add, u64>, mem_imm::<Add, u64>),
    forms(Add_rm64_imm8, rm_imm::<Add, u64>, mem_imm::<Add, u64>),
    forms(Or_rm8_r8, rm_reg::<Or, u8>, mem_reg::<Or, u8>).undefined(Status::AF),
    forms(Or_r8_rm8, reg_rm::<Or, u8>, reg_mem::<Or, u8>).undefined(Status::AF),
    forms(Or_AL_imm8, acc_imm::<Or, u8>, acc_imm::<Or, u8>).undefined(Status::AF),
    forms(Or_rm8_imm8, rm_imm::<Or, u8>, mem_imm::<Or, u8>).undefined(Status::AF),
    forms(Or_rm8_imm8_82, rm_imm::<Or, u8>, mem_imm::<Or, u8>).undefined(Status::AF),
    forms(Or_rm16_r16, rm_reg::<Or, u16>, mem_reg::<Or, u16>).undefined(Status::AF),
    forms(Or_r16_rm16, reg_rm::<Or, u16>, reg_mem::<Or, u16>).undefined(Status::AF),
    forms(Or_AX_imm16, acc_imm::<Or, u16>, acc_imm::<Or, u16>).undefined(Status::AF),
    forms(Or_rm16_imm16, rm_imm::<Or, u16>, mem_imm::<Or, u16>).undefined(Status::AF),
    forms(Or_rm16_imm8, rm_imm::<Or, u16>, mem_imm::<Or, u16>).undefined(Status::AF),
    forms(Or_rm32_r32, rm_reg::<Or, u32>, mem_reg::<Or, u32>).undefined(Status::AF),
    forms(Or_r32_rm32, reg_rm::<Or, u32>, reg_mem::<Or, u32>).undefined(Status::AF),
    forms(Or_EAX_imm32, acc_imm::<Or, u32>, acc_imm::<Or, u32>).undefined(Status::AF),
    forms(Or_rm32_imm32, rm_imm::<Or, u32>, mem_imm::<Or, u32>).undefined(Status::AF),
    forms(Or_rm32_imm8, rm_imm::<Or, u32>, mem_imm::<Or, u32>).undefined(Status::AF),
    forms(Or_rm64_r64, rm_reg::<Or, u64>, mem_reg::<Or, u64>).undefined(Status::AF),
    forms(Or_r64_rm64, reg_rm::<Or, u64>, reg_mem::<Or, u64>).undefined(Status::AF),
    forms(Or_RAX_imm32, acc_imm::<Or, u64>, acc_imm::<Or, u64>).undefined(Status::AF),
    forms(Or_rm64_imm32, rm_imm::<Or, u64>, mem_imm::<Or, u64>).undefined(Status::AF),
    forms(Or_rm64_imm8, rm_imm::<Or, u64>, mem_imm::<Or, u64>).undefined(Status::AF),
    forms(Adc_rm8_r8, rm_reg::<Adc, u8>, mem_reg::<Adc, u8>),
    forms(Adc_r8_rm8, reg_rm::<Adc, u8>, reg_mem::<Adc, u8>),
    forms(Adc_AL_imm8, acc_imm::<Adc, u8>, acc_imm::<Adc, u8>),
    forms(Adc_rm8_imm8, rm_imm::<Adc, u8>, mem_imm::<Adc, u8>),
    forms(Adc_rm8_imm8_82, rm_imm::<Adc, u8>, mem_imm::<Adc, u8>),
    forms(Adc_rm16_r16, rm_reg::<Adc, u16>, mem_reg::<Adc, u16>),
    forms(Adc_r16_rm16, reg_rm::<Adc, u16>, reg_mem::<Adc, u16>),
    forms(Adc_AX_imm16, acc_imm::<Adc, u16>, acc_imm::<Adc, u16>),
    forms(Adc_rm16_imm16, rm_imm::<Adc, u16>, mem_imm::<Adc, u16>),
    forms(Adc_rm16_imm8, rm_imm::<Adc, u16>, mem_imm::<Adc, u16>),
    forms(Adc_rm32_r32, rm_reg::<Adc, u32>, mem_reg::<Adc, u32>),
    forms(Adc_r32_rm32, reg_rm::<Adc, u32>, reg_mem::<Adc, u32>),
    forms(Adc_EAX_imm32, acc_imm::<Adc, u32>, acc_imm::<Adc, u32>),
    forms(Adc_rm32_imm32, rm_imm::<Adc, u32>, mem_imm::<Adc, u32>),
    forms(Adc_rm32_imm8, rm_imm::<Adc, u32>, mem_imm::<Adc, u32>),
    forms(Adc_rm64_r64, rm_reg::<Adc, u64>, mem_reg::<Adc, u64>),
    forms(Adc_r64_rm64, reg_rm::<Adc, u64>, reg_mem::<Adc, u64>),
    forms(Adc_RAX_imm32, acc_imm::<Adc, u64>, acc_imm::<Adc, u64>),
    forms(Adc_rm64_imm32, rm_imm::<Adc, u64>, mem_imm::<Adc, u64>),
    forms(Adc_rm64_imm8, rm_imm::<Adc, u64>, mem_imm::<Adc, u64>),
    forms(Sbb_rm8_r8, rm_reg::<Sbb, u8>, mem_reg::<Sbb, u8>),
    forms(Sbb_r8_rm8, reg_rm::<Sbb, u8>, reg_mem::<Sbb, u8>),
    forms(Sbb_AL_imm8, acc_imm::<Sbb, u8>, acc_imm::<Sbb, u8>),
    forms(Sbb_rm8_imm8, rm_imm::<Sbb, u8>, mem_imm::<Sbb, u8>),
    forms(Sbb_rm8_imm8_82, rm_imm::<Sbb, u8>, mem_imm::<Sbb, u8>),
    forms(Sbb_rm16_r16, rm_reg::<Sbb, u16>, mem_reg::<Sbb, u16>),
    forms(Sbb_r16_rm16, reg_rm::<Sbb, u16>, reg_mem::<Sbb, u16>),
    forms(Sbb_AX_imm16, acc_imm::<Sbb, u16>, acc_imm::<Sbb, u16>),
    forms(Sbb_rm16_imm16, rm_imm::<Sbb, u16>, mem_imm::<Sbb, u16>),
    forms(Sbb_rm16_imm8, rm_imm::<Sbb, u16>, mem_imm::<Sbb, u16>),
    forms(Sbb_rm32_r32, rm_reg::<Sbb, u32>, mem_reg::<Sbb, u32>),
    forms(Sbb_r32_rm32, reg_rm::<Sbb, u32>, reg_mem::<Sbb, u32>),
    forms(Sbb_EAX_imm32, acc_imm::<Sbb, u32>, acc_imm::<Sbb, u32>),
    forms(Sbb_rm32_imm32, rm_imm::<Sbb, u32>, mem_imm::<Sbb, u32>),
    forms(Sbb_rm32_imm8, rm_imm::<Sbb, u32>, mem_imm::<Sbb, u32>),
    forms(Sbb_rm64_r64, rm_reg::<Sbb, u64>, mem_reg::<Sbb, u64>),
    forms(Sbb_r64_rm64, reg_rm::<Sbb, u64>, reg_mem::<Sbb, u64>),
    forms(Sbb_RAX_imm32, acc_imm::<Sbb, u64>, acc_imm::<Sbb, u64>),
    forms(Sbb_rm64_imm32, rm_imm::<Sbb, u64>, mem_imm::<Sbb, u64>),
    forms(Sbb_rm64_imm8, rm_imm::<Sbb, u64>, mem_imm::<Sbb, u64>),
    forms(And_rm8_r8, rm_reg::<And, u8>, mem_reg::<And, u8>).undefined(Status::AF),
    forms(And_r8_rm8, reg_rm::<And, u8>, reg_mem::<And, u8>).undefined(Status::AF),
    forms(And_AL_imm8, acc_imm::<And, u8>, acc_imm::<And, u8>).undefined(Status::AF),
    forms(And_rm8_imm8, rm_imm::<And, u8>, mem_imm::<And, u8>).undefined(Status::AF),
    forms(And_rm8_imm8_82, rm_imm::<And, u8>, mem_imm::<And, u8>).undefined(Status::AF),
    forms(And_rm16_r16, rm_reg::<And, u16>, mem_reg::<And, u16>).undefined(Status::AF),
    forms(And_r16_rm16, reg_rm::<And, u16>, reg_mem::<And, u16>).undefined(Status::AF),
    forms(And_AX_imm16, acc_imm::<And, u16>, acc_imm::<And, u16>).undefined(Status::AF),
    forms(And_rm16_imm16, rm_imm::<And, u16>, mem_imm::<And, u16>).undefined(Status::AF),
    forms(And_rm16_imm8, rm_imm::<And, u16>, mem_imm::<And, u16>).undefined(Status::AF),
    forms(And_rm32_r32, rm_reg::<And, u32>, mem_reg::<And, u32>).undefined(Status::AF),
    forms(And_r32_rm32, reg_rm::<And, u32>, reg_mem::<And, u32>).undefined(Status::AF),
    forms(And_EAX_imm32, acc_imm::<And, u32>, acc_imm::<And, u32>).undefined(Status::AF),
    forms(And_rm32_imm32, rm_imm::<And, u32>, mem_imm::<And, u32>).undefined(Status::AF),
    forms(And_rm32_imm8, rm_imm::<And, u32>, mem_imm::<And, u32>).undefined(Status::AF),
    forms(And_rm64_r64, rm_reg::<And, u64>, mem_reg::<And, u64>).undefined(Status::AF),
    forms(And_r64_rm64, reg_rm::<And, u64>, reg_mem::<And, u64>).undefined(Status::AF),
    forms(And_RAX_imm32, acc_imm::<And, u64>, acc_imm::<And, u64>).undefined(Status::AF),
    forms(And_rm64_imm32, rm_imm::<And, u64>, mem_imm::<And, u64>).undefined(Status::AF),
    forms(And_rm64_imm8, rm_imm::<And, u64>, mem_imm::<And, u64>).undefined(Status::AF),
    forms(Sub_rm8_r8, rm_reg::<Sub, u8>, mem_reg::<Sub, u8>),
    forms(Sub_r8_rm8, reg_rm::<Sub, u8>, reg_mem::<Sub, u8>),
    forms(Sub_AL_imm8, acc_imm::<Sub, u8>, acc_imm::<Sub, u8>),
    forms(Sub_rm8_imm8, rm_imm::<Sub, u8>, mem_imm::<Sub, u8>),
    forms(Sub_rm8_imm8_82, rm_imm::<Sub, u8>, mem_imm::<Sub, u8>),
    forms(Sub_rm16_r16, rm_reg::<Sub, u16>, mem_reg::<Sub, u16>),
    forms(Sub_r16_rm16, reg_rm::<Sub, u16>, reg_mem::<Sub, u16>),
    forms(Sub_AX_imm16, acc_imm::<Sub, u16>, acc_imm::<Sub, u16>),
    forms(Sub_rm16_imm16, rm_imm::<Sub, u16>, mem_imm::<Sub, u16>),
    forms(Sub_rm16_imm8, rm_imm::<Sub, u16>, mem_imm::<Sub, u16>),
    forms(Sub_rm32_r32, rm_reg::<Sub, u32>, mem_reg::<Sub, u32>),
    forms(Sub_r32_rm32, reg_rm::<Sub, u32>, reg_mem::<Sub, u32>),
    forms(Sub_EAX_imm32, acc_imm::<Sub, u32>, acc_imm::<Sub, u32>),
    forms(Sub_rm32_imm32, rm_imm::<Sub, u32>, mem_imm::<Sub, u32>),
    forms(Sub_rm32_imm8, rm_imm::<Sub, u32>, mem_imm::<Sub, u32>),
    forms(Sub_rm64_r64, rm_reg::<Sub, u64>, mem_reg::<Sub, u64>),
    forms(Sub_r64_rm64, reg_rm::<Sub, u64>, reg_mem::<Sub, u64>),
    forms(Sub_RAX_imm32, acc_imm::<Sub, u64>, acc_imm::<Sub, u64>),
    forms(Sub_rm64_imm32, rm_imm::<Sub, u64>, mem_imm::<Sub, u64>),
    forms(Sub_rm64_imm8, rm_imm::<Sub, u64>, mem_imm::<Sub, u64>),
    forms(Xor_rm8_r8, rm_reg::<Xor, u8>, mem_reg::<Xor, u8>).undefined(Status::AF),
    forms(Xor_r8_rm8, reg_rm::<Xor, u8>, reg_mem::<Xor, u8>).undefined(Status::AF),
    forms(Xor_AL_imm8, acc_imm::<Xor, u8>, acc_imm::<Xor, u8>).undefined(Status::AF),
    forms(Xor_rm8_imm8, rm_imm::<Xor, u8>, mem_imm::<Xor, u8>).undefined(Status::AF),
    forms(Xor_rm8_imm8_82, rm_imm::<Xor, u8>, mem_imm::<Xor, u8>).undefined(Status::AF),
    forms(Xor_rm16_r16, rm_reg::<Xor, u16>, mem_reg::<Xor, u16>).undefined(Status::AF),
    forms(Xor_r16_rm16, reg_rm::<Xor, u16>, reg_mem::<Xor, u16>).undefined(Status::AF),
    forms(Xor_AX_imm16, acc_imm::<Xor, u16>, acc_imm::<Xor, u16>).undefined(Status::AF),
    forms(Xor_rm16_imm16, rm_imm::<Xor, u16>, mem_imm::<Xor, u16>).undefined(Status::AF),
    forms(Xor_rm16_imm8, rm_imm::<Xor, u16>, mem_imm::<Xor, u16>).undefined(Status::AF),
    forms(Xor_rm32_r32, rm_reg::<Xor, u32>, mem_reg::<Xor, u32>).undefined(Status::AF),
    forms(Xor_r32_rm32, reg_rm::<Xor, u32>, reg_mem::<Xor, u32>).undefined(Status::AF),
    forms(Xor_EAX_imm32, acc_imm::<Xor, u32>, acc_imm::<Xor, u32>).undefined(Status::AF),
    forms(Xor_rm32_imm32, rm_imm::<Xor, u32>, mem_imm::<Xor, u32>).undefined(Status::AF),
    forms(Xor_rm32_imm8, rm_imm::<Xor, u32>, mem_imm::<Xor, u32>).undefined(Status::AF),
    forms(Xor_rm64_r64, rm_reg::<Xor, u64>, mem_reg::<Xor, u64>).undefined(Status::AF),
    forms(Xor_r64_rm64, reg_rm::<Xor, u64>, reg_mem::<Xor, u64>).undefined(Status::AF),
    forms(Xor_RAX_imm32, acc_imm::<Xor, u64>, acc_imm::<Xor, u64>).undefined(Status::AF),
    forms(Xor_rm64_imm32, rm_imm::<Xor, u64>, mem_imm::<Xor, u64>).undefined(Status::AF),
    forms(Xor_rm64_imm8, rm_imm::<Xor, u64>, mem_imm::<Xor, u64>).undefined(Status::AF),
    forms(Cmp_rm8_r8, rm_reg::<Cmp, u8>, mem_reg::<Cmp, u8>),
    forms(Cmp_r8_rm8, reg_rm::<Cmp, u8>, reg_mem::<Cmp, u8>),
    forms(Cmp_AL_imm8, acc_imm::<Cmp, u8>, acc_imm::<Cmp, u8>),
    forms(Cmp_rm8_imm8, rm_imm::<Cmp, u8>, mem_imm::<Cmp, u8>),
    forms(Cmp_rm8_imm8_82, rm_imm::<Cmp, u8>, mem_imm::<Cmp, u8>),
    forms(Cmp_rm16_r16, rm_reg::<Cmp, u16>, mem_reg::<Cmp, u16>),
    forms(Cmp_r16_rm16, reg_rm::<Cmp, u16>, reg_mem::<Cmp, u16>),
    forms(Cmp_AX_imm16, acc_imm::<Cmp, u16>, acc_imm::<Cmp, u16>),
    forms(Cmp_rm16_imm16, rm_imm::<Cmp, u16>, mem_imm::<Cmp, u16>),
    forms(Cmp_rm16_imm8, rm_imm::<Cmp, u16>, mem_imm::<Cmp, u16>),
    forms(Cmp_rm32_r32, rm_reg::<Cmp, u32>, mem_reg::<Cmp, u32>),
    forms(Cmp_r32_rm32, reg_rm::<Cmp, u32>, reg_mem::<Cmp, u32>),
    forms(Cmp_EAX_imm32, acc_imm::<Cmp, u32>, acc_imm::<Cmp, u32>),
    forms(Cmp_rm32_imm32, rm_imm::<Cmp, u32>, mem_imm::<Cmp, u32>),
    forms(Cmp_rm32_imm8, rm_imm::<Cmp, u32>, mem_imm::<Cmp, u32>),
    forms(Cmp_rm64_r64, rm_reg::<Cmp, u64>, mem_reg::<Cmp, u64>),
    forms(Cmp_r64_rm64, reg_rm::<Cmp, u64>, reg_mem::<Cmp, u64>),
    forms(Cmp_RAX_imm32, acc_imm::<Cmp, u64>, acc_imm::<Cmp, u64>),
    forms(Cmp_rm64_imm32, rm_imm::<Cmp, u64>, mem_imm::<Cmp, u64>),
    forms(Cmp_rm64_imm8, rm_imm::<Cmp, u64>, mem_imm::<Cmp, u64>),
    forms(Test_rm8_r8, rm_reg::<Test, u8>, mem_reg::<Test, u8>).undefined(Status::AF),
    forms(Test_AL_imm8, acc_imm::<Test, u8>, acc_imm::<Test, u8>).undefined(Status::AF),
    forms(Test_rm8_imm8, rm_imm::<Test, u8>, mem_imm::<Test, u8>).undefined(Status::AF),
    forms(Test_rm8_imm8_F6r1, rm_imm::<Test, u8>, mem_imm::<Test, u8>).undefined(Status::AF),
    forms(Inc_rm8, one_rm::<Inc, u8>, one_mem::<Inc, u8>),
    forms(Dec_rm8, one_rm::<Dec, u8>, one_mem::<Dec, u8>),
    forms(Neg_rm8, one_rm::<Neg, u8>, one_mem::<Neg, u8>),
    forms(Not_rm8, one_rm::<Not, u8>, one_mem::<Not, u8>),
    forms(Test_rm16_r16, rm_reg::<Test, u16>, mem_reg::<Test, u16>).undefined(Status::AF),
    forms(Test_AX_imm16, acc_imm::<Test, u16>, acc_imm::<Test, u16>).undefined(Status::AF),
    forms(Test_rm16_imm16, rm_imm::<Test, u16>, mem_imm::<Test, u16>).undefined(Status::AF),
    forms(Test_rm16_imm16_F7r1, rm_imm::<Test, u16>, mem_imm::<Test, u16>).undefined(Status::AF),
    forms(Inc_rm16, one_rm::<Inc, u16>, one_mem::<Inc, u16>),
    forms(Dec_rm16, one_rm::<Dec, u16>, one_mem::<Dec, u16>),
    forms(Neg_rm16, one_rm::<Neg, u16>, one_mem::<Neg, u16>),
    forms(Not_rm16, one_rm::<Not, u16>, one_mem::<Not, u16>),
    forms(Test_rm32_r32, rm_reg::<Test, u32>, mem_reg::<Test, u32>).undefined(Status::AF),
    forms(Test_EAX_imm32, acc_imm::<Test, u32>, acc_imm::<Test, u32>).undefined(Status::AF),
    forms(Test_rm32_imm32, rm_imm::<Test, u32>, mem_imm::<Test, u32>).undefined(Status::AF),
    forms(Test_rm32_imm32_F7r1, rm_imm::<Test, u32>, mem_imm::<Test, u32>).undefined(Status::AF),
    forms(Inc_rm32, one_rm::<Inc, u32>, one_mem::<Inc, u32>),
    forms(Dec_rm32, one_rm::<Dec, u32>, one_mem::<Dec, u32>),
    forms(Neg_rm32, one_rm::<Neg, u32>, one_mem::<Neg, u32>),
    forms(Not_rm32, one_rm::<Not, u32>, one_mem::<Not, u32>),
    forms(Test_rm64_r64, rm_reg::<Test, u64>, mem_reg::<Test, u64>).undefined(Status::AF),
    forms(Test_RAX_imm32, acc_imm::<Test, u64>, acc_imm::<Test, u64>).undefined(Status::AF),
    forms(Test_rm64_imm32, rm_imm::<Test, u64>, mem_imm::<Test, u64>).undefined(Status::AF),
    forms(Test_rm64_imm32_F7r1, rm_imm::<Test, u64>, mem_imm::<Test, u64>).undefined(Status::AF),
    forms(Inc_rm64, one_rm::<Inc, u64>, one_mem::<Inc, u64>),
    forms(Dec_rm64, one_rm::<Dec, u64>, one_mem::<Dec, u64>),
    forms(Neg_rm64, one_rm::<Neg, u64>, one_mem::<Neg, u64>),
    forms(Not_rm64, one_rm::<Not, u64>, one_mem::<Not, u64>),
    forms(Inc_r16, one_reg::<Inc, u16>, one_reg::<Inc, u16>),
    forms(Dec_r16, one_reg::<Dec, u16>, one_reg::<Dec, u16>),
    forms(Inc_r32, one_reg::<Inc, u32>, one_reg::<Inc, u32>),
    forms(Dec_r32, one_reg::<Dec, u32>, one_reg::<Dec, u32>),
    forms(Adcx_r32_rm32, adcx::<u32>, adcx::<u32>),
    forms(Adox_r32_rm32, adox::<u32>, adox::<u32>),
    forms(Adcx_r64_rm64, adcx::<u64>, adcx::<u64>),
    forms(Adox_r64_rm64, adox::<u64>, adox::<u64>),
];
