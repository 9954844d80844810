//! Far transfers, call gates, fast system calls.

use super::*;
use crate::state::rflags;

/// `op` with a memory operand at an absolute address.
fn memory(address: u64) -> Op {
    Op { disp: address as i64, flags: crate::isa::opflag::MEMORY, ..op(0, 0, 0) }
}

fn far_pointer(core: &mut Core, offset: u64, selector: u16) -> Op {
    poke(core, 0x5_0000, offset);
    poke(core, 0x5_0008, selector);
    memory(0x5_0000)
}

#[test]
fn far_jump_changes_the_code_size() {
    let mut core = long_core(KERNEL_CODE);
    let to = far_pointer(&mut core, 0x9000, KERNEL_CODE32);
    run(&mut core, Code::Jmp_m1664, &to).expect("same ring");
    assert_eq!((core.cpu.rip, core.mode.bits, core.mode.cpl), (0x9000, 32, 0));
    run(&mut core, Code::Jmp_ptr1632, &op(u64::from(KERNEL_CODE) << 32 | 0xa000, 0, 0)).expect("same ring");
    assert_eq!((core.cpu.rip, core.mode.bits), (0xa000, 64));
}

#[test]
fn far_jump_checks() {
    let cases = [
        (0x9000, 0, Fault::gp(0)),
        (0x9000, KERNEL_DATA, Fault::gp(0x10)),
        (0x9000, USER_CODE, Fault::gp(0x28)),
        (0x9000, 0x78, Fault::gp(0x78)),
        (0x9000, 0x0c, Fault::gp(0x0c)),
        (0x9000, TSS_SELECTOR, Fault::gp(0x30)),
        (1 << 47, KERNEL_CODE, Fault::gp(0)),
    ];
    for (offset, selector, fault) in cases {
        let mut core = long_core(KERNEL_CODE);
        let to = far_pointer(&mut core, offset, selector);
        assert_eq!(run(&mut core, Code::Jmp_m1664, &to), Err(fault), "{selector:x}");
    }
}

#[test]
fn conforming_code_keeps_the_ring() {
    let mut core = long_core(USER_CODE);
    let to = far_pointer(&mut core, 0x9000, CONFORMING);
    run(&mut core, Code::Call_m1664, &to).expect("conforming");
    assert_eq!((core.mode.cpl, core.cpu.segments[seg::CS].selector), (3, CONFORMING | 3));
    assert_eq!(peek(&core, USER_STACK - 16), 0x8002);
    run(&mut core, Code::Retfq, &op(0, 0, 0)).expect("returns");
    assert_eq!((core.cpu.rip, core.cpu.data.gpr[gpr::RSP]), (0x8002, USER_STACK));
}

#[test]
fn call_gate_enters_ring_0_and_retf_leaves_it() {
    let mut core = long_core(USER_CODE);
    let to = far_pointer(&mut core, 0, CALL_GATE);
    run(&mut core, Code::Call_m1664, &to).expect("through the gate");
    assert_eq!((core.cpu.rip, core.mode.cpl), (0x7000, 0));
    let rsp = core.cpu.data.gpr[gpr::RSP];
    assert_eq!(rsp, KERNEL_STACK - 32);
    let frame: Vec<u64> = (0..4).map(|n| peek(&core, rsp + 8 * n)).collect();
    assert_eq!(frame, [0x8002, USER_CODE.into(), USER_STACK, USER_DATA.into()]);
    run(&mut core, Code::Retfq_imm16, &op(0, 0, 0)).expect("returns");
    assert_eq!((core.cpu.rip, core.mode.cpl, core.cpu.data.gpr[gpr::RSP]), (0x8002, 3, USER_STACK));
}

#[test]
fn a_jump_cannot_change_the_ring_through_a_gate() {
    let mut core = long_core(USER_CODE);
    let to = far_pointer(&mut core, 0, CALL_GATE);
    assert_eq!(run(&mut core, Code::Jmp_m1664, &to), Err(Fault::gp(8)));
    poke(&mut core, GDT + u64::from(CALL_GATE) + 5, 0x8cu8);
    assert_eq!(run(&mut core, Code::Call_m1664, &to), Err(Fault::gp(0x40)));
    poke(&mut core, GDT + u64::from(CALL_GATE) + 5, 0x6cu8);
    assert_eq!(run(&mut core, Code::Call_m1664, &to), Err(Fault::with_code(crate::fault::vector::NP, 0x40)));
}

#[test]
fn a_faulting_inner_stack_leaves_the_caller_as_it_was() {
    let mut core = long_core(USER_CODE);
    poke(&mut core, TSS + 4, MAPPED_END + 0x1000);
    let to = far_pointer(&mut core, 0, CALL_GATE);
    let fault = run(&mut core, Code::Call_m1664, &to).expect_err("not mapped");
    assert_eq!((fault.vector(), fault.code()), (14, Some(2)));
    assert_eq!((core.mode.cpl, core.cpu.data.gpr[gpr::RSP]), (3, USER_STACK));
}

#[test]
fn syscall_and_sysret() {
    let mut core = long_core(USER_CODE);
    core.cpu.msr.star = 0x18 << 48 | 0x08 << 32;
    core.cpu.msr.lstar = 0xffff_ffff_8000_0000;
    core.cpu.msr.sfmask = u64::from(rflags::IF | rflags::DF | rflags::AC);
    core.cpu.eflags |= rflags::IF | rflags::AC | rflags::ID;
    let flags = u64::from(core.rflags());
    run(&mut core, Code::Syscall, &op(0, 0, 0)).expect("64-bit mode");
    assert_eq!((core.cpu.rip, core.mode.cpl, core.mode.bits), (0xffff_ffff_8000_0000, 0, 64));
    assert_eq!((core.cpu.data.gpr[gpr::RCX], core.cpu.data.gpr[gpr::R11]), (0x8002, flags));
    assert_eq!(core.rflags(), rflags::ID | 2);
    assert_eq!((core.cpu.segments[seg::CS].selector, core.cpu.segments[seg::SS].selector), (8, 0x10));
    run(&mut core, Code::Sysretq, &op(0, 0, 0)).expect("ring 0");
    assert_eq!((core.cpu.rip, core.mode.cpl, u64::from(core.rflags())), (0x8002, 3, flags));
    assert_eq!((core.cpu.segments[seg::CS].selector, core.cpu.segments[seg::SS].selector), (0x2b, 0x23));
    assert_eq!(run(&mut core, Code::Sysretq, &op(0, 0, 0)), Err(Fault::gp(0)));
}

#[test]
fn sysret_checks_and_32_bit_form() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.msr.star = 0x18 << 48;
    core.cpu.data.gpr[gpr::RCX] = 1 << 47;
    assert_eq!(run(&mut core, Code::Sysretq, &op(0, 0, 0)), Err(Fault::gp(0)));
    core.cpu.data.gpr[gpr::RCX] = 0xf_0000_9000;
    core.cpu.data.gpr[gpr::R11] = u64::from(rflags::TF | rflags::VM | rflags::RF);
    run(&mut core, Code::Sysretd, &op(0, 0, 0)).expect("ring 0");
    assert_eq!((core.cpu.rip, core.mode.bits, core.mode.cpl), (0x9000, 32, 3));
    assert_eq!(core.rflags(), rflags::TF | 2);
    assert!(core.take_debug_trap(), "SYSRET traps at once");
    assert_eq!(run(&mut core, Code::Syscall, &op(0, 0, 0)), Err(Fault::ud()), "not in compatibility mode");
    let mut core = long_core(USER_CODE);
    core.cpu.efer &= !efer::SCE;
    assert_eq!(run(&mut core, Code::Syscall, &op(0, 0, 0)), Err(Fault::ud()));
}

#[test]
fn sysenter_and_sysexit() {
    let mut core = long_core(USER_CODE32);
    assert_eq!(run(&mut core, Code::Sysenter, &op(0, 0, 0)), Err(Fault::gp(0)));
    core.cpu.msr.sysenter_cs = 8;
    core.cpu.msr.sysenter_esp = KERNEL_STACK;
    core.cpu.msr.sysenter_eip = 0xffff_ffff_8000_1000;
    core.cpu.eflags |= rflags::IF;
    run(&mut core, Code::Sysenter, &op(0, 0, 0)).expect("set up");
    assert_eq!((core.cpu.rip, core.mode.cpl, core.mode.bits), (0xffff_ffff_8000_1000, 0, 64));
    assert_eq!((core.cpu.data.gpr[gpr::RSP], core.cpu.eflags & rflags::IF), (KERNEL_STACK, 0));
    core.cpu.data.gpr[gpr::RDX] = 0x9000;
    core.cpu.data.gpr[gpr::RCX] = USER_STACK;
    run(&mut core, Code::Sysexitd, &op(0, 0, 0)).expect("ring 0");
    assert_eq!((core.cpu.rip, core.mode.cpl, core.mode.bits), (0x9000, 3, 32));
    assert_eq!((core.cpu.segments[seg::CS].selector, core.cpu.segments[seg::SS].selector), (0x1b, 0x23));
}
