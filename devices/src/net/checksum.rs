//! Completing a checksum that the driver left to the device (VIRTIO_NET_F_CSUM; virtio 1.2, 5.1.6.2).

use super::frame::{Frame, GSO_NONE, NEEDS_CSUM};

/// Bytes of a checksum.
const SIZE: usize = 2;

/// Completes the checksum if the header asks for it. False: the header asks for what was not offered or points out of the frame.
///
/// The driver has put the sum of the pseudo header where the result belongs, so it counts like any other word.
#[must_use]
pub fn complete(frame: &mut Frame) -> bool {
    if frame.gso_type() != GSO_NONE {
        return false;
    }
    if frame.flags() & NEEDS_CSUM == 0 {
        return true;
    }
    let (start, offset) = frame.checksum_place();
    let Some(part) = frame.ethernet_mut().get_mut(start..) else { return false };
    if offset + SIZE > part.len() {
        return false;
    }
    // A sum of zero is sent as all ones: for UDP zero means "none", elsewhere both are the same number.
    let sum = match !ones_complement_sum(part) {
        0 => 0xffff,
        sum => sum,
    };
    part[offset..offset + SIZE].copy_from_slice(&sum.to_be_bytes());
    true
}

/// The sum of RFC 1071 over big-endian words, an odd last byte counting as the upper half of one.
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(SIZE);
    let mut sum: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::HEADER_SIZE;

    fn frame(flags: u8, start: u16, offset: u16, ethernet: &[u8]) -> Frame {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[0] = flags;
        bytes[6..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(ethernet);
        Frame::from_wire(bytes).expect("long enough")
    }

    /// The worked example of RFC 1071, section 3, and the IPv4 header that Wikipedia's article on its checksum works out.
    #[test]
    fn known_sums() {
        assert_eq!(ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(!ones_complement_sum(&header), 0xb861);
        assert_eq!(ones_complement_sum(&[0x12]), 0x1200, "an odd byte is the upper half");
        assert_eq!(ones_complement_sum(&[]), 0);
    }

    /// An IPv4 header whose sum the device is asked for: the same vector through a frame.
    #[test]
    fn completed_in_place() {
        let mut ethernet = vec![0xaa; 14];
        ethernet.extend([0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00]);
        ethernet.extend([0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7]);
        let mut packet = frame(NEEDS_CSUM, 14, 10, &ethernet);
        assert!(complete(&mut packet));
        assert_eq!(packet.ethernet()[24..26], [0xb8, 0x61]);
        let mut untouched = frame(0, 14, 10, &ethernet);
        assert!(complete(&mut untouched));
        assert_eq!(untouched.ethernet(), ethernet);
    }

    #[test]
    fn zero_is_sent_as_ones() {
        let mut ethernet = vec![0; 14];
        ethernet.extend([0xff, 0xff, 0x00, 0x00]);
        let mut packet = frame(NEEDS_CSUM, 14, 2, &ethernet);
        assert!(complete(&mut packet));
        assert_eq!(packet.ethernet()[16..18], [0xff, 0xff]);
    }

    #[test]
    fn places_outside_of_the_frame_are_refused() {
        let ethernet = [0; 20];
        for (start, offset) in [(21, 0), (20, 0), (19, 0), (0, 19), (14, 5), (0xffff, 0xffff), (0, 0xffff)] {
            assert!(!complete(&mut frame(NEEDS_CSUM, start, offset, &ethernet)), "{start} {offset}");
        }
        for (start, offset) in [(18, 0), (0, 18), (14, 4)] {
            assert!(complete(&mut frame(NEEDS_CSUM, start, offset, &ethernet)), "{start} {offset}");
        }
    }

    #[test]
    fn segmentation_was_not_offered() {
        let mut bytes = vec![0; HEADER_SIZE + 60];
        bytes[1] = 1;
        assert!(!complete(&mut Frame::from_wire(bytes).expect("long enough")));
    }
}
