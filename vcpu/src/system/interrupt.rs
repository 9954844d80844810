//! Instructions that raise an interrupt or exception of their own: INT n, INT3, INTO, INT1, BOUND.

use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Row, jump, row};
use crate::mem::access::Word;
use crate::state::Status;
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    jump(Code::Int3, int3),
    jump(Code::Int_imm8, int_n),
    jump(Code::Into, into),
    jump(Code::Int1, int1),
    row(Code::Bound_r16_m1616, bound::<u16>),
    row(Code::Bound_r32_m3232, bound::<u32>),
];

fn int3(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.software_interrupt(vector::BP, core.next_rip(op), true)
}

fn int_n(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.software_interrupt(op.imm as u8, core.next_rip(op), true)
}

fn into(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let next = core.next_rip(op);
    if core.cpu.data.status.has(Status::OF) {
        core.software_interrupt(vector::OF, next, true)
    } else {
        core.cpu.rip = next;
        Ok(())
    }
}

/// INT1 is an event from outside as far as gates are concerned: their DPL is not checked (SDM 2, INT1).
fn int1(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.software_interrupt(vector::DB, core.next_rip(op), false)
}

/// BOUND: signed index against a pair of bounds in memory.
fn bound<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let sign_extend = |value: u64| (value << (64 - T::BITS)) as i64 >> (64 - T::BITS);
    let at = core.operand_address(op)?;
    let lower = core.read::<T>(at)?.to_u64();
    let upper = core.read::<T>(at.wrapping_add(T::SIZE))?.to_u64();
    let index = sign_extend(core.cpu.data.gpr[usize::from(op.reg & 15)]);
    if index < sign_extend(lower) || index > sign_extend(upper) {
        return Err(Fault::new(vector::BR));
    }
    Ok(())
}
