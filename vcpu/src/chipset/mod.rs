//! The PC's chipset.

pub mod acpi_pm;
pub mod bytewise;
pub mod debug_port;
pub mod fw_cfg;
pub mod i8042;
pub mod keyboard;
pub mod mouse;
pub mod pci_config;
pub mod pci_host;
pub mod reset;
pub mod rtc;
mod rtc_calendar;
mod scancodes;
pub mod uart16550;

use replay::time::Vtime;

/// All devices that live in the vCPU process.
pub struct Chipset {}

impl Chipset {
    pub fn port_read(&mut self, _port: u16, _size: u8, _now: Vtime) -> u32 {
        todo!()
    }
    pub fn port_write(&mut self, _port: u16, _size: u8, _value: u32, _now: Vtime) {
        todo!()
    }
    pub fn mmio_read(&mut self, _address: u64, _size: u8, _now: Vtime) -> u64 {
        todo!()
    }
    pub fn mmio_write(&mut self, _address: u64, _size: u8, _value: u64, _now: Vtime) {
        todo!()
    }
}
