//! Which device answers at which I/O port and physical address: two tables, one row a range.
//!
//! Adding a device is a row here, an arm in `bus` and a field of `Chipset`.

use super::{ChipsetConfig, acpi_pm, debug_port, fw_cfg, i8042, pci_host, pvpanic, reset, rtc};

/// Devices on I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDevice {
    /// Master 8259.
    PicMaster,
    /// 8254.
    Pit,
    /// Data port of the keyboard controller.
    I8042Data,
    /// Command and status port of the keyboard controller.
    I8042Command,
    /// Port 0x61: gate, speaker, refresh.
    SystemControlB,
    /// CMOS clock.
    Rtc,
    /// POST code display.
    PostCode,
    /// Port 0x92: A20 and fast reset.
    SystemControlA,
    /// Slave 8259.
    PicSlave,
    /// UART by number.
    Uart(u8),
    /// Edge/level control registers of the 8259 pair.
    Elcr,
    /// pvpanic.
    Pvpanic,
    /// ACPI fixed hardware.
    AcpiPm,
    /// Firmware configuration.
    FwCfg,
    /// Reset control register.
    ResetControl,
    /// PCI configuration mechanism #1.
    PciHost,
    /// Debug console; its port is configured.
    DebugConsole,
    /// isa-debug-exit; its port is configured.
    DebugExit,
}

/// Devices at physical addresses. The local APIC is not here: its page moves with IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryDevice {
    /// PCI configuration space (ECAM).
    Ecam,
    /// I/O APIC.
    IoApic,
    /// High precision event timer.
    Hpet,
    /// BAR of a virtio function; not in the table, since the guest moves it.
    Virtio {
        /// By number.
        function: usize,
        /// BAR number.
        bar: u8,
    },
}

/// Sizes of access that a row answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Any,
    /// Only byte accesses; others see the row behind.
    Byte,
}

/// One range of ports.
struct PortRow {
    first: u16,
    last: u16,
    device: PortDevice,
    sizes: Sizes,
}

/// One range of physical addresses.
struct MemoryRow {
    first: u64,
    last: u64,
    device: MemoryDevice,
}

const fn ports(first: u16, count: u16, device: PortDevice) -> PortRow {
    PortRow { first, last: first + count - 1, device, sizes: Sizes::Any }
}

const fn byte_port(first: u16, device: PortDevice) -> PortRow {
    PortRow { first, last: first, device, sizes: Sizes::Byte }
}

const fn memory(first: u64, size: u64, device: MemoryDevice) -> MemoryRow {
    MemoryRow { first, last: first + size - 1, device }
}

/// Ports in rising order, byte rows before the row in which they lie; the first that fits answers.
const PORTS: [PortRow; 19] = [
    ports(0x0020, 2, PortDevice::PicMaster),
    ports(0x0040, 4, PortDevice::Pit),
    ports(i8042::DATA_PORT, 1, PortDevice::I8042Data),
    ports(0x0061, 1, PortDevice::SystemControlB),
    ports(i8042::COMMAND_PORT, 1, PortDevice::I8042Command),
    ports(rtc::PORT, 2, PortDevice::Rtc),
    ports(debug_port::POST_PORT, 1, PortDevice::PostCode),
    ports(reset::CONTROL_A_PORT, 1, PortDevice::SystemControlA),
    ports(0x00a0, 2, PortDevice::PicSlave),
    ports(0x02e8, 8, PortDevice::Uart(3)),
    ports(0x02f8, 8, PortDevice::Uart(1)),
    ports(0x03e8, 8, PortDevice::Uart(2)),
    ports(0x03f8, 8, PortDevice::Uart(0)),
    ports(0x04d0, 2, PortDevice::Elcr),
    ports(pvpanic::PORT, 1, PortDevice::Pvpanic),
    ports(fw_cfg::PORT, fw_cfg::PORT_COUNT, PortDevice::FwCfg),
    ports(acpi_pm::PORT, acpi_pm::PORT_COUNT, PortDevice::AcpiPm),
    // Inside PCI's CONFIG_ADDRESS, which answers to dwords.
    byte_port(reset::RESET_PORT, PortDevice::ResetControl),
    ports(pci_host::PORT, pci_host::PORT_COUNT, PortDevice::PciHost),
];

/// Address of the I/O APIC's registers.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// Address of the HPET's registers.
pub const HPET_BASE: u64 = 0xfed0_0000;

/// Physical addresses in rising order.
const MEMORY: [MemoryRow; 3] = [
    memory(pci_host::ECAM_BASE, pci_host::ECAM_SIZE, MemoryDevice::Ecam),
    memory(IOAPIC_BASE, 0x1000, MemoryDevice::IoApic),
    memory(HPET_BASE, 0x400, MemoryDevice::Hpet),
];

/// A device and the part of an access that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<D> {
    /// None: nobody answers.
    pub device: Option<D>,
    /// Offset into the device's range.
    pub offset: u64,
    /// Bytes of the access in this range: the whole access, or one byte where it crosses a border.
    pub size: u8,
}

impl<D> Decoded<D> {
    /// Nobody answers at this byte; the next may be another device's.
    pub(super) fn nobody() -> Decoded<D> {
        Decoded { device: None, offset: 0, size: 1 }
    }

    /// The part of an access at `address` that lies in `first..=last`.
    pub(super) fn within(device: D, first: u64, last: u64, address: u64, size: u8) -> Decoded<D> {
        let size = if last - address >= u64::from(size) - 1 { size } else { 1 };
        Decoded { device: Some(device), offset: address - first, size }
    }
}

/// Decodes a port access of `size` bytes. Devices whose port is configured come before the fixed ones.
pub fn decode_port(config: &ChipsetConfig, address: u16, size: u8) -> Decoded<PortDevice> {
    let configured = [
        (config.debug_exit_port, debug_port::EXIT_PORT_COUNT, PortDevice::DebugExit),
        (config.debug_console_port, 1, PortDevice::DebugConsole),
    ];
    for (first, count, device) in configured {
        if let Some(first) = first
            && (first..=first.saturating_add(count - 1)).contains(&address)
        {
            let last = first.saturating_add(count - 1);
            return Decoded::within(device, first.into(), last.into(), address.into(), size);
        }
    }
    let fits =
        |row: &&PortRow| (row.first..=row.last).contains(&address) && (row.sizes == Sizes::Any || size == 1);
    match PORTS.iter().find(fits) {
        Some(row) if !is_present(config, row.device) => Decoded::nobody(),
        Some(row) => Decoded::within(row.device, row.first.into(), row.last.into(), address.into(), size),
        None => Decoded::nobody(),
    }
}

fn is_present(config: &ChipsetConfig, device: PortDevice) -> bool {
    match device {
        PortDevice::Uart(number) => number < config.uart_count,
        _ => true,
    }
}

/// The ports of the devices that are there: first, last, only for byte accesses, device.
pub(super) fn port_rows(config: &ChipsetConfig) -> Vec<(u16, u16, bool, PortDevice)> {
    let fixed = PORTS.iter().filter(|row| is_present(config, row.device));
    let fixed = fixed.map(|row| (row.first, row.last, row.sizes == Sizes::Byte, row.device));
    let ends = |first: u16, count: u16, device| (first, first.saturating_add(count - 1), false, device);
    let exit = config.debug_exit_port;
    let exit = exit.map(|first| ends(first, debug_port::EXIT_PORT_COUNT, PortDevice::DebugExit));
    let console = config.debug_console_port.map(|first| ends(first, 1, PortDevice::DebugConsole));
    fixed.chain(exit).chain(console).collect()
}

/// The physical addresses of the fixed devices: first, last, device.
pub(super) fn memory_rows() -> impl Iterator<Item = (u64, u64, MemoryDevice)> {
    MEMORY.iter().map(|row| (row.first, row.last, row.device))
}

/// Decodes a memory access of `size` bytes.
pub fn decode_memory(address: u64, size: u8) -> Decoded<MemoryDevice> {
    match MEMORY.iter().find(|row| (row.first..=row.last).contains(&address)) {
        Some(row) => Decoded::within(row.device, row.first, row.last, address, size),
        None => Decoded::nobody(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order_and_only_byte_rows_overlap() {
        for pair in PORTS.windows(2) {
            let apart = pair[0].last < pair[1].first || pair[0].sizes == Sizes::Byte;
            assert!(pair[0].first <= pair[0].last && apart, "{:?}", pair[1].device);
        }
        for pair in MEMORY.windows(2) {
            assert!(pair[0].first <= pair[0].last && pair[0].last < pair[1].first, "{:?}", pair[1].device);
        }
    }

    #[test]
    fn an_access_across_a_border_is_split() {
        let config = ChipsetConfig::default();
        let whole = decode_port(&config, 0x40, 4);
        assert_eq!(whole, Decoded { device: Some(PortDevice::Pit), offset: 0, size: 4 });
        let last = Decoded { device: Some(PortDevice::Pit), offset: 3, size: 1 };
        assert_eq!(decode_port(&config, 0x43, 2), last);
        assert_eq!(decode_port(&config, 0x44, 1).device, None);
        assert_eq!(decode_memory(HPET_BASE + 0xf0, 8).offset, 0xf0);
        assert_eq!(decode_memory(HPET_BASE - 1, 1).device, None);
        assert_eq!(decode_memory(u64::MAX, 8).device, None);
    }

    #[test]
    fn configured_devices() {
        let config = ChipsetConfig {
            uart_count: 1,
            debug_exit_port: Some(0xfffe),
            debug_console_port: Some(0xe9),
            ..ChipsetConfig::default()
        };
        assert_eq!(decode_port(&config, 0x3f8, 1).device, Some(PortDevice::Uart(0)));
        assert_eq!(decode_port(&config, 0x2f8, 1).device, None);
        assert_eq!(decode_port(&config, 0xffff, 2).device, Some(PortDevice::DebugExit));
        assert_eq!(decode_port(&config, 0xe9, 1).device, Some(PortDevice::DebugConsole));
        assert_eq!(decode_port(&ChipsetConfig::default(), 0xe9, 1).device, None);
    }
}
