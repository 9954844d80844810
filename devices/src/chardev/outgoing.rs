//! Output on its way to the host, and the requests it came from.

use super::log::Log;
use super::stream::Stream;
use std::collections::VecDeque;

/// Output that the host has not taken yet, in order. Bounded by what callers put in: they ask `room` first.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// How many of `bytes` the host has taken.
    taken: usize,
    /// Position of `bytes[0]` in all output.
    start: u64,
    /// Requests whose last byte is at this position.
    requests: VecDeque<(u64, u16)>,
}

/// Output is collected up to this before the host takes it.
const OUTGOING_MAX: usize = 32 * 1024;

impl Outgoing {
    /// How many more bytes should be put in now.
    pub fn room(&self) -> usize {
        OUTGOING_MAX.saturating_sub(self.bytes.len())
    }

    /// Where output is appended.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes put in so far are all of request `head`.
    pub fn end_request(&mut self, head: u16) {
        self.requests.push_back((self.start + self.bytes.len() as u64, head));
    }

    /// Gives the host what it takes.
    pub fn write_to(&mut self, stream: &mut dyn Stream, log: Option<&mut Log>) {
        let before = self.taken;
        while self.taken < self.bytes.len() {
            match stream.write(&self.bytes[self.taken..]) {
                Some(count) => self.taken += count,
                None => break,
            }
        }
        if let Some(log) = log {
            log.write(&self.bytes[before..self.taken]);
        }
        if self.taken == self.bytes.len() {
            self.start += self.bytes.len() as u64;
            self.bytes.clear();
            self.taken = 0;
        }
    }

    /// The next request whose bytes were all taken.
    pub fn next_completed(&mut self) -> Option<u16> {
        let taken = self.start + self.taken as u64;
        let &(end, head) = self.requests.front()?;
        (end <= taken).then(|| {
            self.requests.pop_front();
            head
        })
    }

    /// Whether the host has taken everything.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
