//! Loads of segment and table registers, and questions about descriptors.

use super::*;
use crate::fault::vector;
use crate::state::{Shadow, Status};

fn set_reg(core: &mut Core, number: usize, value: u64) {
    core.cpu.data.gpr[number] = value;
}

#[test]
fn data_segment_loads_are_checked() {
    let cases = [
        (KERNEL_CODE, seg::DS, KERNEL_DATA, Ok(())),
        (KERNEL_CODE, seg::DS, 0, Ok(())),
        (KERNEL_CODE, seg::DS, KERNEL_CODE, Ok(())),
        (KERNEL_CODE, seg::ES, TSS_SELECTOR, Err(Fault::gp(0x30))),
        (KERNEL_CODE, seg::ES, 0x78, Err(Fault::gp(0x78))),
        (KERNEL_CODE, seg::ES, ABSENT_DATA, Err(Fault::with_code(vector::NP, 0x68))),
        (KERNEL_CODE, seg::FS, KERNEL_DATA | 3, Err(Fault::gp(0x10))),
        (USER_CODE, seg::DS, KERNEL_DATA, Err(Fault::gp(0x10))),
        (USER_CODE, seg::DS, CONFORMING, Ok(())),
        (USER_CODE, seg::SS, 0, Err(Fault::gp(0))),
        (KERNEL_CODE, seg::SS, 0, Ok(())),
        (KERNEL_CODE, seg::SS, 1, Err(Fault::gp(0))),
        (KERNEL_CODE, seg::SS, USER_DATA, Err(Fault::gp(0x20))),
        (KERNEL_CODE, seg::SS, KERNEL_CODE, Err(Fault::gp(0x08))),
        (KERNEL_CODE, seg::SS, ABSENT_DATA, Err(Fault::gp(0x68))),
    ];
    for (code, index, selector, expected) in cases {
        let mut core = long_core(code);
        set_reg(&mut core, gpr::RAX, u64::from(selector));
        let result = run(&mut core, Code::Mov_Sreg_r32m16, &op(0, index as u8, 0));
        assert_eq!(result, expected, "{index} {selector:x}");
        if expected.is_ok() {
            assert_eq!(core.cpu.segments[index].selector, selector);
            assert_eq!(core.cpu.shadow == Shadow::MovSs, index == seg::SS);
            assert_eq!(core.mode.cpl, (code & 3) as u8);
        }
    }
}

#[test]
fn cs_cannot_be_moved_to() {
    let mut core = long_core(KERNEL_CODE);
    assert_eq!(run(&mut core, Code::Mov_Sreg_r32m16, &op(0, 1, 0)), Err(Fault::ud()));
    assert_eq!(run(&mut core, Code::Mov_Sreg_r32m16, &op(0, 6, 0)), Err(Fault::ud()));
}

#[test]
fn loads_set_the_accessed_bit() {
    let mut core = long_core(KERNEL_CODE);
    poke(&mut core, GDT + 0x10 + 5, 0x92u8);
    set_reg(&mut core, gpr::RAX, u64::from(KERNEL_DATA));
    run(&mut core, Code::Mov_Sreg_r32m16, &op(0, 0, 0)).expect("data");
    assert_eq!(core.mem.ram.get::<u8>(GDT + 0x15), 0x93);
    assert_eq!(core.cpu.segments[seg::ES].kind(), 3);
}

#[test]
fn null_gs_clears_its_base() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.segments[seg::GS].base = 0x1234;
    core.mode_changed();
    set_reg(&mut core, gpr::RAX, 0);
    run(&mut core, Code::Mov_Sreg_r32m16, &op(0, seg::GS as u8, 0)).expect("null");
    assert_eq!((core.cpu.segments[seg::GS].base, core.cpu.ea_base[seg::GS]), (0, 0));
}

#[test]
fn push_and_pop() {
    let mut core = long_core(KERNEL_CODE);
    set_segment(&mut core, seg::FS, KERNEL_DATA);
    poke(&mut core, KERNEL_STACK - 8, u64::MAX);
    run(&mut core, Code::Pushq_FS, &op(0, 0, 0)).expect("pushed");
    assert_eq!(peek(&core, KERNEL_STACK - 8), 0x10);
    run(&mut core, Code::Popq_GS, &op(0, 0, 0)).expect("popped");
    assert_eq!(core.cpu.segments[seg::GS].selector, 0x10);
    assert_eq!(core.cpu.data.gpr[gpr::RSP], KERNEL_STACK);
    poke(&mut core, KERNEL_STACK, 0x30u64);
    assert_eq!(run(&mut core, Code::Popq_GS, &op(0, 0, 0)), Err(Fault::gp(0x30)));
    assert_eq!(core.cpu.data.gpr[gpr::RSP], KERNEL_STACK, "a fault moves nothing");
}

#[test]
fn ltr_marks_busy_and_lldt_takes_long_bases() {
    let mut core = long_core(KERNEL_CODE);
    poke(&mut core, GDT + 0x38, 0x1u64);
    set_reg(&mut core, gpr::RAX, u64::from(TSS_SELECTOR));
    run(&mut core, Code::Ltr_r32m16, &op(0, 0, 0)).expect("available");
    assert_eq!(core.cpu.tr.base, 0x1_0000_0000 | TSS);
    assert_eq!((core.cpu.tr.kind(), core.mem.ram.get::<u8>(GDT + 0x35)), (11, 0x8b));
    assert_eq!(run(&mut core, Code::Ltr_r32m16, &op(0, 0, 0)), Err(Fault::gp(0x30)), "busy now");
    set_reg(&mut core, gpr::RAX, u64::from(LDT_SELECTOR));
    run(&mut core, Code::Lldt_r32m16, &op(0, 0, 0)).expect("an LDT");
    assert_eq!((core.cpu.ldtr.base, core.cpu.ldtr.limit), (0x9000, 0x2f));
    poke(&mut core, 0x9008, 0x00cf_9300_0000_ffffu64);
    set_reg(&mut core, gpr::RAX, 0x0c);
    run(&mut core, Code::Mov_Sreg_r32m16, &op(0, 0, 0)).expect("from the LDT");
    set_reg(&mut core, gpr::RAX, 0x34);
    assert_eq!(run(&mut core, Code::Mov_Sreg_r32m16, &op(0, 0, 0)), Err(Fault::gp(0x34)));
    set_reg(&mut core, gpr::RAX, 0x0c);
    assert_eq!(run(&mut core, Code::Lldt_r32m16, &op(0, 0, 0)), Err(Fault::gp(0x0c)));
    set_reg(&mut core, gpr::RAX, 0);
    assert_eq!(run(&mut core, Code::Ltr_r32m16, &op(0, 0, 0)), Err(Fault::gp(0)));
}

/// LAR, LSL, VERR and VERW of user code about these selectors.
#[test]
fn descriptor_questions() {
    let cases = [
        (USER_DATA, Some(0xc0_f300), Some(0xffff_ffffu64), true, true),
        (USER_CODE, Some(0xa0_fb00), Some(0xffff_ffff), true, false),
        (KERNEL_DATA, None, None, false, false),
        (CONFORMING, Some(0xa0_9f00), Some(0xffff_ffff), true, false),
        (CALL_GATE, Some(0x00_ec00), None, false, false),
        (LDT_SELECTOR, None, None, false, false),
        (0, None, None, false, false),
        (0x78, None, None, false, false),
    ];
    for (selector, rights, limit, readable, writable) in cases {
        let mut core = long_core(USER_CODE);
        set_reg(&mut core, gpr::RAX, u64::from(selector));
        let zf = |core: &Core| core.cpu.data.status.has(Status::ZF);
        set_reg(&mut core, gpr::RBX, 7);
        run(&mut core, Code::Lar_r32_r32m16, &op(0, 3, 0)).expect("no fault");
        assert_eq!(zf(&core).then(|| core.cpu.data.gpr[gpr::RBX]), rights, "{selector:x}");
        run(&mut core, Code::Lsl_r32_r32m16, &op(0, 3, 0)).expect("no fault");
        assert_eq!(zf(&core).then(|| core.cpu.data.gpr[gpr::RBX]), limit, "{selector:x}");
        run(&mut core, Code::Verr_r32m16, &op(0, 0, 0)).expect("no fault");
        assert_eq!(zf(&core), readable, "{selector:x}");
        run(&mut core, Code::Verw_r32m16, &op(0, 0, 0)).expect("no fault");
        assert_eq!(zf(&core), writable, "{selector:x}");
    }
}

#[test]
fn arpl_raises_rpl() {
    let mut core = long_core(USER_CODE32);
    set_reg(&mut core, gpr::RAX, 0x11);
    set_reg(&mut core, gpr::RBX, 0x03);
    run(&mut core, Code::Arpl_rm16_r16, &op(0, 3, 0)).expect("protected mode");
    assert_eq!(core.cpu.data.gpr[gpr::RAX], 0x13);
    assert!(core.cpu.data.status.has(Status::ZF));
    run(&mut core, Code::Arpl_rm16_r16, &op(0, 3, 0)).expect("protected mode");
    assert!(!core.cpu.data.status.has(Status::ZF));
}
