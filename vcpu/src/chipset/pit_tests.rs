//! Expected values from the 8254 data sheet (Intel 231164).

use super::*;

/// First nanosecond of a tick.
fn at(tick: u64) -> Vtime {
    time_of_tick(tick, PIT_HZ).expect("in range")
}

fn program(pit: &mut Pit, control: u8, count: u16, tick: u64) {
    let counter = u64::from(control >> 6);
    pit.write(3, control, at(tick));
    for byte in count.to_le_bytes() {
        pit.write(counter, byte, at(tick));
    }
    pit.take_edge();
}

fn latched(pit: &mut Pit, counter: u8, tick: u64) -> u16 {
    pit.write(3, counter << 6, at(tick));
    let low = pit.read(u64::from(counter), at(tick + 100));
    u16::from_le_bytes([low, pit.read(u64::from(counter), at(tick + 100))])
}

#[test]
fn mode_0_rises_n_plus_one_clocks_after_the_write() {
    let mut pit = Pit::default();
    program(&mut pit, 0x30, 1000, 50);
    assert!(!pit.line());
    assert_eq!(pit.deadline(), Some(at(1051)));
    pit.advance(Vtime(at(1051).0 - 1));
    assert!(!pit.line());
    pit.advance(at(1051));
    assert!(pit.line() && pit.take_edge());
    assert_eq!(pit.deadline(), None);
    assert_eq!(latched(&mut pit, 0, 1052), 0xffff, "counts on past zero");
}

#[test]
fn mode_2_is_low_for_the_last_clock_of_each_period() {
    let mut pit = Pit::default();
    program(&mut pit, 0x34, 11932, 0);
    assert!(pit.line());
    for (tick, count) in [(1, 11932), (2, 11931), (11932, 1), (11933, 11932)] {
        assert_eq!(latched(&mut pit, 0, tick), count, "tick {tick}");
    }
    assert!(!pit.counters[0].out(11932 + 11932));
    let mut pit = Pit::default();
    program(&mut pit, 0x34, 11932, 0);
    for period in 1..4 {
        let due = pit.deadline().expect("periodic");
        assert_eq!(due, at(1 + period * 11932));
        pit.advance(due);
        assert!(pit.line() && pit.take_edge() && !pit.take_edge());
    }
    // Missed periods are one edge.
    pit.advance(at(10_000_000));
    assert!(pit.take_edge() && !pit.take_edge());
    assert!(pit.deadline().expect("periodic") > at(10_000_000));
}

#[test]
fn mode_3_counts_by_two_and_splits_odd_periods() {
    let mut pit = Pit::default();
    program(&mut pit, 0x36, 5, 0);
    // High for (N + 1) / 2 clocks, low for (N - 1) / 2; from N - 1 by two.
    let expected = [(true, 4), (true, 2), (true, 0), (false, 4), (false, 2), (true, 4)];
    for (i, (out, count)) in expected.into_iter().enumerate() {
        let tick = 1 + i as u64;
        assert_eq!(pit.counters[0].out(tick), out, "tick {tick}");
        let mut copy = pit.clone();
        assert_eq!(latched(&mut copy, 0, tick), count, "tick {tick}");
    }
    assert_eq!(pit.deadline(), Some(at(6)));
}

#[test]
fn a_new_count_waits_for_the_end_of_the_cycle() {
    let mut pit = Pit::default();
    program(&mut pit, 0x34, 100, 0);
    for byte in [50, 0] {
        pit.write(0, byte, at(30));
    }
    assert_eq!(pit.deadline(), Some(at(101)));
    pit.advance(at(101));
    assert!(pit.take_edge());
    assert_eq!(pit.deadline(), Some(at(151)));
    // In mode 3 it is the end of the half-cycle.
    let mut pit = Pit::default();
    program(&mut pit, 0x36, 100, 0);
    for byte in [40, 0] {
        pit.write(0, byte, at(30));
    }
    assert_eq!(pit.deadline(), Some(at(1 + 50 + 20)));
    pit.advance(at(71));
    assert_eq!(pit.deadline(), Some(at(71 + 40)));
}

#[test]
fn gate_of_counter_2_through_port_0x61() {
    let mut pit = Pit::default();
    pit.write_control_b(0, at(0));
    program(&mut pit, 0xb0, 1000, 0);
    assert_eq!(pit.read_control_b(at(5000)) & 0x21, 0);
    // With the count loaded, OUT rises N clocks after GATE.
    pit.write_control_b(1, at(5000));
    assert_eq!(pit.read_control_b(at(5999)) & 0x21, 0x01);
    assert_eq!(pit.read_control_b(at(6000)) & 0x21, 0x21);
}

#[test]
fn gate_pauses_mode_0_and_restarts_mode_2() {
    let mut pit = Pit::default();
    pit.write_control_b(1, at(0));
    program(&mut pit, 0xb0, 1000, 0);
    pit.write_control_b(0, at(401));
    assert_eq!(latched(&mut pit, 2, 900), 600);
    pit.write_control_b(1, at(2000));
    assert_eq!(latched(&mut pit, 2, 2100), 500);
    program(&mut pit, 0xb4, 1000, 3000);
    pit.write_control_b(0, at(3500));
    pit.write_control_b(1, at(4000));
    assert_eq!(latched(&mut pit, 2, 4001), 1000);
}

#[test]
fn hardware_triggered_modes_start_at_the_gate() {
    let mut pit = Pit::default();
    program(&mut pit, 0xb2, 100, 0);
    assert_eq!(pit.read_control_b(at(50)) & 0x20, 0x20);
    pit.write_control_b(1, at(60));
    assert_eq!(pit.read_control_b(at(61)) & 0x20, 0);
    assert_eq!(pit.read_control_b(at(160)) & 0x20, 0);
    assert_eq!(pit.read_control_b(at(161)) & 0x20, 0x20);
    // Mode 5: one clock low after N clocks.
    pit.write_control_b(0, at(200));
    program(&mut pit, 0xba, 10, 200);
    pit.write_control_b(1, at(300));
    let low: Vec<u64> = (301..320).filter(|&t| pit.read_control_b(at(t)) & 0x20 == 0).collect();
    assert_eq!(low, [311]);
}

#[test]
fn mode_4_strobes_once() {
    let mut pit = Pit::default();
    program(&mut pit, 0x38, 10, 0);
    assert!(pit.line());
    assert_eq!(pit.deadline(), Some(at(12)), "the strobe ends one clock after the count");
    assert!(!pit.counters[0].out(11) && pit.counters[0].out(12));
    pit.advance(at(12));
    assert!(pit.take_edge());
    assert_eq!(pit.deadline(), None);
}

#[test]
fn read_back_latches_status_then_count() {
    let mut pit = Pit::default();
    program(&mut pit, 0x34, 1000, 0);
    pit.write(3, 0xc2, at(101));
    assert_eq!(pit.read(0, at(150)), 0b1011_0100);
    let low = pit.read(0, at(150));
    assert_eq!(u16::from_le_bytes([low, pit.read(0, at(150))]), 900);
    // Null count is set until the count is in the counting element.
    pit.write(3, 0x34, at(200));
    pit.write(3, 0xe2, at(200));
    assert_eq!(pit.read(0, at(200)), 0b1111_0100);
}

#[test]
fn bcd_counts_decimal() {
    let mut pit = Pit::default();
    program(&mut pit, 0x31, 0x1000, 0);
    assert_eq!(latched(&mut pit, 0, 2), 0x0999);
    assert_eq!(pit.deadline(), Some(at(1001)));
    program(&mut pit, 0x35, 0, 2000);
    assert_eq!(pit.deadline(), Some(at(2001 + 10_000)));
}

#[test]
fn one_byte_accesses() {
    let mut pit = Pit::default();
    pit.write(3, 0x10, at(0));
    pit.write(0, 200, at(0));
    assert_eq!(pit.deadline(), Some(at(201)));
    assert_eq!(pit.read(0, at(101)), 100);
    assert_eq!(pit.read(0, at(102)), 99);
    pit.write(3, 0x20, at(300));
    pit.write(0, 2, at(300));
    assert_eq!(pit.deadline(), Some(at(301 + 512)));
}

#[test]
fn refresh_bit_toggles_every_fifteen_microseconds() {
    let mut pit = Pit::default();
    let toggles = (0..1000u64).filter(|&us| {
        let before = pit.read_control_b(Vtime(us * 1000)) & 0x10;
        pit.read_control_b(Vtime(us * 1000 + 1000)) & 0x10 != before
    });
    assert_eq!(toggles.count(), 66);
}
