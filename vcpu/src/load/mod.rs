//! Kernel loaders: from `-kernel`, `-initrd` and `-append` to RAM contents and the state of the first instruction.
//!
//! The format is told by content, never by name. Images are hostile input: every offset and length in them is
//! checked before use, and every failure is one line that names the file.

mod boot_params;
mod bzimage;
mod elf;
mod elf_boot;
mod error;
mod multiboot;
mod start;
mod target;

pub use error::{ImageError, LoadError};
pub use start::{DescriptorTable, Entry, EntryMode};

use crate::firmware::{self, layout::GuestRam};
use replay::machine::Machine;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use target::{Initrd, Target};

/// Writes firmware tables, kernel, initrd and boot information into RAM that is all zero, and says how to start.
///
/// `ram` has the ranges of [`firmware::layout::ram_ranges`]. It must be zero: the loaders do not clear a kernel's
/// bss, and a machine that resets starts again from zeroed RAM.
pub fn load(ram: &GuestRam, machine: &Machine) -> Result<Entry, LoadError> {
    let path = machine.boot.kernel.as_deref().ok_or(LoadError::NoKernel)?;
    if machine.ram_bytes < target::RAM_BYTES_MIN {
        return Err(LoadError::RamTooSmall { bytes: machine.ram_bytes });
    }
    let in_kernel = |problem| LoadError::Kernel { path: path.to_owned(), problem };
    let image = read_kernel(path, machine.ram_bytes).map_err(in_kernel)?;
    let initrd = match machine.boot.initrd.as_deref() {
        Some(path) => open_initrd(path, machine.ram_bytes)
            .map_err(|problem| LoadError::Initrd { path: path.to_owned(), problem })?,
        None => None,
    };
    let installed = firmware::install(ram, machine)?;
    let mut target = Target::new(ram, machine, installed.rsdp, initrd);
    let loader = format_of(&image).ok_or(ImageError::UnknownFormat).map_err(in_kernel)?;
    loader(&image, &mut target).map_err(|error| error.with_kernel(path))
}

/// A format's loader. Errors are about the kernel unless they are already a `LoadError`.
type Loader = fn(&[u8], &mut Target) -> Result<Entry, target::Failure>;

fn format_of(image: &[u8]) -> Option<Loader> {
    if bzimage::is_bzimage(image) {
        Some(bzimage::load)
    } else if elf::is_elf(image) {
        Some(elf_boot::load)
    } else if multiboot::find_header(image).is_some() {
        Some(multiboot::load_flat)
    } else {
        None
    }
}

/// Opens a regular file of at most `bytes_max` bytes.
fn open(path: &Path, bytes_max: u64) -> Result<(File, u64), ImageError> {
    let metadata = std::fs::metadata(path).map_err(ImageError::Open)?;
    if !metadata.is_file() {
        return Err(ImageError::NotAFile);
    }
    if metadata.len() > bytes_max {
        return Err(ImageError::LargerThanRam { bytes: metadata.len(), ram_bytes: bytes_max });
    }
    Ok((File::open(path).map_err(ImageError::Open)?, metadata.len()))
}

fn read_kernel(path: &Path, ram_bytes: u64) -> Result<Vec<u8>, ImageError> {
    // Debug sections make an ELF file larger than what is loaded of it.
    const DEBUG_BYTES_MAX: u64 = 2 << 30;
    let (file, bytes) = open(path, ram_bytes.saturating_add(DEBUG_BYTES_MAX))?;
    let mut image = Vec::with_capacity(bytes as usize);
    // The length is fixed at what was checked, should the file grow meanwhile.
    file.take(bytes).read_to_end(&mut image).map_err(ImageError::Read)?;
    Ok(image)
}

fn open_initrd(path: &Path, ram_bytes: u64) -> Result<Option<Initrd>, ImageError> {
    let (file, bytes) = open(path, ram_bytes)?;
    // An empty file is no initrd.
    Ok((bytes > 0).then(|| Initrd { path: path.to_owned(), file, bytes }))
}

#[cfg(test)]
mod tests;
