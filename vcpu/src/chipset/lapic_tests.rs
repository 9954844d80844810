//! Expected values from SDM 3A chapter 11.

use super::*;
use crate::chipset::interrupts::{DeliveryMode, Destination};

const NOW: Vtime = Vtime(0);

fn enabled() -> Lapic {
    let mut lapic = Lapic::new(0);
    write(&mut lapic, 0xf0, 0x1ff);
    lapic
}

fn write(lapic: &mut Lapic, offset: u64, value: u32) {
    lapic.write(offset, 4, u64::from(value), NOW);
}

fn read(lapic: &mut Lapic, offset: u64) -> u32 {
    lapic.read(offset, 4, NOW) as u32
}

fn fixed(vector: u8, level: bool) -> Message {
    Message { destination: Destination::All, mode: DeliveryMode::Fixed, vector, level }
}

#[test]
fn reset_values() {
    let mut lapic = Lapic::new(0);
    let expected = [
        (0x20, 0),
        (0x30, 0x0105_0014),
        (0xd0, 0),
        (0xe0, u32::MAX),
        (0xf0, 0xff),
        (0x320, 0x10000),
        (0x370, 0x10000),
    ];
    for (offset, value) in expected {
        assert_eq!(read(&mut lapic, offset), value, "register {offset:#x}");
    }
    assert_eq!(lapic.base(), 0xfee0_0900);
    write(&mut lapic, 0x350, 0x700);
    assert_eq!(read(&mut lapic, 0x350), 0x1_0700, "masked while disabled by software");
    assert!(!lapic.accept(&fixed(0x40, false)));
}

#[test]
fn priority_classes_hold_off_lower_vectors() {
    let mut lapic = enabled();
    assert!(lapic.accept(&fixed(0x31, false)) && lapic.accept(&fixed(0x52, false)));
    assert_eq!(lapic.acknowledge(), Some(0x52));
    assert_eq!(read(&mut lapic, 0xa0), 0x50);
    lapic.accept(&fixed(0x5f, false));
    assert_eq!(lapic.pending_vector(), None, "same class");
    lapic.accept(&fixed(0x60, false));
    assert_eq!(lapic.acknowledge(), Some(0x60));
    assert_eq!(read(&mut lapic, 0x130), 1, "ISR 0x60");
    write(&mut lapic, 0xb0, 0);
    write(&mut lapic, 0xb0, 0);
    assert_eq!(lapic.acknowledge(), Some(0x5f));
    write(&mut lapic, 0xb0, 0);
    write(&mut lapic, 0x80, 0x31);
    assert_eq!((lapic.pending_vector(), read(&mut lapic, 0xa0)), (None, 0x31));
    write(&mut lapic, 0x80, 0x2f);
    assert_eq!(lapic.pending_vector(), Some(0x31));
}

#[test]
fn eoi_of_a_level_is_broadcast_unless_suppressed() {
    let mut lapic = enabled();
    for (svr, level, expected) in
        [(0x1ff, true, Some(Output::EndOfInterrupt(0x41))), (0x1ff, false, None), (0x11ff, true, None)]
    {
        write(&mut lapic, 0xf0, svr);
        lapic.accept(&fixed(0x41, level));
        assert_eq!(read(&mut lapic, 0x1a0), u32::from(level) << 1, "TMR");
        lapic.acknowledge();
        write(&mut lapic, 0xb0, 0);
        assert_eq!(lapic.take_output(), expected);
    }
}

#[test]
fn timer_interrupts_through_its_lvt_entry() {
    let mut lapic = enabled();
    write(&mut lapic, 0x3e0, 0b1011);
    write(&mut lapic, 0x320, 0x2_00ef);
    write(&mut lapic, 0x380, 50_000);
    assert_eq!(lapic.deadline(), Some(Vtime(50_000)));
    lapic.advance(Vtime(50_000));
    assert_eq!(lapic.acknowledge(), Some(0xef));
    assert_eq!(lapic.deadline(), Some(Vtime(100_000)));
    assert_eq!(lapic.read(0x390, 4, Vtime(60_000)), 40_000);
    lapic.write(0x320, 4, 0x3_00ef, Vtime(60_000));
    assert_eq!(lapic.deadline(), None, "masked");
    lapic.write(0x320, 4, 0x2_00ef, Vtime(160_000));
    assert_eq!(lapic.read(0x230, 4, Vtime(160_000)), 0, "expiry while masked is lost");
    assert_eq!(lapic.deadline(), Some(Vtime(200_000)));
}

#[test]
fn icr_commands() {
    let mut lapic = enabled();
    write(&mut lapic, 0x310, 0x0300_0000);
    write(&mut lapic, 0x300, 0x4041);
    let sent =
        |destination, mode, vector| Some(Output::Send(Message { destination, mode, vector, level: false }));
    assert_eq!(lapic.take_output(), sent(Destination::Physical(3), DeliveryMode::Fixed, 0x41));
    for (low, destination, mode, vector) in [
        (0x4_40fb, Destination::Cpu(0), DeliveryMode::Fixed, 0xfb),
        (0x8_40fc, Destination::All, DeliveryMode::Fixed, 0xfc),
        (0xc_4400, Destination::AllExcept(0), DeliveryMode::Nmi, 0),
        (0x0_4841, Destination::Logical(3), DeliveryMode::Fixed, 0x41),
        (0x0_4500, Destination::Physical(3), DeliveryMode::Init, 0),
        (0x0_4609, Destination::Physical(3), DeliveryMode::StartUp, 9),
    ] {
        write(&mut lapic, 0x300, low);
        assert_eq!(lapic.take_output(), sent(destination, mode, vector), "ICR {low:#x}");
    }
    write(&mut lapic, 0x300, 0x8500);
    assert_eq!(lapic.take_output(), None, "INIT level de-assert");
    write(&mut lapic, 0x300, 0x4000);
    assert_eq!(lapic.take_output(), None, "vector 0");
    write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), error::SEND_ILLEGAL_VECTOR);
}

#[test]
fn errors_interrupt_once_until_they_are_read() {
    let mut lapic = enabled();
    write(&mut lapic, 0x370, 0xfe);
    assert_eq!(read(&mut lapic, 0x3f0), 0);
    assert_eq!(lapic.acknowledge(), Some(0xfe));
    assert_eq!(read(&mut lapic, 0x280), 0, "nothing before the write");
    write(&mut lapic, 0x280, 0);
    assert_eq!(read(&mut lapic, 0x280), error::ILLEGAL_REGISTER);
    lapic.accept(&fixed(3, false));
    write(&mut lapic, 0x370, 0x02);
    lapic.accept(&fixed(4, false));
    assert_eq!(lapic.pending_vector(), None);
}

#[test]
fn destinations() {
    let mut lapic = enabled();
    write(&mut lapic, 0x20, 0x0500_0000);
    assert!(lapic.matches(Destination::Physical(5)) && !lapic.matches(Destination::Physical(0)));
    write(&mut lapic, 0xd0, 0x2400_0000);
    assert!(lapic.matches(Destination::Logical(0x04)) && !lapic.matches(Destination::Logical(0x18)));
    write(&mut lapic, 0xe0, 0x0fff_ffff);
    assert!(lapic.matches(Destination::Logical(0x2c)) && !lapic.matches(Destination::Logical(0x14)));
    assert!(!lapic.matches(Destination::Logical(0x22)));
    assert!(lapic.matches(Destination::All) && !lapic.matches(Destination::AllExcept(0)));
}

#[test]
fn lint0_and_nmi_pins() {
    let mut lapic = Lapic::new(0);
    assert!(!lapic.passes_extint());
    lapic.set_virtual_wire();
    assert!(lapic.passes_extint());
    lapic.raise_nmi_pin();
    assert!(std::mem::take(&mut lapic.signals.nmi));
    write(&mut lapic, 0x360, 0x1_0400);
    lapic.raise_nmi_pin();
    assert!(!lapic.signals.nmi);
    // LINT0 as a level-triggered vector: again after each EOI while it is high.
    write(&mut lapic, 0x350, 0x8030);
    lapic.set_lint0(true);
    assert_eq!(lapic.acknowledge(), Some(0x30));
    assert_eq!(read(&mut lapic, 0x350), 0xc030);
    assert_eq!(lapic.pending_vector(), None);
    write(&mut lapic, 0xb0, 0);
    assert_eq!(lapic.acknowledge(), Some(0x30));
    lapic.set_lint0(false);
    write(&mut lapic, 0xb0, 0);
    assert_eq!((lapic.pending_vector(), read(&mut lapic, 0x350)), (None, 0x8030));
}

#[test]
fn mode_changes_of_the_base_msr() {
    const XAPIC: u64 = 0xfee0_0900;
    let mut lapic = enabled();
    let reserved = lapic.set_base(XAPIC | 1);
    assert!(reserved.is_err());
    assert!(lapic.set_base(0xfee0_0100 | BASE_X2APIC).is_err(), "x2APIC without enable");
    assert!(lapic.set_base(XAPIC | BASE_X2APIC).is_ok());
    assert!(lapic.is_x2apic() && !lapic.is_xapic());
    assert!(lapic.set_base(XAPIC).is_err(), "x2APIC to xAPIC");
    assert!(lapic.set_base(0xfee0_0100).is_ok());
    assert!(lapic.set_base(XAPIC | BASE_X2APIC).is_err(), "off to x2APIC");
    assert!(lapic.passes_extint(), "INTR pin while off");
    assert!(lapic.set_base(XAPIC).is_ok());
    assert_eq!(read(&mut lapic, 0xf0), 0xff, "switching off resets");
    assert!(lapic.set_base(0xfeb0_0900).is_ok());
}

#[test]
fn x2apic_registers() {
    let mut lapic = Lapic::new(0x23);
    assert_eq!(lapic.x2apic_read(0x802, NOW), None, "not in x2APIC mode");
    assert!(lapic.set_base(0xfee0_0c00).is_ok());
    assert_eq!(lapic.x2apic_read(0x802, NOW), Some(0x23));
    assert_eq!(lapic.x2apic_read(0x80d, NOW), Some(0x0002_0008));
    assert!(lapic.matches(Destination::Logical(0x0002_0008)) && !lapic.matches(Destination::Logical(8)));
    for (msr, value) in
        [(0x802, 0), (0x80b, 1), (0x80e, 0), (0x80f, 1 << 9), (0x828, 1), (0x831, 0), (0x82f, 0), (0x839, 0)]
    {
        assert!(!lapic.x2apic_write(msr, value, NOW), "MSR {msr:#x}");
    }
    for msr in [0x80b, 0x80e, 0x831, 0x83f, 0x840, 0x800, 0x7ff] {
        assert_eq!(lapic.x2apic_read(msr, NOW), None, "MSR {msr:#x}");
    }
    assert!(lapic.x2apic_write(0x80f, 0x1ff, NOW));
    assert!(lapic.x2apic_write(0x830, 0x0000_0007_0000_00f0, NOW));
    let message =
        |destination, vector| Message { destination, mode: DeliveryMode::Fixed, vector, level: false };
    assert_eq!(lapic.take_output(), Some(Output::Send(message(Destination::Physical(7), 0xf0))));
    assert!(lapic.x2apic_write(0x83f, 0xf1, NOW));
    assert_eq!(lapic.take_output(), Some(Output::Send(message(Destination::Cpu(0x23), 0xf1))));
    assert_eq!(lapic.x2apic_read(0x830, NOW), Some(0x0000_0007_0000_00f0));
    assert!(lapic.x2apic_write(0x80b, 0, NOW));
}
