//! Where things lie in a test guest's memory. Physical and linear addresses are the same in the low 2 MiB.

/// Guest RAM.
pub const RAM_BYTES: u64 = 16 << 20;

/// Global descriptor table.
pub const GDT: u64 = 0x1000;
/// Interrupt descriptor table.
pub const IDT: u64 = 0x2000;
/// Task-state segment.
pub const TSS: u64 = 0x3000;
/// Local descriptor table.
pub const LDT: u64 = 0x4000;
/// One HLT a vector, `HANDLER_BYTES` apart: where every gate leads unless a test says otherwise.
pub const HANDLERS: u64 = 0x5000;
/// Distance between two handlers.
pub const HANDLER_BYTES: u64 = 16;
/// Top of the stack of ring 0.
pub const STACK: u64 = 0x8000;
/// Top of the stack that TSS and call gates switch to.
pub const STACK_INNER: u64 = 0xa000;
/// Top of the first interrupt-stack-table stack.
pub const STACK_IST: u64 = 0xc000;
/// Top of the stack of ring 3.
pub const STACK_USER: u64 = 0xe000;
/// Code of ring 0.
pub const CODE: u64 = 0x1_0000;
/// Code that user mode may execute, to `CODE_USER_END`.
pub const CODE_USER: u64 = 0x1_8000;
/// End of the code of ring 3.
pub const CODE_USER_END: u64 = 0x2_0000;
/// Data of ring 0.
pub const DATA: u64 = 0x2_0000;
/// Data that user mode may write, to `DATA_USER_END`.
pub const DATA_USER: u64 = 0x2_8000;
/// End of the data of ring 3.
pub const DATA_USER_END: u64 = 0x3_0000;
/// Page tables, from here up.
pub const TABLES: u64 = 0x10_0000;
/// End of the page tables.
pub const TABLES_END: u64 = 0x20_0000;
/// A linear address that is mapped by tests only; the start of a region of 1 GiB.
pub const WINDOW: u64 = 0x4000_0000;
/// Physical memory that nothing else uses, on a boundary of 4 MiB.
pub const FRAME: u64 = 0x40_0000;

/// Address of the default handler of a vector.
pub const fn handler(vector: u8) -> u64 {
    HANDLERS + vector as u64 * HANDLER_BYTES
}
