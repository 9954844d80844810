//! Expected values from the IA-PC HPET Specification 1.0a.

use super::*;

const ON: u64 = 1;

fn timer(n: u64) -> u64 {
    0x100 + 0x20 * n
}

#[test]
fn capabilities() {
    let mut hpet = Hpet::default();
    assert_eq!(hpet.read(0, 8, Vtime(0)), 0x0098_9680_8086_a201);
    assert_eq!(hpet.read(4, 4, Vtime(0)), 10_000_000);
    assert_eq!(hpet.read(timer(0), 8, Vtime(0)), 0x00f0_0000_0000_0030);
}

#[test]
fn counter_runs_only_while_enabled() {
    let mut hpet = Hpet::default();
    hpet.write(0xf0, 8, 1000, Vtime(500));
    hpet.write(0x10, 4, ON, Vtime(1000));
    assert_eq!(hpet.read(0xf0, 8, Vtime(1009)), 1000);
    assert_eq!(hpet.read(0xf0, 8, Vtime(1010)), 1001);
    hpet.write(0xf0, 8, 0, Vtime(1010));
    hpet.write(0x10, 4, 0, Vtime(2000));
    assert_eq!(hpet.read(0xf0, 4, Vtime(9000)), 1100);
    hpet.write(0xf4, 4, 1, Vtime(9000));
    assert_eq!(hpet.read(0xf0, 8, Vtime(9000)), 1 << 32 | 1100);
}

#[test]
fn one_shot_matches_once() {
    let mut hpet = Hpet::default();
    hpet.write(timer(2), 4, TIMER_INTERRUPT | 20 << 9, Vtime(0));
    hpet.write(timer(2) + 8, 8, 500, Vtime(0));
    assert_eq!(hpet.deadline(), None);
    hpet.write(0x10, 4, ON, Vtime(100));
    assert_eq!(hpet.deadline(), Some(Vtime(5100)));
    hpet.advance(Vtime(5099));
    assert_eq!(hpet.take_edges(), 0);
    hpet.advance(Vtime(5100));
    assert_eq!((hpet.take_edges(), hpet.lines()), (1 << 20, 0));
    assert!(hpet.deadline().is_none_or(|next| next.0 > 1 << 60));
}

#[test]
fn a_32_bit_one_shot_matches_at_each_wrap() {
    let mut hpet = Hpet::default();
    hpet.write(timer(0), 4, TIMER_INTERRUPT | TIMER_32BIT | 21 << 9, Vtime(0));
    hpet.write(timer(0) + 8, 4, 100, Vtime(0));
    hpet.write(0x10, 4, ON, Vtime(0));
    hpet.advance(Vtime(1000));
    assert_eq!(hpet.deadline(), Some(Vtime((100 + (1 << 32)) * 10)));
}

#[test]
fn periodic_needs_the_value_set_bit_for_its_first_match() {
    let mut hpet = Hpet::default();
    let config = TIMER_INTERRUPT | TIMER_PERIODIC | TIMER_SET_VALUE;
    hpet.write(0x10, 4, ON | LEGACY, Vtime(0));
    hpet.write(timer(0), 4, config, Vtime(0));
    hpet.write(timer(0) + 8, 8, 10_000, Vtime(0));
    hpet.write(timer(0) + 8, 8, 4_000, Vtime(0));
    assert_eq!(hpet.read(timer(0) + 8, 8, Vtime(0)), 10_000);
    for due in [100_000, 140_000, 180_000] {
        assert_eq!(hpet.deadline(), Some(Vtime(due)));
        hpet.advance(Vtime(due));
        assert_eq!(hpet.take_edges(), 1 << 0, "legacy: IRQ 0");
        assert_eq!(hpet.lines(), 1 << 0);
    }
    // Missed periods are one interrupt; the comparator keeps its phase.
    hpet.advance(Vtime(1_000_001));
    assert_eq!(hpet.take_edges(), 1);
    assert_eq!(hpet.read(timer(0) + 8, 8, Vtime(1_000_001)), 102_000);
}

#[test]
fn level_sets_status_until_it_is_cleared() {
    let mut hpet = Hpet::default();
    hpet.write(timer(1), 4, TIMER_INTERRUPT | TIMER_LEVEL | 22 << 9, Vtime(0));
    hpet.write(timer(1) + 8, 8, 10, Vtime(0));
    hpet.write(0x10, 4, ON, Vtime(0));
    hpet.advance(Vtime(100));
    assert_eq!((hpet.lines(), hpet.take_edges()), (1 << 22, 0));
    assert_eq!(hpet.read(0x20, 4, Vtime(100)), 2);
    hpet.write(0x20, 4, 2, Vtime(100));
    assert_eq!((hpet.lines(), hpet.read(0x20, 4, Vtime(100))), (0, 0));
}

#[test]
fn shortest_period_is_bounded() {
    let mut hpet = Hpet::default();
    hpet.write(0x10, 4, ON, Vtime(0));
    hpet.write(timer(0), 4, TIMER_INTERRUPT | TIMER_PERIODIC | TIMER_SET_VALUE | 20 << 9, Vtime(0));
    hpet.write(timer(0) + 8, 8, 1, Vtime(0));
    hpet.advance(Vtime(10));
    assert_eq!(hpet.deadline(), Some(Vtime(1010)));
    hpet.advance(Vtime(1 << 50));
    assert_eq!(hpet.deadline(), Some(Vtime((1 << 50) + 1000)));
}
