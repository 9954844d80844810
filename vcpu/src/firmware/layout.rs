//! The guest physical address map: RAM, windows, fixed devices, and what is where below 1 MiB.
//!
//! The one place these numbers stand; tables, loaders and chipset take them from here.

use std::ops::Range;

/// Guest RAM as the loaders see it.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

/// End of RAM below 4 GiB when the machine has more than that.
pub const LOW_RAM_LIMIT: u64 = 3 << 30;
/// Where RAM goes on above the hole.
pub const HIGH_RAM_BASE: u64 = 4 << 30;
/// Window for PCI memory BARs below 4 GiB.
pub const PCI_WINDOW_32: Range<u64> = 0xc000_0000..0xe000_0000;
/// PCI Express configuration space (ECAM), buses 0 to 255.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// I/O APIC registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// HPET registers.
pub const HPET: u64 = 0xfed0_0000;
/// Local APIC registers.
pub const LAPIC: u64 = 0xfee0_0000;

/// Addresses below 1 MiB. The loaders' data is in usable RAM, which the kernel takes over once it has read it.
pub struct LowMemory;

impl LowMemory {
    /// GDT of the first instruction.
    pub const GDT: u64 = 0x500;
    /// `hvm_start_info`, its module list and memory map, or the multiboot information.
    pub const BOOT_INFO: u64 = 0x6000;
    /// Linux `boot_params`.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Top of a small stack.
    pub const STACK_TOP: u64 = 0x9000;
    /// Identity page tables: PML4, PDPT, four page directories.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// Kernel command line, up to `COMMAND_LINE_BYTES_MAX` with its terminator.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// Room for the command line.
    pub const COMMAND_LINE_BYTES_MAX: u64 = 0x1_0000;
    /// End of what the loaders write; images may lie from here to the EBDA.
    pub const LOADER_END: u64 = 0x3_0000;
    /// Extended BIOS data area.
    pub const EBDA: u64 = 0x9_fc00;
    /// End of conventional memory; VGA memory on a PC.
    pub const EBDA_END: u64 = 0xa_0000;
    /// ACPI tables.
    pub const ACPI: Range<u64> = 0xe_0000..0xf_0000;
    /// ACPI root pointer; found by a scan of 0xe0000 to 0xfffff at multiples of 16.
    pub const RSDP: u64 = 0xf_0000;
    /// SMBIOS entry point; found by a scan of 0xf0000 to 0xfffff at multiples of 16.
    pub const SMBIOS: Range<u64> = 0xf_0100..0xf_1000;
    /// End of the firmware area.
    pub const END: u64 = 0x10_0000;
}

/// Splits RAM into the part below 4 GiB and the part from 4 GiB on (empty when there is none).
pub fn ram_ranges(ram_bytes: u64) -> (Range<u64>, Range<u64>) {
    let low = ram_bytes.min(LOW_RAM_LIMIT);
    (0..low, HIGH_RAM_BASE..HIGH_RAM_BASE.saturating_add(ram_bytes - low))
}

/// Window for 64-bit PCI memory BARs: above RAM, aligned to its own size of 64 GiB.
pub fn pci_window_64(ram_bytes: u64) -> Range<u64> {
    const SIZE: u64 = 64 << 30;
    let base = ram_ranges(ram_bytes).1.end.next_multiple_of(SIZE);
    base..base + SIZE
}

/// Global system interrupt to which a PCI device's pin (0 is INTA#) is wired; level-triggered, active low.
pub fn pci_intx_gsi(device: u8, pin: u8) -> u32 {
    16 + (u32::from(device) + u32::from(pin)) % 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_splits_at_three_gib() {
        assert_eq!(ram_ranges(256 << 20), (0..256 << 20, 4 << 30..4 << 30));
        assert_eq!(ram_ranges(5 << 30), (0..3 << 30, 4 << 30..6 << 30));
    }

    #[test]
    fn high_window_is_above_ram() {
        assert_eq!(pci_window_64(1 << 30), 64 << 30..128 << 30);
        assert_eq!(pci_window_64(64 << 30), 128 << 30..192 << 30);
    }

    #[test]
    fn pins_rotate_over_eight_inputs() {
        assert_eq!(pci_intx_gsi(0, 0), 16);
        assert_eq!(pci_intx_gsi(3, 1), 20);
        assert_eq!(pci_intx_gsi(31, 3), 18);
    }
}
