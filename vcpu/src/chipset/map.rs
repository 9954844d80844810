//! Which device answers at which I/O port and physical address: two tables, one row a range.
//!
//! Adding a device is a row here, an arm in `bus` and a field of `Chipset`.

/// Devices on I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDevice {
    PicMaster,
    Pit,
    SystemControlB,
    PicSlave,
    Elcr,
}

/// Devices at physical addresses. The local APIC is not here: its page moves with IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryDevice {
    IoApic,
    Hpet,
}

/// One range of ports.
struct PortRow {
    first: u16,
    last: u16,
    device: PortDevice,
}

/// One range of physical addresses.
struct MemoryRow {
    first: u64,
    last: u64,
    device: MemoryDevice,
}

const fn port(first: u16, last: u16, device: PortDevice) -> PortRow {
    PortRow { first, last, device }
}

const fn memory(first: u64, size: u64, device: MemoryDevice) -> MemoryRow {
    MemoryRow { first, last: first + size - 1, device }
}

/// Ports in rising order.
const PORTS: [PortRow; 5] = [
    port(0x0020, 0x0021, PortDevice::PicMaster),
    port(0x0040, 0x0043, PortDevice::Pit),
    port(0x0061, 0x0061, PortDevice::SystemControlB),
    port(0x00a0, 0x00a1, PortDevice::PicSlave),
    port(0x04d0, 0x04d1, PortDevice::Elcr),
];

/// Address of the I/O APIC's registers.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// Address of the HPET's registers.
pub const HPET_BASE: u64 = 0xfed0_0000;

/// Physical addresses in rising order.
const MEMORY: [MemoryRow; 2] =
    [memory(IOAPIC_BASE, 0x1000, MemoryDevice::IoApic), memory(HPET_BASE, 0x400, MemoryDevice::Hpet)];

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

/// Decodes a port access of `size` bytes.
pub fn decode_port(address: u16, size: u8) -> Decoded<PortDevice> {
    let found = PORTS.iter().find(|row| address <= row.last).filter(|row| row.first <= address);
    match found {
        Some(row) => decoded(row.device, u64::from(row.first), u64::from(row.last), u64::from(address), size),
        // The next byte may be another device's.
        None => Decoded { device: None, offset: 0, size: 1 },
    }
}

/// Decodes a memory access of `size` bytes.
pub fn decode_memory(address: u64, size: u8) -> Decoded<MemoryDevice> {
    let found = MEMORY.iter().find(|row| address <= row.last).filter(|row| row.first <= address);
    match found {
        Some(row) => decoded(row.device, row.first, row.last, address, size),
        None => Decoded { device: None, offset: 0, size: 1 },
    }
}

fn decoded<D>(device: D, first: u64, last: u64, address: u64, size: u8) -> Decoded<D> {
    let size = if last - address >= u64::from(size) - 1 { size } else { 1 };
    Decoded { device: Some(device), offset: address - first, size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order_and_do_not_overlap() {
        for pair in PORTS.windows(2) {
            assert!(pair[0].first <= pair[0].last && pair[0].last < pair[1].first, "{:?}", pair[1].device);
        }
        for pair in MEMORY.windows(2) {
            assert!(pair[0].first <= pair[0].last && pair[0].last < pair[1].first, "{:?}", pair[1].device);
        }
    }

    #[test]
    fn an_access_across_a_border_is_split() {
        let whole = decode_port(0x40, 4);
        assert_eq!(whole, Decoded { device: Some(PortDevice::Pit), offset: 0, size: 4 });
        assert_eq!(decode_port(0x43, 2), Decoded { device: Some(PortDevice::Pit), offset: 3, size: 1 });
        assert_eq!(decode_port(0x44, 1).device, None);
        assert_eq!(decode_memory(HPET_BASE + 0xf0, 8).offset, 0xf0);
        assert_eq!(decode_memory(HPET_BASE - 1, 1).device, None);
        assert_eq!(decode_memory(u64::MAX, 8).device, None);
    }
}
