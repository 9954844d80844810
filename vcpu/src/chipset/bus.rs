//! Port and memory accesses: from a decoded address to the device.

use super::Chipset;
use super::bytewise;
use super::map::{Decoded, MemoryDevice, PortDevice, decode_memory, decode_port};
use replay::time::Vtime;

/// Size of the local APIC's page.
const LAPIC_PAGE: u64 = 0x1000;

impl Chipset {
    /// Reads `size` (1, 2 or 4) bytes at a port; where no device answers, all ones.
    pub fn port_read(&mut self, port: u16, size: u8, now: Vtime) -> u32 {
        self.catch_up(now);
        let mut value = 0;
        let mut done = 0;
        while done < size {
            // Past port 0xffff there is nothing.
            let part = match port.checked_add(u16::from(done)) {
                Some(port) => decode_port(port, size - done),
                None => Decoded { device: None, offset: 0, size: 1 },
            };
            let bytes = match part.device {
                Some(device) => self.read_port_device(device, part.offset, part.size, now),
                None => u64::MAX,
            };
            value |= bytewise::truncate(bytes, part.size) << (8 * done);
            done += part.size;
        }
        self.settle();
        value as u32
    }

    /// Writes `size` (1, 2 or 4) bytes at a port; where no device answers, nothing happens.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, now: Vtime) {
        self.catch_up(now);
        let mut done = 0;
        while done < size {
            let Some(port) = port.checked_add(u16::from(done)) else { break };
            let part = decode_port(port, size - done);
            let bytes = bytewise::truncate(u64::from(value) >> (8 * done), part.size);
            if let Some(device) = part.device {
                self.write_port_device(device, part.offset, part.size, bytes, now);
            }
            done += part.size;
        }
        self.settle();
    }

    fn read_port_device(&mut self, device: PortDevice, offset: u64, size: u8, now: Vtime) -> u64 {
        match device {
            PortDevice::PicMaster => bytewise::read(offset, size, |offset| self.pic.read(false, offset)),
            PortDevice::PicSlave => bytewise::read(offset, size, |offset| self.pic.read(true, offset)),
            PortDevice::Elcr => bytewise::read(offset, size, |offset| self.pic.read_elcr(offset)),
            PortDevice::Pit => bytewise::read(offset, size, |offset| self.pit.read(offset, now)),
            PortDevice::SystemControlB => u64::from(self.pit.read_control_b(now)),
        }
    }

    fn write_port_device(&mut self, device: PortDevice, offset: u64, size: u8, value: u64, now: Vtime) {
        match device {
            PortDevice::PicMaster => {
                bytewise::write(offset, size, value, |offset, byte| self.pic.write(false, offset, byte));
            }
            PortDevice::PicSlave => {
                bytewise::write(offset, size, value, |offset, byte| self.pic.write(true, offset, byte));
            }
            PortDevice::Elcr => {
                bytewise::write(offset, size, value, |offset, byte| self.pic.write_elcr(offset, byte));
            }
            PortDevice::Pit => {
                bytewise::write(offset, size, value, |offset, byte| self.pit.write(offset, byte, now));
            }
            PortDevice::SystemControlB => self.pit.write_control_b(value as u8, now),
        }
    }

    /// Reads `size` (1, 2, 4 or 8) bytes at a physical address; where no device answers, all ones.
    pub fn mmio_read(&mut self, address: u64, size: u8, now: Vtime) -> u64 {
        self.catch_up(now);
        if let Some(offset) = self.lapic_offset(address) {
            let value = self.lapics[self.current].read(offset, size, now);
            self.settle_apics();
            return value;
        }
        let mut value = 0;
        let mut done = 0;
        while done < size {
            let part = decode_memory(address.saturating_add(u64::from(done)), size - done);
            let bytes = match part.device {
                Some(device) => self.read_memory_device(device, part.offset, part.size, now),
                None => u64::MAX,
            };
            value |= bytewise::truncate(bytes, part.size) << (8 * done);
            done += part.size;
        }
        self.settle();
        value
    }

    /// Writes `size` (1, 2, 4 or 8) bytes at a physical address; where no device answers, nothing happens.
    pub fn mmio_write(&mut self, address: u64, size: u8, value: u64, now: Vtime) {
        self.catch_up(now);
        if let Some(offset) = self.lapic_offset(address) {
            self.lapics[self.current].write(offset, size, value, now);
            self.settle_apics();
            return;
        }
        let mut done = 0;
        while done < size {
            let part = decode_memory(address.saturating_add(u64::from(done)), size - done);
            let bytes = bytewise::truncate(value >> (8 * done), part.size);
            if let Some(device) = part.device {
                self.write_memory_device(device, part.offset, part.size, bytes, now);
            }
            done += part.size;
        }
        self.settle();
    }

    fn read_memory_device(&mut self, device: MemoryDevice, offset: u64, size: u8, now: Vtime) -> u64 {
        match device {
            MemoryDevice::IoApic => u64::from(self.ioapic.read(offset & !3)) >> (8 * (offset & 3)),
            MemoryDevice::Hpet => self.hpet.read(offset, size, now),
        }
    }

    fn write_memory_device(&mut self, device: MemoryDevice, offset: u64, size: u8, value: u64, now: Vtime) {
        match device {
            MemoryDevice::IoApic => self.ioapic.write(offset, value as u32),
            MemoryDevice::Hpet => self.hpet.write(offset, size, value, now),
        }
    }

    /// Offset into the current CPU's local APIC, where its registers are in memory.
    fn lapic_offset(&self, address: u64) -> Option<u64> {
        let lapic = &self.lapics[self.current];
        let offset = address.wrapping_sub(lapic.base() & !(LAPIC_PAGE - 1));
        (offset < LAPIC_PAGE && lapic.is_xapic()).then_some(offset)
    }
}
