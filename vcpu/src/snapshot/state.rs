//! The state of a machine but for RAM, as plain data.

use crate::chipset::Chipset;
use crate::core::Core;
use crate::mem::tlb::SavedTlb;
use crate::run::vtime::VirtualClock;
use crate::state::regs::FxImage;
use crate::state::{Activity, Msrs, Segment, Shadow, Status, TableReg};
use crate::system::entropy::{Entropy, EntropyState};
use crate::virtio::Virtio;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Bytes of the x87 state that are in use.
const FX_BYTES: usize = 160;
/// General registers of the guest.
const GPRS: usize = 16;

/// Why a saved state cannot be this machine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It has another shape.
    #[error("the saved {0} is not one of this machine")]
    Shape(&'static str),
}

/// A CPU's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedCpu {
    gpr: [u64; GPRS],
    ymm: [[u64; 4]; 16],
    /// As FXSAVE64 lays it out.
    fx: Vec<u8>,
    mxcsr: u32,
    status: u16,
    rip: u64,
    icount: u64,
    eflags: u32,
    segments: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: TableReg,
    idtr: TableReg,
    /// CR0, CR2, CR3, CR4.
    control: [u64; 4],
    pdpte: [u64; 4],
    xcr0: u64,
    efer: u64,
    dr: [u64; 8],
    msr: Msrs,
    activity: Activity,
    shadow: Shadow,
    nmi_blocked: bool,
    debug_pending: u64,
    tlb: SavedTlb,
}

/// Everything that decides how a machine goes on, but for RAM and what never changes after power-on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedState {
    cpu: SavedCpu,
    chipset: Chipset,
    virtio: Virtio,
    clock: VirtualClock,
    entropy: EntropyState,
    fault_address: u64,
    trap_flag: bool,
    a20_mask: u64,
    delivered_icount: Option<u64>,
}

impl SavedState {
    /// Saves a machine that stands between two instructions.
    pub fn of(core: &Core) -> SavedState {
        let cpu = &core.cpu;
        let mut gpr = [0; GPRS];
        gpr.copy_from_slice(&cpu.data.gpr[..GPRS]);
        SavedState {
            cpu: SavedCpu {
                gpr,
                ymm: cpu.data.ymm,
                fx: cpu.data.fx.0[..FX_BYTES].to_vec(),
                mxcsr: cpu.data.mxcsr,
                status: cpu.data.status.0,
                rip: cpu.rip,
                icount: cpu.icount,
                eflags: cpu.eflags,
                segments: cpu.segments,
                ldtr: cpu.ldtr,
                tr: cpu.tr,
                gdtr: cpu.gdtr,
                idtr: cpu.idtr,
                control: [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4],
                pdpte: cpu.pdpte,
                xcr0: cpu.xcr0,
                efer: cpu.efer,
                dr: cpu.dr,
                msr: cpu.msr.clone(),
                activity: cpu.activity,
                shadow: cpu.shadow,
                nmi_blocked: cpu.nmi_blocked,
                debug_pending: cpu.debug_pending,
                tlb: cpu.tlb.save(),
            },
            chipset: core.chipset.clone(),
            virtio: core.virtio.clone(),
            clock: core.clock,
            entropy: core.entropy.save(),
            fault_address: core.fault_address,
            trap_flag: core.trap_flag,
            a20_mask: core.a20_mask,
            delivered_icount: core.delivered_icount,
        }
    }

    /// Instructions that had retired.
    pub fn icount(&self) -> u64 {
        self.cpu.icount
    }

    /// Guest time.
    pub fn vtime(&self) -> Vtime {
        self.clock.at(self.cpu.icount)
    }

    /// The chipset.
    pub fn chipset(&self) -> &Chipset {
        &self.chipset
    }

    /// Whether this can be a state of the machine.
    pub fn check(&self, core: &Core) -> Result<(), StateError> {
        if self.cpu.fx.len() != FX_BYTES {
            return Err(StateError::Shape("x87 state"));
        }
        let queues = |virtio: &Virtio| -> Vec<usize> {
            virtio.functions.iter().map(|function| function.queues.len()).collect()
        };
        if queues(&self.virtio) != queues(&core.virtio) {
            return Err(StateError::Shape("list of virtio functions"));
        }
        Ok(())
    }

    /// Puts a machine of the same description into this state; RAM is the caller's.
    pub fn restore(&self, core: &mut Core) -> Result<(), StateError> {
        self.check(core)?;
        let saved = &self.cpu;
        if !core.cpu.tlb.restore(&saved.tlb) {
            return Err(StateError::Shape("table of translations"));
        }
        let cpu = &mut core.cpu;
        cpu.data.gpr[..GPRS].copy_from_slice(&saved.gpr);
        cpu.data.ymm = saved.ymm;
        cpu.data.fx = FxImage([0; 512]);
        cpu.data.fx.0[..FX_BYTES].copy_from_slice(&saved.fx);
        cpu.data.mxcsr = saved.mxcsr;
        cpu.data.status = Status(saved.status);
        (cpu.rip, cpu.icount, cpu.eflags) = (saved.rip, saved.icount, saved.eflags);
        (cpu.segments, cpu.ldtr, cpu.tr) = (saved.segments, saved.ldtr, saved.tr);
        (cpu.gdtr, cpu.idtr) = (saved.gdtr, saved.idtr);
        [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4] = saved.control;
        (cpu.pdpte, cpu.xcr0, cpu.efer, cpu.dr) = (saved.pdpte, saved.xcr0, saved.efer, saved.dr);
        cpu.msr = saved.msr.clone();
        (cpu.activity, cpu.shadow) = (saved.activity, saved.shadow);
        (cpu.nmi_blocked, cpu.debug_pending) = (saved.nmi_blocked, saved.debug_pending);
        core.chipset = self.chipset.clone();
        core.virtio = self.virtio.clone();
        core.clock = self.clock;
        core.entropy = Entropy::restore(&self.entropy);
        (core.fault_address, core.trap_flag) = (self.fault_address, self.trap_flag);
        (core.a20_mask, core.delivered_icount) = (self.a20_mask, self.delivered_icount);
        (core.op_index, core.jumped, core.leave_block, core.service) = (0, false, false, false);
        core.mode_changed();
        core.watchpoints_changed();
        core.leave_block = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{digest, power_on};
    use replay::codec;

    #[test]
    fn a_state_comes_back_whole_in_another_machine() {
        let machine = replay::machine::Machine { ram_bytes: 4 << 20, ..replay::manifest::example().machine };
        let mut core = power_on::bare(&machine).unwrap();
        let sign = crate::mem::tlb::entry::SIGN;
        for (number, value) in core.cpu.data.gpr[..GPRS].iter_mut().enumerate() {
            *value = number as u64 + 1;
        }
        core.cpu.data.ymm[3] = [1, 2, 3, 4];
        core.cpu.data.fx.0[100] = 7;
        core.cpu.data.mxcsr = 0x1fa0;
        core.cpu.icount = 12_345;
        (core.cpu.dr[7], core.cpu.cr2, core.cpu.msr.lstar) = (0x400, 9, sign | 5);
        (core.cpu.nmi_blocked, core.cpu.shadow) = (true, Shadow::Sti);
        core.clock.set_shift(12_345, 5);
        core.chipset.port_write(0x43, 1, 0x34, core.vtime_now());
        let entry = crate::mem::tlb::entry::PRESENT | crate::mem::tlb::entry::WRITE | 0x5000;
        core.cpu.tlb.insert(0x1000, entry, crate::mem::tlb::Span::Mib2);
        core.cpu.tlb.insert(0x4000_0000, entry, crate::mem::tlb::Span::Gib1);
        core.entropy.next_u64();
        let saved = SavedState::of(&core);
        let bytes = codec::encode(&saved);
        let read: SavedState = codec::decode_all(&bytes).unwrap();
        let mut other = power_on::bare(&machine).unwrap();
        assert_ne!(digest::registers(&other), digest::registers(&core));
        read.restore(&mut other).unwrap();
        assert_eq!(digest::registers(&other), digest::registers(&core));
        assert_eq!(codec::encode(&SavedState::of(&other)), bytes);
        // What was not in the digest is there too: a flush takes the large pages whole.
        for core in [&mut core, &mut other] {
            core.cpu.tlb.flush_page(0x7fff_f000);
        }
        assert_eq!(core.cpu.tlb.entries(), other.cpu.tlb.entries());
    }
}
