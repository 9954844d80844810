//! Instructions that need no host execution: MXCSR, fences, hints, cache lines, MOVNTI, VZEROALL.
//!
//! Also fills the operand fields of every op that runs in Rust.

use super::plan::Domain;
use super::run::{check, mxcsr};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, opflag, row};
use crate::state::regs::gpr;
use crate::state::seg;
use iced_x86::{Code, Instruction, OpCodeOperandKind, OpKind, Register};

const SSE: u8 = Domain::Sse as u8;
const AVX: u8 = Domain::Avx as u8;

pub(super) const ROWS: &[Row] = &[
    row(Code::Ldmxcsr_m32, ldmxcsr::<SSE>),
    row(Code::VEX_Vldmxcsr_m32, ldmxcsr::<AVX>),
    row(Code::Stmxcsr_m32, stmxcsr::<SSE>),
    row(Code::VEX_Vstmxcsr_m32, stmxcsr::<AVX>),
    row(Code::Movnti_m32_r32, movnti32),
    row(Code::Movnti_m64_r64, movnti64),
    row(Code::VEX_Vzeroupper, vzeroupper),
    row(Code::VEX_Vzeroall, vzeroall),
    row(Code::Pause, nothing),
    row(Code::Lfence, nothing),
    row(Code::Mfence, nothing),
    row(Code::Sfence, nothing),
    row(Code::Prefetchnta_m8, nothing),
    row(Code::Prefetcht0_m8, nothing),
    row(Code::Prefetcht1_m8, nothing),
    row(Code::Prefetcht2_m8, nothing),
    row(Code::Prefetch_m8, nothing),
    row(Code::Prefetchw_m8, nothing),
    row(Code::Prefetchwt1_m8, nothing),
    row(Code::Prefetchreserved3_m8, nothing),
    row(Code::Prefetchreserved4_m8, nothing),
    row(Code::Prefetchreserved5_m8, nothing),
    row(Code::Prefetchreserved6_m8, nothing),
    row(Code::Prefetchreserved7_m8, nothing),
    row(Code::Clflush_m8, cache_line),
    row(Code::Clflushopt_m8, cache_line),
    row(Code::Clwb_m8, cache_line),
];

/// Fills register numbers and flags of an op that runs in Rust. False when its operands make it #UD.
pub(super) fn prepare(instruction: &Instruction, op: &mut Op) -> bool {
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::Register => place(instruction, operand, op),
            OpKind::Memory => op.flags |= opflag::MEMORY,
            OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
                implicit_rdi(instruction, op)
            }
            _ => {}
        }
    }
    let index = instruction.memory_index();
    if !index.is_vector_register() {
        return true;
    }
    // A gather: the index is a vector; destination, index and mask must differ (SDM 2B VGATHERDPS).
    op.rm = index.number() as u8;
    op.index = gpr::ZERO as u8;
    op.reg != op.rm && op.rm != op.vvvv && op.reg != op.vvvv
}

/// Puts a register operand into the field that the encoding says.
fn place(instruction: &Instruction, operand: u32, op: &mut Op) {
    use OpCodeOperandKind::*;
    let number = instruction.op_register(operand).number() as u8;
    match instruction.op_code().op_kind(operand) {
        xmm_or_mem | ymm_or_mem | xmm_rm | ymm_rm | mm_rm | mm_or_mem | r32_or_mem | r64_or_mem => {
            op.rm = number
        }
        xmm_vvvv | ymm_vvvv => op.vvvv = number,
        _ => op.reg = number,
    }
}

/// DS:[rDI], the operand of MASKMOVQ and MASKMOVDQU.
fn implicit_rdi(instruction: &Instruction, op: &mut Op) {
    op.base = gpr::RDI as u8;
    op.index = gpr::ZERO as u8;
    (op.scale, op.disp, op.size) = (0, 0, 1);
    op.flags |= opflag::MEMORY | opflag::WRITES;
    let segment = instruction.memory_segment();
    op.checked_segment = segment.number() as u8;
    let (size, flat) = match instruction.op0_kind() {
        OpKind::MemorySegDI => (2, false),
        OpKind::MemorySegEDI => (4, false),
        _ => (8, true),
    };
    op.address_size = size;
    let has_base = matches!(segment, Register::FS | Register::GS)
        || instruction.code_size() != iced_x86::CodeSize::Code64;
    op.segment = if has_base { segment.number() as u8 } else { seg::NONE as u8 };
    op.flags = if flat { op.flags & !opflag::SLOW_ADDRESS } else { op.flags | opflag::SLOW_ADDRESS };
}

fn nothing(_core: &mut Core, _op: &Op) -> Result<(), Fault> {
    Ok(())
}

/// CLFLUSH and CLWB fault like a load of one byte (SDM 2A).
fn cache_line(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let gva = core.operand_address(op)?;
    core.probe_read(gva, 1).map_err(|fault| core.refine_fault(op, fault))
}

fn ldmxcsr<const DOMAIN: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let value = core.load::<u32>(op)?;
    if value & !mxcsr::DEFINED != 0 {
        return Err(Fault::gp(0));
    }
    core.cpu.data.mxcsr = value;
    Ok(())
}

fn stmxcsr<const DOMAIN: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let value = core.cpu.data.mxcsr;
    core.store(op, value)
}

fn movnti32(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.cpu.data.gpr[usize::from(op.reg & 15)] as u32;
    core.store(op, value)
}

fn movnti64(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.cpu.data.gpr[usize::from(op.reg & 15)];
    core.store(op, value)
}

/// Vector registers that VZEROUPPER and VZEROALL reach: eight outside 64-bit mode.
fn reachable(core: &mut Core) -> &mut [[u64; 4]] {
    let count = if core.mode.bits == 64 { 16 } else { 8 };
    &mut core.cpu.data.ymm[..count]
}

fn vzeroupper(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check::<AVX>(core)?;
    reachable(core).iter_mut().for_each(|register| register[2..].fill(0));
    Ok(())
}

fn vzeroall(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check::<AVX>(core)?;
    reachable(core).fill([0; 4]);
    Ok(())
}
