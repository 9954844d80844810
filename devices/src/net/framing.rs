//! Ethernet frames on a byte stream: each is preceded by its length, four bytes, big endian. QEMU's and passt's form.

use super::frame::{ETHERNET_HEADER_SIZE, FRAME_MAX, Frame};
use std::collections::VecDeque;

/// Bytes of the length.
const PREFIX: usize = 4;

/// Appends a frame with its length to `out`.
pub fn encode(ethernet: &[u8], out: &mut VecDeque<u8>) {
    // At most FRAME_MAX.
    out.extend((ethernet.len() as u32).to_be_bytes());
    out.extend(ethernet);
}

/// Takes frames out of the bytes of a stream.
#[derive(Default)]
pub struct Decoder {
    bytes: VecDeque<u8>,
}

/// What a decoder has.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame.
    Frame(Frame),
    /// Bytes that are no Ethernet frame: too short for one.
    Runt,
    /// More bytes are needed.
    Nothing,
    /// A length that no frame has: whatever comes next cannot be understood either.
    Nonsense(u32),
}

impl Decoder {
    /// Takes in bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next frame.
    pub fn pull(&mut self) -> Decoded {
        let mut prefix = [0; PREFIX];
        if self.bytes.len() < PREFIX {
            return Decoded::Nothing;
        }
        for (byte, &got) in prefix.iter_mut().zip(&self.bytes) {
            *byte = got;
        }
        let length = u32::from_be_bytes(prefix);
        let size = length as usize;
        if size > FRAME_MAX {
            return Decoded::Nonsense(length);
        }
        if self.bytes.len() < PREFIX + size {
            return Decoded::Nothing;
        }
        self.bytes.drain(..PREFIX);
        let frame: Vec<u8> = self.bytes.drain(..size).collect();
        if size < ETHERNET_HEADER_SIZE {
            Decoded::Runt
        } else {
            Decoded::Frame(Frame::from_ethernet(&frame, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(length: usize, seed: u8) -> Vec<u8> {
        (0..length).map(|index| (index as u8).wrapping_mul(7) ^ seed).collect()
    }

    #[test]
    fn frames_survive_reads_torn_anywhere() {
        let frames = [ethernet(14, 1), ethernet(60, 2), ethernet(1514, 3), ethernet(15, 4)];
        let mut stream = VecDeque::new();
        frames.iter().for_each(|frame| encode(frame, &mut stream));
        let stream: Vec<u8> = stream.into();
        for step in [1, 2, 3, 5, 17, 64, 1000, stream.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in stream.chunks(step) {
                decoder.push(part);
                while let Decoded::Frame(frame) = decoder.pull() {
                    got.push(frame.ethernet().to_vec());
                }
            }
            assert_eq!(got, frames, "{step} bytes at a time");
            assert_eq!(decoder.pull(), Decoded::Nothing);
        }
    }

    #[test]
    fn lengths_that_no_frame_has() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0]);
        assert_eq!(decoder.pull(), Decoded::Runt);
        assert_eq!(decoder.pull(), Decoded::Runt);
        assert_eq!(decoder.pull(), Decoded::Nothing);
        let too_long = FRAME_MAX as u32 + 1;
        decoder.push(&too_long.to_be_bytes());
        assert_eq!(decoder.pull(), Decoded::Nonsense(too_long));
        let mut longest = Decoder::default();
        longest.push(&(FRAME_MAX as u32).to_be_bytes());
        longest.push(&ethernet(FRAME_MAX, 9));
        assert!(matches!(longest.pull(), Decoded::Frame(frame) if frame.ethernet().len() == FRAME_MAX));
    }
}
