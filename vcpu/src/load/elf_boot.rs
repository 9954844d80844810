//! Starting an ELF executable: by PVH note, by multiboot header, or as a 64-bit Linux kernel.

use super::elf::{Class, Elf};
use super::error::{ImageError, LoadError};
use super::start::{self, Entry};
use super::target::{Failure, Target};
use super::{boot_params, multiboot};
use crate::firmware::layout::{HIGH_RAM_BASE, LowMemory};
use linux_loader::configurator::{BootConfigurator, BootParams, pvh::PvhBootConfigurator};
use linux_loader::loader::bootparam::boot_params as LinuxBootParams;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::{Elf as ElfLoader, KernelLoader};
use std::io::Cursor;
use vm_memory::GuestAddress;

/// Longest command line of an x86 kernel, without its terminator (COMMAND_LINE_SIZE).
const LINUX_COMMAND_LINE_MAX: u64 = 2047;
/// Linux maps the initrd by a 32-bit address that its early code treats as signed.
const INITRD_BELOW: u64 = 1 << 31;
const MODULE_LIST: u64 = LowMemory::BOOT_INFO + 0x100;
const MEMORY_MAP: u64 = LowMemory::BOOT_INFO + 0x200;

/// Loads an executable by the first protocol that it declares.
pub(super) fn load(image: &[u8], target: &mut Target) -> Result<Entry, Failure> {
    let elf = Elf::parse(image)?;
    if let Some(entry) = elf.pvh_entry()? {
        return pvh(image, &elf, entry, target);
    }
    if let Some(header) = multiboot::find_header(image) {
        return multiboot::load_elf(image, &elf, &header, target);
    }
    match elf.class {
        Class::Elf64 => linux_64(image, &elf, target),
        Class::Elf32 => {
            Err(ImageError::Unsupported("a 32-bit ELF file with neither PVH note nor multiboot header")
                .into())
        }
    }
}

/// Copies the segments into RAM; returns the end of the highest below 4 GiB.
pub(super) fn copy_segments(image: &[u8], elf: &Elf, target: &Target) -> Result<u64, Failure> {
    let mut end = 0;
    for segment in elf.loadable() {
        let range = target.check_free(segment.physical_address, segment.memory_bytes)?;
        if range.end <= HIGH_RAM_BASE {
            end = end.max(range.end);
        }
    }
    if end == 0 {
        return Err(ImageError::Malformed("the ELF file has nothing to load").into());
    }
    match elf.class {
        Class::Elf64 => {
            ElfLoader::load(target.ram, None, &mut Cursor::new(image), None).map_err(ImageError::Loader)?;
        }
        Class::Elf32 => {
            for segment in elf.loadable() {
                target.write(segment.physical_address, elf.contents(segment))?;
            }
        }
    }
    Ok(end)
}

/// A 64-bit kernel without a declared protocol is entered as Linux's `startup_64` is.
fn linux_64(image: &[u8], elf: &Elf, target: &mut Target) -> Result<Entry, Failure> {
    let outside = ImageError::Malformed("the entry point is in no segment");
    let entry = elf.physical_entry().filter(|entry| *entry < HIGH_RAM_BASE).ok_or(outside)?;
    let kernel_end = copy_segments(image, elf, target)?;
    let command_line = target.write_command_line(target.command_line, LINUX_COMMAND_LINE_MAX)?;
    let initrd = target.place_initrd_high(kernel_end, INITRD_BELOW, true)?;
    // A vmlinux has no setup header; these fields tell its early code that the page is valid.
    let mut params = LinuxBootParams::default();
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = u32::from_le_bytes(*b"HdrS");
    params.hdr.version = 0x020f;
    params.hdr.kernel_alignment = 0x20_0000;
    boot_params::write(target, params, command_line, initrd)?;
    Ok(start::long_mode(target, entry)?)
}

/// PVH (Xen misc/pvh.pandoc): 32-bit entry with `hvm_start_info` version 1.
fn pvh(image: &[u8], elf: &Elf, entry: u32, target: &mut Target) -> Result<Entry, Failure> {
    const MAGIC: u32 = 0x336e_c578;
    if !elf.contains(u64::from(entry)) {
        return Err(ImageError::Malformed("the PVH entry point is in no segment").into());
    }
    let kernel_end = copy_segments(image, elf, target)?;
    let command_line = target.write_command_line(target.command_line, LINUX_COMMAND_LINE_MAX)?;
    let initrd = target.place_initrd_high(kernel_end, INITRD_BELOW, false)?;
    let modules: Vec<hvm_modlist_entry> = initrd
        .map(|range| hvm_modlist_entry {
            paddr: range.start,
            size: range.end - range.start,
            ..Default::default()
        })
        .into_iter()
        .collect();
    let map: Vec<hvm_memmap_table_entry> = target
        .memory_map()
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.range.start,
            size: entry.bytes(),
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { MODULE_LIST },
        cmdline_paddr: command_line,
        rsdp_paddr: target.rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(LowMemory::BOOT_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    params.set_modules(&modules, GuestAddress(MODULE_LIST));
    PvhBootConfigurator::write_bootparams(&params, target.ram)
        .map_err(|_| LoadError::NoRam { gpa: LowMemory::BOOT_INFO })?;
    Ok(start::protected_mode(target, entry, 0)?)
}
