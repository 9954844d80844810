//! A CPU after power-on (SDM 3A 9.1, table 9-1).

use super::cpuid::Model;
use super::debug::{DR6_RESET, DR7_RESET};
use crate::mem::tlb::Tlb;
use crate::state::regs::gpr;
use crate::state::{Activity, Cpu, DataRegs, Msrs, Segment, Shadow, TableReg, cr0, seg};
use std::sync::Arc;

impl Cpu {
    /// The state after power-on: real mode, at the reset vector FFFFFFF0H.
    pub fn power_on(model: Arc<Model>, tlb: Box<Tlb>, apic_id: u32, cpu_count: u32) -> Cpu {
        let data_segment = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        let mut segments = [data_segment; 6];
        segments[seg::CS] = Segment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        let mut data = DataRegs::reset();
        // EDX: family, model and stepping, as CPUID leaf 1 shows them.
        data.gpr[gpr::RDX] = u64::from(model.signature());
        Cpu {
            data,
            rip: 0xfff0,
            icount: 0,
            eflags: 2,
            ea_base: [0; 8],
            segments,
            ldtr: Segment { selector: 0, attributes: 0x82, limit: 0xffff, base: 0 },
            tr: Segment { selector: 0, attributes: 0x8b, limit: 0xffff, base: 0 },
            gdtr: TableReg { base: 0, limit: 0xffff },
            idtr: TableReg { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdpte: [0; 4],
            xcr0: 1,
            efer: 0,
            dr: [0, 0, 0, 0, 0, 0, DR6_RESET, DR7_RESET],
            msr: Msrs::power_on(),
            activity: Activity::Running,
            shadow: Shadow::None,
            nmi_blocked: false,
            debug_pending: 0,
            tlb,
            apic_id,
            cpu_count,
            model,
        }
    }
}
