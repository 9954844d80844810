//! What accesses to configuration space do to virtio functions.

use crate::chipset::Chipset;
use crate::chipset::bytewise;
use crate::chipset::pci_host::Bdf;
use replay::time::Vtime;

impl Chipset {
    /// Before a read of configuration space: reading the data of a described access makes it (virtio 1.2, 4.1.4.9).
    pub(in crate::chipset) fn before_config_read(&mut self, target: Option<(Bdf, usize)>, size: u8) {
        let Some((function, register)) = self.virtio_target(target) else { return };
        let state = &self.virtio.functions[function];
        let (at, touches) = (state.at, state.touches_data(register, size));
        let described = self.pci.function(at).filter(|_| touches).and_then(|space| state.described(space));
        let Some(access) = described else { return };
        let value = self.virtio_read(function, access.bar, access.offset, access.size);
        if let Some(space) = self.pci.function_mut(at) {
            self.virtio.functions[function].show_described(space, value as u32, access.size);
        }
    }

    /// After a write of configuration space: BARs, bus mastering and MSI-X are followed; writing the data of a described
    /// access makes it.
    pub(in crate::chipset) fn after_config_write(
        &mut self,
        target: Option<(Bdf, usize)>,
        size: u8,
        now: Vtime,
    ) {
        if self.pci.take_decode_changed() {
            self.virtio.follow_bars(&self.pci);
        }
        let Some((function, register)) = self.virtio_target(target) else { return };
        let state = &mut self.virtio.functions[function];
        let Some(space) = self.pci.function(state.at) else { return };
        state.follow(space);
        let described = if state.touches_data(register, size) { state.described(space) } else { None };
        let data = u64::from(state.described_data(space));
        if let Some(access) = described {
            let value = bytewise::truncate(data, access.size);
            self.virtio_write(function, access.bar, access.offset, access.size, value, now);
        }
        self.virtio_deliver_ready(function, now);
        self.virtio_update_intx(function);
    }

    fn virtio_target(&self, target: Option<(Bdf, usize)>) -> Option<(usize, usize)> {
        let (at, register) = target?;
        Some((self.virtio.find(at)?, register))
    }
}
