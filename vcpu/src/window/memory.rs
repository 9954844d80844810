//! The memory of a window: a sealed memfd, mapped here and in the back-end.

use super::error::WindowError;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use vm_memory::mmap::MmapRegion;
use vm_memory::{AtomicAccess, Bytes, FileOffset, VolatileMemory, VolatileSlice};

/// Shared memory. Offsets come from the layout that `queue` makes, never from the back-end, so they are always inside.
///
/// The seals keep the back-end from shrinking the file, which would make accesses here fault.
pub struct WindowMemory {
    region: MmapRegion,
}

impl WindowMemory {
    /// Makes and maps `size` zero bytes for `device`.
    pub fn new(device: &str, size: usize) -> Result<WindowMemory, WindowError> {
        let failed = |what, source| WindowError::Host { device: device.to_string(), what, source };
        let file = sealed_file(size).map_err(|error| failed("make a window", error.into()))?;
        let region = MmapRegion::from_file(FileOffset::new(File::from(file), 0), size)
            .map_err(|error| failed("map a window", io::Error::other(error)))?;
        Ok(WindowMemory { region })
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.region.size()
    }

    /// The file, for the back-end.
    pub fn fd(&self) -> RawFd {
        let file = self.region.file_offset().expect("the window is mapped from a file");
        file.file().as_raw_fd()
    }

    fn at(&self, offset: usize, length: usize) -> VolatileSlice<'_> {
        self.region.get_slice(offset, length).expect("offsets come from the layout of the window")
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.at(offset, bytes.len()).copy_from(bytes);
    }

    /// Copies from `offset` to `bytes`. The back-end may be writing there: the bytes are whatever was seen, once.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.at(offset, bytes.len()).copy_to(bytes);
    }

    /// Reads a number; with `Acquire` what was written before it is seen after it.
    pub fn load<T: AtomicAccess>(&self, offset: usize, order: Ordering) -> T {
        let slice = self.at(offset, size_of::<T>());
        slice.load(0, order).expect("the layout of the window is aligned")
    }

    /// Writes a number; with `Release` what was written before it is seen with it.
    pub fn store<T: AtomicAccess>(&self, value: T, offset: usize, order: Ordering) {
        let slice = self.at(offset, size_of::<T>());
        slice.store(value, 0, order).expect("the layout of the window is aligned");
    }
}

fn sealed_file(size: usize) -> nix::Result<OwnedFd> {
    let file = memfd_create("reprise-window", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&file, size as i64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_and_shared() {
        let memory = WindowMemory::new("test", 0x2000).unwrap();
        memory.write(0x1ffe, b"hi");
        let mut bytes = [0; 2];
        memory.read(0x1ffe, &mut bytes);
        assert_eq!(&bytes, b"hi");
        memory.store(0x1234u16, 0x10, Ordering::Release);
        assert_eq!(memory.load::<u16>(0x10, Ordering::Acquire), 0x1234);
        let file = memory.region.file_offset().unwrap().file();
        assert!(file.set_len(0x1000).is_err(), "a back-end must not be able to shrink it");
        assert!(file.set_len(0x3000).is_err());
    }
}
