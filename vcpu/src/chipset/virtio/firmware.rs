//! What firmware does to PCI functions before an operating system sees them.

use super::VirtioBus;
use super::function;
use crate::chipset::Chipset;
use crate::chipset::pci_config::command;
use crate::chipset::pci_host::{Bdf, PciHost};
use crate::firmware::layout::PCI_WINDOW_32;

impl VirtioBus {
    /// Devices with several functions say so in each (PCI 3.0, 6.2.1: function 0 is the one that is looked at).
    pub(super) fn mark_multifunction(&self, pci: &mut PciHost) {
        let places: Vec<Bdf> = pci.functions().map(|(at, _)| at).collect();
        for at in &places {
            let several = places.iter().filter(|other| other.device() == at.device()).count() > 1;
            if let Some(space) = pci.function_mut(*at).filter(|_| several) {
                function::set_multifunction(space);
            }
        }
    }

    /// Gives each BAR an address, in the window below 4 GiB even if it is 64 bits wide: a guest that starts in 32-bit
    /// mode or with an identity map of 4 GiB reaches it there, and an operating system may move it. Memory decoding is
    /// on, so that such a guest need not touch the command register. Bus mastering is off, as PCI says and firmware
    /// leaves it for devices it did not boot from: the driver switches it on when it is ready.
    pub(super) fn assign(&self, pci: &mut PciHost) {
        let mut next = PCI_WINDOW_32.start;
        for state in &self.functions {
            let line = pci.pirq_route(state.pirq);
            let Some(space) = pci.function_mut(state.at) else { continue };
            for bar in function::BARS {
                let Some(size) = space.bar_size(bar) else { continue };
                let address = next.next_multiple_of(size);
                next = address + size;
                space.set_bar_address(bar, address);
            }
            space.set_command(command::MEMORY);
            space.set_interrupt_line(line);
        }
        assert!(next <= PCI_WINDOW_32.end, "256 functions of 128 KiB fit a window of 512 MiB");
    }
}

impl Chipset {
    /// Power-on and reset, once the bus is reset: the functions as firmware leaves them.
    pub(in crate::chipset) fn set_up_virtio(&mut self) {
        self.virtio.assign(&mut self.pci);
        for state in &mut self.virtio.functions {
            if let Some(space) = self.pci.function(state.at) {
                state.follow(space);
            }
        }
        self.pci.take_decode_changed();
        self.virtio.follow_bars(&self.pci);
    }

    /// Machine reset: every back-end is told.
    pub(in crate::chipset) fn reset_virtio(&mut self) {
        for function in 0..self.virtio.functions.len() {
            let state = &mut self.virtio.functions[function];
            if let Some(space) = self.pci.function_mut(state.at) {
                state.reset(space);
            }
            self.virtio_update_intx(function);
            self.effects.virtio = true;
        }
        self.set_up_virtio();
    }
}
