//! Control registers, MSRs, RFLAGS, odds and ends.

use super::*;
use crate::state::{Activity, Shadow, rflags};
use crate::system::msr::REGISTERS;

fn write_cr(core: &mut Core, number: u8, value: u64) -> Result<(), Fault> {
    core.cpu.data.gpr[gpr::RAX] = value;
    run(core, Code::Mov_cr_r64, &op(0, number, 0))
}

fn write_msr(core: &mut Core, number: u32, value: u64) -> Result<(), Fault> {
    core.cpu.data.gpr[gpr::RCX] = u64::from(number);
    core.set_edx_eax(value);
    run(core, Code::Wrmsr, &op(0, 0, 0))
}

fn read_msr(core: &mut Core, number: u32) -> Result<u64, Fault> {
    core.cpu.data.gpr[gpr::RCX] = u64::from(number);
    run(core, Code::Rdmsr, &op(0, 0, 0))?;
    Ok(core.edx_eax())
}

#[test]
fn long_mode_begins_with_paging() {
    let mut core = bare_core();
    core.write_cr0(cr0::PE | cr0::ET).expect("protected mode");
    assert!(core.mode.protected);
    write_msr(&mut core, 0xc000_0080, efer::LME | efer::NXE).expect("EFER");
    assert_eq!(core.cpu.efer & efer::LMA, 0);
    let on = cr0::PE | cr0::PG;
    assert_eq!(core.write_cr0(on), Err(Fault::gp(0)), "PAE is off");
    core.write_cr4(cr4::PAE).expect("PAE");
    core.write_cr0(on).expect("all is set");
    assert_ne!(core.cpu.efer & efer::LMA, 0);
    assert_eq!((core.mode.long, core.mode.bits), (true, 16), "until a far jump to 64-bit code");
    assert_eq!(write_msr(&mut core, 0xc000_0080, efer::NXE), Err(Fault::gp(0)), "LME under paging");
    core.write_cr0(cr0::PE).expect("compatibility mode may leave");
    assert_eq!(core.cpu.efer & efer::LMA, 0);
}

#[test]
fn cr0_refusals() {
    let mut core = long_core(KERNEL_CODE);
    let now = core.cpu.cr0;
    for bad in [1 << 32 | now, now & !cr0::PE, now | cr0::NW, now & !cr0::PG] {
        assert_eq!(write_cr(&mut core, 0, bad), Err(Fault::gp(0)), "{bad:x}");
    }
    write_cr(&mut core, 0, now & !cr0::ET | 1 << 10 | cr0::TS)
        .expect("ET is fixed, reserved bits are dropped");
    assert_eq!(core.cpu.cr0, now | cr0::TS);
    assert_eq!((core.mode.sse_fault, core.mode.x87_fault), (7, 7));
    run(&mut core, Code::Clts, &op(0, 0, 0)).expect("ring 0");
    assert_eq!(core.mode.sse_fault, 0);
}

#[test]
fn cr3_and_cr4_refusals() {
    let mut core = long_core(KERNEL_CODE);
    let now = core.cpu.cr4;
    for bad in [now & !cr4::PAE, now | 1 << 12, now | 1 << 13, now | 1 << 22, now | 1 << 32] {
        assert_eq!(write_cr(&mut core, 4, bad), Err(Fault::gp(0)), "{bad:x}");
    }
    assert_eq!(write_cr(&mut core, 3, 1 << 46), Err(Fault::gp(0)));
    assert_eq!(write_cr(&mut core, 3, 1 << 63 | PML4), Err(Fault::gp(0)), "no PCIDs yet");
    write_cr(&mut core, 3, PML4 | 8).expect("PCD");
    assert_eq!(write_cr(&mut core, 4, now | cr4::PCIDE), Err(Fault::gp(0)), "CR3 has low bits");
    write_cr(&mut core, 3, PML4).expect("aligned");
    write_cr(&mut core, 4, now | cr4::PCIDE | cr4::SMEP | cr4::SMAP).expect("offered");
    write_cr(&mut core, 3, 1 << 63 | PML4 | 5).expect("a PCID");
    assert_eq!(core.cpu.cr3, PML4 | 5);
    assert_eq!(write_cr(&mut core, 1, 0), Err(Fault::ud()));
    let mut core = long_core(USER_CODE);
    assert_eq!(write_cr(&mut core, 3, PML4), Err(Fault::gp(0)));
}

#[test]
fn xcr0_needs_its_parts() {
    let mut core = long_core(KERNEL_CODE);
    assert_eq!(run(&mut core, Code::Xgetbv, &op(0, 0, 0)), Err(Fault::ud()));
    core.write_cr4(core.cpu.cr4 | cr4::OSXSAVE).expect("offered");
    core.cpu.data.gpr[gpr::RCX] = 0;
    for (value, expected) in [(0, false), (5, false), (0xf, false), (7, true), (3, true), (1, true)] {
        core.set_edx_eax(value);
        assert_eq!(run(&mut core, Code::Xsetbv, &op(0, 0, 0)).is_ok(), expected, "{value}");
    }
    core.write_xcr0(7).expect("all");
    assert_eq!(core.mode.avx_fault, 0);
    run(&mut core, Code::Xgetbv, &op(0, 0, 0)).expect("XCR0");
    assert_eq!(core.edx_eax(), 7);
}

#[test]
fn msrs_keep_what_is_valid() {
    let cases = [
        (0xc000_0082, 0xffff_ffff_8000_0000, Ok(())),
        (0xc000_0082, 1 << 47, Err(Fault::gp(0))),
        (0xc000_0084, 0x4_7700, Ok(())),
        (0xc000_0084, 1 << 32, Err(Fault::gp(0))),
        (0xc000_0101, 0xffff_8880_0000_0000, Ok(())),
        (0xc000_0102, 1 << 63, Err(Fault::gp(0))),
        (0x277, 0x0407_0506_0007_0106, Ok(())),
        (0x277, 2, Err(Fault::gp(0))),
        (0x2ff, 0xc06, Ok(())),
        (0x2ff, 0x100, Err(Fault::gp(0))),
        (0x200, 1 << 46, Err(Fault::gp(0))),
        (0x201, 0x3fff_c000_0800, Ok(())),
        (0x26f, 0x0606_0606_0606_0606, Ok(())),
        (0x251, 0, Err(Fault::gp(0))),
        (0x48, 7, Ok(())),
        (0x48, 8, Err(Fault::gp(0))),
        (0xfe, 0, Err(Fault::gp(0))),
        (0xda0, 0, Err(Fault::gp(0))),
        (0xc000_0080, efer::LME | efer::SCE | efer::NXE | efer::LMA, Ok(())),
        (0xc000_0080, efer::SCE, Err(Fault::gp(0))),
        (0xc000_0080, 1 << 12, Err(Fault::gp(0))),
    ];
    let mut core = long_core(KERNEL_CODE);
    for (number, value, expected) in cases {
        assert_eq!(write_msr(&mut core, number, value), expected, "{number:x} {value:x}");
        if expected.is_ok() {
            assert_eq!(read_msr(&mut core, number), Ok(value), "{number:x}");
        }
    }
    assert_eq!(core.cpu.ea_base[seg::GS], 0xffff_8880_0000_0000);
    assert_eq!(read_msr(&mut core, 0x1234_5678), Err(Fault::gp(0)));
    assert_eq!(read_msr(&mut core, 0x10a), Ok(0x4000_0000_0d10_e17b));
    let mut core = long_core(USER_CODE);
    assert_eq!(read_msr(&mut core, 0x10), Err(Fault::gp(0)));
    assert!(REGISTERS.iter().any(|register| register.name == "IA32_EFER"));
}

#[test]
fn tsc_counts_two_a_nanosecond() {
    let mut core = long_core(KERNEL_CODE);
    core.cpu.icount = 1000;
    core.op_index = 5;
    core.cpu.msr.tsc_aux = 0x77;
    run(&mut core, Code::Rdtscp, &op(0, 0, 0)).expect("offered");
    assert_eq!((core.edx_eax(), core.cpu.data.gpr[gpr::RCX]), (2010, 0x77));
    let mut core = long_core(USER_CODE);
    core.cpu.cr4 |= cr4::TSD;
    assert_eq!(run(&mut core, Code::Rdtsc, &op(0, 0, 0)), Err(Fault::gp(0)));
}

#[test]
fn interrupt_flag_and_its_shadow() {
    let mut core = long_core(KERNEL_CODE);
    run(&mut core, Code::Sti, &op(0, 0, 0)).expect("ring 0");
    assert_eq!(core.cpu.shadow, Shadow::Sti);
    core.begin_step().expect("no breakpoint");
    assert_eq!(core.cpu.shadow, Shadow::None);
    run(&mut core, Code::Sti, &op(0, 0, 0)).expect("ring 0");
    assert_eq!(core.cpu.shadow, Shadow::None, "IF was set");
    run(&mut core, Code::Pushfq, &op(0, 0, 0)).expect("pushed");
    run(&mut core, Code::Cli, &op(0, 0, 0)).expect("ring 0");
    assert_eq!(core.rflags() & rflags::IF, 0);
    core.leave_block = false;
    run(&mut core, Code::Popfq, &op(0, 0, 0)).expect("popped");
    assert_ne!(core.rflags() & rflags::IF, 0);
    assert!(core.leave_block, "an interrupt may be due");
    let mut core = long_core(USER_CODE);
    assert_eq!(run(&mut core, Code::Cli, &op(0, 0, 0)), Err(Fault::gp(0)));
    core.cpu.eflags |= rflags::IOPL;
    run(&mut core, Code::Cli, &op(0, 0, 0)).expect("IOPL 3");
    assert_eq!(run(&mut core, Code::Stac, &op(0, 0, 0)), Err(Fault::ud()));
    assert_eq!(run(&mut core, Code::Hlt, &op(0, 0, 0)), Err(Fault::gp(0)));
}

#[test]
fn smap_follows_ac() {
    let mut core = long_core(KERNEL_CODE);
    core.write_cr4(core.cpu.cr4 | cr4::SMAP).expect("offered");
    assert!(core.read::<u8>(0x5_0000).is_err(), "all pages are user pages here");
    assert!(core.read_system::<u8>(0x5_0000).is_err());
    run(&mut core, Code::Stac, &op(0, 0, 0)).expect("ring 0");
    core.read::<u8>(0x5_0000).expect("AC is set");
    assert!(core.read_system::<u8>(0x5_0000).is_err(), "implicit accesses ignore AC");
    run(&mut core, Code::Clac, &op(0, 0, 0)).expect("ring 0");
    assert!(core.read::<u8>(0x5_0000).is_err());
}

#[test]
fn bases_swap_and_are_checked() {
    let mut core = long_core(KERNEL_CODE);
    assert_eq!(run(&mut core, Code::Rdgsbase_r64, &op(0, 0, 3)), Err(Fault::ud()), "CR4.FSGSBASE is off");
    core.write_cr4(core.cpu.cr4 | cr4::FSGSBASE).expect("offered");
    core.cpu.data.gpr[gpr::RBX] = 1 << 47;
    assert_eq!(run(&mut core, Code::Wrgsbase_r64, &op(0, 0, 3)), Err(Fault::gp(0)));
    core.cpu.data.gpr[gpr::RBX] = 0x1_2345_6789;
    run(&mut core, Code::Wrgsbase_r32, &op(0, 0, 3)).expect("canonical");
    core.cpu.msr.kernel_gs_base = 0xffff_8000_0000_0000;
    run(&mut core, Code::Swapgs, &op(0, 0, 0)).expect("ring 0");
    assert_eq!(core.cpu.ea_base[seg::GS], 0xffff_8000_0000_0000);
    assert_eq!(core.cpu.msr.kernel_gs_base, 0x2345_6789);
    run(&mut core, Code::Hlt, &op(0, 0, 0)).expect("ring 0");
    assert_eq!(core.cpu.activity, Activity::Halted);
}

#[test]
fn table_registers_and_umip() {
    let mut core = long_core(KERNEL_CODE);
    poke(&mut core, 0x5_0000, 0x1ffu16);
    poke(&mut core, 0x5_0002, 0xffff_8000_0000_1000u64);
    let at = |address: u64| Op { disp: address as i64, flags: crate::isa::opflag::MEMORY, ..op(0, 0, 0) };
    run(&mut core, Code::Lidt_m1664, &at(0x5_0000)).expect("ring 0");
    assert_eq!(core.cpu.idtr, TableReg { base: 0xffff_8000_0000_1000, limit: 0x1ff });
    run(&mut core, Code::Sidt_m1664, &at(0x5_0010)).expect("ring 0");
    assert_eq!(core.mem.ram.get::<u64>(0x5_0012), 0xffff_8000_0000_1000);
    poke(&mut core, 0x5_0002, 1u64 << 47);
    assert_eq!(run(&mut core, Code::Lgdt_m1664, &at(0x5_0000)), Err(Fault::gp(0)));
    let mut core = long_core(USER_CODE);
    run(&mut core, Code::Smsw_r32m16, &op(0, 0, 3)).expect("UMIP is off");
    assert_eq!(core.cpu.data.gpr[gpr::RBX], core.cpu.cr0);
    core.cpu.cr4 |= cr4::UMIP;
    assert_eq!(run(&mut core, Code::Smsw_r32m16, &op(0, 0, 3)), Err(Fault::gp(0)));
    assert_eq!(run(&mut core, Code::Sgdt_m1664, &at(0x5_0000)), Err(Fault::gp(0)));
}

#[test]
fn invpcid_and_invlpg() {
    let mut core = long_core(KERNEL_CODE);
    let at = Op { disp: 0x5_0000, reg: 3, flags: crate::isa::opflag::MEMORY, ..op(0, 0, 0) };
    for (kind, pcid, address, good) in [
        (0u64, 0u64, 0x5_0000u64, true),
        (0, 0, 1 << 47, false),
        (1, 1, 0, false),
        (2, 0, 0, true),
        (2, 1 << 12, 0, false),
        (3, 0, 1 << 47, true),
        (4, 0, 0, false),
    ] {
        poke(&mut core, 0x5_0000, pcid);
        poke(&mut core, 0x5_0008, address);
        core.cpu.data.gpr[gpr::RBX] = kind;
        assert_eq!(run(&mut core, Code::Invpcid_r64_m128, &at).is_ok(), good, "{kind} {pcid:x} {address:x}");
    }
    core.read::<u8>(0x5_0000).expect("mapped");
    assert_ne!(core.cpu.tlb.entry(0x5_0000), 0);
    run(&mut core, Code::Invlpg_m, &at).expect("ring 0");
    assert_eq!(core.cpu.tlb.entry(0x5_0000), 0);
}

#[test]
fn apic_is_reached_through_msrs_and_cr8() {
    let mut core = long_core(KERNEL_CODE);
    assert_eq!(read_msr(&mut core, 0x1b), Ok(0xfee0_0900));
    assert_eq!(read_msr(&mut core, 0x802), Err(Fault::gp(0)), "not in x2APIC mode");
    write_msr(&mut core, 0x1b, 0xfee0_0d00).expect("x2APIC mode");
    assert_eq!(read_msr(&mut core, 0x802), Ok(0));
    write_cr(&mut core, 8, 9).expect("a priority");
    assert_eq!(read_msr(&mut core, 0x808), Ok(0x90));
    run(&mut core, Code::Mov_r64_cr, &op(0, 8, 3)).expect("ring 0");
    assert_eq!(core.cpu.data.gpr[gpr::RBX], 9);
    assert_eq!(write_cr(&mut core, 8, 16), Err(Fault::gp(0)));
    write_msr(&mut core, 0x10, 5000).expect("TSC");
    assert_eq!((read_msr(&mut core, 0x10), read_msr(&mut core, 0x3b)), (Ok(5000), Ok(5000)));
    write_msr(&mut core, 0x3b, 0).expect("TSC_ADJUST");
    assert_eq!(core.cpu.msr.tsc_offset, 0);
}
