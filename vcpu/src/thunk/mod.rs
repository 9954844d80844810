//! SIMD, x87, MMX, crypto and bit-manipulation instructions, run by the host CPU itself.
//!
//! For each distinct instruction (operands included, memory operand replaced by a buffer) a small host function
//! is generated once: see `plan` (what must be loaded and stored), `emit` (the code), `run` (the routines that
//! bring the memory operand and watch over exceptions). What differs between CPU vendors, touches memory
//! element by element or keeps x87 and XSAVE images is Rust: the `ROWS` of the other files.
//!
//! Thunks are a cache, not guest state: they may be thrown away at any block boundary (`make_room`).

mod alignment;
mod approx;
mod call;
mod code_cache;
mod direct;
mod emit;
mod fpu;
mod fpu_control;
mod masked;
mod moves;
mod mxcsr;
mod plan;
mod run;
#[cfg(test)]
mod tests;
mod transcendental;
mod xsave;

use crate::isa::{Op, Row, opflag};
use crate::state::DataRegs;
use call::Scratch;
use code_cache::{CodeCache, CodeOffset};
use emit::Roles;
use iced_x86::{Encoder, Instruction, InstructionInfoFactory, OpKind, Register};
use plan::{Access, Plan};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

/// Instructions written in Rust.
const ROWS: &[&[Row]] = &[
    approx::ROWS,
    direct::ROWS,
    fpu_control::ROWS,
    masked::ROWS,
    moves::ROWS,
    transcendental::ROWS,
    xsave::ROWS,
];

/// Bytes of host code kept; about 60,000 thunks.
const CACHE_SIZE: NonZeroUsize = NonZeroUsize::new(8 << 20).expect("not zero");
/// Space that `make_room` leaves: more than the longest block can fill.
const BLOCK_RESERVE: usize = 1 << 20;

/// The longest x86 instruction, and its length.
type Encoding = [u8; 16];

/// One generated function and what its routine must know.
#[derive(Clone, Copy)]
struct Thunk {
    code: CodeOffset,
    size: u8,
    align_mask: u8,
    mxcsr: bool,
    fpu: bool,
}

/// All thunks generated so far, and what is needed to make more.
pub struct Thunks {
    cache: CodeCache,
    thunks: Vec<Thunk>,
    by_encoding: BTreeMap<Encoding, u32>,
    /// Rows of instructions written in Rust, by iced `Code`.
    rows: BTreeMap<u16, Row>,
    encoder: Encoder,
    factory: InstructionInfoFactory,
    scratch: Box<Scratch>,
}

impl Thunks {
    /// Maps the code cache; fails when the host refuses the memory.
    pub fn new() -> std::io::Result<Thunks> {
        let rows = ROWS.iter().flat_map(|rows| rows.iter()).map(|row| (row.code as u16, *row)).collect();
        Ok(Thunks {
            cache: CodeCache::new(CACHE_SIZE)?,
            thunks: Vec::new(),
            by_encoding: BTreeMap::new(),
            rows,
            encoder: Encoder::new(64),
            factory: InstructionInfoFactory::new(),
            scratch: Box::new(Scratch::new()),
        })
    }

    /// Makes sure that one more block can be decoded. True when all thunks had to go for that: then every
    /// decoded block must be dropped, because its ops name thunks that are gone.
    #[must_use]
    pub fn make_room(&mut self) -> bool {
        if self.cache.room() >= BLOCK_RESERVE {
            return false;
        }
        self.cache.clear();
        self.thunks.clear();
        self.by_encoding.clear();
        true
    }

    /// Number of thunks.
    pub fn len(&self) -> usize {
        self.thunks.len()
    }

    /// True before the first thunk.
    pub fn is_empty(&self) -> bool {
        self.thunks.is_empty()
    }

    /// Fills `op` for an instruction that this module runs; false when it is none of ours.
    ///
    /// Call it after the general operand conversion: it only overrides what differs from that (register numbers of
    /// vector operands, the base of implicit operands, no index register for gathers).
    pub fn decode(&mut self, instruction: &Instruction, op: &mut Op) -> bool {
        if let Some(row) = self.rows.get(&(instruction.code() as u16)) {
            op.run = row.run;
            op.flags |= row.flags;
            return direct::prepare(instruction, op);
        }
        let Some((id, plan)) = self.native(instruction) else { return false };
        op.aux = id;
        op.size = plan.size;
        op.run = run::routine(plan.domain, plan.access);
        op.flags |= match plan.access {
            Access::None => 0,
            Access::Load => opflag::MEMORY,
            Access::Store => opflag::MEMORY | opflag::WRITES,
        };
        true
    }

    /// Finds or generates the thunk of `instruction`; `None` when it cannot run natively.
    fn native(&mut self, instruction: &Instruction) -> Option<(u32, Plan)> {
        let mut instruction = canonical(instruction);
        let plan = Plan::new(&instruction, &mut self.factory)?;
        let roles = Roles::new(plan.gpr_used)?;
        if plan.access != Access::None {
            instruction.set_memory_base(Register::RAX + u32::from(roles.scratch));
        }
        let encoding = self.encode(&instruction)?;
        if let Some(&id) = self.by_encoding.get(&encoding) {
            return Some((id, plan));
        }
        substitute_rsp(&mut instruction, &roles);
        let hosted = self.encode(&instruction)?;
        let code = emit::emit(&plan, &roles, &hosted[1..1 + usize::from(hosted[0])])?;
        let code = self.cache.push(&code).expect("make_room leaves more space than a block can use");
        let id = self.thunks.len() as u32;
        let (size, align_mask, mxcsr, fpu) = (plan.size, plan.align_mask, plan.mxcsr, plan.fpu);
        self.thunks.push(Thunk { code, size, align_mask, mxcsr, fpu });
        self.by_encoding.insert(encoding, id);
        Some((id, plan))
    }

    /// Length and bytes of an instruction.
    fn encode(&mut self, instruction: &Instruction) -> Option<Encoding> {
        let done = self.encoder.encode(instruction, 0).is_ok();
        let mut bytes = self.encoder.take_buffer();
        let mut encoding = [0; 16];
        let fits = done && bytes.len() <= 15;
        if fits {
            encoding[0] = bytes.len() as u8;
            encoding[1..=bytes.len()].copy_from_slice(&bytes);
        }
        bytes.clear();
        self.encoder.set_buffer(bytes);
        fits.then_some(encoding)
    }

    /// The thunk numbered `id`, an `Op::aux` of ours.
    #[inline(always)]
    fn thunk(&self, id: u32) -> Thunk {
        self.thunks[id as usize]
    }

    /// Runs a thunk on `data`; the memory operand is in `scratch.memory`, a new x87 state in `scratch.fx`.
    #[inline(always)]
    fn enter(&mut self, thunk: &Thunk, data: &mut DataRegs) {
        call::enter(&self.cache, thunk.code, data, &mut self.scratch);
    }
}

/// The instruction without what does not matter to its thunk: address, segment, repeat prefixes.
fn canonical(instruction: &Instruction) -> Instruction {
    let mut instruction = *instruction;
    if instruction.op_kinds().any(|kind| kind == OpKind::Memory) {
        instruction.set_memory_base(Register::None);
        instruction.set_memory_index(Register::None);
        instruction.set_memory_index_scale(1);
        instruction.set_memory_displacement64(0);
        instruction.set_memory_displ_size(0);
    }
    instruction.set_segment_prefix(Register::None);
    instruction.set_has_rep_prefix(false);
    instruction.set_has_repne_prefix(false);
    instruction
}

/// Makes the operands that name RSP (or a part of it) name its substitute.
fn substitute_rsp(instruction: &mut Instruction, roles: &Roles) {
    for operand in 0..instruction.op_count() {
        let register = instruction.op_register(operand);
        if instruction.op_kind(operand) == OpKind::Register && register.full_register() == Register::RSP {
            instruction.set_op_register(operand, plan::same_width(register, roles.rsp));
        }
    }
}
