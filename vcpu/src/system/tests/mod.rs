//! System behaviour on a small machine in memory: descriptor tables, page tables, stacks; no decoder, the routines
//! are called with the operands a decoder would give them.

mod descriptors;
mod events;
mod registers;
mod transfers;

use super::cpuid::Model;
use super::entropy::Entropy;
use crate::chipset::{Chipset, ChipsetConfig};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::Op;
use crate::mem::Memory;
use crate::mem::ram::Ram;
use crate::mem::tlb::Tlb;
use crate::run::vtime::VirtualClock;
use crate::state::regs::gpr;
use crate::state::{Cpu, Segment, TableReg, cr0, cr4, efer, seg};
use crate::thunk::Thunks;
use iced_x86::Code;
use std::sync::Arc;

const PML4: u64 = 0x1000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const KERNEL_STACK: u64 = 0x1_0000;
const USER_STACK: u64 = 0x2_0008;
const IST1: u64 = 0x3_0000;
/// Where handlers would be: this plus 16 times the vector.
const HANDLERS: u64 = 0x7000;
/// End of mapped memory.
const MAPPED_END: u64 = 0x100_0000;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_CODE32: u16 = 0x1b;
const USER_DATA: u16 = 0x23;
const USER_CODE: u16 = 0x2b;
const TSS_SELECTOR: u16 = 0x30;
const CALL_GATE: u16 = 0x40;
const CONFORMING: u16 = 0x50;
const LDT_SELECTOR: u16 = 0x58;
const ABSENT_DATA: u16 = 0x68;
const KERNEL_CODE32: u16 = 0x70;
const GDT_LIMIT: u16 = 0x77;

fn bare_core() -> Core {
    let model = Arc::new(Model::named("x86-64-v3").expect("the default"));
    let tlb = Box::new(Tlb::new().expect("address space"));
    let ram_bytes = 32 << 20;
    let config = ChipsetConfig {
        cpu_count: 1,
        ram_bytes,
        rtc_base: 0,
        host_offset_s: None,
        uuid: [0; 16],
        uart_count: 0,
        debug_exit_port: None,
        debug_console_port: None,
        functions: Vec::new(),
    };
    let mut core = Core {
        cpu: Cpu::power_on(model, tlb, 0, 1),
        mem: Memory { ram: Ram::new(ram_bytes).expect("memory") },
        chipset: Chipset::new(&config),
        virtio: Default::default(),
        thunks: Thunks::new().expect("memory"),
        fault_address: 0,
        leave_block: false,
        service: false,
        op_index: 0,
        clock: VirtualClock::new(0),
        fast: Default::default(),
        watched: false,
        probe: Default::default(),
        jumped: false,
        a20_mask: u64::MAX,
        delivered_icount: None,
        entropy: Entropy::new([0; 32]),
        trap_flag: false,
        mode: Default::default(),
    };
    core.mode_changed();
    core
}

fn poke<T: Copy>(core: &mut Core, address: u64, value: T) {
    core.mem.ram.set(address, value);
}

fn peek(core: &Core, address: u64) -> u64 {
    core.mem.ram.get(address)
}

fn fill_gdt(core: &mut Core) {
    let tss_type = if core.cpu.efer & efer::LMA != 0 { 0x8900_0000_0067 } else { 0x8900_0000_00ff };
    let descriptors: [u64; 15] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        tss_type | TSS << 16,
        0,
        // Call gate of DPL 3 to KERNEL_CODE:7000h.
        0x0000_ec00_0008_7000,
        0,
        0x00af_9f00_0000_ffff,
        0x0000_8200_9000_002f,
        0,
        0x00cf_7300_0000_ffff,
        0x00cf_9b00_0000_ffff,
    ];
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        poke(core, GDT + 8 * index as u64, descriptor);
    }
    core.cpu.gdtr = TableReg { base: GDT, limit: GDT_LIMIT };
}

fn set_segment(core: &mut Core, index: usize, selector: u16) {
    let raw = peek(core, GDT + u64::from(selector & !7));
    core.cpu.segments[index] = super::descriptor::Descriptor(raw).segment(selector);
}

/// 64-bit gate; a `selector` of 0 leaves it absent.
fn long_gate(core: &mut Core, vector: u64, selector: u16, access: u64, ist: u64) {
    let offset = HANDLERS + 16 * vector;
    poke(core, IDT + 16 * vector, offset & 0xffff | u64::from(selector) << 16 | ist << 32 | access << 40);
    poke(core, IDT + 16 * vector + 8, 0u64);
}

/// A CPU in 64-bit mode at the ring of `code`, with all of the tables in place.
fn long_core(code: u16) -> Core {
    let mut core = bare_core();
    poke(&mut core, PML4, 0x2007u64);
    poke(&mut core, 0x2000, 0x3007u64);
    for index in 0..MAPPED_END >> 21 {
        poke(&mut core, 0x3000 + 8 * index, index << 21 | 0x87);
    }
    core.cpu.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
    core.cpu.cr3 = PML4;
    core.cpu.cr4 = cr4::PAE | cr4::OSFXSR;
    core.cpu.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
    fill_gdt(&mut core);
    core.cpu.idtr = TableReg { base: IDT, limit: 0xfff };
    for vector in 0..256 {
        long_gate(&mut core, vector, KERNEL_CODE, 0x8e, 0);
    }
    core.cpu.tr = Segment { selector: TSS_SELECTOR, attributes: 0x8b, limit: 0x67, base: TSS };
    poke(&mut core, TSS + 4, KERNEL_STACK);
    poke(&mut core, TSS + 0x24, IST1);
    enter(core, code)
}

/// The CPU about to run `code`, with the stack and data segments of its ring.
fn enter(mut core: Core, code: u16) -> Core {
    let user = code & 3 == 3;
    for index in [seg::ES, seg::SS, seg::DS] {
        set_segment(&mut core, index, if user { USER_DATA } else { KERNEL_DATA });
    }
    set_segment(&mut core, seg::CS, code);
    core.cpu.data.gpr[gpr::RSP] = if user { USER_STACK } else { KERNEL_STACK };
    core.cpu.rip = 0x8000;
    core.mode_changed();
    core
}

/// An op with these operands; the test sets what else it needs.
fn op(imm: u64, reg: u8, rm: u8) -> Op {
    Op {
        run: |_, _| Ok(()),
        imm,
        disp: 0,
        base: gpr::ZERO as u8,
        index: gpr::ZERO as u8,
        scale: 0,
        segment: seg::NONE as u8,
        reg,
        rm,
        vvvv: 0,
        size: 8,
        offset: 0,
        length: 2,
        flags: 0,
        address_size: 8,
        checked_segment: seg::DS as u8,
        aux: 0,
    }
}

/// Runs the routine of a code as the interpreter would, RIP included.
fn run(core: &mut Core, code: Code, op: &Op) -> Result<(), Fault> {
    let row = super::ROWS.iter().flat_map(|rows| rows.iter()).find(|row| row.code == code).expect("a row");
    core.cpu.data.gpr[gpr::BLOCK_RIP] = core.cpu.rip;
    let next = core.next_rip(op);
    let result = (row.run)(core, op);
    if result.is_ok() && row.flags & crate::isa::opflag::SETS_RIP == 0 {
        core.cpu.rip = next;
    }
    result
}

#[test]
fn every_code_has_one_row() {
    let mut codes: Vec<Code> = super::ROWS.iter().flat_map(|rows| rows.iter().map(|row| row.code)).collect();
    let count = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), count);
}
