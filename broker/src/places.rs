//! Places on PCI bus 0.

use crate::cli::CliError;
use replay::device::PciAddress;
use std::collections::BTreeMap;

/// Slots that the chipset occupies: host bridge, PCI-to-ISA bridge.
const CHIPSET: [(u8, &str); 2] = [(0, "the host bridge"), (0x1f, "the ISA bridge")];
/// The first slot that is given away; QEMU's pc has its ISA bridge in slot 1.
const SLOT_FIRST: u8 = 2;

/// Gives each function its place: the one it asks for, or the first free slot, in their order.
pub fn assign(asked: &[(&str, Option<PciAddress>)]) -> Result<Vec<PciAddress>, CliError> {
    let mut taken: BTreeMap<PciAddress, &str> = BTreeMap::new();
    for (slot, name) in CHIPSET {
        taken.insert(PciAddress { device: slot, function: 0 }, name);
    }
    for (id, address) in asked {
        let Some(address) = address else { continue };
        let in_chipset = CHIPSET.iter().find(|(slot, _)| *slot == address.device).map(|(_, name)| *name);
        if let Some(owner) = in_chipset.or_else(|| taken.get(address).copied()) {
            return Err(CliError(format!(
                "PCI: slot {:x} function {} not available for {id}, in use by {owner}",
                address.device, address.function
            )));
        }
        taken.insert(*address, id);
    }
    let mut places = Vec::new();
    for (id, address) in asked {
        let free = |slot: u8| !taken.keys().any(|used| used.device == slot);
        let place = match address {
            Some(address) => *address,
            None => {
                let slot = (SLOT_FIRST..0x1f).find(|slot| free(*slot));
                let device = slot.ok_or_else(|| CliError(format!("PCI: no slot available for {id}")))?;
                PciAddress { device, function: 0 }
            }
        };
        taken.insert(place, id);
        places.push(place);
    }
    check_first_functions(&places, asked)?;
    Ok(places)
}

/// A guest looks for further functions of a slot only if it has a first one.
fn check_first_functions(
    places: &[PciAddress],
    asked: &[(&str, Option<PciAddress>)],
) -> Result<(), CliError> {
    for (place, (id, _)) in places.iter().zip(asked) {
        if !places.contains(&PciAddress { function: 0, ..*place }) {
            let slot = place.device;
            return Err(CliError(format!(
                "PCI: {id} is function {} of slot {slot:x}, which has no function 0: no guest would find it",
                place.function
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(device: u8, function: u8) -> Option<PciAddress> {
        Some(PciAddress { device, function })
    }

    #[test]
    fn slots_in_order_around_those_that_are_asked_for() {
        let places = assign(&[("a", None), ("b", at(3, 0)), ("c", None), ("d", at(3, 1))]).unwrap();
        let slots: Vec<_> = places.iter().map(|place| (place.device, place.function)).collect();
        assert_eq!(slots, [(2, 0), (3, 0), (4, 0), (3, 1)]);
    }

    #[test]
    fn conflicts_are_named() {
        let message = |asked: &[(&str, Option<PciAddress>)]| assign(asked).unwrap_err().0;
        assert_eq!(
            message(&[("a", at(3, 0)), ("b", at(3, 0))]),
            "PCI: slot 3 function 0 not available for b, in use by a"
        );
        assert_eq!(
            message(&[("a", at(31, 1))]),
            "PCI: slot 1f function 1 not available for a, in use by the ISA bridge"
        );
        assert!(message(&[("a", at(4, 1))]).contains("no function 0"));
        let many = vec![("x", None); 30];
        assert_eq!(message(&many), "PCI: no slot available for x");
        assert_eq!(assign(&many[..29]).unwrap().len(), 29);
    }
}
