//! Where generated host code lives: one memfd mapped twice, writable and executable, never both at once.
//!
//! Code is only appended. Nothing here knows what the code does; `call` runs it.

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Distance between the starts of two pieces of code.
const ALIGNMENT: usize = 16;

/// Start of one piece of code in the cache that gave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeOffset(u32);

/// Append-only store of host code.
pub(super) struct CodeCache {
    writable: NonNull<libc::c_void>,
    executable: NonNull<libc::c_void>,
    capacity: NonZeroUsize,
    used: usize,
}

// SAFETY: the two mappings belong to this value alone; nothing in them is tied to a thread.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Reserves `capacity` bytes, a multiple of the page size; pages are taken as they are filled.
    pub fn new(capacity: NonZeroUsize) -> io::Result<CodeCache> {
        let file = memfd_create(c"reprise-thunks", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, capacity.get() as i64)?;
        let map = |rights| {
            // SAFETY: a new mapping of our own file at an address the kernel chooses; it aliases no Rust object.
            unsafe { mmap(None, capacity, rights, MapFlags::MAP_SHARED, &file, 0) }
        };
        let writable = map(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let executable = match map(ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) {
            Ok(executable) => executable,
            Err(error) => {
                // SAFETY: the mapping made above; nothing points into it yet.
                let _ = unsafe { munmap(writable, capacity.get()) };
                return Err(error.into());
            }
        };
        Ok(CodeCache { writable, executable, capacity, used: 0 })
    }

    /// Bytes left.
    pub fn room(&self) -> usize {
        self.capacity.get() - self.used
    }

    /// Appends code; `None` when it does not fit.
    pub fn push(&mut self, code: &[u8]) -> Option<CodeOffset> {
        let start = self.used;
        let end = start.checked_add(code.len().next_multiple_of(ALIGNMENT))?;
        if end > self.capacity.get() {
            return None;
        }
        // SAFETY: start + code.len() <= end <= capacity, all inside the writable mapping; `code` cannot overlap
        // it, because no reference into the mapping is ever made.
        unsafe {
            let to = self.writable.as_ptr().cast::<u8>().add(start);
            std::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len());
        }
        self.used = end;
        Some(CodeOffset(start as u32))
    }

    /// Address of a piece of code in the executable mapping.
    pub fn address(&self, offset: CodeOffset) -> *const u8 {
        self.executable.as_ptr().cast::<u8>().wrapping_add(offset.0 as usize)
    }

    /// Forgets all code. Offsets given out before must not be used any more.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this length; `self` is going away and nothing else points there.
            let _ = unsafe { munmap(mapping, self.capacity.get()) };
        }
    }
}
