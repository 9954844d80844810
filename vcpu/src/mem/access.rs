//! Reads and writes of guest linear memory that may fault.
//!
//! The fast path is one table load, one mask, one compare. Everything else (absent or forbidden page,
//! misalignment, device memory, code or clean pages) is the slow path.

use super::tlb::entry;
use super::walk::{Access, is_canonical};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::state::{cr0, cr4, rflags};

/// An integer that one access moves.
pub trait Word: Copy + Default + Eq + 'static {
    /// Size in bytes.
    const SIZE: u64 = size_of::<Self>() as u64;
    /// Size in bits.
    const BITS: u32 = 8 * size_of::<Self>() as u32;
    /// The low bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// The value, zero-extended.
    fn to_u64(self) -> u64;
}

macro_rules! words {
    ($($t:ty),*) => {$(
        impl Word for $t {
            #[inline(always)]
            fn from_u64(value: u64) -> Self { value as $t }
            #[inline(always)]
            fn to_u64(self) -> u64 { self as u64 }
        }
    )*};
}
words!(u8, u16, u32, u64);

/// What a TLB entry must look like for the fast path, by kind of access; follows CPL, CR0, CR4 and RFLAGS.AC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastMasks {
    read_mask: u64,
    read_value: u64,
    write_mask: u64,
    write_value: u64,
    /// CR0.WP when `FAST_WRITE` bits were given out.
    write_protect: bool,
}

impl Core {
    /// Recomputes the fast-path masks; part of `mode_changed`, and enough when only RFLAGS.AC changed.
    pub fn refresh_access(&mut self) {
        let user = self.mode.cpl == 3;
        let smap = !user && self.cpu.cr4 & cr4::SMAP != 0 && self.cpu.eflags & rflags::AC == 0;
        let user_mask = if user || smap { entry::USER } else { 0 };
        let user_value = if user { entry::USER } else { 0 };
        let write_user = if user { entry::WRITE } else { 0 };
        // No entry has SIGN bits left after the comparison: this value matches nothing.
        let never = if self.watched { entry::SIGN } else { 0 };
        let write_protect = self.cpu.cr0 & cr0::WP != 0;
        if write_protect != self.fast.write_protect {
            self.cpu.tlb.drop_fast_writes();
        }
        self.fast = FastMasks {
            read_mask: entry::SIGN | entry::PRESENT | entry::IO | entry::WATCHED | user_mask,
            read_value: entry::PRESENT | user_value | never,
            write_mask: entry::SIGN | entry::PRESENT | entry::OWN | user_mask | write_user,
            write_value: entry::PRESENT | entry::FAST_WRITE | user_value | write_user | never,
            write_protect,
        };
    }

    /// Guest physical address when a read needs no check.
    #[inline(always)]
    pub fn fast_read<T: Word>(&self, gva: u64) -> Option<u64> {
        let found = self.cpu.tlb.entry(gva);
        let low = T::SIZE - 1;
        let odd = (found ^ (gva & (entry::SIGN | low))) & (self.fast.read_mask | low);
        (odd == self.fast.read_value).then_some((found & entry::PAGE) + (gva & 0xfff))
    }

    /// Guest physical address when a write needs no check.
    #[inline(always)]
    pub fn fast_write<T: Word>(&self, gva: u64) -> Option<u64> {
        let found = self.cpu.tlb.entry(gva);
        let low = T::SIZE - 1;
        let odd = (found ^ (gva & (entry::SIGN | low))) & (self.fast.write_mask | low);
        (odd == self.fast.write_value).then_some((found & entry::PAGE) + (gva & 0xfff))
    }

    /// Reads at a linear address with the rights of the current CPL.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, gva: u64) -> Result<T, Fault> {
        match self.fast_read::<T>(gva) {
            Some(gpa) => Ok(self.mem.ram.get(gpa)),
            _ => self.read_slow(gva, false),
        }
    }

    /// Writes at a linear address with the rights of the current CPL.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, gva: u64, value: T) -> Result<(), Fault> {
        match self.fast_write::<T>(gva) {
            Some(gpa) => {
                self.mem.ram.set_fast(gpa, value);
                Ok(())
            }
            _ => self.write_slow(gva, value, false),
        }
    }

    /// Reads, applies `change` and writes back, checking the right to write first.
    #[inline(always)]
    pub fn modify<T: Word>(&mut self, gva: u64, change: impl FnOnce(&mut Core, T) -> T) -> Result<(), Fault> {
        match self.fast_write::<T>(gva) {
            Some(gpa) => {
                let old = self.mem.ram.get(gpa);
                let new = change(self, old);
                self.mem.ram.set_fast(gpa, new);
                Ok(())
            }
            _ => {
                self.probe_write(gva, T::SIZE)?;
                let old = self.read_slow(gva, false)?;
                let new = change(self, old);
                self.write_slow(gva, new, false)
            }
        }
    }

    /// Reads with supervisor rights: descriptor tables, TSS, stacks of an inner ring (SDM 3A 4.6.1).
    pub fn read_system<T: Word>(&mut self, gva: u64) -> Result<T, Fault> {
        self.read_slow(gva, true)
    }

    /// Writes with supervisor rights.
    pub fn write_system<T: Word>(&mut self, gva: u64, value: T) -> Result<(), Fault> {
        self.write_slow(gva, value, true)
    }

    /// #AC for a misaligned access of user code that asked for it (SDM 3A 6.15). Misaligned accesses always take
    /// the slow path, so the fast one need not know.
    fn check_alignment(&self, gva: u64, size: u64, system: bool) -> Result<(), Fault> {
        let asked = self.cpu.cr0 & cr0::AM != 0 && self.cpu.eflags & rflags::AC != 0 && self.mode.cpl == 3;
        let misaligned = gva & (size - 1) != 0;
        if asked && misaligned && !system { Err(Fault::with_code(vector::AC, 0)) } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Word>(&mut self, gva: u64, system: bool) -> Result<T, Fault> {
        self.check_alignment(gva, T::SIZE, system)?;
        let mut bytes = [0; 8];
        self.read_bytes_as(gva, &mut bytes[..T::SIZE as usize], system)?;
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Word>(&mut self, gva: u64, value: T, system: bool) -> Result<(), Fault> {
        self.check_alignment(gva, T::SIZE, system)?;
        self.write_bytes_as(gva, &value.to_u64().to_le_bytes()[..T::SIZE as usize], system)
    }

    /// Reads bytes that may cross pages, with the rights of the current CPL.
    pub fn read_bytes(&mut self, gva: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.read_bytes_as(gva, into, false)
    }

    /// Writes bytes that may cross pages; nothing is written when any of them faults.
    pub fn write_bytes(&mut self, gva: u64, from: &[u8]) -> Result<(), Fault> {
        self.write_bytes_as(gva, from, false)
    }

    /// Checks that `len` bytes could be written, raising the fault the write would raise.
    pub fn probe_write(&mut self, gva: u64, len: u64) -> Result<(), Fault> {
        self.probe(gva, len, Access::Write, false)
    }

    /// Checks that `len` bytes could be read, raising the fault the read would raise.
    pub fn probe_read(&mut self, gva: u64, len: u64) -> Result<(), Fault> {
        self.probe(gva, len, Access::Read, false)
    }

    fn probe(&mut self, gva: u64, len: u64, access: Access, system: bool) -> Result<(), Fault> {
        let user = self.mode.cpl == 3 && !system;
        // All bytes must be canonical before any page is looked at.
        if self.mode.long && !is_canonical(gva.wrapping_add(len.saturating_sub(1))) {
            return Err(Fault::gp(0));
        }
        for piece in pieces(gva, len, self.linear_mask()) {
            self.translate(piece.gva, access, user, system)?;
        }
        Ok(())
    }

    /// Linear addresses are 32 bits wide outside long mode.
    fn linear_mask(&self) -> u64 {
        if self.mode.long { u64::MAX } else { 0xffff_ffff }
    }

    fn read_bytes_as(&mut self, gva: u64, into: &mut [u8], system: bool) -> Result<(), Fault> {
        let user = self.mode.cpl == 3 && !system;
        let len = into.len() as u64;
        self.probe(gva, len, Access::Read, system)?;
        for piece in pieces(gva, len, self.linear_mask()) {
            let found = self.translate(piece.gva, Access::Read, user, system)?;
            let gpa = (found & entry::PAGE) + (piece.gva & 0xfff);
            let part = &mut into[piece.from..piece.from + piece.len as usize];
            if found & entry::IO == 0 {
                self.mem.ram.read_bytes(gpa, part);
            } else {
                self.device_read(gpa, part);
            }
        }
        if self.watched || self.probe.watches() {
            self.data_breakpoint(gva, len, false);
        }
        Ok(())
    }

    fn write_bytes_as(&mut self, gva: u64, from: &[u8], system: bool) -> Result<(), Fault> {
        let user = self.mode.cpl == 3 && !system;
        let len = from.len() as u64;
        self.probe(gva, len, Access::Write, system)?;
        for piece in pieces(gva, len, self.linear_mask()) {
            let found = self.translate(piece.gva, Access::Write, user, system)?;
            let gpa = (found & entry::PAGE) + (piece.gva & 0xfff);
            let part = &from[piece.from..piece.from + piece.len as usize];
            if found & entry::IO != 0 {
                self.device_write(gpa, part);
                continue;
            }
            self.ram_write(gpa, part);
            if found & entry::FAST_WRITE == 0 && !self.mem.ram.has_code(gpa) {
                self.cpu.tlb.allow_fast_writes(piece.gva);
            }
        }
        if self.watched || self.probe.watches() {
            self.data_breakpoint(gva, len, true);
        }
        Ok(())
    }

    /// Writes RAM from outside the fast path; leaves the block when code was hit.
    pub fn ram_write(&mut self, gpa: u64, from: &[u8]) {
        self.mem.ram.write_bytes(gpa, from);
        if self.mem.ram.has_stale_code() {
            self.leave_block = true;
        }
    }

    fn device_read(&mut self, gpa: u64, into: &mut [u8]) {
        self.use_device();
        let now = self.vtime_now();
        for (offset, size) in bus_cycles(gpa, into.len()) {
            let value = self.chipset.mmio_read(gpa + offset as u64, size as u8, now);
            into[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    fn device_write(&mut self, gpa: u64, from: &[u8]) {
        self.use_device();
        let now = self.vtime_now();
        for (offset, size) in bus_cycles(gpa, from.len()) {
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(&from[offset..offset + size]);
            self.chipset.mmio_write(gpa + offset as u64, size as u8, u64::from_le_bytes(bytes), now);
        }
    }

    /// Guest physical address of an instruction fetch at `gva`, or the fault it raises.
    pub fn fetch_address(&mut self, gva: u64) -> Result<u64, Fault> {
        if !is_canonical(gva) {
            return Err(Fault::gp(0));
        }
        let found = self.translate(gva, Access::Execute, self.mode.cpl == 3, false)?;
        Ok((found & entry::PAGE) + (gva & 0xfff))
    }
}

/// A part of an access that lies in one page.
struct Piece {
    gva: u64,
    from: usize,
    len: u64,
}

fn pieces(gva: u64, len: u64, mask: u64) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = gva.wrapping_add(done) & mask;
        let part = (4096 - (at & 0xfff)).min(len - done);
        let piece = Piece { gva: at, from: done as usize, len: part };
        done += part;
        Some(piece)
    })
}

/// Splits a device access into naturally aligned cycles of 8, 4, 2 or 1 bytes: (offset, size).
fn bus_cycles(gpa: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let left = len - offset;
        let aligned = 1usize << (gpa + offset as u64).trailing_zeros().min(3);
        let size = [8, 4, 2, 1].into_iter().find(|&s| s <= left && s <= aligned)?;
        offset += size;
        Some((offset - size, size))
    })
}
