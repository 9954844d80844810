//! The static ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG, HPET (ACPI 6.5, chapter 5).
//!
//! The machine is in ACPI mode from the start (no SMI_CMD), has the fixed power-management block that
//! `PM1A_EVENT` to `GPE0` name, and no C-state beyond HLT. The chipset takes these constants from here.

use super::layout::{ECAM, HPET, IOAPIC, LAPIC, LowMemory};
use super::{FirmwareError, dsdt};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::{Aml, facs::FACS, fadt, fadt::FADTBuilder, sdt::Sdt};
use replay::machine::Machine;

/// PM1a event block: status (2 bytes), enable (2 bytes).
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control register, 2 bytes.
pub const PM1A_CONTROL: u16 = 0x604;
/// Power-management timer, 4 bytes, all 32 bits count.
pub const PM_TIMER: u16 = 0x608;
/// General-purpose event block 0: status (2 bytes), enable (2 bytes).
pub const GPE0: u16 = 0x620;
/// Bytes of `GPE0`.
pub const GPE0_BYTES: u8 = 4;
/// Interrupt of fixed and general-purpose events; level-triggered, active high.
pub const SCI_IRQ: u8 = 9;
/// Reset control register and the value that resets the machine.
pub const RESET_PORT: u16 = 0xcf9;
/// Written to `RESET_PORT`: full reset.
pub const RESET_VALUE: u8 = 6;
/// SLP_TYP in PM1_CNT that means power off (S5).
pub const S5_SLP_TYP: u8 = 5;
/// CMOS index of the century.
pub const CMOS_CENTURY: u8 = 0x32;
/// Low half of the HPET's capabilities register: Intel, three 64-bit timers, legacy routing, revision 1.
pub const HPET_BLOCK_ID: u32 = 0x8086_a201;
/// ID of the I/O APIC.
pub const IOAPIC_ID: u8 = 0;

const OEM_ID: [u8; 6] = *b"RPRISE";
const OEM_TABLE_ID: [u8; 8] = *b"REPRISE ";
const OEM_REVISION: u32 = 1;
const HEADER_BYTES: u32 = 36;

/// IA-PC boot architecture flags (ACPI 6.5, table 5.10).
const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_8042: u16 = 1 << 1;
const BOOT_NO_VGA: u16 = 1 << 2;
/// Latencies so long that C2 and C3 are not supported (ACPI 6.5, table 5.9: above 100 and 1000 µs).
const NO_C2: u16 = 0xfff;
const NO_C3: u16 = 0xfff;

/// Tables and where they go, the RSDP last.
pub fn tables(machine: &Machine) -> Result<Vec<(u64, Vec<u8>)>, FirmwareError> {
    let mut area = Area { next: LowMemory::ACPI.start, tables: Vec::new() };
    let facs = area.place(bytes_of(&FACS::new()));
    let dsdt = area.place(finish(table(b"DSDT", 2), &dsdt::definition_block(machine)));
    let listed = [
        area.place(fadt(facs, dsdt)),
        area.place(madt(machine.cpu_count)),
        area.place(hpet()),
        area.place(mcfg()),
    ];
    let narrow: Vec<u8> = listed.iter().flat_map(|&gpa| (gpa as u32).to_le_bytes()).collect();
    let wide: Vec<u8> = listed.iter().flat_map(|gpa| gpa.to_le_bytes()).collect();
    let rsdt = area.place(finish(table(b"RSDT", 1), &narrow));
    let xsdt = area.place(finish(table(b"XSDT", 1), &wide));
    if area.next > LowMemory::ACPI.end {
        return Err(FirmwareError::TooManyCpus { cpus: machine.cpu_count });
    }
    area.tables.push((LowMemory::RSDP, rsdp(rsdt as u32, xsdt)));
    Ok(area.tables)
}

/// Hands out places for tables, each 64-byte aligned as the FACS must be.
struct Area {
    next: u64,
    tables: Vec<(u64, Vec<u8>)>,
}

impl Area {
    fn place(&mut self, bytes: Vec<u8>) -> u64 {
        let gpa = self.next;
        self.next = (gpa + bytes.len() as u64).next_multiple_of(64);
        self.tables.push((gpa, bytes));
        gpa
    }
}

/// Bytes that make the sum of a table zero are counted with this.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn table(signature: &[u8; 4], revision: u8) -> Sdt {
    Sdt::new(*signature, HEADER_BYTES, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION)
}

fn finish(mut table: Sdt, body: &[u8]) -> Vec<u8> {
    table.append_slice(body);
    table.as_slice().to_vec()
}

/// Root pointer, revision 2, with both root tables (ACPI 6.5, 5.2.5.3).
fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0".to_vec();
    bytes.extend_from_slice(&OEM_ID);
    bytes.push(2);
    bytes.extend_from_slice(&rsdt.to_le_bytes());
    bytes[8] = sum(&bytes).wrapping_neg();
    bytes.extend_from_slice(&36u32.to_le_bytes());
    bytes.extend_from_slice(&xsdt.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes[32] = sum(&bytes).wrapping_neg();
    bytes
}

/// An I/O register block of that many bytes; the width must agree with the block's length field.
fn io_block(port: u16, bytes: u8) -> GAS {
    let access = match bytes {
        1 => AccessSize::ByteAccess,
        2 => AccessSize::WordAccess,
        _ => AccessSize::DwordAccess,
    };
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, u64::from(port))
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.preferred_pm_profile = fadt::PmProfile::Desktop as u8;
    fadt.sci_int = u16::from(SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL).into();
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.gpe0_blk = u32::from(GPE0).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.gpe0_blk_len = GPE0_BYTES;
    fadt.x_pm1a_evt_blk = io_block(PM1A_EVENT, 4);
    fadt.x_pm1a_cnt_blk = io_block(PM1A_CONTROL, 2);
    fadt.x_pm_tmr_blk = io_block(PM_TIMER, 4);
    fadt.x_gpe0_blk = io_block(GPE0, GPE0_BYTES);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CMOS_CENTURY;
    fadt.iapc_boot_arch = (BOOT_LEGACY_DEVICES | BOOT_8042 | BOOT_NO_VGA).into();
    fadt.reset_reg = io_block(RESET_PORT, 1);
    fadt.reset_value = RESET_VALUE;
    // A clear PwrButton bit says that the power button is a fixed one; there is no sleep button and no RTC wake.
    let flags = [
        fadt::Flags::Wbinvd,
        fadt::Flags::ProcC1,
        fadt::Flags::SlpButton,
        fadt::Flags::FixRtc,
        fadt::Flags::TmrValExt,
        fadt::Flags::ResetRegSup,
    ];
    bytes_of(&flags.into_iter().fold(fadt, FADTBuilder::flag).finalize())
}

/// Interrupt controllers (ACPI 6.5, 5.2.12).
fn madt(cpu_count: u32) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    let mut body = Vec::new();
    body.extend_from_slice(&(LAPIC as u32).to_le_bytes());
    body.extend_from_slice(&PCAT_COMPAT.to_le_bytes());
    for cpu in 0..cpu_count {
        // APIC IDs from 255 on need the x2APIC form.
        match u8::try_from(cpu) {
            Ok(id) if id < 255 => {
                body.extend_from_slice(&[0, 8, id, id]);
                body.extend_from_slice(&ENABLED.to_le_bytes());
            }
            _ => {
                body.extend_from_slice(&[9, 16, 0, 0]);
                for field in [cpu, ENABLED, cpu] {
                    body.extend_from_slice(&field.to_le_bytes());
                }
            }
        }
    }
    body.extend_from_slice(&[1, 12, IOAPIC_ID, 0]);
    body.extend_from_slice(&(IOAPIC as u32).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    // ISA interrupt → GSI with flags: the 8254 is wired to pin 2; the SCI is level-triggered, active high.
    for (irq, gsi, flags) in [(0u8, 2u32, 0u16), (SCI_IRQ, u32::from(SCI_IRQ), 0b1101)] {
        body.extend_from_slice(&[2, 10, 0, irq]);
        body.extend_from_slice(&gsi.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
    }
    // LINT1 of every CPU is NMI.
    body.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    if cpu_count > 255 {
        body.extend_from_slice(&[10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    finish(table(b"APIC", 3), &body)
}

/// HPET description table (IA-PC HPET specification 1.0a, 3.2.4).
fn hpet() -> Vec<u8> {
    const MINIMUM_TICK: u16 = 0x80;
    let mut body = HPET_BLOCK_ID.to_le_bytes().to_vec();
    body.extend_from_slice(&[0, 64, 0, 0]);
    body.extend_from_slice(&HPET.to_le_bytes());
    body.push(0);
    body.extend_from_slice(&MINIMUM_TICK.to_le_bytes());
    body.push(0);
    finish(table(b"HPET", 1), &body)
}

/// PCI Express configuration space (PCI Firmware 3.3, 4.1.2).
fn mcfg() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&ECAM.start.to_le_bytes());
    body.extend_from_slice(&[0, 0, 0, 255, 0, 0, 0, 0]);
    finish(table(b"MCFG", 1), &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::tests::machine;

    fn find(tables: &[(u64, Vec<u8>)], signature: &[u8]) -> (u64, Vec<u8>) {
        tables.iter().find(|(_, bytes)| bytes.starts_with(signature)).unwrap().clone()
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    #[test]
    fn checksums_lengths_and_places() {
        for cpus in [1, 2, 254, 300] {
            let tables = tables(&machine(1 << 30, cpus)).unwrap();
            for (gpa, bytes) in &tables {
                if bytes.starts_with(b"RSD PTR ") {
                    assert_eq!((sum(&bytes[..20]), sum(bytes), bytes.len()), (0, 0, 36));
                    continue;
                }
                assert_eq!(u32_at(bytes, 4) as usize, bytes.len());
                assert_eq!(gpa % 64, 0);
                if !bytes.starts_with(b"FACS") {
                    assert_eq!(sum(bytes), 0, "{}", String::from_utf8_lossy(&bytes[..4]));
                }
            }
            assert!(tables.windows(2).all(|pair| pair[0].0 + pair[0].1.len() as u64 <= pair[1].0));
        }
    }

    #[test]
    fn root_tables_list_every_table() {
        let tables = tables(&machine(1 << 30, 1)).unwrap();
        let (_, rsdp) = find(&tables, b"RSD PTR ");
        let (rsdt_gpa, rsdt) = find(&tables, b"RSDT");
        let (xsdt_gpa, xsdt) = find(&tables, b"XSDT");
        assert_eq!((u32_at(&rsdp, 16), u32_at(&rsdp, 24)), (rsdt_gpa as u32, xsdt_gpa as u32));
        for (index, signature) in [b"FACP", b"APIC", b"HPET", b"MCFG"].into_iter().enumerate() {
            let gpa = find(&tables, signature).0 as u32;
            assert_eq!((u32_at(&rsdt, 36 + 4 * index), u32_at(&xsdt, 36 + 8 * index)), (gpa, gpa));
        }
    }

    #[test]
    fn fadt_fields_are_where_the_specification_puts_them() {
        let tables = tables(&machine(1 << 30, 1)).unwrap();
        let (_, fadt) = find(&tables, b"FACP");
        assert_eq!(fadt.len(), 276);
        assert_eq!(u32_at(&fadt, 36), find(&tables, b"FACS").0 as u32);
        assert_eq!(u32_at(&fadt, 40), find(&tables, b"DSDT").0 as u32);
        assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9);
        assert_eq!(u32_at(&fadt, 48), 0, "SMI_CMD");
        assert_eq!([56, 64, 76, 80].map(|at| u32_at(&fadt, at)), [0x600, 0x604, 0x608, 0x620]);
        assert_eq!(fadt[88..93], [4, 2, 0, 4, 4]);
        assert_eq!(fadt[108], 0x32);
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 7);
        assert_eq!(u32_at(&fadt, 112), 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10);
        assert_eq!(fadt[116..129], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]);
    }

    #[test]
    fn madt_names_every_cpu() {
        let (_, madt) = find(&tables(&machine(1 << 30, 257)).unwrap(), b"APIC");
        let mut kinds = [0; 11];
        let mut at = 44;
        while at < madt.len() {
            kinds[usize::from(madt[at])] += 1;
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(at, madt.len());
        assert_eq!(kinds, [255, 1, 2, 0, 1, 0, 0, 0, 0, 2, 1]);
    }
}
