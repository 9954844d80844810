//! From bytes to a block.
//!
//! Looking ahead must have no effect the guest can see: a block stays in the page of its first byte, and
//! only an instruction that itself crosses into the next page makes that page be fetched.

use super::block::{BLOCK_OPS_MAX, Block, BlockKey};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::flag_ops;
use crate::isa::table::{self, Role};
use crate::isa::{Op, Row, opflag};
use crate::mem::ram::PAGE_SIZE;
use crate::state::regs::gpr;
use crate::state::seg;
use iced_x86::{
    Decoder, DecoderError, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register,
};

/// Longest instruction (SDM 2A 2.3.11).
const INSTRUCTION_BYTES_MAX: usize = 15;
/// Bytes the longest block can have.
const BLOCK_BYTES_MAX: usize = BLOCK_OPS_MAX * INSTRUCTION_BYTES_MAX;

/// Decodes the block at `rip`, whose first byte is at `gpa`.
pub fn decode_block(core: &mut Core, rip: u64, gpa: u64) -> Result<Block, Fault> {
    let key = BlockKey { gpa, bits: core.mode.bits };
    if !core.mem.ram.contains(gpa) {
        // An empty bus reads as ones, and FF FF is no instruction.
        return Err(Fault::ud());
    }
    let offset = (gpa & (PAGE_SIZE - 1)) as usize;
    let page = core.mem.ram.page(gpa >> 12);
    let mut bytes = [0; BLOCK_BYTES_MAX];
    let available = (PAGE_SIZE as usize - offset).min(BLOCK_BYTES_MAX);
    bytes[..available].copy_from_slice(&page[offset..offset + available]);
    let mut ops = Vec::with_capacity(8);
    let used = decode_run(core, &bytes[..available], key.bits, &mut ops);
    if ops.is_empty() {
        return decode_crossing(core, rip, key, &bytes[..available]);
    }
    note_code(core, gpa, used as u64);
    Ok(Block { ops: ops.into(), key, second_page: None })
}

fn note_code(core: &mut Core, gpa: u64, len: u64) {
    if core.mem.ram.note_code(gpa, len) {
        core.cpu.tlb.drop_fast_writes_of(gpa);
    }
}

/// Decodes until a block ends or the bytes do; returns how many bytes were used.
fn decode_run(core: &mut Core, bytes: &[u8], bits: u8, ops: &mut Vec<Op>) -> usize {
    let mut decoder = Decoder::with_ip(u32::from(bits), bytes, 0, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while ops.len() < BLOCK_OPS_MAX {
        let start = decoder.position();
        if start >= bytes.len() {
            return bytes.len();
        }
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes {
            // It may go on in the next page: a block of its own.
            return start;
        }
        let op = if instruction.is_invalid() {
            bad_instruction(&bytes[start..], start, bits)
        } else {
            build(core, &instruction, bits)
        };
        let last = op.flags & opflag::LAST != 0;
        ops.push(op);
        if last {
            break;
        }
    }
    decoder.position()
}

/// A block of the one instruction at the end of a page that goes on in the next page.
fn decode_crossing(core: &mut Core, rip: u64, key: BlockKey, head: &[u8]) -> Result<Block, Fault> {
    let mut bytes = [0; 2 * INSTRUCTION_BYTES_MAX];
    bytes[..head.len()].copy_from_slice(head);
    let mask = if key.bits == 64 { u64::MAX } else { 0xffff_ffff };
    let next = match core.fetch_address(rip.wrapping_add(head.len() as u64) & mask) {
        Ok(next) => next,
        // Bytes that can never be an instruction raise #UD without the rest.
        Err(fault) => {
            let mut decoder = Decoder::new(u32::from(key.bits), &bytes, DecoderOptions::NONE);
            let hopeless = decoder.decode().is_invalid();
            return Err(if hopeless { Fault::ud() } else { fault });
        }
    };
    let total = head.len() + INSTRUCTION_BYTES_MAX;
    if !core.mem.ram.read_bytes(next, &mut bytes[head.len()..total]) {
        bytes[head.len()..total].fill(0xff);
    }
    let mut decoder = Decoder::with_ip(u32::from(key.bits), &bytes[..total], 0, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let mut op = if instruction.is_invalid() {
        bad_instruction(&bytes[..total], 0, key.bits)
    } else {
        build(core, &instruction, key.bits)
    };
    op.flags |= opflag::LAST;
    note_code(core, key.gpa, head.len() as u64);
    if core.mem.ram.contains(next) {
        note_code(core, next, INSTRUCTION_BYTES_MAX as u64);
    }
    Ok(Block { ops: Box::new([op]), key, second_page: Some(next) })
}

/// #UD, or #GP for an instruction made too long by its prefixes.
fn bad_instruction(bytes: &[u8], offset: usize, bits: u8) -> Op {
    let is_prefix = |byte: &&u8| {
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
            || bits == 64 && **byte & 0xf0 == 0x40
    };
    let too_long = bytes.iter().take_while(is_prefix).count() >= INSTRUCTION_BYTES_MAX;
    let mut op = blank(&table::undefined());
    if too_long {
        op.run = |_, _| Err(Fault::gp(0));
    }
    op.offset = offset as u16;
    op
}

fn blank(row: &Row) -> Op {
    Op {
        run: row.run,
        imm: 0,
        disp: 0,
        base: gpr::ZERO as u8,
        index: gpr::ZERO as u8,
        scale: 0,
        segment: seg::NONE as u8,
        reg: 0,
        rm: 0,
        vvvv: 0,
        size: 0,
        offset: 0,
        length: 0,
        flags: row.flags,
        address_size: 8,
        checked_segment: seg::DS as u8,
        aux: 0,
    }
}

/// Makes the op of a valid instruction whose IP is its offset in the block.
pub fn build(core: &mut Core, instruction: &Instruction, bits: u8) -> Op {
    let code = core.cpu.model.plain_code(instruction.code());
    let undefined = table::undefined();
    let offered = flag_ops::is_hint(code)
        || code.cpuid_features().iter().all(|&feature| core.cpu.model.allows(feature));
    let entry = if offered { table::entry(code) } else { None };
    let row = entry.map_or(&undefined, |entry| &entry.row);
    let mut op = blank(row);
    op.offset = instruction.ip() as u16;
    op.length = instruction.len() as u8;
    set_prefixes(&mut op, instruction);
    set_operands(&mut op, instruction, &entry.map_or_else(|| table::roles(code), |entry| entry.roles));
    set_memory(&mut op, instruction, bits);
    if op.flags & opflag::MEMORY != 0 {
        op.run = row.memory;
    }
    if offered && entry.is_none() {
        op.flags &= !opflag::LAST;
        if !core.thunks.decode(instruction, &mut op) {
            op.run = undefined.run;
            op.flags |= opflag::LAST;
        }
    }
    op
}

fn set_prefixes(op: &mut Op, instruction: &Instruction) {
    let prefixes = [
        (instruction.has_lock_prefix(), opflag::LOCK),
        (instruction.has_rep_prefix(), opflag::REP),
        (instruction.has_repne_prefix(), opflag::REPNE),
    ];
    for (present, flag) in prefixes {
        if present {
            op.flags |= flag;
        }
    }
}

fn set_operands(op: &mut Op, instruction: &Instruction, roles: &[Role; 5]) {
    let mut reg_seen = false;
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let number = register_index(instruction.op_register(index));
                match roles[index as usize] {
                    Role::Reg if !reg_seen => {
                        op.reg = number;
                        reg_seen = true;
                    }
                    Role::Rm => op.rm = number,
                    Role::Vvvv => op.vvvv = number,
                    Role::Reg | Role::Other => {}
                }
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = instruction.near_branch_target()
            }
            OpKind::FarBranch16 => {
                op.imm = u64::from(instruction.far_branch_selector()) << 32
                    | u64::from(instruction.far_branch16());
            }
            OpKind::FarBranch32 => {
                op.imm = u64::from(instruction.far_branch_selector()) << 32
                    | u64::from(instruction.far_branch32());
            }
            OpKind::Immediate8_2nd => op.aux = u32::from(instruction.immediate8_2nd()),
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => op.imm = instruction.immediate(index),
            _ => {}
        }
    }
}

/// Number of a register operand as `Op` keeps it.
fn register_index(register: Register) -> u8 {
    let number = register.number() as u8;
    match (register.is_gpr8(), number) {
        (false, _) => number,
        (true, 0..=3) => number * 8,
        // AH CH DH BH are byte 1 of the first four; SPL… follow them in iced's order.
        (true, 4..=7) => (number - 4) * 8 + 1,
        (true, _) => (number - 4) * 8,
    }
}

fn set_memory(op: &mut Op, instruction: &Instruction, bits: u8) {
    let kinds = (0..instruction.op_count()).map(|index| instruction.op_kind(index));
    for kind in kinds {
        let string_size = match kind {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
            _ => None,
        };
        if let Some(size) = string_size {
            op.address_size = size;
            op.checked_segment = instruction.memory_segment().number() as u8;
            if !matches!(kind, OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI) {
                return;
            }
        } else if kind == OpKind::Memory {
            set_address(op, instruction, bits);
            return;
        }
    }
}

fn set_address(op: &mut Op, instruction: &Instruction, bits: u8) {
    op.flags |= opflag::MEMORY;
    op.disp = instruction.memory_displacement64() as i64;
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    op.base = address_register(base);
    op.index = address_register(index);
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    op.size = instruction.memory_size().size().min(255) as u8;
    op.address_size = match (base, index) {
        (Register::None, Register::None) => match instruction.memory_displ_size() {
            2 => 2,
            8 => 8,
            _ if bits == 64 => 8,
            _ => 4,
        },
        (Register::RIP, _) => 8,
        (Register::EIP, _) => 4,
        (Register::None, index) if index.is_vector_register() => bits / 8,
        (Register::None, index) => index.size() as u8,
        (base, _) => base.size() as u8,
    };
    let segment = instruction.memory_segment();
    op.checked_segment = match (bits, segment, base.full_register()) {
        // 64-bit code ignores these prefixes (SDM 1 3.3.7.1): the base register alone decides between #SS and #GP.
        (64, Register::ES | Register::CS | Register::SS | Register::DS, Register::RSP | Register::RBP) => {
            seg::SS
        }
        (64, Register::ES | Register::CS | Register::SS | Register::DS, _) => seg::DS,
        _ => segment.number(),
    } as u8;
    op.segment = match segment {
        Register::FS => seg::FS as u8,
        Register::GS => seg::GS as u8,
        _ => seg::NONE as u8,
    };
    if bits != 64 || op.address_size != 8 {
        op.flags |= opflag::SLOW_ADDRESS;
    }
    if bits != 64 && writes_memory(instruction) {
        op.flags |= opflag::WRITES;
    }
}

fn address_register(register: Register) -> u8 {
    match register {
        Register::None => gpr::ZERO as u8,
        Register::RIP | Register::EIP => gpr::BLOCK_RIP as u8,
        vector if vector.is_vector_register() => gpr::ZERO as u8,
        gpr8 if gpr8.is_gpr8() => 0,
        general => general.number() as u8,
    }
}

/// Whether the memory operand is written: segment type checks outside 64-bit mode need it. The stack of PUSH and
/// CALL is no operand.
fn writes_memory(instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let writing = |access| {
        matches!(
            access,
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        )
    };
    (0..instruction.op_count())
        .any(|index| instruction.op_kind(index) == OpKind::Memory && writing(info.op_access(index)))
}
