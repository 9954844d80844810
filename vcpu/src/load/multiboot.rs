//! Multiboot 0.6.96 (version 1): ELF kernels and flat ones that give their load addresses themselves.

use super::elf::Elf;
use super::elf_boot::copy_segments;
use super::error::ImageError;
use super::start::{self, Entry};
use super::target::{Failure, Target};
use crate::firmware::layout::LowMemory;
use std::ops::Range;

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// The header is in the first 8 KiB, 4-byte aligned (3.1).
const SEARCH_BYTES: usize = 8192;
/// Header flags (3.1.2): what the kernel requires.
const ALIGN_MODULES: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const ADDRESSES_VALID: u32 = 1 << 16;
const REQUIREMENTS: u32 = 0xffff;
/// Information flags (3.3): what the loader gives.
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// Where the parts of the information go.
const INFO: u64 = LowMemory::BOOT_INFO;
const MODULE_LIST: u64 = INFO + 0x100;
const MEMORY_MAP: u64 = INFO + 0x200;
const LOADER_NAME: u64 = INFO + 0x800;
const MODULE_NAME: u64 = INFO + 0x840;
/// Names are constants: a recording must not depend on where the files were.
const KERNEL_WORD: &str = "kernel";

/// The kernel's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    offset: usize,
    flags: u32,
    /// header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr.
    addresses: Option<[u32; 5]>,
}

/// Finds a header with a right checksum.
pub(super) fn find_header(image: &[u8]) -> Option<Header> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let last = image.len().min(SEARCH_BYTES).saturating_sub(12);
    (0..=last).step_by(4).find_map(|offset| {
        let (magic, flags, checksum) = (word(offset)?, word(offset + 4)?, word(offset + 8)?);
        if magic != HEADER_MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let fields = || {
            let at = |index: usize| word(offset + 12 + 4 * index);
            Some([at(0)?, at(1)?, at(2)?, at(3)?, at(4)?])
        };
        Some(Header { offset, flags, addresses: if flags & ADDRESSES_VALID != 0 { fields() } else { None } })
    })
}

/// Loads an ELF kernel; addresses in the header take precedence over the ELF headers (3.1.3).
pub(super) fn load_elf(
    image: &[u8],
    elf: &Elf,
    header: &Header,
    target: &mut Target,
) -> Result<Entry, Failure> {
    if header.flags & ADDRESSES_VALID != 0 {
        return load_flat(image, target);
    }
    check_requirements(header)?;
    let in_segment = elf.physical_entry().and_then(|entry| u32::try_from(entry).ok());
    let entry = in_segment.ok_or(ImageError::Malformed("the entry point is in no segment"))?;
    let kernel_end = copy_segments(image, elf, target)?;
    finish(target, entry, kernel_end)
}

/// Loads by the addresses in the header (3.1.3).
pub(super) fn load_flat(image: &[u8], target: &mut Target) -> Result<Entry, Failure> {
    let header = find_header(image).ok_or(ImageError::UnknownFormat)?;
    check_requirements(&header)?;
    if header.flags & ADDRESSES_VALID == 0 {
        return Err(
            ImageError::Unsupported("a multiboot kernel that is no ELF file and gives no addresses").into()
        );
    }
    let has = image.len() as u64;
    let needs = header.offset as u64 + 32;
    let [header_address, load, load_end, bss_end, entry] = header
        .addresses
        .ok_or(ImageError::Truncated { what: "the multiboot header", needs, has })?
        .map(u64::from);
    let before = header_address.checked_sub(load);
    let file_start = before.and_then(|before| (header.offset as u64).checked_sub(before));
    let file_start =
        file_start.ok_or(ImageError::Malformed("the multiboot load address is before the file"))?;
    let file_bytes = match load_end {
        0 => has - file_start,
        end => end
            .checked_sub(load)
            .ok_or(ImageError::Malformed("multiboot load_end_addr is before load_addr"))?,
    };
    if file_start + file_bytes > has {
        return Err(ImageError::Truncated {
            what: "the multiboot kernel",
            needs: file_start + file_bytes,
            has,
        }
        .into());
    }
    let end = bss_end.max(load + file_bytes);
    let memory = target.check_free(load, end - load)?;
    if !memory.contains(&entry) {
        return Err(ImageError::Malformed("the entry point is outside of the kernel").into());
    }
    target.write(load, &image[file_start as usize..(file_start + file_bytes) as usize])?;
    // An address of 32 bits, read as one.
    finish(target, entry as u32, end)
}

fn check_requirements(header: &Header) -> Result<(), ImageError> {
    if header.flags & VIDEO_MODE != 0 {
        return Err(ImageError::Unsupported("a multiboot kernel that requires a video mode"));
    }
    if header.flags & REQUIREMENTS & !(ALIGN_MODULES | MEMORY_INFO) != 0 {
        return Err(ImageError::Unsupported(
            "a multiboot kernel with requirements that version 1 does not define",
        ));
    }
    Ok(())
}

/// Writes the information structure and makes the entry.
fn finish(target: &mut Target, entry: u32, kernel_end: u64) -> Result<Entry, Failure> {
    let text = match target.command_line {
        "" => KERNEL_WORD.to_owned(),
        arguments => format!("{KERNEL_WORD} {arguments}"),
    };
    let command_line = target.write_command_line(&text, LowMemory::COMMAND_LINE_BYTES_MAX - 1)?;
    let initrd = target.place_initrd_after(kernel_end)?;
    let map_bytes = write_map(target)?;
    target.write(LOADER_NAME, b"reprise\0")?;
    let mut info = Info([0; 116]);
    info.set(0, HAS_MEMORY | HAS_COMMAND_LINE | HAS_MAP | HAS_LOADER_NAME);
    info.set(4, (LowMemory::EBDA >> 10) as u32);
    info.set(8, ((target.low_end() - LowMemory::END) >> 10) as u32);
    info.set(16, command_line as u32);
    info.set(44, map_bytes);
    info.set(48, MEMORY_MAP as u32);
    info.set(64, LOADER_NAME as u32);
    if let Some(range) = initrd {
        write_module(target, range)?;
        info.set(0, HAS_MEMORY | HAS_COMMAND_LINE | HAS_MAP | HAS_LOADER_NAME | HAS_MODULES);
        info.set(20, 1);
        info.set(24, MODULE_LIST as u32);
    }
    target.write(INFO, &info.0)?;
    Ok(start::protected_mode(target, entry, LOADER_MAGIC)?)
}

/// The information structure, by field offset.
struct Info([u8; 116]);

impl Info {
    fn set(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Memory map: each entry starts with its own size, which does not count itself. Returns the bytes of all.
fn write_map(target: &Target) -> Result<u32, Failure> {
    const ENTRY_BYTES: u32 = 20;
    let mut bytes = Vec::new();
    for entry in target.memory_map() {
        bytes.extend_from_slice(&ENTRY_BYTES.to_le_bytes());
        bytes.extend_from_slice(&entry.range.start.to_le_bytes());
        bytes.extend_from_slice(&entry.bytes().to_le_bytes());
        bytes.extend_from_slice(&(entry.kind as u32).to_le_bytes());
    }
    target.write(MEMORY_MAP, &bytes)?;
    Ok(bytes.len() as u32)
}

fn write_module(target: &Target, range: Range<u64>) -> Result<(), Failure> {
    target.write(MODULE_NAME, b"initrd\0")?;
    let words = [range.start as u32, range.end as u32, MODULE_NAME as u32, 0];
    target.write(MODULE_LIST, &words.map(u32::to_le_bytes).concat())?;
    Ok(())
}
