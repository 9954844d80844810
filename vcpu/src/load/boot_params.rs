//! Linux `boot_params`, the "zero page" (Documentation/arch/x86/boot.rst, zero-page.rst).

use super::error::LoadError;
use super::target::Target;
use crate::firmware::layout::LowMemory;
use linux_loader::configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use std::ops::Range;
use vm_memory::GuestAddress;

/// Boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;

/// Fills what every kernel needs and writes the page. `params.hdr` is the kernel's own header.
pub(super) fn write(
    target: &Target,
    mut params: boot_params,
    command_line: u64,
    initrd: Option<Range<u64>>,
) -> Result<(), LoadError> {
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = command_line as u32;
    params.ext_cmd_line_ptr = (command_line >> 32) as u32;
    let (image, size) = initrd.map_or((0, 0), |range| (range.start, range.end - range.start));
    params.hdr.ramdisk_image = image as u32;
    params.ext_ramdisk_image = (image >> 32) as u32;
    params.hdr.ramdisk_size = size as u32;
    params.ext_ramdisk_size = (size >> 32) as u32;
    params.acpi_rsdp_addr = target.rsdp;
    let map = target.memory_map();
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: entry.range.start, size: entry.bytes(), r#type: entry.kind as u32 };
    }
    params.e820_entries = map.len() as u8;
    let page = BootParams::new(&params, GuestAddress(LowMemory::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&page, target.ram)
        .map_err(|_| LoadError::NoRam { gpa: LowMemory::ZERO_PAGE })
}
