//! Which features and configuration space a function shows, from what its back-end offered.

use super::Service;
use crate::core::Core;
use crate::window::WindowError;
use replay::device::VirtioKind;
use replay::event::{DeviceIndex, Event};
use virtio_bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::{virtio_blk, virtio_net, virtio_ring};

/// Feature bits that belong to device types; the others are the transport's, which is ours (virtio 1.2, 2.2).
const DEVICE_BITS: u64 = 0x00ff_ffff | !0 << 50;

/// How the rings in guest RAM work.
const RING_BITS: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_RESET
    | 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC
    | 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// Those of them that concern a back-end which serves the rings itself.
const SHARED_RING_BITS: u64 =
    1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC | 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// Features of disks that need more than requests: the driver would write the configuration space, or they are of older
/// versions.
const BLOCK_WITHHELD: u64 =
    1 << virtio_blk::VIRTIO_BLK_F_CONFIG_WCE | 1 << virtio_blk::VIRTIO_BLK_F_MQ | 1 << 0 | 1 << 7 | 1 << 17;
/// Offset of `num_queues` in the configuration space of a disk.
const BLOCK_NUM_QUEUES: usize = 34;

/// Offloads of a network back-end that change only what is in the packets.
const NET_OFFLOADS: u64 = 1 << virtio_net::VIRTIO_NET_F_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO6
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_ECN
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_UFO
    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO6
    | 1 << virtio_net::VIRTIO_NET_F_HOST_ECN
    | 1 << virtio_net::VIRTIO_NET_F_HOST_UFO
    | 1 << virtio_net::VIRTIO_NET_F_MRG_RXBUF;
/// What the vCPU process adds to a network back-end.
const NET_OWN: u64 = 1 << virtio_net::VIRTIO_NET_F_MAC
    | 1 << virtio_net::VIRTIO_NET_F_STATUS
    | 1 << virtio_net::VIRTIO_NET_F_CTRL_VQ
    | 1 << virtio_net::VIRTIO_NET_F_CTRL_RX;

/// VIRTIO_CONSOLE_F_MULTIPORT (virtio 1.2, 5.3.3).
const CONSOLE_MULTIPORT: u64 = 1;

/// Bytes of configuration space that a back-end is asked for, by device type (virtio 1.2, chapter 5). The oldest layout
/// of a type, because a back-end may not know more; types that are not here show none.
pub fn config_size(device_type: u16) -> usize {
    const SIZES: [(u16, usize); 11] = [
        (2, 60),   // block, up to write_zeroes_may_unmap
        (5, 8),    // balloon
        (8, 36),   // SCSI host
        (16, 16),  // GPU
        (18, 136), // input
        (19, 8),   // socket
        (20, 56),  // crypto
        (24, 56),  // memory
        (25, 12),  // sound
        (26, 40),  // file system: tag and number of queues
        (41, 8),   // GPIO
    ];
    SIZES.iter().find(|(of, _)| *of == device_type).map_or(0, |(_, size)| *size)
}

/// Features and configuration space that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Feature bits.
    pub features: u64,
    /// Configuration space.
    pub config: Vec<u8>,
}

/// What a function shows that needs no back-end to know it: none for those that do.
pub fn of_kind(kind: &VirtioKind) -> Option<Shown> {
    match kind {
        VirtioKind::Console { ports } => {
            let highest = ports.iter().map(|port| u32::from(port.number)).max().unwrap_or(0);
            // Columns and rows are not offered; then the number of ports and the emergency write register.
            let mut config = vec![0; 4];
            config.extend((highest + 1).to_le_bytes());
            config.extend([0; 4]);
            let features = RING_BITS | 1 << CONSOLE_MULTIPORT;
            Some(Shown { features, config })
        }
        VirtioKind::Block { .. }
        | VirtioKind::Net { .. }
        | VirtioKind::Entropy { .. }
        | VirtioKind::Other { .. } => None,
    }
}

/// What a function shows when its back-end has offered this.
pub fn of_back_end(kind: &VirtioKind, features: u64, config: &[u8]) -> Shown {
    let offered = features & DEVICE_BITS;
    match kind {
        VirtioKind::Block { queues, .. } => {
            let mut config = config.to_vec();
            let mut features = RING_BITS | offered & !BLOCK_WITHHELD;
            if let Some(field) = config.get_mut(BLOCK_NUM_QUEUES..BLOCK_NUM_QUEUES + 2) {
                field.copy_from_slice(&queues.to_le_bytes());
                features |= u64::from(*queues > 1) << virtio_blk::VIRTIO_BLK_F_MQ;
            }
            Shown { features, config }
        }
        VirtioKind::Net { mac, .. } => {
            let mut config = mac.to_vec();
            // The link is up; one queue pair.
            config.extend([1, 0, 1, 0]);
            Shown { features: RING_BITS | offered & NET_OFFLOADS | NET_OWN, config }
        }
        VirtioKind::Entropy { .. } => Shown { features: RING_BITS, config: Vec::new() },
        VirtioKind::Console { .. } | VirtioKind::Other { .. } => {
            Shown { features: RING_BITS | offered, config: config.to_vec() }
        }
    }
}

/// What of the driver's features the back-end is told.
pub fn for_back_end(kind: &VirtioKind, driver: u64, offered: u64) -> u64 {
    match kind {
        // A console back-end has one port and knows nothing of others.
        VirtioKind::Console { .. } | VirtioKind::Entropy { .. } => 0,
        VirtioKind::Block { .. } | VirtioKind::Net { .. } | VirtioKind::Other { .. } => {
            driver & offered & DEVICE_BITS
        }
    }
}

/// What of the driver's features a back-end must have.
pub fn needed_of_back_end(kind: &VirtioKind, driver: u64) -> u64 {
    let own = match kind {
        VirtioKind::Net { .. } => NET_OWN,
        VirtioKind::Block { .. } => 1 << virtio_blk::VIRTIO_BLK_F_MQ,
        VirtioKind::Console { .. } | VirtioKind::Entropy { .. } | VirtioKind::Other { .. } => 0,
    };
    for_back_end(kind, driver, !own)
}

/// How a function looks whose back-ends serve the rings in guest RAM themselves and offer `features`, all of them: a single
/// queue is not reset under such a back-end, and what it does not know of rings is not offered.
fn without_window(shown: Shown, features: u64) -> Shown {
    let theirs = !SHARED_RING_BITS | features;
    Shown { features: shown.features & theirs & !(1 << VIRTIO_F_RING_RESET), ..shown }
}

/// What of the driver's features such a back-end is told.
pub fn for_shared_back_end(kind: &VirtioKind, driver: u64, offered: u64) -> u64 {
    for_back_end(kind, driver, offered) | driver & offered & (SHARED_RING_BITS | 1 << VIRTIO_F_VERSION_1)
}

impl Service {
    /// Shows the guest those functions that no back-end has a say in. Before the first instruction.
    pub fn offer_own(&self, core: &mut Core) {
        for (index, function) in self.functions().iter().enumerate() {
            if let Some(mut shown) = of_kind(&function.kind) {
                for (device, _) in function.back_ends() {
                    if let Some(features) = self.shared_features(device) {
                        shown = without_window(shown, features);
                    }
                }
                let count = function.kind.queue_count();
                core.chipset.virtio_offer(index, shown.features, shown.config, count);
            }
        }
    }

    /// Events with what the back-ends of the other functions offer.
    pub fn offers(&mut self) -> Result<Vec<Event>, WindowError> {
        let mut events = Vec::new();
        for function in self.functions().to_vec() {
            if of_kind(&function.kind).is_some() {
                continue;
            }
            for (device, _) in function.back_ends() {
                let size = config_size(function.kind.device_type());
                if let Some((features, config)) = self.offer_of(device, size)? {
                    events.push(Event::DeviceOffered { device, features, config });
                }
            }
        }
        Ok(events)
    }

    fn offer_of(&mut self, device: DeviceIndex, size: usize) -> Result<Option<(u64, Vec<u8>)>, WindowError> {
        if let Some(back_end) = self.back_end(device) {
            let features = back_end.features();
            return Ok(Some((features, back_end.config(size)?)));
        }
        self.shared_offer(device, size)
    }

    /// Shows the guest a function as its back-end offered it.
    pub fn apply_offer(&self, core: &mut Core, device: DeviceIndex, features: u64, config: &[u8]) {
        if let Some(index) = self.function_of(device) {
            let function = &self.functions()[index];
            let mut shown = of_back_end(&function.kind, features, config);
            if !function.window {
                shown = without_window(shown, features);
            }
            core.chipset.virtio_offer(index, shown.features, shown.config, function.kind.queue_count());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transport_is_ours_and_the_device_is_theirs() {
        let kind = VirtioKind::Net { device: 0, mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56] };
        // CSUM, CTRL_VQ, packed rings, IOMMU, mergeable buffers.
        let shown = of_back_end(&kind, 1 | 1 << 17 | 1 << 34 | 1 << 33 | 1 << 15, &[]);
        assert_eq!(shown.features & (1 << 34 | 1 << 33), 0);
        assert_eq!(shown.features & (1 | 1 << 15 | 1 << 5 | 1 << 32), 1 | 1 << 15 | 1 << 5 | 1 << 32);
        assert_eq!(shown.config, [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0]);
        assert_eq!(for_back_end(&kind, shown.features, 1 | 1 << 15), 1 | 1 << 15);
    }

    #[test]
    fn a_disk_shows_our_number_of_queues() {
        let kind = VirtioKind::Block { device: 0, queues: 4 };
        let shown = of_back_end(&kind, 1 << 9, &[0; 60]);
        assert_eq!(shown.config[34..36], [4, 0]);
        assert_ne!(shown.features & 1 << virtio_blk::VIRTIO_BLK_F_MQ, 0);
        assert_eq!(of_back_end(&kind, 0, &[0; 8]).config, [0; 8], "too short for the field");
    }
}
