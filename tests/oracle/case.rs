//! One test case: an encoded instruction, registers, memory.

use crate::{address, operands, values};
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, MemorySize, Mnemonic, OpKind, Register};
use tests::arena::{self, CODE, Image};
use tests::random::Random;
use tests::state::{CodeSize, State};

/// Where the instruction lies in the code page.
pub const CODE_OFFSET: u64 = 0x400;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// What both CPUs are given.
pub struct Case {
    pub instruction: Instruction,
    pub bytes: Vec<u8>,
    pub state: State,
    pub memory: Box<Image>,
}

/// Makes a random case of `code`; `None` when the chosen operands have no encoding.
pub fn generate(random: &mut Random, code: Code, size: CodeSize, image: &Image) -> Option<Case> {
    let mut instruction = operands::instruction(random, code, size)?;
    let mut state = values::state(random);
    state.rip = CODE + CODE_OFFSET;
    state.gpr[RSP] = address::linear(random, 8, size);
    if random.chance(3, 4) {
        state.gpr[RSP] &= !7;
    }
    implied_registers(random, &instruction, &mut state, size);
    let mut memory = Box::new(*image);
    if instruction.op_kinds().any(|kind| kind == OpKind::Memory) {
        let bytes = operand_bytes(&instruction);
        lock(random, &mut instruction);
        let mut target = address::linear(random, bytes, size);
        if instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg {
            // Some hypervisors never get past a locked access that crosses into a page that faults.
            target &= !(bytes - 1);
        }
        poke(random, &mut memory, target);
        address::form(random, &mut instruction, &mut state, size, target);
        memory_partners(random, &instruction, &mut state, &memory, target);
    }
    strings(random, &mut instruction, &mut state, size);
    let bytes = encode(&instruction, size)?;
    let instruction = decode(&bytes, size);
    (instruction.code() == code).then_some(Case { instruction, bytes, state, memory })
}

/// Bytes of the memory operand; a guess where iced does not say.
fn operand_bytes(instruction: &Instruction) -> u64 {
    match (instruction.memory_size(), instruction.memory_size().size() as u64) {
        (MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte, _) => 512,
        (_, 0) => 8,
        (_, bytes) => bytes.min(512),
    }
}

/// Writes a random operand around `target`, where that lies in the arena.
fn poke(random: &mut Random, memory: &mut Image, target: u64) {
    let bytes = values::bytes(random);
    let Some(at) = arena::offset(target) else { return };
    let count = bytes.len().min(memory.len() - at);
    memory[at..at + count].copy_from_slice(&bytes[..count]);
}

/// Registers that an instruction uses without naming them get values that mean something to it.
fn implied_registers(random: &mut Random, instruction: &Instruction, state: &mut State, size: CodeSize) {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd | Sarx | Shlx | Shrx | Bextr | Bzhi => {
            let count = values::count(random);
            state.gpr[RCX] = state.gpr[RCX] & !0xff | count;
        }
        // Quotients that fit, mostly.
        Div | Idiv if random.chance(3, 4) => {
            state.gpr[RDX] = random.pick(&[0, 0, 1, u64::MAX]);
            state.gpr[RAX] = random.bits() >> random.below(64);
            if instruction.op0_register().is_gpr8() || instruction.memory_size().size() == 1 {
                state.gpr[RAX] = random.below(0x4000);
            }
        }
        Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz if random.chance(2, 3) => {
            state.gpr[RCX] = random.pick(&[0, 1, 2, 1 << 16, 1 << 32, (1 << 32) + 1]);
        }
        Leave | Enter => state.gpr[RBP] = address::linear(random, 8, size),
        Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64 | Vpcmpestri | Vpcmpestri64 | Vpcmpestrm
        | Vpcmpestrm64 => {
            for register in [RAX, RDX] {
                state.gpr[register] = random.below(40).wrapping_sub(20);
            }
        }
        _ => {}
    }
}

fn in_address(instruction: &Instruction, register: Register) -> bool {
    [instruction.memory_base(), instruction.memory_index()]
        .iter()
        .any(|used| used.full_register() == register)
}

/// Registers whose interplay with the memory operand matters: bit offsets, comparands, divisors.
fn memory_partners(
    random: &mut Random,
    instruction: &Instruction,
    state: &mut State,
    memory: &Image,
    target: u64,
) {
    use Mnemonic::*;
    let register = instruction.op1_register().full_register();
    match instruction.mnemonic() {
        Bt | Bts | Btr | Btc if register.is_gpr() && !in_address(instruction, register) => {
            let reach = random.pick(&[256, 60_000]);
            let near = random.below(reach);
            let index = if random.chance(1, 2) { near } else { near.wrapping_neg() };
            // Bits above the operand must not matter.
            let kept = match instruction.op1_register().size() {
                2 => index & 0xffff | random.bits() << 16,
                4 => index & 0xffff_ffff | random.bits() << 32,
                _ => index,
            };
            state.gpr[register.number()] = kept;
        }
        Cmpxchg | Cmpxchg8b | Cmpxchg16b if random.chance(1, 2) => {
            let Some(at) = arena::offset(target) else { return };
            let word = |from: usize, bytes: usize| {
                (0..bytes).fold(0, |value, i| {
                    value | u64::from(memory.get(from + i).copied().unwrap_or(0)) << (8 * i)
                })
            };
            let each = if instruction.mnemonic() == Cmpxchg8b { 4 } else { 8 };
            let pair = [(Register::RAX, RAX, word(at, each)), (Register::RDX, RDX, word(at + each, each))];
            for (name, number, value) in pair {
                if !in_address(instruction, name) {
                    state.gpr[number] = value;
                }
            }
        }
        _ => {}
    }
}

/// Addresses and counts of string instructions and of [rDI] operands.
fn strings(random: &mut Random, instruction: &mut Instruction, state: &mut State, size: CodeSize) {
    let bits = instruction.op_kinds().map(operands::address_bits).max().unwrap_or(0);
    if bits == 0 {
        return;
    }
    let bytes = instruction.memory_size().size().max(1) as u64;
    // Both pointers go to the same one of the arena's two places: CPUs do not watch for overlap across aliases.
    let base =
        if bits == 32 || size == CodeSize::Bits32 || random.chance(1, 2) { arena::LOW } else { arena::HIGH };
    for register in [RSI, RDI] {
        let at = address::linear(random, bytes, size);
        let at = arena::offset(at).map_or(at, |offset| base + offset as u64);
        state.gpr[register] = if bits == 32 { at & 0xffff_ffff | random.bits() << 32 } else { at };
    }
    let long = random.chance(1, 6);
    state.gpr[RCX] = random.below(if long { 9000 } else { 24 });
    if bits == 32 {
        state.gpr[RCX] |= random.bits() << 32;
    }
    let info = instruction.op_code();
    if info.can_use_rep_prefix() && random.chance(1, 2) {
        instruction.set_has_rep_prefix(true);
    } else if info.can_use_repne_prefix() && random.chance(1, 2) {
        instruction.set_has_repne_prefix(true);
    }
}

/// A LOCK prefix where it is allowed.
fn lock(random: &mut Random, instruction: &mut Instruction) {
    let allowed = instruction.op0_kind() == OpKind::Memory && instruction.op_code().can_use_lock_prefix();
    instruction.set_has_lock_prefix(allowed && random.chance(1, 4));
}

fn bitness(size: CodeSize) -> u32 {
    match size {
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

fn encode(instruction: &Instruction, size: CodeSize) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(bitness(size));
    encoder.encode(instruction, CODE + CODE_OFFSET).ok()?;
    Some(encoder.take_buffer())
}

/// The instruction that the bytes are.
pub fn decode(bytes: &[u8], size: CodeSize) -> Instruction {
    Decoder::with_ip(bitness(size), bytes, CODE + CODE_OFFSET, DecoderOptions::NONE).decode()
}
