//! The machine that images are loaded into: checked writes, free memory, command line, initrd.

use super::error::{ImageError, LoadError};
use crate::firmware::layout::{GuestRam, HIGH_RAM_BASE, LowMemory, ram_ranges};
use crate::firmware::memory_map::{self, MapEntry};
use replay::machine::Machine;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use vm_memory::{Bytes, GuestAddress};

/// Least RAM that holds firmware tables, boot information and a kernel at 1 MiB.
pub(super) const RAM_BYTES_MIN: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// RAM and what goes into it beside the kernel.
pub(super) struct Target<'a> {
    pub(super) ram: &'a GuestRam,
    pub(super) ram_bytes: u64,
    pub(super) rsdp: u64,
    pub(super) command_line: &'a str,
    initrd: Option<Initrd>,
}

/// An open initrd.
pub(super) struct Initrd {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// A loader's error: about the kernel image, or complete already.
#[derive(Debug)]
pub(super) enum Failure {
    Kernel(ImageError),
    Other(LoadError),
}

impl Failure {
    /// Names the kernel in errors that are about it.
    pub(super) fn with_kernel(self, path: &Path) -> LoadError {
        match self {
            Failure::Kernel(problem) => LoadError::Kernel { path: path.to_owned(), problem },
            Failure::Other(error) => error,
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        Failure::Kernel(error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::Other(error)
    }
}

impl<'a> Target<'a> {
    pub(super) fn new(
        ram: &'a GuestRam,
        machine: &'a Machine,
        rsdp: u64,
        initrd: Option<Initrd>,
    ) -> Target<'a> {
        Target { ram, ram_bytes: machine.ram_bytes, rsdp, command_line: &machine.boot.cmdline, initrd }
    }

    /// Writes boot information.
    pub(super) fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), LoadError> {
        self.ram.write_slice(bytes, GuestAddress(gpa)).map_err(|_| LoadError::NoRam { gpa })
    }

    /// End of RAM below 4 GiB.
    pub(super) fn low_end(&self) -> u64 {
        ram_ranges(self.ram_bytes).0.end
    }

    /// Memory map for the kernel.
    pub(super) fn memory_map(&self) -> Vec<MapEntry> {
        memory_map::entries(self.ram_bytes)
    }

    /// Checks that an image may occupy `bytes` from `start`: RAM that neither firmware nor loaders use.
    pub(super) fn check_free(&self, start: u64, bytes: u64) -> Result<Range<u64>, ImageError> {
        let end = start.checked_add(bytes).ok_or(ImageError::Malformed("a segment's end exceeds 64 bits"))?;
        let high = ram_ranges(self.ram_bytes).1;
        let free = [LowMemory::LOADER_END..LowMemory::EBDA, LowMemory::END..self.low_end(), high];
        match free.iter().any(|range| range.start <= start && end <= range.end) {
            true => Ok(start..end),
            false => Err(ImageError::OutsideRam { start, end }),
        }
    }

    /// Writes the command line with its terminator, at most `bytes_max` long without it; returns its address.
    pub(super) fn write_command_line(&self, text: &str, bytes_max: u64) -> Result<u64, LoadError> {
        let bytes_max = bytes_max.min(LowMemory::COMMAND_LINE_BYTES_MAX - 1);
        let bytes = text.len() as u64;
        if text.as_bytes().contains(&0) {
            return Err(LoadError::CommandLineZero);
        }
        if bytes > bytes_max {
            return Err(LoadError::CommandLineTooLong { bytes, bytes_max });
        }
        self.write(LowMemory::COMMAND_LINE, text.as_bytes())?;
        self.write(LowMemory::COMMAND_LINE + bytes, &[0])?;
        Ok(LowMemory::COMMAND_LINE)
    }

    /// Places the initrd as high as RAM below 4 GiB and `below` permit, page-aligned, above `kernel_end`; above
    /// 4 GiB when `or_high` and there is no room below.
    pub(super) fn place_initrd_high(
        &mut self,
        kernel_end: u64,
        below: u64,
        or_high: bool,
    ) -> Result<Option<Range<u64>>, LoadError> {
        let floor = kernel_end.max(LowMemory::END);
        let low = floor..below.min(self.low_end());
        let high = ram_ranges(self.ram_bytes).1;
        let high = high.start.max(if kernel_end > HIGH_RAM_BASE { kernel_end } else { 0 })..high.end;
        let rooms = [low, high];
        self.copy_initrd(if or_high { &rooms } else { &rooms[..1] }, |room, bytes| {
            room.end.checked_sub(bytes).map(|start| start & !(PAGE - 1))
        })
    }

    /// Places the initrd at the first page after the kernel.
    pub(super) fn place_initrd_after(&mut self, kernel_end: u64) -> Result<Option<Range<u64>>, LoadError> {
        let room = kernel_end.max(LowMemory::END)..self.low_end();
        self.copy_initrd(&[room], |room, _| room.start.checked_next_multiple_of(PAGE))
    }

    fn copy_initrd(
        &mut self,
        rooms: &[Range<u64>],
        place: fn(&Range<u64>, u64) -> Option<u64>,
    ) -> Result<Option<Range<u64>>, LoadError> {
        let Some(Initrd { path, mut file, bytes }) = self.initrd.take() else { return Ok(None) };
        let fits = |room: &Range<u64>| {
            let start = place(room, bytes)?;
            let end = start.checked_add(bytes)?;
            (room.start <= start && end <= room.end).then_some(start..end)
        };
        let failed = |problem| LoadError::Initrd { path: path.clone(), problem };
        let Some(range) = rooms.iter().find_map(fits) else {
            let room = rooms.iter().map(|room| room.end.saturating_sub(room.start)).max().unwrap_or(0);
            return Err(failed(ImageError::NoRoom { bytes, room: room & !(PAGE - 1) }));
        };
        self.ram
            .read_exact_volatile_from(GuestAddress(range.start), &mut file, bytes as usize)
            .map_err(|error| failed(ImageError::Read(std::io::Error::other(error))))?;
        Ok(Some(range))
    }
}
