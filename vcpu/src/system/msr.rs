//! Model-specific registers: one table of number, name, feature, read and write (SDM vol. 4, table 2-2). An access
//! to what is not in it raises #GP(0), and so does a write that the register's routine refuses.

use super::cpuid::Feature;
use super::{mtrr, tsc};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, last, row};
use crate::mem::walk::is_canonical;
use crate::state::regs::gpr;
use crate::state::{Msrs, cr0, efer, seg};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[row(Code::Rdmsr, rdmsr), last(Code::Wrmsr, wrmsr)];

type Read = fn(&mut Core, u32) -> Result<u64, Fault>;
type Write = fn(&mut Core, u32, u64) -> Result<(), Fault>;

/// A row of the table: one register or a range of them.
pub struct Register {
    /// Number of the first register.
    pub first: u32,
    /// Number of the last register.
    pub last: u32,
    /// Name in SDM volume 4.
    pub name: &'static str,
    /// Without it the register does not exist.
    feature: Option<Feature>,
    read: Read,
    write: Write,
}

const fn msr(number: u32, name: &'static str, read: Read, write: Write) -> Register {
    Register { first: number, last: number, name, feature: None, read, write }
}

const fn range(first: u32, last: u32, name: &'static str, read: Read, write: Write) -> Register {
    Register { first, last, name, feature: None, read, write }
}

impl Register {
    const fn with(self, feature: Feature) -> Register {
        Register { feature: Some(feature), ..self }
    }
}

/// Makes a register that is one field of `Msrs`, written when `$check` holds.
macro_rules! field {
    ($number:literal, $name:literal, $field:ident, $check:expr) => {
        msr(
            $number,
            $name,
            |core, _| Ok(core.cpu.msr.$field),
            |core, _, value| {
                check(($check)(value))?;
                core.cpu.msr.$field = value;
                Ok(())
            },
        )
    };
}

/// Makes a register that always reads as one value and refuses writes.
macro_rules! constant {
    ($number:literal, $name:literal, $value:expr) => {
        msr($number, $name, |_, _| Ok($value), refuse)
    };
}

const ANY: fn(u64) -> bool = |_| true;
const DOUBLEWORD: fn(u64) -> bool = |value| value >> 32 == 0;

/// All registers, by rising number.
pub static REGISTERS: &[Register] = &[
    msr(0x10, "IA32_TIME_STAMP_COUNTER", tsc::read_tsc, tsc::write_tsc).with(Feature::Tsc),
    constant!(0x17, "IA32_PLATFORM_ID", 0),
    msr(0x1b, "IA32_APIC_BASE", |core, _| Ok(core.apic_base()), write_apic_base).with(Feature::Apic),
    constant!(0x3a, "IA32_FEATURE_CONTROL", FEATURE_CONTROL_LOCKED),
    msr(0x3b, "IA32_TSC_ADJUST", tsc::read_adjust, tsc::write_adjust).with(Feature::TscAdjust),
    field!(0x48, "IA32_SPEC_CTRL", spec_ctrl, |value| value & !SPEC_CTRL_BITS == 0).with(Feature::SpecCtrl),
    msr(0x49, "IA32_PRED_CMD", unreadable, write_prediction).with(Feature::SpecCtrl),
    msr(0x8b, "IA32_BIOS_SIGN_ID", |_, _| Ok(MICROCODE_REVISION << 32), ignore),
    constant!(0xce, "MSR_PLATFORM_INFO", MAX_RATIO << 8),
    constant!(0xfe, "IA32_MTRRCAP", mtrr::CAPABILITIES).with(Feature::Mtrr),
    constant!(0x10a, "IA32_ARCH_CAPABILITIES", arch_capabilities::ALL).with(Feature::ArchCapabilities),
    field!(0x174, "IA32_SYSENTER_CS", sysenter_cs, DOUBLEWORD).with(Feature::Sep),
    field!(0x175, "IA32_SYSENTER_ESP", sysenter_esp, is_canonical).with(Feature::Sep),
    field!(0x176, "IA32_SYSENTER_EIP", sysenter_eip, is_canonical).with(Feature::Sep),
    constant!(0x179, "IA32_MCG_CAP", 0).with(Feature::Mca),
    field!(0x17a, "IA32_MCG_STATUS", mcg_status, |value| value & !7 == 0).with(Feature::Mca),
    field!(0x1a0, "IA32_MISC_ENABLE", misc_enable, |value| value & !MISC_ENABLE_WRITABLE
        == MISC_ENABLE_FIXED),
    // No branch records and no single-stepping on branches: only zero can be written.
    msr(0x1d9, "IA32_DEBUGCTL", |_, _| Ok(0), |_, _, value| check(value == 0)),
    range(0x200, 0x20f, "IA32_MTRR_PHYSn", mtrr::read_variable, mtrr::write_variable).with(Feature::Mtrr),
    range(0x250, 0x26f, "IA32_MTRR_FIXn", mtrr::read_fixed, mtrr::write_fixed).with(Feature::Mtrr),
    msr(0x277, "IA32_PAT", mtrr::read_pat, mtrr::write_pat).with(Feature::Pat),
    msr(0x2ff, "IA32_MTRR_DEF_TYPE", mtrr::read_default, mtrr::write_default).with(Feature::Mtrr),
    msr(0x6e0, "IA32_TSC_DEADLINE", |core, _| Ok(core.tsc_deadline()), write_tsc_deadline)
        .with(Feature::TscDeadline),
    range(0x800, 0x8ff, "x2APIC", |core, number| core.x2apic_read(number), write_x2apic)
        .with(Feature::X2apic),
    msr(0xc000_0080, "IA32_EFER", |core, _| Ok(core.cpu.efer), |core, _, value| core.write_efer(value)),
    field!(0xc000_0081, "IA32_STAR", star, ANY).with(Feature::Syscall),
    field!(0xc000_0082, "IA32_LSTAR", lstar, is_canonical).with(Feature::Syscall),
    field!(0xc000_0083, "IA32_CSTAR", cstar, is_canonical).with(Feature::Syscall),
    field!(0xc000_0084, "IA32_FMASK", sfmask, DOUBLEWORD).with(Feature::Syscall),
    msr(0xc000_0100, "IA32_FS_BASE", read_base::<{ seg::FS }>, write_base::<{ seg::FS }>).with(Feature::Lm),
    msr(0xc000_0101, "IA32_GS_BASE", read_base::<{ seg::GS }>, write_base::<{ seg::GS }>).with(Feature::Lm),
    field!(0xc000_0102, "IA32_KERNEL_GS_BASE", kernel_gs_base, is_canonical).with(Feature::Lm),
    field!(0xc000_0103, "IA32_TSC_AUX", tsc_aux, DOUBLEWORD).with(Feature::Rdtscp),
];

/// Bit 0: locked, with VMX and SGX off.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// IBRS, STIBP, SSBD, BHI_DIS_S.
const SPEC_CTRL_BITS: u64 = 7 | 1 << 10;
/// Far above any that Linux knows as too old.
const MICROCODE_REVISION: u64 = 0x0d00_03f5;
/// Ratio of the highest frequency to the bus clock of 100 MHz.
const MAX_RATIO: u64 = 20;
/// Branch-trace storage and PEBS are unavailable: read-only ones.
const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;
/// Fast strings can be switched, which is a hint.
const MISC_ENABLE_WRITABLE: u64 = 1;

/// Bits of IA32_ARCH_CAPABILITIES: this CPU does not speculate.
mod arch_capabilities {
    pub const RDCL_NO: u64 = 1 << 0;
    pub const IBRS_ALL: u64 = 1 << 1;
    pub const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub const SSB_NO: u64 = 1 << 4;
    pub const MDS_NO: u64 = 1 << 5;
    pub const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    pub const TAA_NO: u64 = 1 << 8;
    pub const SBDR_SSDP_NO: u64 = 1 << 13;
    pub const FBSDP_NO: u64 = 1 << 14;
    pub const PSDP_NO: u64 = 1 << 15;
    pub const BHI_NO: u64 = 1 << 20;
    pub const PBRSB_NO: u64 = 1 << 24;
    pub const GDS_NO: u64 = 1 << 26;
    pub const RFDS_NO: u64 = 1 << 27;
    /// Not architectural: what virtual machine monitors tell Linux.
    pub const ITS_NO: u64 = 1 << 62;
    pub const ALL: u64 = RDCL_NO
        | IBRS_ALL
        | SKIP_L1DFL_VMENTRY
        | SSB_NO
        | MDS_NO
        | IF_PSCHANGE_MC_NO
        | TAA_NO
        | SBDR_SSDP_NO
        | FBSDP_NO
        | PSDP_NO
        | BHI_NO
        | PBRSB_NO
        | GDS_NO
        | RFDS_NO
        | ITS_NO;
}

impl Msrs {
    /// MSRs after power-on.
    pub fn power_on() -> Msrs {
        Msrs { pat: mtrr::PAT_RESET, misc_enable: MISC_ENABLE_FIXED | 1, ..Msrs::default() }
    }
}

impl Core {
    /// RDMSR without the privilege check: for the instruction and for debuggers.
    pub fn read_msr(&mut self, number: u32) -> Result<u64, Fault> {
        let register = self.find_msr(number)?;
        (register.read)(self, number)
    }

    /// WRMSR without the privilege check.
    pub fn write_msr(&mut self, number: u32, value: u64) -> Result<(), Fault> {
        let register = self.find_msr(number)?;
        (register.write)(self, number, value)
    }

    fn find_msr(&self, number: u32) -> Result<&'static Register, Fault> {
        let index = REGISTERS.partition_point(|register| register.last < number);
        let found = REGISTERS.get(index).filter(|register| register.first <= number);
        let there = |register: &&Register| register.feature.is_none_or(|feature| self.cpu.model.has(feature));
        found.filter(there).ok_or(Fault::gp(0))
    }

    /// IA32_EFER: LMA follows LME and paging and cannot be written (SDM 3A 2.2.1).
    fn write_efer(&mut self, value: u64) -> Result<(), Fault> {
        let model = &self.cpu.model;
        let mut allowed = efer::LMA;
        for (bit, feature) in
            [(efer::SCE, Feature::Syscall), (efer::LME, Feature::Lm), (efer::NXE, Feature::Nx)]
        {
            if model.has(feature) {
                allowed |= bit;
            }
        }
        let old = self.cpu.efer;
        let lme_under_paging = (old ^ value) & efer::LME != 0 && self.cpu.cr0 & cr0::PG != 0;
        check(value & !allowed == 0 && !lme_under_paging)?;
        self.cpu.efer = value & !efer::LMA | old & efer::LMA;
        if (old ^ value) & efer::NXE != 0 {
            self.cpu.tlb.flush_all();
        }
        self.mode_changed();
        Ok(())
    }
}

fn check(good: bool) -> Result<(), Fault> {
    if good { Ok(()) } else { Err(Fault::gp(0)) }
}

fn refuse(_core: &mut Core, _number: u32, _value: u64) -> Result<(), Fault> {
    Err(Fault::gp(0))
}

fn unreadable(_core: &mut Core, _number: u32) -> Result<u64, Fault> {
    Err(Fault::gp(0))
}

/// IA32_BIOS_SIGN_ID is written with zero before CPUID brings the revision back (SDM 3A 9.11.7.1); it is always there.
fn ignore(_core: &mut Core, _number: u32, _value: u64) -> Result<(), Fault> {
    Ok(())
}

/// IBPB: there are no predictions to drop.
fn write_prediction(_core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    check(value & !1 == 0)
}

fn write_apic_base(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    core.leave_block = true;
    core.set_apic_base(value)
}

fn write_tsc_deadline(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    core.leave_block = true;
    core.set_tsc_deadline(value);
    Ok(())
}

fn write_x2apic(core: &mut Core, number: u32, value: u64) -> Result<(), Fault> {
    core.leave_block = true;
    core.x2apic_write(number, value)
}

fn read_base<const SEGMENT: usize>(core: &mut Core, _number: u32) -> Result<u64, Fault> {
    Ok(core.cpu.segments[SEGMENT].base)
}

fn write_base<const SEGMENT: usize>(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    core.set_segment_base(SEGMENT, value)
}

fn rdmsr(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    let number = core.cpu.data.gpr[gpr::RCX] as u32;
    let value = core.read_msr(number)?;
    core.set_edx_eax(value);
    Ok(())
}

fn wrmsr(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    let number = core.cpu.data.gpr[gpr::RCX] as u32;
    let value = core.edx_eax();
    core.write_msr(number, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted() {
        assert!(REGISTERS.iter().all(|register| register.first <= register.last));
        assert!(REGISTERS.windows(2).all(|pair| pair[0].last < pair[1].first));
    }
}
