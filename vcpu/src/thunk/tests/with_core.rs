//! Whole routines on a CPU with paging: faults, alignment, SIMD exceptions, gathers, save areas.

use super::instruction;
use crate::chipset::{Chipset, ChipsetConfig};
use crate::core::{Core, Mode};
use crate::fault::{Fault, vector};
use crate::interp::decode::build;
use crate::mem::Memory;
use crate::mem::access::FastMasks;
use crate::mem::ram::Ram;
use crate::mem::tlb::Tlb;
use crate::run::vtime::VirtualClock;
use crate::state::regs::gpr;
use crate::state::{Cpu, cr0, cr4, efer, seg};
use crate::system::cpuid::Model;
use crate::system::entropy::Entropy;
use crate::thunk::Thunks;
use replay::machine::CpuChoice;
use std::sync::Arc;

/// Pages of the test's address space: all of the first 2 MiB maps to itself but these.
const ABSENT: u64 = 0x20_000;
const READ_ONLY: u64 = 0x30_000;
const DATA: u64 = 0x40_000;

/// A CPU in 64-bit mode with SSE, AVX and x87 enabled.
fn core() -> Core {
    let choice = CpuChoice { model: "x86-64-v3".into(), features: Vec::new() };
    let model = Model::new(&choice).expect("the default model");
    let mut core = Core {
        cpu: Cpu::power_on(Arc::new(model), Box::new(Tlb::new().expect("host memory")), 0, 1),
        mem: Memory { ram: Ram::new(16 << 20).expect("host memory") },
        chipset: Chipset::new(&ChipsetConfig::default()),
        virtio: Default::default(),
        thunks: Thunks::new().expect("host memory"),
        entropy: Entropy::new([0; 32]),
        fault_address: 0,
        leave_block: false,
        service: false,
        op_index: 0,
        clock: VirtualClock::new(0),
        fast: FastMasks::default(),
        watched: false,
        probe: Default::default(),
        jumped: false,
        trap_flag: false,
        a20_mask: u64::MAX,
        delivered_icount: None,
        mode: Mode::default(),
    };
    map(&mut core);
    let cpu = &mut core.cpu;
    cpu.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::MP;
    cpu.cr3 = 0x1000;
    cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    cpu.efer = efer::LME | efer::LMA;
    cpu.xcr0 = 7;
    cpu.segments[seg::CS].attributes = 0xa09b;
    cpu.segments[seg::CS].base = 0;
    core.mode_changed();
    assert_eq!(core.mode.bits, 64);
    run(&mut core, &[0xdb, 0xe3]).expect("fninit");
    core
}

fn map(core: &mut Core) {
    let mut entry = |at: u64, value: u64| {
        assert!(core.mem.ram.write_bytes(at, &value.to_le_bytes()));
    };
    for (table, next) in [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003)] {
        entry(table, next);
    }
    for page in (0..0x20_0000u64).step_by(0x1000) {
        let rights = match page {
            ABSENT => 0,
            READ_ONLY => 1,
            _ => 3,
        };
        entry(0x4000 + page / 0x1000 * 8, page | rights);
    }
}

fn run(core: &mut Core, bytes: &[u8]) -> Result<(), Fault> {
    let op = build(core, &instruction(bytes), 64);
    (op.run)(core, &op)
}

fn put(core: &mut Core, at: u64, words: &[u64]) {
    for (i, word) in words.iter().enumerate() {
        core.write(at + 8 * i as u64, *word).expect("mapped");
    }
}

fn get(core: &mut Core, at: u64) -> u64 {
    core.read(at).expect("mapped")
}

const RAX: usize = gpr::RAX;
const PADDQ_XMM1_RAX: &[u8] = &[0x66, 0x0f, 0xd4, 0x08];
const MOVUPS_RAX_XMM1: &[u8] = &[0x0f, 0x11, 0x08];
const VPADDQ_XMM1_RAX: &[u8] = &[0xc5, 0xf1, 0xd4, 0x08];

#[test]
fn loads_and_stores_reach_memory() {
    let mut core = core();
    put(&mut core, DATA, &[7, 8]);
    core.cpu.data.gpr[RAX] = DATA;
    core.cpu.data.ymm[1] = [1, 2, 3, 4];
    run(&mut core, PADDQ_XMM1_RAX).expect("mapped");
    assert_eq!(core.cpu.data.ymm[1], [8, 10, 3, 4]);
    core.cpu.data.gpr[RAX] = DATA + 0xffc; // Crosses a page.
    run(&mut core, MOVUPS_RAX_XMM1).expect("mapped");
    assert_eq!(get(&mut core, DATA + 0xffc), 8);
    assert_eq!(get(&mut core, DATA + 0x1004), 10);
    run(&mut core, VPADDQ_XMM1_RAX).expect("mapped");
    assert_eq!(core.cpu.data.ymm[1], [16, 20, 0, 0]);
}

#[test]
fn misaligned_legacy_operands_raise_gp() {
    let mut core = core();
    core.cpu.data.gpr[RAX] = DATA + 8;
    assert_eq!(run(&mut core, PADDQ_XMM1_RAX), Err(Fault::gp(0)));
    assert_eq!(run(&mut core, VPADDQ_XMM1_RAX), Ok(()));
    assert_eq!(run(&mut core, &[0x0f, 0x28, 0x08]), Err(Fault::gp(0))); // movaps xmm1, [rax]
    assert_eq!(run(&mut core, &[0xc5, 0xfc, 0x29, 0x08]), Err(Fault::gp(0))); // vmovaps [rax], ymm1
    assert_eq!(run(&mut core, &[0xf2, 0x0f, 0xf0, 0x08]), Ok(())); // lddqu xmm1, [rax]
    assert_eq!(run(&mut core, &[0x66, 0x0f, 0x3a, 0x63, 0x08, 0]), Ok(())); // pcmpistri xmm1, [rax], 0
}

#[test]
fn page_faults_leave_registers_and_memory_alone() {
    let mut core = core();
    core.cpu.data.gpr[RAX] = ABSENT - 8;
    core.cpu.data.ymm[1] = [1, 2, 3, 4];
    put(&mut core, ABSENT - 8, &[5]);
    assert_eq!(run(&mut core, VPADDQ_XMM1_RAX), Err(Fault::with_code(vector::PF, 0)));
    assert_eq!((core.cpu.data.ymm[1], core.fault_address), ([1, 2, 3, 4], ABSENT));
    assert_eq!(run(&mut core, MOVUPS_RAX_XMM1), Err(Fault::with_code(vector::PF, 2)));
    assert_eq!(get(&mut core, ABSENT - 8), 5);
    core.cpu.data.gpr[RAX] = READ_ONLY;
    let before = core.cpu.data.fx.0;
    run(&mut core, &[0xd9, 0xe8]).expect("fld1");
    let pushed = core.cpu.data.fx.0;
    assert_ne!(before, pushed);
    assert_eq!(run(&mut core, &[0xdd, 0x18]), Err(Fault::with_code(vector::PF, 3))); // fstp qword [rax]
    assert_eq!(core.cpu.data.fx.0, pushed);
}

#[test]
fn control_registers_forbid_instructions() {
    let mut core = core();
    let codes: [(&[u8], u8, u8, u8); 4] = [
        // Bytes; vector with TS, with EM, without OSFXSR (0: runs).
        (&[0x66, 0x0f, 0xef, 0xc0], vector::NM, vector::UD, vector::UD), // pxor xmm0, xmm0
        (&[0x0f, 0xef, 0xc0], vector::NM, vector::UD, 0),                // pxor mm0, mm0
        (&[0xd9, 0xe8], vector::NM, vector::NM, 0),                      // fld1
        (&[0xc4, 0xe2, 0x78, 0xf2, 0xc0], 0, 0, 0),                      // andn eax, eax, eax
    ];
    for (bytes, task_switched, emulated, no_fxsr) in codes {
        let mut check = |cr0: u64, cr4: u64, expected: u8| {
            let (old0, old4) = (core.cpu.cr0, core.cpu.cr4);
            core.cpu.cr0 |= cr0;
            core.cpu.cr4 &= !cr4;
            core.mode_changed();
            let expected = if expected == 0 { Ok(()) } else { Err(Fault::new(expected)) };
            assert_eq!(run(&mut core, bytes), expected, "{bytes:x?} with CR0 {cr0:x}, CR4 without {cr4:x}");
            (core.cpu.cr0, core.cpu.cr4) = (old0, old4);
            core.mode_changed();
        };
        check(0, 0, 0);
        check(cr0::TS, 0, task_switched);
        check(cr0::EM, 0, emulated);
        check(0, cr4::OSFXSR, no_fxsr);
    }
}

const DIVSD_XMM1_XMM2: &[u8] = &[0xf2, 0x0f, 0x5e, 0xca];
const MULSD_XMM1_XMM2: &[u8] = &[0xf2, 0x0f, 0x59, 0xca];

#[test]
fn unmasked_simd_errors_raise_xm() {
    let mut core = core();
    core.cpu.data.ymm[1][0] = 1f64.to_bits();
    core.cpu.data.mxcsr = 0x1f80 & !(4 << 7);
    assert_eq!(run(&mut core, DIVSD_XMM1_XMM2), Err(Fault::new(vector::XM)));
    assert_eq!((core.cpu.data.ymm[1][0], core.cpu.data.mxcsr & 0x3f), (1f64.to_bits(), 4));
    core.cpu.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(run(&mut core, DIVSD_XMM1_XMM2), Err(Fault::ud()));
    // Another unmasked error does not matter; flags stick.
    core.cpu.data.mxcsr = (0x1f80 & !(1 << 7)) | 0x20;
    assert_eq!(run(&mut core, DIVSD_XMM1_XMM2), Ok(()));
    assert_eq!(core.cpu.data.ymm[1][0], f64::INFINITY.to_bits());
    assert_eq!(core.cpu.data.mxcsr, (0x1f80 & !(1 << 7)) | 0x24);
}

#[test]
fn unmasked_underflow_counts_exact_results() {
    let mut core = core();
    let tiny = [f64::MIN_POSITIVE.to_bits(), 0, 0, 0];
    (core.cpu.data.ymm[1], core.cpu.data.ymm[2]) = (tiny, [0.5f64.to_bits(), 0, 0, 0]);
    run(&mut core, MULSD_XMM1_XMM2).expect("masked");
    assert_eq!(core.cpu.data.mxcsr, 0x1f80, "an exact denormal result raises nothing when masked");
    core.cpu.data.ymm[1] = tiny;
    core.cpu.data.mxcsr = 0x1f80 & !(16 << 7);
    assert_eq!(run(&mut core, MULSD_XMM1_XMM2), Err(Fault::new(vector::XM)));
    assert_eq!(core.cpu.data.mxcsr & 0x3f, 16);
    assert_eq!(core.cpu.data.ymm[1], tiny);
}

#[test]
fn x87_errors_wait_for_the_next_instruction() {
    let mut core = core();
    core.cpu.data.gpr[RAX] = DATA;
    put(&mut core, DATA, &[0x0340, 55]);
    run(&mut core, &[0xd9, 0x28]).expect("fldcw [rax]: all unmasked");
    core.cpu.data.gpr[RAX] = DATA + 8;
    run(&mut core, &[0xdd, 0x18]).expect("fstp qword [rax]: stack underflow, held back");
    assert_eq!(get(&mut core, DATA + 8), 55);
    assert_eq!(run(&mut core, &[0xd9, 0xe8]), Err(Fault::new(vector::MF)));
    assert_eq!(run(&mut core, &[0x9b]), Err(Fault::new(vector::MF)));
    run(&mut core, &[0xdf, 0xe0]).expect("fnstsw ax does not wait");
    assert_eq!(core.cpu.data.gpr[RAX] & 0x80ff, 0x80c1);
    // With CR0.NE clear nobody hears of the error.
    core.cpu.cr0 &= !cr0::NE;
    run(&mut core, &[0xd9, 0xe8]).expect("fld1");
    run(&mut core, &[0xd9, 0xfe]).expect("fsin");
    run(&mut core, &[0x0f, 0x6e, 0xc0]).expect("movd mm0, eax");
    assert_ne!(core.cpu.data.fx.0[2] & 0x80, 0);
    core.cpu.cr0 |= cr0::NE;
    run(&mut core, &[0xdb, 0xe2]).expect("fnclex");
    run(&mut core, &[0xd9, 0xe8]).expect("fld1");
}

#[test]
fn gathers_keep_what_they_got_before_a_fault() {
    let mut core = core();
    put(&mut core, DATA, &[0x1111, 0x2222, 0x3333, 0x4444]);
    core.cpu.data.gpr[gpr::RBX] = DATA;
    core.cpu.data.ymm[1] = [9; 4];
    core.cpu.data.ymm[2] = [0, 8, ABSENT.wrapping_sub(DATA), 24];
    core.cpu.data.ymm[3] = [u64::MAX, 0, 1 << 63, u64::MAX];
    const VPGATHERQQ: &[u8] = &[0xc4, 0xe2, 0xe5, 0x91, 0x0c, 0x13]; // ymm1, [rbx+ymm2], ymm3
    assert_eq!(run(&mut core, VPGATHERQQ), Err(Fault::with_code(vector::PF, 0)));
    assert_eq!(core.cpu.data.ymm[1], [0x1111, 9, 9, 9]);
    assert_eq!(core.cpu.data.ymm[3], [0, 0, u64::MAX, u64::MAX]);
    core.cpu.data.ymm[2][2] = 16;
    assert_eq!(run(&mut core, VPGATHERQQ), Ok(()));
    assert_eq!(core.cpu.data.ymm[1], [0x1111, 9, 0x3333, 0x4444]);
    assert_eq!(core.cpu.data.ymm[3], [0; 4]);
    assert_eq!(core.cpu.data.gpr[18], 0);
    // Equal registers: vpgatherqq ymm1, [rbx+ymm2], ymm2.
    assert_eq!(run(&mut core, &[0xc4, 0xe2, 0xed, 0x91, 0x0c, 0x13]), Err(Fault::ud()));
}

#[test]
fn masked_elements_do_not_fault() {
    let mut core = core();
    core.cpu.data.gpr[RAX] = ABSENT - 8;
    put(&mut core, ABSENT - 8, &[0x0000_0002_0000_0001]);
    core.cpu.data.ymm[2] = [u64::MAX, 0, 0, 0];
    run(&mut core, &[0xc4, 0xe2, 0x6d, 0x2c, 0x08]).expect("vmaskmovps ymm1, ymm2, [rax]");
    assert_eq!(core.cpu.data.ymm[1], [0x0000_0002_0000_0001, 0, 0, 0]);
    core.cpu.data.ymm[2][1] = u64::MAX;
    let stored = run(&mut core, &[0xc4, 0xe2, 0x6d, 0x2e, 0x10]); // vmaskmovps [rax], ymm2, ymm2
    assert_eq!(stored, Err(Fault::with_code(vector::PF, 2)));
    assert_eq!(get(&mut core, ABSENT - 8), 0x0000_0002_0000_0001);
    core.cpu.data.gpr[gpr::RDI] = ABSENT - 4;
    core.cpu.data.ymm[3] = [0x0807_0605_0403_0201; 4];
    core.cpu.data.ymm[4] = [0x0000_0000_8000_80ff, 0, 0, 0];
    run(&mut core, &[0x66, 0x0f, 0xf7, 0xdc]).expect("maskmovdqu xmm3, xmm4");
    assert_eq!(get(&mut core, ABSENT - 8), 0x0400_0201_0000_0001);
}

#[test]
fn saved_areas_come_back() {
    let mut core = core();
    run(&mut core, &[0xd9, 0xeb]).expect("fldpi");
    for i in 0..16u64 {
        core.cpu.data.ymm[i as usize] = [i, i + 100, i + 200, i + 300];
    }
    let before = core.cpu.data.clone();
    let areas: [(&[u8], &[u8], bool); 4] = [
        (&[0x48, 0x0f, 0xae, 0x00], &[0x48, 0x0f, 0xae, 0x08], false), // fxsave64, fxrstor64
        (&[0x48, 0x0f, 0xae, 0x20], &[0x48, 0x0f, 0xae, 0x28], true),  // xsave64, xrstor64
        (&[0x48, 0x0f, 0xae, 0x30], &[0x48, 0x0f, 0xae, 0x28], true),  // xsaveopt64
        (&[0x0f, 0xae, 0x20], &[0x0f, 0xae, 0x28], true),              // xsave, xrstor
    ];
    for (i, (save, restore, whole)) in areas.into_iter().enumerate() {
        core.cpu.data = before.clone();
        core.cpu.data.gpr[RAX] = DATA + 0x1000 * i as u64 + 0xfc0 * u64::from(whole);
        let (low, high) = (core.cpu.data.gpr[RAX], 0);
        core.cpu.data.gpr[gpr::RDX] = high;
        // XCR0 bits to save are those of EAX: the address has the low three clear, so set them apart.
        core.cpu.data.gpr[gpr::RBX] = low;
        let with_rbx = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            *bytes.last_mut().expect("not empty") |= 3;
            bytes
        };
        core.cpu.data.gpr[RAX] = 7;
        run(&mut core, &with_rbx(save)).expect("saved");
        core.cpu.data.ymm = [[!0; 4]; 16];
        run(&mut core, &[0xdb, 0xe3]).expect("fninit");
        run(&mut core, &with_rbx(restore)).expect("restored");
        for j in 0..16 {
            assert_eq!(core.cpu.data.ymm[j][..2], before.ymm[j][..2], "area {i}");
            assert_eq!(core.cpu.data.ymm[j] == before.ymm[j], whole, "area {i}");
        }
        assert_eq!(core.cpu.data.fx.0, before.fx.0, "area {i}");
        core.cpu.data.gpr[gpr::RBX] += 8;
        assert_eq!(run(&mut core, &with_rbx(save)), Err(Fault::gp(0)));
    }
}

#[test]
fn components_in_their_initial_state_are_not_saved() {
    let mut core = core();
    core.cpu.data.ymm = [[0; 4]; 16];
    core.cpu.data.ymm[3][1] = 1;
    core.cpu.data.gpr[RAX] = 7;
    core.cpu.data.gpr[gpr::RDX] = 0;
    core.cpu.data.gpr[gpr::RBX] = DATA;
    put(&mut core, DATA, &[0x5555; 104]);
    put(&mut core, DATA + 512, &[0; 8]);
    run(&mut core, &[0x48, 0x0f, 0xae, 0x33]).expect("xsaveopt64 [rbx]");
    assert_eq!(get(&mut core, DATA + 512), 2, "XSTATE_BV");
    assert_eq!(get(&mut core, DATA), 0x5555);
    assert_eq!(get(&mut core, DATA + 24), 0xffff_0000_1f80);
    assert_eq!(get(&mut core, DATA + 160 + 48 + 8), 1);
    assert_eq!(get(&mut core, DATA + 576), 0x5555);
    core.cpu.data.ymm = [[!0; 4]; 16];
    run(&mut core, &[0x48, 0x0f, 0xae, 0x2b]).expect("xrstor64 [rbx]");
    assert_eq!(core.cpu.data.ymm[3], [0, 1, 0, 0]);
    assert_eq!(core.cpu.data.ymm[4], [0; 4]);
    put(&mut core, DATA + 512, &[8]);
    assert_eq!(run(&mut core, &[0x48, 0x0f, 0xae, 0x2b]), Err(Fault::gp(0)));
    put(&mut core, DATA + 512, &[2]);
    put(&mut core, DATA + 24, &[0x1_0000]);
    assert_eq!(run(&mut core, &[0x48, 0x0f, 0xae, 0x2b]), Err(Fault::gp(0)));
}
