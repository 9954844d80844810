//! The page walk (SDM 3A 4.3–4.6): from a linear address to a TLB entry, or a page fault.

use super::ram::PAGE_SHIFT;
use super::tlb::{Span, entry};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::state::{cr0, cr4, efer, rflags};

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Page-table entry bits (SDM 3A table 4-14…4-20).
mod pte {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// Page-fault error code bits (SDM 3A figure 4-12).
mod code {
    pub const PROTECTION: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
}

/// One level of a paging structure.
struct Level {
    /// Lowest linear address bit that selects an entry.
    shift: u32,
    /// Number of bits that do.
    bits: u32,
    /// An entry may map a large page.
    large: bool,
}

/// A paging mode: its levels from the root down, and the size of an entry.
struct Format {
    levels: &'static [Level],
    entry_bytes: u64,
    /// The root is one of the four page-directory-pointer registers, not CR3.
    pointers: bool,
}

const fn level(shift: u32, bits: u32, large: bool) -> Level {
    Level { shift, bits, large }
}

static FOUR_LEVEL: Format = Format {
    levels: &[level(39, 9, false), level(30, 9, true), level(21, 9, true), level(12, 9, false)],
    entry_bytes: 8,
    pointers: false,
};
static PAE: Format =
    Format { levels: &[level(21, 9, true), level(12, 9, false)], entry_bytes: 8, pointers: true };
static TWO_LEVEL: Format =
    Format { levels: &[level(22, 10, true), level(12, 10, false)], entry_bytes: 4, pointers: false };
static TWO_LEVEL_SMALL: Format =
    Format { levels: &[level(22, 10, false), level(12, 10, false)], entry_bytes: 4, pointers: false };

/// Physical address bits that the CPUID models show (leaf 80000008H).
pub const PHYSICAL_BITS: u32 = 46;

/// Whether an address is canonical for 48-bit linear addresses.
#[inline(always)]
pub fn is_canonical(gva: u64) -> bool {
    ((gva << 16) as i64 >> 16) as u64 == gva
}

/// A leaf found by the walk, before permissions are judged.
struct Leaf {
    /// Guest physical address of the 4 KiB page.
    page: u64,
    /// `entry` bits.
    bits: u64,
    /// The leaf entry and where it lies, for its accessed and dirty bits.
    value: u64,
    at: u64,
    span: Span,
}

impl Core {
    /// Translates with the rights of `user` mode or the supervisor, filling the TLB; sets accessed and dirty bits.
    /// `implicit` supervisor accesses ignore RFLAGS.AC (SDM 3A 4.6.1).
    pub fn translate(&mut self, gva: u64, access: Access, user: bool, implicit: bool) -> Result<u64, Fault> {
        if !is_canonical(gva) {
            return Err(Fault::gp(0));
        }
        let cached = self.cpu.tlb.entry(gva);
        if cached & entry::PRESENT != 0
            && (cached ^ gva) & entry::SIGN == 0
            && self.permits(cached, access, user, implicit)
            && (access != Access::Write || cached & entry::DIRTY != 0)
        {
            return Ok(cached);
        }
        let found = self.walk(gva, access, user, implicit)?;
        self.cpu.tlb.insert(gva, found.bits | found.page | gva & entry::SIGN, found.span);
        Ok(self.cpu.tlb.entry(gva))
    }

    /// Whether an entry's rights allow an access (SDM 3A 4.6.1).
    fn permits(&self, bits: u64, access: Access, user: bool, implicit: bool) -> bool {
        let has = |mask| bits & mask != 0;
        if user {
            return has(entry::USER)
                && match access {
                    Access::Read => true,
                    Access::Write => has(entry::WRITE),
                    Access::Execute => has(entry::EXECUTE),
                };
        }
        let user_page = has(entry::USER);
        match access {
            Access::Execute => has(entry::EXECUTE) && !(user_page && self.cpu.cr4 & cr4::SMEP != 0),
            _ if user_page && self.smap_forbids(implicit) => false,
            Access::Read => true,
            Access::Write => has(entry::WRITE) || self.cpu.cr0 & cr0::WP == 0,
        }
    }

    fn smap_forbids(&self, implicit: bool) -> bool {
        self.cpu.cr4 & cr4::SMAP != 0 && (implicit || self.cpu.eflags & rflags::AC == 0)
    }

    /// Guest physical address of a linear one by the page tables of now, without rights and without a trace: for debuggers.
    pub fn look_up(&self, gva: u64) -> Option<u64> {
        let exists = if self.cpu.efer & efer::LMA != 0 { is_canonical(gva) } else { gva >> 32 == 0 };
        if !exists {
            return None;
        }
        if self.cpu.cr0 & cr0::PG == 0 {
            return Some(gva & self.a20_mask);
        }
        let format = self.paging_format();
        let wide = format.entry_bytes == 8;
        let mut table = if format.pointers {
            let pointer = self.cpu.pdpte[(gva >> 30 & 3) as usize];
            (pointer & pte::PRESENT != 0).then_some(pointer & entry::PAGE)?
        } else {
            self.cpu.cr3 & entry::PAGE
        };
        let nx_on = self.cpu.efer & efer::NXE != 0;
        for (depth, level) in format.levels.iter().enumerate() {
            let at = table + (gva >> level.shift & ((1 << level.bits) - 1)) * format.entry_bytes;
            let value = self.read_table_entry(at, format.entry_bytes);
            let last = depth + 1 == format.levels.len();
            let large = level.large && value & pte::LARGE != 0;
            if value & pte::PRESENT == 0 || reserved_bits(value, level, large, last, wide, nx_on) {
                return None;
            }
            if large || last {
                let page = self.leaf(gva, value, at, level, 0, wide, large).page;
                return Some(page + (gva & 0xfff));
            }
            table = if wide { value & entry::PAGE } else { value & 0xffff_f000 };
        }
        None
    }

    fn walk(&mut self, gva: u64, access: Access, user: bool, implicit: bool) -> Result<Leaf, Fault> {
        if self.cpu.cr0 & cr0::PG == 0 {
            let page = gva & 0xffff_f000 & self.a20_mask;
            let rights = entry::PRESENT | entry::USER | entry::WRITE | entry::DIRTY | entry::EXECUTE;
            return Ok(Leaf { page, bits: rights | self.io_bit(page), value: 0, at: 0, span: Span::Small });
        }
        let mut leaf = self.find_leaf(gva).map_err(|why| self.page_fault(gva, why, access, user))?;
        if !self.permits(leaf.bits, access, user, implicit) {
            return Err(self.page_fault(gva, code::PROTECTION, access, user));
        }
        let mut marks = pte::ACCESSED;
        if access == Access::Write {
            marks |= pte::DIRTY;
            leaf.bits |= entry::DIRTY;
        }
        if leaf.value & marks != marks {
            self.write_table_entry(leaf.at, leaf.value | marks);
        }
        leaf.bits |= self.io_bit(leaf.page);
        Ok(leaf)
    }

    fn io_bit(&self, page: u64) -> u64 {
        if self.mem.ram.contains(page) { 0 } else { entry::IO }
    }

    fn paging_format(&self) -> &'static Format {
        if self.cpu.efer & efer::LMA != 0 {
            &FOUR_LEVEL
        } else if self.cpu.cr4 & cr4::PAE != 0 {
            &PAE
        } else if self.cpu.cr4 & cr4::PSE != 0 {
            &TWO_LEVEL
        } else {
            &TWO_LEVEL_SMALL
        }
    }

    /// Follows the paging structures, setting accessed bits above the leaf; `Err` holds error-code bits.
    fn find_leaf(&mut self, gva: u64) -> Result<Leaf, u32> {
        let format = self.paging_format();
        let wide = format.entry_bytes == 8;
        let nx_on = self.cpu.efer & efer::NXE != 0;
        let mut table = if format.pointers {
            let pointer = self.cpu.pdpte[(gva >> 30 & 3) as usize];
            if pointer & pte::PRESENT == 0 {
                return Err(0);
            }
            pointer & entry::PAGE
        } else {
            self.cpu.cr3 & entry::PAGE
        };
        let mut rights = entry::PRESENT | entry::USER | entry::WRITE | entry::EXECUTE;
        for (depth, level) in format.levels.iter().enumerate() {
            let index = gva >> level.shift & ((1 << level.bits) - 1);
            let at = table + index * format.entry_bytes;
            let value = self.read_table_entry(at, format.entry_bytes);
            if value & pte::PRESENT == 0 {
                return Err(0);
            }
            let last = depth + 1 == format.levels.len();
            let large = level.large && value & pte::LARGE != 0;
            if reserved_bits(value, level, large, last, wide, nx_on) {
                return Err(code::PROTECTION | code::RESERVED);
            }
            rights &= allowed(value, wide);
            if large || last {
                return Ok(self.leaf(gva, value, at, level, rights, wide, large));
            }
            if value & pte::ACCESSED == 0 {
                self.write_table_entry(at, value | pte::ACCESSED);
            }
            table = if wide { value & entry::PAGE } else { value & 0xffff_f000 };
        }
        unreachable!("the last level always yields a leaf")
    }

    #[allow(clippy::too_many_arguments)]
    fn leaf(
        &self,
        gva: u64,
        value: u64,
        at: u64,
        level: &Level,
        rights: u64,
        wide: bool,
        large: bool,
    ) -> Leaf {
        let size = 1u64 << level.shift;
        let frame = if wide {
            value & entry::PAGE & !(size - 1)
        } else if large {
            value & 0xffc0_0000 | (value >> 13 & 0xff) << 32
        } else {
            value & 0xffff_f000
        };
        let mut bits = rights;
        if value & pte::DIRTY != 0 {
            bits |= entry::DIRTY;
        }
        if value & pte::GLOBAL != 0 && self.cpu.cr4 & cr4::PGE != 0 {
            bits |= entry::GLOBAL;
        }
        let page = (frame + (gva & (size - 1) & !0xfff)) & self.a20_mask;
        let span = match (large, level.shift) {
            (false, _) => Span::Small,
            (true, 21) => Span::Mib2,
            (true, 22) => Span::Mib4,
            (true, _) => Span::Gib1,
        };
        Leaf { page, bits, value, at, span }
    }

    /// The four page-directory pointers that PAE paging takes from memory when CR3 is loaded (SDM 3A 4.4.1);
    /// #GP(0) for a reserved bit in a present one.
    pub fn read_pdptes(&self, cr3: u64) -> Result<[u64; 4], Fault> {
        let reserved = 0x1e6 | u64::MAX << PHYSICAL_BITS;
        let base = cr3 & 0xffff_ffe0;
        let pointers = [0, 8, 16, 24].map(|offset| self.read_table_entry(base + offset, 8));
        let bad = |pointer: &u64| pointer & pte::PRESENT != 0 && pointer & reserved != 0;
        if pointers.iter().any(bad) { Err(Fault::gp(0)) } else { Ok(pointers) }
    }

    /// A paging-structure entry; all ones outside RAM, as an empty bus reads.
    fn read_table_entry(&self, at: u64, bytes: u64) -> u64 {
        let at = at & self.a20_mask;
        match (self.mem.ram.contains(at), bytes) {
            (false, _) => u64::MAX,
            (true, 8) => self.mem.ram.get::<u64>(at),
            (true, _) => u64::from(self.mem.ram.get::<u32>(at)),
        }
    }

    fn write_table_entry(&mut self, at: u64, value: u64) {
        let at = at & self.a20_mask;
        if !self.mem.ram.contains(at) {
            return;
        }
        // The accessed and dirty bits are in the low byte of every format.
        if self.mem.ram.set(at, value as u8) {
            self.leave_block = true;
        }
    }

    fn page_fault(&mut self, gva: u64, why: u32, access: Access, user: bool) -> Fault {
        let mut error = why;
        if access == Access::Write {
            error |= code::WRITE;
        }
        if user {
            error |= code::USER;
        }
        let no_execute = self.cpu.cr4 & cr4::PAE != 0 && self.cpu.efer & efer::NXE != 0;
        let fetch_told = no_execute || self.cpu.cr4 & cr4::SMEP != 0;
        if access == Access::Execute && fetch_told {
            error |= code::FETCH;
        }
        self.fault_address = gva;
        Fault::with_code(vector::PF, error)
    }
}

/// `entry` rights that one paging-structure entry leaves.
fn allowed(value: u64, wide: bool) -> u64 {
    let mut rights = entry::PRESENT;
    if value & pte::USER != 0 {
        rights |= entry::USER;
    }
    if value & pte::WRITE != 0 {
        rights |= entry::WRITE;
    }
    if !(wide && value & pte::NO_EXECUTE != 0) {
        rights |= entry::EXECUTE;
    }
    rights
}

/// Whether a reserved bit is set (SDM 3A 4.5.4 and tables 4-14…4-20).
fn reserved_bits(value: u64, level: &Level, large: bool, last: bool, wide: bool, nx_on: bool) -> bool {
    if !wide {
        return large && value & 1 << 21 != 0;
    }
    let mut mask = (1u64 << 52) - (1 << PHYSICAL_BITS);
    if !nx_on {
        mask |= pte::NO_EXECUTE;
    }
    if large {
        // Bit 12 is PAT; the rest of the frame below the page size is reserved.
        mask |= (1 << level.shift) - (1 << (PAGE_SHIFT + 1));
    } else if !last && !level.large {
        mask |= pte::LARGE;
    }
    value & mask != 0
}
