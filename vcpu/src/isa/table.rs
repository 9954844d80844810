//! The instruction table: rows of all families by `Code`, with the roles of their operands.

use super::{Row, flag_ops, opflag};
use iced_x86::{Code, OpCodeOperandKind};
use std::sync::LazyLock;

/// Where a register operand goes in an `Op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// ModRM.reg, or the register in the opcode.
    Reg,
    /// ModRM.rm.
    Rm,
    /// VEX.vvvv.
    Vvvv,
    /// Implied by the opcode, an immediate, memory: not stored as a register.
    Other,
}

/// A row of the table with what the decoder needs beside it.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The instruction's row.
    pub row: Row,
    /// Where each operand's register is kept in an `Op`.
    pub roles: [Role; 5],
}

/// All families, in the order of precedence.
const FAMILIES: &[&[Row]] = &[
    super::arith::ROWS,
    super::atomic::ROWS,
    super::bcd::ROWS,
    super::bits::ROWS,
    super::branch::ROWS,
    super::data::ROWS,
    super::flag_ops::ROWS,
    super::muldiv::ROWS,
    super::port::ROWS,
    super::shift::ROWS,
    super::stack::ROWS,
    super::string::ROWS,
];

static TABLE: LazyLock<Vec<Option<Entry>>> = LazyLock::new(|| {
    let codes = Code::values().len();
    let mut table = vec![None; codes];
    let system = crate::system::ROWS.iter().copied();
    for row in FAMILIES.iter().copied().chain(system).flatten() {
        let place: &mut Option<Entry> = &mut table[row.code as usize];
        assert!(place.is_none(), "{:?} has two rows", row.code);
        *place = Some(Entry { row: *row, roles: roles(row.code) });
    }
    table
});

/// The row of an instruction that this project executes itself; host thunks serve the others.
#[inline]
pub fn entry(code: Code) -> Option<&'static Entry> {
    TABLE[code as usize].as_ref()
}

/// The row of every byte sequence that is no instruction: #UD.
pub fn undefined() -> Row {
    Row { flags: opflag::LAST, ..super::row(Code::INVALID, flag_ops::undefined) }
}

/// Roles of the operands of an instruction.
pub fn roles(code: Code) -> [Role; 5] {
    let info = code.op_code();
    let mut roles = [Role::Other; 5];
    for index in 0..info.op_count() {
        roles[index as usize] = role(info.op_kind(index));
    }
    roles
}

fn role(kind: OpCodeOperandKind) -> Role {
    use OpCodeOperandKind::*;
    match kind {
        r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem | ymm_or_mem | r16_rm
        | r32_rm | r64_rm | mm_rm | xmm_rm | ymm_rm => Role::Rm,
        r8_reg | r8_opcode | r16_reg | r16_opcode | r32_reg | r32_opcode | r64_reg | r64_opcode | seg_reg
        | mm_reg | xmm_reg | ymm_reg | cr_reg | dr_reg | sti_opcode => Role::Reg,
        r32_vvvv | r64_vvvv | xmm_vvvv | ymm_vvvv => Role::Vvvv,
        _ => Role::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_has_two_rows() {
        assert!(entry(Code::Add_rm8_r8).is_some());
        assert!(entry(Code::INVALID).is_none());
        assert_eq!(roles(Code::Add_rm64_r64)[..2], [Role::Rm, Role::Reg]);
        assert_eq!(roles(Code::Xchg_r64_RAX)[..2], [Role::Reg, Role::Other]);
    }
}
