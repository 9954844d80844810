//! A decoded instruction, ready to run.

use crate::core::Core;
use crate::fault::Fault;

/// What executes an op. On `Err` nothing of the instruction has taken effect unless the manual says so.
pub type Routine = fn(&mut Core, &Op) -> Result<(), Fault>;

/// `Op::flags` bits.
pub mod opflag {
    /// The block ends after this op.
    pub const LAST: u8 = 1;
    /// The routine has set `cpu.rip`.
    pub const SETS_RIP: u8 = 2;
    /// The operand that may be memory is memory; else it is register `rm`.
    pub const MEMORY: u8 = 4;
    /// The effective address needs `Core::address_slow`: 16- or 32-bit addressing or real segments.
    pub const SLOW_ADDRESS: u8 = 8;
    /// A LOCK prefix stands before it.
    pub const LOCK: u8 = 16;
    /// A REP/REPE prefix stands before it.
    pub const REP: u8 = 32;
    /// A REPNE prefix stands before it.
    pub const REPNE: u8 = 64;
    /// The memory operand is written.
    pub const WRITES: u8 = 128;
}

/// One instruction of a decoded block. The instruction's bytes are not kept.
///
/// Operand conventions, from the iced `Instruction`: `reg` is the ModRM.reg (or the only, or opcode-embedded)
/// register operand, `rm` the ModRM.rm operand when it is a register, `vvvv` the VEX.vvvv one. General
/// registers are 0…15; 8-bit ones are *byte offsets* into the register file (`AL` 0, `AH` 1, `CL` 8, …);
/// segment, control, debug, x87, MMX and vector registers are their number.
#[derive(Clone)]
#[repr(C)]
pub struct Op {
    /// What executes it.
    pub run: Routine,
    /// Immediate, sign-extended; far pointer as selector << 32 | offset; branch target relative to the
    /// block's first byte; absolute address for moffs operands.
    pub imm: u64,
    /// Displacement of the memory operand; for RIP-relative ones relative to the block's first byte.
    pub disp: i64,
    /// Register indexes of the memory operand; `gpr::ZERO` for none, `gpr::BLOCK_RIP` for RIP-relative.
    pub base: u8,
    /// Register index of the memory operand's index; `gpr::ZERO` for none.
    pub index: u8,
    /// log2 of the scale.
    pub scale: u8,
    /// `seg` index whose base is added.
    pub segment: u8,
    /// ModRM.reg operand.
    pub reg: u8,
    /// ModRM.rm operand, when it is a register.
    pub rm: u8,
    /// VEX.vvvv operand.
    pub vvvv: u8,
    /// Operand size in bytes (2, 4, 8) for routines that are not specialised by type; memory operand size for thunks.
    pub size: u8,
    /// Distance of this instruction from the block's first byte.
    pub offset: u16,
    /// Length of the instruction in bytes.
    pub length: u8,
    /// `opflag` bits.
    pub flags: u8,
    /// Address size in bytes (2, 4, 8).
    pub address_size: u8,
    /// The segment that the manual names for this operand, for limit and type checks outside 64-bit mode.
    pub checked_segment: u8,
    /// Thunk number, or what a family wants.
    pub aux: u32,
}

impl Op {
    /// The operand that may be memory is memory.
    #[inline(always)]
    pub fn is_memory(&self) -> bool {
        self.flags & opflag::MEMORY != 0
    }
}
