//! The chipset as the CPU sees it: ports, addresses, acknowledge cycles.

use super::*;

const NOW: Vtime = Vtime(0);

fn chipset() -> Chipset {
    Chipset::new(&ChipsetConfig::default())
}

/// 8259 pair at vectors 0x20 and 0x28 with the given masks.
pub(super) fn start_pics(chipset: &mut Chipset, masks: [u8; 2]) {
    for (port, base, icw3, mask) in [(0x20, 0x20, 4, masks[0]), (0xa0, 0x28, 2, masks[1])] {
        chipset.port_write(port, 1, 0x11, NOW);
        for value in [base, icw3, 1, u32::from(mask)] {
            chipset.port_write(port + 1, 1, value, NOW);
        }
    }
}

pub(super) fn write_ioapic(chipset: &mut Chipset, pin: u64, entry: u64) {
    for (half, value) in [entry & 0xffff_ffff, entry >> 32].into_iter().enumerate() {
        chipset.mmio_write(0xfec0_0000, 4, 0x10 + 2 * pin + half as u64, NOW);
        chipset.mmio_write(0xfec0_0010, 4, value, NOW);
    }
}

#[test]
fn unclaimed_addresses_read_all_ones() {
    let mut chipset = chipset();
    assert_eq!(chipset.port_read(0x1234, 1, NOW), 0xff);
    assert_eq!(chipset.port_read(0xffff, 4, NOW), 0xffff_ffff);
    assert_eq!(chipset.mmio_read(0xd000_0000, 8, NOW), u64::MAX);
    assert_eq!(chipset.mmio_read(u64::MAX, 2, NOW), 0xffff);
    chipset.port_write(0xffff, 4, 0, NOW);
    chipset.mmio_write(u64::MAX, 8, 0, NOW);
    // A wide read takes what each port answers.
    start_pics(&mut chipset, [0x12, 0x34]);
    assert_eq!(chipset.port_read(0x21, 2, NOW), 0xff12);
}

#[test]
fn pit_interrupts_through_the_pic_in_virtual_wire_mode() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0xfe, 0xff]);
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        chipset.port_write(port, 1, value, NOW);
    }
    for period in 1..4 {
        let due = chipset.next_deadline().expect("the PIT runs");
        assert_eq!(due.0, ((1 + period * 11932) as u64 * 1_000_000_000).div_ceil(1_193_182));
        assert!(!chipset.interrupt_pending());
        chipset.advance(due);
        assert!(chipset.interrupt_pending());
        assert_eq!(chipset.acknowledge(due), Some(0x20));
        chipset.port_write(0x20, 1, 0x20, due);
    }
}

#[test]
fn isa_edge_through_the_ioapic() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0xff, 0xff]);
    write_ioapic(&mut chipset, 4, 0x34);
    chipset.set_irq(4, true);
    assert_eq!(chipset.acknowledge(NOW), Some(0x34));
    chipset.mmio_write(0xfee0_00b0, 4, 0, NOW);
    assert!(!chipset.interrupt_pending());
    // ISA interrupt 0 is pin 2.
    write_ioapic(&mut chipset, 2, 0x30);
    for (port, value) in [(0x43, 0x30), (0x40, 0x10), (0x40, 0)] {
        chipset.port_write(port, 1, value, NOW);
    }
    let due = chipset.next_deadline().expect("a count");
    chipset.advance(due);
    assert_eq!(chipset.acknowledge(due), Some(0x30));
}

#[test]
fn ioapic_level_comes_again_until_the_device_is_quiet() {
    let mut chipset = chipset();
    write_ioapic(&mut chipset, 16, 0x8041);
    chipset.set_irq(16, true);
    assert_eq!(chipset.acknowledge(NOW), Some(0x41));
    assert!(!chipset.interrupt_pending());
    chipset.mmio_write(0xfee0_00b0, 4, 0, NOW);
    assert_eq!(chipset.acknowledge(NOW), Some(0x41));
    chipset.set_irq(16, false);
    chipset.mmio_write(0xfee0_00b0, 4, 0, NOW);
    assert!(!chipset.interrupt_pending());
}

#[test]
fn level_waits_for_a_local_apic_that_is_off() {
    let mut chipset = chipset();
    write_ioapic(&mut chipset, 16, 0x8041);
    chipset.mmio_write(0xfee0_00f0, 4, 0xff, NOW);
    chipset.set_irq(16, true);
    assert!(!chipset.interrupt_pending());
    chipset.mmio_write(0xfee0_00f0, 4, 0x1ff, NOW);
    assert_eq!(chipset.acknowledge(NOW), Some(0x41));
}

#[test]
fn hpet_takes_the_place_of_the_pit() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0xfe, 0xff]);
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        chipset.port_write(port, 1, value, NOW);
    }
    chipset.mmio_write(0xfed0_0100, 4, 0x4c, NOW);
    chipset.mmio_write(0xfed0_0108, 8, 1_000_000, NOW);
    chipset.mmio_write(0xfed0_0010, 4, 3, NOW);
    for due in [10_000_000, 20_000_000] {
        assert_eq!(chipset.next_deadline(), Some(Vtime(due)));
        chipset.advance(Vtime(due));
        assert_eq!(chipset.acknowledge(Vtime(due)), Some(0x20));
        chipset.port_write(0x20, 1, 0x20, Vtime(due));
    }
}

#[test]
fn extint_through_ioapic_pin_0() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0, 0]);
    chipset.mmio_write(0xfee0_0350, 4, 0x1_0700, NOW);
    chipset.set_irq(5, true);
    assert!(!chipset.interrupt_pending());
    write_ioapic(&mut chipset, 0, 0x700);
    assert!(chipset.interrupt_pending());
    assert_eq!(chipset.acknowledge(NOW), Some(0x25));
    assert!(!chipset.interrupt_pending());
    assert_eq!(chipset.acknowledge(NOW), None);
}

#[test]
fn task_priority_holds_off_the_local_apic_but_not_extint() {
    let mut chipset = chipset();
    chipset.deliver_msi(0xfee0_0000, 0x51, NOW);
    chipset.set_cr8(5);
    assert_eq!((chipset.cr8(), chipset.interrupt_pending()), (5, false));
    chipset.set_cr8(4);
    assert!(chipset.interrupt_pending());
    chipset.set_cr8(15);
    start_pics(&mut chipset, [0, 0]);
    chipset.set_irq(3, true);
    assert_eq!(chipset.acknowledge(NOW), Some(0x23));
}

#[test]
fn tsc_deadline_interrupts_on_its_nanosecond() {
    let mut chipset = chipset();
    assert!(chipset.set_apic_base(0xfee0_0d00).is_ok());
    assert!(chipset.x2apic_write(0x832, 0x4_00ec, NOW));
    chipset.set_tsc_deadline(4001, 1000, Vtime(500));
    assert_eq!((chipset.next_deadline(), chipset.tsc_deadline(Vtime(1500))), (Some(Vtime(1501)), 4001));
    chipset.advance(Vtime(1501));
    assert_eq!((chipset.acknowledge(Vtime(1501)), chipset.tsc_deadline(Vtime(1501))), (Some(0xec), 0));
    assert!(chipset.x2apic_write(0x80b, 0, Vtime(1501)));
    chipset.set_tsc_deadline(1, 0, Vtime(1501));
    assert!(chipset.interrupt_pending());
}

#[test]
fn nmi_by_pin_and_by_message() {
    let mut chipset = chipset();
    chipset.raise_nmi();
    assert!(chipset.nmi_pending() && chipset.take_nmi() && !chipset.take_nmi());
    chipset.deliver_msi(0xfee0_0000, 0x400, NOW);
    assert!(chipset.take_nmi());
}

#[test]
fn init_reaches_the_run_loop() {
    let mut chipset = chipset();
    chipset.mmio_write(0xfee0_0300, 4, 0x4500, NOW);
    assert!(chipset.has_effects());
    assert_eq!(chipset.take_effects(), Effects { init: true, ..Effects::default() });
    assert_eq!(chipset.mmio_read(0xfee0_00f0, 4, NOW), 0xff);
}

#[test]
fn startup_reaches_its_cpu_and_lowest_priority_the_idlest() {
    let mut chipset = Chipset::new(&ChipsetConfig { cpu_count: 2, ..ChipsetConfig::default() });
    chipset.mmio_write(0xfee0_0310, 4, 0x0100_0000, NOW);
    chipset.mmio_write(0xfee0_0300, 4, 0x4609, NOW);
    chipset.select_cpu(1);
    assert_eq!(chipset.take_startup(), Some(9));
    chipset.mmio_write(0xfee0_00f0, 4, 0x1ff, NOW);
    chipset.mmio_write(0xfee0_00d0, 4, 0x0200_0000, NOW);
    chipset.select_cpu(0);
    chipset.mmio_write(0xfee0_00d0, 4, 0x0100_0000, NOW);
    chipset.set_cr8(8);
    chipset.deliver_msi(0xfee0_3004, 0x0160, NOW);
    assert!(!chipset.interrupt_pending());
    chipset.select_cpu(1);
    assert_eq!(chipset.acknowledge(NOW), Some(0x60));
}

#[test]
fn state_survives_serialisation() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0, 0]);
    chipset.set_irq(9, true);
    let saved = serde_json::to_string(&chipset).expect("plain data");
    let mut restored: Chipset = serde_json::from_str(&saved).expect("what was saved");
    assert_eq!(restored.acknowledge(NOW), Some(0x29));
    assert_eq!(saved, serde_json::to_string(&chipset).expect("plain data"));
}

#[test]
fn uart_interrupts_and_prints() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0xef, 0xff]);
    chipset.port_write(0x3f8, 1, u32::from(b'A'), NOW);
    assert_eq!(chipset.take_effects().uart_output, 1);
    assert_eq!(chipset.take_uart_output(0), b"A");
    // OUT2 on, received-data interrupt on.
    chipset.port_write(0x3fc, 1, 0x0b, NOW);
    chipset.port_write(0x3f9, 1, 1, NOW);
    assert!(!chipset.interrupt_pending());
    assert_eq!(chipset.uart_receive(0, b"x", NOW), 1);
    assert_eq!(chipset.acknowledge(NOW), Some(0x24));
    assert_eq!(chipset.port_read(0x3f8, 1, NOW), u32::from(b'x'));
    assert_eq!((chipset.uart_room(1), chipset.uart_receive(1, b"x", NOW)), (0, 0), "there is one UART");
}

#[test]
fn power_off_reset_and_exit_are_effects() {
    let config = ChipsetConfig { debug_exit_port: Some(0xf4), ..ChipsetConfig::default() };
    let mut chipset = Chipset::new(&config);
    for (port, size, value, effects) in [
        (0x604, 2, 0x3400, Effects { power_off: true, ..Effects::default() }),
        (0xcf9, 1, 0x06, Effects { reset: true, ..Effects::default() }),
        (0xf4, 4, 0x10, Effects { debug_exit: Some(0x10), ..Effects::default() }),
        (0x505, 1, 0x02, Effects::default()),
        (0x505, 1, 0x01, Effects { panicked: true, ..Effects::default() }),
        (0x92, 1, 0x03, Effects { reset: true, ..Effects::default() }),
        (0x64, 1, 0xfe, Effects { reset: true, ..Effects::default() }),
        (0x92, 1, 0x00, Effects::default()),
        (0x64, 1, 0xdd, Effects { a20_changed: true, ..Effects::default() }),
    ] {
        assert!(!chipset.has_effects());
        chipset.port_write(port, size, value, NOW);
        assert_eq!(chipset.take_effects(), effects, "port {port:#x}");
    }
    assert!(!chipset.a20() && chipset.panicked());
    chipset.reset(NOW);
    assert!(chipset.a20() && !chipset.panicked());
}

#[test]
fn power_button_is_an_sci() {
    let mut chipset = chipset();
    write_ioapic(&mut chipset, 9, 0x8029);
    chipset.port_write(0x602, 2, 0x100, NOW);
    chipset.press_power_button(NOW);
    assert_eq!(chipset.acknowledge(NOW), Some(0x29));
}

#[test]
fn port_0x70_holds_nmis_off() {
    let mut chipset = chipset();
    chipset.port_write(0x70, 1, 0x8f, NOW);
    chipset.raise_nmi();
    assert!(!chipset.nmi_pending());
    chipset.port_write(0x70, 1, 0x0f, NOW);
    assert!(chipset.take_nmi());
}

#[test]
fn rtc_update_interrupt_on_irq_8() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0xfb, 0xfe]);
    chipset.port_write(0x70, 1, 0x0b, NOW);
    chipset.port_write(0x71, 1, 0x12, NOW);
    let due = chipset.next_deadline().expect("once a second");
    assert!(due.0 <= 1_000_000_000);
    chipset.advance(due);
    assert_eq!(chipset.acknowledge(due), Some(0x28));
}

#[test]
fn reset_forgets_interrupts_and_keeps_time() {
    let mut chipset = chipset();
    let now = Vtime(5_000_000_000);
    start_pics(&mut chipset, [0, 0]);
    chipset.set_irq(5, true);
    chipset.mmio_write(0xfed0_0010, 4, 1, now);
    assert!(chipset.interrupt_pending());
    chipset.reset(now);
    assert!(!chipset.interrupt_pending());
    assert_eq!(chipset.mmio_read(0xfed0_00f0, 8, now), 0);
    chipset.port_write(0x70, 1, 0, now);
    assert_eq!(chipset.port_read(0x71, 1, now), 5);
}

#[test]
fn pci_and_reset_share_their_ports() {
    let mut chipset = chipset();
    chipset.port_write(0xcf8, 4, 0x8000_0000, NOW);
    assert_eq!(chipset.port_read(0xcf8, 4, NOW), 0x8000_0000);
    let vendor = chipset.port_read(0xcfc, 2, NOW);
    assert_eq!(vendor, 0x8086);
    assert_eq!(chipset.mmio_read(0xe000_0000, 2, NOW), u64::from(vendor));
    assert_eq!(chipset.port_read(0xcf9, 1, NOW), 0);
    assert!(!chipset.has_effects());
}

#[test]
fn fw_cfg_answers_with_its_signature() {
    let mut chipset = chipset();
    chipset.port_write(0x510, 2, 0, NOW);
    let bytes: Vec<u8> = (0..4).map(|_| chipset.port_read(0x511, 1, NOW) as u8).collect();
    assert_eq!(bytes, b"QEMU");
}

#[test]
fn each_scan_code_is_an_interrupt() {
    let mut chipset = chipset();
    start_pics(&mut chipset, [0xfd, 0xff]);
    chipset.port_write(0x64, 1, 0x60, NOW);
    chipset.port_write(0x60, 1, 0x41, NOW);
    let mut now = Vtime(1_000_000);
    for down in [true, false] {
        chipset.input(&replay::event::Input::Key { scancode: 0x1e, down }, now);
    }
    for code in [0x1e, 0x9e] {
        while !chipset.interrupt_pending() {
            now = chipset.next_deadline().expect("a byte on its way");
            chipset.advance(now);
        }
        assert_eq!(chipset.acknowledge(now), Some(0x21));
        assert_eq!(chipset.port_read(0x64, 1, now) & 1, 1);
        // A slow handler: the next byte waits in the keyboard.
        now.0 += 50_000_000;
        assert_eq!(chipset.port_read(0x60, 1, now), code);
        chipset.port_write(0x20, 1, 0x20, now);
    }
}
