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
    /// Requests that are here whole: where their bytes begin and end.
    requests: VecDeque<(u64, u64, u16)>,
    /// Where the bytes of a request begin that is not here whole.
    begun: Option<u64>,
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

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn taken_until(&self) -> u64 {
        self.start + self.taken as u64
    }

    /// What is put in from here on is of a request, new or the one that was begun.
    pub fn begin_request(&mut self) {
        let end = self.end();
        self.begun.get_or_insert(end);
    }

    /// The bytes put in so far are all of request `head`.
    pub fn end_request(&mut self, head: u16) {
        let end = self.end();
        self.requests.push_back((self.begun.take().unwrap_or(end), end, head));
    }

    /// Whether the host has taken some of the request that is not here whole.
    pub fn is_begun_taken(&self) -> bool {
        self.begun.is_some_and(|begin| begin < self.taken_until())
    }

    /// The request of which the host has taken some bytes and not all, if it is here whole.
    pub fn half_taken(&self) -> Option<u16> {
        let &(begin, end, head) = self.requests.front()?;
        let taken = self.taken_until();
        (begin < taken && taken < end).then_some(head)
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
            self.drop_all();
        }
    }

    /// Forgets output that is of no request.
    pub fn drop_all(&mut self) {
        self.start += self.bytes.len() as u64;
        self.bytes.clear();
        self.taken = 0;
    }

    /// The next request whose bytes were all taken.
    pub fn next_completed(&mut self) -> Option<u16> {
        let taken = self.taken_until();
        let &(_, end, head) = self.requests.front()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_request_was_taken_in_part_is_known() {
        let mut outgoing = Outgoing::default();
        let put = |outgoing: &mut Outgoing, count| outgoing.bytes().extend(vec![0; count]);
        outgoing.begin_request();
        put(&mut outgoing, 10);
        outgoing.end_request(7);
        // What a monitor shows belongs to no request.
        put(&mut outgoing, 5);
        outgoing.begin_request();
        put(&mut outgoing, 4);
        for (taken, completed, half, begun) in [
            (0, None, None, false),
            (3, None, Some(7), false),
            (10, Some(7), None, false),
            (15, None, None, false),
        ] {
            outgoing.taken = taken;
            assert_eq!((outgoing.half_taken(), outgoing.is_begun_taken()), (half, begun), "{taken}");
            assert_eq!(outgoing.next_completed(), completed);
        }
        outgoing.taken = 16;
        assert!(outgoing.is_begun_taken());
        // It goes on, and is the same request.
        outgoing.begin_request();
        put(&mut outgoing, 1);
        outgoing.end_request(9);
        assert_eq!(outgoing.half_taken(), Some(9));
        outgoing.taken = 20;
        assert_eq!((outgoing.next_completed(), outgoing.half_taken()), (Some(9), None));
    }
}
