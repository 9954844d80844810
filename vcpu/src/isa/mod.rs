//! One row an instruction: what it does, by iced `Code`.
//!
//! Every family file offers `ROWS`; `table` joins them. Both engines read this table.

pub mod arith;
pub mod atomic;
pub mod bcd;
pub mod bits;
pub mod branch;
pub mod data;
pub mod flag_ops;
pub mod host_alu;
pub mod muldiv;
pub mod op;
pub mod port;
pub mod registers;
pub mod shift;
pub mod stack;
pub mod string;
pub mod table;

pub use op::{Op, Routine, opflag};

use iced_x86::Code;

/// A row of the instruction table.
#[derive(Clone, Copy)]
pub struct Row {
    /// The instruction form, as the decoder names it.
    pub code: Code,
    /// What the interpreter runs when no operand is memory.
    pub run: Routine,
    /// What it runs when one is.
    pub memory: Routine,
    /// `opflag` bits every op of this code has.
    pub flags: u8,
    /// Status flags (as `Status` bits) that the manual leaves undefined after it and that the
    /// routine sets to the canonical value; the host oracle ignores them.
    pub undefined: u16,
}

/// A row for an instruction that goes on with the next one.
pub const fn row(code: Code, run: Routine) -> Row {
    Row { code, run, memory: run, flags: 0, undefined: 0 }
}

/// A row for an instruction with a routine for each form of its ModRM operand.
pub const fn forms(code: Code, run: Routine, memory: Routine) -> Row {
    Row { code, run, memory, flags: 0, undefined: 0 }
}

/// A row for an instruction after which the block ends; the next RIP is the following instruction's.
pub const fn last(code: Code, run: Routine) -> Row {
    Row { code, run, memory: run, flags: opflag::LAST, undefined: 0 }
}

/// A row for an instruction that sets `cpu.rip` itself (branches, returns, far transfers).
pub const fn jump(code: Code, run: Routine) -> Row {
    Row { code, run, memory: run, flags: opflag::LAST | opflag::SETS_RIP, undefined: 0 }
}

impl Row {
    /// The same row with another routine for the memory form.
    pub const fn with_memory(self, memory: Routine) -> Row {
        Row { memory, ..self }
    }

    /// The same row with undefined status flags noted.
    pub const fn undefined(self, status: u16) -> Row {
        Row { undefined: status, ..self }
    }
}
