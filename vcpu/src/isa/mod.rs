//! One row an instruction: what it does, by iced `Code`.
//!
//! Every family file offers `ROWS`; `table` joins them. Both engines read this table.

pub mod op;

pub use op::{Op, Routine, opflag};

use iced_x86::Code;

/// A row of the instruction table.
#[derive(Clone, Copy)]
pub struct Row {
    pub code: Code,
    /// What the interpreter runs.
    pub run: Routine,
    /// `opflag` bits every op of this code has.
    pub flags: u8,
    /// Status flags (as `Status` bits) that the manual leaves undefined after it and that the
    /// routine sets to the canonical value; the host oracle ignores them.
    pub undefined: u16,
}

/// A row for an instruction that goes on with the next one.
pub const fn row(code: Code, run: Routine) -> Row {
    Row { code, run, flags: 0, undefined: 0 }
}

/// A row for an instruction after which the block ends; the next RIP is the following instruction's.
pub const fn last(code: Code, run: Routine) -> Row {
    Row { code, run, flags: opflag::LAST, undefined: 0 }
}

/// A row for an instruction that sets `cpu.rip` itself (branches, returns, far transfers).
pub const fn jump(code: Code, run: Routine) -> Row {
    Row { code, run, flags: opflag::LAST | opflag::SETS_RIP, undefined: 0 }
}

impl Row {
    /// The same row with undefined status flags noted.
    pub const fn undefined(self, status: u16) -> Row {
        Row { undefined: status, ..self }
    }
}
