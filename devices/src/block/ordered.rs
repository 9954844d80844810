//! The file below a qcow2 image that is written to, with one order that imago 0.2.6 does not keep.
//!
//! When imago makes a new second-level table or reference block, it writes the pointer to it at once, but that the
//! cluster is in use only when it writes its caches. A process that dies in between leaves an image which refers
//! to a cluster that counts as free, and whoever uses the image next gives that cluster away a second time. So
//! such a pointer waits here until the reference block that counts its cluster was written. Everything else
//! passes through.
//!
//! The order is that of system calls: it holds against the death of a process, not of the host.

use super::header::Layout;
use imago::Storage;
use imago::file::File as FileStorage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a pointer in a table.
const POINTER: usize = 8;

/// A file whose pointers wait for what they point to.
#[derive(Debug)]
pub struct OrderedFile {
    inner: FileStorage,
    /// The same file, for what is written and read here.
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    layout: Layout,
    waiting: Vec<Pointer>,
}

/// A pointer that is not in the file yet.
#[derive(Debug)]
struct Pointer {
    at: u64,
    bytes: [u8; POINTER],
    /// Place of the reference block that must be written before.
    after: u64,
}

impl OrderedFile {
    /// Takes over the file of a qcow2 image.
    pub fn new(file: File) -> Result<OrderedFile, String> {
        let failed = |error: io::Error| format!("cannot use the file: {error}");
        let layout = Layout::read(&file)?;
        let inner = FileStorage::try_from(file.try_clone().map_err(failed)?).map_err(failed)?;
        Ok(OrderedFile { inner, file, state: Mutex::new(State { layout, waiting: vec![] }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a pointer back if it is one that must wait; true: it is kept.
    fn keep_back(&self, bytes: &IoVector<'_>, at: u64) -> bool {
        let mut state = self.state();
        if bytes.len() != POINTER as u64 || !state.layout.is_in_tables(at, POINTER as u64) {
            return false;
        }
        let mut pointer = [0; POINTER];
        bytes.copy_into_slice(&mut pointer);
        let after = state.layout.enter(at, u64::from_be_bytes(pointer));
        state.waiting.retain(|waiting| waiting.at != at);
        let Some(after) = after else { return false };
        state.waiting.push(Pointer { at, bytes: pointer, after });
        true
    }

    /// Writes the pointers that waited for the reference block at `block`, or all.
    fn release(&self, block: Option<u64>) -> io::Result<()> {
        let mut state = self.state();
        let mut result = Ok(());
        state.waiting.retain(|pointer| {
            if result.is_err() || block.is_some_and(|block| pointer.after != block) {
                return true;
            }
            result = self.file.write_all_at(&pointer.bytes, pointer.at);
            result.is_err()
        });
        result
    }

    /// Whether pointers wait, and the range is in the tables that they belong to.
    fn is_stale(&self, at: u64, length: u64) -> bool {
        let state = self.state();
        !state.waiting.is_empty() && state.layout.is_in_tables(at, length)
    }

    /// What follows from a write that passed through.
    fn written(&self, at: u64, length: u64) -> io::Result<()> {
        if at < Layout::HEADER_BYTES {
            self.release(None)?;
            self.state().layout = Layout::read(&self.file).map_err(io::Error::other)?;
        } else if self.state().layout.is_in_tables(at, length) {
            self.state().layout = Layout::read(&self.file).map_err(io::Error::other)?;
        }
        self.release(Some(at))
    }
}

impl Display for OrderedFile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

impl Storage for OrderedFile {
    fn mem_align(&self) -> usize {
        self.inner.mem_align()
    }

    fn req_align(&self) -> usize {
        self.inner.req_align()
    }

    fn zero_align(&self) -> usize {
        self.inner.zero_align()
    }

    fn discard_align(&self) -> usize {
        self.inner.discard_align()
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, relative: P) -> io::Result<PathBuf> {
        self.inner.resolve_relative_path(relative)
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, at: u64) -> io::Result<()> {
        if self.is_stale(at, buffers.len()) {
            self.release(None)?;
        }
        // SAFETY: the caller keeps the same promises for this call, whose alignments are the same.
        unsafe { self.inner.pure_readv(buffers, at) }
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, at: u64) -> io::Result<()> {
        if self.keep_back(&buffers, at) {
            return Ok(());
        }
        let length = buffers.len();
        if self.is_stale(at, length) {
            self.release(None)?;
        }
        // SAFETY: as in pure_readv.
        unsafe { self.inner.pure_writev(buffers, at) }?;
        self.written(at, length)
    }

    unsafe fn pure_write_zeroes(&self, at: u64, length: u64) -> io::Result<()> {
        // SAFETY: as in pure_readv.
        unsafe { self.inner.pure_write_zeroes(at, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, at: u64, length: u64) -> io::Result<()> {
        // SAFETY: as in pure_readv.
        unsafe { self.inner.pure_write_allocated_zeroes(at, length) }
    }

    unsafe fn pure_discard(&self, at: u64, length: u64) -> io::Result<()> {
        // SAFETY: as in pure_readv.
        unsafe { self.inner.pure_discard(at, length) }
    }

    /// Comes after all caches were written.
    fn flush(&self) -> io::Result<()> {
        self.release(None)?;
        self.inner.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn settle_writes(&self) -> io::Result<()> {
        self.inner.settle_writes()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        self.release(None)?;
        // SAFETY: the caller keeps the same promise for this call.
        unsafe { self.inner.invalidate_cache() }
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        self.inner.get_storage_helper()
    }

    fn resize(&self, size: u64, mode: PreallocateMode) -> io::Result<()> {
        self.inner.resize(size, mode)
    }
}
