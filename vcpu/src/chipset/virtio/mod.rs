//! Virtio functions: virtio-pci without legacy interface (virtio 1.2, 4.1).
//!
//! Registers only. What a driver asks of a device is collected as `Work`, which the run loop takes; the virtqueues
//! are somebody else's. No guest memory is touched here.

mod config_access;
mod firmware;
mod function;
mod interrupts;
mod queue;
mod registers;

pub use queue::QueueRegisters;
pub use registers::{VirtioRegisters, feature, status};

use super::Chipset;
use super::config::FunctionConfig;
use super::map::Decoded;
use super::map::MemoryDevice;
use super::pci_host::{Bdf, PciHost};
use function::VirtioFunction;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// No MSI-X vector (`VIRTIO_MSI_NO_VECTOR`).
pub const NO_VECTOR: u16 = 0xffff;
/// Most virtqueues a function can have.
pub const QUEUES_MAX: u16 = 64;

/// What the guest asked of one virtio function since the last look; to be carried out in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Which one.
    pub function: usize,
    /// Reset: nothing that was asked for before it counts.
    pub reset: bool,
    /// Queues that were reset, one bit each.
    pub queue_resets: u64,
    /// The driver is ready: queues, addresses and features stand.
    pub driver_ok: bool,
    /// Queues that were notified, one bit each.
    pub kicks: u64,
}

/// A BAR that decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DecodedBar {
    first: u64,
    last: u64,
    function: usize,
    bar: u8,
}

/// All virtio functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VirtioBus {
    functions: Vec<VirtioFunction>,
    /// What the BARs decode now, in rising order.
    decoded: Vec<DecodedBar>,
    /// PIRQs that are driven, one bit each.
    pirqs: u8,
}

impl VirtioBus {
    /// Puts the functions on the bus.
    pub fn new(configs: &[FunctionConfig], pci: &mut PciHost) -> VirtioBus {
        let mut bus = VirtioBus::default();
        for config in configs {
            let (function, space) = VirtioFunction::new(config);
            pci.insert(function.at, space);
            bus.functions.push(function);
        }
        bus.mark_multifunction(pci);
        bus
    }

    /// PIRQs that are driven, one bit each.
    #[inline]
    pub fn pirqs(&self) -> u8 {
        self.pirqs
    }

    /// Follows the BARs.
    pub fn follow_bars(&mut self, pci: &PciHost) {
        self.decoded.clear();
        for (function, state) in self.functions.iter().enumerate() {
            let space = pci.function(state.at);
            for bar in [function::BAR_MSIX, function::BAR_VIRTIO] {
                if let Some(range) = space.and_then(|space| space.bar(usize::from(bar))) {
                    let last = range.address + (range.size - 1);
                    self.decoded.push(DecodedBar { first: range.address, last, function, bar });
                }
            }
        }
        self.decoded.sort_by_key(|bar| bar.first);
    }

    /// Decodes a memory access. Where BARs overlap, the one that begins last answers.
    pub fn decode(&self, address: u64, size: u8) -> Decoded<MemoryDevice> {
        let after = self.decoded.partition_point(|bar| bar.first <= address);
        match self.decoded[..after].last() {
            Some(found) if address <= found.last => {
                let device = MemoryDevice::Virtio { function: found.function, bar: found.bar };
                Decoded::within(device, found.first, found.last, address, size)
            }
            _ => Decoded::nobody(),
        }
    }

    /// The function at a place on the bus.
    fn find(&self, at: Bdf) -> Option<usize> {
        self.functions.iter().position(|function| function.at == at)
    }
}

impl Chipset {
    /// Number of virtio functions; they are numbered as in the machine description.
    pub fn virtio_count(&self) -> usize {
        self.virtio.functions.len()
    }

    /// Registers of one.
    pub fn virtio(&self, function: usize) -> &VirtioRegisters {
        &self.virtio.functions[function].registers
    }

    /// Before the guest's first instruction: what the back-ends of one offer. Features are offered as they come, but for
    /// those that these registers have no means for. Queues from `QUEUES_MAX` on do not exist.
    pub fn virtio_offer(&mut self, function: usize, features: u64, config: Vec<u8>, queue_count: u16) {
        self.virtio.functions[function].registers.offer(features, config, queue_count);
    }

    /// Takes what guests have asked for, by function.
    pub fn take_virtio_work(&mut self) -> Vec<Work> {
        let functions = self.virtio.functions.iter_mut().enumerate();
        functions.filter_map(|(index, function)| function.registers.take_work(index)).collect()
    }

    /// Interrupts for a used buffer. Before DRIVER_OK and for a queue that is not enabled there is no interrupt.
    pub fn virtio_queue_interrupt(&mut self, function: usize, queue: u16, now: Vtime) {
        self.catch_up(now);
        let registers = &self.virtio.functions[function].registers;
        let live = registers.is_live();
        let vector = registers.queue(queue).filter(|queue| queue.enabled && live).map(|queue| queue.vector);
        if let Some(vector) = vector {
            self.virtio_interrupt(function, registers::isr::QUEUE, vector, now);
            self.settle();
        }
    }

    /// New contents of the device configuration; a driver that is ready is told.
    pub fn virtio_config_changed(&mut self, function: usize, config: Vec<u8>, now: Vtime) {
        self.catch_up(now);
        self.virtio.functions[function].registers.set_config(config);
        self.virtio_config_interrupt(function, now);
    }

    /// The device cannot go on; a driver that is ready is told.
    pub fn virtio_needs_reset(&mut self, function: usize, now: Vtime) {
        self.catch_up(now);
        self.virtio.functions[function].registers.set_needs_reset();
        self.virtio_config_interrupt(function, now);
    }

    /// Reads in a BAR.
    pub(super) fn virtio_read(&mut self, function: usize, bar: u8, offset: u64, size: u8) -> u64 {
        let state = &mut self.virtio.functions[function];
        let had = state.registers.interrupts();
        let value = state.read(bar, offset, size);
        if had != state.registers.interrupts() {
            self.virtio_update_intx(function);
        }
        value
    }

    /// Writes in a BAR.
    pub(super) fn virtio_write(
        &mut self,
        function: usize,
        bar: u8,
        offset: u64,
        size: u8,
        value: u64,
        now: Vtime,
    ) {
        let state = &mut self.virtio.functions[function];
        state.write(bar, offset, size, value);
        self.effects.virtio |= state.registers.has_work();
        if !function::is_notification(bar, offset) {
            self.virtio_deliver_ready(function, now);
            self.virtio_update_intx(function);
        }
    }
}

#[cfg(test)]
mod pci_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
