//! Port and memory accesses: from a decoded address to the device.

use super::Chipset;
use super::bytewise;
use super::i8042;
use super::map::{Decoded, MemoryDevice, PortDevice, decode_memory, decode_port};
use super::pci_host;
use replay::time::Vtime;

/// The keyboard controller's two ports as its file counts them.
const I8042_DATA: u64 = 0;
const I8042_COMMAND: u64 = (i8042::COMMAND_PORT - i8042::DATA_PORT) as u64;

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
                Some(port) => decode_port(&self.config, port, size - done),
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
            let part = decode_port(&self.config, port, size - done);
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
            PortDevice::PicMaster => {
                // The request register shows the level of the timer's output.
                self.pit.advance(now);
                self.settle();
                bytewise::read(offset, size, |offset| self.pic.read(false, offset))
            }
            PortDevice::PicSlave => bytewise::read(offset, size, |offset| self.pic.read(true, offset)),
            PortDevice::Elcr => bytewise::read(offset, size, |offset| self.pic.read_elcr(offset)),
            PortDevice::Pit => bytewise::read(offset, size, |offset| self.pit.read(offset, now)),
            PortDevice::SystemControlB => u64::from(self.pit.read_control_b(now)),
            PortDevice::I8042Data => self.i8042.read(I8042_DATA, size, now),
            PortDevice::I8042Command => self.i8042.read(I8042_COMMAND, size, now),
            PortDevice::Rtc => self.rtc.read(offset, size, now),
            PortDevice::PostCode => self.post_code.read(offset, size, now),
            PortDevice::SystemControlA => self.control_a.read(offset, size, now),
            PortDevice::Uart(number) => self.uarts[usize::from(number)].read(offset, size, now),
            PortDevice::Pvpanic => self.pvpanic.read(offset, size, now),
            PortDevice::AcpiPm => self.acpi_pm.read(offset, size, now),
            PortDevice::FwCfg => self.fw_cfg.read(offset, size, now),
            PortDevice::ResetControl => self.reset_control.read(offset, size, now),
            PortDevice::PciHost => {
                self.before_config_read(self.pci.port_target(offset), size);
                self.pci.read(offset, size, now)
            }
            PortDevice::DebugConsole => self.debug_console.read(offset, size, now),
            PortDevice::DebugExit => self.debug_exit.read(offset, size, now),
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
            PortDevice::I8042Data => self.write_i8042(I8042_DATA, size, value, now),
            PortDevice::I8042Command => self.write_i8042(I8042_COMMAND, size, value, now),
            PortDevice::Rtc => {
                self.rtc.write(offset, size, value, now);
                self.effects.rtc_look = self.rtc.take_look().or(self.effects.rtc_look);
            }
            PortDevice::PostCode => self.post_code.write(offset, size, value, now),
            PortDevice::SystemControlA => self.write_control_a(offset, size, value, now),
            PortDevice::Uart(number) => self.write_uart(number, offset, size, value, now),
            PortDevice::AcpiPm => {
                self.acpi_pm.write(offset, size, value, now);
                self.effects.power_off |= self.acpi_pm.take_power_off();
            }
            PortDevice::Pvpanic => {
                self.pvpanic.write(offset, size, value, now);
                self.effects.panicked |= self.pvpanic.take_report();
            }
            PortDevice::FwCfg => {
                self.fw_cfg.write(offset, size, value, now);
                self.effects.fw_cfg_dma = self.fw_cfg.take_dma_request().or(self.effects.fw_cfg_dma);
            }
            PortDevice::PciHost => {
                self.pci.write(offset, size, value, now);
                self.after_config_write(self.pci.port_target(offset), size, now);
            }
            PortDevice::ResetControl => {
                self.reset_control.write(offset, size, value, now);
                self.effects.reset |= self.reset_control.take_request().is_some();
            }
            PortDevice::DebugConsole => {
                self.debug_console.write(offset, size, value, now);
                self.effects.debug_output = true;
            }
            PortDevice::DebugExit => {
                self.debug_exit.write(offset, size, value, now);
                // The exit status has eight bits.
                let exit = self.debug_exit.take_exit().map(|value| value as u8);
                self.effects.debug_exit = self.effects.debug_exit.or(exit);
            }
        }
    }

    fn write_uart(&mut self, number: u8, offset: u64, size: u8, value: u64, now: Vtime) {
        let uart = &mut self.uarts[usize::from(number)];
        uart.write(offset, size, value, now);
        if uart.has_output() {
            self.effects.uart_output |= 1 << number;
        }
    }

    fn write_control_a(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        let before = self.a20();
        self.control_a.write(offset, size, value, now);
        self.effects.a20_changed |= self.a20() != before;
        self.effects.reset |= self.control_a.take_request().is_some();
    }

    fn write_i8042(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        let before = self.a20();
        self.i8042.write(offset, size, value, now);
        self.effects.a20_changed |= self.a20() != before;
        self.effects.reset |= self.i8042.take_reset();
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
            let part = self.decode_memory(address.saturating_add(u64::from(done)), size - done);
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
            let part = self.decode_memory(address.saturating_add(u64::from(done)), size - done);
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
            MemoryDevice::Ecam => {
                self.before_config_read(Some(pci_host::ecam_target(offset)), size);
                self.pci.ecam_read(offset, size)
            }
            MemoryDevice::Virtio { function, bar } => self.virtio_read(function, bar, offset, size),
        }
    }

    fn write_memory_device(&mut self, device: MemoryDevice, offset: u64, size: u8, value: u64, now: Vtime) {
        match device {
            MemoryDevice::IoApic => self.ioapic.write(offset, value as u32),
            MemoryDevice::Hpet => self.hpet.write(offset, size, value, now),
            MemoryDevice::Ecam => {
                self.pci.ecam_write(offset, size, value);
                self.after_config_write(Some(pci_host::ecam_target(offset)), size, now);
            }
            MemoryDevice::Virtio { function, bar } => {
                self.virtio_write(function, bar, offset, size, value, now);
            }
        }
    }

    /// The device at an address: a fixed one, else a BAR.
    pub(super) fn decode_memory(&self, address: u64, size: u8) -> Decoded<MemoryDevice> {
        let fixed = decode_memory(address, size);
        if fixed.device.is_some() { fixed } else { self.virtio.decode(address, size) }
    }

    /// Whether the registers of the current CPU's local APIC are at an address.
    pub(super) fn has_lapic_at(&self, address: u64) -> bool {
        self.lapic_offset(address).is_some()
    }

    /// Offset into the current CPU's local APIC, where its registers are in memory.
    fn lapic_offset(&self, address: u64) -> Option<u64> {
        let lapic = &self.lapics[self.current];
        let offset = address.wrapping_sub(lapic.base() & !(LAPIC_PAGE - 1));
        (offset < LAPIC_PAGE && lapic.is_xapic()).then_some(offset)
    }
}
