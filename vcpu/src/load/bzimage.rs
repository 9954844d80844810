//! bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst).

use super::error::ImageError;
use super::start::{self, Entry};
use super::target::{Failure, Target};
use super::{boot_params, error::LoadError};
use linux_loader::loader::bootparam::{boot_params as BootParams, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use std::io::Cursor;
use vm_memory::{ByteValued, GuestAddress};

/// Offset of the setup header in the file and in `boot_params`.
const HEADER: usize = 0x1f1;
/// The header ends at 0x202 plus the byte at 0x201 (the target of the jump over it).
const HEADER_JUMP: usize = 0x201;
/// What follows the header in `boot_params`.
const HEADER_END_MAX: usize = 0x290;
/// The least header that has all fields of protocol 2.12.
const HEADER_END_MIN: usize = 0x268;
const BOOT_FLAG: [u8; 2] = [0x55, 0xaa];
const PROTOCOL_2_12: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// Where the protected-mode part goes; it moves itself to where it likes to run.
const LOAD_ADDRESS: u64 = 0x10_0000;
/// Offset of `startup_64` in the protected-mode part.
const ENTRY_64: u64 = 0x200;
const SECTOR: usize = 512;

/// Tells a bzImage by the boot sector's flag and the header's magic.
pub(super) fn is_bzimage(image: &[u8]) -> bool {
    image.get(0x1fe..0x200) == Some(&BOOT_FLAG) && image.get(0x202..0x206) == Some(b"HdrS")
}

/// Loads the kernel and its initrd.
pub(super) fn load(image: &[u8], target: &mut Target) -> Result<Entry, Failure> {
    let mut params = read_header(image)?;
    let header = params.hdr;
    let kernel_end = kernel_end(image, &header)?;
    target.check_free(LOAD_ADDRESS, kernel_end - LOAD_ADDRESS)?;
    if kernel_end > target.low_end() {
        return Err(ImageError::OutsideRam { start: LOAD_ADDRESS, end: kernel_end }.into());
    }
    let loaded = BzImage::load(target.ram, Some(GuestAddress(LOAD_ADDRESS)), &mut Cursor::new(image), None)
        .map_err(ImageError::Loader)?;
    params.hdr.code32_start = LOAD_ADDRESS as u32;
    let command_line = target.write_command_line(target.command_line, u64::from(header.cmdline_size))?;
    let below = u64::from(header.initrd_addr_max) + 1;
    let above_4g = header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0;
    let initrd = target.place_initrd_high(kernel_end, below, above_4g)?;
    boot_params::write(target, params, command_line, initrd)?;
    start(target, loaded.kernel_load.0)
}

fn start(target: &Target, load_address: u64) -> Result<Entry, Failure> {
    let entry: Result<Entry, LoadError> = start::long_mode(target, load_address + ENTRY_64);
    Ok(entry?)
}

/// A zero page with the kernel's header in it, once the header says that it can be started in 64-bit mode.
fn read_header(image: &[u8]) -> Result<BootParams, ImageError> {
    let end = (0x202 + usize::from(image[HEADER_JUMP])).min(HEADER_END_MAX);
    let has = image.len() as u64;
    // linux-loader reads the whole header structure, however long the kernel's own is.
    let needs = end.max(HEADER + size_of::<setup_header>());
    if image.len() < needs {
        return Err(ImageError::Truncated { what: "the setup header", needs: needs as u64, has });
    }
    let mut params = BootParams::default();
    params.as_mut_slice()[HEADER..end].copy_from_slice(&image[HEADER..end]);
    let header = params.hdr;
    if header.version < PROTOCOL_2_12 || end < HEADER_END_MIN {
        return Err(ImageError::Unsupported("a bzImage older than boot protocol 2.12 (Linux 3.8)"));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(ImageError::Unsupported("a zImage, which loads below 1 MiB"));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageError::Unsupported("a 32-bit kernel (the bzImage has no 64-bit entry point)"));
    }
    Ok(params)
}

/// End of the memory that the kernel uses before it reads the memory map.
fn kernel_end(image: &[u8], header: &setup_header) -> Result<u64, ImageError> {
    // Zero means four, for historical reasons.
    let sectors = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
    let code = ((sectors + 1) * SECTOR) as u64;
    let code_bytes = u64::from(header.syssize) * 16;
    let has = image.len() as u64;
    if code_bytes <= ENTRY_64 {
        return Err(ImageError::Malformed("the protected-mode kernel is empty"));
    }
    if code + code_bytes > has {
        return Err(ImageError::Truncated {
            what: "the protected-mode kernel",
            needs: code + code_bytes,
            has,
        });
    }
    let alignment = u64::from(header.kernel_alignment);
    if !alignment.is_power_of_two() {
        return Err(ImageError::Malformed("kernel_alignment is not a power of two"));
    }
    let runs_at = LOAD_ADDRESS.next_multiple_of(alignment).max(header.pref_address);
    let runs_to = runs_at.checked_add(u64::from(header.init_size));
    let runs_to = runs_to.ok_or(ImageError::Malformed("pref_address and init_size exceed 64 bits"))?;
    Ok(runs_to.max(LOAD_ADDRESS + (has - code)))
}
