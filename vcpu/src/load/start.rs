//! The state of the CPU at the first instruction, with the GDT and page tables it needs.

use super::error::LoadError;
use super::target::Target;
use crate::firmware::layout::LowMemory;

/// How the first CPU starts. What is not named here is as after reset; interrupts are off.
///
/// Segments are flat, as the GDT describes them: CS is `CODE_SELECTOR`, DS, ES, SS, FS and GS are `DATA_SELECTOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Mode and registers.
    pub mode: EntryMode,
    /// What GDTR holds.
    pub gdt: DescriptorTable,
}

/// Mode and registers of the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// Linux 64-bit protocol: CR0.PG and PE, CR4.PAE, EFER.LME and LMA; the low 4 GiB mapped one to one.
    Long64 {
        /// First instruction.
        rip: u64,
        /// Address of `boot_params`.
        rsi: u64,
        /// Top of a small stack.
        rsp: u64,
        /// Address of the PML4.
        cr3: u64,
    },
    /// PVH or multiboot: CR0.PE, no paging, 32-bit code.
    Protected32 {
        /// First instruction.
        eip: u32,
        /// Magic of the multiboot protocol, zero for PVH.
        eax: u32,
        /// Address of `hvm_start_info` or of the multiboot information.
        ebx: u32,
    },
}

/// Base and limit of a descriptor table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Bytes minus one.
    pub limit: u16,
}

impl Entry {
    /// Selector in CS, `__BOOT_CS` of the Linux protocol.
    pub const CODE_SELECTOR: u16 = 0x10;
    /// Selector in the data segments and SS, `__BOOT_DS`.
    pub const DATA_SELECTOR: u16 = 0x18;
}

/// Flat segments of 4 GiB, present, accessed, DPL 0 (SDM 3A 3.4.5).
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Starts in 64-bit mode with paging on.
pub(super) fn long_mode(target: &Target, rip: u64) -> Result<Entry, LoadError> {
    let cr3 = write_page_tables(target)?;
    let mode = EntryMode::Long64 { rip, rsi: LowMemory::ZERO_PAGE, rsp: LowMemory::STACK_TOP, cr3 };
    Ok(Entry { mode, gdt: write_gdt(target, CODE_64)? })
}

/// Starts in 32-bit protected mode.
pub(super) fn protected_mode(target: &Target, eip: u32, eax: u32) -> Result<Entry, LoadError> {
    let mode = EntryMode::Protected32 { eip, eax, ebx: LowMemory::BOOT_INFO as u32 };
    Ok(Entry { mode, gdt: write_gdt(target, CODE_32)? })
}

fn write_gdt(target: &Target, code: u64) -> Result<DescriptorTable, LoadError> {
    let descriptors = [0, 0, code, DATA];
    target.write(LowMemory::GDT, &descriptors.map(u64::to_le_bytes).concat())?;
    Ok(DescriptorTable { base: LowMemory::GDT, limit: (size_of_val(&descriptors) - 1) as u16 })
}

/// Maps the first 4 GiB one to one with 2 MiB pages; returns the address of the PML4 (SDM 3A 4.5).
fn write_page_tables(target: &Target) -> Result<u64, LoadError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const PAGE_SIZE: u64 = 1 << 7;
    const DIRECTORIES: u64 = 4;
    let pml4 = LowMemory::PAGE_TABLES;
    let pdpt = pml4 + 0x1000;
    let directory = |index: u64| pdpt + 0x1000 * (index + 1);
    target.write(pml4, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    for index in 0..DIRECTORIES {
        target.write(pdpt + 8 * index, &(directory(index) | PRESENT_WRITABLE).to_le_bytes())?;
        let pages = (index * 512..(index + 1) * 512).map(|page| page << 21 | PAGE_SIZE | PRESENT_WRITABLE);
        let bytes: Vec<u8> = pages.flat_map(u64::to_le_bytes).collect();
        target.write(directory(index), &bytes)?;
    }
    Ok(pml4)
}
