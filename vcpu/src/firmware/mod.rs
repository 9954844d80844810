//! What a PC's firmware leaves in memory for a kernel: memory map, BIOS data, ACPI tables, SMBIOS.
//!
//! No firmware runs: these tables are written before the first instruction, so they are part of the machine's
//! initial state. Invariant: the bytes are a pure function of the machine description.

pub mod acpi;
pub mod dsdt;
mod interrupt_links;
pub mod layout;
pub mod memory_map;
pub mod smbios;

use layout::{GuestRam, LowMemory};
use replay::machine::Machine;
use vm_memory::{Bytes, GuestAddress};

/// Where the tables are that a boot protocol hands to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Guest physical address of the ACPI RSDP.
    pub rsdp: u64,
}

/// Why the tables could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// The machine's UUID is no UUID.
    #[error("'{0}' is not a UUID (expected 8-4-4-4-12 hexadecimal digits)")]
    Uuid(String),
    /// The tables outgrow the area below 1 MiB that is kept for them.
    #[error("ACPI and SMBIOS tables for {cpus} CPUs do not fit in the firmware area")]
    TooManyCpus {
        /// CPUs asked for.
        cpus: u32,
    },
    /// RAM lacks the first mebibyte.
    #[error("guest RAM has no memory at {gpa:#x}, where the firmware tables go")]
    NoRam {
        /// First address that could not be written.
        gpa: u64,
    },
}

/// Writes BIOS data area, ACPI tables and SMBIOS tables into RAM.
pub fn install(ram: &GuestRam, machine: &Machine) -> Result<Installed, FirmwareError> {
    for (gpa, bytes) in acpi::tables(machine)?.into_iter().chain(smbios::tables(machine)?) {
        write(ram, gpa, &bytes)?;
    }
    // BIOS data area: segment of the EBDA at 0x40e, KiB of conventional memory at 0x413.
    write(ram, 0x40e, &((LowMemory::EBDA >> 4) as u16).to_le_bytes())?;
    write(ram, 0x413, &((LowMemory::EBDA >> 10) as u16).to_le_bytes())?;
    // The EBDA starts with its own size in KiB.
    write(ram, LowMemory::EBDA, &[((LowMemory::EBDA_END - LowMemory::EBDA) >> 10) as u8])?;
    Ok(Installed { rsdp: LowMemory::RSDP })
}

fn write(ram: &GuestRam, gpa: u64, bytes: &[u8]) -> Result<(), FirmwareError> {
    ram.write_slice(bytes, GuestAddress(gpa)).map_err(|_| FirmwareError::NoRam { gpa })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use replay::machine::{Boot, Clock, CpuChoice, PanicAction};

    /// A machine with no kernel.
    pub(crate) fn machine(ram_bytes: u64, cpu_count: u32) -> Machine {
        Machine {
            ram_bytes,
            cpu: CpuChoice { model: "x86-64-v3".into(), features: vec![] },
            cpu_count,
            boot: Boot::default(),
            clock: Clock { shift: 0, auto: false, sleep: false, rtc_base: 0, host_offset_s: None },
            uarts: vec![Some(0), None],
            devices: vec![],
            functions: vec![],
            no_reboot: false,
            no_shutdown: false,
            panic_action: PanicAction::None,
            debug_exit_port: None,
            debug_console: None,
            uuid: Some("12345678-9abc-def0-1122-334455667788".into()),
        }
    }

    /// RAM below 4 GiB for that machine.
    pub(crate) fn ram(bytes: u64) -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), bytes as usize)]).unwrap()
    }

    #[test]
    fn bios_data_names_the_ebda() {
        let ram = ram(16 << 20);
        let installed = install(&ram, &machine(16 << 20, 1)).unwrap();
        assert_eq!(ram.read_obj::<u16>(GuestAddress(0x40e)).unwrap(), 0x9fc0);
        assert_eq!(ram.read_obj::<u16>(GuestAddress(0x413)).unwrap(), 639);
        let mut signature = [0; 8];
        ram.read_slice(&mut signature, GuestAddress(installed.rsdp)).unwrap();
        assert_eq!(&signature, b"RSD PTR ");
    }

    #[test]
    fn too_little_ram_is_an_error() {
        assert!(matches!(install(&ram(4096), &machine(4096, 1)), Err(FirmwareError::NoRam { .. })));
    }

    #[test]
    fn too_many_cpus_are_an_error() {
        let cpus = 100_000;
        assert_eq!(
            install(&ram(16 << 20), &machine(16 << 20, cpus)),
            Err(FirmwareError::TooManyCpus { cpus })
        );
    }
}
