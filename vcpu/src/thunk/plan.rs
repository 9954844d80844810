//! What a thunk for an instruction must load, run and store, derived from iced's operand facts.

use crate::state::Status;
use iced_x86::{
    CpuidFeature, EncodingKind, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register, RflagsBits,
};

/// Which control-register rules an instruction obeys before it runs (SDM 3A table 2-2, SDM 2A 2.5 and 2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// General registers only, legacy encoding: no rule.
    Bits,
    /// General registers only, VEX encoding: #UD in real and virtual-8086 mode.
    Bmi,
    /// Legacy SSE.
    Sse,
    /// VEX-encoded vector instructions.
    Avx,
    /// x87, waiting.
    Fpu,
    /// MMX registers only.
    Mmx,
    /// MMX and XMM registers.
    MmxSse,
}

/// How the memory operand is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    None,
    Load,
    Store,
}

/// How vector registers move between guest state and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// The low 128 bits; the upper half of a destination stays (SDM 1 14.3).
    Legacy,
    /// 128 bits in, 256 bits out: a VEX.128 instruction clears the upper half.
    Vex128,
    /// 256 bits both ways.
    Vex256,
}

/// Everything that thunk and routine need to know.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub domain: Domain,
    pub access: Access,
    /// Bytes of the memory operand.
    pub size: u8,
    /// Address bits that must be zero, else #GP(0).
    pub align_mask: u8,
    /// Reads or changes MXCSR.
    pub mxcsr: bool,
    /// Needs the x87 state.
    pub fpu: bool,
    /// General registers by number: all that it touches, and those that it may write.
    pub gpr_used: u16,
    pub gpr_written: u16,
    pub vector_used: u16,
    pub vector_written: u16,
    pub vectors: Vectors,
    /// Status flags must be loaded before.
    pub flags_in: bool,
    /// Status flags must be stored after.
    pub flags_out: bool,
    /// `Status` bits to keep of the stored flags; undefined ones become zero.
    pub flags_defined: u16,
}

/// Features whose instructions may run natively. An instruction that needs any other is not ours.
fn is_offered(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(
        feature,
        ADX | AES
            | AVX
            | AVX2
            | BMI1
            | BMI2
            | CMOV
            | F16C
            | FMA
            | FPU
            | FPU287
            | FPU387
            | LZCNT
            | MMX
            | PCLMULQDQ
            | POPCNT
            | SHA
            | SSE
            | SSE2
            | SSE3
            | SSE4_1
            | SSE4_2
            | SSSE3
    )
}

impl Plan {
    /// Plans a thunk. `instruction` has its memory operand's registers removed. `None`: not to be run natively.
    pub fn new(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Option<Plan> {
        let vex = match instruction.encoding() {
            EncodingKind::Legacy => false,
            EncodingKind::VEX => true,
            _ => return None,
        };
        let features = instruction.cpuid_features();
        if !features.iter().all(|&feature| is_offered(feature)) || instruction.is_privileged() {
            return None;
        }
        let (access, size) = memory_access(instruction, factory)?;
        let mut plan = Plan {
            domain: Domain::Bits,
            access,
            size,
            align_mask: 0,
            mxcsr: super::mxcsr::uses_mxcsr(instruction),
            fpu: false,
            gpr_used: 0,
            gpr_written: 0,
            vector_used: 0,
            vector_written: 0,
            vectors: Vectors::Legacy,
            flags_in: false,
            flags_out: false,
            flags_defined: 0,
        };
        let files = plan.registers(instruction, factory, vex)?;
        plan.domain = domain(instruction, vex, &files);
        plan.fpu = matches!(plan.domain, Domain::Fpu | Domain::Mmx | Domain::MmxSse);
        plan.align_mask = super::alignment::mask(instruction, vex, size);
        plan.flags(instruction);
        Some(plan)
    }

    fn registers(
        &mut self,
        instruction: &Instruction,
        factory: &mut InstructionInfoFactory,
        vex: bool,
    ) -> Option<Files> {
        let mut files = Files::default();
        for used in factory.info(instruction).used_registers() {
            let (register, written) = (used.register(), writes(used.access()));
            if register.is_gpr() {
                let bit = 1 << register.full_register().number();
                self.gpr_used |= bit;
                self.gpr_written |= if written { bit } else { 0 };
            } else if register.is_vector_register() {
                // VEX writes are reported as writes of the whole ZMM register.
                files.vector = true;
                let bit = 1u16.checked_shl(register.number() as u32)?;
                self.vector_used |= bit;
                self.vector_written |= if written { bit } else { 0 };
            } else if register.is_mm() {
                files.mmx = true;
            } else if !register.is_st() && !register.is_segment_register() {
                return None;
            }
        }
        let wide = instruction
            .op_kinds()
            .enumerate()
            .any(|(i, kind)| kind == OpKind::Register && instruction.op_register(i as u32).is_ymm());
        self.vectors = match (vex, wide) {
            (false, _) => Vectors::Legacy,
            (true, false) => Vectors::Vex128,
            (true, true) => Vectors::Vex256,
        };
        Some(files)
    }

    fn flags(&mut self, instruction: &Instruction) {
        let modified = status_bits(instruction.rflags_modified());
        self.flags_in =
            instruction.rflags_read() & STATUS_RFLAGS != 0 || modified != 0 && modified != Status::ALL;
        self.flags_out = modified != 0;
        self.flags_defined = Status::ALL & !status_bits(instruction.rflags_undefined());
    }
}

/// Register files that an instruction touches.
#[derive(Default)]
struct Files {
    vector: bool,
    mmx: bool,
}

fn domain(instruction: &Instruction, vex: bool, files: &Files) -> Domain {
    let features = instruction.cpuid_features();
    let has = |feature| features.contains(&feature);
    if vex {
        return if files.vector { Domain::Avx } else { Domain::Bmi };
    }
    if [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387].into_iter().any(has) {
        return Domain::Fpu;
    }
    // CVTPI2PS and CVTPI2PD from memory leave the x87 state alone, so the features do not name MMX.
    let mmx = files.mmx || has(CpuidFeature::MMX);
    match (mmx, files.vector) {
        (true, true) => Domain::MmxSse,
        (true, false) => Domain::Mmx,
        (false, true) => Domain::Sse,
        (false, false) => Domain::Bits,
    }
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Direction and size of the memory operand; `None` when a thunk cannot do it.
fn memory_access(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Option<(Access, u8)> {
    if !instruction.op_kinds().any(|kind| kind == OpKind::Memory) {
        let implicit = !factory.info(instruction).used_memory().is_empty();
        return if implicit { None } else { Some((Access::None, 0)) };
    }
    let [memory] = factory.info(instruction).used_memory() else { return None };
    let access = match memory.access() {
        OpAccess::Read => Access::Load,
        OpAccess::Write => Access::Store,
        _ => return None,
    };
    let size = instruction.memory_size().size();
    if size == 0 || size > 32 { None } else { Some((access, size as u8)) }
}

const STATUS_RFLAGS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// iced's flag bits as `Status` bits.
fn status_bits(rflags: u32) -> u16 {
    [
        (RflagsBits::OF, Status::OF),
        (RflagsBits::SF, Status::SF),
        (RflagsBits::ZF, Status::ZF),
        (RflagsBits::AF, Status::AF),
        (RflagsBits::CF, Status::CF),
        (RflagsBits::PF, Status::PF),
    ]
    .into_iter()
    .filter(|(from, _)| rflags & from != 0)
    .fold(0, |bits, (_, to)| bits | to)
}

/// Low byte-, word-, double- or quadword register of a general register number.
pub(super) fn same_width(register: Register, number: u8) -> Register {
    let base = match register.size() {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    base + u32::from(number)
}
