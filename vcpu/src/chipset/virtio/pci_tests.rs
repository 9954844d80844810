//! Virtio functions as PCI sees them: header, capabilities, BARs, interrupts, reset.

use super::tests::*;
use super::*;
use crate::chipset::tests::{start_pics, write_ioapic};
use crate::firmware::layout::{PCI_WINDOW_32, pci_intx_gsi, pci_window_64};

/// Offsets of the capabilities of a device's function 0: (id, offset), by the list.
fn capabilities(chipset: &mut Chipset, device: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut next = config_read(chipset, device, 0x34, 1);
    while next != 0 {
        found.push((config_read(chipset, device, next, 1), next));
        next = config_read(chipset, device, next + 1, 1);
        assert!(found.len() < 48, "the list has an end");
    }
    found
}

fn capability(chipset: &mut Chipset, wanted: impl Fn(&mut Chipset, u64) -> bool) -> u64 {
    let all = capabilities(chipset, 3);
    all.into_iter().map(|(_, at)| at).find(|at| wanted(chipset, *at)).expect("the capability")
}

fn msix(chipset: &mut Chipset) -> u64 {
    capability(chipset, |chipset, at| config_read(chipset, 3, at, 1) == 0x11)
}

/// The capability for access through configuration space.
fn config_access(chipset: &mut Chipset) -> u64 {
    capability(chipset, |chipset, at| {
        config_read(chipset, 3, at, 1) == 9 && config_read(chipset, 3, at + 3, 1) == 5
    })
}

/// Switches MSI-X and bus mastering on; vector n sends 0x40 + n to the first CPU.
fn start_msix(chipset: &mut Chipset) -> u64 {
    let bar = config_read(chipset, 3, 0x14, 4);
    for vector in 0..4 {
        chipset.mmio_write(bar + 16 * vector, 8, 0xfee0_0000, NOW);
        chipset.mmio_write(bar + 16 * vector + 8, 8, 0x40 + vector, NOW);
    }
    config_write(chipset, 3, 4, 2, 6);
    let at = msix(chipset);
    config_write(chipset, 3, at + 2, 2, 0x8000);
    bar
}

/// Takes the pending interrupt and ends it.
fn interrupt(chipset: &mut Chipset) -> Option<u8> {
    let vector = chipset.acknowledge(NOW);
    chipset.mmio_write(0xfee0_00b0, 4, 0, NOW);
    vector
}

#[test]
fn identity_by_device_type() {
    let classes = [
        (1, 0x02_00_00),
        (2, 0x01_00_00),
        (3, 0x07_80_00),
        (4, 0x00_ff_00),
        (8, 0x01_00_00),
        (26, 0x00_ff_00),
    ];
    for (device_type, class) in classes {
        let mut chipset = chipset(&[function(3, 0, device_type, 2)]);
        assert_eq!(config_read(&mut chipset, 3, 0, 4), 0x1040_1af4 + (u64::from(device_type) << 16));
        assert_eq!(config_read(&mut chipset, 3, 8, 4), class << 8 | 1, "type {device_type}");
        assert_eq!(config_read(&mut chipset, 3, 0x2c, 4), 0x1100_1af4);
        assert_eq!(config_read(&mut chipset, 3, 0x3d, 1), 1, "INTA#");
        assert_eq!(config_read(&mut chipset, 3, 0x0e, 1), 0);
    }
}

#[test]
fn several_functions_of_a_device_say_so() {
    let mut chipset =
        chipset(&[function(4, 1, 2, 0), function(4, 0, 1, 0), function(0x1f, 2, 4, 0), function(5, 0, 4, 0)]);
    for (device, function, header) in
        [(4, 0, 0x80), (4, 1, 0x80), (0x1f, 0, 0x80), (0x1f, 2, 0x80), (5, 0, 0), (0, 0, 0)]
    {
        assert_eq!(chipset.mmio_read(ecam(device, function, 0x0e), 1, NOW), header, "{device:x}.{function}");
    }
}

#[test]
fn structures_are_announced() {
    let mut chipset = one();
    let mut found: Vec<[u64; 4]> = Vec::new();
    for (id, at) in capabilities(&mut chipset, 3) {
        if id != 9 {
            continue;
        }
        let [length, kind] = [2, 3].map(|byte| config_read(&mut chipset, 3, at + byte, 1));
        assert_eq!(length, if kind == 2 || kind == 5 { 20 } else { 16 });
        let [bar, offset, size] =
            [(4, 1), (8, 4), (12, 4)].map(|(field, width)| config_read(&mut chipset, 3, at + field, width));
        found.push([kind, bar, offset, size]);
        if kind == 2 {
            assert_eq!(config_read(&mut chipset, 3, at + 16, 4), 4, "notify_off_multiplier");
        }
    }
    let page = 0x1000;
    let wanted =
        [[1, 4, 0, page], [3, 4, page, page], [4, 4, 2 * page, page], [2, 4, 3 * page, page], [5, 0, 0, 0]];
    assert_eq!(found, wanted);
}

#[test]
fn msix_is_there_with_vectors_only() {
    let mut with = one();
    let at = msix(&mut with);
    assert_eq!(config_read(&mut with, 3, at + 2, 2), 3, "table size less one");
    assert_eq!(config_read(&mut with, 3, at + 4, 8), 0x801_0000_0001);
    let mut without = chipset(&[function(3, 0, 1, 0)]);
    assert!(capabilities(&mut without, 3).iter().all(|(id, _)| *id == 9));
    config_write(&mut without, 3, 0x14, 4, 0xffff_ffff);
    assert_eq!(config_read(&mut without, 3, 0x14, 4), 0, "no BAR1");
}

#[test]
fn bars_have_addresses_at_power_on() {
    let all: Vec<FunctionConfig> =
        (1..31).flat_map(|device| (0..8).map(move |one| function(device, one, 1, 2048))).collect();
    let mut chipset = chipset(&all);
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for config in &all {
        let (device, one) = (config.address.device.into(), config.address.function.into());
        let mut register = |at, size| chipset.mmio_read(ecam(device, one, at), size, NOW);
        assert_eq!(register(4, 2), 2, "memory decoding, no bus mastering");
        let (table, structures) = (register(0x14, 4), register(0x20, 8));
        assert_eq!((table & 0xf, structures & 0xf), (0, 0xc));
        taken.push((table, 0x10000));
        taken.push((structures & !0xf, 0x4000));
    }
    taken.sort_unstable();
    assert!(taken.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "they do not overlap");
    assert!(
        taken
            .iter()
            .all(|(at, size)| PCI_WINDOW_32.contains(at) && at + size <= PCI_WINDOW_32.end && at % size == 0)
    );
}

#[test]
fn bars_are_sized_and_moved() {
    let mut chipset = one();
    let before = bar4(&mut chipset, 3);
    config_write(&mut chipset, 3, 4, 2, 0);
    assert_eq!(chipset.mmio_read(before + at::QUEUE_COUNT, 2, NOW), 0xffff, "decoding is off");
    for (register, size) in
        [(0x14, 0xffff_f000), (0x20, 0xffff_c00c), (0x24, 0xffff_ffff), (0x10, 0), (0x18, 0), (0x1c, 0)]
    {
        config_write(&mut chipset, 3, register, 4, 0xffff_ffff);
        assert_eq!(config_read(&mut chipset, 3, register, 4), size, "{register:#x}");
    }
    // The window above RAM, its very end, the window below 4 GiB.
    let window = pci_window_64(128 << 20);
    for to in [window.start, window.end - 0x4000, PCI_WINDOW_32.end - 0x10_0000] {
        config_write(&mut chipset, 3, 0x20, 8, to);
        config_write(&mut chipset, 3, 4, 2, 2);
        assert_eq!(chipset.mmio_read(to + at::QUEUE_COUNT, 2, NOW), 3, "{to:#x}");
        assert_eq!(chipset.mmio_read(to + 0x3fff, 2, NOW), 0xff00, "one byte of it, one of nothing");
        assert_eq!(chipset.mmio_read(to - 1, 1, NOW), 0xff);
        assert_eq!(chipset.mmio_read(before + at::QUEUE_COUNT, 2, NOW), 0xffff);
    }
}

#[test]
fn the_cpu_reaches_the_windows() {
    // What CPUID says of physical addresses, for any RAM up to a tebibyte.
    assert!(pci_window_64(1 << 40).end <= 1 << crate::mem::walk::PHYSICAL_BITS);
}

#[test]
fn overlapping_bars_do_not_hang_or_mix() {
    let mut chipset = one();
    let structures = bar4(&mut chipset, 3);
    config_write(&mut chipset, 3, 0x14, 4, structures + 0x1000);
    assert_eq!(chipset.mmio_read(structures + at::QUEUE_COUNT, 2, NOW), 3);
    assert_eq!(chipset.mmio_read(structures + 0x100c, 4, NOW), 1, "the table, which begins last");
}

#[test]
fn messages_go_to_the_cpu() {
    let mut chipset = one();
    start(&mut chipset, 1);
    start_msix(&mut chipset);
    write(&mut chipset, at::QUEUE_VECTOR, 2, 1);
    write(&mut chipset, at::CONFIG_VECTOR, 2, 3);
    chipset.virtio_queue_interrupt(0, 1, NOW);
    assert_eq!(interrupt(&mut chipset), Some(0x41));
    assert_eq!(read(&mut chipset, at::ISR, 1), 0, "the queue bit is for INTx");
    chipset.virtio_config_changed(0, vec![], NOW);
    assert_eq!(interrupt(&mut chipset), Some(0x43));
    chipset.virtio_needs_reset(0, NOW);
    assert_eq!(interrupt(&mut chipset), Some(0x43));
    assert_eq!(chipset.virtio.pirqs(), 0, "INTx is never used");
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 0);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    chipset.virtio_queue_interrupt(0, 7, NOW);
    assert_eq!(interrupt(&mut chipset), None, "not enabled, no such queue");
    write(&mut chipset, at::QUEUE_VECTOR, 2, 0xffff);
    chipset.virtio_queue_interrupt(0, 1, NOW);
    assert_eq!(interrupt(&mut chipset), None, "no vector");
}

#[test]
fn held_messages_come_when_they_may() {
    let mut chipset = one();
    start(&mut chipset, 1);
    let bar = start_msix(&mut chipset);
    let capability = msix(&mut chipset);
    write(&mut chipset, at::QUEUE_VECTOR, 2, 2);
    // By which write messages are held, and by which they come again.
    let writes: [[(u64, u8, u64); 2]; 3] = [
        [(bar + 0x2c, 4, 1), (bar + 0x2c, 4, 0)],
        [(ecam(3, 0, capability + 2), 2, 0xc000), (ecam(3, 0, capability + 2), 2, 0x8000)],
        [(ecam(3, 0, 4), 2, 2), (ecam(3, 0, 4), 2, 6)],
    ];
    for [hold, free] in writes {
        chipset.mmio_write(hold.0, hold.1, hold.2, NOW);
        chipset.virtio_queue_interrupt(0, 1, NOW);
        assert_eq!(interrupt(&mut chipset), None, "{hold:x?}");
        assert_eq!(chipset.mmio_read(bar + 0x800, 8, NOW), 4, "pending");
        chipset.mmio_write(free.0, free.1, free.2, NOW);
        assert_eq!(interrupt(&mut chipset), Some(0x42), "{free:x?}");
        assert_eq!(chipset.mmio_read(bar + 0x800, 8, NOW), 0);
    }
    // A device that was reset has nothing to say.
    chipset.mmio_write(bar + 0x2c, 4, 1, NOW);
    chipset.virtio_queue_interrupt(0, 1, NOW);
    write(&mut chipset, at::STATUS, 1, 0);
    chipset.mmio_write(bar + 0x2c, 4, 0, NOW);
    assert_eq!(interrupt(&mut chipset), None);
}

#[test]
fn bus_mastering_is_shown() {
    let mut chipset = one();
    assert!(!chipset.virtio(0).bus_master());
    config_write(&mut chipset, 3, 4, 2, 6);
    assert!(chipset.virtio(0).bus_master());
    write(&mut chipset, at::STATUS, 1, 0);
    assert!(chipset.virtio(0).bus_master(), "a device reset is none of PCI's");
    config_write(&mut chipset, 3, 4, 1, 2);
    assert!(!chipset.virtio(0).bus_master());
}

#[test]
fn intx_is_the_or_of_isr_status() {
    let mut chipset = one();
    start(&mut chipset, 0);
    write_ioapic(&mut chipset, u64::from(pci_intx_gsi(3, 0)), 0x8050);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 8, "interrupt status");
    assert_eq!(interrupt(&mut chipset), Some(0x50));
    assert_eq!(interrupt(&mut chipset), Some(0x50), "the level is still there");
    chipset.virtio_config_changed(0, vec![], NOW);
    assert_eq!(read(&mut chipset, at::ISR, 1), 3);
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 0);
    interrupt(&mut chipset);
    assert_eq!(interrupt(&mut chipset), None, "reading lowers it");
    // Held off by the command register; the status bit shows it all the same (PCI 3.0, 6.2.3).
    config_write(&mut chipset, 3, 4, 2, 0x402);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    assert_eq!(interrupt(&mut chipset), None);
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 8);
    config_write(&mut chipset, 3, 4, 2, 2);
    assert_eq!(interrupt(&mut chipset), Some(0x50));
    // MSI-X takes its place, and a reset ends it.
    let capability = msix(&mut chipset);
    config_write(&mut chipset, 3, capability + 2, 2, 0x8000);
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 0);
    interrupt(&mut chipset);
    assert_eq!(interrupt(&mut chipset), None);
    config_write(&mut chipset, 3, capability + 2, 2, 0);
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 8);
    write(&mut chipset, at::STATUS, 1, 0);
    assert_eq!(config_read(&mut chipset, 3, 6, 2) & 8, 0);
    assert_eq!(chipset.virtio.pirqs(), 0);
}

#[test]
fn before_driver_ok_there_are_no_interrupts() {
    let mut chipset = one();
    write(&mut chipset, at::STATUS, 1, 3);
    write(&mut chipset, at::QUEUE_ENABLE, 2, 1);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    chipset.virtio_config_changed(0, vec![], NOW);
    assert_eq!(read(&mut chipset, at::ISR, 1), 0);
}

/// Two functions that share a PIRQ: 03.0 and 0b.0.
fn sharing() -> Chipset {
    let mut chipset = chipset(&[function(3, 0, 1, 4), function(11, 0, 1, 4)]);
    assert_eq!(pci_intx_gsi(3, 0), pci_intx_gsi(11, 0));
    for function in 0..2 {
        chipset.virtio_offer(function, VERSION_1 | RING_RESET, vec![], 1);
    }
    start(&mut chipset, 0);
    let other = bar4(&mut chipset, 11);
    for (offset, size, value) in [(8, 4, 1), (12, 4, 1), (20, 1, 11), (28, 2, 1), (20, 1, 15)] {
        chipset.mmio_write(other + offset, size, value, NOW);
    }
    assert_eq!(chipset.virtio(1).status(), 15);
    chipset
}

#[test]
fn a_shared_line_is_high_while_anybody_drives_it() {
    let mut chipset = sharing();
    write_ioapic(&mut chipset, u64::from(pci_intx_gsi(3, 0)), 0x8050);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    chipset.virtio_queue_interrupt(1, 0, NOW);
    assert_eq!(read(&mut chipset, at::ISR, 1), 1);
    assert_eq!(interrupt(&mut chipset), Some(0x50));
    assert_eq!(interrupt(&mut chipset), Some(0x50), "the other one");
    let other = bar4(&mut chipset, 11);
    assert_eq!(chipset.mmio_read(other + at::ISR, 1, NOW), 1);
    interrupt(&mut chipset);
    assert_eq!(interrupt(&mut chipset), None);
}

#[test]
fn the_isa_bridge_routes_to_the_8259_pair() {
    const PIRQD: u64 = 0x63;
    let mut chipset = sharing();
    // Device 3 is wired to PIRQD, which firmware has routed to IRQ 11, level-triggered.
    assert_eq!(config_read(&mut chipset, 0x1f, 0x60, 4), 0x0b0b_0a0a);
    assert_eq!(config_read(&mut chipset, 0x1f, 0x68, 4), 0x0b0b_0a0a);
    assert_eq!(config_read(&mut chipset, 3, 0x3c, 1), 11);
    assert_eq!(chipset.port_read(0x4d0, 2, NOW), 0x0c00);
    start_pics(&mut chipset, [0xfb, 0xd3]);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    let end = |chipset: &mut Chipset| {
        let vector = chipset.acknowledge(NOW);
        for port in [0xa0, 0x20] {
            chipset.port_write(port, 1, 0x20, NOW);
        }
        vector
    };
    assert_eq!(end(&mut chipset), Some(0x2b));
    assert_eq!(end(&mut chipset), Some(0x2b), "level-triggered");
    // Elsewhere: to IRQ 10, to none, to one that cannot be named.
    for (route, vector) in [(0x0a, Some(0x2a)), (0x8a, None), (0x08, None), (0x02, None), (0x0b, Some(0x2b))]
    {
        config_write(&mut chipset, 0x1f, PIRQD, 1, route);
        assert_eq!(config_read(&mut chipset, 0x1f, PIRQD, 1), route);
        assert_eq!(end(&mut chipset), vector, "{route:#x}");
    }
    // An ISA device on the same line keeps it high, and the other way round.
    chipset.set_irq(11, true);
    read(&mut chipset, at::ISR, 1);
    assert_eq!(end(&mut chipset), Some(0x2b));
    chipset.virtio_queue_interrupt(0, 0, NOW);
    chipset.set_irq(11, false);
    assert_eq!(end(&mut chipset), Some(0x2b));
    read(&mut chipset, at::ISR, 1);
    assert_eq!(end(&mut chipset), None);
}

#[test]
fn structures_are_reached_through_configuration_space() {
    let mut chipset = one();
    let to = config_access(&mut chipset);
    let describe = |chipset: &mut Chipset, bar: u64, offset: u64, size: u64| {
        config_write(chipset, 3, to + 4, 1, bar);
        config_write(chipset, 3, to + 8, 4, offset);
        config_write(chipset, 3, to + 12, 4, size);
    };
    let data = to + 16;
    describe(&mut chipset, 4, at::QUEUE_COUNT, 2);
    assert_eq!(config_read(&mut chipset, 3, data, 4), 3);
    describe(&mut chipset, 4, at::QUEUE_SELECT, 2);
    config_write(&mut chipset, 3, data, 4, 0xdead_0002);
    assert_eq!(read(&mut chipset, at::QUEUE_SELECT, 2), 2);
    describe(&mut chipset, 4, at::DEVICE + 4, 4);
    assert_eq!(config_read(&mut chipset, 3, data, 4), 0x0807_0605);
    // By ports as well.
    let port = 0x8000_0000 | 3 << 11 | data as u32;
    chipset.port_write(0xcf8, 4, port & !3, NOW);
    describe(&mut chipset, 4, at::DEVICE, 1);
    assert_eq!(chipset.port_read(0xcfc + (data & 3) as u16, 1, NOW), 1);
    // Table of MSI-X.
    describe(&mut chipset, 1, 0x0c, 4);
    assert_eq!(config_read(&mut chipset, 3, data, 4), 1);
    // Sizes, places and BARs that are none: nothing happens, and the data stays as it is.
    for (bar, offset, size) in [
        (4, 0, 3),
        (4, 0, 0),
        (4, 0, 8),
        (4, 1, 2),
        (4, 0x4000, 4),
        (4, 0xffff_fffc, 4),
        (0, 0, 4),
        (5, 0, 4),
        (200, 0, 4),
    ] {
        describe(&mut chipset, bar, offset, size);
        config_write(&mut chipset, 3, data, 4, 0x1234_5678);
        assert_eq!(config_read(&mut chipset, 3, data, 4), 0x1234_5678, "{bar} {offset:#x} {size}");
    }
}

#[test]
fn a_kick_and_an_acknowledgement_through_configuration_space() {
    let mut chipset = one();
    start(&mut chipset, 0);
    let to = config_access(&mut chipset);
    config_write(&mut chipset, 3, 4, 2, 0);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    assert_ne!(chipset.virtio.pirqs(), 0);
    config_write(&mut chipset, 3, to + 4, 1, 4);
    config_write(&mut chipset, 3, to + 8, 4, at::ISR);
    config_write(&mut chipset, 3, to + 12, 4, 1);
    assert_eq!(config_read(&mut chipset, 3, to + 16, 4), 1, "memory decoding is not needed");
    assert_eq!(chipset.virtio.pirqs(), 0);
    config_write(&mut chipset, 3, to + 8, 4, at::NOTIFY);
    config_write(&mut chipset, 3, to + 12, 4, 2);
    config_write(&mut chipset, 3, to + 16, 2, 0);
    assert!(chipset.take_effects().virtio);
    assert_eq!(chipset.take_virtio_work(), [Work { kicks: 1, ..work() }]);
}

#[test]
fn machine_reset_brings_back_what_firmware_left() {
    let mut chipset = one();
    let fresh = serde_json::to_value(&chipset).unwrap();
    start(&mut chipset, 0);
    start_msix(&mut chipset);
    let to = config_access(&mut chipset);
    for (register, size, value) in
        [(0x20, 8, 0x10_0000_0000), (0x3c, 1, 5), (to + 4, 1, 4), (to + 8, 8, 0x4_0000_3000)]
    {
        config_write(&mut chipset, 3, register, size, value);
    }
    config_write(&mut chipset, 0x1f, 0x60, 4, 0x8080_8080);
    write(&mut chipset, at::NOTIFY, 2, 0);
    chipset.virtio_queue_interrupt(0, 0, NOW);
    chipset.reset(NOW);
    assert!(chipset.take_effects().virtio);
    assert_eq!(chipset.take_virtio_work(), [Work { reset: true, ..work() }]);
    let now = serde_json::to_value(&chipset).unwrap();
    for part in ["virtio", "pci", "pic"] {
        assert_eq!(now[part], fresh[part], "{part}");
    }
}

#[test]
fn functions_are_plain_data() {
    let mut chipset = sharing();
    chipset.virtio_queue_interrupt(0, 0, NOW);
    write(&mut chipset, at::NOTIFY, 2, 0);
    let saved = serde_json::to_string(&chipset).unwrap();
    let mut restored: Chipset = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved, serde_json::to_string(&restored).unwrap());
    assert_eq!(restored.take_virtio_work(), chipset.take_virtio_work());
    assert_eq!(read(&mut restored, at::ISR, 1), 1);
}
