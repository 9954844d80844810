//! What the driver is told about the disk: feature bits and configuration space (virtio 1.2, 5.2.3 and 5.2.4).
//!
//! All of it follows from the command line and the size of the image, never from the host's file system:
//! a guest sees the same device in every run.

use super::disk::Discard;
use super::request::{RANGE_SECTORS_MAX, RANGES_MAX, SECTOR, SEGMENT_BYTES_MAX, SEGMENTS_MAX};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Where the cache mode stands in the configuration space; the one field that the driver may write.
const WRITEBACK: usize = 32;
/// Blocks of the host's page cache: smaller writes cost a read.
const PHYSICAL_BLOCK: u32 = 4096;

/// The description of the disk.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a logical block, a power of two.
    pub block: u32,
    /// Number of virtqueues.
    pub queues: u16,
    /// Nothing may be changed.
    pub read_only: bool,
    /// What DISCARD does.
    pub discard: Discard,
    /// Feature bits that the driver accepted.
    accepted: u64,
    /// The driver's choice, if it may choose: writes are complete before they are on the disk.
    writeback: bool,
}

impl Config {
    /// A disk of `size` bytes with one queue.
    pub fn new(size: u64, block: u32, queues: u16, read_only: bool, discard: Discard) -> Config {
        Config { size, block, queues, read_only, discard, accepted: 0, writeback: true }
    }

    /// Feature bits to offer.
    pub fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_CONFIG_WCE,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
        ];
        if self.read_only {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        if self.queues > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        bits.iter().fold(0, |all, bit| all | 1 << bit)
    }

    /// The configuration space.
    pub fn bytes(&self) -> Vec<u8> {
        let physical = PHYSICAL_BLOCK.max(self.block);
        let blocks = (physical / self.block) as u16;
        let mut bytes = Vec::with_capacity(60);
        bytes.extend((self.size / SECTOR).to_le_bytes());
        bytes.extend(SEGMENT_BYTES_MAX.to_le_bytes());
        bytes.extend(SEGMENTS_MAX.to_le_bytes());
        // No geometry.
        bytes.extend([0; 4]);
        bytes.extend(self.block.to_le_bytes());
        // Topology: logical blocks in a physical one (as a power of two), misalignment, least and best transfer.
        bytes.extend([blocks.trailing_zeros() as u8, 0]);
        bytes.extend(blocks.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend([u8::from(self.writeback), 0]);
        bytes.extend(self.queues.to_le_bytes());
        let (ranges, sectors) = if self.read_only { (0, 0) } else { (RANGES_MAX as u32, RANGE_SECTORS_MAX) };
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(ranges.to_le_bytes());
        bytes.extend((self.block / SECTOR as u32).to_le_bytes());
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(ranges.to_le_bytes());
        bytes.extend([u8::from(self.discard == Discard::Unmap && !self.read_only), 0, 0, 0]);
        bytes
    }

    /// The driver writes to the configuration space. Fields that are read-only stay as they are.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(&value) = WRITEBACK.checked_sub(offset).and_then(|at| bytes.get(at)) {
            self.writeback = value != 0;
        }
    }

    /// The driver accepted these feature bits.
    pub fn accept(&mut self, features: u64) {
        self.accepted = features;
        self.writeback = true;
    }

    /// Whether a write must be on the disk before it is complete (virtio 1.2, 5.2.5.2).
    pub fn write_through(&self) -> bool {
        let accepted = |bit: u32| self.accepted & 1 << bit != 0;
        if accepted(VIRTIO_BLK_F_CONFIG_WCE) { !self.writeback } else { !accepted(VIRTIO_BLK_F_FLUSH) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(read_only: bool) -> Config {
        Config::new(1 << 20, 512, 4, read_only, Discard::Unmap)
    }

    #[test]
    fn the_space_is_laid_out_as_virtio_says() {
        let bytes = config(false).bytes();
        // Offsets of struct virtio_blk_config.
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..8], 2048u64.to_le_bytes());
        assert_eq!(bytes[12..16], 126u32.to_le_bytes(), "seg_max");
        assert_eq!(bytes[20..24], 512u32.to_le_bytes(), "blk_size");
        assert_eq!(bytes[24], 3, "eight logical blocks are a physical one");
        assert_eq!(bytes[26..28], 8u16.to_le_bytes(), "min_io_size");
        assert_eq!(bytes[32], 1, "writeback");
        assert_eq!(bytes[34..36], 4u16.to_le_bytes(), "num_queues");
        assert_eq!(bytes[36..40], (1u32 << 21).to_le_bytes(), "max_discard_sectors");
        assert_eq!(bytes[40..44], 16u32.to_le_bytes(), "max_discard_seg");
        assert_eq!(bytes[44..48], 1u32.to_le_bytes(), "discard_sector_alignment");
        assert_eq!(bytes[56], 1, "write_zeroes_may_unmap");
        assert_eq!(config(true).bytes()[36..48], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn features_follow_the_options() {
        let has = |config: &Config, bit: u32| config.features() & 1 << bit != 0;
        assert!(has(&config(false), VIRTIO_BLK_F_DISCARD) && !has(&config(false), VIRTIO_BLK_F_RO));
        assert!(!has(&config(true), VIRTIO_BLK_F_WRITE_ZEROES) && has(&config(true), VIRTIO_BLK_F_RO));
        assert!(has(&config(false), VIRTIO_BLK_F_MQ));
        assert!(!has(&Config { queues: 1, ..config(false) }, VIRTIO_BLK_F_MQ));
    }

    #[test]
    fn the_cache_mode_is_the_drivers_choice() {
        let mut config = config(false);
        assert!(config.write_through(), "a driver that knows nothing of caches");
        config.accept(1 << VIRTIO_BLK_F_FLUSH);
        assert!(!config.write_through());
        config.accept(1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_CONFIG_WCE);
        assert!(!config.write_through());
        config.write(32, &[0]);
        assert!(config.write_through());
        assert_eq!(config.bytes()[32], 0);
        config.write(0, &[0xff; 32]);
        assert!(config.write_through() && config.bytes()[..8] == 2048u64.to_le_bytes());
        config.write(30, &[0, 0, 1, 0]);
        assert!(!config.write_through());
    }
}
