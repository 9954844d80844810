//! Instructions on segment registers and descriptors: MOV, PUSH and POP of segment registers, LDS and its kin, LAR,
//! LSL, VERR, VERW, ARPL.

use super::control::source16;
use super::descriptor::{Descriptor, is_null, kind};
use super::stack::Stack;
use super::tables::check_protected;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, last, opflag, row};
use crate::mem::access::Word;
use crate::state::seg::{CS, DS, ES, FS, GS, SS};
use crate::state::{Shadow, Status, seg};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Mov_rm16_Sreg, store_segment::<2>),
    row(Code::Mov_r32m16_Sreg, store_segment::<4>),
    row(Code::Mov_r64m16_Sreg, store_segment::<8>),
    last(Code::Mov_Sreg_rm16, move_to_segment),
    last(Code::Mov_Sreg_r32m16, move_to_segment),
    last(Code::Mov_Sreg_r64m16, move_to_segment),
    row(Code::Pushw_ES, push::<ES, 2>),
    row(Code::Pushw_CS, push::<CS, 2>),
    row(Code::Pushw_SS, push::<SS, 2>),
    row(Code::Pushw_DS, push::<DS, 2>),
    row(Code::Pushw_FS, push::<FS, 2>),
    row(Code::Pushw_GS, push::<GS, 2>),
    row(Code::Pushd_ES, push::<ES, 4>),
    row(Code::Pushd_CS, push::<CS, 4>),
    row(Code::Pushd_SS, push::<SS, 4>),
    row(Code::Pushd_DS, push::<DS, 4>),
    row(Code::Pushd_FS, push::<FS, 4>),
    row(Code::Pushd_GS, push::<GS, 4>),
    row(Code::Pushq_FS, push::<FS, 8>),
    row(Code::Pushq_GS, push::<GS, 8>),
    last(Code::Popw_ES, pop::<ES, 2>),
    last(Code::Popw_SS, pop::<SS, 2>),
    last(Code::Popw_DS, pop::<DS, 2>),
    last(Code::Popw_FS, pop::<FS, 2>),
    last(Code::Popw_GS, pop::<GS, 2>),
    last(Code::Popd_ES, pop::<ES, 4>),
    last(Code::Popd_SS, pop::<SS, 4>),
    last(Code::Popd_DS, pop::<DS, 4>),
    last(Code::Popd_FS, pop::<FS, 4>),
    last(Code::Popd_GS, pop::<GS, 4>),
    last(Code::Popq_FS, pop::<FS, 8>),
    last(Code::Popq_GS, pop::<GS, 8>),
    last(Code::Les_r16_m1616, load_far::<ES, u16>),
    last(Code::Les_r32_m1632, load_far::<ES, u32>),
    last(Code::Lds_r16_m1616, load_far::<DS, u16>),
    last(Code::Lds_r32_m1632, load_far::<DS, u32>),
    last(Code::Lss_r16_m1616, load_far::<SS, u16>),
    last(Code::Lss_r32_m1632, load_far::<SS, u32>),
    last(Code::Lss_r64_m1664, load_far::<SS, u64>),
    last(Code::Lfs_r16_m1616, load_far::<FS, u16>),
    last(Code::Lfs_r32_m1632, load_far::<FS, u32>),
    last(Code::Lfs_r64_m1664, load_far::<FS, u64>),
    last(Code::Lgs_r16_m1616, load_far::<GS, u16>),
    last(Code::Lgs_r32_m1632, load_far::<GS, u32>),
    last(Code::Lgs_r64_m1664, load_far::<GS, u64>),
    row(Code::Lar_r16_rm16, lar::<u16>),
    row(Code::Lar_r32_r32m16, lar::<u32>),
    row(Code::Lar_r64_r64m16, lar::<u64>),
    row(Code::Lsl_r16_rm16, lsl::<u16>),
    row(Code::Lsl_r32_r32m16, lsl::<u32>),
    row(Code::Lsl_r64_r64m16, lsl::<u64>),
    row(Code::Verr_rm16, verr),
    row(Code::Verr_r32m16, verr),
    row(Code::Verr_r64m16, verr),
    row(Code::Verw_rm16, verw),
    row(Code::Verw_r32m16, verw),
    row(Code::Verw_r64m16, verw),
    row(Code::Arpl_rm16_r16, arpl),
    row(Code::Arpl_r32m16_r32, arpl),
];

fn store_segment<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let index = segment_index(op)?;
    let selector = u64::from(core.cpu.segments[index].selector);
    super::control::store_system::<SIZE>(core, op, selector)
}

/// Six segment registers exist.
fn segment_index(op: &Op) -> Result<usize, Fault> {
    if op.reg <= 5 { Ok(usize::from(op.reg)) } else { Err(Fault::ud()) }
}

fn move_to_segment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let index = segment_index(op)?;
    if index == seg::CS {
        return Err(Fault::ud());
    }
    let selector = source16(core, op)?;
    core.load_segment(index, selector)?;
    shadow_after(core, index);
    Ok(())
}

/// MOV SS and POP SS hold off interrupts and debug traps until after the next instruction (SDM 3A 6.8.3).
fn shadow_after(core: &mut Core, index: usize) {
    if index == seg::SS {
        core.cpu.shadow = Shadow::MovSs;
        core.leave_block = true;
    }
}

fn push<const SEGMENT: usize, const SIZE: u8>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let selector = core.cpu.segments[SEGMENT].selector;
    let mut stack = Stack::current(core);
    stack.push_selector(core, SIZE, selector)?;
    stack.commit(core);
    Ok(())
}

fn pop<const SEGMENT: usize, const SIZE: u8>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let mut stack = Stack::current(core);
    let selector = stack.pop(core, SIZE)? as u16;
    let loaded = core.check_segment(SEGMENT, selector)?;
    stack.commit(core);
    core.set_segment(SEGMENT, loaded);
    shadow_after(core, SEGMENT);
    Ok(())
}

/// Writes a general register as an operand of size `T` does.
fn set_register<T: Word>(core: &mut Core, number: u8, value: u64) {
    let register = &mut core.cpu.data.gpr[usize::from(number & 15)];
    *register = if T::SIZE == 2 { *register & !0xffff | value & 0xffff } else { T::from_u64(value).to_u64() };
}

/// LDS, LES, LFS, LGS, LSS: offset, then selector.
fn load_far<const SEGMENT: usize, T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let at = core.operand_address(op)?;
    let offset = core.read::<T>(at).map_err(|fault| core.refine_fault(op, fault))?;
    let selector = core.read::<u16>(at.wrapping_add(T::SIZE))?;
    core.load_segment(SEGMENT, selector)?;
    set_register::<T>(core, op.reg, offset.to_u64());
    Ok(())
}

/// The descriptor that LAR, LSL, VERR or VERW asks about, if it is in its table and may be seen from here.
fn visible(core: &mut Core, selector: u16) -> Result<Option<Descriptor>, Fault> {
    if is_null(selector) {
        return Ok(None);
    }
    let found = core.find_descriptor(selector)?;
    Ok(found.filter(|descriptor| core.may_reach(*descriptor, selector)))
}

fn set_zf(core: &mut Core, on: bool) {
    core.cpu.data.status = core.cpu.data.status.with(Status::ZF, on);
}

/// System types that LAR knows (SDM 2, LAR); LSL knows those of them that have a limit.
fn lar_knows(core: &Core, found: Descriptor) -> bool {
    match found.kind() {
        kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE => true,
        kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !core.mode.long,
        _ => false,
    }
}

fn lar<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    let selector = source16(core, op)?;
    let found = visible(core, selector)?.filter(|found| !found.is_system() || lar_knows(core, *found));
    if let Some(found) = found {
        set_register::<T>(core, op.reg, found.0 >> 32 & 0x00f0_ff00);
    }
    set_zf(core, found.is_some());
    Ok(())
}

fn lsl<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    let selector = source16(core, op)?;
    let is_gate =
        |found: Descriptor| matches!(found.kind(), kind::CALL_GATE | kind::CALL_GATE16 | kind::TASK_GATE);
    let has_limit =
        |core: &Core, found: Descriptor| !found.is_system() || lar_knows(core, found) && !is_gate(found);
    let found = visible(core, selector)?.filter(|found| has_limit(core, *found));
    if let Some(found) = found {
        set_register::<T>(core, op.reg, u64::from(found.limit()));
    }
    set_zf(core, found.is_some());
    Ok(())
}

fn verr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    verify(core, op, Descriptor::is_readable)
}

fn verw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    verify(core, op, Descriptor::is_writable)
}

fn verify(core: &mut Core, op: &Op, good: fn(Descriptor) -> bool) -> Result<(), Fault> {
    check_protected(core)?;
    let selector = source16(core, op)?;
    let found = visible(core, selector)?;
    set_zf(core, found.is_some_and(good));
    Ok(())
}

/// ARPL: raises the destination's RPL to the source's.
fn arpl(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    let rpl = core.cpu.data.gpr[usize::from(op.reg & 15)] as u16 & 3;
    let adjust = |old: u16| if old & 3 < rpl { Some(old & !3 | rpl) } else { None };
    let raised = if op.flags & opflag::MEMORY != 0 {
        let mut raised = false;
        core.load_modify::<u16>(op, |_, old| {
            raised = adjust(old).is_some();
            adjust(old).unwrap_or(old)
        })?;
        raised
    } else {
        let old = core.cpu.data.gpr[usize::from(op.rm & 15)];
        let new = adjust(old as u16);
        if let Some(new) = new {
            set_register::<u16>(core, op.rm, u64::from(new));
        }
        new.is_some()
    };
    set_zf(core, raised);
    Ok(())
}
