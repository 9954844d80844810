//! A machine at power-on: CPU and chipset at their reset values, kernel loaded, CPU at its entry point.

use super::error::RunError;
use super::vtime::VirtualClock;
use crate::chipset::{Chipset, ChipsetConfig};
use crate::core::{Core, Mode};
use crate::load::{self, Entry, EntryMode};
use crate::mem::Memory;
use crate::mem::access::FastMasks;
use crate::mem::ram::Ram;
use crate::mem::tlb::Tlb;
use crate::state::regs::gpr;
use crate::state::{Cpu, Segment, TableReg, cr0, cr4, efer, seg};
use crate::system::cpuid::Model;
use crate::system::entropy::Entropy;
use crate::thunk::Thunks;
use crate::virtio::Virtio;
use replay::machine::Machine;
use std::sync::Arc;

/// Builds a machine whose next instruction is the kernel's first.
pub fn build(machine: &Machine) -> Result<Core, RunError> {
    let mut core = bare(machine)?;
    let entry = load::load(core.mem.ram.guest_memory(), machine)?;
    core.mem.ram.note_loaded()?;
    enter(&mut core, &entry);
    Ok(core)
}

/// Builds a machine at power-on with empty RAM: nothing is loaded, the CPU is at its reset vector.
pub fn bare(machine: &Machine) -> Result<Core, RunError> {
    let model = Model::new(&machine.cpu).map_err(|error| RunError::Model(error.to_string()))?;
    model.check_host().map_err(|error| RunError::Model(error.to_string()))?;
    let chipset = ChipsetConfig::of_machine(machine).map_err(|error| RunError::Setup(error.to_string()))?;
    let ram = Ram::new(machine.ram_bytes)?;
    Ok(Core {
        cpu: Cpu::power_on(
            Arc::new(model),
            Box::new(Tlb::new().map_err(RunError::Tlb)?),
            0,
            machine.cpu_count,
        ),
        mem: Memory { ram },
        chipset: Chipset::new(&chipset),
        virtio: Virtio::new(&machine.functions),
        thunks: Thunks::new().map_err(|error| RunError::Thunks(error.to_string()))?,
        entropy: Entropy::new([0; 32]),
        fault_address: 0,
        leave_block: false,
        service: false,
        op_index: 0,
        clock: VirtualClock::new(machine.clock.shift),
        fast: FastMasks::default(),
        watched: false,
        probe: Default::default(),
        jumped: false,
        a20_mask: u64::MAX,
        delivered_icount: None,
        trap_flag: false,
        mode: Mode::default(),
    })
}

/// Resets a running machine: all but the count of instructions, guest time, the random numbers and what the
/// chipset keeps over a reset starts anew.
pub fn reset(core: &mut Core, machine: &Machine) -> Result<(), RunError> {
    let mut fresh = build(machine)?;
    fresh.cpu.icount = core.cpu.icount;
    fresh.clock = core.clock;
    fresh.delivered_icount = core.delivered_icount;
    std::mem::swap(&mut fresh.entropy, &mut core.entropy);
    std::mem::swap(&mut fresh.chipset, &mut core.chipset);
    std::mem::swap(&mut fresh.probe, &mut core.probe);
    fresh.chipset.reset(fresh.clock.at(fresh.cpu.icount));
    fresh.set_a20(fresh.chipset.a20());
    // What is counted since power-on; answers that a replay keeps are found by it.
    for (new, old) in fresh.virtio.functions.iter_mut().zip(&core.virtio.functions) {
        (new.submitted, new.faults) = (old.submitted, old.faults);
    }
    fresh.watchpoints_changed();
    fresh.leave_block = false;
    *core = fresh;
    Ok(())
}

/// Puts the CPU where the loader says, with flat segments and caches on.
fn enter(core: &mut Core, entry: &Entry) {
    let cpu = &mut core.cpu;
    cpu.gdtr = TableReg { base: entry.gdt.base, limit: entry.gdt.limit };
    cpu.idtr = TableReg { base: 0, limit: 0 };
    let flat = |selector, attributes| Segment { selector, attributes, limit: u32::MAX, base: 0 };
    cpu.segments = [flat(Entry::DATA_SELECTOR, 0xc093); 6];
    cpu.cr0 = cr0::ET | cr0::NE | cr0::PE;
    cpu.msr.set_firmware_mtrrs();
    match entry.mode {
        EntryMode::Long64 { rip, rsi, rsp, cr3 } => {
            cpu.segments[seg::CS] = flat(Entry::CODE_SELECTOR, 0xa09b);
            cpu.cr0 |= cr0::PG | cr0::WP;
            cpu.cr4 = cr4::PAE;
            cpu.efer = efer::LME | efer::LMA;
            cpu.cr3 = cr3;
            cpu.rip = rip;
            cpu.data.gpr[gpr::RSI] = rsi;
            cpu.data.gpr[gpr::RSP] = rsp;
        }
        EntryMode::Protected32 { eip, eax, ebx } => {
            cpu.segments[seg::CS] = flat(Entry::CODE_SELECTOR, 0xc09b);
            cpu.rip = u64::from(eip);
            cpu.data.gpr[gpr::RAX] = u64::from(eax);
            cpu.data.gpr[gpr::RBX] = u64::from(ebx);
        }
    }
    core.mode_changed();
    core.leave_block = false;
}
