//! pvpanic: the port at which a guest says that it panicked (QEMU's docs/specs/pvpanic).
//!
//! What the machine does about it is not decided here: the run loop takes the word from the effects.

use super::bytewise;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// The port; `etc/pvpanic-port` of fw_cfg and the DSDT name it.
pub const PORT: u16 = 0x505;
/// Name of the fw_cfg file that holds the port as 16 bits.
pub const PORT_FILE: &str = "etc/pvpanic-port";

/// The guest panicked and will do nothing more about it.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and runs a kernel that writes its dump.
const CRASH_LOADED: u8 = 1 << 1;

/// The device: what the guest has said since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pvpanic {
    panicked: bool,
    crash_loaded: bool,
    /// A panic that nobody has taken yet.
    reported: bool,
}

impl Pvpanic {
    /// Reads the events that the device knows.
    pub fn read(&mut self, offset: u64, size: u8, _now: Vtime) -> u64 {
        bytewise::read(offset, size, |_| PANICKED | CRASH_LOADED)
    }

    /// Takes a word about a panic; bits that are no event are ignored.
    pub fn write(&mut self, _offset: u64, _size: u8, value: u64, _now: Vtime) {
        self.reported |= value & u64::from(PANICKED) != 0;
        self.panicked |= self.reported;
        self.crash_loaded |= value & u64::from(CRASH_LOADED) != 0;
    }

    /// The guest has said that it panicked, since the last reset.
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// Takes a report of a panic.
    pub fn take_report(&mut self) -> bool {
        std::mem::take(&mut self.reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Vtime = Vtime(0);

    #[test]
    fn a_panic_is_kept() {
        let mut device = Pvpanic::default();
        assert_eq!(device.read(0, 1, T0), 3);
        device.write(0, 1, 0xfc, T0);
        assert_eq!(device, Pvpanic::default());
        device.write(0, 1, 2, T0);
        assert!(!device.panicked() && device.crash_loaded && !device.take_report());
        device.write(0, 1, 1, T0);
        assert!(device.panicked() && device.take_report());
        device.write(0, 1, 2, T0);
        assert!(device.panicked() && !device.take_report(), "it is reported once");
    }
}
