//! Near transfers of control: Jcc JMP CALL RET LOOPcc JrCXZ.
//!
//! A conditional jump does not end a block: blocks go on with the fall-through path, and a taken jump
//! leaves them.

use super::registers::Reg;
use super::{Op, Row, jump, row};
use crate::core::Core;
use crate::fault::Fault;
use crate::mem::access::Word;
use crate::mem::walk::is_canonical;
use crate::state::regs::gpr;
use crate::state::{Status, seg};
use iced_x86::Code::*;

/// Checks a near branch target and makes it the next RIP.
#[inline(always)]
fn go<T: Word>(core: &mut Core, target: T) -> Result<(), Fault> {
    let target = target.to_u64();
    let bad = if T::SIZE == 8 {
        !is_canonical(target)
    } else {
        target > u64::from(core.cpu.segments[seg::CS].limit)
    };
    if bad {
        return Err(Fault::gp(0));
    }
    core.cpu.rip = target;
    Ok(())
}

#[inline(always)]
fn relative<T: Word>(core: &Core, op: &Op) -> T {
    T::from_u64(core.cpu.data.gpr[gpr::BLOCK_RIP].wrapping_add(op.imm))
}

#[inline(always)]
fn take<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    go(core, relative::<T>(core, op))?;
    core.jumped = true;
    core.leave_block = true;
    Ok(())
}

fn jcc<T: Word, const CONDITION: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if core.cpu.data.status.condition(CONDITION) { take::<T>(core, op) } else { Ok(()) }
}

fn jmp<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    go(core, relative::<T>(core, op))
}

fn jmp_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let target = T::get(&core.cpu.data, op.rm);
    go(core, target)
}

fn jmp_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let target = core.load::<T>(op)?;
    go(core, target)
}

/// The target is checked before the push, so that a fault leaves RSP alone.
#[inline(always)]
fn call_to<T: Word>(core: &mut Core, op: &Op, target: T) -> Result<(), Fault> {
    let back = T::from_u64(core.next_rip(op));
    let old = core.cpu.rip;
    go(core, target)?;
    core.push(back).inspect_err(|_| core.cpu.rip = old)
}

fn call<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    call_to(core, op, relative::<T>(core, op))
}

fn call_rm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let target = T::get(&core.cpu.data, op.rm);
    call_to(core, op, target)
}

fn call_mem<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let target = core.load::<T>(op)?;
    call_to(core, op, target)
}

/// RET and RET imm16; the immediate is zero in the plain form.
fn ret<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let target = core.peek::<T>(0)?;
    go(core, target)?;
    core.release_stack(T::SIZE + op.imm);
    Ok(())
}

/// Counts the counter register down and jumps while it is not zero and ZF is as `wanted` (None: any).
#[inline(always)]
fn count_down<C: Reg, T: Word>(core: &mut Core, op: &Op, wanted: Option<bool>) -> Result<(), Fault> {
    let left = C::from_u64(C::get(&core.cpu.data, gpr::RCX as u8).to_u64().wrapping_sub(1));
    let zero_flag = core.cpu.data.status.has(Status::ZF);
    if left != C::default() && wanted.is_none_or(|z| z == zero_flag) {
        take::<T>(core, op)?;
    }
    C::set(&mut core.cpu.data, gpr::RCX as u8, left);
    Ok(())
}

fn loop_any<C: Reg, T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    count_down::<C, T>(core, op, None)
}

fn loop_equal<C: Reg, T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    count_down::<C, T>(core, op, Some(true))
}

fn loop_unequal<C: Reg, T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    count_down::<C, T>(core, op, Some(false))
}

fn jump_if_zero<C: Reg, T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if C::get(&core.cpu.data, gpr::RCX as u8) == C::default() { take::<T>(core, op) } else { Ok(()) }
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Jo_rel8_16, jcc::<u16, 0>),
    row(Jo_rel8_32, jcc::<u32, 0>),
    row(Jo_rel8_64, jcc::<u64, 0>),
    row(Jo_rel16, jcc::<u16, 0>),
    row(Jo_rel32_32, jcc::<u32, 0>),
    row(Jo_rel32_64, jcc::<u64, 0>),
    row(Jno_rel8_16, jcc::<u16, 1>),
    row(Jno_rel8_32, jcc::<u32, 1>),
    row(Jno_rel8_64, jcc::<u64, 1>),
    row(Jno_rel16, jcc::<u16, 1>),
    row(Jno_rel32_32, jcc::<u32, 1>),
    row(Jno_rel32_64, jcc::<u64, 1>),
    row(Jb_rel8_16, jcc::<u16, 2>),
    row(Jb_rel8_32, jcc::<u32, 2>),
    row(Jb_rel8_64, jcc::<u64, 2>),
    row(Jb_rel16, jcc::<u16, 2>),
    row(Jb_rel32_32, jcc::<u32, 2>),
    row(Jb_rel32_64, jcc::<u64, 2>),
    row(Jae_rel8_16, jcc::<u16, 3>),
    row(Jae_rel8_32, jcc::<u32, 3>),
    row(Jae_rel8_64, jcc::<u64, 3>),
    row(Jae_rel16, jcc::<u16, 3>),
    row(Jae_rel32_32, jcc::<u32, 3>),
    row(Jae_rel32_64, jcc::<u64, 3>),
    row(Je_rel8_16, jcc::<u16, 4>),
    row(Je_rel8_32, jcc::<u32, 4>),
    row(Je_rel8_64, jcc::<u64, 4>),
    row(Je_rel16, jcc::<u16, 4>),
    row(Je_rel32_32, jcc::<u32, 4>),
    row(Je_rel32_64, jcc::<u64, 4>),
    row(Jne_rel8_16, jcc::<u16, 5>),
    row(Jne_rel8_32, jcc::<u32, 5>),
    row(Jne_rel8_64, jcc::<u64, 5>),
    row(Jne_rel16, jcc::<u16, 5>),
    row(Jne_rel32_32, jcc::<u32, 5>),
    row(Jne_rel32_64, jcc::<u64, 5>),
    row(Jbe_rel8_16, jcc::<u16, 6>),
    row(Jbe_rel8_32, jcc::<u32, 6>),
    row(Jbe_rel8_64, jcc::<u64, 6>),
    row(Jbe_rel16, jcc::<u16, 6>),
    row(Jbe_rel32_32, jcc::<u32, 6>),
    row(Jbe_rel32_64, jcc::<u64, 6>),
    row(Ja_rel8_16, jcc::<u16, 7>),
    row(Ja_rel8_32, jcc::<u32, 7>),
    row(Ja_rel8_64, jcc::<u64, 7>),
    row(Ja_rel16, jcc::<u16, 7>),
    row(Ja_rel32_32, jcc::<u32, 7>),
    row(Ja_rel32_64, jcc::<u64, 7>),
    row(Js_rel8_16, jcc::<u16, 8>),
    row(Js_rel8_32, jcc::<u32, 8>),
    row(Js_rel8_64, jcc::<u64, 8>),
    row(Js_rel16, jcc::<u16, 8>),
    row(Js_rel32_32, jcc::<u32, 8>),
    row(Js_rel32_64, jcc::<u64, 8>),
    row(Jns_rel8_16, jcc::<u16, 9>),
    row(Jns_rel8_32, jcc::<u32, 9>),
    row(Jns_rel8_64, jcc::<u64, 9>),
    row(Jns_rel16, jcc::<u16, 9>),
    row(Jns_rel32_32, jcc::<u32, 9>),
    row(Jns_rel32_64, jcc::<u64, 9>),
    row(Jp_rel8_16, jcc::<u16, 10>),
    row(Jp_rel8_32, jcc::<u32, 10>),
    row(Jp_rel8_64, jcc::<u64, 10>),
    row(Jp_rel16, jcc::<u16, 10>),
    row(Jp_rel32_32, jcc::<u32, 10>),
    row(Jp_rel32_64, jcc::<u64, 10>),
    row(Jnp_rel8_16, jcc::<u16, 11>),
    row(Jnp_rel8_32, jcc::<u32, 11>),
    row(Jnp_rel8_64, jcc::<u64, 11>),
    row(Jnp_rel16, jcc::<u16, 11>),
    row(Jnp_rel32_32, jcc::<u32, 11>),
    row(Jnp_rel32_64, jcc::<u64, 11>),
    row(Jl_rel8_16, jcc::<u16, 12>),
    row(Jl_rel8_32, jcc::<u32, 12>),
    row(Jl_rel8_64, jcc::<u64, 12>),
    row(Jl_rel16, jcc::<u16, 12>),
    row(Jl_rel32_32, jcc::<u32, 12>),
    row(Jl_rel32_64, jcc::<u64, 12>),
    row(Jge_rel8_16, jcc::<u16, 13>),
    row(Jge_rel8_32, jcc::<u32, 13>),
    row(Jge_rel8_64, jcc::<u64, 13>),
    row(Jge_rel16, jcc::<u16, 13>),
    row(Jge_rel32_32, jcc::<u32, 13>),
    row(Jge_rel32_64, jcc::<u64, 13>),
    row(Jle_rel8_16, jcc::<u16, 14>),
    row(Jle_rel8_32, jcc::<u32, 14>),
    row(Jle_rel8_64, jcc::<u64, 14>),
    row(Jle_rel16, jcc::<u16, 14>),
    row(Jle_rel32_32, jcc::<u32, 14>),
    row(Jle_rel32_64, jcc::<u64, 14>),
    row(Jg_rel8_16, jcc::<u16, 15>),
    row(Jg_rel8_32, jcc::<u32, 15>),
    row(Jg_rel8_64, jcc::<u64, 15>),
    row(Jg_rel16, jcc::<u16, 15>),
    row(Jg_rel32_32, jcc::<u32, 15>),
    row(Jg_rel32_64, jcc::<u64, 15>),
    jump(Jmp_rel8_16, jmp::<u16>),
    jump(Jmp_rel8_32, jmp::<u32>),
    jump(Jmp_rel8_64, jmp::<u64>),
    jump(Jmp_rel16, jmp::<u16>),
    jump(Call_rel16, call::<u16>),
    jump(Jmp_rel32_32, jmp::<u32>),
    jump(Call_rel32_32, call::<u32>),
    jump(Jmp_rel32_64, jmp::<u64>),
    jump(Call_rel32_64, call::<u64>),
    jump(Jmp_rm16, jmp_rm::<u16>).with_memory(jmp_mem::<u16>),
    jump(Call_rm16, call_rm::<u16>).with_memory(call_mem::<u16>),
    jump(Jmp_rm32, jmp_rm::<u32>).with_memory(jmp_mem::<u32>),
    jump(Call_rm32, call_rm::<u32>).with_memory(call_mem::<u32>),
    jump(Jmp_rm64, jmp_rm::<u64>).with_memory(jmp_mem::<u64>),
    jump(Call_rm64, call_rm::<u64>).with_memory(call_mem::<u64>),
    jump(Retnw, ret::<u16>),
    jump(Retnw_imm16, ret::<u16>),
    jump(Retnd, ret::<u32>),
    jump(Retnd_imm16, ret::<u32>),
    jump(Retnq, ret::<u64>),
    jump(Retnq_imm16, ret::<u64>),
    row(Loopne_rel8_16_CX, loop_unequal::<u16, u16>),
    row(Loopne_rel8_32_CX, loop_unequal::<u16, u32>),
    row(Loopne_rel8_16_ECX, loop_unequal::<u32, u16>),
    row(Loopne_rel8_32_ECX, loop_unequal::<u32, u32>),
    row(Loopne_rel8_64_ECX, loop_unequal::<u32, u64>),
    row(Loopne_rel8_16_RCX, loop_unequal::<u64, u16>),
    row(Loopne_rel8_64_RCX, loop_unequal::<u64, u64>),
    row(Loope_rel8_16_CX, loop_equal::<u16, u16>),
    row(Loope_rel8_32_CX, loop_equal::<u16, u32>),
    row(Loope_rel8_16_ECX, loop_equal::<u32, u16>),
    row(Loope_rel8_32_ECX, loop_equal::<u32, u32>),
    row(Loope_rel8_64_ECX, loop_equal::<u32, u64>),
    row(Loope_rel8_16_RCX, loop_equal::<u64, u16>),
    row(Loope_rel8_64_RCX, loop_equal::<u64, u64>),
    row(Loop_rel8_16_CX, loop_any::<u16, u16>),
    row(Loop_rel8_32_CX, loop_any::<u16, u32>),
    row(Loop_rel8_16_ECX, loop_any::<u32, u16>),
    row(Loop_rel8_32_ECX, loop_any::<u32, u32>),
    row(Loop_rel8_64_ECX, loop_any::<u32, u64>),
    row(Loop_rel8_16_RCX, loop_any::<u64, u16>),
    row(Loop_rel8_64_RCX, loop_any::<u64, u64>),
    row(Jcxz_rel8_16, jump_if_zero::<u16, u16>),
    row(Jcxz_rel8_32, jump_if_zero::<u16, u32>),
    row(Jecxz_rel8_16, jump_if_zero::<u32, u16>),
    row(Jecxz_rel8_32, jump_if_zero::<u32, u32>),
    row(Jecxz_rel8_64, jump_if_zero::<u32, u64>),
    row(Jrcxz_rel8_16, jump_if_zero::<u64, u16>),
    row(Jrcxz_rel8_64, jump_if_zero::<u64, u64>),
];
