//! The page tables as the CPU's registers describe them, read without a trace: no accessed bits, no cached translations.

use crate::core::Core;
use crate::state::{cr0, cr4, efer};
use replay::inspect::{Answer, MAPPINGS_MAX, Mapping};

/// Entries looked at for one answer, so that no table keeps the machine waiting.
const STEPS_MAX: usize = 1 << 16;

/// Bits of an entry (SDM 3A tables 4-14 to 4-20).
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Address of a table or page in an entry of 8 bytes.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One level: lowest bit of the linear address that selects an entry, number of bits, an entry may be a large page.
type Level = (u32, u32, bool);

/// The levels of a paging mode, and the size of its entries.
struct Format {
    levels: &'static [Level],
    entry_bytes: u64,
    /// Bits of a linear address.
    linear_bits: u32,
}

const FOUR_LEVEL: Format = Format {
    levels: &[(39, 9, false), (30, 9, true), (21, 9, true), (12, 9, false)],
    entry_bytes: 8,
    linear_bits: 48,
};
const PAE: Format = Format { levels: &[(21, 9, true), (12, 9, false)], entry_bytes: 8, linear_bits: 32 };
const TWO_LEVEL: Format =
    Format { levels: &[(22, 10, true), (12, 10, false)], entry_bytes: 4, linear_bits: 32 };

/// What a linear address leads to.
enum Found {
    Page(Mapping),
    /// Nothing from the address on, up to the next multiple of 2 to this power.
    Nothing(u32),
}

fn paging(core: &Core) -> bool {
    core.cpu.cr0 & cr0::PG != 0
}

fn format(core: &Core) -> &'static Format {
    if core.cpu.efer & efer::LMA != 0 {
        &FOUR_LEVEL
    } else if core.cpu.cr4 & cr4::PAE != 0 {
        &PAE
    } else {
        &TWO_LEVEL
    }
}

/// An entry of a table; nothing is present outside RAM.
fn entry(core: &Core, at: u64, bytes: u64) -> u64 {
    let at = at & core.a20_mask;
    match (core.mem.ram.contains(at), bytes) {
        (false, _) => 0,
        (true, 8) => core.mem.ram.get::<u64>(at),
        (true, _) => u64::from(core.mem.ram.get::<u32>(at)),
    }
}

fn look(core: &Core, format: &Format, linear: u64) -> Found {
    let wide = format.entry_bytes == 8;
    let mut table = match format.linear_bits {
        32 if wide => {
            let pointer = core.cpu.pdpte[(linear >> 30 & 3) as usize];
            if pointer & PRESENT == 0 {
                return Found::Nothing(30);
            }
            pointer & ADDRESS
        }
        _ => core.cpu.cr3 & ADDRESS,
    };
    let mut rights = USER | WRITE;
    for (depth, (shift, bits, may_be_large)) in format.levels.iter().enumerate() {
        let index = linear >> shift & ((1 << bits) - 1);
        let value = entry(core, table + index * format.entry_bytes, format.entry_bytes);
        if value & PRESENT == 0 {
            return Found::Nothing(*shift);
        }
        rights &= value;
        let large = *may_be_large && value & LARGE != 0 && (wide || core.cpu.cr4 & cr4::PSE != 0);
        if large || depth + 1 == format.levels.len() {
            return Found::Page(page(format, linear, value, *shift, large, rights));
        }
        table = if wide { value & ADDRESS } else { value & 0xffff_f000 };
    }
    unreachable!("the last level always yields a page")
}

fn page(format: &Format, linear: u64, value: u64, shift: u32, large: bool, rights: u64) -> Mapping {
    let size = 1u64 << shift;
    let frame = match (format.entry_bytes, large) {
        (8, _) => value & ADDRESS & !(size - 1),
        // Bits 39:32 of the page are in bits 20:13 of the entry.
        (_, true) => value & 0xffc0_0000 | (value >> 13 & 0xff) << 32,
        (_, false) => value & 0xffff_f000,
    };
    let unused = 64 - format.linear_bits;
    let address = linear & !(size - 1);
    // The addresses of long mode are signed.
    let address =
        if format.linear_bits == 48 { ((address << unused) as i64 >> unused) as u64 } else { address };
    let shown = GLOBAL | LARGE | 0x7f | NO_EXECUTE;
    // In the entry of a small page this bit is one of the memory type.
    let hidden = if large { 0 } else { LARGE };
    Mapping {
        address,
        size,
        physical: frame,
        entry: value & shown & !hidden,
        user: rights & USER != 0,
        writable: rights & WRITE != 0,
    }
}

/// The physical address behind a linear one.
pub fn translate(core: &Core, address: u64) -> Option<u64> {
    if !paging(core) {
        return Some(address & 0xffff_ffff & core.a20_mask);
    }
    let format = format(core);
    let linear = address & ((1 << format.linear_bits) - 1);
    let unused = 64 - format.linear_bits;
    if format.linear_bits == 48 && ((linear << unused) as i64 >> unused) as u64 != address {
        return None;
    }
    match look(core, format, linear) {
        Found::Page(page) => Some((page.physical + (linear & (page.size - 1))) & core.a20_mask),
        Found::Nothing(_) => None,
    }
}

/// What is mapped from a place on; `from` is a linear address without its sign.
pub fn mappings(core: &Core, from: u64) -> Answer {
    if !paging(core) {
        return Answer::Mappings { paging: false, list: vec![], next: None };
    }
    let format = format(core);
    let end = 1u64 << format.linear_bits;
    let (mut list, mut linear) = (vec![], from);
    for _ in 0..STEPS_MAX {
        if linear >= end || list.len() == MAPPINGS_MAX {
            break;
        }
        let size = match look(core, format, linear) {
            Found::Page(page) => {
                list.push(page);
                page.size
            }
            Found::Nothing(shift) => 1 << shift,
        };
        linear = (linear & !(size - 1)) + size;
    }
    Answer::Mappings { paging: true, list, next: (linear < end).then_some(linear) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::power_on;

    /// A machine in long mode: a small page, a large one, and a table that contains itself.
    fn machine() -> Core {
        let machine = replay::machine::Machine { ram_bytes: 4 << 20, ..replay::manifest::example().machine };
        let mut core = power_on::bare(&machine).unwrap();
        let mut set = |at: u64, value: u64| core.mem.ram.set(at, value);
        set(0x1000, 0x2007);
        set(0x1000 + 8 * 256, 0x1000 | 0x3);
        set(0x2000, 0x3003);
        set(0x3000, 0x4007);
        set(0x3008, 0x20_0000 | 0x8000_0000_0000_01e3);
        set(0x4008, 0x5025);
        (core.cpu.cr0, core.cpu.cr3, core.cpu.efer) = (cr0::PG | cr0::PE, 0x1000, efer::LMA);
        core.a20_mask = u64::MAX;
        core
    }

    #[test]
    fn pages_are_found_without_a_trace() {
        let core = machine();
        let before: Vec<u8> = (1..5).flat_map(|page| core.mem.ram.page(page).to_vec()).collect();
        assert_eq!(translate(&core, 0x1234), Some(0x5234));
        assert_eq!(translate(&core, 0x20_1234), Some(0x20_1234));
        assert_eq!(translate(&core, 0x2000), None);
        assert_eq!(translate(&core, 1 << 47), None, "not canonical");
        assert_eq!(translate(&core, 0xffff_8000_0000_0000), Some(0x4000), "through itself");
        let after: Vec<u8> = (1..5).flat_map(|page| core.mem.ram.page(page).to_vec()).collect();
        assert_eq!(before, after);
        assert_eq!(core.cpu.tlb.entries().len(), 0);
    }

    #[test]
    fn all_mappings_are_listed_in_pieces() {
        let core = machine();
        let (mut all, mut from) = (vec![], Some(0));
        while let Some(place) = from {
            let Answer::Mappings { paging: true, list, next } = mappings(&core, place) else { panic!() };
            assert!(list.len() <= MAPPINGS_MAX && next.is_none_or(|next| next > place));
            all.extend(list);
            from = next;
        }
        assert_eq!((all[0].address, all[0].physical, all[0].size), (0x1000, 0x5000, 0x1000));
        assert_eq!((all[0].user, all[0].writable, all[0].entry), (false, false, 0x25));
        assert_eq!((all[1].address, all[1].size), (0x20_0000, 0x20_0000));
        assert_eq!((all[1].entry, all[1].writable), (0x8000_0000_0000_01e3, true));
        assert!(all[2..].iter().all(|page| page.address >= 0xffff_8000_0000_0000));
        assert!(all.windows(2).all(|pair| pair[0].address < pair[1].address));
    }

    #[test]
    fn other_modes() {
        let mut core = machine();
        core.cpu.cr0 = cr0::PE;
        assert_eq!(translate(&core, 0x1_0000_1234), Some(0x1234));
        assert_eq!(mappings(&core, 0), Answer::Mappings { paging: false, list: vec![], next: None });
        // Two levels, a page of 4 MiB above 4 GiB.
        core.mem.ram.set(0x1000, 0x0040_2083u32);
        (core.cpu.cr0, core.cpu.efer, core.cpu.cr4) = (cr0::PE | cr0::PG, 0, cr4::PSE);
        assert_eq!(translate(&core, 0x1234), Some(0x1_0040_1234));
        core.cpu.cr4 = 0;
        assert_eq!(translate(&core, 0x1234), None, "a table outside RAM");
        (core.cpu.cr4, core.cpu.pdpte) = (cr4::PAE, [0x3001, 0, 0, 0]);
        assert_eq!(translate(&core, 0x1234), Some(0x5234));
        assert_eq!(translate(&core, 0xc000_1234), None);
    }
}
