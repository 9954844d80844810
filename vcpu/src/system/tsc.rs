//! The time-stamp counter: RDTSC, RDTSCP, RDPID and its MSRs (SDM 3B 17.17). Two ticks a guest nanosecond.

use super::cpuid::leaves::TSC_HZ;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, row};
use crate::state::cr4;
use crate::state::regs::gpr;
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Rdtsc, rdtsc),
    row(Code::Rdtscp, rdtscp),
    row(Code::Rdpid_r32, rdpid),
    row(Code::Rdpid_r64, rdpid),
];

const TICKS_PER_NS: u64 = TSC_HZ / 1_000_000_000;

impl Core {
    /// The machine's TSC before any guest changed it.
    fn machine_tsc(&self) -> u64 {
        self.vtime_now().0.wrapping_mul(TICKS_PER_NS)
    }

    /// IA32_TIME_STAMP_COUNTER at the current instruction.
    pub fn tsc_now(&self) -> u64 {
        self.machine_tsc().wrapping_add(self.cpu.msr.tsc_offset)
    }
}

fn check_tsd(core: &Core) -> Result<(), Fault> {
    let refused = core.cpu.cr4 & cr4::TSD != 0 && core.mode.cpl != 0;
    if refused { Err(Fault::gp(0)) } else { Ok(()) }
}

fn rdtsc(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_tsd(core)?;
    core.set_edx_eax(core.tsc_now());
    Ok(())
}

fn rdtscp(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_tsd(core)?;
    core.set_edx_eax(core.tsc_now());
    core.cpu.data.gpr[gpr::RCX] = core.cpu.msr.tsc_aux;
    Ok(())
}

fn rdpid(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.cpu.data.gpr[usize::from(op.rm & 15)] = core.cpu.msr.tsc_aux;
    Ok(())
}

pub(super) fn read_tsc(core: &mut Core, _number: u32) -> Result<u64, Fault> {
    Ok(core.tsc_now())
}

/// A write moves IA32_TSC_ADJUST by as much (SDM 3B 17.17.3).
pub(super) fn write_tsc(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    let delta = value.wrapping_sub(core.tsc_now());
    move_tsc(core, delta);
    Ok(())
}

pub(super) fn read_adjust(core: &mut Core, _number: u32) -> Result<u64, Fault> {
    Ok(core.cpu.msr.tsc_adjust)
}

pub(super) fn write_adjust(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    let delta = value.wrapping_sub(core.cpu.msr.tsc_adjust);
    move_tsc(core, delta);
    Ok(())
}

fn move_tsc(core: &mut Core, delta: u64) {
    if delta == 0 {
        return;
    }
    let msrs = &mut core.cpu.msr;
    msrs.tsc_offset = msrs.tsc_offset.wrapping_add(delta);
    msrs.tsc_adjust = msrs.tsc_adjust.wrapping_add(delta);
    core.tsc_offset_changed();
}
