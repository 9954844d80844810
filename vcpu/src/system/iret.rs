//! IRET (SDM 2, IRET/IRETD/IRETQ): real mode, 32-bit protected mode, compatibility and 64-bit mode.

use super::mode::rflags_mask;
use super::stack::Stack;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, jump};
use crate::state::{rflags, seg};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] =
    &[jump(Code::Iretw, iret::<2>), jump(Code::Iretd, iret::<4>), jump(Code::Iretq, iret::<8>)];

fn iret<const SIZE: u8>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    // NMIs are unblocked even when IRET faults (SDM 3A 6.7.1).
    core.cpu.nmi_blocked = false;
    if core.real_segments() {
        return iret_real(core, SIZE);
    }
    if core.cpu.eflags & rflags::NT != 0 {
        return if core.mode.long { Err(Fault::gp(0)) } else { task_return(core) };
    }
    let mut stack = Stack::current(core);
    let rip = stack.pop(core, SIZE)?;
    let selector = stack.pop(core, SIZE)? as u16;
    let image = stack.pop(core, SIZE)? as u32;
    if !core.mode.long && core.mode.cpl == 0 && image & rflags::VM != 0 {
        // Virtual-8086 mode is not offered yet: refused here, at its only entrance besides task switches.
        return Err(Fault::gp(0));
    }
    let code = core.return_target(selector)?;
    let outer = (selector & 3) as u8 > core.mode.cpl;
    if outer || core.mode.bits == 64 {
        let pointer = stack.pop(core, SIZE)?;
        let stack_selector = stack.pop(core, SIZE)? as u16;
        core.check_rip(&code, rip)?;
        let segment = core.return_stack(stack_selector, &code)?;
        set_flags(core, image, SIZE);
        core.commit_outer(code, segment, pointer);
    } else {
        core.check_rip(&code, rip)?;
        set_flags(core, image, SIZE);
        core.cpu.segments[seg::CS] = code;
        stack.commit(core);
    }
    core.cpu.rip = rip;
    core.mode_changed();
    Ok(())
}

/// Back to the task that the current TSS links to.
fn task_return(core: &mut Core) -> Result<(), Fault> {
    let link = core.read_system::<u16>(core.cpu.tr.base)?;
    core.task_switch(link)
}

/// Loads what the old CPL may change of RFLAGS.
fn set_flags(core: &mut Core, image: u32, size: u8) {
    let cpl = core.mode.cpl;
    let iopl = (core.cpu.eflags >> 12 & 3) as u8;
    let mut mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
    if size != 2 {
        mask |= rflags::RF | rflags::AC | rflags::ID;
    }
    if cpl <= iopl {
        mask |= rflags::IF;
    }
    if cpl == 0 {
        mask |= rflags::IOPL;
        if size != 2 {
            mask |= rflags::VIF | rflags::VIP;
        }
    }
    let value = core.rflags() & !mask | image & mask & rflags_mask::ALL;
    core.set_rflags(value);
}

/// Real mode: the three words, no checks but the limits.
fn iret_real(core: &mut Core, size: u8) -> Result<(), Fault> {
    let mut stack = Stack::current(core);
    let rip = stack.pop(core, size)?;
    let selector = stack.pop(core, size)? as u16;
    let image = stack.pop(core, size)? as u32;
    let code = core.real_code(selector);
    core.check_rip(&code, rip)?;
    let mut mask = rflags::STATUS | rflags::TF | rflags::IF | rflags::DF | rflags::IOPL | rflags::NT;
    if size != 2 {
        mask |= rflags::RF | rflags::AC | rflags::ID;
    }
    let value = core.rflags() & !mask | image & mask;
    core.set_rflags(value);
    core.cpu.segments[seg::CS] = code;
    stack.commit(core);
    core.cpu.rip = rip;
    core.mode_changed();
    Ok(())
}
