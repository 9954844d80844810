//! The memory map a kernel is given: e820 entries (ACPI 6.5, 15.1), shared by all boot protocols.

use super::layout::{ECAM, LowMemory, ram_ranges};
use std::ops::Range;

/// What a range of guest physical addresses is (ACPI 6.5, table 15.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// RAM for the kernel to use.
    Ram = 1,
    /// Not for use.
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Addresses.
    pub range: Range<u64>,
    /// What is there.
    pub kind: RangeKind,
}

impl MapEntry {
    /// Bytes in the range.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The map of a machine with that much RAM, ascending and without overlaps.
pub fn entries(ram_bytes: u64) -> Vec<MapEntry> {
    let (low, high) = ram_ranges(ram_bytes);
    let rows = [
        (0..LowMemory::EBDA, RangeKind::Ram),
        (LowMemory::EBDA..LowMemory::EBDA_END, RangeKind::Reserved),
        (LowMemory::ACPI.start..LowMemory::END, RangeKind::Reserved),
        (LowMemory::END..low.end, RangeKind::Ram),
        (ECAM, RangeKind::Reserved),
        (high, RangeKind::Ram),
    ];
    let entries = rows.into_iter().filter(|(range, _)| range.start < range.end);
    entries.map(|(range, kind)| MapEntry { range, kind }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_ram_adds_up() {
        for ram_bytes in [16 << 20, 1 << 30, 3 << 30, 64 << 30] {
            let map = entries(ram_bytes);
            assert!(map.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            let usable: u64 = map.iter().filter(|e| e.kind == RangeKind::Ram).map(MapEntry::bytes).sum();
            assert_eq!(usable, ram_bytes - LowMemory::END + LowMemory::EBDA);
        }
    }
}
