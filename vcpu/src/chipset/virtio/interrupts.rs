//! How a virtio function interrupts: by MSI-X, or by ISR status and INTx.

use super::registers::isr;
use crate::chipset::Chipset;
use replay::time::Vtime;

impl Chipset {
    /// Interrupts by `vector`, or by INTx where MSI-X is off. The queue bit of ISR status exists for INTx alone; the
    /// configuration bit is always set (virtio 1.2, 4.1.4.5.1).
    pub(super) fn virtio_interrupt(&mut self, function: usize, bit: u8, vector: u16, now: Vtime) {
        let state = &mut self.virtio.functions[function];
        if bit == isr::CONFIG || !state.msix.is_enabled() {
            state.registers.set_isr(bit);
        }
        if let Some(message) = state.msix.raise(vector) {
            self.deliver_msi(message.address, message.data, now);
        }
        self.virtio_update_intx(function);
    }

    /// Tells a driver that is ready of a change of configuration or status.
    pub(super) fn virtio_config_interrupt(&mut self, function: usize, now: Vtime) {
        let registers = &self.virtio.functions[function].registers;
        if registers.is_live() {
            let vector = registers.config_vector();
            self.virtio_interrupt(function, isr::CONFIG, vector, now);
            self.settle();
        }
    }

    /// Delivers messages that were held and may go out now.
    pub(super) fn virtio_deliver_ready(&mut self, function: usize, now: Vtime) {
        while let Some(message) = self.virtio.functions[function].msix.take_ready() {
            self.deliver_msi(message.address, message.data, now);
        }
    }

    /// Status register and INTx after a change of ISR status, MSI-X or the command register; `settle` carries the line on.
    pub(super) fn virtio_update_intx(&mut self, function: usize) {
        let state = &mut self.virtio.functions[function];
        let Some(space) = self.pci.function_mut(state.at) else { return };
        space.set_interrupt_status(state.registers.interrupts() && !state.msix.is_enabled());
        let drives = space.intx();
        if drives != state.intx {
            state.intx = drives;
            let all = self.virtio.functions.iter();
            self.virtio.pirqs = all.filter(|one| one.intx).fold(0, |lines, one| lines | 1 << one.pirq);
        }
    }
}
