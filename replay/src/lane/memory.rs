//! The mapping behind a lane, and the futex calls on words inside it.
//!
//! The `unsafe` of the lane is all here. Everything above sees a `&Shared` made of atomics.

use super::layout::Shared;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<Shared>()).expect("a lane is not empty");

/// A mapped lane; unmapped on drop.
#[derive(Debug)]
pub struct Memory {
    pointer: NonNull<c_void>,
}

// SAFETY: the mapping belongs to this value alone and is reached only as `&Shared`, which is made of atomics.
unsafe impl Send for Memory {}
// SAFETY: as above; atomics may be shared between threads.
unsafe impl Sync for Memory {}

impl Memory {
    /// Creates a sealed memory file of a lane's size, filled with zeros, and maps it.
    pub fn create() -> io::Result<(Memory, OwnedFd)> {
        let file = memfd_create(c"reprise-lane", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&file, LENGTH.get() as i64)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(wanted_seals() | SealFlag::F_SEAL_SEAL))?;
        Ok((Memory::map(&file)?, file))
    }

    /// Maps a memory file made by [`Memory::create`] in another process.
    ///
    /// Its size and seals are checked: without the seal, a peer could shrink it under us.
    pub fn open(file: &OwnedFd) -> io::Result<Memory> {
        let length = nix::sys::stat::fstat(file)?.st_size;
        if length != LENGTH.get() as i64 {
            return Err(io::Error::other(format!("the file has {length} bytes, a lane has {LENGTH}")));
        }
        let seals = SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(wanted_seals()) {
            return Err(io::Error::other("the file can change its size"));
        }
        Memory::map(file)
    }

    /// A lane inside one process, for tests and in-process machines.
    pub fn anonymous() -> io::Result<Memory> {
        // SAFETY: a new mapping at an address the kernel chooses; it overlaps nothing.
        let pointer = unsafe { mmap_anonymous(None, LENGTH, protection(), MapFlags::MAP_SHARED) }?;
        Ok(Memory { pointer })
    }

    fn map(file: impl AsFd) -> io::Result<Memory> {
        // SAFETY: a new mapping at an address the kernel chooses; it overlaps nothing. The file holds `LENGTH` bytes
        // and is sealed against shrinking, so every page of the mapping stays valid.
        let pointer = unsafe { mmap(None, LENGTH, protection(), MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Memory { pointer })
    }
}

impl Deref for Memory {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        // SAFETY: the mapping is page-aligned, has the size of `Shared`, lives as long as `self`, and `Shared` holds
        // only atomic integers, for which every bit pattern is valid and a write by another process is allowed.
        unsafe { self.pointer.cast::<Shared>().as_ref() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by us with this length, and no reference into it outlives `self`.
        let result = unsafe { munmap(self.pointer, LENGTH.get()) };
        debug_assert!(result.is_ok(), "munmap of a lane: {result:?}");
    }
}

fn protection() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

fn wanted_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// Someone woke us, or the word had changed before we slept.
    Woken,
    /// The time is over.
    TimedOut,
    /// A signal arrived.
    Interrupted,
}

/// Sleeps while `word` holds `expected`, at most for `timeout` (futex(2), FUTEX_WAIT, shared between processes).
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Slept {
    let timespec = timeout.map(|duration| libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    });
    let timespec_pointer = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `word` is an aligned 32-bit word and `timespec` lives until the call returns; the kernel only reads both.
    let result = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, timespec_pointer)
    };
    match if result == 0 { 0 } else { nix::errno::Errno::last_raw() } {
        0 | libc::EAGAIN => Slept::Woken,
        libc::ETIMEDOUT => Slept::TimedOut,
        libc::EINTR => Slept::Interrupted,
        errno => panic!("futex wait failed with errno {errno}: the word or the timeout is not valid"),
    }
}

/// Wakes whoever sleeps on `word`.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address only as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_file_share_their_words() {
        let (memory, file) = Memory::create().unwrap();
        let other = Memory::open(&file).unwrap();
        memory.attention.0.store(7, Ordering::Relaxed);
        assert_eq!(other.attention.0.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_file_that_is_no_lane_is_refused() {
        let plain = memfd_create(c"other", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(Memory::open(&plain).unwrap_err().to_string().contains("0 bytes"));
        nix::unistd::ftruncate(&plain, LENGTH.get() as i64).unwrap();
        assert!(Memory::open(&plain).unwrap_err().to_string().contains("change its size"));
    }

    #[test]
    fn a_lane_cannot_be_shrunk() {
        let (_memory, file) = Memory::create().unwrap();
        assert!(nix::unistd::ftruncate(&file, 0).is_err());
    }

    #[test]
    fn a_wait_ends_at_its_timeout() {
        let word = AtomicU32::new(0);
        assert_eq!(futex_wait(&word, 0, Some(Duration::from_millis(1))), Slept::TimedOut);
        assert_eq!(futex_wait(&word, 1, None), Slept::Woken);
    }
}
