//! What a driver has told of one virtqueue.

use super::NO_VECTOR;
use serde::{Deserialize, Serialize};

/// Registers of one virtqueue (virtio 1.2, 4.1.4.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRegisters {
    /// Number of descriptors: a power of two, at most what the device offers.
    pub size: u16,
    /// The driver has enabled it; what is below does not change until a reset.
    pub enabled: bool,
    /// Guest physical address of the descriptor table; unchecked, as the next two.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub driver_area: u64,
    /// Guest physical address of the used ring.
    pub device_area: u64,
    /// MSI-X vector, or `NO_VECTOR`.
    pub vector: u16,
}

/// One of the three addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    Descriptors,
    Driver,
    Device,
}

impl QueueRegisters {
    /// After a reset.
    pub(super) fn new(size_max: u16) -> QueueRegisters {
        QueueRegisters {
            size: size_max,
            enabled: false,
            descriptors: 0,
            driver_area: 0,
            device_area: 0,
            vector: NO_VECTOR,
        }
    }

    /// One half of an address.
    pub(super) fn half(&self, area: Area, high: bool) -> u32 {
        let address = match area {
            Area::Descriptors => self.descriptors,
            Area::Driver => self.driver_area,
            Area::Device => self.device_area,
        };
        (address >> if high { 32 } else { 0 }) as u32
    }

    /// Writes one half of an address, while the queue is not enabled.
    pub(super) fn set_half(&mut self, area: Area, high: bool, value: u32) {
        if self.enabled {
            return;
        }
        let address = match area {
            Area::Descriptors => &mut self.descriptors,
            Area::Driver => &mut self.driver_area,
            Area::Device => &mut self.device_area,
        };
        let shift = if high { 32 } else { 0 };
        *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    /// Takes a size that the specification allows, while the queue is not enabled.
    pub(super) fn set_size(&mut self, size: u16, size_max: u16) {
        if !self.enabled && size.is_power_of_two() && size <= size_max {
            self.size = size;
        }
    }
}
