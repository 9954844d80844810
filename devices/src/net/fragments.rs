//! Putting IPv4 fragments together before libslirp sees them.
//!
//! libslirp's own reassembly can be made to write outside of its memory by fragments that overlap or have no length (version 4.7.0,
//! found by the test with random frames), so it never gets a fragment. IPv6 fragments it does not take at all.

use super::checksum::ones_complement_sum;
use super::frame::ETHERNET_HEADER_SIZE;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Datagrams that wait for fragments; a new one takes the place of the oldest.
const WAITING_MAX: usize = 16;
/// How long a datagram waits for its fragments (RFC 791, 3.2: the initial value of the timer).
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Longest datagram, header included.
const DATAGRAM_MAX: usize = 65535;
const IPV4: [u8; 2] = [0x08, 0x00];
const HEADER_MIN: usize = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// What tells datagrams apart: source, destination, identification and protocol.
type Key = ([u8; 8], [u8; 2], u8);

struct Datagram {
    key: Key,
    since: Instant,
    /// Ethernet and IPv4 header of the fragment at the start.
    headers: Option<Vec<u8>>,
    /// Payloads by their offset, in order, without overlap.
    parts: Vec<(usize, Vec<u8>)>,
    /// Bytes of the whole payload, once its end is there.
    length: Option<usize>,
}

/// Fragments that wait for others.
#[derive(Default)]
pub struct Fragments {
    waiting: VecDeque<Datagram>,
}

/// What a frame is for libslirp.
#[derive(Debug, PartialEq, Eq)]
pub enum Passed {
    /// No fragment: it goes on as it is.
    AsItIs,
    /// It was the last missing fragment of this frame.
    Whole(Vec<u8>),
    /// A fragment that waits for others, or that is wrong.
    Kept,
}

impl Fragments {
    /// Looks at a frame of the guest.
    pub fn pass(&mut self, ethernet: &[u8], now: Instant) -> Passed {
        let Some((header, payload)) = split(ethernet) else { return Passed::AsItIs };
        let field = u16::from_be_bytes([header[6], header[7]]);
        if field & (MORE_FRAGMENTS | OFFSET_MASK) == 0 {
            return Passed::AsItIs;
        }
        let (offset, more) = (usize::from(field & OFFSET_MASK) * 8, field & MORE_FRAGMENTS != 0);
        let end = offset + payload.len();
        let sound = ones_complement_sum(header) == 0xffff
            && !payload.is_empty()
            && (!more || payload.len().is_multiple_of(8))
            && end + header.len() <= DATAGRAM_MAX;
        if !sound {
            return Passed::Kept;
        }
        let mut source_and_destination = [0; 8];
        source_and_destination.copy_from_slice(&header[12..20]);
        let key = (source_and_destination, [header[4], header[5]], header[9]);
        self.waiting.retain(|datagram| now.saturating_duration_since(datagram.since) < WAIT_MAX);
        let known = self.waiting.iter().position(|datagram| datagram.key == key);
        let mut datagram = known.and_then(|at| self.waiting.remove(at)).unwrap_or_else(|| Datagram {
            key,
            since: now,
            headers: None,
            parts: Vec::new(),
            length: None,
        });
        if !datagram.add(offset, payload, more) {
            // Nobody sends overlapping fragments by accident: the whole datagram goes.
            return Passed::Kept;
        }
        if offset == 0 {
            datagram.headers = Some(ethernet[..ETHERNET_HEADER_SIZE + header.len()].to_vec());
        }
        if let Some(frame) = datagram.whole() {
            return Passed::Whole(frame);
        }
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(datagram);
        Passed::Kept
    }
}

/// Header and payload of an IPv4 frame, without padding. `None`: it is something else, or not even that.
fn split(ethernet: &[u8]) -> Option<(&[u8], &[u8])> {
    let ip = ethernet.get(ETHERNET_HEADER_SIZE..)?;
    if ethernet[12..ETHERNET_HEADER_SIZE] != IPV4 || ip.len() < HEADER_MIN || ip[0] >> 4 != 4 {
        return None;
    }
    let header_size = usize::from(ip[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if header_size < HEADER_MIN {
        return None;
    }
    ip.get(..total)?.split_at_checked(header_size)
}

impl Datagram {
    /// Adds a payload. False: it contradicts what is there.
    fn add(&mut self, offset: usize, payload: &[u8], more: bool) -> bool {
        let end = offset + payload.len();
        let at = self.parts.partition_point(|(start, _)| *start < offset);
        let before = at.checked_sub(1).map_or(0, |at| self.parts[at].0 + self.parts[at].1.len());
        let after = self.parts.get(at).map_or(usize::MAX, |part| part.0);
        let last_end = self.parts.last().map_or(0, |(start, bytes)| start + bytes.len());
        let length_agrees = match (self.length, more) {
            (Some(_), false) => false,
            (Some(length), true) => end <= length,
            (None, false) => end >= last_end,
            (None, true) => true,
        };
        if offset < before || end > after || !length_agrees {
            return false;
        }
        if !more {
            self.length = Some(end);
        }
        self.parts.insert(at, (offset, payload.to_vec()));
        true
    }

    /// The frame, if nothing is missing.
    fn whole(&self) -> Option<Vec<u8>> {
        let (length, headers) = (self.length?, self.headers.as_ref()?);
        let there: usize = self.parts.iter().map(|(_, bytes)| bytes.len()).sum();
        let total = headers.len() - ETHERNET_HEADER_SIZE + length;
        if there < length || total > DATAGRAM_MAX {
            return None;
        }
        let mut frame = headers.clone();
        let ip = &mut frame[ETHERNET_HEADER_SIZE..];
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        ip[6..8].fill(0);
        ip[10..12].fill(0);
        let sum = !ones_complement_sum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        self.parts.iter().for_each(|(_, bytes)| frame.extend_from_slice(bytes));
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(id: u8, offset: usize, payload: &[u8], more: bool) -> Vec<u8> {
        let mut frame = vec![0x52; 12];
        frame.extend(IPV4);
        let field = (offset / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
        let mut ip = vec![0x45, 0];
        ip.extend((20 + payload.len() as u16).to_be_bytes());
        ip.extend([0, id]);
        ip.extend(field.to_be_bytes());
        ip.extend([64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        let sum = !ones_complement_sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend(payload);
        frame
    }

    fn payload(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7) as u8).collect()
    }

    #[test]
    fn every_order_gives_the_datagram() {
        let bytes = payload(2001);
        let parts = [(0, 800, true), (800, 1600, true), (1600, 2001, false)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (mut fragments, now) = (Fragments::default(), Instant::now());
            let mut passed = order.map(|index| {
                let (start, end, more) = parts[index];
                fragments.pass(&fragment(1, start, &bytes[start..end], more), now)
            });
            let whole = std::mem::replace(&mut passed[2], Passed::Kept);
            assert_eq!(passed, [Passed::Kept, Passed::Kept, Passed::Kept]);
            assert_eq!(whole, Passed::Whole(fragment(1, 0, &bytes, false)), "{order:?}");
            assert!(fragments.waiting.is_empty());
        }
    }

    #[test]
    fn what_is_no_fragment_goes_on() {
        let mut fragments = Fragments::default();
        let mut other = fragment(1, 8, &payload(8), true);
        other[13] = 6;
        for frame in [fragment(1, 0, &payload(33), false), other, vec![0; 14], vec![8; 33]] {
            assert_eq!(fragments.pass(&frame, Instant::now()), Passed::AsItIs);
        }
    }

    #[test]
    fn wrong_ones_are_dropped_with_their_datagram() {
        for second in [
            fragment(1, 0, &payload(16), true),
            fragment(1, 8, &payload(16), true),
            fragment(1, 8, &payload(8), false),
            fragment(1, 16, &payload(8), false),
        ] {
            let (mut fragments, now) = (Fragments::default(), Instant::now());
            assert_eq!(fragments.pass(&fragment(1, 0, &payload(24), true), now), Passed::Kept);
            assert_eq!(fragments.pass(&second, now), Passed::Kept);
            assert!(fragments.waiting.is_empty(), "{second:?}");
        }
        let mut damaged = fragment(1, 0, &payload(8), true);
        damaged[14 + 8] ^= 1;
        for alone in [
            fragment(1, 0, &payload(7), true),
            fragment(1, 8, &[], true),
            fragment(1, 65528, &payload(8), false),
            damaged,
        ] {
            let mut fragments = Fragments::default();
            assert_eq!(fragments.pass(&alone, Instant::now()), Passed::Kept);
            assert!(fragments.waiting.is_empty(), "{alone:?}");
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        for id in 0..100 {
            fragments.pass(&fragment(id, 0, &payload(8), true), now);
        }
        assert_eq!(fragments.waiting.len(), WAITING_MAX);
        fragments.pass(&fragment(200, 0, &payload(8), true), now + WAIT_MAX);
        assert_eq!(fragments.waiting.len(), 1);
    }
}
