//! Virtio functions as a driver sees them: features, status, queues, notifications, configuration.

use super::*;
use crate::chipset::ChipsetConfig;
use crate::chipset::map::HPET_BASE;
use crate::chipset::pci_host::{ECAM_BASE, PORT};
use replay::device::PciAddress;

pub(super) const NOW: Vtime = Vtime(0);
pub(super) const RING_RESET: u64 = 1 << 40;
pub(super) const VERSION_1: u64 = 1 << 32;

pub(super) fn function(device: u8, function: u8, device_type: u16, vectors: u16) -> FunctionConfig {
    FunctionConfig { address: PciAddress { device, function }, device_type, queue_size_max: 256, vectors }
}

pub(super) fn chipset(functions: &[FunctionConfig]) -> Chipset {
    Chipset::new(&ChipsetConfig { functions: functions.to_vec(), ..ChipsetConfig::default() })
}

/// A network function at 03.0 with three queues, eight bytes of configuration and four vectors.
pub(super) fn one() -> Chipset {
    let mut chipset = chipset(&[function(3, 0, 1, 4)]);
    chipset.virtio_offer(0, VERSION_1 | RING_RESET | 1 << 5 | 1, vec![1, 2, 3, 4, 5, 6, 7, 8], 3);
    chipset
}

/// Address of a function's register in ECAM.
pub(super) fn ecam(device: u64, function: u64, register: u64) -> u64 {
    ECAM_BASE + (device << 15 | function << 12 | register)
}

pub(super) fn config_read(chipset: &mut Chipset, device: u64, register: u64, size: u8) -> u64 {
    chipset.mmio_read(ecam(device, 0, register), size, NOW)
}

pub(super) fn config_write(chipset: &mut Chipset, device: u64, register: u64, size: u8, value: u64) {
    chipset.mmio_write(ecam(device, 0, register), size, value, NOW);
}

/// Where BAR4 of a device's function 0 is.
pub(super) fn bar4(chipset: &mut Chipset, device: u64) -> u64 {
    let low = config_read(chipset, device, 0x20, 4) & !0xf;
    config_read(chipset, device, 0x24, 4) << 32 | low
}

pub(super) fn read(chipset: &mut Chipset, offset: u64, size: u8) -> u64 {
    let bar = bar4(chipset, 3);
    chipset.mmio_read(bar + offset, size, NOW)
}

pub(super) fn write(chipset: &mut Chipset, offset: u64, size: u8, value: u64) {
    let bar = bar4(chipset, 3);
    chipset.mmio_write(bar + offset, size, value, NOW);
}

/// Offsets of `virtio_pci_common_cfg`, from virtio 1.2, 4.1.4.3.
pub(super) mod at {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const QUEUE_COUNT: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const QUEUE_RESET: u64 = 0x3a;
    pub const ISR: u64 = 0x1000;
    pub const DEVICE: u64 = 0x2000;
    pub const NOTIFY: u64 = 0x3000;
}

pub(super) fn accept(chipset: &mut Chipset, features: u64) {
    for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        write(chipset, at::DRIVER_FEATURE_SELECT, 4, select);
        write(chipset, at::DRIVER_FEATURE, 4, half);
    }
}

/// Initialises as 3.1.1 says, queue `queue` enabled.
pub(super) fn start(chipset: &mut Chipset, queue: u64) {
    write(chipset, at::STATUS, 1, 0);
    write(chipset, at::STATUS, 1, 3);
    accept(chipset, VERSION_1 | RING_RESET);
    write(chipset, at::STATUS, 1, 11);
    write(chipset, at::QUEUE_SELECT, 2, queue);
    write(chipset, at::QUEUE_ENABLE, 2, 1);
    write(chipset, at::STATUS, 1, 15);
    chipset.take_virtio_work();
    chipset.take_effects();
}

pub(super) fn work() -> Work {
    Work { function: 0, reset: false, queue_resets: 0, driver_ok: false, kicks: 0 }
}

#[test]
fn offered_features_are_read_in_halves() {
    let mut chipset = chipset(&[function(3, 0, 1, 4)]);
    chipset.virtio_offer(0, 1 << 37 | 1 << 38 | 1 << 39 | VERSION_1 | 0x8000_0001, vec![], 1);
    for (select, value) in [(0, 0x8000_0001), (1, 1), (2, 0), (u64::from(u32::MAX), 0)] {
        write(&mut chipset, at::DEVICE_FEATURE_SELECT, 4, select);
        assert_eq!(read(&mut chipset, at::DEVICE_FEATURE_SELECT, 4), select);
        assert_eq!(read(&mut chipset, at::DEVICE_FEATURE, 4), value, "select {select}");
    }
    write(&mut chipset, at::DEVICE_FEATURE, 4, 0xffff);
    assert_eq!(read(&mut chipset, at::DEVICE_FEATURE, 4), 0, "read-only");
}

#[test]
fn features_are_agreed_only_if_offered_and_modern() {
    let table = [
        (VERSION_1, true),
        (VERSION_1 | 1, true),
        (VERSION_1 | RING_RESET | 1 << 5 | 1, true),
        (0, false),
        (1, false),
        (VERSION_1 | 2, false),
        (VERSION_1 | 1 << 38, false),
    ];
    for (features, agreed) in table {
        let mut chipset = one();
        write(&mut chipset, at::STATUS, 1, 1);
        write(&mut chipset, at::STATUS, 1, 3);
        accept(&mut chipset, features);
        assert_eq!(chipset.virtio(0).driver_features(), features);
        write(&mut chipset, at::STATUS, 1, 11);
        assert_eq!(read(&mut chipset, at::STATUS, 1), if agreed { 11 } else { 3 }, "{features:#x}");
        if agreed {
            accept(&mut chipset, 0);
            assert_eq!(chipset.virtio(0).driver_features(), features, "too late to change");
        }
        write(&mut chipset, at::STATUS, 1, 15);
        assert_eq!(chipset.virtio(0).status(), if agreed { 15 } else { 3 });
        let wanted = agreed.then_some(Work { driver_ok: true, ..work() });
        assert_eq!(chipset.take_virtio_work(), Vec::from_iter(wanted));
    }
}

#[test]
fn driver_features_beyond_64_do_not_exist() {
    let mut chipset = one();
    write(&mut chipset, at::DRIVER_FEATURE_SELECT, 4, 2);
    write(&mut chipset, at::DRIVER_FEATURE, 4, 0xffff_ffff);
    assert_eq!(read(&mut chipset, at::DRIVER_FEATURE, 4), 0);
    assert_eq!(chipset.virtio(0).driver_features(), 0);
}

#[test]
fn status_bits_stay_until_a_reset() {
    let mut chipset = one();
    start(&mut chipset, 0);
    write(&mut chipset, at::STATUS, 1, 1);
    assert_eq!(read(&mut chipset, at::STATUS, 1), 15, "a driver must not clear a bit");
    write(&mut chipset, at::STATUS, 1, 15 | 64 | 16);
    assert_eq!(read(&mut chipset, at::STATUS, 1), 15, "the device's own and reserved bits");
    write(&mut chipset, at::STATUS, 1, 128);
    assert_eq!(read(&mut chipset, at::STATUS, 1), 143);
    assert_eq!(chipset.take_virtio_work(), []);
}

#[test]
fn status_zero_resets_the_registers_at_once() {
    let mut chipset = one();
    let fresh = chipset.virtio(0).clone();
    start(&mut chipset, 1);
    write(&mut chipset, at::CONFIG_VECTOR, 2, 3);
    write(&mut chipset, at::NOTIFY + 4, 2, 1);
    chipset.virtio_queue_interrupt(0, 1, NOW);
    write(&mut chipset, at::STATUS, 1, 0);
    assert!(chipset.take_effects().virtio);
    assert_eq!(chipset.take_virtio_work(), [Work { reset: true, ..work() }], "the kick is void");
    assert_eq!(*chipset.virtio(0), fresh);
    assert_eq!(read(&mut chipset, at::ISR, 1), 0);
}

#[test]
fn what_follows_a_reset_is_kept_beside_it() {
    let mut chipset = one();
    start(&mut chipset, 0);
    // All before anybody looks, as by one long instruction.
    write(&mut chipset, at::STATUS, 1, 0);
    write(&mut chipset, at::STATUS, 1, 3);
    accept(&mut chipset, VERSION_1);
    write(&mut chipset, at::STATUS, 1, 11);
    write(&mut chipset, at::QUEUE_SELECT, 2, 2);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    write(&mut chipset, at::STATUS, 1, 15);
    write(&mut chipset, at::NOTIFY + 8, 2, 2);
    let all = Work { reset: true, driver_ok: true, kicks: 4, ..work() };
    assert_eq!(chipset.take_virtio_work(), [all]);
    assert_eq!(chipset.take_virtio_work(), []);
}

#[test]
fn queues_are_described_by_the_driver() {
    let mut chipset = one();
    assert_eq!(read(&mut chipset, at::QUEUE_COUNT, 2), 3);
    write(&mut chipset, at::QUEUE_SELECT, 2, 2);
    assert_eq!(read(&mut chipset, at::QUEUE_SIZE, 2), 256);
    assert_eq!(read(&mut chipset, at::QUEUE_NOTIFY_OFF, 2), 2);
    // Powers of two up to what is offered.
    for (value, size) in
        [(0, 256), (512, 256), (100, 256), (128, 128), (3, 128), (1, 1), (256, 256), (64, 64)]
    {
        write(&mut chipset, at::QUEUE_SIZE, 2, value);
        assert_eq!(read(&mut chipset, at::QUEUE_SIZE, 2), size, "{value}");
    }
    write(&mut chipset, at::QUEUE_DESC, 4, 0x1000);
    write(&mut chipset, at::QUEUE_DESC + 4, 4, 0x1);
    write(&mut chipset, at::QUEUE_DRIVER, 8, 0x2_0000_2000);
    write(&mut chipset, at::QUEUE_DEVICE + 4, 4, 3);
    write(&mut chipset, at::QUEUE_DEVICE, 4, 0x3000);
    assert_eq!(read(&mut chipset, at::QUEUE_DEVICE, 8), 0x3_0000_3000);
    write(&mut chipset, at::QUEUE_VECTOR, 2, 3);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 0);
    assert!(!chipset.virtio(0).queue(2).unwrap().enabled);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    let wanted = QueueRegisters {
        size: 64,
        enabled: true,
        descriptors: 0x1_0000_1000,
        driver_area: 0x2_0000_2000,
        device_area: 0x3_0000_3000,
        vector: 3,
    };
    assert_eq!(chipset.virtio(0).queue(2), Some(&wanted));
    // While it is enabled it stays as it is, but for the vector.
    write(&mut chipset, at::QUEUE_SIZE, 2, 32);
    write(&mut chipset, at::QUEUE_DESC, 4, 0);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 0);
    assert_eq!(chipset.virtio(0).queue(2), Some(&wanted));
    write(&mut chipset, at::QUEUE_VECTOR, 2, 1);
    assert_eq!(chipset.virtio(0).queue(2).unwrap().vector, 1);
    assert_eq!(chipset.virtio(0).queue(1).unwrap().descriptors, 0);
}

#[test]
fn a_queue_that_does_not_exist_has_size_zero() {
    let mut chipset = one();
    assert_eq!(chipset.virtio(0).queue(3), None);
    for queue in [3, 64, 0xffff] {
        write(&mut chipset, at::QUEUE_SELECT, 2, queue);
        write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
        write(&mut chipset, at::QUEUE_RESET, 2, 1);
        assert_eq!(read(&mut chipset, at::QUEUE_SELECT, 2), queue);
        assert_eq!(read(&mut chipset, at::QUEUE_SIZE, 2), 0);
        assert_eq!(read(&mut chipset, at::QUEUE_ENABLE, 2), 0);
        assert_eq!(read(&mut chipset, at::QUEUE_VECTOR, 2), 0xffff);
        assert_eq!(read(&mut chipset, at::QUEUE_DESC, 8), 0);
    }
    let mut many = super::tests::chipset(&[function(3, 0, 1, 4)]);
    many.virtio_offer(0, VERSION_1, vec![], 1000);
    assert_eq!(many.virtio(0).queue_count(), 64);
}

#[test]
fn vectors_that_do_not_exist_cannot_be_mapped() {
    // 4.1.5.1.2: the driver reads back NO_VECTOR when mapping failed.
    let mut chipset = one();
    for (value, kept) in [(0, 0), (3, 3), (4, 0xffff), (1, 1), (0xffff, 0xffff)] {
        for register in [at::CONFIG_VECTOR, at::QUEUE_VECTOR] {
            write(&mut chipset, register, 2, value);
            assert_eq!(read(&mut chipset, register, 2), kept, "{value}");
        }
    }
    let mut without = super::tests::chipset(&[function(3, 0, 1, 0)]);
    without.virtio_offer(0, VERSION_1, vec![], 1);
    write(&mut without, at::QUEUE_VECTOR, 2, 0);
    assert_eq!(read(&mut without, at::QUEUE_VECTOR, 2), 0xffff);
}

#[test]
fn accesses_of_other_widths() {
    let mut chipset = one();
    write(&mut chipset, at::QUEUE_DESC, 8, 0x1122_3344_5566_7788);
    // Reads of any width see the bytes; parts of a field are not written.
    assert_eq!(read(&mut chipset, at::QUEUE_DESC + 1, 2), 0x6677);
    assert_eq!(read(&mut chipset, at::QUEUE_DESC + 3, 4), 0x2233_4455);
    assert_eq!(read(&mut chipset, at::QUEUE_COUNT, 4), 3, "count, status, generation");
    write(&mut chipset, at::QUEUE_DESC, 2, 0xffff);
    write(&mut chipset, at::QUEUE_DESC + 2, 4, 0xffff_ffff);
    write(&mut chipset, at::QUEUE_SELECT, 1, 1);
    assert_eq!(read(&mut chipset, at::QUEUE_DESC, 8), 0x1122_3344_5566_7788);
    assert_eq!(read(&mut chipset, at::QUEUE_SELECT, 2), 0);
    // A wide access writes each field that it covers.
    write(&mut chipset, at::QUEUE_SIZE, 4, 2 << 16 | 64);
    assert_eq!(read(&mut chipset, at::QUEUE_SIZE, 2), 64);
    assert_eq!(read(&mut chipset, at::QUEUE_VECTOR, 2), 2);
    assert_eq!(read(&mut chipset, 0x3c, 8), 0, "past the structure");
    write(&mut chipset, 0xffc, 8, u64::MAX);
    assert_eq!(read(&mut chipset, 0xffc, 8), 0);
}

#[test]
fn kicks_count_for_running_queues() {
    let mut chipset = one();
    write(&mut chipset, at::NOTIFY, 2, 0);
    start(&mut chipset, 1);
    write(&mut chipset, at::NOTIFY, 2, 0);
    write(&mut chipset, at::NOTIFY + 12, 2, 3);
    write(&mut chipset, at::NOTIFY + 0xffc, 4, 1023);
    assert!(!chipset.has_effects());
    assert_eq!(chipset.take_virtio_work(), [], "not enabled, or no queue at all");
    write(&mut chipset, at::NOTIFY + 4, 2, 1);
    assert!(chipset.take_effects().virtio);
    assert_eq!(chipset.take_virtio_work(), [Work { kicks: 2, ..work() }]);
    assert_eq!(read(&mut chipset, at::NOTIFY + 4, 2), 0);
    assert_eq!(chipset.take_virtio_work(), []);
    // A queue may be enabled late.
    write(&mut chipset, at::QUEUE_SELECT, 2, 2);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    write(&mut chipset, at::NOTIFY + 8, 4, 2);
    assert_eq!(chipset.take_virtio_work(), [Work { kicks: 4, ..work() }]);
}

#[test]
fn kicks_before_driver_ok_do_not_count() {
    let mut chipset = one();
    write(&mut chipset, at::STATUS, 1, 3);
    accept(&mut chipset, VERSION_1);
    write(&mut chipset, at::STATUS, 1, 11);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    write(&mut chipset, at::NOTIFY, 2, 0);
    assert_eq!(chipset.take_virtio_work(), []);
}

#[test]
fn one_queue_is_reset() {
    let mut chipset = one();
    start(&mut chipset, 1);
    write(&mut chipset, at::NOTIFY + 4, 2, 1);
    write(&mut chipset, at::QUEUE_RESET, 2, 0);
    assert!(chipset.virtio(0).queue(1).unwrap().enabled);
    write(&mut chipset, at::QUEUE_RESET, 2, 1);
    // 4.1.4.3.1: both are 0 once the reset has completed.
    assert_eq!(read(&mut chipset, at::QUEUE_RESET, 2), 0);
    assert_eq!(read(&mut chipset, at::QUEUE_ENABLE, 2), 0);
    assert_eq!(chipset.virtio(0).queue(1), Some(&QueueRegisters::new(256)));
    assert_eq!(chipset.take_virtio_work(), [Work { queue_resets: 2, ..work() }], "its kick is void");
    write(&mut chipset, at::QUEUE_RESET, 2, 1);
    assert_eq!(chipset.take_virtio_work(), [], "it was not enabled");
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    write(&mut chipset, at::NOTIFY + 4, 2, 1);
    assert_eq!(chipset.take_virtio_work(), [Work { kicks: 2, ..work() }]);
}

#[test]
fn queue_reset_needs_its_feature() {
    let mut chipset = one();
    write(&mut chipset, at::STATUS, 1, 3);
    accept(&mut chipset, VERSION_1);
    write(&mut chipset, at::STATUS, 1, 11);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    write(&mut chipset, at::STATUS, 1, 15);
    chipset.take_virtio_work();
    write(&mut chipset, at::QUEUE_RESET, 2, 1);
    assert!(chipset.virtio(0).queue(0).unwrap().enabled);
    assert_eq!(chipset.take_virtio_work(), []);
}

#[test]
fn device_configuration_is_read_by_bytes() {
    let mut chipset = one();
    assert_eq!(read(&mut chipset, at::DEVICE, 8), 0x0807_0605_0403_0201);
    assert_eq!(read(&mut chipset, at::DEVICE + 3, 2), 0x0504);
    assert_eq!(read(&mut chipset, at::DEVICE + 6, 4), 0xffff_0807, "it has eight bytes");
    write(&mut chipset, at::DEVICE, 4, 0);
    assert_eq!(read(&mut chipset, at::DEVICE, 4), 0x0403_0201);
}

#[test]
fn a_change_of_configuration_raises_the_generation() {
    let mut chipset = one();
    assert_eq!(read(&mut chipset, at::GENERATION, 1), 0);
    chipset.virtio_config_changed(0, vec![9], NOW);
    assert_eq!(read(&mut chipset, at::GENERATION, 1), 1);
    assert_eq!(read(&mut chipset, at::DEVICE, 2), 0xff09);
    assert_eq!(read(&mut chipset, at::ISR, 1), 0, "no interrupt before DRIVER_OK");
    start(&mut chipset, 0);
    for _ in 0..255 {
        chipset.virtio_config_changed(0, vec![9], NOW);
    }
    assert_eq!(read(&mut chipset, at::GENERATION, 1), 0);
    assert_eq!(read(&mut chipset, at::ISR, 1), 2);
    assert_eq!(read(&mut chipset, at::ISR, 1), 0, "reading clears");
}

#[test]
fn needs_reset_tells_a_running_driver() {
    let mut chipset = one();
    chipset.virtio_needs_reset(0, NOW);
    assert_eq!(read(&mut chipset, at::STATUS, 1), 64);
    assert_eq!(read(&mut chipset, at::ISR, 1), 0);
    start(&mut chipset, 0);
    assert_eq!(read(&mut chipset, at::STATUS, 1), 15);
    chipset.virtio_needs_reset(0, NOW);
    assert_eq!(read(&mut chipset, at::STATUS, 1), 79);
    assert_eq!(read(&mut chipset, at::ISR, 2), 2);
}

#[test]
fn functions_are_told_apart() {
    let mut chipset = chipset(&[function(3, 0, 1, 4), function(4, 0, 4, 0)]);
    assert_eq!(chipset.virtio_count(), 2);
    chipset.virtio_offer(0, VERSION_1 | RING_RESET, vec![], 3);
    chipset.virtio_offer(1, VERSION_1, vec![], 1);
    start(&mut chipset, 0);
    write(&mut chipset, at::NOTIFY, 2, 0);
    let other = bar4(&mut chipset, 4);
    chipset.mmio_write(other + at::STATUS, 1, 0, NOW);
    let wanted = [Work { kicks: 1, ..work() }, Work { function: 1, reset: true, ..work() }];
    assert_eq!(chipset.take_virtio_work(), wanted);
    assert_eq!(chipset.virtio(0).status(), 15);
}

#[test]
fn fixed_devices_come_before_bars() {
    let mut chipset = one();
    let before = chipset.mmio_read(HPET_BASE, 8, NOW);
    config_write(&mut chipset, 3, 0x20, 4, HPET_BASE);
    assert_eq!(chipset.mmio_read(HPET_BASE, 8, NOW), before);
    assert_eq!(chipset.mmio_read(HPET_BASE + 0x2000, 2, NOW), 0x0201, "the rest is the BAR's");
    assert_eq!(chipset.port_read(PORT, 4, NOW), 0);
}
