//! Expected values from the 8259A data sheet (Intel 231468) and the PC's usual programming.

use super::*;

/// The initialisation every PC operating system does: vectors 0x20 and 0x28.
fn initialised(icw4: u8) -> PicPair {
    let mut pics = PicPair::default();
    for (slave, base, icw3) in [(false, 0x20, 4), (true, 0x28, 2)] {
        pics.write(slave, 0, 0x11);
        for value in [base, icw3, icw4] {
            pics.write(slave, 1, value);
        }
    }
    pics
}

#[test]
fn priorities_nest_and_eoi_releases() {
    let mut pics = initialised(1);
    assert!(!pics.line());
    pics.set_irq(4, true);
    assert_eq!(pics.acknowledge(), 0x24);
    assert!(!pics.line());
    // A lower one waits, a higher one interrupts.
    pics.set_irq(6, true);
    assert!(!pics.line());
    pics.set_irq(1, true);
    assert_eq!(pics.acknowledge(), 0x21);
    pics.write(false, 0, 0x0b);
    assert_eq!(pics.read(false, 0), 1 << 4 | 1 << 1);
    pics.write(false, 0, 0x20);
    assert_eq!(pics.read(false, 0), 1 << 4);
    pics.write(false, 0, 0x64);
    assert_eq!(pics.acknowledge(), 0x26);
}

#[test]
fn slave_interrupts_through_the_cascade() {
    let mut pics = initialised(1);
    pics.set_irq(12, true);
    pics.set_irq(8, true);
    assert_eq!(pics.acknowledge(), 0x28);
    assert!(!pics.line(), "IRQ 12 is below IRQ 8 in service");
    pics.write(true, 0, 0x20);
    assert!(!pics.line(), "the master still has its cascade in service");
    pics.write(false, 0, 0x20);
    assert_eq!(pics.acknowledge(), 0x2c);
}

#[test]
fn edges_need_to_fall_and_levels_do_not() {
    let mut pics = initialised(0x03);
    pics.set_irq(5, true);
    assert_eq!(pics.acknowledge(), 0x25);
    pics.set_irq(5, true);
    assert!(!pics.line(), "auto EOI, but no new edge");
    pics.write_elcr(0, 0xff);
    assert_eq!(pics.read_elcr(0), 0xf8, "IRQ 0, 1 and 2 are edges by wiring");
    assert_eq!(pics.acknowledge(), 0x25);
    assert_eq!(pics.acknowledge(), 0x25);
    pics.set_irq(5, false);
    assert!(!pics.line());
    pics.write_elcr(1, 0xff);
    assert_eq!(pics.read_elcr(1), 0xde);
}

#[test]
fn a_request_that_goes_away_is_spurious() {
    let mut pics = initialised(1);
    pics.set_irq(3, true);
    pics.set_irq(3, false);
    assert!(!pics.line());
    assert_eq!(pics.acknowledge(), 0x27);
    pics.write(false, 0, 0x0b);
    assert_eq!(pics.read(false, 0), 0, "a spurious interrupt is not in service");
}

#[test]
fn mask_and_request_registers() {
    let mut pics = initialised(1);
    pics.write(false, 1, 0xfb);
    pics.set_irq(0, true);
    assert_eq!(pics.read(false, 1), 0xfb);
    pics.write(false, 0, 0x0a);
    assert_eq!(pics.read(false, 0), 1);
    assert!(!pics.line());
    pics.write(false, 1, 0xfa);
    assert_eq!(pics.acknowledge(), 0x20);
}

#[test]
fn rotation_makes_the_served_input_the_lowest() {
    let mut pics = initialised(1);
    for irq in [3, 4] {
        pics.set_irq(irq, true);
    }
    assert_eq!(pics.acknowledge(), 0x23);
    pics.write(false, 0, 0xa0);
    pics.set_irq(3, false);
    pics.set_irq(3, true);
    assert_eq!(pics.acknowledge(), 0x24);
    pics.write(false, 0, 0x20);
    // Set priority: input 5 lowest, so 6 is the highest and 3 comes before 4.
    pics.write(false, 0, 0xc5);
    pics.set_irq(6, true);
    assert_eq!(pics.acknowledge(), 0x26);
}

#[test]
fn special_mask_lets_lower_inputs_through() {
    let mut pics = initialised(1);
    pics.set_irq(1, true);
    assert_eq!(pics.acknowledge(), 0x21);
    pics.set_irq(6, true);
    assert!(!pics.line());
    pics.write(false, 1, 0x02);
    pics.write(false, 0, 0x68);
    assert_eq!(pics.acknowledge(), 0x26);
    // A non-specific EOI does not touch the masked input.
    pics.write(false, 0, 0x20);
    pics.write(false, 0, 0x0b);
    assert_eq!(pics.read(false, 0), 0x02);
}

#[test]
fn poll_mode_reads_acknowledge() {
    let mut pics = initialised(1);
    pics.write(false, 0, 0x0c);
    assert_eq!(pics.read(false, 0), 0);
    pics.set_irq(7, true);
    pics.write(false, 0, 0x0c);
    assert_eq!(pics.read(false, 0), 0x87);
    assert_eq!(pics.read(false, 0), 0, "IRR again");
}

#[test]
fn fully_nested_slave_interrupts_itself() {
    for (icw4, expected) in [(0x01, false), (0x11, true)] {
        let mut pics = initialised(icw4);
        pics.set_irq(10, true);
        assert_eq!(pics.acknowledge(), 0x2a);
        pics.set_irq(8, true);
        assert_eq!(pics.line(), expected);
    }
}

#[test]
fn nothing_interrupts_during_initialisation() {
    let mut pics = initialised(1);
    pics.set_irq(4, true);
    pics.write(false, 0, 0x11);
    assert!(!pics.line());
    for value in [0x40, 4, 1] {
        pics.write(false, 1, value);
    }
    assert!(!pics.line(), "ICW1 clears the edge detectors");
    pics.set_irq(4, false);
    pics.set_irq(4, true);
    assert_eq!(pics.acknowledge(), 0x44);
}

#[test]
fn everything_is_masked_before_initialisation() {
    let mut pics = PicPair::default();
    for irq in 0..16 {
        pics.set_irq(irq, true);
    }
    assert!(!pics.line());
    pics.write(false, 1, 0xfd);
    assert_eq!(pics.acknowledge(), 0x09);
}
