//! Privileged odds and ends: INVLPG, INVPCID, cache control, HLT, SWAPGS, FS and GS base, RDPMC.

use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, last, row};
use crate::mem::walk::is_canonical;
use crate::state::{Activity, cr4, seg};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    last(Code::Invlpg_m, invlpg),
    last(Code::Invpcid_r32_m128, invpcid::<false>),
    last(Code::Invpcid_r64_m128, invpcid::<true>),
    row(Code::Invd, cache_control),
    row(Code::Wbinvd, cache_control),
    row(Code::Wbnoinvd, cache_control),
    last(Code::Hlt, hlt),
    row(Code::Swapgs, swapgs),
    row(Code::Rdfsbase_r32, read_base::<{ seg::FS }, false>),
    row(Code::Rdfsbase_r64, read_base::<{ seg::FS }, true>),
    row(Code::Rdgsbase_r32, read_base::<{ seg::GS }, false>),
    row(Code::Rdgsbase_r64, read_base::<{ seg::GS }, true>),
    row(Code::Wrfsbase_r32, write_base::<{ seg::FS }, false>),
    row(Code::Wrfsbase_r64, write_base::<{ seg::FS }, true>),
    row(Code::Wrgsbase_r32, write_base::<{ seg::GS }, false>),
    row(Code::Wrgsbase_r64, write_base::<{ seg::GS }, true>),
    row(Code::Rdpmc, rdpmc),
];

/// The operand is an address, not an access: no segment limit and no canonical check (SDM 2, INVLPG).
fn invlpg(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    let offset = core.effective_offset(op);
    let gva = if core.mode.bits == 64 {
        offset.wrapping_add(core.cpu.ea_base[usize::from(op.segment & 7)])
    } else {
        offset.wrapping_add(core.cpu.segments[usize::from(op.checked_segment).min(seg::GS)].base)
            & 0xffff_ffff
    };
    if is_canonical(gva) {
        core.cpu.tlb.flush_page(gva);
    }
    Ok(())
}

/// INVPCID (SDM 2). A PCID that is not the current one has no translations cached, because every load of CR3
/// drops them; so there only the checks remain.
fn invpcid<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    let raw = core.cpu.data.gpr[usize::from(op.reg & 15)];
    let kind = if WIDE { raw } else { u64::from(raw as u32) };
    let at = core.operand_address(op)?;
    let mut descriptor = [0; 16];
    core.read_bytes(at, &mut descriptor).map_err(|fault| core.refine_fault(op, fault))?;
    let [pcid, address] = [0, 8].map(|from| {
        let bytes = descriptor[from..from + 8].try_into().expect("eight bytes of sixteen");
        u64::from_le_bytes(bytes)
    });
    let names_pcid = kind < 2;
    if kind > 3 || pcid >> 12 != 0 || names_pcid && pcid != 0 && core.cpu.cr4 & cr4::PCIDE == 0 {
        return Err(Fault::gp(0));
    }
    if kind == 0 && !is_canonical(address) {
        return Err(Fault::gp(0));
    }
    let current = if core.cpu.cr4 & cr4::PCIDE != 0 { core.cpu.cr3 & 0xfff } else { 0 };
    match kind {
        0 if pcid == current => core.cpu.tlb.flush_page(address),
        1 if pcid == current => core.cpu.tlb.flush_non_global(),
        0 | 1 => {}
        2 => core.cpu.tlb.flush_all(),
        _ => core.cpu.tlb.flush_non_global(),
    }
    Ok(())
}

/// Caches are not modelled: RAM is always what was last written.
fn cache_control(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    core.require_cpl0()
}

fn hlt(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    core.cpu.activity = Activity::Halted;
    core.leave_block = true;
    Ok(())
}

fn swapgs(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    core.require_cpl0()?;
    let base = std::mem::replace(&mut core.cpu.segments[seg::GS].base, core.cpu.msr.kernel_gs_base);
    core.cpu.msr.kernel_gs_base = base;
    core.cpu.ea_base[seg::GS] = core.cpu.segments[seg::GS].base;
    Ok(())
}

fn check_fsgsbase(core: &Core) -> Result<(), Fault> {
    if core.cpu.cr4 & cr4::FSGSBASE == 0 { Err(Fault::ud()) } else { Ok(()) }
}

fn read_base<const SEGMENT: usize, const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_fsgsbase(core)?;
    let base = core.cpu.segments[SEGMENT].base;
    core.cpu.data.gpr[usize::from(op.rm & 15)] = if WIDE { base } else { u64::from(base as u32) };
    Ok(())
}

fn write_base<const SEGMENT: usize, const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_fsgsbase(core)?;
    let raw = core.cpu.data.gpr[usize::from(op.rm & 15)];
    let base = if WIDE { raw } else { u64::from(raw as u32) };
    core.set_segment_base(SEGMENT, base)
}

impl Core {
    /// FS or GS base by WRFSBASE, WRGSBASE or WRMSR: #GP when not canonical.
    pub(super) fn set_segment_base(&mut self, segment: usize, base: u64) -> Result<(), Fault> {
        if !is_canonical(base) {
            return Err(Fault::gp(0));
        }
        self.cpu.segments[segment].base = base;
        self.cpu.ea_base[segment] = base;
        Ok(())
    }
}

/// The models have no performance counters (CPUID leaf AH is zero), so every index is beyond the last one.
fn rdpmc(_core: &mut Core, _op: &Op) -> Result<(), Fault> {
    Err(Fault::gp(0))
}
