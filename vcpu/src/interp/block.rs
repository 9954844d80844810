//! A decoded block: straight-line code, left by a jump, a fault, or at its end.

use crate::isa::Op;

/// Instructions a block holds at most.
pub const BLOCK_OPS_MAX: usize = 64;

/// Decoded instructions that follow one another in one page. Jcc do not end a block; taken ones leave it.
pub struct Block {
    /// The instructions, in order; at most `BLOCK_OPS_MAX`.
    pub ops: Box<[Op]>,
    /// Where its first byte lies.
    pub key: BlockKey,
    /// Guest physical address of the next page, when the block is one instruction that crosses into it.
    pub second_page: Option<u64>,
}

/// What a block is found by. Everything else that matters is checked when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockKey {
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// 16-, 32- or 64-bit code.
    pub bits: u8,
}
