//! Exceptions, interrupts, IRET, debug traps.

use super::*;
use crate::fault::vector;
use crate::state::{Activity, rflags};
use crate::system::deliver::{Kind, Triple};

fn frame(core: &Core, words: usize) -> Vec<u64> {
    let rsp = core.cpu.data.gpr[gpr::RSP];
    (0..words as u64).map(|n| peek(core, rsp + 8 * n)).collect()
}

fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * u64::from(vector)
}

#[test]
fn fault_in_ring_3_switches_stack_and_iretq_returns() {
    let mut core = long_core(USER_CODE);
    core.cpu.eflags |= rflags::IF | rflags::TF | rflags::NT;
    core.deliver_exception(Fault::gp(0x58)).expect("delivered");
    assert_eq!(core.cpu.rip, handler(vector::GP));
    assert_eq!((core.mode.cpl, core.mode.bits), (0, 64));
    assert_eq!(core.cpu.segments[seg::SS].selector, 0);
    assert!(core.cpu.segments[seg::SS].is_null());
    let flags = u64::from(rflags::IF | rflags::TF | rflags::NT | rflags::RF | 2);
    assert_eq!(frame(&core, 6), [0x58, 0x8000, USER_CODE.into(), flags, USER_STACK, USER_DATA.into()]);
    assert_eq!(core.cpu.data.gpr[gpr::RSP], KERNEL_STACK - 48);
    assert_eq!(core.cpu.eflags & (rflags::IF | rflags::TF | rflags::NT | rflags::RF), 0);
    core.cpu.data.gpr[gpr::RSP] += 8;
    run(&mut core, Code::Iretq, &op(0, 0, 0)).expect("returns");
    assert_eq!((core.cpu.rip, core.mode.cpl), (0x8000, 3));
    assert_eq!(core.cpu.data.gpr[gpr::RSP], USER_STACK);
    assert_eq!(u64::from(core.rflags()), flags);
}

#[test]
fn interrupt_in_ring_0_aligns_the_stack() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.data.gpr[gpr::RSP] = KERNEL_STACK - 3;
    core.cpu.activity = Activity::Halted;
    core.deliver_interrupt(0x40, Kind::External).expect("delivered");
    assert_eq!(core.cpu.activity, Activity::Running);
    assert_eq!(core.cpu.data.gpr[gpr::RSP], KERNEL_STACK - 16 - 40);
    assert_eq!(frame(&core, 5), [0x8000, 8, 2, KERNEL_STACK - 3, 0x10]);
    assert_eq!(core.cpu.segments[seg::SS].selector, KERNEL_DATA);
}

#[test]
fn page_fault_on_ist_sets_cr2() {
    let mut core = long_core(KERNEL_CODE);
    long_gate(&mut core, 14, KERNEL_CODE, 0x8f, 1);
    core.cpu.eflags |= rflags::IF;
    let fault = core.read::<u32>(MAPPED_END + 0x123).expect_err("not mapped");
    core.deliver_exception(fault).expect("delivered");
    assert_eq!(core.cpu.cr2, MAPPED_END + 0x123);
    assert_eq!(core.cpu.data.gpr[gpr::RSP], IST1 - 48);
    assert_eq!(frame(&core, 1), [0]);
    assert_ne!(core.cpu.eflags & rflags::IF, 0, "a trap gate keeps IF");
}

#[test]
fn missing_gates_give_np_then_double_then_triple_fault() {
    let mut core = long_core(KERNEL_CODE);
    long_gate(&mut core, 6, KERNEL_CODE, 0x0e, 0);
    core.deliver_exception(Fault::ud()).expect("delivered");
    assert_eq!(core.cpu.rip, handler(vector::NP));
    assert_eq!(frame(&core, 1), [6 * 8 + 2 + 1]);
    let mut core = long_core(KERNEL_CODE);
    long_gate(&mut core, 13, KERNEL_CODE, 0x0e, 0);
    core.deliver_exception(Fault::gp(0)).expect("delivered");
    assert_eq!(core.cpu.rip, handler(vector::DF));
    assert_eq!(frame(&core, 1), [0]);
    let mut core = long_core(KERNEL_CODE);
    core.cpu.idtr.limit = 0;
    assert_eq!(core.deliver_exception(Fault::ud()), Err(Triple));
    assert_eq!(core.cpu.activity, Activity::Shutdown);
}

#[test]
fn unusable_kernel_stack_is_a_double_fault_on_its_ist() {
    let mut core = long_core(KERNEL_CODE);
    long_gate(&mut core, 8, KERNEL_CODE, 0x8e, 1);
    core.cpu.data.gpr[gpr::RSP] = MAPPED_END + 0x1000;
    let fault = core.read::<u8>(MAPPED_END + 0x5000).expect_err("not mapped");
    core.deliver_exception(fault).expect("delivered");
    assert_eq!(core.cpu.rip, handler(vector::DF));
    assert_eq!(core.cpu.cr2, MAPPED_END + 0xff8, "the second page fault's address");
    let mut core = long_core(KERNEL_CODE);
    core.cpu.data.gpr[gpr::RSP] = 0x8000_0000_0000;
    long_gate(&mut core, 12, KERNEL_CODE, 0x8e, 1);
    core.deliver_exception(Fault::ud()).expect("delivered");
    assert_eq!(core.cpu.rip, handler(vector::SS), "a stack that is not canonical");
}

#[test]
fn software_interrupts_check_the_gate() {
    let mut core = long_core(USER_CODE);
    assert_eq!(run(&mut core, Code::Int_imm8, &op(0x80, 0, 0)), Err(Fault::gp(0x80 * 8 + 2)));
    assert_eq!((core.cpu.rip, core.mode.cpl), (0x8000, 3));
    long_gate(&mut core, 0x80, KERNEL_CODE, 0xee, 0);
    run(&mut core, Code::Int_imm8, &op(0x80, 0, 0)).expect("allowed");
    assert_eq!(frame(&core, 1), [0x8002]);
    let mut core = long_core(USER_CODE);
    run(&mut core, Code::Int1, &op(0, 0, 0)).expect("not checked");
    assert_eq!(core.cpu.rip, handler(vector::DB));
}

#[test]
fn nmi_stays_blocked_until_iret() {
    let mut core = long_core(KERNEL_CODE);
    core.deliver_interrupt(vector::NMI, Kind::Nmi).expect("delivered");
    assert!(core.cpu.nmi_blocked);
    run(&mut core, Code::Iretq, &op(0, 0, 0)).expect("returns");
    assert!(!core.cpu.nmi_blocked);
    assert_eq!(core.cpu.rip, 0x8000);
    core.cpu.nmi_blocked = true;
    core.cpu.eflags |= rflags::NT;
    assert_eq!(run(&mut core, Code::Iretq, &op(0, 0, 0)), Err(Fault::gp(0)));
    assert!(!core.cpu.nmi_blocked, "even when IRET faults");
}

#[test]
fn iret_refuses_what_the_manual_forbids() {
    let cases: [([u64; 5], Fault); 6] = [
        ([0x8000, 0, 2, USER_STACK, USER_DATA.into()], Fault::gp(0)),
        ([0x8000, KERNEL_DATA.into(), 2, USER_STACK, USER_DATA.into()], Fault::gp(0x10)),
        ([0x8000, 0x28, 2, USER_STACK, USER_DATA.into()], Fault::gp(0x28)),
        ([0x8000, USER_CODE.into(), 2, USER_STACK, 0], Fault::gp(0)),
        ([0x8000, USER_CODE.into(), 2, USER_STACK, KERNEL_DATA.into()], Fault::gp(0x10)),
        ([1 << 47, USER_CODE.into(), 2, USER_STACK, USER_DATA.into()], Fault::gp(0)),
    ];
    for (words, fault) in cases {
        let mut core = long_core(KERNEL_CODE);
        for (index, word) in words.into_iter().enumerate() {
            poke(&mut core, KERNEL_STACK + 8 * index as u64, word);
        }
        assert_eq!(run(&mut core, Code::Iretq, &op(0, 0, 0)), Err(fault), "{words:x?}");
        assert_eq!((core.mode.cpl, core.cpu.data.gpr[gpr::RSP]), (0, KERNEL_STACK));
    }
}

#[test]
fn iret_to_ring_3_cannot_raise_iopl_from_there() {
    let mut core = long_core(USER_CODE);
    let image = u64::from(rflags::IOPL | rflags::IF | rflags::ID | 2);
    for (index, word) in
        [0x9000, u64::from(USER_CODE), image, 0x2_1000, USER_DATA.into()].into_iter().enumerate()
    {
        poke(&mut core, USER_STACK + 8 * index as u64, word);
    }
    run(&mut core, Code::Iretq, &op(0, 0, 0)).expect("same ring");
    assert_eq!(core.cpu.eflags & (rflags::IOPL | rflags::IF | rflags::ID), rflags::ID);
}

#[test]
fn iret_to_compatibility_mode_and_nulls_inner_segments() {
    let mut core = long_core(KERNEL_CODE);
    set_segment(&mut core, seg::FS, KERNEL_DATA);
    core.cpu.segments[seg::FS].base = 0x1234;
    for (index, word) in
        [0x9000, u64::from(USER_CODE32), 2, 0x2_1000, USER_DATA.into()].into_iter().enumerate()
    {
        poke(&mut core, KERNEL_STACK + 8 * index as u64, word);
    }
    run(&mut core, Code::Iretq, &op(0, 0, 0)).expect("returns");
    assert_eq!((core.mode.bits, core.mode.cpl, core.mode.long), (32, 3, true));
    assert!(core.cpu.segments[seg::DS].is_null() && core.cpu.segments[seg::FS].is_null());
    assert_eq!(core.cpu.segments[seg::FS].base, 0x1234);
    core.deliver_interrupt(0x40, Kind::External).expect("delivered");
    assert_eq!(core.mode.bits, 64);
    assert_eq!(frame(&core, 5), [0x9000, USER_CODE32.into(), 2, 0x2_1000, USER_DATA.into()]);
}

#[test]
fn single_step_follows_the_instruction() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.eflags |= rflags::TF;
    assert!(core.stepping());
    core.begin_step().expect("no breakpoint");
    core.end_step();
    assert!(core.take_debug_trap());
    assert_eq!(core.cpu.dr[6], 0xffff_4ff0);
    core.deliver_interrupt(vector::DB, Kind::Trap).expect("delivered");
    assert_eq!(frame(&core, 3)[2] & u64::from(rflags::RF | rflags::TF), u64::from(rflags::TF));
}

#[test]
fn instruction_breakpoint_fires_once_with_rf() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.dr[0] = 0x8000;
    core.cpu.dr[7] |= 2;
    core.breakpoints_changed();
    assert_eq!(core.begin_step(), Err(Fault::new(vector::DB)));
    assert_eq!(core.cpu.dr[6] & 15, 1);
    core.cpu.eflags |= rflags::RF;
    core.begin_step().expect("suppressed");
    assert_eq!(core.cpu.eflags & rflags::RF, 0);
}

#[test]
fn data_breakpoint_follows_a_write() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.data.gpr[gpr::RAX] = 0x5_0004;
    run(&mut core, Code::Mov_dr_r64, &op(0, 1, 0)).expect("DR1");
    core.cpu.data.gpr[gpr::RAX] = 0x00d0_0008;
    run(&mut core, Code::Mov_dr_r64, &op(0, 7, 0)).expect("DR7: four bytes, writes");
    assert!(core.watched);
    core.read::<u32>(0x5_0004).expect("mapped");
    assert!(!core.take_debug_trap());
    core.write::<u64>(0x5_0000, 0).expect("mapped");
    assert!(core.take_debug_trap());
    assert_eq!(core.cpu.dr[6] & 15, 2);
}

#[test]
fn general_detect_guards_debug_registers() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.dr[7] |= 1 << 13;
    assert_eq!(run(&mut core, Code::Mov_r64_dr, &op(0, 0, 0)), Err(Fault::new(vector::DB)));
    assert_eq!(core.cpu.dr[6] & 1 << 13, 1 << 13);
    run(&mut core, Code::Mov_r64_dr, &op(0, 4, 3)).expect("DR4 is DR6");
    assert_eq!(core.cpu.data.gpr[gpr::RBX], core.cpu.dr[6]);
    core.cpu.cr4 |= cr4::DE;
    assert_eq!(run(&mut core, Code::Mov_r64_dr, &op(0, 4, 0)), Err(Fault::ud()));
}

#[test]
fn protected_mode_switches_stack_through_the_tss() {
    let mut core = protected_core(USER_CODE32);
    core.deliver_exception(Fault::gp(0x123 & !3)).expect("delivered");
    let esp = core.cpu.data.gpr[gpr::RSP];
    assert_eq!((core.cpu.rip, core.mode.cpl, esp), (0x70d0, 0, KERNEL_STACK - 24));
    assert_eq!(core.cpu.segments[seg::SS].selector, KERNEL_DATA);
    let words: Vec<u32> = (0..6).map(|n| core.mem.ram.get(esp + 4 * n)).collect();
    assert_eq!(words, [0x120, 0x8000, 0x1b, rflags::RF | 2, USER_STACK as u32, 0x23]);
    core.cpu.data.gpr[gpr::RSP] += 4;
    run(&mut core, Code::Iretd, &op(0, 0, 0)).expect("returns");
    assert_eq!((core.cpu.rip, core.mode.cpl, core.cpu.data.gpr[gpr::RSP]), (0x8000, 3, USER_STACK));
}

#[test]
fn bad_inner_stack_is_an_invalid_tss() {
    let mut core = protected_core(USER_CODE32);
    poke(&mut core, TSS + 8, USER_DATA);
    // #TS, its double fault and the shutdown: each tries the same stack.
    assert_eq!(core.deliver_interrupt(0x20, Kind::External), Err(Triple));
    let mut core = protected_core(USER_CODE32);
    poke(&mut core, TSS + 8, 0u16);
    assert_eq!(run(&mut core, Code::Int_imm8, &op(0x20, 0, 0)), Err(Fault::gp(0x20 * 8 + 2)));
    poke(&mut core, IDT + 8 * 0x20 + 5, 0xeeu8);
    assert_eq!(run(&mut core, Code::Int_imm8, &op(0x20, 0, 0)), Err(Fault::with_code(vector::TS, 0)));
    poke(&mut core, TSS + 8, USER_DATA);
    assert_eq!(run(&mut core, Code::Int_imm8, &op(0x20, 0, 0)), Err(Fault::with_code(vector::TS, 0x20)));
    core.cpu.tr.limit = 7;
    assert_eq!(run(&mut core, Code::Int_imm8, &op(0x20, 0, 0)), Err(Fault::with_code(vector::TS, 0x30)));
}

/// 32-bit protected mode without paging.
fn protected_core(code: u16) -> Core {
    let mut core = bare_core();
    core.cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
    fill_gdt(&mut core);
    core.cpu.idtr = TableReg { base: IDT, limit: 0x7ff };
    for vector in 0..256u64 {
        let gate = (HANDLERS + 16 * vector) & 0xffff | u64::from(KERNEL_CODE32) << 16 | 0x8e << 40;
        poke(&mut core, IDT + 8 * vector, gate);
    }
    core.cpu.tr = Segment { selector: TSS_SELECTOR, attributes: 0x8b, limit: 0x67, base: TSS };
    poke(&mut core, TSS + 4, KERNEL_STACK as u32);
    poke(&mut core, TSS + 8, KERNEL_DATA);
    enter(core, code)
}

#[test]
fn real_mode_uses_the_vector_table() {
    let mut core = bare_core();
    core.cpu.segments[seg::SS].base = 0x2_0000;
    core.cpu.data.gpr[gpr::RSP] = 0x0004;
    core.cpu.eflags |= rflags::IF;
    poke(&mut core, 0x21 * 4, 0x3000_0150u32);
    run(&mut core, Code::Int_imm8, &op(0x21, 0, 0)).expect("delivered");
    assert_eq!((core.cpu.rip, core.cpu.segments[seg::CS].base), (0x150, 0x3_0000));
    assert_eq!(core.cpu.data.gpr[gpr::RSP], 0xfffe);
    assert_eq!(core.mem.ram.get::<u16>(0x2_0000), 0xf000);
    assert_eq!(core.mem.ram.get::<u16>(0x2_0002), 0x0202);
    assert_eq!(core.mem.ram.get::<u16>(0x2_fffe), 0xfff2);
    run(&mut core, Code::Iretw, &op(0, 0, 0)).expect("returns");
    assert_eq!((core.cpu.rip, core.cpu.segments[seg::CS].base), (0xfff2, 0xf_0000));
    assert_eq!((core.rflags(), core.cpu.data.gpr[gpr::RSP]), (0x202, 4));
}
