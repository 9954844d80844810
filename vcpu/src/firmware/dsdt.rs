//! The DSDT's AML: sleep states, PCI host bridge, legacy devices, CPUs (ACPI 6.5, chapter 5 and 6).

use super::acpi::S5_SLP_TYP;
use super::interrupt_links;
use super::layout::{ECAM, HPET, PCI_WINDOW_32, pci_window_64};
use crate::chipset::pvpanic;
use acpi_tables::aml::*;
use acpi_tables::{Aml, AmlSink};
use replay::machine::Machine;

/// AML of the definition block, without the table's header.
pub fn definition_block(machine: &Machine) -> Vec<u8> {
    let mut aml = Vec::new();
    // The kernel writes the first element as SLP_TYP of PM1a_CNT.
    Name::new("_S5_".into(), &Package::new(vec![&S5_SLP_TYP, &S5_SLP_TYP, &ZERO, &ZERO]))
        .to_aml_bytes(&mut aml);
    aml.extend(interrupt_links::model());
    let devices = [
        host_bridge(machine.ram_bytes),
        interrupt_links::links(),
        motherboard(),
        uarts(machine),
        legacy_devices(),
        hpet(),
        panic_device(),
        processors(machine.cpu_count),
    ];
    Scope::new("\\_SB_".into(), vec![&Raw(devices.concat())]).to_aml_bytes(&mut aml);
    aml
}

/// AML that is bytes already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// Small resource descriptor for an edge-triggered, active-high ISA interrupt (ACPI 6.5, 6.4.2.1).
struct IsaIrq(u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

fn bytes_of(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

fn ports(base: u16, count: u8) -> IO {
    IO::new(base, base, 1, count)
}

/// A device with an EISA identifier and fixed resources.
fn device(name: &str, id: &str, unique_id: u32, resources: Vec<&dyn Aml>) -> Vec<u8> {
    bytes_of(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &unique_id),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    ))
}

fn host_bridge(ram_bytes: u64) -> Vec<u8> {
    bytes_of(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CRS".into(), &Raw(bridge_resources(ram_bytes))),
            &Raw(interrupt_links::routing()),
            &Raw(interrupt_links::isa_bridge()),
            &Raw(operating_system_capabilities()),
        ],
    ))
}

/// Buses, ports and memory that the bridge passes on.
fn bridge_resources(ram_bytes: u64) -> Vec<u8> {
    let window_64 = pci_window_64(ram_bytes);
    let not_cacheable = AddressSpaceCacheable::NotCacheable;
    bytes_of(&ResourceTemplate::new(vec![
        &AddressSpace::new_bus_number(0u16, 255),
        // The configuration ports belong to the bridge; what is around them goes to the devices.
        &IO::new(0xcf8, 0xcf8, 1, 8),
        &AddressSpace::new_io(0u16, 0x0cf7, None),
        &AddressSpace::new_io(0x0d00u16, 0xffff, None),
        &AddressSpace::new_memory(
            not_cacheable,
            true,
            PCI_WINDOW_32.start as u32,
            (PCI_WINDOW_32.end - 1) as u32,
            None,
        ),
        &AddressSpace::new_memory(not_cacheable, true, window_64.start, window_64.end - 1, None),
    ]))
}

/// `_OSC`: the kernel may use the PCI Express capability structure; hot-plug, PME and AER do not exist
/// (PCI Firmware 3.3, 4.5.1).
fn operating_system_capabilities() -> Vec<u8> {
    const UNKNOWN_UUID: u8 = 1 << 2;
    const EXPRESS_CAPABILITY: u8 = 1 << 4;
    let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
    let for_pci_host = Uuid::new("33db4d5b-1ff7-401c-9657-7441c03dd766");
    bytes_of(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &for_pci_host),
                vec![
                    &CreateDWordField::new(&control, &Arg(3), &8u8),
                    &And::new(&control, &control, &EXPRESS_CAPABILITY),
                ],
            ),
            &Else::new(vec![&Or::new(&status, &status, &UNKNOWN_UUID)]),
            &Return::new(&Arg(3)),
        ],
    ))
}

/// What no other device claims. The power-management ports belong to the ISA bridge: Linux takes them from its
/// configuration space and would find them claimed twice.
fn motherboard() -> Vec<u8> {
    device(
        "MBRD",
        "PNP0C02",
        0,
        vec![&Memory32Fixed::new(true, ECAM.start as u32, (ECAM.end - ECAM.start) as u32)],
    )
}

fn uarts(machine: &Machine) -> Vec<u8> {
    let wiring = [("COM1", 0x3f8, 4), ("COM2", 0x2f8, 3)];
    let present = machine.uarts.iter().zip(wiring).filter(|(uart, _)| uart.is_some());
    let with_number = present.zip(1..);
    with_number
        .flat_map(|((_, (name, port, irq)), number)| {
            device(name, "PNP0501", number, vec![&ports(port, 8), &IsaIrq(irq)])
        })
        .collect()
}

fn legacy_devices() -> Vec<u8> {
    [
        device("RTC_", "PNP0B00", 0, vec![&ports(0x70, 8), &IsaIrq(8)]),
        device("KBD_", "PNP0303", 0, vec![&ports(0x60, 1), &ports(0x64, 1), &IsaIrq(1)]),
        device("MOU_", "PNP0F13", 0, vec![&IsaIrq(12)]),
    ]
    .concat()
}

fn hpet() -> Vec<u8> {
    device("HPET", "PNP0103", 0, vec![&Memory32Fixed::new(true, HPET as u32, 0x400)])
}

/// pvpanic, as QEMU's tables name it: the driver needs no more than its port.
fn panic_device() -> Vec<u8> {
    bytes_of(&Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports(pvpanic::PORT, 1)])),
        ],
    ))
}

fn processors(count: u32) -> Vec<u8> {
    let one = |cpu: u32| {
        let name = if cpu < 10 { format!("CPU{cpu}") } else { format!("C{cpu:03X}") };
        bytes_of(&Device::new(
            name.as_str().into(),
            vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &cpu)],
        ))
    };
    // Names have three digits; far fewer CPUs fill the firmware area, which is reported there.
    (0..count.min(0x1000)).flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::tests::machine;

    fn contains(aml: &[u8], part: &[u8]) -> bool {
        aml.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn power_off_package_is_the_chipset_s_value() {
        let aml = definition_block(&machine(1 << 30, 1));
        // Name(_S5_, Package(4) { 5, 5, 0, 0 })
        assert!(aml.starts_with(&[0x08, b'_', b'S', b'5', b'_', 0x12, 8, 4, 0x0a, 5, 0x0a, 5, 0, 0]));
    }

    #[test]
    fn devices_follow_the_machine() {
        let mut machine = machine(1 << 30, 2);
        let aml = definition_block(&machine);
        assert!(contains(&aml, b"COM1") && !contains(&aml, b"COM2"));
        assert!(contains(&aml, b"CPU1") && !contains(&aml, b"CPU2"));
        machine.uarts = vec![Some(0), Some(1)];
        assert!(contains(&definition_block(&machine), b"COM2"));
    }

    #[test]
    fn the_panic_port_is_named() {
        let aml = definition_block(&machine(1 << 30, 1));
        assert!(contains(&aml, b"PEVT") && contains(&aml, b"QEMU0001\0"));
        // IO(Decode16, 0x505, 0x505, 1, 1)
        assert!(contains(&aml, &[0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1]));
    }

    #[test]
    fn high_window_moves_with_ram() {
        let aml = definition_block(&machine(64 << 30, 1));
        assert!(contains(&aml, &(128u64 << 30).to_le_bytes()));
        assert!(contains(&aml, &((192u64 << 30) - 1).to_le_bytes()));
    }
}
