//! The registers of a CPU as a monitor shows them.

use crate::core::Core;
use crate::state::{Activity, Segment, Shadow, TableReg};
use replay::inspect::{Registers, SegmentRegister, TableRegister};

/// Offset of the first x87 register in an FXSAVE image, and from one to the next (SDM 1 table 10-2).
const FX_REGISTERS: usize = 32;
const FX_STRIDE: usize = 16;

fn segment(segment: &Segment) -> SegmentRegister {
    // The descriptor's own limit counts pages if G is set; its high bits are in the second half.
    let pages = segment.has(Segment::G);
    let limit = if pages { segment.limit >> 12 } else { segment.limit };
    let flags = u32::from(segment.attributes) << 8 & 0x00f0_ff00 | limit & 0x000f_0000;
    SegmentRegister { selector: segment.selector, base: segment.base, limit: segment.limit, flags }
}

fn table(table: &TableReg) -> TableRegister {
    TableRegister { base: table.base, limit: table.limit }
}

/// All of them.
pub fn registers(core: &Core) -> Registers {
    let cpu = &core.cpu;
    let fx = &cpu.data.fx.0;
    let word = |at: usize| u16::from_le_bytes([fx[at], fx[at + 1]]);
    let mut gpr = [0; 16];
    gpr.copy_from_slice(&cpu.data.gpr[..16]);
    let fpr = std::array::from_fn(|number| {
        let at = FX_REGISTERS + FX_STRIDE * number;
        let mut significand = [0; 8];
        significand.copy_from_slice(&fx[at..at + 8]);
        (u64::from_le_bytes(significand), word(at + 8))
    });
    Registers {
        gpr,
        rip: cpu.rip,
        rflags: u64::from(cpu.eflags | cpu.data.status.to_rflags()),
        segments: cpu.segments.each_ref().map(segment),
        ldt: segment(&cpu.ldtr),
        tr: segment(&cpu.tr),
        gdt: table(&cpu.gdtr),
        idt: table(&cpu.idtr),
        cr: [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4],
        cr8: core.chipset.cr8(),
        dr: [cpu.dr[0], cpu.dr[1], cpu.dr[2], cpu.dr[3], cpu.dr[6], cpu.dr[7]],
        efer: cpu.efer,
        xcr0: cpu.xcr0,
        fcw: word(0),
        fsw: word(2),
        ftw: fx[4],
        mxcsr: cpu.data.mxcsr,
        fpr,
        ymm: cpu.data.ymm,
        code_bits: core.mode.bits,
        cpl: core.mode.cpl,
        protected: core.mode.protected,
        long: core.mode.long,
        interrupt_shadow: cpu.shadow != Shadow::None,
        a20: core.chipset.a20(),
        halted: cpu.activity == Activity::Halted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{digest, power_on};

    #[test]
    fn descriptors_are_put_together_again() {
        let flat = Segment { selector: 8, attributes: 0xa09b, limit: u32::MAX, base: 0 };
        assert_eq!(segment(&flat).flags, 0x00af_9b00);
        let small = Segment { selector: 0, attributes: 0x0093, limit: 0xffff, base: 0 };
        assert_eq!(segment(&small).flags, 0x0000_9300);
    }

    #[test]
    fn looking_changes_nothing() {
        use replay::inspect::{Query, Space};
        let machine = replay::machine::Machine { ram_bytes: 4 << 20, ..replay::manifest::example().machine };
        let mut core = power_on::bare(&machine).unwrap();
        core.cpu.data.fx.0[32..42].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        core.chipset.port_write(0x43, 1, 0x34, core.vtime_now());
        let before = digest::registers(&core);
        let chipset = replay::codec::encode(&core.chipset);
        let ports = (0..=u16::MAX).step_by(3).map(|port| Query::Port { port, size: 1 + (port % 2) as u8 });
        let physical = [0, 0xfee0_0030, 0xfec0_0000, 0xfed0_00f0, 0xe000_0000];
        let memory = physical.map(|address| Query::Memory { space: Space::Physical, address, length: 64 });
        let others = [
            Query::Registers,
            Query::Translate { address: 5 },
            Query::Mappings { from: 0 },
            Query::Interrupts,
            Query::LocalApic,
            Query::PciFunctions,
            Query::AddressMap,
        ];
        for query in ports.chain(memory).chain(others) {
            super::super::answer(&core, query);
        }
        assert_eq!(digest::registers(&core), before);
        assert_eq!(replay::codec::encode(&core.chipset), chipset);
        assert_eq!(core.mem.ram.take_dirty(), [0u64; 0]);
        let shown = registers(&core);
        assert_eq!((shown.fpr[0], shown.ftw), ((1 << 63 | 1, 0x3fff), 0xff));
    }
}
