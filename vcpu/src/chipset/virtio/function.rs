//! One virtio function on the PCI bus: its configuration space, and what lies where in its BARs.
//!
//! Virtio 1.2, 4.1.4: the structures of the transport are announced by vendor capabilities.

use super::registers::VirtioRegisters;
use crate::chipset::config::FunctionConfig;
use crate::chipset::msix::{self, Msix};
use crate::chipset::pci_config::{BarKind, ConfigSpace, Identity, command, offset};
use crate::chipset::pci_host::Bdf;
use crate::firmware::layout::pci_intx_gsi;
use serde::{Deserialize, Serialize};

/// BAR of MSI-X table and pending bits.
pub(super) const BAR_MSIX: u8 = 1;
/// BAR of the virtio structures; 64 bits wide, so it takes the next register as well.
pub(super) const BAR_VIRTIO: u8 = 4;
/// Those of a function; the first only with MSI-X.
pub(super) const BARS: [usize; 2] = [BAR_MSIX as usize, BAR_VIRTIO as usize];
/// Size of `BAR_VIRTIO`.
const BAR_VIRTIO_SIZE: u64 = 4 * REGION_SIZE;

/// Structures in `BAR_VIRTIO` have a page each.
const REGION_SIZE: u64 = 0x1000;
const REGION_COMMON: u64 = 0;
const REGION_ISR: u64 = 1;
const REGION_DEVICE: u64 = 2;
const REGION_NOTIFY: u64 = 3;

/// Bytes from one queue's notification register to the next one's.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Red Hat, as all virtio devices.
const VENDOR: u16 = 0x1af4;
/// Device ID of device type 0 (4.1.2).
const DEVICE_BASE: u16 = 0x1040;
/// Subsystem ID; any from 0x40 on says that the device is not transitional.
const SUBSYSTEM: u16 = 0x1100;

/// Types of capability (4.1.4).
mod structure {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const CONFIG_ACCESS: u8 = 5;
}
/// Vendor-specific capability ID.
const CAPABILITY_VENDOR: u8 = 9;

/// Fields of the capability for access through configuration space, from its id byte on (4.1.4.9).
mod config_access {
    pub const BAR: usize = 4;
    pub const OFFSET: usize = 8;
    pub const LENGTH: usize = 12;
    pub const DATA: usize = 16;
}

/// One access that the driver has described in configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub bar: u8,
    pub offset: u64,
    pub size: u8,
}

/// One virtio function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::chipset) struct VirtioFunction {
    pub(super) at: Bdf,
    /// PIRQ to which its INTA# is wired: 0 is PIRQA.
    pub(super) pirq: u8,
    /// INTx is driven.
    pub(super) intx: bool,
    /// Where its capabilities with writable fields are; 0: there is no such one.
    pub(super) config_access: u8,
    msix_capability: u8,
    pub(super) msix: Msix,
    pub(super) registers: VirtioRegisters,
}

impl VirtioFunction {
    /// A function and its configuration space.
    pub(super) fn new(config: &FunctionConfig) -> (VirtioFunction, ConfigSpace) {
        let mut space = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + config.device_type,
            revision: 1,
            class: class(config.device_type),
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        });
        space.set_interrupt_pin(1);
        let msix_capability = add_msix(&mut space, config.vectors);
        let config_access = add_structures(&mut space);
        let function = VirtioFunction {
            at: Bdf::new(0, config.address.device, config.address.function),
            pirq: (pci_intx_gsi(config.address.device, 0) - 16) as u8,
            intx: false,
            config_access,
            msix_capability,
            msix: Msix::new(config.vectors),
            registers: VirtioRegisters::new(config.queue_size_max, config.vectors),
        };
        (function, space)
    }

    /// Follows configuration space: command register and message control.
    pub(super) fn follow(&mut self, space: &ConfigSpace) {
        let master = space.command() & command::MASTER != 0;
        self.registers.set_bus_master(master);
        if self.msix_capability != 0 {
            let control = space.read(usize::from(self.msix_capability) + 2, 2) as u16;
            self.msix.set_control(control, master);
        }
    }

    /// Machine reset of what the guest wrote into capabilities and registers.
    pub(super) fn reset(&mut self, space: &mut ConfigSpace) {
        let at = usize::from(self.config_access);
        space.set(at + config_access::BAR, &[0]);
        space.set(at + config_access::OFFSET, &[0; 12]);
        let vectors = self.msix.count();
        if self.msix_capability != 0 {
            space.set(usize::from(self.msix_capability) + 2, &(vectors - 1).to_le_bytes());
        }
        self.msix = Msix::new(vectors);
        self.registers.reset();
    }

    /// Whether an access to configuration space touches the data of the described access.
    pub(super) fn touches_data(&self, register: usize, size: u8) -> bool {
        let data = usize::from(self.config_access) + config_access::DATA;
        register < data + 4 && data < register + usize::from(size)
    }

    /// The access that the driver has described, if it is one: 1, 2 or 4 bytes at a multiple of them (4.1.4.9.2).
    pub(super) fn described(&self, space: &ConfigSpace) -> Option<Described> {
        let at = usize::from(self.config_access);
        let bar = space.read(at + config_access::BAR, 1) as u8;
        let offset = space.read(at + config_access::OFFSET, 4);
        let size = space.read(at + config_access::LENGTH, 4);
        let inside = u64::from(offset) + u64::from(size) <= self.bar_size(bar);
        let is_one = matches!(size, 1 | 2 | 4) && offset.is_multiple_of(size) && inside;
        is_one.then_some(Described { bar, offset: u64::from(offset), size: size as u8 })
    }

    /// What the driver has put there to be written.
    pub(super) fn described_data(&self, space: &ConfigSpace) -> u32 {
        space.read(usize::from(self.config_access) + config_access::DATA, 4)
    }

    /// Shows the first `size` bytes of what was read.
    pub(super) fn show_described(&self, space: &mut ConfigSpace, value: u32, size: u8) {
        let at = usize::from(self.config_access) + config_access::DATA;
        space.set(at, &value.to_le_bytes()[..usize::from(size)]);
    }

    /// Size of a BAR; 0 for one that does not exist.
    fn bar_size(&self, bar: u8) -> u64 {
        match bar {
            BAR_MSIX if self.msix_capability != 0 => Msix::bar_size(self.msix.count()),
            BAR_VIRTIO => BAR_VIRTIO_SIZE,
            _ => 0,
        }
    }

    /// Reads in a BAR.
    pub(super) fn read(&mut self, bar: u8, offset: u64, size: u8) -> u64 {
        if bar == BAR_MSIX {
            return self.msix.read(offset, size);
        }
        let in_region = offset % REGION_SIZE;
        match offset / REGION_SIZE {
            REGION_COMMON => self.registers.read_common(in_region, size),
            // One byte; what lies behind it is zero.
            REGION_ISR if in_region == 0 => u64::from(self.registers.read_isr()),
            REGION_DEVICE => self.registers.read_config(in_region, size),
            _ => 0,
        }
    }

    /// Writes in a BAR.
    pub(super) fn write(&mut self, bar: u8, offset: u64, size: u8, value: u64) {
        if bar == BAR_MSIX {
            return self.msix.write(offset, size, value);
        }
        let in_region = offset % REGION_SIZE;
        match offset / REGION_SIZE {
            REGION_COMMON => {
                self.registers.write_common(in_region, size, value);
                if self.registers.was_reset() {
                    self.msix.forget_pending();
                }
            }
            // What is written does not matter: the place says which queue.
            REGION_NOTIFY => self.registers.kick(in_region / u64::from(NOTIFY_MULTIPLIER)),
            // ISR status and device configuration: no device here has a field that drivers write.
            _ => {}
        }
    }
}

/// Whether a write there is a notification, which changes no interrupt.
pub(super) fn is_notification(bar: u8, offset: u64) -> bool {
    bar == BAR_VIRTIO && offset / REGION_SIZE == REGION_NOTIFY
}

/// Class code by device type, as QEMU's devices have it.
fn class(device_type: u16) -> u32 {
    match device_type {
        // Network.
        1 => 0x02_00_00,
        // Block, SCSI host.
        2 | 8 => 0x01_00_00,
        // Console.
        3 => 0x07_80_00,
        _ => 0x00_ff_00,
    }
}

/// BAR and capability of MSI-X; 0 without vectors.
fn add_msix(space: &mut ConfigSpace, vectors: u16) -> u8 {
    if vectors == 0 {
        return 0;
    }
    space.add_bar(usize::from(BAR_MSIX), BarKind::Memory32, Msix::bar_size(vectors));
    let (body, writable) = Msix::capability(vectors, BAR_MSIX);
    space.add_capability(msix::CAPABILITY, &body, &writable)
}

/// BAR and capabilities of the virtio structures; where the one for access through configuration space is.
fn add_structures(space: &mut ConfigSpace) -> u8 {
    space.add_bar(usize::from(BAR_VIRTIO), BarKind::Memory64 { prefetchable: true }, BAR_VIRTIO_SIZE);
    let mut add = |kind: u8, region: u64, tail: &[u8], writable: &[u8]| {
        // cap_len, cfg_type, bar, id and padding, offset, length; with the two bytes before them.
        let length = (16 + tail.len()) as u8;
        let place = if kind == structure::CONFIG_ACCESS { 0 } else { REGION_SIZE as u32 };
        let (bar, start) = if place == 0 { (0, 0) } else { (BAR_VIRTIO, (region * REGION_SIZE) as u32) };
        let head = [length, kind, bar, 0, 0, 0];
        let body = [&head[..], &start.to_le_bytes(), &place.to_le_bytes(), tail].concat();
        space.add_capability(CAPABILITY_VENDOR, &body, writable)
    };
    add(structure::COMMON, REGION_COMMON, &[], &[]);
    add(structure::ISR, REGION_ISR, &[], &[]);
    add(structure::DEVICE, REGION_DEVICE, &[], &[]);
    add(structure::NOTIFY, REGION_NOTIFY, &NOTIFY_MULTIPLIER.to_le_bytes(), &[]);
    // The driver writes bar, offset, length and data.
    let mut writable = [0; 18];
    writable[config_access::BAR - 2] = 0xff;
    writable[config_access::OFFSET - 2..].fill(0xff);
    add(structure::CONFIG_ACCESS, 0, &[0; 4], &writable)
}

/// The header type's bit for a device with several functions.
pub(super) fn set_multifunction(space: &mut ConfigSpace) {
    const MULTIFUNCTION: u8 = 0x80;
    space.set(offset::HEADER_TYPE, &[MULTIFUNCTION]);
}
