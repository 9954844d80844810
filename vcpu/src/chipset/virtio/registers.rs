//! The registers of one virtio function: the common configuration structure, ISR, device configuration, notifications.
//!
//! No memory of the guest is touched here and no interrupt is raised: what the driver asks for becomes `Pending`,
//! what the device has to say is a bit that the owner carries on. Virtio 1.2, sections 2 and 4.1.4.

use super::queue::{Area, QueueRegisters};
use super::{NO_VECTOR, QUEUES_MAX, Work};
use crate::chipset::bytewise;
use serde::{Deserialize, Serialize};

/// Device status bits (2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
    /// What the driver may set.
    pub(super) const OF_DRIVER: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Feature bits that decide about registers (6).
pub mod feature {
    /// The device is not a legacy one.
    pub const VERSION_1: u64 = 1 << 32;
    /// SR-IOV.
    pub const SR_IOV: u64 = 1 << 37;
    /// Notifications carry data.
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    /// The device chooses the data of notifications.
    pub const NOTIF_CONFIG_DATA: u64 = 1 << 39;
    /// Queues can be reset one by one.
    pub const RING_RESET: u64 = 1 << 40;
    /// What these registers have no means for, whoever offers it.
    pub(super) const NOT_HERE: u64 = SR_IOV | NOTIFICATION_DATA | NOTIF_CONFIG_DATA;
}

/// ISR bits (4.1.4.5).
pub(super) mod isr {
    pub const QUEUE: u8 = 1;
    pub const CONFIG: u8 = 2;
}

/// Fields of the common configuration structure; addresses in halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    QueueCount,
    Status,
    Generation,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOffset,
    QueueArea(Area, bool),
    QueueNotifyData,
    QueueReset,
}

/// One field: its offset and size in bytes.
struct Row {
    offset: u64,
    size: u8,
    field: Field,
}

const fn row(offset: u64, size: u8, field: Field) -> Row {
    Row { offset, size, field }
}

/// `virtio_pci_common_cfg` (4.1.4.3).
const COMMON: [Row; 21] = [
    row(0x00, 4, Field::DeviceFeatureSelect),
    row(0x04, 4, Field::DeviceFeature),
    row(0x08, 4, Field::DriverFeatureSelect),
    row(0x0c, 4, Field::DriverFeature),
    row(0x10, 2, Field::ConfigVector),
    row(0x12, 2, Field::QueueCount),
    row(0x14, 1, Field::Status),
    row(0x15, 1, Field::Generation),
    row(0x16, 2, Field::QueueSelect),
    row(0x18, 2, Field::QueueSize),
    row(0x1a, 2, Field::QueueVector),
    row(0x1c, 2, Field::QueueEnable),
    row(0x1e, 2, Field::QueueNotifyOffset),
    row(0x20, 4, Field::QueueArea(Area::Descriptors, false)),
    row(0x24, 4, Field::QueueArea(Area::Descriptors, true)),
    row(0x28, 4, Field::QueueArea(Area::Driver, false)),
    row(0x2c, 4, Field::QueueArea(Area::Driver, true)),
    row(0x30, 4, Field::QueueArea(Area::Device, false)),
    row(0x34, 4, Field::QueueArea(Area::Device, true)),
    row(0x38, 2, Field::QueueNotifyData),
    row(0x3a, 2, Field::QueueReset),
];

/// What the driver has asked for and nobody has taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    reset: bool,
    queue_resets: u64,
    driver_ok: bool,
    kicks: u64,
}

/// Registers of one virtio function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioRegisters {
    offered: u64,
    config: Vec<u8>,
    queue_size_max: u16,
    /// MSI-X vectors.
    vectors: u16,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    isr: u8,
    bus_master: bool,
    pending: Pending,
}

impl VirtioRegisters {
    /// A device that offers nothing yet.
    pub(super) fn new(queue_size_max: u16, vectors: u16) -> VirtioRegisters {
        VirtioRegisters {
            offered: 0,
            config: Vec::new(),
            queue_size_max,
            vectors,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: Vec::new(),
            isr: 0,
            bus_master: false,
            pending: Pending::default(),
        }
    }

    /// What the back-end offers; before the guest's first instruction.
    pub(super) fn offer(&mut self, features: u64, config: Vec<u8>, queue_count: u16) {
        self.offered = features & !feature::NOT_HERE;
        self.config = config;
        self.queues = vec![QueueRegisters::new(self.queue_size_max); queue_count.min(QUEUES_MAX).into()];
    }

    /// Device status.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The features that the driver has accepted; a subset of those offered once FEATURES_OK is set.
    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// Whether the function may touch memory: the command register's bit.
    pub fn bus_master(&self) -> bool {
        self.bus_master
    }

    /// Follows the command register.
    pub(super) fn set_bus_master(&mut self, bus_master: bool) {
        self.bus_master = bus_master;
    }

    /// One virtqueue; none beyond `queue_count`.
    pub fn queue(&self, queue: u16) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(queue))
    }

    /// Number of virtqueues.
    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Whether the driver is ready.
    pub(super) fn is_live(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    /// The vector of configuration changes.
    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// Whether the driver has been told of anything that it has not read yet.
    pub(super) fn interrupts(&self) -> bool {
        self.isr != 0
    }

    /// Notes an interrupt in the ISR status.
    pub(super) fn set_isr(&mut self, bits: u8) {
        self.isr |= bits;
    }

    /// New contents of the device configuration.
    pub(super) fn set_config(&mut self, config: Vec<u8>) {
        self.config = config;
        self.generation = self.generation.wrapping_add(1);
    }

    /// The device cannot go on.
    pub(super) fn set_needs_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
    }

    /// Takes what the driver has asked for.
    pub(super) fn take_work(&mut self, function: usize) -> Option<Work> {
        let pending = std::mem::take(&mut self.pending);
        let Pending { reset, queue_resets, driver_ok, kicks } = pending;
        (pending != Pending::default()).then_some(Work { function, reset, queue_resets, driver_ok, kicks })
    }

    /// Whether the device was reset since the last look at its work.
    pub(super) fn was_reset(&self) -> bool {
        self.pending.reset
    }

    /// Whether `take_work` has something.
    pub(super) fn has_work(&self) -> bool {
        self.pending != Pending::default()
    }

    /// Device reset (2.4): all registers are as at power-on, and work that was asked for before is void.
    pub(super) fn reset(&mut self) {
        *self = VirtioRegisters {
            offered: self.offered,
            config: std::mem::take(&mut self.config),
            generation: self.generation,
            queues: vec![QueueRegisters::new(self.queue_size_max); self.queues.len()],
            bus_master: self.bus_master,
            pending: Pending { reset: true, ..Pending::default() },
            ..VirtioRegisters::new(self.queue_size_max, self.vectors)
        };
    }

    /// Reads the common configuration structure; any size and alignment, since no field has an effect when read.
    pub(super) fn read_common(&self, offset: u64, size: u8) -> u64 {
        bytewise::read(offset, size, |at| {
            let has = |row: &&Row| (row.offset..row.offset + u64::from(row.size)).contains(&at);
            COMMON.iter().find(has).map_or(0, |row| (self.field(row.field) >> (8 * (at - row.offset))) as u8)
        })
    }

    fn field(&self, field: Field) -> u32 {
        let queue = self.queue(self.queue_select);
        let of_queue = |value: fn(&QueueRegisters) -> u16| queue.map_or(0, |queue| u32::from(value(queue)));
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select,
            Field::DeviceFeature => half(self.offered, self.device_feature_select),
            Field::DriverFeatureSelect => self.driver_feature_select,
            Field::DriverFeature => half(self.driver_features, self.driver_feature_select),
            Field::ConfigVector => u32::from(self.config_vector),
            Field::QueueCount => u32::from(self.queue_count()),
            Field::Status => u32::from(self.status),
            Field::Generation => u32::from(self.generation),
            Field::QueueSelect => u32::from(self.queue_select),
            // Zero says that there is no such queue.
            Field::QueueSize => of_queue(|queue| queue.size),
            Field::QueueVector => u32::from(queue.map_or(NO_VECTOR, |queue| queue.vector)),
            Field::QueueEnable => of_queue(|queue| queue.enabled.into()),
            Field::QueueNotifyOffset => queue.map_or(0, |_| u32::from(self.queue_select)),
            Field::QueueArea(area, high) => queue.map_or(0, |queue| queue.half(area, high)),
            // NOTIF_CONFIG_DATA is not offered; a reset of a queue is over at once.
            Field::QueueNotifyData | Field::QueueReset => 0,
        }
    }

    /// Writes the common configuration structure: every field that the access covers whole. A part of a field is
    /// not an access that a driver may make (4.1.3.1), and does nothing.
    pub(super) fn write_common(&mut self, offset: u64, size: u8, value: u64) {
        let end = offset + u64::from(size);
        for row in &COMMON {
            if row.offset >= offset && row.offset + u64::from(row.size) <= end {
                let part = bytewise::truncate(value >> (8 * (row.offset - offset)), row.size);
                self.write_field(row.field, part as u32);
            }
        }
    }

    fn write_field(&mut self, field: Field, value: u32) {
        let low = value as u16;
        let (size_max, vector) = (self.queue_size_max, self.vector(low));
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select = value,
            Field::DriverFeatureSelect => self.driver_feature_select = value,
            Field::DriverFeature => self.write_driver_feature(value),
            Field::ConfigVector => self.config_vector = vector,
            Field::Status => self.write_status(value as u8),
            Field::QueueSelect => self.queue_select = low,
            Field::QueueSize => self.change_queue(|queue| queue.set_size(low, size_max)),
            Field::QueueVector => self.change_queue(|queue| queue.vector = vector),
            // The driver must not write 0 (4.1.4.3.2).
            Field::QueueEnable => self.change_queue(|queue| queue.enabled |= low == 1),
            Field::QueueArea(area, high) => self.change_queue(|queue| queue.set_half(area, high, value)),
            Field::QueueReset => self.write_queue_reset(low),
            Field::DeviceFeature
            | Field::QueueCount
            | Field::Generation
            | Field::QueueNotifyOffset
            | Field::QueueNotifyData => {}
        }
    }

    /// The selected queue, if there is one.
    fn change_queue(&mut self, change: impl FnOnce(&mut QueueRegisters)) {
        if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
            change(queue);
        }
    }

    /// A vector as it is kept: one that does not exist could not be mapped (4.1.4.3.1).
    fn vector(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    /// Features are the driver's choice until they are agreed.
    fn write_driver_feature(&mut self, value: u32) {
        let shift = 32 * self.driver_feature_select.min(2);
        if self.status & status::FEATURES_OK == 0 && shift < 64 {
            self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
        }
    }

    /// Zero resets. A bit that was set stays until then, since a driver must not clear one (2.1.1). The device keeps
    /// FEATURES_OK clear if it was not offered these features, and DRIVER_OK without FEATURES_OK.
    fn write_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let was_live = self.is_live();
        let mut status = self.status | value & status::OF_DRIVER;
        let agreed =
            self.driver_features & !self.offered == 0 && self.driver_features & feature::VERSION_1 != 0;
        if self.status & status::FEATURES_OK == 0 && !agreed {
            status &= !status::FEATURES_OK;
        }
        if status & status::FEATURES_OK == 0 {
            status &= !status::DRIVER_OK;
        }
        self.status = status;
        self.pending.driver_ok |= self.is_live() && !was_live;
    }

    /// Resets the selected queue (2.6.1). It is over when this returns: the back-end is told before the driver's next
    /// instruction.
    fn write_queue_reset(&mut self, value: u16) {
        if value != 1
            || self.driver_features & feature::RING_RESET == 0
            || self.status & status::FEATURES_OK == 0
        {
            return;
        }
        let (size_max, index) = (self.queue_size_max, self.queue_select);
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        let was_enabled = queue.enabled;
        *queue = QueueRegisters::new(size_max);
        if was_enabled {
            self.pending.queue_resets |= 1 << index;
            self.pending.kicks &= !(1 << index);
        }
    }

    /// The driver has notified a queue; what is not running is not told.
    pub(super) fn kick(&mut self, queue: u64) {
        let enabled = usize::try_from(queue)
            .ok()
            .and_then(|queue| self.queues.get(queue))
            .is_some_and(|queue| queue.enabled);
        if enabled && self.is_live() {
            self.pending.kicks |= 1 << queue;
        }
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn read_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    /// Reads the device configuration; beyond its end all ones.
    pub(super) fn read_config(&self, offset: u64, size: u8) -> u64 {
        bytewise::read(offset, size, |at| {
            usize::try_from(at).ok().and_then(|at| self.config.get(at)).copied().unwrap_or(0xff)
        })
    }
}

/// Feature bits 32·select to 32·select+31.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
