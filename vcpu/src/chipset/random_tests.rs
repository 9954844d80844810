//! Random guests: whatever they write, nothing panics, time never stands still, and state is plain data.

use super::*;
use config::FunctionConfig;
use proptest::prelude::*;
use replay::device::PciAddress;
use replay::event::Input;

/// One step of a random guest.
#[derive(Clone, Debug)]
enum Step {
    Port {
        port: u16,
        size: u8,
        value: Option<u32>,
    },
    Memory {
        address: u64,
        size: u8,
        value: Option<u64>,
    },
    Msr {
        msr: u32,
        value: Option<u64>,
    },
    ApicBase {
        bits: u64,
    },
    TscDeadline {
        ahead: u64,
    },
    Line {
        gsi: u8,
        level: bool,
    },
    Msi {
        address: u64,
        data: u32,
    },
    Cr8 {
        value: u8,
    },
    Interrupt,
    Receive {
        uart: u8,
        bytes: Vec<u8>,
    },
    Input(Input),
    Wait {
        ns: u64,
    },
    ToDeadline,
    Reset,
    /// A driver that does what it should, up to DRIVER_OK.
    StartVirtio {
        function: usize,
        features: u64,
    },
    QueueInterrupt {
        function: usize,
        queue: u16,
    },
    ConfigChanged {
        function: usize,
        config: Vec<u8>,
    },
    NeedsReset {
        function: usize,
    },
    VirtioWork,
}

/// Two functions, with MSI-X and without; where firmware puts their structures.
const STRUCTURES: [u64; 2] = [0xc000_4000, 0xc000_8000];

fn functions() -> Vec<FunctionConfig> {
    let function = |device, vectors| FunctionConfig {
        address: PciAddress { device, function: 0 },
        device_type: 1,
        queue_size_max: 256,
        vectors,
    };
    vec![function(3, 3), function(4, 0)]
}

fn with_functions(config: ChipsetConfig) -> Chipset {
    let mut chipset = Chipset::new(&ChipsetConfig { functions: functions(), ..config });
    for function in 0..2 {
        chipset.virtio_offer(function, 1 << 32 | 1 << 40 | 3, vec![0xa5; 12], 3);
    }
    chipset
}

/// Ports and addresses with something behind them, and a few without.
fn port() -> impl Strategy<Value = u16> {
    let first = prop::sample::select(vec![
        0x20u16, 0x40, 0x43, 0x60, 0x64, 0x70, 0x92, 0xa0, 0xf4, 0x2f8, 0x3f8, 0x4d0, 0x505, 0x510, 0x600,
        0x608, 0x620, 0xcf8, 0xcfc, 0xcfc, 0xfffe,
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
        0xe001_8000,
        0xe002_0000,
        0xc000_0000,
        STRUCTURES[0],
        STRUCTURES[0] + 0x1000,
        STRUCTURES[0] + 0x2000,
        STRUCTURES[0] + 0x3000,
        STRUCTURES[1],
        STRUCTURES[1] + 0x1000,
        STRUCTURES[1] + 0x3000,
        0x10_0000_0000,
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
        4 => (0usize..2, prop_oneof![Just(1 << 32), Just(1 << 32 | 1 << 40), any::<u64>()])
            .prop_map(|(function, features)| Step::StartVirtio { function, features }),
        4 => (0usize..2, 0u16..4).prop_map(|(function, queue)| Step::QueueInterrupt { function, queue }),
        1 => (0usize..2, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(function, config)| Step::ConfigChanged { function, config }),
        1 => (0usize..2).prop_map(|function| Step::NeedsReset { function }),
        2 => Just(Step::VirtioWork),
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
        Step::StartVirtio { function, features } => {
            // Status, features in two halves, queue 1 with vector 0.
            let writes = [
                (0x14, 1, 0),
                (0x14, 1, 3),
                (8, 4, 0),
                (12, 4, features),
                (8, 4, 1),
                (12, 4, features >> 32),
                (0x14, 1, 11),
                (0x16, 2, 1),
                (0x1a, 2, 0),
                (0x1c, 2, 1),
                (0x14, 1, 15),
            ];
            for (offset, size, value) in writes {
                chipset.mmio_write(STRUCTURES[function] + offset, size, value, *now);
            }
        }
        Step::QueueInterrupt { function, queue } => chipset.virtio_queue_interrupt(function, queue, *now),
        Step::ConfigChanged { function, ref config } => {
            chipset.virtio_config_changed(function, config.clone(), *now)
        }
        Step::NeedsReset { function } => chipset.virtio_needs_reset(function, *now),
        Step::VirtioWork => check_work(chipset),
    }
    chipset.take_effects();
    for uart in 0..2 {
        chipset.take_uart_output(uart);
    }
    chipset.take_debug_output();
}

/// What back-ends may count on.
fn check_work(chipset: &mut Chipset) {
    for work in chipset.take_virtio_work() {
        let registers = chipset.virtio(work.function);
        assert_ne!((work.reset, work.driver_ok, work.queue_resets, work.kicks), (false, false, 0, 0));
        assert!(!work.driver_ok && work.kicks == 0 || registers.status() & 0xc == 0xc, "{work:?}");
        for queue in (0..64).filter(|queue| work.kicks & 1 << queue != 0) {
            assert!(registers.queue(queue).is_some_and(|queue| queue.enabled), "{work:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_guest_cannot_stop_time(steps in prop::collection::vec(step(), 1..200)) {
        let config = ChipsetConfig { uart_count: 2, debug_exit_port: Some(0xf4), ..ChipsetConfig::default() };
        let mut chipset = with_functions(config);
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
        let mut chipset = with_functions(ChipsetConfig { uart_count: 2, ..ChipsetConfig::default() });
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
