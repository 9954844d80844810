//! Guest RAM: a sealed memfd, mapped so that the host address is `base + guest physical address`.
//!
//! RAM lies at guest physical 0…3 GiB and from 4 GiB on; the hole between is reserved but inaccessible.
//! Everything that writes RAM goes through here or through a TLB entry with `FAST_WRITE`, so the notes
//! about dirty pages and pages with decoded code are exact. The exception is a back-end with `window=off`, in a run that is not
//! recorded: `virtio::watch` notes what it may write.

use super::outgoing::Outgoing;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Size of a page, and log2 of it.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of the size of a page.
pub const PAGE_SHIFT: u32 = 12;
/// RAM below the hole ends here at most.
pub const LOW_RAM_END_MAX: u64 = 3 << 30;
/// RAM above the hole begins here.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// Why RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused a system call.
    #[error("cannot create {bytes} bytes of guest RAM ({what}): {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Size of the RAM, or of the part of it.
        bytes: u64,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The size is not a positive multiple of a page; in bytes.
    #[error("guest RAM of {0} bytes is not a positive multiple of 4096")]
    Size(u64),
}

/// Guest RAM and, for every page, whether it is dirty and where it holds decoded code.
pub struct Ram {
    base: NonNull<u8>,
    span: u64,
    low_end: u64,
    high_end: u64,
    memory: GuestMemoryMmap,
    file: std::sync::Arc<File>,
    /// Written since the last `take_dirty`.
    dirty: Vec<bool>,
    dirty_pages: Vec<u64>,
    /// Bit g of a page: its 64-byte granule g holds decoded code.
    code_granules: Vec<u64>,
    /// Pages whose decoded code was overwritten; the block cache drops it.
    stale_code: Vec<u64>,
    /// Pages of a saved state that are still to be copied.
    outgoing: Option<Box<Outgoing>>,
    /// Where devices wrote, while a debugger wants to know: address and length.
    device_writes: Option<Vec<(u64, u64)>>,
}

// SAFETY: `base` points to a mapping that this value owns; only its owner uses it.
unsafe impl Send for Ram {}

fn system(what: &'static str, bytes: u64) -> impl Fn(nix::Error) -> RamError {
    move |error| RamError::System { what, bytes, source: error.into() }
}

impl Ram {
    /// Makes `bytes` of zeroed RAM; untouched pages cost nothing.
    pub fn new(bytes: u64) -> Result<Ram, RamError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(RamError::Size(bytes));
        }
        let low_end = bytes.min(LOW_RAM_END_MAX);
        let high = bytes - low_end;
        let high_end = if high == 0 { 0 } else { HIGH_RAM_START + high };
        let span = low_end.max(high_end);
        let fd = ram_file(bytes)?;
        let base = reserve(span)?;
        let file = std::sync::Arc::new(File::from(fd));
        let mut regions = vec![map_region(base, &file, 0, 0, low_end)?];
        if high > 0 {
            regions.push(map_region(base, &file, low_end, HIGH_RAM_START, high)?);
        }
        let memory = GuestMemoryMmap::from_regions(regions).expect("the two regions do not overlap");
        let pages = (span >> PAGE_SHIFT) as usize;
        Ok(Ram {
            base,
            span,
            low_end,
            high_end,
            memory,
            file,
            dirty: vec![false; pages],
            dirty_pages: Vec::new(),
            code_granules: vec![0; pages],
            stale_code: Vec::new(),
            outgoing: None,
            device_writes: None,
        })
    }

    /// RAM as rust-vmm crates see it, for loaders. Writes through it are not noted: use it before the first instruction only.
    pub fn guest_memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Copies pages as they are now to a file, in this order, while the machine runs on. The caller must have called `take_dirty`.
    pub fn begin_copying(&mut self, file: File, pages: &[u64]) {
        assert!(self.dirty_pages.is_empty(), "the next write to each page is noticed");
        self.outgoing = Some(Box::new(Outgoing::new(file, pages)));
    }

    /// Copies some of these pages; the result when there are no more.
    pub fn copy_some(&mut self, count: usize) -> Option<std::io::Result<()>> {
        for _ in 0..count {
            let Some(page) = self.outgoing.as_ref()?.next() else { break };
            self.copy_out(page);
        }
        if self.outgoing.as_ref()?.next().is_some() {
            return None;
        }
        self.outgoing.take().map(|outgoing| outgoing.result())
    }

    /// How many of these pages are left.
    pub fn pages_to_copy(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.left())
    }

    fn copy_out(&mut self, page: u64) {
        if let Some(mut outgoing) = self.outgoing.take() {
            outgoing.copy(page, self.page(page));
            self.outgoing = Some(outgoing);
        }
    }

    /// Notes everything that was put into RAM through `guest_memory` as dirty, so that digests cover it.
    pub fn note_loaded(&mut self) -> Result<(), RamError> {
        for page in self.touched()? {
            self.mark_dirty(page);
        }
        Ok(())
    }

    /// Numbers of all pages that may be other than zero.
    pub fn touched(&self) -> Result<Vec<u64>, RamError> {
        let mut pages = Vec::new();
        let failed = system("lseek", self.low_end);
        let end = (self.low_end + self.high_end.saturating_sub(HIGH_RAM_START)) as i64;
        let mut at = 0;
        while at < end {
            at = match lseek(&*self.file, at, Whence::SeekData) {
                Ok(at) => at,
                // No data from here to the end.
                Err(nix::Error::ENXIO) => return Ok(pages),
                Err(error) => return Err(failed(error)),
            };
            let stop = lseek(&*self.file, at, Whence::SeekHole).map_err(&failed)?;
            for offset in (at as u64..stop as u64).step_by(PAGE_SIZE as usize) {
                let gpa = if offset < self.low_end { offset } else { offset - self.low_end + HIGH_RAM_START };
                pages.push(gpa >> PAGE_SHIFT);
            }
            at = stop;
        }
        Ok(pages)
    }

    /// End of RAM below the hole.
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// End of RAM above the hole, or 0.
    pub fn high_end(&self) -> u64 {
        self.high_end
    }

    /// Whether the page of `gpa` is RAM.
    #[inline(always)]
    pub fn contains(&self, gpa: u64) -> bool {
        gpa < self.low_end || (gpa >= HIGH_RAM_START && gpa < self.high_end)
    }

    /// Whether `len` bytes at `gpa` are RAM, all in one piece.
    pub fn contains_range(&self, gpa: u64, len: u64) -> bool {
        let Some(end) = gpa.checked_add(len) else { return false };
        end <= self.low_end || (gpa >= HIGH_RAM_START && end <= self.high_end)
    }

    /// Reads a value that lies in one page of RAM.
    #[inline(always)]
    pub fn get<T: Copy>(&self, gpa: u64) -> T {
        debug_assert!(self.contains_range(gpa, size_of::<T>() as u64));
        // SAFETY: callers pass addresses out of a TLB entry or checked by `contains`; T does not cross a page,
        // so all its bytes are in the mapping. Guest bytes are valid for every T used (integers).
        unsafe { self.base.as_ptr().add(gpa as usize).cast::<T>().read_unaligned() }
    }

    /// Writes a value that lies in one page of RAM which a TLB entry with `FAST_WRITE` names.
    #[inline(always)]
    pub fn set_fast<T: Copy>(&mut self, gpa: u64, value: T) {
        debug_assert!(self.contains_range(gpa, size_of::<T>() as u64));
        // SAFETY: as for `get`.
        unsafe { self.base.as_ptr().add(gpa as usize).cast::<T>().write_unaligned(value) }
    }

    /// Writes a value that lies in one page of RAM, noting dirt and stale code. True when code was hit.
    pub fn set<T: Copy>(&mut self, gpa: u64, value: T) -> bool {
        let hit = self.note_write(gpa, size_of::<T>() as u64);
        self.set_fast(gpa, value);
        hit
    }

    /// Notes a write of `len` bytes in one page. True when it overlaps decoded code.
    #[inline]
    pub fn note_write(&mut self, gpa: u64, len: u64) -> bool {
        let page = gpa >> PAGE_SHIFT;
        self.mark_dirty(page);
        let granules = self.code_granules[page as usize];
        if granules == 0 {
            return false;
        }
        let hit = granules & granule_mask(gpa & (PAGE_SIZE - 1), len) != 0;
        if hit {
            self.stale_code.push(page);
        }
        hit
    }

    /// Notes that somebody who shares RAM writes, or has written, `len` bytes at `gpa`.
    pub fn note_shared_write(&mut self, gpa: u64, len: u64) {
        if self.contains_range(gpa, len) {
            self.note_range(gpa, len);
        }
    }

    fn note_range(&mut self, gpa: u64, len: u64) {
        let mut at = gpa;
        while at < gpa + len {
            let end = ((at | (PAGE_SIZE - 1)) + 1).min(gpa + len);
            self.note_write(at, end - at);
            at = end;
        }
    }

    /// Notes that somebody who shares RAM may have written to any decoded code.
    pub fn note_all_code_stale(&mut self) {
        let pages = self.code_granules.iter().enumerate();
        self.stale_code.extend(pages.filter(|(_, granules)| **granules != 0).map(|(page, _)| page as u64));
    }

    /// Pieces of RAM for a process that shares it: guest physical address, bytes, offset in the file.
    pub fn pieces(&self) -> Vec<(u64, u64, u64)> {
        let mut pieces = vec![(0, self.low_end, 0)];
        if self.high_end > 0 {
            pieces.push((HIGH_RAM_START, self.high_end - HIGH_RAM_START, self.low_end));
        }
        pieces
    }

    /// The file behind RAM.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Every writer comes by here before its first write to a page since `take_dirty`.
    fn mark_dirty(&mut self, page: u64) {
        if self.outgoing.is_some() && !self.dirty[page as usize] {
            self.copy_out(page);
        }
        let dirty = &mut self.dirty[page as usize];
        if !*dirty {
            *dirty = true;
            self.dirty_pages.push(page);
        }
    }

    /// Whether the page of `gpa` holds decoded code.
    #[inline]
    pub fn has_code(&self, gpa: u64) -> bool {
        self.code_granules[(gpa >> PAGE_SHIFT) as usize] != 0
    }

    /// Notes that `len` bytes at `gpa`, in one page, are decoded code. True when the page had none before.
    pub fn note_code(&mut self, gpa: u64, len: u64) -> bool {
        let granules = &mut self.code_granules[(gpa >> PAGE_SHIFT) as usize];
        let first = *granules == 0;
        *granules |= granule_mask(gpa & (PAGE_SIZE - 1), len);
        first
    }

    /// Forgets that `page` holds code.
    pub fn forget_code(&mut self, page: u64) {
        self.code_granules[page as usize] = 0;
    }

    /// Pages whose decoded code was overwritten since the last call.
    pub fn take_stale_code(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.stale_code)
    }

    /// Whether decoded code was overwritten since `take_stale_code`.
    pub fn has_stale_code(&self) -> bool {
        !self.stale_code.is_empty()
    }

    /// Page numbers written since the last call, in no particular order. The caller must have dropped every `FAST_WRITE`.
    pub fn take_dirty(&mut self) -> Vec<u64> {
        for &page in &self.dirty_pages {
            self.dirty[page as usize] = false;
        }
        std::mem::take(&mut self.dirty_pages)
    }

    /// The bytes of one page of RAM.
    pub fn page(&self, page: u64) -> &[u8] {
        assert!(self.contains(page << PAGE_SHIFT), "page {page:#x} is not RAM");
        // SAFETY: the page is RAM (asserted), so its 4096 bytes are mapped; nobody else writes them while `self` is borrowed.
        unsafe {
            std::slice::from_raw_parts(
                self.base.as_ptr().add((page << PAGE_SHIFT) as usize),
                PAGE_SIZE as usize,
            )
        }
    }

    /// Host address of a guest physical address in RAM, for copies inside one page.
    pub(super) fn pointer(&self, gpa: u64, len: u64) -> *mut u8 {
        assert!(self.contains_range(gpa, len), "{gpa:#x}+{len:#x} is not RAM");
        // SAFETY: the range is inside the mapping (asserted).
        unsafe { self.base.as_ptr().add(gpa as usize) }
    }

    /// Copies `len` bytes between two places, each in one page, the target with `FAST_WRITE`; as if through a buffer.
    pub fn copy_fast(&mut self, from: u64, to: u64, len: u64) {
        // SAFETY: both ranges are in the mapping (`pointer` asserts it); `copy` allows overlap.
        unsafe { std::ptr::copy(self.pointer(from, len), self.pointer(to, len), len as usize) }
    }

    /// Stores `count` copies of `value` in one page that has `FAST_WRITE`.
    pub fn fill_fast<T: Copy>(&mut self, to: u64, value: T, count: u64) {
        let start = self.pointer(to, count * size_of::<T>() as u64).cast::<T>();
        for index in 0..count as usize {
            // SAFETY: the whole range is in the mapping (`pointer` asserts it).
            unsafe { start.add(index).write_unaligned(value) }
        }
    }

    /// Copies bytes out of RAM; false when the range is not all RAM.
    pub fn read_bytes(&self, gpa: u64, into: &mut [u8]) -> bool {
        let len = into.len() as u64;
        if !self.contains_range(gpa, len) {
            return false;
        }
        // SAFETY: source in the mapping (checked), destination a Rust slice; they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer(gpa, len), into.as_mut_ptr(), into.len()) };
        true
    }

    /// Begins or ends taking notes of what devices write.
    pub fn watch_devices(&mut self, on: bool) {
        self.device_writes = on.then(Vec::new);
    }

    /// Takes the notes of what devices wrote: addresses and lengths.
    pub fn take_device_writes(&mut self) -> Vec<(u64, u64)> {
        self.device_writes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Copies a device's bytes into RAM, as `write_bytes`.
    pub fn device_write(&mut self, gpa: u64, from: &[u8]) -> bool {
        if let Some(notes) = &mut self.device_writes {
            notes.push((gpa, from.len() as u64));
        }
        self.write_bytes(gpa, from)
    }

    /// Copies bytes into RAM, noting the pages as dirty and their code as stale; false when the range is not all RAM.
    pub fn write_bytes(&mut self, gpa: u64, from: &[u8]) -> bool {
        let len = from.len() as u64;
        if !self.contains_range(gpa, len) {
            return false;
        }
        self.note_range(gpa, len);
        // SAFETY: destination in the mapping (checked), source a Rust slice; they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.pointer(gpa, len), from.len()) };
        true
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `reserve` with this size; `memory` does not own its regions.
        // A failure would mean a corrupted address, which nothing here can repair.
        let _ = unsafe { munmap(self.base.cast(), self.span as usize) };
    }
}

/// Mask of the 64-byte granules that `len` bytes at `offset` in a page touch.
fn granule_mask(offset: u64, len: u64) -> u64 {
    let first = offset >> 6;
    let last = (offset + len.max(1) - 1).min(PAGE_SIZE - 1) >> 6;
    (u64::MAX >> (63 - (last - first))) << first
}

fn ram_file(bytes: u64) -> Result<OwnedFd, RamError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create("reprise-ram", flags).map_err(system("memfd_create", bytes))?;
    nix::unistd::ftruncate(&fd, bytes as i64).map_err(system("ftruncate", bytes))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(system("sealing", bytes))?;
    Ok(fd)
}

fn reserve(span: u64) -> Result<NonNull<u8>, RamError> {
    let length = NonZeroUsize::new(span as usize).ok_or(RamError::Size(span))?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, flags) };
    base.map(NonNull::cast).map_err(system("reserving address space", span))
}

fn map_region(
    base: NonNull<u8>,
    file: &std::sync::Arc<File>,
    offset: u64,
    gpa: u64,
    length: u64,
) -> Result<GuestRegionMmap, RamError> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
    let at = NonZeroUsize::new(base.as_ptr() as usize + gpa as usize).expect("base is not null");
    let size = NonZeroUsize::new(length as usize).ok_or(RamError::Size(length))?;
    // SAFETY: the range lies inside the reservation that `reserve` made for this value.
    let pointer = unsafe { mmap(Some(at), size, protection, flags, &**file, offset as i64) }
        .map_err(system("mapping", length))?;
    // SAFETY: the pointer and size are of the mapping just made; it outlives the region, because `Ram` owns both.
    let builder =
        unsafe { MmapRegionBuilder::new(length as usize).with_raw_mmap_pointer(pointer.as_ptr().cast()) };
    let region = builder
        .with_mmap_prot(protection.bits())
        .with_mmap_flags(flags.bits())
        .with_file_offset(FileOffset::from_arc(file.clone(), offset))
        .build()
        .map_err(|error| RamError::System {
            what: "region",
            bytes: length,
            source: std::io::Error::other(error),
        })?;
    Ok(GuestRegionMmap::new(region, GuestAddress(gpa)).expect("the region does not wrap around"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hole_is_not_ram() {
        let ram = Ram::new(5 << 30).expect("5 GiB, sparse");
        assert!(ram.contains(LOW_RAM_END_MAX - 1) && !ram.contains(LOW_RAM_END_MAX));
        assert!(ram.contains(HIGH_RAM_START) && !ram.contains(6 << 30));
        assert!(!ram.read_bytes(LOW_RAM_END_MAX - 2, &mut [0; 4]));
    }

    #[test]
    fn loaded_pages_are_noted() {
        use vm_memory::Bytes;
        let mut ram = Ram::new(5 << 30).expect("5 GiB, sparse");
        for gpa in [0x3000, HIGH_RAM_START + 0x1000] {
            ram.guest_memory().write_obj(1u8, GuestAddress(gpa)).expect("RAM");
        }
        ram.note_loaded().expect("a memfd knows its holes");
        let mut dirty = ram.take_dirty();
        dirty.sort_unstable();
        assert_eq!(dirty, vec![3, (HIGH_RAM_START >> PAGE_SHIFT) + 1]);
    }

    #[test]
    fn writes_are_noted() {
        let mut ram = Ram::new(1 << 20).expect("1 MiB");
        assert!(ram.note_code(0x1040, 4));
        assert!(!ram.set(0x1000, 7u32));
        assert!(ram.set(0x103e, 7u32));
        assert_eq!(ram.take_stale_code(), vec![1]);
        assert!(ram.write_bytes(0x1ffe, &[1, 2, 3, 4]));
        let mut dirty = ram.take_dirty();
        dirty.sort_unstable();
        assert_eq!(dirty, vec![1, 2]);
        assert_eq!(ram.get::<u32>(0x1ffe), 0x0403_0201);
    }

    #[test]
    fn granules() {
        assert_eq!(granule_mask(0, 64), 1);
        assert_eq!(granule_mask(63, 2), 3);
        assert_eq!(granule_mask(0, 4096), u64::MAX);
        assert_eq!(granule_mask(4095, 1), 1 << 63);
    }
}
