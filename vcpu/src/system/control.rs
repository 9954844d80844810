//! Control registers: MOV CR, LMSW, SMSW, CLTS, XSETBV, XGETBV, and the transitions between modes that they make
//! (SDM 3A 2.5, 2.6, 9.8, 4.10.4 for TLB invalidation).

use super::cpuid::Feature;
use super::mode::xcr0;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, last, opflag, row};
use crate::mem::walk::PHYSICAL_BITS;
use crate::state::regs::gpr;
use crate::state::{Segment, cr0, cr4, efer, seg};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Mov_r32_cr, read_cr::<false>),
    row(Code::Mov_r64_cr, read_cr::<true>),
    last(Code::Mov_cr_r32, write_cr::<false>),
    last(Code::Mov_cr_r64, write_cr::<true>),
    row(Code::Smsw_rm16, smsw::<2>),
    row(Code::Smsw_r32m16, smsw::<4>),
    row(Code::Smsw_r64m16, smsw::<8>),
    last(Code::Lmsw_rm16, lmsw),
    last(Code::Lmsw_r32m16, lmsw),
    last(Code::Lmsw_r64m16, lmsw),
    last(Code::Clts, clts),
    row(Code::Xgetbv, xgetbv),
    last(Code::Xsetbv, xsetbv),
];

/// CR0 bits that hold a value; the others read as zero, ET as one.
const CR0_BITS: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;

/// MOV to CR3, bit 63: keep the translations of the new PCID.
const CR3_NO_FLUSH: u64 = 1 << 63;
const CR3_PCID: u64 = 0xfff;

/// CR4 bits and the CPUID feature that allows each.
const CR4_BITS: &[(u64, Feature)] = &[
    (cr4::VME, Feature::Vme),
    (cr4::PVI, Feature::Vme),
    (cr4::TSD, Feature::Tsc),
    (cr4::DE, Feature::De),
    (cr4::PSE, Feature::Pse),
    (cr4::PAE, Feature::Pae),
    (cr4::MCE, Feature::Mce),
    (cr4::PGE, Feature::Pge),
    // Without performance counters it only says that RDPMC may be tried, which raises #GP all the same.
    (cr4::PCE, Feature::Msr),
    (cr4::OSFXSR, Feature::Fxsr),
    (cr4::OSXMMEXCPT, Feature::Sse),
    (cr4::UMIP, Feature::Umip),
    (cr4::FSGSBASE, Feature::Fsgsbase),
    (cr4::PCIDE, Feature::Pcid),
    (cr4::OSXSAVE, Feature::Xsave),
    (cr4::SMEP, Feature::Smep),
    (cr4::SMAP, Feature::Smap),
];

/// CR4 bits whose change makes cached translations wrong.
const CR4_FLUSH: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP;

/// CR0 and CR4 bits whose change makes PAE paging load its page-directory pointers anew (SDM 3A 4.4.1).
const CR0_POINTERS: u64 = cr0::PG | cr0::CD | cr0::NW;
const CR4_POINTERS: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;

fn read_cr<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let number = control_register(op)?;
    core.require_cpl0()?;
    let value = match number {
        0 => core.cpu.cr0,
        2 => core.cpu.cr2,
        3 => core.cpu.cr3,
        4 => core.cpu.cr4,
        _ => core.task_priority() >> 4,
    };
    core.cpu.data.gpr[usize::from(op.rm & 15)] = if WIDE { value } else { u64::from(value as u32) };
    Ok(())
}

fn write_cr<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let number = control_register(op)?;
    core.require_cpl0()?;
    let raw = core.cpu.data.gpr[usize::from(op.rm & 15)];
    let value = if WIDE { raw } else { u64::from(raw as u32) };
    match number {
        0 => core.write_cr0(value),
        2 => {
            core.cpu.cr2 = value;
            Ok(())
        }
        3 => core.write_cr3(value),
        4 => core.write_cr4(value),
        _ if value > 15 => Err(Fault::gp(0)),
        _ => {
            core.set_task_priority(value << 4);
            core.leave_block = true;
            Ok(())
        }
    }
}

/// CR0, CR2, CR3, CR4 and CR8 exist.
fn control_register(op: &Op) -> Result<u8, Fault> {
    match op.reg {
        number @ (0 | 2 | 3 | 4 | 8) => Ok(number),
        _ => Err(Fault::ud()),
    }
}

impl Core {
    /// MOV to CR0.
    pub fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let on = |bit| value & bit != 0;
        let bad = value >> 32 != 0 || on(cr0::PG) && !on(cr0::PE) || on(cr0::NW) && !on(cr0::CD);
        if bad {
            return Err(Fault::gp(0));
        }
        let old = self.cpu.cr0;
        let new = value & CR0_BITS | cr0::ET;
        let pae = self.cpu.cr4 & cr4::PAE != 0 && self.cpu.efer & efer::LME == 0;
        if pae && on(cr0::PG) && (old ^ new) & CR0_POINTERS != 0 {
            self.cpu.pdpte = self.read_pdptes(self.cpu.cr3)?;
        }
        let paging_changes = (old ^ new) & cr0::PG != 0;
        if paging_changes && on(cr0::PG) {
            self.enable_paging()?;
        } else if paging_changes {
            self.disable_paging()?;
        }
        self.cpu.cr0 = new;
        if paging_changes {
            self.cpu.tlb.flush_all();
        }
        self.mode_changed();
        Ok(())
    }

    /// CR0.PG goes on: long mode begins if EFER.LME is set (SDM 3A 9.8.5).
    fn enable_paging(&mut self) -> Result<(), Fault> {
        if self.cpu.efer & efer::LME == 0 {
            return Ok(());
        }
        let tss16 = !self.cpu.tr.is_null() && self.cpu.tr.kind() & 8 == 0;
        if self.cpu.cr4 & cr4::PAE == 0 || self.cpu.segments[seg::CS].has(Segment::L) || tss16 {
            return Err(Fault::gp(0));
        }
        self.cpu.efer |= efer::LMA;
        Ok(())
    }

    /// CR0.PG goes off: long mode ends, which 64-bit code may not do.
    fn disable_paging(&mut self) -> Result<(), Fault> {
        if self.mode.bits == 64 || self.cpu.cr4 & cr4::PCIDE != 0 {
            return Err(Fault::gp(0));
        }
        self.cpu.efer &= !efer::LMA;
        Ok(())
    }

    /// MOV to CR3. Translations of other PCIDs are never kept, which SDM 3A 4.10.4.1 allows: so bit 63 changes nothing.
    pub fn write_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let mut value = value;
        if self.cpu.cr4 & cr4::PCIDE != 0 {
            value &= !CR3_NO_FLUSH;
        }
        if self.mode.long && value >> PHYSICAL_BITS != 0 {
            return Err(Fault::gp(0));
        }
        if self.pae_paging(self.cpu.cr4) {
            self.cpu.pdpte = self.read_pdptes(value)?;
        }
        self.cpu.cr3 = value;
        self.cpu.tlb.flush_non_global();
        self.leave_block = true;
        Ok(())
    }

    /// MOV to CR4.
    pub fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        let old = self.cpu.cr4;
        let on = |bit| value & bit != 0;
        let goes_on = |bit| value & !old & bit != 0;
        if value & !self.cr4_allowed() != 0 {
            return Err(Fault::gp(0));
        }
        if self.mode.long && !on(cr4::PAE) {
            return Err(Fault::gp(0));
        }
        if goes_on(cr4::PCIDE) && (!self.mode.long || self.cpu.cr3 & CR3_PCID != 0) {
            return Err(Fault::gp(0));
        }
        if self.pae_paging(value) && (old ^ value) & CR4_POINTERS != 0 {
            self.cpu.pdpte = self.read_pdptes(self.cpu.cr3)?;
        }
        self.cpu.cr4 = value;
        if (old ^ value) & CR4_FLUSH != 0 {
            self.cpu.tlb.flush_all();
        }
        self.mode_changed();
        Ok(())
    }

    /// Whether PAE paging is in use with this CR4.
    fn pae_paging(&self, cr4: u64) -> bool {
        self.cpu.cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && !self.mode.long
    }

    fn cr4_allowed(&self) -> u64 {
        let model = &self.cpu.model;
        CR4_BITS.iter().filter(|(_, feature)| model.has(*feature)).fold(0, |bits, (bit, _)| bits | bit)
    }

    /// XSETBV of XCR0.
    pub fn write_xcr0(&mut self, value: u64) -> Result<(), Fault> {
        let avx_alone = value & (xcr0::AVX | xcr0::SSE) == xcr0::AVX;
        if value & !self.cpu.model.xcr0_bits() != 0 || value & xcr0::X87 == 0 || avx_alone {
            return Err(Fault::gp(0));
        }
        self.cpu.xcr0 = value;
        self.mode_changed();
        Ok(())
    }
}

/// UMIP keeps user code from reading system registers (SDM 3A 2.5).
pub(super) fn check_umip(core: &Core) -> Result<(), Fault> {
    let refused = core.cpu.cr4 & cr4::UMIP != 0 && core.mode.cpl != 0;
    if refused { Err(Fault::gp(0)) } else { Ok(()) }
}

/// Stores a system register: 16 bits to memory, `SIZE` bytes to a register.
pub(super) fn store_system<const SIZE: u8>(core: &mut Core, op: &Op, value: u64) -> Result<(), Fault> {
    if op.flags & opflag::MEMORY != 0 {
        return core.store(op, value as u16);
    }
    let register = &mut core.cpu.data.gpr[usize::from(op.rm & 15)];
    *register = match SIZE {
        2 => *register & !0xffff | value & 0xffff,
        4 => u64::from(value as u32),
        _ => value,
    };
    Ok(())
}

/// A 16-bit source operand in a register or in memory.
pub(super) fn source16(core: &mut Core, op: &Op) -> Result<u16, Fault> {
    if op.flags & opflag::MEMORY != 0 {
        core.load(op)
    } else {
        Ok(core.cpu.data.gpr[usize::from(op.rm & 15)] as u16)
    }
}

fn smsw<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_umip(core)?;
    let value = core.cpu.cr0;
    store_system::<SIZE>(core, op, value)
}

/// Sets the low four bits of CR0; PE can be set but not cleared.
fn lmsw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    let value = u64::from(source16(core, op)?);
    let changeable = cr0::MP | cr0::EM | cr0::TS;
    let new = core.cpu.cr0 & !changeable | value & (changeable | cr0::PE);
    core.write_cr0(new)
}

fn clts(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    core.cpu.cr0 &= !cr0::TS;
    core.mode_changed();
    Ok(())
}

/// Only XCR0 can be read: the models do not offer XINUSE (CPUID leaf DH, subleaf 1, bit 2).
fn xgetbv(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_osxsave(core)?;
    if core.cpu.data.gpr[gpr::RCX] as u32 != 0 {
        return Err(Fault::gp(0));
    }
    core.set_edx_eax(core.cpu.xcr0);
    Ok(())
}

fn xsetbv(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_osxsave(core)?;
    core.require_cpl0()?;
    if core.cpu.data.gpr[gpr::RCX] as u32 != 0 {
        return Err(Fault::gp(0));
    }
    let value = core.edx_eax();
    core.write_xcr0(value)
}

fn check_osxsave(core: &Core) -> Result<(), Fault> {
    if core.cpu.cr4 & cr4::OSXSAVE == 0 { Err(Fault::ud()) } else { Ok(()) }
}

impl Core {
    /// EDX:EAX as one value.
    pub(super) fn edx_eax(&self) -> u64 {
        self.cpu.data.gpr[gpr::RDX] << 32 | self.cpu.data.gpr[gpr::RAX] & 0xffff_ffff
    }

    /// Puts a value in EDX:EAX, clearing the upper halves of both registers.
    pub(super) fn set_edx_eax(&mut self, value: u64) {
        self.cpu.data.gpr[gpr::RAX] = value & 0xffff_ffff;
        self.cpu.data.gpr[gpr::RDX] = value >> 32;
    }
}
