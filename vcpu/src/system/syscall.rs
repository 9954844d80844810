//! Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 2; SDM 3A 5.8.7, 5.8.8), as Intel CPUs do them.

use super::mode::rflags_mask;
use super::segment::{flat_code, flat_stack};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, jump};
use crate::mem::walk::is_canonical;
use crate::state::regs::gpr;
use crate::state::{Segment, efer, rflags, seg};
use crate::system::debug::DR6_BS;
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    jump(Code::Syscall, syscall),
    jump(Code::Sysretd, sysret::<false>),
    jump(Code::Sysretq, sysret::<true>),
    jump(Code::Sysenter, sysenter),
    jump(Code::Sysexitd, sysexit::<false>),
    jump(Code::Sysexitq, sysexit::<true>),
];

impl Core {
    /// CS, SS and RIP without descriptors.
    fn enter_flat(&mut self, code: Segment, stack: Segment, rip: u64) {
        self.cpu.segments[seg::CS] = code;
        self.cpu.segments[seg::SS] = stack;
        self.cpu.rip = rip;
        self.mode_changed();
    }
}

/// #UD outside 64-bit mode: compatibility mode uses SYSENTER on Intel CPUs.
fn check_syscall(core: &Core) -> Result<(), Fault> {
    let there = core.mode.bits == 64 && core.cpu.efer & efer::SCE != 0;
    if there { Ok(()) } else { Err(Fault::ud()) }
}

fn syscall(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_syscall(core)?;
    let flags = core.rflags();
    core.cpu.data.gpr[gpr::RCX] = core.next_rip(op);
    core.cpu.data.gpr[gpr::R11] = u64::from(flags);
    core.set_rflags(flags & !(core.cpu.msr.sfmask as u32) & !rflags::RF);
    // A single step is over when the mask clears TF: the handler does not see it.
    core.trap_flag &= core.cpu.eflags & rflags::TF != 0;
    let selector = (core.cpu.msr.star >> 32) as u16 & !3;
    let stack = flat_stack(selector.wrapping_add(8), 0);
    core.enter_flat(flat_code(selector, 0, true), stack, core.cpu.msr.lstar);
    Ok(())
}

fn sysret<const WIDE: bool>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_syscall(core)?;
    core.require_cpl0()?;
    let rcx = core.cpu.data.gpr[gpr::RCX];
    if WIDE && !is_canonical(rcx) {
        return Err(Fault::gp(0));
    }
    let image = core.cpu.data.gpr[gpr::R11] as u32;
    core.set_rflags(image & rflags_mask::ALL & !(rflags::RF | rflags::VM));
    if core.cpu.eflags & rflags::TF != 0 {
        // Other than with IRET and POPF, the trap follows SYSRET itself, before the next instruction.
        core.cpu.debug_pending |= DR6_BS;
        core.trap_flag = false;
    }
    let base = (core.cpu.msr.star >> 48) as u16;
    let selector = if WIDE { base.wrapping_add(16) } else { base };
    let rip = if WIDE { rcx } else { u64::from(rcx as u32) };
    let stack = flat_stack(base.wrapping_add(8) | 3, 3);
    core.enter_flat(flat_code(selector | 3, 3, WIDE), stack, rip);
    Ok(())
}

/// #GP(0) in real mode and where the operating system left IA32_SYSENTER_CS null.
fn sysenter_selector(core: &Core) -> Result<u16, Fault> {
    let selector = core.cpu.msr.sysenter_cs as u16;
    if !core.mode.protected || selector & !3 == 0 { Err(Fault::gp(0)) } else { Ok(selector) }
}

fn sysenter(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let selector = sysenter_selector(core)? & !3;
    let long = core.mode.long;
    let part = |value: u64| if long { value } else { u64::from(value as u32) };
    core.cpu.eflags &= !(rflags::VM | rflags::IF | rflags::RF);
    core.cpu.data.gpr[gpr::RSP] = part(core.cpu.msr.sysenter_esp);
    let rip = part(core.cpu.msr.sysenter_eip);
    core.enter_flat(flat_code(selector, 0, long), flat_stack(selector.wrapping_add(8), 0), rip);
    Ok(())
}

fn sysexit<const WIDE: bool>(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let selector = sysenter_selector(core)?;
    core.require_cpl0()?;
    let (rip, rsp) = (core.cpu.data.gpr[gpr::RDX], core.cpu.data.gpr[gpr::RCX]);
    if WIDE && !(is_canonical(rip) && is_canonical(rsp)) {
        return Err(Fault::gp(0));
    }
    let part = |value: u64| if WIDE { value } else { u64::from(value as u32) };
    core.cpu.data.gpr[gpr::RSP] = part(rsp);
    let code = selector.wrapping_add(if WIDE { 32 } else { 16 }) | 3;
    let stack = flat_stack(code.wrapping_add(8), 3);
    core.enter_flat(flat_code(code, 3, WIDE), stack, part(rip));
    Ok(())
}
