//! Page tables of the test guests, in every format.

use super::guest::Guest;
use super::layout::{TABLES, TABLES_END};

/// Page-table entry bits (SDM 3A 4.3–4.5): P.
pub const PRESENT: u64 = 1 << 0;
/// R/W.
pub const WRITE: u64 = 1 << 1;
/// U/S.
pub const USER: u64 = 1 << 2;
/// A.
pub const ACCESSED: u64 = 1 << 5;
/// D.
pub const DIRTY: u64 = 1 << 6;
/// PS: the entry maps a large page.
pub const LARGE: u64 = 1 << 7;
/// G.
pub const GLOBAL: u64 = 1 << 8;
/// XD.
pub const NO_EXECUTE: u64 = 1 << 63;

/// A format of paging structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Long mode.
    FourLevel,
    /// Three levels with entries of 8 bytes.
    Pae,
    /// Entries of 4 bytes.
    TwoLevel,
}

impl Format {
    /// Number of levels; the leaf of a small page is at level 0.
    pub fn levels(self) -> usize {
        match self {
            Format::FourLevel => 4,
            Format::Pae => 3,
            Format::TwoLevel => 2,
        }
    }

    fn index_bits(self) -> u32 {
        if self == Format::TwoLevel { 10 } else { 9 }
    }

    fn entry_bytes(self) -> u64 {
        if self == Format::TwoLevel { 4 } else { 8 }
    }

    /// Bytes that an entry of a level maps.
    pub fn span(self, level: usize) -> u64 {
        1 << (12 + self.index_bits() * level as u32)
    }
}

/// Paging structures under construction.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Their format.
    pub format: Format,
    /// Physical address of the top table.
    pub root: u64,
    next: u64,
}

impl Tables {
    /// An empty root.
    pub fn new(format: Format) -> Tables {
        Tables { format, root: TABLES, next: TABLES + 0x1000 }
    }

    fn allocate(&mut self) -> u64 {
        assert!(self.next < TABLES_END, "too many page tables");
        self.next += 0x1000;
        self.next - 0x1000
    }
}

impl Guest {
    /// Where the entry for `gva` at `level` lies; all tables on the way are made if need be.
    pub fn entry_address(&mut self, gva: u64, level: usize) -> u64 {
        let format = self.tables.format;
        let mut table = self.tables.root;
        let mut at_level = format.levels() - 1;
        loop {
            let index = gva / format.span(at_level) % (1 << format.index_bits());
            let at = table + index * format.entry_bytes();
            if at_level == level {
                return at;
            }
            if self.table_entry(at) & PRESENT == 0 {
                let fresh = self.tables.allocate();
                let pointer = format == Format::Pae && at_level == 2;
                self.set_table_entry(at, fresh | if pointer { PRESENT } else { PRESENT | WRITE | USER });
            }
            table = self.table_entry(at) & 0x000f_ffff_ffff_f000;
            at_level -= 1;
        }
    }

    fn table_entry(&self, at: u64) -> u64 {
        match self.tables.format.entry_bytes() {
            4 => u64::from(self.core.mem.ram.get::<u32>(at)),
            _ => self.core.mem.ram.get(at),
        }
    }

    fn set_table_entry(&mut self, at: u64, value: u64) {
        let len = self.tables.format.entry_bytes() as usize;
        self.core.mem.ram.write_bytes(at, &value.to_le_bytes()[..len]);
    }

    /// The entry for `gva` at `level`.
    pub fn pte(&mut self, gva: u64, level: usize) -> u64 {
        let at = self.entry_address(gva, level);
        self.table_entry(at)
    }

    /// Sets the entry for `gva` at `level`, flushing nothing.
    pub fn set_pte(&mut self, gva: u64, level: usize, value: u64) {
        let at = self.entry_address(gva, level);
        self.set_table_entry(at, value);
    }

    /// Maps one page: `level` 0 is a page of 4 KiB, 1 of 2 or 4 MiB, 2 of 1 GiB.
    pub fn map(&mut self, gva: u64, gpa: u64, level: usize, flags: u64) {
        let large = if level > 0 { LARGE } else { 0 };
        self.set_pte(gva, level, gpa | flags | large);
    }
}
