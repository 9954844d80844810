//! Reset and A20 ports outside the keyboard controller: 0xcf9 and 0x92.
//!
//! Port 0xcf9 is the ICH's reset control register and ACPI's reset register; port 0x92 is the PS/2
//! system control port A. Neither resets anything itself: the run loop takes the request.

use super::bytewise;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Reset control register. Only byte accesses are for it: a dword at 0xcf8 is PCI's CONFIG_ADDRESS.
pub const RESET_PORT: u16 = 0xcf9;
/// Value that ACPI's reset register is to be written with: hard reset of the CPU.
pub const RESET_VALUE: u8 = 0x06;
/// System control port A.
pub const CONTROL_A_PORT: u16 = 0x92;

/// How much a guest wants reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResetKind {
    /// INIT# to the CPUs only.
    Soft,
    /// CPUs and devices.
    Hard,
    /// Like a power cycle.
    Full,
}

/// Port 0xcf9 (ICH9 data sheet, 13.7.5 RST_CNT).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetControl {
    register: u8,
    request: Option<ResetKind>,
}

impl ResetControl {
    const SYSTEM_RESET: u8 = 1 << 1;
    const RESET_CPU: u8 = 1 << 2;
    const FULL_RESET: u8 = 1 << 3;

    /// Reads the register.
    pub fn read(&mut self, _offset: u64, size: u8, _now: Vtime) -> u64 {
        bytewise::read(0, size, |offset| if offset == 0 { self.register } else { 0xff })
    }

    /// Writes the register; setting RST_CPU asks for a reset of the kind that the other bits say.
    pub fn write(&mut self, _offset: u64, _size: u8, value: u64, _now: Vtime) {
        let value = value as u8;
        if value & !self.register & Self::RESET_CPU != 0 {
            self.request = Some(match (value & Self::SYSTEM_RESET != 0, value & Self::FULL_RESET != 0) {
                (false, _) => ResetKind::Soft,
                (true, false) => ResetKind::Hard,
                (true, true) => ResetKind::Full,
            });
        }
        // RST_CPU falls back by itself with the reset it makes.
        self.register = value & (Self::SYSTEM_RESET | Self::FULL_RESET);
    }

    /// What the guest has asked for since the last call.
    pub fn take_request(&mut self) -> Option<ResetKind> {
        self.request.take()
    }
}

/// Port 0x92: bit 1 gates A20, bit 0 going high pulses INIT#.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlA {
    register: u8,
    request: Option<ResetKind>,
}

impl Default for ControlA {
    fn default() -> ControlA {
        ControlA { register: Self::A20, request: None }
    }
}

impl ControlA {
    const FAST_RESET: u8 = 1 << 0;
    const A20: u8 = 1 << 1;

    /// Reads the port.
    pub fn read(&mut self, _offset: u64, size: u8, _now: Vtime) -> u64 {
        bytewise::read(0, size, |offset| if offset == 0 { self.register } else { 0xff })
    }

    /// Writes the port.
    pub fn write(&mut self, _offset: u64, _size: u8, value: u64, _now: Vtime) {
        let value = value as u8;
        if value & !self.register & Self::FAST_RESET != 0 {
            self.request = Some(ResetKind::Soft);
        }
        self.register = value & (Self::FAST_RESET | Self::A20);
    }

    /// Whether this port lets A20 through.
    pub fn a20(&self) -> bool {
        self.register & Self::A20 != 0
    }

    /// What the guest has asked for since the last call.
    pub fn take_request(&mut self) -> Option<ResetKind> {
        self.request.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Vtime = Vtime(0);

    #[test]
    fn reset_control_kinds() {
        // The value that is written, after bit 2 was low, and the reset that the ICH9 makes of it.
        let table = [
            (0x02, None),
            (0x04, Some(ResetKind::Soft)),
            (0x0c, Some(ResetKind::Soft)),
            (RESET_VALUE, Some(ResetKind::Hard)),
            (0x0e, Some(ResetKind::Full)),
        ];
        for (value, kind) in table {
            let mut port = ResetControl::default();
            port.write(0, 1, u64::from(value), T0);
            assert_eq!(port.take_request(), kind, "{value:#x}");
            assert_eq!(port.take_request(), None);
            assert_eq!(port.read(0, 1, T0), u64::from(value & 0x0a));
        }
    }

    #[test]
    fn control_a() {
        let mut port = ControlA::default();
        assert!(port.a20());
        assert_eq!(port.read(0, 1, T0), 2);
        port.write(0, 1, 0, T0);
        assert!(!port.a20());
        assert_eq!(port.take_request(), None);
        port.write(0, 1, 3, T0);
        assert!(port.a20());
        assert_eq!(port.take_request(), Some(ResetKind::Soft));
        port.write(0, 1, 3, T0);
        assert_eq!(port.take_request(), None, "only the edge counts");
    }
}
