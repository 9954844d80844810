//! Cached translations of one CPU: one flat table by page number (docs/decisions/0001-flat-table.md).
//!
//! An entry says where the page is and what may be done to it, so one load, one mask and one compare
//! decide an access. Which entries exist is part of the machine's state: they decide when accessed and
//! dirty bits are set in the guest's page tables. `FAST_WRITE`, which may be dropped at any time, and `WATCHED` are not.
//!
//! Entries go only by a flush, never by lack of room, so their set depends on the guest alone.

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Entry bits. Bits 0…2 are zero, 12…46 the guest physical page, 48…63 copies of linear address bit 47.
pub mod entry {
    /// The entry holds a translation.
    pub const PRESENT: u64 = 1 << 3;
    /// User-mode code may touch the page.
    pub const USER: u64 = 1 << 4;
    /// The page tables allow writing.
    pub const WRITE: u64 = 1 << 5;
    /// The dirty bit is set in the page tables.
    pub const DIRTY: u64 = 1 << 6;
    /// The page tables allow execution.
    pub const EXECUTE: u64 = 1 << 7;
    /// A global page: it stays when CR3 is loaded.
    pub const GLOBAL: u64 = 1 << 8;
    /// A write needs no check: it was permitted before, the page is RAM, noted as dirty and free of code. Not machine state.
    pub const FAST_WRITE: u64 = 1 << 9;
    /// The page is not RAM.
    pub const IO: u64 = 1 << 10;
    /// The translation came from a large page.
    pub const LARGE: u64 = 1 << 11;
    /// The guest physical page.
    pub const PAGE: u64 = 0x0000_7fff_ffff_f000;
    /// A debugger watches the page: every access takes the slow path. Not machine state.
    pub const WATCHED: u64 = 1 << 47;
    /// What is not machine state.
    pub const OWN: u64 = FAST_WRITE | WATCHED;
    /// Must equal the linear address's bits 48…63.
    pub const SIGN: u64 = 0xffff_0000_0000_0000;
}

/// The state of a [`Tlb`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTlb {
    slots: Vec<u64>,
    values: Vec<u64>,
    huge_regions: Vec<u64>,
    large_slots: u64,
}

const TABLE_SLOTS: usize = 1 << 36;

/// How large the page is that a translation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Mib2,
    /// 4 MiB.
    Mib4,
    /// 1 GiB.
    Gib1,
}

/// The translations of one CPU.
pub struct Tlb {
    table: NonNull<u64>,
    /// Slots that hold an entry that is not global; may name a slot twice, or one that was cleared.
    local: Vec<u64>,
    /// The same for global entries.
    global: Vec<u64>,
    /// Slots that have had `FAST_WRITE` since it was last dropped.
    fast: Vec<u64>,
    /// 1 GiB regions (linear address >> 30) that hold entries of 1 GiB pages.
    huge_regions: Vec<u64>,
    /// Slots that a large page of less than 1 GiB may have: 512, or 1024 where there are pages of 4 MiB.
    large_slots: u64,
    /// Length of a slot list at which it is cleaned of duplicates.
    compact_at: usize,
    /// Rises with every flush and every exchanged entry: what was derived from older ones is void.
    generation: u64,
    /// Slots of the pages that a debugger watches, sorted.
    watched: Vec<u64>,
}

// SAFETY: `table` points to a mapping that this value owns.
unsafe impl Send for Tlb {}

impl Tlb {
    /// An empty table. Reserves 512 GiB of address space; memory is used for touched parts only.
    pub fn new() -> std::io::Result<Tlb> {
        let length = NonZeroUsize::new(TABLE_SLOTS * 8).expect("not zero");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let table =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Tlb {
            table: table.cast(),
            local: vec![],
            global: vec![],
            fast: vec![],
            huge_regions: vec![],
            large_slots: 512,
            compact_at: 1 << 17,
            generation: 1,
            watched: vec![],
        })
    }

    /// Slot of a linear address.
    #[inline(always)]
    fn slot(gva: u64) -> usize {
        (gva << 16 >> 28) as usize
    }

    /// The entry for a linear address; one for another canonical half shows in its SIGN bits.
    #[inline(always)]
    pub fn entry(&self, gva: u64) -> u64 {
        // SAFETY: `slot` is below 2^36 for every address, and the table has 2^36 slots.
        unsafe { *self.table.as_ptr().add(Self::slot(gva)) }
    }

    /// Puts an entry for a canonical address; `LARGE` is set as `span` says.
    pub fn insert(&mut self, gva: u64, value: u64, span: Span) {
        let value = if span == Span::Small { value } else { value | entry::LARGE };
        debug_assert!(value & entry::PRESENT != 0 && value & (7 | entry::OWN) == 0);
        let slot = Self::slot(gva);
        let value = value | self.watched_bit(slot as u64);
        // SAFETY: as for `entry`.
        let place = unsafe { &mut *self.table.as_ptr().add(slot) };
        if *place == 0 || (*place ^ value) & entry::GLOBAL != 0 {
            let list = if value & entry::GLOBAL != 0 { &mut self.global } else { &mut self.local };
            list.push(slot as u64);
        }
        // A walk that found the tables changed replaces what others may have remembered of the old entry.
        if *place != 0 && (*place ^ value) & (entry::PAGE | entry::SIGN | entry::USER | entry::EXECUTE) != 0 {
            self.generation += 1;
        }
        *place = value;
        match span {
            Span::Small | Span::Mib2 => {}
            Span::Mib4 => self.large_slots = 1024,
            Span::Gib1 if self.huge_regions.contains(&(gva >> 30)) => {}
            Span::Gib1 => self.huge_regions.push(gva >> 30),
        }
    }

    fn watched_bit(&self, slot: u64) -> u64 {
        let watched = !self.watched.is_empty() && self.watched.binary_search(&slot).is_ok();
        if watched { entry::WATCHED } else { 0 }
    }

    /// Marks the entries of the pages of these addresses as `WATCHED`, now and in future, and no others.
    pub fn watch(&mut self, addresses: impl Iterator<Item = u64>) {
        let mut slots: Vec<u64> = addresses.map(|gva| Self::slot(gva) as u64).collect();
        slots.sort_unstable();
        slots.dedup();
        let before = std::mem::replace(&mut self.watched, slots.clone());
        for slot in before.into_iter().chain(slots) {
            let value = self.at(slot);
            if value != 0 {
                let value = value & !entry::WATCHED | self.watched_bit(slot);
                // SAFETY: `at` has checked the slot.
                unsafe { *self.table.as_ptr().add(slot as usize) = value };
            }
        }
    }

    /// Adds `FAST_WRITE` to the entry for an address.
    pub fn allow_fast_writes(&mut self, gva: u64) {
        let slot = Self::slot(gva);
        // SAFETY: as for `entry`.
        let place = unsafe { &mut *self.table.as_ptr().add(slot) };
        debug_assert!(*place & entry::PRESENT != 0);
        if *place & entry::FAST_WRITE == 0 {
            *place |= entry::FAST_WRITE;
            self.fast.push(slot as u64);
        }
    }

    /// Counts flushes and exchanged entries: whoever caches what an entry said compares this.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Drops all translations, global ones too.
    pub fn flush_all(&mut self) {
        self.flush_non_global();
        for slot in std::mem::take(&mut self.global) {
            self.clear(slot);
        }
        self.huge_regions.clear();
        self.large_slots = 512;
    }

    /// Drops all translations that are not global.
    pub fn flush_non_global(&mut self) {
        self.generation += 1;
        let mut local = std::mem::take(&mut self.local);
        for slot in local.drain(..) {
            if self.at(slot) & entry::GLOBAL == 0 {
                self.clear(slot);
            }
        }
        self.local = local;
        self.fast_check();
    }

    /// Drops the translation of the page of `gva`, global or not, with all parts of it if it is a large page.
    pub fn flush_page(&mut self, gva: u64) {
        self.generation += 1;
        let slot = Self::slot(gva) as u64;
        self.clear(slot);
        if self.huge_regions.contains(&(gva >> 30)) {
            self.clear_large(slot >> 18 << 18, 1 << 18);
        } else {
            self.clear_large(slot & !(self.large_slots - 1), self.large_slots);
        }
        self.compact();
    }

    fn clear_large(&mut self, first: u64, count: u64) {
        for slot in first..first + count {
            if self.at(slot) & entry::LARGE != 0 {
                self.clear(slot);
            }
        }
    }

    #[inline(always)]
    fn at(&self, slot: u64) -> u64 {
        assert!(slot < TABLE_SLOTS as u64);
        // SAFETY: checked in the line above.
        unsafe { *self.table.as_ptr().add(slot as usize) }
    }

    #[inline(always)]
    fn clear(&mut self, slot: u64) {
        assert!(slot < TABLE_SLOTS as u64);
        // SAFETY: checked in the line above.
        unsafe { *self.table.as_ptr().add(slot as usize) = 0 }
    }

    /// Keeps the slot lists short when pages are flushed and filled again and again.
    fn compact(&mut self) {
        let table = self.table.as_ptr();
        for list in [&mut self.local, &mut self.global] {
            if list.len() > self.compact_at {
                list.sort_unstable();
                list.dedup();
                // SAFETY: slots in the lists come from `slot()`.
                list.retain(|&slot| unsafe { *table.add(slot as usize) } != 0);
                self.compact_at = self.compact_at.max(2 * list.len());
            }
        }
    }

    /// Keeps `fast` short when entries with `FAST_WRITE` go by flushes.
    fn fast_check(&mut self) {
        if self.fast.len() > 1 << 14 {
            self.drop_fast_writes();
        }
    }

    /// Takes `FAST_WRITE` from every entry.
    pub fn drop_fast_writes(&mut self) {
        for slot in std::mem::take(&mut self.fast) {
            // SAFETY: slots in `fast` come from `slot()`.
            unsafe { *self.table.as_ptr().add(slot as usize) &= !entry::FAST_WRITE };
        }
    }

    /// Takes `FAST_WRITE` from the entries of one guest physical page: it now holds code.
    pub fn drop_fast_writes_of(&mut self, gpa: u64) {
        let table = self.table.as_ptr();
        self.fast.retain(|&slot| {
            // SAFETY: slots in `fast` come from `slot()`.
            let place = unsafe { &mut *table.add(slot as usize) };
            if *place & entry::PAGE == gpa & entry::PAGE {
                *place &= !entry::FAST_WRITE;
            }
            *place & entry::FAST_WRITE != 0
        });
    }

    /// Everything that decides what later accesses and flushes do.
    pub fn save(&self) -> SavedTlb {
        let (slots, values) = self.entries().into_iter().unzip();
        let mut huge_regions = self.huge_regions.clone();
        huge_regions.sort_unstable();
        SavedTlb { slots, values, huge_regions, large_slots: self.large_slots }
    }

    /// Takes a saved state; false if it cannot be one.
    pub fn restore(&mut self, saved: &SavedTlb) -> bool {
        self.flush_all();
        self.drop_fast_writes();
        let fits = |(&slot, &value): (&u64, &u64)| {
            slot < TABLE_SLOTS as u64 && value & entry::PRESENT != 0 && value & (7 | entry::OWN) == 0
        };
        let entries = || saved.slots.iter().zip(&saved.values);
        let right = saved.slots.len() == saved.values.len() && entries().all(fits);
        if !right || !matches!(saved.large_slots, 512 | 1024) {
            return false;
        }
        for (&slot, &value) in entries() {
            let value = value | self.watched_bit(slot);
            // SAFETY: the slot is below 2^36 (checked above).
            unsafe { *self.table.as_ptr().add(slot as usize) = value };
            let list = if value & entry::GLOBAL != 0 { &mut self.global } else { &mut self.local };
            list.push(slot);
        }
        self.huge_regions.clone_from(&saved.huge_regions);
        self.large_slots = saved.large_slots;
        true
    }

    /// All entries as (slot, entry without `OWN`), sorted: machine state.
    pub fn entries(&self) -> Vec<(u64, u64)> {
        let mut slots: Vec<u64> = self.local.iter().chain(&self.global).copied().collect();
        slots.sort_unstable();
        slots.dedup();
        let read = |slot: u64| (slot, self.at(slot) & !entry::OWN);
        slots.into_iter().map(read).filter(|&(_, value)| value != 0).collect()
    }
}

impl Drop for Tlb {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size; a failure cannot be repaired here.
        let _ = unsafe { munmap(self.table.cast(), TABLE_SLOTS * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: u64 = entry::PRESENT | entry::WRITE | 0x5000;

    #[test]
    fn flushes_keep_what_they_must() {
        let mut tlb = Tlb::new().expect("address space");
        tlb.insert(0x1000, ENTRY, Span::Small);
        tlb.insert(0x2000, ENTRY | entry::GLOBAL, Span::Small);
        tlb.insert(0xffff_8000_0000_1000, ENTRY | entry::SIGN, Span::Small);
        tlb.flush_page(0x1fff);
        assert_eq!(tlb.entry(0x1000), 0);
        assert_eq!(tlb.entries().len(), 2);
        tlb.flush_non_global();
        assert_eq!(tlb.entries(), vec![(2, ENTRY | entry::GLOBAL)]);
        tlb.flush_all();
        assert!(tlb.entries().is_empty());
    }

    #[test]
    fn large_pages_go_whole() {
        let mut tlb = Tlb::new().expect("address space");
        tlb.insert(0x20_0000, ENTRY, Span::Mib2);
        tlb.insert(0x3f_f000, ENTRY, Span::Mib2);
        tlb.insert(0x4000_0000, ENTRY, Span::Gib1);
        tlb.insert(0x7000_0000, ENTRY, Span::Gib1);
        tlb.flush_page(0x28_0000);
        assert_eq!(tlb.entries().len(), 2);
        tlb.flush_page(0x5000_0000);
        assert!(tlb.entries().is_empty());
        tlb.insert(0x80_0000, ENTRY, Span::Mib4);
        tlb.insert(0xbf_f000, ENTRY, Span::Mib4);
        tlb.flush_page(0x80_0000);
        assert!(tlb.entries().is_empty());
    }

    #[test]
    fn exchanged_entries_count() {
        let mut tlb = Tlb::new().expect("address space");
        let before = tlb.generation();
        tlb.insert(0x1000, ENTRY, Span::Small);
        tlb.insert(0x1000, ENTRY | entry::DIRTY, Span::Small);
        assert_eq!(tlb.generation(), before);
        tlb.insert(0x1000, ENTRY + 0x1000, Span::Small);
        assert_ne!(tlb.generation(), before);
    }

    #[test]
    fn watched_pages_are_marked_and_nobody_else_sees_it() {
        let mut tlb = Tlb::new().expect("address space");
        let high = 0xffff_8000_0000_7000;
        tlb.insert(0x1000, ENTRY, Span::Small);
        let state = tlb.entries();
        tlb.watch([0x1ff8, high + 0x10].into_iter());
        assert_eq!((tlb.entry(0x1000), tlb.entries()), (ENTRY | entry::WATCHED, state.clone()));
        tlb.insert(high, ENTRY | entry::SIGN, Span::Small);
        assert_ne!(tlb.entry(high) & entry::WATCHED, 0);
        let saved = tlb.save();
        assert!(tlb.restore(&saved));
        assert_ne!(tlb.entry(high) & entry::WATCHED, 0);
        tlb.watch([high].into_iter());
        assert_eq!(tlb.entry(0x1000), ENTRY);
        tlb.watch(std::iter::empty());
        assert_eq!((tlb.entry(high), tlb.save()), (ENTRY | entry::SIGN, saved));
    }

    #[test]
    fn fast_writes_are_dropped() {
        let mut tlb = Tlb::new().expect("address space");
        for (gva, value) in [(0x1000, ENTRY), (0x9000, ENTRY), (0x2000, ENTRY + 0x1000)] {
            tlb.insert(gva, value, Span::Small);
            tlb.allow_fast_writes(gva);
        }
        tlb.drop_fast_writes_of(0x5123);
        assert_eq!(tlb.entry(0x9000), ENTRY);
        assert_ne!(tlb.entry(0x2000) & entry::FAST_WRITE, 0);
        tlb.drop_fast_writes();
        assert_eq!(tlb.entry(0x2000), ENTRY + 0x1000);
    }
}
