//! RFLAGS as a whole and its system bits: PUSHF, POPF, CLI, STI, CLAC, STAC (SDM 2, and vol. 3A 20.3 for VME and PVI).

use super::stack::Stack;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, row};
use crate::state::{Shadow, cr4, rflags};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Pushfw, pushf::<2>),
    row(Code::Pushfd, pushf::<4>),
    row(Code::Pushfq, pushf::<8>),
    row(Code::Popfw, popf::<2>),
    row(Code::Popfd, popf::<4>),
    row(Code::Popfq, popf::<8>),
    row(Code::Cli, cli),
    row(Code::Sti, sti),
    row(Code::Clac, set_ac::<false>),
    row(Code::Stac, set_ac::<true>),
];

fn pushf<const SIZE: u8>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let image = core.rflags() & !(rflags::VM | rflags::RF);
    let mut stack = Stack::current(core);
    stack.push(core, SIZE, u64::from(image))?;
    stack.commit(core);
    Ok(())
}

fn popf<const SIZE: u8>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let mut stack = Stack::current(core);
    let image = stack.pop(core, SIZE)? as u32;
    stack.commit(core);
    let old = core.cpu.eflags;
    let mask = popf_mask(core.mode.cpl, iopl(core), SIZE);
    let value = core.rflags() & !mask & !rflags::RF | image & mask;
    core.set_rflags(value);
    core.flags_changed(old);
    Ok(())
}

/// RFLAGS bits that POPF changes (SDM 2, table of POPF).
fn popf_mask(cpl: u8, iopl: u8, size: u8) -> u32 {
    let mut mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
    if cpl <= iopl {
        mask |= rflags::IF;
    }
    if cpl == 0 {
        mask |= rflags::IOPL;
    }
    if size != 2 {
        mask |= rflags::AC | rflags::ID;
    }
    mask
}

fn iopl(core: &Core) -> u8 {
    (core.cpu.eflags >> 12 & 3) as u8
}

/// The flag that CLI and STI act on: IF, or VIF for user code with CR4.PVI.
fn interrupt_flag(core: &Core) -> Result<u32, Fault> {
    if core.mode.cpl <= iopl(core) {
        Ok(rflags::IF)
    } else if core.mode.cpl == 3 && core.cpu.cr4 & cr4::PVI != 0 {
        Ok(rflags::VIF)
    } else {
        Err(Fault::gp(0))
    }
}

fn cli(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let flag = interrupt_flag(core)?;
    core.cpu.eflags &= !flag;
    Ok(())
}

fn sti(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let flag = interrupt_flag(core)?;
    if flag == rflags::VIF && core.cpu.eflags & rflags::VIP != 0 {
        return Err(Fault::gp(0));
    }
    let old = core.cpu.eflags;
    core.cpu.eflags |= flag;
    if flag == rflags::IF && old & rflags::IF == 0 {
        core.cpu.shadow = Shadow::Sti;
        core.leave_block = true;
    }
    Ok(())
}

fn set_ac<const ON: bool>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    if core.mode.cpl != 0 {
        return Err(Fault::ud());
    }
    if ON {
        core.cpu.eflags |= rflags::AC;
    } else {
        core.cpu.eflags &= !rflags::AC;
    }
    core.refresh_access();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popf_respects_privilege() {
        assert_eq!(popf_mask(3, 0, 8) & (rflags::IF | rflags::IOPL), 0);
        assert_eq!(popf_mask(3, 3, 8) & (rflags::IF | rflags::IOPL), rflags::IF);
        assert_eq!(popf_mask(0, 0, 8) & (rflags::IF | rflags::IOPL), rflags::IF | rflags::IOPL);
        assert_eq!(popf_mask(0, 0, 2) & (rflags::AC | rflags::ID), 0);
        assert_eq!(popf_mask(0, 0, 8) & (rflags::VM | rflags::RF | rflags::VIF | rflags::VIP), 0);
    }
}
