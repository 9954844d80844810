//! Packets of a network function in the classic pcap format with nanoseconds, stamped with guest time.

use replay::time::Vtime;
use std::fs::File;
use std::io::{BufWriter, Write};

/// `struct virtio_net_hdr_v1`: 12 bytes, the number of buffers at the end (virtio 1.2, 5.1.6.1).
const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const SNAPLEN: u32 = 1 << 18;
const LINKTYPE_ETHERNET: u32 = 1;

/// A capture on its way to a file.
pub struct Capture {
    file: BufWriter<File>,
    /// Guest time zero, in nanoseconds since 1970.
    base_ns: u64,
    /// A received packet of which buffers are missing yet, and how many.
    partial: Vec<u8>,
    missing: u16,
    error: Option<std::io::Error>,
}

impl Capture {
    /// Begins a capture; `base_s`: seconds since 1970 at guest time zero.
    pub fn new(file: File, base_s: i64) -> Capture {
        let mut capture = Capture {
            file: BufWriter::new(file),
            base_ns: u64::try_from(base_s).unwrap_or(0).saturating_mul(1_000_000_000),
            partial: Vec::new(),
            missing: 0,
            error: None,
        };
        let mut header = MAGIC_NANOSECONDS.to_le_bytes().to_vec();
        header.extend([2, 0, 4, 0]);
        header.extend([0; 8]);
        header.extend(SNAPLEN.to_le_bytes());
        header.extend(LINKTYPE_ETHERNET.to_le_bytes());
        capture.write(&header);
        capture
    }

    /// The guest sent a packet.
    pub fn sent(&mut self, bytes: &[u8], at: Vtime) {
        if let Some(packet) = bytes.get(HEADER..) {
            self.packet(packet, at);
        }
    }

    /// The guest received a buffer; a packet may have several.
    pub fn received(&mut self, bytes: &[u8], at: Vtime) {
        if self.missing > 0 {
            self.partial.extend(bytes);
            self.missing -= 1;
        } else if let Some((header, packet)) = bytes.split_at_checked(HEADER) {
            let count = u16::from_le_bytes([header[NUM_BUFFERS], header[NUM_BUFFERS + 1]]);
            self.partial = packet.to_vec();
            self.missing = count.saturating_sub(1);
        } else {
            return;
        }
        if self.missing == 0 {
            let packet = std::mem::take(&mut self.partial);
            self.packet(&packet, at);
        }
    }

    fn packet(&mut self, packet: &[u8], at: Vtime) {
        let time = self.base_ns.saturating_add(at.0);
        let length = packet.len() as u32;
        let fields =
            [(time / 1_000_000_000) as u32, (time % 1_000_000_000) as u32, length.min(SNAPLEN), length];
        let header: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        self.write(&header);
        self.write(&packet[..packet.len().min(SNAPLEN as usize)]);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.file.write_all(bytes).err();
        }
    }

    /// Writes out what is left.
    pub fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.file.flush().err();
        }
    }

    /// What went wrong, once.
    pub fn take_error(&mut self) -> Option<std::io::Error> {
        self.error.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn the_file_is_as_libpcap_writes_it() {
        let mut file = tempfile::tempfile().unwrap();
        let mut capture = Capture::new(file.try_clone().unwrap(), 1);
        let header = |buffers: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, buffers, 0];
        capture.sent(&[&header(0)[..], b"out"].concat(), Vtime(2_000_000_003));
        capture.received(&[&header(2)[..], b"in"].concat(), Vtime(5));
        capture.received(b"to", Vtime(6));
        capture.sent(b"short", Vtime(7));
        capture.flush();
        let mut bytes = vec![];
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
        assert_eq!(bytes[24..43], *b"\x03\0\0\0\x03\0\0\0\x03\0\0\0\x03\0\0\0out");
        assert_eq!(bytes[43..], *b"\x01\0\0\0\x06\0\0\0\x04\0\0\0\x04\0\0\0into");
    }
}
