//! What a monitor sees of the chipset. Nothing here changes it: registers whose reads have effects are read from a copy.

use super::Chipset;
use super::map::{MemoryDevice, PortDevice, memory_rows, port_rows};
use super::pci_config::{BarKind, ConfigSpace, offset};
use super::pci_host::Bdf;
use replay::device::PciAddress;
use replay::inspect::{AddressMap, Interrupts, LAPIC_REGISTERS, LocalApic, PciBar, PciFunction, Region};
use replay::time::Vtime;

/// Bytes of a PCI header (PCI 3.0, 6.1).
const HEADER_BYTES: usize = 64;
/// Base address registers of a header of type 0.
const BARS: usize = 6;
/// Ports of UARTs are one device for each.
const UART: &str = "serial";

impl Chipset {
    /// The interrupt controllers.
    pub fn view_interrupts(&self) -> Interrupts {
        let (ioapic_raised, pic_raised) = self.lines.raised();
        let mut view = Interrupts {
            pics: self.pic.view(),
            ioapic_raised: ioapic_raised.to_vec(),
            pic_raised: pic_raised.to_vec(),
            ..Interrupts::default()
        };
        self.ioapic.view(&mut view);
        view
    }

    /// The local APIC of the current CPU.
    pub fn view_local_apic(&self, now: Vtime) -> LocalApic {
        let lapic = &self.lapics[self.current];
        let mut copy = lapic.clone();
        let registers =
            (0..LAPIC_REGISTERS as u32).map(|index| copy.read_register(index, now).unwrap_or(0)).collect();
        LocalApic { id: lapic.apic_id(), base: lapic.base(), registers }
    }

    /// All functions on the PCI bus, in address order.
    pub fn view_pci(&self) -> Vec<PciFunction> {
        self.pci.functions().map(|(at, space)| view_function(at, space)).collect()
    }

    /// Whether a device answers at a physical address.
    pub fn answers_at(&self, address: u64) -> bool {
        self.has_lapic_at(address) || self.decode_memory(address, 1).device.is_some()
    }

    /// What answers where; `ram_ends`: end of RAM below 4 GiB, and above it or 0.
    pub fn view_addresses(&self, ram_ends: [u64; 2]) -> AddressMap {
        let mut map = AddressMap::default();
        for (first, last, bytes_only, device) in port_rows(&self.config) {
            let (first, last) = (u64::from(first), u64::from(last));
            let priority = u8::from(bytes_only);
            map.ports.push(Region { first, last, priority, ram: false, name: port_name(device).to_owned() });
        }
        let ram = |first, end: u64| Region {
            first,
            last: end.saturating_sub(1),
            priority: 0,
            ram: true,
            name: "pc.ram".to_owned(),
        };
        map.memory.push(ram(0, ram_ends[0]));
        if ram_ends[1] > 0 {
            map.memory.push(ram(crate::mem::ram::HIGH_RAM_START, ram_ends[1]));
        }
        let device = |first, last, priority, name: &str| Region {
            first,
            last,
            priority,
            ram: false,
            name: name.to_owned(),
        };
        for (first, last, which) in memory_rows() {
            map.memory.push(device(first, last, 1, memory_name(which)));
        }
        let base = self.lapics[self.current].base() & !0xfff;
        if self.has_lapic_at(base) {
            map.memory.push(device(base, base | 0xfff, 2, "apic"));
        }
        for (at, space) in self.pci.functions() {
            for bar in (0..BARS).filter_map(|index| Some((index, space.bar(index)?))) {
                let (index, range) = bar;
                let name = format!("pci {:02x}.{} BAR{index}", at.device(), at.function());
                let region = device(range.address, range.address + (range.size - 1), 0, &name);
                if range.kind == BarKind::Io { map.ports.push(region) } else { map.memory.push(region) }
            }
        }
        map.ports.sort_by_key(|region| (region.first, region.last));
        map.memory.sort_by_key(|region| (region.first, region.last));
        map
    }
}

fn view_function(at: Bdf, space: &ConfigSpace) -> PciFunction {
    let bars = (0..BARS).filter_map(|index| {
        let (kind, size) = space.bar_shape(index)?;
        let (io, wide, prefetchable) = match kind {
            BarKind::Io => (true, false, false),
            BarKind::Memory32 => (false, false, false),
            BarKind::Memory64 { prefetchable } => (false, true, prefetchable),
        };
        let address = space.bar(index).map(|range| range.address);
        Some(PciBar { index: index as u8, io, wide, prefetchable, address, size })
    });
    PciFunction {
        address: PciAddress { device: at.device(), function: at.function() },
        header: space.bytes(offset::VENDOR, HEADER_BYTES).to_vec(),
        bars: bars.collect(),
    }
}

/// A device as QEMU names its ports.
fn port_name(device: PortDevice) -> &'static str {
    match device {
        PortDevice::PicMaster | PortDevice::PicSlave => "pic",
        PortDevice::Pit => "pit",
        PortDevice::I8042Data => "i8042-data",
        PortDevice::I8042Command => "i8042-cmd",
        PortDevice::SystemControlB => "pcspk",
        PortDevice::Rtc => "rtc",
        PortDevice::PostCode => "ioport80",
        PortDevice::SystemControlA => "port92",
        PortDevice::Uart(_) => UART,
        PortDevice::Elcr => "elcr",
        PortDevice::Pvpanic => "pvpanic",
        PortDevice::AcpiPm => "acpi-pm",
        PortDevice::FwCfg => "fwcfg",
        PortDevice::ResetControl => "reset-control",
        PortDevice::PciHost => "pci-conf",
        PortDevice::DebugConsole => "isa-debugcon",
        PortDevice::DebugExit => "isa-debug-exit",
    }
}

fn memory_name(device: MemoryDevice) -> &'static str {
    match device {
        MemoryDevice::Ecam => "pcie-mmcfg-mmio",
        MemoryDevice::IoApic => "ioapic",
        MemoryDevice::Hpet => "hpet",
        MemoryDevice::Virtio { .. } => "virtio-pci",
    }
}

#[cfg(test)]
mod tests {
    use crate::chipset::{Chipset, ChipsetConfig};
    use replay::time::Vtime;

    #[test]
    fn interrupts_are_counted_and_shown() {
        let mut chipset = Chipset::new(&ChipsetConfig::default());
        for level in [true, false, true, false] {
            chipset.set_irq(5, level);
        }
        // Pin 20: level-triggered, masked.
        chipset.mmio_write(0xfec0_0000, 4, 0x10 + 40, Vtime(0));
        chipset.mmio_write(0xfec0_0010, 4, 0x1_8050, Vtime(0));
        chipset.set_irq(20, true);
        let before = replay::codec::encode(&chipset);
        let view = chipset.view_interrupts();
        assert_eq!((view.ioapic_raised[5], view.pic_raised[5], view.ioapic_raised[20]), (2, 2, 1));
        assert_eq!((view.pics[0].mask, view.pics[1].vector_base, view.pics[1].level), (0xff, 0x70, 0x0c));
        assert_eq!((view.ioapic_table.len(), view.ioapic_requests & 1 << 20), (24, 1 << 20));
        let lapic = chipset.view_local_apic(Vtime(0));
        assert_eq!((lapic.registers[3], lapic.registers[0x0f]), (0x0105_0014, 0x1ff));
        assert_eq!(replay::codec::encode(&chipset), before);
    }

    #[test]
    fn what_answers_where() {
        let chipset = Chipset::new(&ChipsetConfig::default());
        let map = chipset.view_addresses([16 << 20, 0]);
        assert_eq!((map.memory[0].last, map.memory[0].ram), ((16 << 20) - 1, true));
        assert!(map.memory.iter().any(|region| region.name == "apic" && region.first == 0xfee0_0000));
        assert!(map.ports.iter().any(|region| region.name == "rtc" && region.last == 0x71));
        assert!(map.ports.windows(2).all(|pair| pair[0].first <= pair[1].first));
        assert!(chipset.answers_at(0xfec0_0000) && !chipset.answers_at(0xd000_0000));
        let functions = chipset.view_pci();
        assert_eq!(functions[0].header[..4], [0x86, 0x80, 0xc0, 0x29]);
    }
}
