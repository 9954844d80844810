//! A disk image: bytes of a disk, whatever the format and the files below.
//!
//! On imago, whose blocking calls are made one at a time. The size of a disk is whole sectors; the last one of a raw
//! image may be missing in part: it reads as zeros, and writing to it makes the file longer, as in QEMU.

use super::request::SECTOR;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::DynStorage;
use imago::{FormatAccess, Mapping, format};
use replay::clusters;
use std::fs::File;
use std::io;
use vm_memory::VolatileSlice;

/// What an image lies on: a file, memory, or nothing.
pub type Storage = Box<dyn DynStorage>;

/// Buffers in one call to the host (IOV_MAX is 1024).
const BUFFERS_MAX: usize = 512;
/// Zeros written at once where nothing better is supported.
const ZEROS: usize = 1 << 18;

/// An open image.
pub struct Image {
    access: FormatAccess<Storage>,
    size: u64,
    /// The file, if its bytes are those of the disk: holes can be found in it.
    file: Option<File>,
}

impl Image {
    /// Takes over an image that imago has opened.
    pub fn new(access: FormatAccess<Storage>) -> Image {
        let size = access.size().next_multiple_of(SECTOR);
        Image { access, size, file: None }
    }

    /// The same of a raw image in this file.
    pub fn of_raw_file(access: FormatAccess<Storage>, file: File) -> Image {
        Image { file: Some(file), ..Image::new(access) }
    }

    /// Bytes of the disk, a multiple of `SECTOR`.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// imago's view, for those who look at what is allocated.
    pub fn access(&self) -> &FormatAccess<Storage> {
        &self.access
    }

    /// Gives imago's view back, to be the backing image of another one.
    pub fn into_access(self) -> FormatAccess<Storage> {
        self.access
    }

    /// Reads from `offset` on until all buffers are full.
    pub fn read(&mut self, buffers: &[VolatileSlice<'_>], mut offset: u64) -> io::Result<()> {
        for buffers in buffers.chunks(BUFFERS_MAX) {
            let (vector, _mapped) = IoVectorMut::from_volatile_slice(buffers);
            let length = vector.len();
            self.access.readv(vector, offset)?;
            offset += length;
        }
        Ok(())
    }

    /// Writes all buffers from `offset` on.
    pub fn write(&mut self, buffers: &[VolatileSlice<'_>], mut offset: u64) -> io::Result<()> {
        for buffers in buffers.chunks(BUFFERS_MAX) {
            let (vector, _mapped) = IoVector::from_volatile_slice(buffers);
            let length = vector.len();
            self.complete_last_sector(offset + length)?;
            self.access.writev(vector, offset)?;
            offset += length;
        }
        Ok(())
    }

    /// How many bytes from `offset` on are known to be zero without being read, at most `length`.
    pub fn zeros_at(&self, offset: u64, length: u64) -> io::Result<u64> {
        if let Some(file) = &self.file {
            let data = clusters::next_data(file, offset)?;
            return Ok(data.map_or(length, |data| length.min(data.saturating_sub(offset))));
        }
        let (mapping, found) = self.access.get_mapping(offset, length)?;
        Ok(match mapping {
            Mapping::Zero { .. } => found.min(length),
            Mapping::Eof { .. } => length,
            // imago may learn of other things; then reading is the safe answer.
            _ => 0,
        })
    }

    /// Reads `bytes.len()` bytes at `offset`.
    pub fn read_bytes(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.access.read(bytes, offset)
    }

    /// Writes `bytes` at `offset`.
    pub fn write_bytes(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.complete_last_sector(offset + bytes.len() as u64)?;
        self.access.write(bytes, offset)
    }

    /// Makes a range read as zeros. `unmap`: its storage may be given up.
    pub fn write_zeroes(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.complete_last_sector(offset + length)?;
        let unsupported = |result: &io::Result<()>| {
            result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported)
        };
        if unmap {
            let result = self.access.discard_to_zero(offset, length);
            if !unsupported(&result) {
                return result;
            }
        }
        let result = self.access.write_zeroes(offset, length);
        if unsupported(&result) { self.write_zeros_as_data(offset, length) } else { result }
    }

    fn write_zeros_as_data(&mut self, mut offset: u64, mut length: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        while length > 0 {
            let count = length.min(ZEROS as u64);
            self.access.write(&zeros[..count as usize], offset)?;
            offset += count;
            length -= count;
        }
        Ok(())
    }

    /// Makes the disk as large as `size`, if it is smaller.
    pub fn grow(&mut self, size: u64) -> io::Result<()> {
        if size > self.size {
            self.access.resize_grow(size, format::PreallocateMode::None)?;
            self.size = self.access.size().next_multiple_of(SECTOR);
        }
        Ok(())
    }

    /// Hands what the image keeps in memory to the host; `to_disk`: and waits until the host has it on its disk.
    pub fn flush(&mut self, to_disk: bool) -> io::Result<()> {
        self.access.flush()?;
        if to_disk { self.access.sync() } else { Ok(()) }
    }

    /// A raw file that ends within a sector grows before somebody writes there.
    fn complete_last_sector(&mut self, end: u64) -> io::Result<()> {
        if end <= self.access.size() || end > self.size {
            return Ok(());
        }
        self.access.resize_grow(self.size, format::PreallocateMode::None)
    }
}
