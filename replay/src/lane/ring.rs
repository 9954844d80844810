//! One direction of the lane: messages as a stream of words, one producer, one consumer.
//!
//! A frame is one word with the payload's length in the low half and its complement in the high half, then the
//! payload, padded with zeros to whole words. A frame may be longer than the ring: the producer keeps what does not
//! fit and the consumer collects pieces, so nothing is lost and nothing blocks here.
//!
//! Each end keeps its own position in private memory and believes the peer's only after a check, so a peer that
//! writes garbage causes an error at the next message, never a panic or an access out of bounds.

use super::LaneError;
use super::layout::{RING_WORDS, Ring};
use crate::codec::ENCODED_BYTES_MAX;
use std::sync::atomic::Ordering;

/// Bytes of a word.
const WORD_BYTES: usize = 8;
/// Most bytes that wait in private memory for space in the ring, before a caller is told that it sends too fast.
pub const BACKLOG_BYTES_MAX: usize = 4 * ENCODED_BYTES_MAX;

/// Writes frames into a ring.
#[derive(Debug, Default)]
pub struct Producer {
    written: u64,
    backlog: Vec<u64>,
    backlog_start: usize,
}

impl Producer {
    /// Takes a message; [`Producer::transfer`] moves it into the ring.
    pub fn enqueue(&mut self, payload: &[u8]) -> Result<(), LaneError> {
        if payload.len() > ENCODED_BYTES_MAX {
            return Err(LaneError::TooLong { bytes: payload.len() });
        }
        if self.backlog_bytes() + payload.len() > BACKLOG_BYTES_MAX {
            return Err(LaneError::Overrun { bytes: self.backlog_bytes() });
        }
        self.backlog.drain(..self.backlog_start);
        self.backlog_start = 0;
        self.backlog.push(frame_head(payload.len()));
        self.backlog.extend(payload.chunks(WORD_BYTES).map(|chunk| {
            let mut bytes = [0; WORD_BYTES];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(bytes)
        }));
        Ok(())
    }

    /// Moves as much as fits into the ring; says whether anything moved.
    pub fn transfer(&mut self, ring: &Ring) -> Result<bool, LaneError> {
        let waiting = &self.backlog[self.backlog_start..];
        if waiting.is_empty() {
            return Ok(false);
        }
        let count = waiting.len().min(RING_WORDS - self.used(ring)?);
        for (index, word) in waiting[..count].iter().enumerate() {
            ring.words[(self.written as usize + index) % RING_WORDS].store(*word, Ordering::Relaxed);
        }
        self.written += count as u64;
        self.backlog_start += count;
        ring.written.0.store(self.written, Ordering::Release);
        if self.backlog_start == self.backlog.len() {
            self.backlog.clear();
            self.backlog_start = 0;
        }
        Ok(count > 0)
    }

    /// Words in the ring that the consumer has not read yet.
    pub fn used(&self, ring: &Ring) -> Result<usize, LaneError> {
        distance(self.written, ring.read.0.load(Ordering::Acquire), "read position")
    }

    /// Bytes that wait for space in the ring.
    pub fn backlog_bytes(&self) -> usize {
        (self.backlog.len() - self.backlog_start) * WORD_BYTES
    }
}

/// Reads frames out of a ring.
#[derive(Debug, Default)]
pub struct Consumer {
    read: u64,
    frame: Option<usize>,
    payload: Vec<u8>,
}

impl Consumer {
    /// The next whole message, if there is one.
    pub fn next(&mut self, ring: &Ring) -> Result<Option<Vec<u8>>, LaneError> {
        let mut available = self.available(ring)?;
        if self.frame.is_none() {
            if available == 0 {
                return Ok(None);
            }
            self.frame = Some(frame_length(self.take(ring))?);
            available -= 1;
        }
        let length = self.frame.expect("set above");
        let missing = (length - length.min(self.payload.len())).div_ceil(WORD_BYTES);
        for _ in 0..missing.min(available) {
            let word = self.take(ring);
            self.payload.extend_from_slice(&word.to_le_bytes());
        }
        ring.read.0.store(self.read, Ordering::Release);
        if missing > available {
            return Ok(None);
        }
        self.frame = None;
        let mut payload = std::mem::take(&mut self.payload);
        payload.truncate(length);
        Ok(Some(payload))
    }

    /// Words in the ring that have not been read yet.
    pub fn available(&self, ring: &Ring) -> Result<usize, LaneError> {
        distance(ring.written.0.load(Ordering::Acquire), self.read, "write position")
    }

    fn take(&mut self, ring: &Ring) -> u64 {
        let word = ring.words[self.read as usize % RING_WORDS].load(Ordering::Relaxed);
        self.read += 1;
        word
    }
}

fn frame_head(length: usize) -> u64 {
    u64::from(!(length as u32)) << 32 | length as u64
}

fn frame_length(head: u64) -> Result<usize, LaneError> {
    let length = head as u32;
    if (head >> 32) as u32 != !length || length as usize > ENCODED_BYTES_MAX {
        return Err(LaneError::Corrupt { what: format!("frame head {head:#018x}") });
    }
    Ok(length as usize)
}

/// Words between two positions, if that is a number a ring can hold.
fn distance(written: u64, read: u64, peer_word: &str) -> Result<usize, LaneError> {
    match written.checked_sub(read) {
        Some(words) if words <= RING_WORDS as u64 => Ok(words as usize),
        _ => Err(LaneError::Corrupt { what: format!("{peer_word}: written {written}, read {read}") }),
    }
}
