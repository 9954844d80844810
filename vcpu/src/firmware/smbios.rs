//! SMBIOS 2.8 tables: who made the machine and what is in it (DMTF DSP0134).

use super::FirmwareError;
use super::layout::{LowMemory, ram_ranges};
use replay::machine::Machine;

const MANUFACTURER: &str = "reprise";
const PRODUCT: &str = "reprise PC";
/// Constants: a recording replays on later builds, which must show the guest the same machine.
const VERSION: &str = "1.0";
const FIRMWARE_DATE: &str = "01/01/2026";
const ENTRY_POINT_BYTES: u64 = 31;

const CHASSIS: u16 = 0x300;
const PROCESSOR: u16 = 0x400;
const MEMORY_ARRAY: u16 = 0x1000;
const MEMORY_DEVICE: u16 = 0x1100;
const MAPPED_LOW: u16 = 0x1300;
const MAPPED_HIGH: u16 = 0x1301;

/// One structure: formatted area, then strings that fields name by number from 1.
struct Structure {
    formatted: Vec<u8>,
    strings: Vec<u8>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Structure {
        let mut formatted = vec![kind, 0];
        formatted.extend_from_slice(&handle.to_le_bytes());
        Structure { formatted, strings: Vec::new() }
    }

    fn bytes(mut self, bytes: &[u8]) -> Structure {
        self.formatted.extend_from_slice(bytes);
        self
    }

    fn u16(self, value: u16) -> Structure {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(self, value: u32) -> Structure {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Structure {
        self.bytes(&value.to_le_bytes())
    }

    fn string(mut self, text: &str) -> Structure {
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        let number = self.strings.iter().filter(|byte| **byte == 0).count() as u8;
        self.bytes(&[number])
    }

    fn finish(mut self) -> Vec<u8> {
        self.formatted[1] = self.formatted.len() as u8;
        // The string set ends with an empty string; an empty set is two zero bytes.
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        self.strings.push(0);
        [self.formatted, self.strings].concat()
    }
}

/// Entry point and structures, with their addresses.
pub fn tables(machine: &Machine) -> Result<Vec<(u64, Vec<u8>)>, FirmwareError> {
    let uuid = match &machine.uuid {
        Some(text) => parse_uuid(text).ok_or_else(|| FirmwareError::Uuid(text.clone()))?,
        None => [0; 16],
    };
    let mut structures = vec![bios(), system(&uuid), chassis(), processor(machine.cpu_count)];
    structures.extend(memory(machine.ram_bytes));
    structures.push(Structure::new(32, 0x2000).bytes(&[0; 7]).finish());
    structures.push(Structure::new(127, 0x7f00).finish());
    let table_gpa = (LowMemory::SMBIOS.start + ENTRY_POINT_BYTES).next_multiple_of(16);
    let entry = entry_point(table_gpa as u32, &structures);
    let table = structures.concat();
    assert!(table_gpa + table.len() as u64 <= LowMemory::SMBIOS.end, "SMBIOS structures have a fixed size");
    Ok(vec![(LowMemory::SMBIOS.start, entry), (table_gpa, table)])
}

/// Bytes of a UUID as SMBIOS 2.6 and later store it: the first three fields are little-endian.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = groups.concat();
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = u128::from_str_radix(&digits, 16).ok()?.to_be_bytes();
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

/// The 2.1 entry point with its two checksums (DSP0134, 5.2.1).
fn entry_point(table: u32, structures: &[Vec<u8>]) -> Vec<u8> {
    let largest = structures.iter().map(Vec::len).max().unwrap_or(0);
    let table_bytes: usize = structures.iter().map(Vec::len).sum();
    let mut entry = b"_SM_\0".to_vec();
    entry.extend_from_slice(&[ENTRY_POINT_BYTES as u8, 2, 8]);
    entry.extend_from_slice(&(largest as u16).to_le_bytes());
    entry.extend_from_slice(&[0; 6]);
    entry.extend_from_slice(b"_DMI_\0");
    entry.extend_from_slice(&(table_bytes as u16).to_le_bytes());
    entry.extend_from_slice(&table.to_le_bytes());
    entry.extend_from_slice(&(structures.len() as u16).to_le_bytes());
    entry.push(0x28);
    entry[21] = sum(&entry[16..]).wrapping_neg();
    entry[4] = sum(&entry).wrapping_neg();
    entry
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// BIOS information (type 0).
fn bios() -> Vec<u8> {
    const CHARACTERISTICS_NOT_SUPPORTED: u64 = 1 << 3;
    const ACPI_SUPPORTED: u8 = 1;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    Structure::new(0, 0)
        .string(MANUFACTURER)
        .string(VERSION)
        .u16(0xe000)
        .string(FIRMWARE_DATE)
        .bytes(&[1])
        .u64(CHARACTERISTICS_NOT_SUPPORTED)
        .bytes(&[ACPI_SUPPORTED, VIRTUAL_MACHINE, 0, 0, 0xff, 0xff])
        .finish()
}

/// System information (type 1).
fn system(uuid: &[u8; 16]) -> Vec<u8> {
    const WAKE_UP_POWER_SWITCH: u8 = 6;
    Structure::new(1, 0x100)
        .string(MANUFACTURER)
        .string(PRODUCT)
        .string(VERSION)
        .bytes(&[0])
        .bytes(uuid)
        .bytes(&[WAKE_UP_POWER_SWITCH, 0, 0])
        .finish()
}

/// Chassis (type 3): "other", all states safe.
fn chassis() -> Vec<u8> {
    Structure::new(3, CHASSIS)
        .string(MANUFACTURER)
        .bytes(&[1])
        .string(VERSION)
        .bytes(&[0, 0, 3, 3, 3, 2])
        .u32(0)
        .bytes(&[0, 0, 0, 0, 0])
        .finish()
}

/// Processor (type 4): one socket that holds all CPUs.
fn processor(count: u32) -> Vec<u8> {
    const CENTRAL: u8 = 3;
    const FAMILY_OTHER: u8 = 1;
    const ENABLED_AND_POPULATED: u8 = 0x41;
    const CAN_DO_64_BIT: u16 = 1 << 2;
    let cores = u8::try_from(count).unwrap_or(0xff);
    Structure::new(4, PROCESSOR)
        .string("CPU 0")
        .bytes(&[CENTRAL, FAMILY_OTHER])
        .string(MANUFACTURER)
        .u64(0)
        .string(VERSION)
        .bytes(&[0])
        .u16(0)
        .u16(0)
        .u16(0)
        .bytes(&[ENABLED_AND_POPULATED, 1])
        .u16(0xffff)
        .u16(0xffff)
        .u16(0xffff)
        .bytes(&[0, 0, 0, cores, cores, cores])
        .u16(CAN_DO_64_BIT)
        .u16(u16::from(FAMILY_OTHER))
        .finish()
}

/// Memory array, one memory device, mapped address ranges (types 16, 17, 19).
fn memory(ram_bytes: u64) -> Vec<Vec<u8>> {
    const MULTI_BIT_ECC: u8 = 6;
    const NO_ERROR_HANDLE: u16 = 0xfffe;
    let kib = ram_bytes >> 10;
    let array = Structure::new(16, MEMORY_ARRAY).bytes(&[1, 3, MULTI_BIT_ECC]);
    let array = match u32::try_from(kib) {
        Ok(small) if small < 1 << 31 => array.u32(small).u16(NO_ERROR_HANDLE).u16(1).u64(0),
        _ => array.u32(1 << 31).u16(NO_ERROR_HANDLE).u16(1).u64(ram_bytes),
    };
    let mib = (ram_bytes >> 20) as u32;
    // From 32 GiB - 1 MiB on the size is in the extended field (DSP0134, 7.18.5).
    let (size, extended_size) = if mib < 0x7fff { (mib as u16, 0) } else { (0x7fff, mib) };
    let device = Structure::new(17, MEMORY_DEVICE)
        .u16(MEMORY_ARRAY)
        .u16(NO_ERROR_HANDLE)
        .u16(0xffff)
        .u16(0xffff)
        .u16(size)
        .bytes(&[9, 0])
        .string("DIMM 0")
        .bytes(&[0, 7])
        .u16(1 << 1)
        .u16(0)
        .string(MANUFACTURER)
        .bytes(&[0, 0, 0, 0])
        .u32(extended_size)
        .u16(0)
        .u16(0)
        .u16(0)
        .u16(0);
    let (low, high) = ram_ranges(ram_bytes);
    let ranges =
        [(MAPPED_LOW, low), (MAPPED_HIGH, high)].into_iter().filter(|(_, range)| range.start < range.end);
    let mapped = ranges.map(|(handle, range)| {
        // Inclusive KiB addresses; a range of RAM is whole pages.
        let first = (range.start >> 10) as u32;
        let last = ((range.end >> 10) - 1) as u32;
        Structure::new(19, handle).u32(first).u32(last).u16(MEMORY_ARRAY).bytes(&[1]).u64(0).u64(0).finish()
    });
    [array.finish(), device.finish()].into_iter().chain(mapped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::tests::machine;

    /// Splits the table into (type, formatted area, strings).
    fn parse(table: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut structures = Vec::new();
        let mut rest = table;
        while !rest.is_empty() {
            let (formatted, after) = rest.split_at(usize::from(rest[1]));
            let end = after.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let text = String::from_utf8(after[..end].to_vec()).unwrap();
            structures.push((
                formatted[0],
                formatted.to_vec(),
                text.split('\0').map(str::to_owned).collect(),
            ));
            rest = &after[end + 2..];
        }
        structures
    }

    #[test]
    fn entry_point_describes_the_table() {
        let tables = tables(&machine(1 << 30, 1)).unwrap();
        let [(gpa, entry), (table_gpa, table)] = &tables[..] else { panic!() };
        assert_eq!((gpa % 16, entry.len(), sum(entry), sum(&entry[16..])), (0, 31, 0, 0));
        assert_eq!(entry[24..28], (*table_gpa as u32).to_le_bytes());
        assert_eq!(entry[22..24], (table.len() as u16).to_le_bytes());
        assert_eq!(entry[28], parse(table).len() as u8);
    }

    #[test]
    fn structures_have_the_lengths_of_their_version() {
        let tables = tables(&machine(5 << 30, 4)).unwrap();
        let lengths: Vec<_> = parse(&tables[1].1).iter().map(|(kind, area, _)| (*kind, area.len())).collect();
        let expected =
            [(0, 24), (1, 27), (3, 22), (4, 42), (16, 23), (17, 40), (19, 31), (19, 31), (32, 11), (127, 4)];
        assert_eq!(lengths, expected);
    }

    #[test]
    fn system_carries_name_and_uuid() {
        let tables = tables(&machine(1 << 30, 1)).unwrap();
        let (_, system, strings) = parse(&tables[1].1).swap_remove(1);
        assert_eq!(strings[..2], ["reprise", "reprise PC"]);
        let uuid =
            [0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
        assert_eq!(system[8..24], uuid);
    }

    #[test]
    fn bad_uuids_are_refused() {
        for text in [
            "",
            "12345678-9abc-def0-1122-33445566778",
            "12345678-9abc-def0-1122-33445566778x",
            "+2345678-9abc-def0-1122-334455667788",
        ] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }
}
