//! Random guests: whatever they write, nothing panics, time never stands still, and state is plain data.

use super::*;
use proptest::prelude::*;
use replay::event::Input;

/// One step of a random guest.
#[derive(Clone, Debug)]
enum Step {
    Port { port: u16, size: u8, value: Option<u32> },
    Memory { address: u64, size: u8, value: Option<u64> },
    Msr { msr: u32, value: Option<u64> },
    ApicBase { bits: u64 },
    TscDeadline { ahead: u64 },
    Line { gsi: u8, level: bool },
    Msi { address: u64, data: u32 },
    Cr8 { value: u8 },
    Interrupt,
    Receive { uart: u8, bytes: Vec<u8> },
    Input(Input),
    Wait { ns: u64 },
    ToDeadline,
    Reset,
}

/// Ports and addresses with something behind them, and a few without.
fn port() -> impl Strategy<Value = u16> {
    let first = prop::sample::select(vec![
        0x20u16, 0x40, 0x43, 0x60, 0x64, 0x70, 0x92, 0xa0, 0xf4, 0x2f8, 0x3f8, 0x4d0, 0x505, 0x510, 0x600,
        0x608, 0x620, 0xcf8, 0xcfc, 0xfffe,
    ]);
    (first, 0u16..4).prop_map(|(first, offset)| first.saturating_add(offset))
}

fn address() -> impl Strategy<Value = u64> {
    let page = prop::sample::select(vec![
        0xfee0_0000u64,
        0xfec0_0000,
        0xfed0_0000,
        0xe000_0000,
        0xe00f_8000,
        u64::MAX - 16,
    ]);
    (page, prop_oneof![0u64..0x20, (0u64..0x40).prop_map(|r| r * 0x10), 0u64..0x1010])
        .prop_map(|(p, o)| p.saturating_add(o))
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..0x100, any::<u64>(), Just(0), Just(u64::MAX), (0u32..64).prop_map(|bit| 1 << bit)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (port(), prop::sample::select(vec![1u8, 1, 1, 2, 4]), prop::option::weighted(0.8, value()))
            .prop_map(|(port, size, value)| Step::Port { port, size, value: value.map(|v| v as u32) }),
        8 => (address(), prop::sample::select(vec![1u8, 2, 4, 4, 4, 8]), prop::option::weighted(0.8, value()))
            .prop_map(|(address, size, value)| Step::Memory { address, size, value }),
        4 => (0x7f0u32..0x910, prop::option::weighted(0.8, value())).prop_map(|(msr, value)| Step::Msr { msr, value }),
        1 => (0u64..16).prop_map(|bits| Step::ApicBase { bits: bits << 8 }),
        2 => prop_oneof![0u64..100_000, any::<u64>()].prop_map(|ahead| Step::TscDeadline { ahead }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(gsi, level)| Step::Line { gsi: gsi % 26, level }),
        2 => (0xfee0_0000u64..0xfef0_0010, any::<u32>()).prop_map(|(address, data)| Step::Msi { address, data }),
        1 => (0u8..16).prop_map(|value| Step::Cr8 { value }),
        6 => Just(Step::Interrupt),
        1 => (0u8..3, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(uart, bytes)| Step::Receive { uart, bytes }),
        1 => (any::<u16>(), any::<bool>()).prop_map(|(scancode, down)| Step::Input(Input::Key { scancode, down })),
        1 => (0x01u16..0x58, any::<bool>()).prop_map(|(scancode, down)| Step::Input(Input::Key { scancode, down })),
        1 => (any::<i32>(), any::<i32>(), any::<i32>())
            .prop_map(|(dx, dy, dz)| Step::Input(Input::MouseMove { dx, dy, dz })),
        1 => any::<u8>().prop_map(|buttons| Step::Input(Input::MouseButtons { buttons })),
        3 => prop_oneof![0u64..5_000, 0u64..3_000_000_000, 0u64..1 << 55].prop_map(|ns| Step::Wait { ns }),
        6 => Just(Step::ToDeadline),
        1 => Just(Step::Reset),
    ]
}

fn take(chipset: &mut Chipset, step: &Step, now: &mut Vtime) {
    match *step {
        Step::Port { port, size, value: None } => drop(chipset.port_read(port, size, *now)),
        Step::Port { port, size, value: Some(value) } => chipset.port_write(port, size, value, *now),
        Step::Memory { address, size, value: None } => drop(chipset.mmio_read(address, size, *now)),
        Step::Memory { address, size, value: Some(value) } => chipset.mmio_write(address, size, value, *now),
        Step::Msr { msr, value: None } => drop(chipset.x2apic_read(msr, *now)),
        Step::Msr { msr, value: Some(value) } => drop(chipset.x2apic_write(msr, value, *now)),
        Step::ApicBase { bits } => drop(chipset.set_apic_base(LAPIC_BASE | bits)),
        Step::TscDeadline { ahead } => {
            let value = frequency::tsc_at(*now, 0).wrapping_add(ahead);
            chipset.set_tsc_deadline(value, 0, *now);
        }
        Step::Line { gsi, level } => chipset.set_irq(gsi, level),
        Step::Msi { address, data } => chipset.deliver_msi(address, data, *now),
        Step::Cr8 { value } => chipset.set_cr8(value),
        Step::Interrupt => {
            let pending = chipset.interrupt_pending();
            assert_eq!(chipset.acknowledge(*now).is_some(), pending);
            chipset.mmio_write(LAPIC_BASE + 0xb0, 4, 0, *now);
            chipset.take_nmi();
        }
        Step::Receive { uart, ref bytes } => drop(chipset.uart_receive(uart, bytes, *now)),
        Step::Input(ref input) => chipset.input(input, *now),
        Step::Wait { ns } => now.0 += ns,
        Step::ToDeadline => {
            if let Some(deadline) = chipset.next_deadline() {
                *now = deadline.max(*now);
                chipset.advance(*now);
            }
        }
        Step::Reset => chipset.reset(*now),
    }
    chipset.take_effects();
    for uart in 0..2 {
        chipset.take_uart_output(uart);
    }
    chipset.take_debug_output();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_guest_cannot_stop_time(steps in prop::collection::vec(step(), 1..200)) {
        let config = ChipsetConfig { uart_count: 2, debug_exit_port: Some(0xf4), ..ChipsetConfig::default() };
        let mut chipset = Chipset::new(&config);
        let mut now = Vtime(1000);
        for step in &steps {
            take(&mut chipset, step, &mut now);
            prop_assume!(now.0 < 1 << 60);
            let mut idle = chipset.clone();
            idle.advance(now);
            prop_assert!(idle.next_deadline().is_none_or(|next| next > now), "after {step:?}: {:?}", idle.next_deadline());
        }
        let saved = serde_json::to_string(&chipset).expect("plain data");
        let restored: Chipset = serde_json::from_str(&saved).expect("what was saved");
        prop_assert_eq!(saved, serde_json::to_string(&restored).expect("plain data"));
    }

    #[test]
    fn waiting_at_once_or_in_pieces_is_the_same(
        steps in prop::collection::vec(step(), 1..60),
        wait in 1u64..50_000_000,
        pieces in 1u64..6,
    ) {
        let mut chipset = Chipset::new(&ChipsetConfig { uart_count: 2, ..ChipsetConfig::default() });
        let mut now = Vtime(1000);
        for step in &steps {
            take(&mut chipset, step, &mut now);
            prop_assume!(now.0 < 1 << 60);
        }
        chipset.advance(now);
        // Between two deadlines, when the loop looks must not matter.
        let until = Vtime(now.0 + wait).min(chipset.next_deadline().map_or(Vtime(u64::MAX), |at| Vtime(at.0 - 1)));
        let mut other = chipset.clone();
        for piece in 1..=pieces {
            other.advance(Vtime(now.0 + (until.0 - now.0) / pieces * piece));
        }
        other.advance(until);
        chipset.advance(until);
        prop_assert_eq!(serde_json::to_string(&chipset).ok(), serde_json::to_string(&other).ok());
    }
}
