//! Random drivers: whatever they write to configuration space and BARs, nothing panics, what is derived stays derived,
//! and state is plain data.

use super::tests::{NOW, VERSION_1, chipset, ecam, function};
use super::*;
use crate::chipset::pci_config::command;
use proptest::prelude::*;

const PLACES: [(u64, u64); 4] = [(3, 0), (3, 1), (4, 0), (0x1f, 0)];

#[derive(Clone, Debug)]
enum Step {
    Config { place: usize, register: u64, size: u8, value: Option<u64>, by_port: bool },
    Bar { function: usize, bar: usize, offset: u64, size: u8, value: Option<u64> },
    Described { function: usize, bar: u8, offset: u32, size: u32, value: Option<u32> },
    Interrupt { function: usize, queue: u16 },
    Changed { function: usize },
    NeedsReset { function: usize },
    Start { function: usize },
    Reset,
}

fn value() -> impl Strategy<Value = u64> {
    let addresses = vec![0xc000_0000u64, 0xfee0_0000, 0xfed0_0000, 0x10_0000_0000, 0xdfff_ffff, 0xffff_c000];
    prop_oneof![
        0u64..0x20,
        any::<u64>(),
        Just(u64::MAX),
        (0u32..64).prop_map(|bit| 1 << bit),
        prop::sample::select(addresses)
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    let near = (0u64..4, 0u64..0x40).prop_map(|(region, at)| region << 12 | at);
    prop_oneof![4 => near, 1 => 0u64..0x4008]
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop::sample::select(vec![1u8, 2, 4, 4, 8]);
    let maybe = || prop::option::weighted(0.7, value());
    prop_oneof![
        8 => (0usize..4, 0u64..0x102, size(), maybe(), any::<bool>())
            .prop_map(|(place, register, size, value, by_port)| Step::Config { place, register, size, value, by_port }),
        3 => (0usize..3, Just(4u64), Just(2u8), (0u64..0x800).prop_map(Some), Just(false))
            .prop_map(|(place, register, size, value, by_port)| Step::Config { place, register, size, value, by_port }),
        12 => (0usize..3, prop::sample::select(vec![1usize, 4, 4]), offset(), size(), maybe())
            .prop_map(|(function, bar, offset, size, value)| Step::Bar { function, bar, offset, size, value }),
        6 => (0usize..3, prop::sample::select(vec![1u8, 4, 4, 0]), offset(), 0u32..6, prop::option::of(any::<u32>()))
            .prop_map(|(function, bar, offset, size, value)| {
                Step::Described { function, bar, offset: offset as u32, size, value }
            }),
        6 => (0usize..3, 0u16..4).prop_map(|(function, queue)| Step::Interrupt { function, queue }),
        1 => (0usize..3).prop_map(|function| Step::Changed { function }),
        1 => (0usize..3).prop_map(|function| Step::NeedsReset { function }),
        4 => (0usize..3).prop_map(|function| Step::Start { function }),
        1 => Just(Step::Reset),
    ]
}

fn access(chipset: &mut Chipset, address: u64, size: u8, value: Option<u64>) {
    match value {
        Some(value) => chipset.mmio_write(address, size, value, NOW),
        None => drop(chipset.mmio_read(address, size, NOW)),
    }
}

/// Where a BAR is now, if it decodes.
fn bar(chipset: &Chipset, function: usize, bar: usize) -> Option<u64> {
    let at = chipset.virtio.functions[function].at;
    chipset.pci.function(at)?.bar(bar).map(|range| range.address)
}

fn take(chipset: &mut Chipset, step: &Step) {
    match *step {
        Step::Config { place, register, size, value, by_port } => {
            let (device, one) = PLACES[place];
            if by_port {
                let address = 1 << 31 | (device << 11 | one << 8 | register & 0xfc) as u32;
                chipset.port_write(0xcf8, 4, address, NOW);
                let port = 0xcfc + (register & 3) as u16;
                match value {
                    Some(value) => chipset.port_write(port, size.min(4), value as u32, NOW),
                    None => drop(chipset.port_read(port, size.min(4), NOW)),
                }
            } else {
                access(chipset, ecam(device, one, register), size, value);
            }
        }
        Step::Bar { function, bar: number, offset, size, value } => {
            if let Some(base) = bar(chipset, function, number) {
                access(chipset, base.saturating_add(offset), size, value);
            }
        }
        Step::Described { function, bar, offset, size, value } => {
            let (device, one) = PLACES[function];
            let to = ecam(device, one, chipset.virtio.functions[function].config_access.into());
            chipset.mmio_write(to + 4, 1, bar.into(), NOW);
            chipset.mmio_write(to + 8, 8, u64::from(size) << 32 | u64::from(offset), NOW);
            access(chipset, to + 16, 4, value.map(u64::from));
        }
        Step::Interrupt { function, queue } => chipset.virtio_queue_interrupt(function, queue, NOW),
        Step::Changed { function } => chipset.virtio_config_changed(function, vec![7; 9], NOW),
        Step::NeedsReset { function } => chipset.virtio_needs_reset(function, NOW),
        Step::Start { function } => {
            let Some(base) = bar(chipset, function, 4) else { return };
            for (offset, size, value) in
                [(20, 1, 0), (8, 4, 1), (12, 4, 1), (20, 1, 11), (22, 2, 0), (28, 2, 1), (20, 1, 15)]
            {
                chipset.mmio_write(base + offset, size, value, NOW);
            }
        }
        Step::Reset => chipset.reset(NOW),
    }
}

/// What is kept of BARs, command register, and interrupt lines is what they say.
fn check(chipset: &Chipset) {
    let mut pirqs = 0;
    for (index, state) in chipset.virtio.functions.iter().enumerate() {
        let space = chipset.pci.function(state.at).expect("functions stay on the bus");
        assert_eq!(state.registers.bus_master(), space.command() & command::MASTER != 0);
        let drives = state.registers.interrupts() && !state.msix.is_enabled();
        assert_eq!(space.read(6, 2) & 8 != 0, drives);
        pirqs |= u8::from(drives && space.command() & command::INTX_DISABLE == 0) << state.pirq;
        for number in [1, 4] {
            let kept = chipset.virtio.decoded.iter().find(|bar| bar.function == index && bar.bar == number);
            let says = space.bar(number.into()).map(|range| (range.address, range.address + range.size - 1));
            assert_eq!(kept.map(|bar| (bar.first, bar.last)), says);
        }
    }
    assert_eq!(chipset.virtio.pirqs(), pirqs);
    assert!(chipset.virtio.decoded.is_sorted_by_key(|bar| bar.first));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_driver_breaks_nothing(steps in prop::collection::vec(step(), 1..150)) {
        let mut chipset = chipset(&[function(3, 0, 1, 3), function(3, 1, 2, 300), function(4, 0, 4, 0)]);
        for function in 0..3 {
            chipset.virtio_offer(function, VERSION_1 | 1 << 40, vec![1, 2, 3], 3);
        }
        for step in &steps {
            take(&mut chipset, step);
            check(&chipset);
        }
        let saved = serde_json::to_string(&chipset).expect("plain data");
        let mut restored: Chipset = serde_json::from_str(&saved).expect("what was saved");
        prop_assert_eq!(&saved, &serde_json::to_string(&restored).expect("plain data"));
        // And it goes on in the same way.
        for step in &steps {
            take(&mut chipset, step);
            take(&mut restored, step);
        }
        prop_assert_eq!(chipset.take_virtio_work(), restored.take_virtio_work());
        prop_assert_eq!(serde_json::to_string(&chipset).ok(), serde_json::to_string(&restored).ok());
    }
}
