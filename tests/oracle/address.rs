//! Where a memory operand lies and how the instruction says so.

use iced_x86::{Code, Instruction, OpCodeOperandKind, Register};
use tests::arena::{self, BYTES, PAGE};
use tests::random::Random;
use tests::state::{CodeSize, State};

/// An offset in the arena for an operand of `size` bytes: mostly inside a writable page, else crossing into another
/// one, in a read-only or absent page.
pub fn place(random: &mut Random, size: u64) -> u64 {
    let size = size.max(1);
    let inside = |random: &mut Random, page: u64| {
        let offset = random.below(PAGE - size);
        let offset = if random.chance(3, 4) { offset & !(size.next_power_of_two() - 1) } else { offset };
        page * PAGE + offset
    };
    // The page boundary after `page` lies in the operand, or for single bytes just before it.
    let crossing = |random: &mut Random, page: u64| (page + 1) * PAGE - size + random.below(size.max(2));
    match random.below(40) {
        0..=2 => crossing(random, 1),
        3..=4 => crossing(random, 2),
        5 => crossing(random, 3),
        6..=7 => crossing(random, 4),
        8 => crossing(random, 5),
        9 => crossing(random, 6),
        10 => inside(random, 3),
        11..=13 => inside(random, 4),
        14 => inside(random, 6),
        15..=19 => inside(random, 5),
        _ => {
            let page = 1 + random.below(2);
            inside(random, page)
        }
    }
}

/// A linear address for an operand that may lie anywhere.
pub fn linear(random: &mut Random, size: u64, code_size: CodeSize) -> u64 {
    let at = place(random, size);
    if code_size == CodeSize::Bits32 {
        return arena::LOW + at;
    }
    match random.below(24) {
        // Outside the canonical range, at its edge, and just above it.
        0 => (arena::HIGH + at) ^ 1 << (47 + random.below(16)),
        1 if random.chance(1, 2) => (1u64 << 47).wrapping_add(random.below(80)).wrapping_sub(40),
        2..=9 => arena::LOW + at,
        _ => arena::HIGH + at,
    }
}

/// Gives the explicit memory operand an address form, and the registers values that lead to `target`.
pub fn form(
    random: &mut Random,
    instruction: &mut Instruction,
    state: &mut State,
    size: CodeSize,
    target: u64,
) {
    let info = instruction.op_code();
    let has = |kind| (0..info.op_count()).any(|operand| info.op_kind(operand) == kind);
    if has(OpCodeOperandKind::mem_offs) {
        instruction.set_memory_displ_size(if size == CodeSize::Bits64 && random.chance(3, 4) {
            8
        } else {
            4
        });
        let low = instruction.memory_displ_size() == 4;
        instruction.set_memory_displacement64(if low { low_alias(target) } else { target });
        return;
    }
    if has(OpCodeOperandKind::seg_rBX_al) {
        let (base, mask) =
            if size == CodeSize::Bits64 { (Register::RBX, u64::MAX) } else { (Register::EBX, 0xffff_ffff) };
        instruction.set_memory_base(base);
        instruction.set_memory_index(Register::AL);
        state.gpr[3] = target.wrapping_sub(state.gpr[0] & 0xff) & mask;
        return;
    }
    if let Some(index) = vector_index(random, instruction.code()) {
        return vector_form(random, instruction, state, index, target);
    }
    match (size, random.below(16)) {
        (CodeSize::Bits64, 0..=1) => {
            let offset = segment(random, instruction, state, target, Some(low_alias(target)));
            rip_relative(instruction, offset);
        }
        (CodeSize::Bits64, 2) => {
            let offset = segment(random, instruction, state, target, Some(low_alias(target) & 0x7fff_ffff));
            absolute(instruction, 8, offset);
        }
        (CodeSize::Bits64, 3..=4) => {
            let reachable = random.below(1 << 32);
            let offset = segment(random, instruction, state, target, Some(reachable));
            registers(random, instruction, state, (32, 16), offset);
        }
        (CodeSize::Bits64, _) => {
            let offset = segment(random, instruction, state, target, None);
            registers(random, instruction, state, (64, 16), offset);
        }
        (CodeSize::Bits32, 0..=1) => absolute(instruction, 4, target),
        (CodeSize::Bits32, _) => registers(random, instruction, state, (32, 8), target),
    }
}

/// The same arena byte at an address below 4 GiB.
fn low_alias(target: u64) -> u64 {
    arena::offset(target).map_or(target & 0x7fff_ffff, |at| arena::LOW + at as u64)
}

/// Sometimes a segment prefix; returns the offset that leads to `target`. Where the address form cannot reach every
/// offset, `reachable` is one that it can.
fn segment(
    random: &mut Random,
    instruction: &mut Instruction,
    state: &mut State,
    target: u64,
    reachable: Option<u64>,
) -> u64 {
    let canonical = |base: u64| (base << 16) as i64 >> 16 == base as i64;
    let segment = match random.below(16) {
        0 => Register::FS,
        1 => Register::GS,
        2 => random.pick(&[Register::ES, Register::CS, Register::SS, Register::DS]),
        _ => Register::None,
    };
    let base = match (segment, reachable) {
        (Register::FS | Register::GS, Some(offset)) => target.wrapping_sub(offset),
        (Register::FS | Register::GS, None) if random.chance(1, 2) => random.below(1 << 20),
        (Register::FS | Register::GS, None) => (random.bits() as i64 >> 17) as u64,
        _ => 0,
    };
    if !canonical(base) {
        return segment_free(target, reachable);
    }
    instruction.set_segment_prefix(segment);
    match segment {
        Register::FS => state.fs_base = base,
        Register::GS => state.gs_base = base,
        _ => return segment_free(target, reachable),
    }
    target.wrapping_sub(base)
}

/// The offset without a segment base: an address that the form can reach.
fn segment_free(target: u64, reachable: Option<u64>) -> u64 {
    if reachable.is_some() { low_alias(target) } else { target }
}

fn rip_relative(instruction: &mut Instruction, target: u64) {
    instruction.set_memory_base(Register::RIP);
    instruction.set_memory_displ_size(8);
    instruction.set_memory_displacement64(target);
}

/// A displacement without registers; 64-bit code sign-extends it.
fn absolute(instruction: &mut Instruction, displacement_size: u32, target: u64) {
    instruction.set_memory_displ_size(displacement_size);
    instruction.set_memory_displacement64(target);
}

/// Base and index registers, `bits` wide, out of the first `count`, with a displacement.
fn registers(
    random: &mut Random,
    instruction: &mut Instruction,
    state: &mut State,
    (bits, count): (u32, u64),
    target: u64,
) {
    let first = if bits == 64 { Register::RAX } else { Register::EAX };
    let count = if excludes_rex(instruction) { 8 } else { count };
    let base = random.below(count) as usize;
    let index = Some(random.below(count) as usize)
        .filter(|&index| index != base && index != 4 && random.chance(1, 2));
    instruction.set_memory_base(first + base as u32);
    let mut rest = target;
    if let Some(index) = index {
        let scale = random.below(4) as u32;
        instruction.set_memory_index(first + index as u32);
        instruction.set_memory_index_scale(1 << scale);
        rest = rest.wrapping_sub(state.gpr[index] << scale);
    }
    let (displ_size, displacement) = match random.below(3) {
        0 => (0, 0),
        1 => (1, random.bits() as i8 as i64 as u64),
        _ => (if bits == 64 { 8 } else { 4 }, random.bits() as i32 as i64 as u64),
    };
    instruction.set_memory_displ_size(displ_size);
    instruction.set_memory_displacement64(if bits == 64 { displacement } else { displacement & 0xffff_ffff });
    rest = rest.wrapping_sub(displacement);
    // With 32-bit addressing the upper half of the register must not matter.
    state.gpr[base] = if bits == 64 { rest } else { rest & 0xffff_ffff | random.bits() << 32 };
}

/// Whether an operand is a high byte register, which a REX prefix would make another one.
fn excludes_rex(instruction: &Instruction) -> bool {
    let high = |register| matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    (0..instruction.op_count()).any(|operand| high(instruction.op_register(operand)))
}

/// The vector index register of a gather.
fn vector_index(random: &mut Random, code: Code) -> Option<Register> {
    let info = code.op_code();
    let kinds = (0..info.op_count()).map(|operand| info.op_kind(operand));
    let number = random.below(16) as u32;
    kinds.into_iter().find_map(|kind| match kind {
        OpCodeOperandKind::mem_vsib32x | OpCodeOperandKind::mem_vsib64x => Some(Register::XMM0 + number),
        OpCodeOperandKind::mem_vsib32y | OpCodeOperandKind::mem_vsib64y => Some(Register::YMM0 + number),
        _ => None,
    })
}

/// A gather whose elements lie around `target`, a few of them elsewhere.
fn vector_form(
    random: &mut Random,
    instruction: &mut Instruction,
    state: &mut State,
    index: Register,
    target: u64,
) {
    let base = random.below(16) as usize;
    let scale = random.below(4) as u32;
    let info = instruction.op_code();
    let narrow = (0..info.op_count())
        .any(|i| matches!(info.op_kind(i), OpCodeOperandKind::mem_vsib32x | OpCodeOperandKind::mem_vsib32y));
    let spread = if random.chance(1, 3) { BYTES as u64 / 2 } else { 64 };
    let element = |random: &mut Random| random.below(spread).wrapping_sub(spread / 2) >> scale;
    let words: [u64; 4] = std::array::from_fn(|_| {
        let (low, high) = (element(random), element(random));
        if narrow { low & 0xffff_ffff | high << 32 } else { (low << scale) as i64 as u64 >> scale }
    });
    state.ymm[index.number()] = words;
    state.gpr[base] = target;
    instruction.set_memory_base(Register::RAX + base as u32);
    instruction.set_memory_index(index);
    instruction.set_memory_index_scale(1 << scale);
    instruction.set_memory_displ_size(if random.chance(1, 2) { 1 } else { 0 });
}
