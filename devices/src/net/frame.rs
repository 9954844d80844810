//! A packet between the driver and the host: virtio header and Ethernet frame in one buffer.

/// Bytes of the header of a driver that speaks virtio 1 (virtio 1.2, 5.1.6).
pub const HEADER_SIZE: usize = 12;
/// The header of a legacy driver without VIRTIO_NET_F_MRG_RXBUF lacks `num_buffers`.
pub const LEGACY_HEADER_SIZE: usize = 10;
/// Bytes of an Ethernet frame without its payload.
pub const ETHERNET_HEADER_SIZE: usize = 14;
/// Largest Ethernet frame: 64 KiB, which only segmentation offload makes, and its own header.
pub const FRAME_MAX: usize = 65536 + ETHERNET_HEADER_SIZE;

/// `flags`: the checksum is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// `flags`: the checksum is known to be right.
pub const DATA_VALID: u8 = 2;
/// `gso_type`: the frame is one packet.
pub const GSO_NONE: u8 = 0;

const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const CSUM_START: usize = 6;
const CSUM_OFFSET: usize = 8;
const NUM_BUFFERS: usize = 10;

/// A packet. Its header is always there and has always 12 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// A frame of the host, without any offload, whose header's flags are `flags`.
    pub fn from_ethernet(ethernet: &[u8], flags: u8) -> Frame {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + ethernet.len());
        bytes.extend_from_slice(&[0; HEADER_SIZE]);
        bytes.extend_from_slice(ethernet);
        bytes[FLAGS] = flags;
        Frame { bytes }
    }

    /// A packet as it is in memory: header, then frame. `None`: too short for an Ethernet frame, or too long.
    pub fn from_wire(bytes: Vec<u8>) -> Option<Frame> {
        let length = bytes.len().checked_sub(HEADER_SIZE)?;
        (ETHERNET_HEADER_SIZE..=FRAME_MAX).contains(&length).then_some(Frame { bytes })
    }

    /// Header and frame.
    pub fn wire(&self) -> &[u8] {
        &self.bytes
    }

    /// The Ethernet frame.
    pub fn ethernet(&self) -> &[u8] {
        &self.bytes[HEADER_SIZE..]
    }

    /// The Ethernet frame.
    pub fn ethernet_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[HEADER_SIZE..]
    }

    /// `flags` of the header.
    pub fn flags(&self) -> u8 {
        self.bytes[FLAGS]
    }

    /// `gso_type` of the header.
    pub fn gso_type(&self) -> u8 {
        self.bytes[GSO_TYPE]
    }

    /// Where the sum starts and where, counted from there, its result belongs.
    pub fn checksum_place(&self) -> (usize, usize) {
        let field = |at: usize| usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]));
        (field(CSUM_START), field(CSUM_OFFSET))
    }

    /// Sets the number of receive buffers that the packet takes.
    pub fn set_buffers(&mut self, count: u16) {
        self.bytes[NUM_BUFFERS..HEADER_SIZE].copy_from_slice(&count.to_le_bytes());
    }
}
