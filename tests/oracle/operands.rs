//! Random operands for an iced `Code`: registers, immediates, and the form of a memory operand.

use crate::values;
use iced_x86::{Code, Instruction, OpCodeInfo, OpCodeOperandKind, OpKind, Register};
use tests::random::Random;
use tests::state::CodeSize;

/// The instruction with all operands but the address of a memory operand. `None` for operands outside this oracle.
pub fn instruction(random: &mut Random, code: Code, size: CodeSize) -> Option<Instruction> {
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let memory = random.chance(3, 5);
    let mut immediates = 0;
    for operand in 0..info.op_count() {
        let kind = info.op_kind(operand);
        if is_memory(kind) && (memory || !is_register_too(kind)) {
            instruction.set_op_kind(operand, OpKind::Memory);
        } else if let Some(register) = register(random, kind, size) {
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
        } else if let Some(kind) = immediate_kind(kind, immediates) {
            immediates += 1;
            let value = immediate(random, info, operand);
            set_immediate(&mut instruction, operand, kind, value);
        } else if let Some(kind) = implicit_memory(random, kind, size) {
            if operand > 0
                && address_bits(instruction.op_kind(0)) != 0
                && address_bits(kind) != address_bits(instruction.op_kind(0))
            {
                return None;
            }
            instruction.set_op_kind(operand, kind);
        } else {
            return None;
        }
    }
    Some(instruction)
}

fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    is_register_too(kind)
        || matches!(kind, mem | mem_offs | mem_vsib32x | mem_vsib64x | mem_vsib32y | mem_vsib64y)
}

fn is_register_too(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    matches!(kind, r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem | ymm_or_mem)
}

/// A random register of the operand's class, or the one that the opcode implies.
fn register(random: &mut Random, kind: OpCodeOperandKind, size: CodeSize) -> Option<Register> {
    use OpCodeOperandKind::*;
    let count = if size == CodeSize::Bits64 { 16 } else { 8 };
    let bytes = if size == CodeSize::Bits64 { 20 } else { 8 };
    let mut of = |base: Register, count: u32| Some(base + random.below(u64::from(count)) as u32);
    match kind {
        r8_or_mem | r8_reg | r8_opcode => of(Register::AL, bytes),
        r16_or_mem | r16_reg | r16_rm | r16_opcode => of(Register::AX, count),
        r32_or_mem | r32_reg | r32_rm | r32_opcode | r32_vvvv => of(Register::EAX, count),
        r64_or_mem | r64_reg | r64_rm | r64_opcode | r64_vvvv => of(Register::RAX, count),
        mm_or_mem | mm_reg | mm_rm => of(Register::MM0, 8),
        xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 | xmm_is5 => of(Register::XMM0, count),
        ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 | ymm_is5 => of(Register::YMM0, count),
        sti_opcode => of(Register::ST0, 8),
        st0 => Some(Register::ST0),
        al => Some(Register::AL),
        cl => Some(Register::CL),
        ax => Some(Register::AX),
        dx => Some(Register::DX),
        eax => Some(Register::EAX),
        rax => Some(Register::RAX),
        seg_reg => of(Register::ES, 6),
        es => Some(Register::ES),
        cs => Some(Register::CS),
        ss => Some(Register::SS),
        ds => Some(Register::DS),
        fs => Some(Register::FS),
        gs => Some(Register::GS),
        _ => Option::None,
    }
}

fn immediate_kind(kind: OpCodeOperandKind, before: u32) -> Option<OpKind> {
    use OpCodeOperandKind::*;
    Some(match kind {
        imm8 if before > 0 => OpKind::Immediate8_2nd,
        imm8 | imm8_const_1 | imm4_m2z => OpKind::Immediate8,
        imm8sex16 => OpKind::Immediate8to16,
        imm8sex32 => OpKind::Immediate8to32,
        imm8sex64 => OpKind::Immediate8to64,
        imm16 => OpKind::Immediate16,
        imm32 => OpKind::Immediate32,
        imm32sex64 => OpKind::Immediate32to64,
        imm64 => OpKind::Immediate64,
        br16_1 | br16_2 => OpKind::NearBranch16,
        br32_1 | br32_4 => OpKind::NearBranch32,
        br64_1 | br64_4 => OpKind::NearBranch64,
        _ => return Option::None,
    })
}

fn immediate(random: &mut Random, info: &OpCodeInfo, operand: u32) -> u64 {
    match (info.code(), info.op_kind(operand)) {
        (_, OpCodeOperandKind::imm8_const_1) => 1,
        // Frames that fit the arena, and any nesting level.
        (Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8 | Code::Enterq_imm16_imm8, _) => {
            random.pick(&[0, 1, 2, 3, 5, 31, 32, 33, 64, 800, 4096, 0x8001])
        }
        _ => values::immediate(random),
    }
}

fn set_immediate(instruction: &mut Instruction, operand: u32, kind: OpKind, value: u64) {
    instruction.set_op_kind(operand, kind);
    match kind {
        OpKind::Immediate8 => instruction.set_immediate8(value as u8),
        OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(value as u8),
        OpKind::Immediate8to16 => instruction.set_immediate8to16(value as i8 as i16),
        OpKind::Immediate8to32 => instruction.set_immediate8to32(value as i8 as i32),
        OpKind::Immediate8to64 => instruction.set_immediate8to64(value as i8 as i64),
        OpKind::Immediate16 => instruction.set_immediate16(value as u16),
        OpKind::Immediate32 => instruction.set_immediate32(value as u32),
        OpKind::Immediate32to64 => instruction.set_immediate32to64(value as i32 as i64),
        OpKind::Immediate64 => instruction.set_immediate64(value),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            // 16…127 bytes ahead of or behind the instruction, which lies in the middle of its page.
            let distance = 16 + (value & 63);
            let target = tests::arena::CODE + crate::case::CODE_OFFSET;
            let target = if value & 64 != 0 { target + distance } else { target - distance };
            instruction.set_near_branch64(target);
        }
        _ => unreachable!("`immediate_kind` gives no other kind"),
    }
}

fn implicit_memory(random: &mut Random, kind: OpCodeOperandKind, size: CodeSize) -> Option<OpKind> {
    use OpCodeOperandKind::*;
    let long = size == CodeSize::Bits64 && random.chance(3, 4);
    Some(match (kind, long) {
        (seg_rSI, true) => OpKind::MemorySegRSI,
        (seg_rSI, false) => OpKind::MemorySegESI,
        (es_rDI, true) => OpKind::MemoryESRDI,
        (es_rDI, false) => OpKind::MemoryESEDI,
        (seg_rDI, true) => OpKind::MemorySegRDI,
        (seg_rDI, false) => OpKind::MemorySegEDI,
        (seg_rBX_al, _) => OpKind::Memory,
        _ => return Option::None,
    })
}

/// Address size of an implicit memory operand, 0 for other operands.
pub fn address_bits(kind: OpKind) -> u32 {
    match kind {
        OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => 64,
        OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => 32,
        _ => 0,
    }
}
