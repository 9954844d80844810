//! AML for the interrupts of PCI devices: `_PRT` in both modes, and the link devices behind the PIRQs.
//!
//! With an I/O APIC a pin is wired to one of its inputs, and there is nothing to choose. With the 8259 pair alone
//! (`noapic`) the pin goes to a PIRQ, and the ISA bridge routes that to an ISA interrupt; a link device is how an
//! operating system reads and sets the route (ACPI 6.5, 5.8.1, 6.2.13, and 6.2.14).

use super::layout::pci_intx_gsi;
use acpi_tables::aml::*;
use acpi_tables::{Aml, AmlSink};

/// Names of the link devices and of the fields that are their routing registers: PIRQA to PIRQH.
const LINKS: [(&str, &str); 8] = [
    ("LNKA", "PRQA"),
    ("LNKB", "PRQB"),
    ("LNKC", "PRQC"),
    ("LNKD", "PRQD"),
    ("LNKE", "PRQE"),
    ("LNKF", "PRQF"),
    ("LNKG", "PRQG"),
    ("LNKH", "PRQH"),
];

/// ISA interrupts that no ISA device here has.
const FREE_IRQS: [u32; 3] = [5, 10, 11];

/// Bit of a routing register: routed to no ISA interrupt.
const NOT_ROUTED: u8 = 0x80;
/// Bits of a routing register: the ISA interrupt.
const ROUTE: u8 = 0x0f;

/// Place of the first number in an extended interrupt descriptor (ACPI 6.5, table 6.56).
const FIRST_NUMBER: u8 = 5;

/// Extended interrupt descriptor of a consumer: level-triggered, active low, shared.
struct PciInterrupts<'a>(&'a [u32]);

impl Aml for PciInterrupts<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const CONSUMER_LEVEL_LOW_SHARED: u8 = 0b1101;
        sink.byte(0x89);
        sink.word(2 + 4 * self.0.len() as u16);
        sink.byte(CONSUMER_LEVEL_LOW_SHARED);
        sink.byte(self.0.len() as u8);
        for number in self.0 {
            sink.dword(*number);
        }
    }
}

/// `\_PIC`: the operating system says which interrupt controllers it uses; 0 is the 8259 pair.
pub fn model() -> Vec<u8> {
    let mode = Path::new("\\PICF");
    let mut aml = Vec::new();
    Name::new("PICF".into(), &ZERO).to_aml_bytes(&mut aml);
    Method::new("_PIC".into(), 1, false, vec![&Store::new(&mode, &Arg(0))]).to_aml_bytes(&mut aml);
    aml
}

/// `_PRT` of the host bridge.
pub fn routing() -> Vec<u8> {
    let (apic, pic) = (Path::new("PRTA"), Path::new("PRTP"));
    let mut aml = Vec::new();
    let wired = |device, pin, address: &u32, rows: &mut PackageBuilder| {
        rows.add_element(&Package::new(vec![address, &pin, &ZERO, &pci_intx_gsi(device, pin)]));
    };
    let linked = |device, pin, address: &u32, rows: &mut PackageBuilder| {
        let link = Path::new(&format!("\\_SB_.{}", LINKS[pirq(device, pin)].0));
        rows.add_element(&Package::new(vec![address, &pin, &link, &ZERO]));
    };
    Name::new("PRTA".into(), &table(wired)).to_aml_bytes(&mut aml);
    Name::new("PRTP".into(), &table(linked)).to_aml_bytes(&mut aml);
    Method::new(
        "_PRT".into(),
        0,
        false,
        vec![&If::new(&Path::new("\\PICF"), vec![&Return::new(&apic)]), &Return::new(&pic)],
    )
    .to_aml_bytes(&mut aml);
    aml
}

/// PIRQ to which a pin is wired; 0 is PIRQA.
fn pirq(device: u8, pin: u8) -> usize {
    (pci_intx_gsi(device, pin) - 16) as usize
}

/// A row for each pin of each device.
fn table(row: impl Fn(u8, u8, &u32, &mut PackageBuilder)) -> PackageBuilder {
    let mut rows = PackageBuilder::new();
    for device in 0..32u8 {
        for pin in 0..4u8 {
            row(device, pin, &(u32::from(device) << 16 | 0xffff), &mut rows);
        }
    }
    rows
}

/// The ISA bridge with its routing registers, a child of the host bridge.
pub fn isa_bridge() -> Vec<u8> {
    const ADDRESS: u32 = 0x1f << 16;
    const ROUTES: u8 = 0x60;
    const ROUTES_BYTES: u8 = 12;
    let register = |&(_, field): &(&str, &str)| {
        FieldEntry::Named(field.as_bytes().try_into().expect("names have four letters"), 8)
    };
    let mut fields: Vec<FieldEntry> = LINKS.iter().map(register).collect();
    // Between PIRQD's register and PIRQE's there are four others.
    fields.insert(4, FieldEntry::Reserved(32));
    let (any, none) = (FieldAccessType::Byte, FieldLockRule::NoLock);
    let mut aml = Vec::new();
    Device::new(
        "ISA_".into(),
        vec![
            &Name::new("_ADR".into(), &ADDRESS),
            &OpRegion::new("PIRQ".into(), OpRegionSpace::PCIConfig, &ROUTES, &ROUTES_BYTES),
            &Field::new("PIRQ".into(), any, none, FieldUpdateRule::Preserve, fields),
        ],
    )
    .to_aml_bytes(&mut aml);
    aml
}

/// The link devices.
pub fn links() -> Vec<u8> {
    LINKS.iter().zip(0u8..).flat_map(|(&(name, register), number)| link(name, register, number)).collect()
}

fn link(name: &str, register: &str, number: u8) -> Vec<u8> {
    /// `_STA`: present, shown, working; and with bit 1 enabled.
    const PRESENT: u8 = 0x09;
    const ENABLED: u8 = 0x0b;
    let route = Path::new(&format!("\\_SB_.PCI0.ISA_.{register}"));
    let (buffer, irq) = (Path::new("CRSB"), Path::new("IRQN"));
    let is_off = And::new(&ZERO, &route, &NOT_ROUTED);
    let mut aml = Vec::new();
    Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0F")),
            &Name::new("_UID".into(), &number),
            &Name::new("_PRS".into(), &ResourceTemplate::new(vec![&PciInterrupts(&FREE_IRQS)])),
            &Name::new("CRSB".into(), &ResourceTemplate::new(vec![&PciInterrupts(&[0])])),
            &Method::new(
                "_STA".into(),
                0,
                false,
                vec![&If::new(&is_off, vec![&Return::new(&PRESENT)]), &Return::new(&ENABLED)],
            ),
            &Method::new("_DIS".into(), 0, false, vec![&Or::new(&route, &route, &NOT_ROUTED)]),
            &Method::new(
                "_CRS".into(),
                0,
                true,
                vec![
                    &CreateDWordField::new(&irq, &buffer, &FIRST_NUMBER),
                    &And::new(&irq, &route, &ROUTE),
                    // Zero says that there is none.
                    &If::new(&is_off, vec![&Store::new(&irq, &ZERO)]),
                    &Return::new(&buffer),
                ],
            ),
            &Method::new(
                "_SRS".into(),
                1,
                true,
                vec![&CreateDWordField::new(&irq, &Arg(0), &FIRST_NUMBER), &And::new(&route, &irq, &ROUTE)],
            ),
        ],
    )
    .to_aml_bytes(&mut aml);
    aml
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(aml: &[u8], part: &[u8]) -> usize {
        aml.windows(part.len()).filter(|window| *window == part).count()
    }

    #[test]
    fn both_tables_have_a_row_for_each_pin() {
        let aml = routing();
        // Package(4) { 0x0003ffff, 1, Zero, 20 }, and { ..., \_SB.LNKE, Zero }
        assert_eq!(count(&aml, &[4, 0x0c, 0xff, 0xff, 3, 0, 1, 0, 0x0a, 20]), 1);
        let row = [&[4, 0x0c, 0xff, 0xff, 3, 0, 1, 0x5c, 0x2e][..], b"_SB_LNKE", &[0]].concat();
        assert_eq!(count(&aml, &row), 1);
        assert_eq!(count(&aml, b"_SB_LNK"), 128);
    }

    #[test]
    fn a_link_offers_free_interrupts() {
        let aml = links();
        assert_eq!(count(&aml, b"LNK"), 8);
        // Interrupt(ResourceConsumer, Level, ActiveLow, Shared) { 5, 10, 11 }
        let choice = [0x89, 14, 0, 0x0d, 3, 5, 0, 0, 0, 10, 0, 0, 0, 11, 0, 0, 0];
        assert_eq!(count(&aml, &choice), 8);
        assert_eq!(count(&aml, b"PRQH"), count(&aml, b"PRQA"));
    }

    #[test]
    fn the_routing_registers_are_those_of_the_bridge() {
        let [first, second] = crate::chipset::pci_host::PIRQ_ROUTES;
        let aml = isa_bridge();
        assert_eq!(count(&aml, &[b'Q', 2, 0x0a, first as u8, 0x0a, 12]), 1);
        // Reserved bits between the two groups.
        assert_eq!(second - (first + 4), 4);
        assert_eq!(count(&aml, b"PRQD\x08\x00\x20PRQE\x08"), 1);
    }
}
