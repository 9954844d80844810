//! Driver side of a split virtqueue in a window (virtio 1.2, 2.7), for requests of any size.
//!
//! A request has one place in the window with all its bytes. All that the back-end writes, used index, ids and lengths, is
//! checked here and nowhere else.

use super::arena::Arena;
use super::error::WindowError;
use super::memory::WindowMemory;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};

const DESCRIPTOR_SIZE: usize = 16;
const INDEX: usize = 2;
const RING: usize = 4;
const USED_ELEMENT_SIZE: usize = 8;
const PAGE: usize = 4096;
/// Most descriptors of a request: head, rest, data, tail.
const PARTS_MAX: usize = 4;

/// Shape of one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueShape {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Bytes for requests.
    pub arena_bytes: usize,
    /// The back-end signals what it has done.
    pub signals: bool,
}

/// Places of a queue's parts in the window.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Descriptor table.
    pub descriptors: usize,
    /// Available ring, written by us.
    pub avail: usize,
    /// Used ring, written by the back-end.
    pub used: usize,
    /// Requests begin here.
    arena: usize,
    /// End of the requests.
    pub end: usize,
}

impl Layout {
    /// Lays a queue out from `start` on. A page is left before it: address 0 means "not set" to some back-ends.
    pub fn new(start: usize, shape: &QueueShape) -> Layout {
        let size = usize::from(shape.size);
        let descriptors = start.max(PAGE).next_multiple_of(PAGE);
        let avail = descriptors + DESCRIPTOR_SIZE * size;
        let used = (avail + RING + 2 * size + 2).next_multiple_of(PAGE);
        let arena = (used + RING + USED_ELEMENT_SIZE * size + 2).next_multiple_of(PAGE);
        let end = (arena + shape.arena_bytes).next_multiple_of(PAGE);
        Layout { descriptors, avail, used, arena, end }
    }
}

/// Which parts of a request stand in descriptors of their own. Back-ends need not care (virtio 1.2, 2.7.4.2), some do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// First bytes of what the device reads.
    pub head: u32,
    /// Last bytes of what the device writes.
    pub tail: u32,
}

/// Whether there is room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Now,
    /// When the back-end has given others back.
    Later,
    /// It is larger than the window.
    Never,
}

/// A request that the back-end gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The caller's name for it.
    pub tag: T,
    /// Bytes that the back-end says it wrote.
    pub length: u32,
    /// The whole buffer that it could write.
    pub bytes: Vec<u8>,
}

struct Slot<T> {
    tag: T,
    place: Range<usize>,
    /// Descriptors in the ring's table, head first.
    ring: Vec<u16>,
    /// Parts as offered: address, length, flags.
    parts: Vec<(usize, u32, u32)>,
    /// What the device writes.
    into: Range<usize>,
    /// Order of submission.
    sequence: u64,
}

/// One virtqueue, seen from the driver.
pub struct RequestQueue<T> {
    device: String,
    index: u16,
    shape: QueueShape,
    layout: Layout,
    indirect: bool,
    arena: Arena,
    free: Vec<u16>,
    /// Requests that are the back-end's, by head.
    slots: Vec<Option<Slot<T>>>,
    outstanding: usize,
    sequence: u64,
    next_avail: u16,
    /// What the back-end sees of `next_avail`.
    published: u16,
    next_used: u16,
}

impl<T: Clone> RequestQueue<T> {
    /// Sets up queue `index` of `device` at `layout`.
    pub fn new(device: &str, index: u16, shape: QueueShape, layout: Layout) -> RequestQueue<T> {
        assert!(shape.size.is_power_of_two(), "sizes of queues are powers of two");
        RequestQueue {
            device: device.to_string(),
            index,
            shape,
            layout,
            indirect: false,
            arena: Arena::new(layout.arena..layout.end),
            free: Vec::new(),
            slots: Vec::new(),
            outstanding: 0,
            sequence: 0,
            next_avail: 0,
            published: 0,
            next_used: 0,
        }
    }

    /// Empties the queue for a start of the rings; what was outstanding is forgotten.
    pub fn reset(&mut self, memory: &WindowMemory, indirect: bool) {
        for slot in self.slots.drain(..).flatten() {
            self.arena.give(slot.place);
        }
        self.free = (0..self.shape.size).rev().collect();
        self.slots = (0..self.shape.size).map(|_| None).collect();
        (self.outstanding, self.next_avail, self.published, self.next_used) = (0, 0, 0, 0);
        self.indirect = indirect;
        let rings = self.layout.avail..self.layout.arena;
        memory.write(rings.start, &vec![0; rings.len()]);
        let flags = if self.shape.signals { 0 } else { VRING_AVAIL_F_NO_INTERRUPT as u16 };
        memory.store(flags.to_le(), self.layout.avail, Ordering::Relaxed);
    }

    /// Its shape.
    pub fn shape(&self) -> &QueueShape {
        &self.shape
    }

    /// Its place, for the handshake.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Requests that are the back-end's.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether a request with these sizes can be submitted.
    pub fn room(&mut self, out: usize, into: usize) -> Room {
        let size = request_size(out, into);
        if !self.arena.can_hold(size) {
            return Room::Never;
        }
        let descriptors = if self.indirect { 1 } else { PARTS_MAX };
        if self.free.len() < descriptors {
            return Room::Later;
        }
        match self.arena.take(size) {
            Some(place) => {
                self.arena.give(place);
                Room::Now
            }
            None => Room::Later,
        }
    }

    /// Puts a request in the ring, for `publish` to show. There must be room.
    pub fn submit(&mut self, memory: &WindowMemory, tag: T, out: &[u8], into: usize, framing: Framing) {
        let place = self.arena.take(request_size(out.len(), into)).expect("callers ask for room first");
        let readable = place.start..place.start + out.len();
        let start = readable.end.next_multiple_of(DESCRIPTOR_SIZE);
        let into = start..start + into;
        memory.write(readable.start, out);
        let mut parts = Vec::with_capacity(PARTS_MAX);
        let (head, rest) = split(&readable, framing.head.min(out.len() as u32) as usize);
        let (data, tail) = split(&into, into.len() - into.len().min(framing.tail as usize));
        for (part, flags) in [(head, 0), (rest, 0), (data, VRING_DESC_F_WRITE), (tail, VRING_DESC_F_WRITE)] {
            if !part.is_empty() {
                parts.push((part.start, part.len() as u32, flags));
            }
        }
        assert!(!parts.is_empty(), "a request has bytes");
        let sequence = self.sequence;
        self.sequence += 1;
        self.offer(memory, Slot { tag, place, ring: Vec::new(), parts, into, sequence });
    }

    fn offer(&mut self, memory: &WindowMemory, mut slot: Slot<T>) {
        let table_at = slot.place.end - DESCRIPTOR_SIZE * PARTS_MAX;
        if self.indirect && slot.parts.len() > 1 {
            for (number, &(at, length, flags)) in slot.parts.iter().enumerate() {
                let last = number + 1 == slot.parts.len();
                let next = if last { flags } else { flags | VRING_DESC_F_NEXT };
                write_descriptor(memory, table_at, number, at, length, next, number as u16 + 1);
            }
            let head = self.free.pop().expect("callers ask for room first");
            let length = (DESCRIPTOR_SIZE * slot.parts.len()) as u32;
            let table = self.layout.descriptors;
            write_descriptor(memory, table, usize::from(head), table_at, length, VRING_DESC_F_INDIRECT, 0);
            slot.ring = vec![head];
        } else {
            let at = self.free.len() - slot.parts.len();
            slot.ring = self.free.split_off(at);
            for (index, &(at, length, flags)) in slot.parts.iter().enumerate() {
                let next = slot.ring.get(index + 1).copied();
                let flags = if next.is_some() { flags | VRING_DESC_F_NEXT } else { flags };
                let number = usize::from(slot.ring[index]);
                let table = self.layout.descriptors;
                write_descriptor(memory, table, number, at, length, flags, next.unwrap_or(0));
            }
        }
        let head = slot.ring[0];
        let position = usize::from(self.next_avail % self.shape.size);
        memory.store(head.to_le(), self.layout.avail + RING + 2 * position, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.slots[usize::from(head)] = Some(slot);
        self.outstanding += 1;
    }

    /// Offers all that is outstanding once more, in the order of its submission, to a back-end that knows nothing.
    pub fn submit_again(&mut self, memory: &WindowMemory, indirect: bool) {
        let mut slots: Vec<Slot<T>> = self.slots.iter_mut().filter_map(Option::take).collect();
        slots.sort_by_key(|slot| slot.sequence);
        self.reset(memory, indirect);
        slots.into_iter().for_each(|slot| self.offer(memory, slot));
    }

    /// Shows the back-end what was submitted; true: it wants a kick.
    pub fn publish(&mut self, memory: &WindowMemory) -> bool {
        if self.published == self.next_avail {
            return false;
        }
        self.published = self.next_avail;
        memory.store(self.next_avail.to_le(), self.layout.avail + INDEX, Ordering::Release);
        // The index must be visible before the flag is read (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        let flags = u16::from_le(memory.load(self.layout.used, Ordering::Acquire));
        u32::from(flags) & VRING_USED_F_NO_NOTIFY == 0
    }

    /// The next request that the back-end gave back.
    pub fn take(&mut self, memory: &WindowMemory) -> Result<Option<Done<T>>, WindowError> {
        let index = u16::from_le(memory.load(self.layout.used + INDEX, Ordering::Acquire));
        let ahead = index.wrapping_sub(self.next_used);
        if ahead == 0 {
            return Ok(None);
        }
        let (device, queue, seen) = (|| self.device.clone(), self.index, self.next_used);
        if usize::from(ahead) > self.outstanding {
            let outstanding = self.outstanding as u16;
            return Err(WindowError::UsedIndex { device: device(), queue, index, seen, outstanding });
        }
        let position = usize::from(seen % self.shape.size);
        let mut element = [0; USED_ELEMENT_SIZE];
        memory.read(self.layout.used + RING + USED_ELEMENT_SIZE * position, &mut element);
        let [id, length] = [0, 4]
            .map(|at| u32::from_le_bytes([element[at], element[at + 1], element[at + 2], element[at + 3]]));
        let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::take) else {
            return Err(WindowError::UsedId { device: device(), queue, position: seen, id });
        };
        if length as usize > slot.into.len() {
            let buffer = slot.into.len() as u32;
            return Err(WindowError::UsedLength { device: device(), queue, position: seen, length, buffer });
        }
        let mut bytes = vec![0; slot.into.len()];
        memory.read(slot.into.start, &mut bytes);
        self.outstanding -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        self.free.extend(slot.ring);
        self.arena.give(slot.place);
        Ok(Some(Done { tag: slot.tag, length, bytes }))
    }
}

fn split(range: &Range<usize>, at: usize) -> (Range<usize>, Range<usize>) {
    (range.start..range.start + at, range.start + at..range.end)
}

/// Bytes of a request's place: what goes out, what comes in, a table of descriptors at the end.
fn request_size(out: usize, into: usize) -> usize {
    let parts = [out, into, DESCRIPTOR_SIZE * PARTS_MAX];
    parts.iter().fold(2 * DESCRIPTOR_SIZE, |sum, part| sum.saturating_add(*part))
}

fn write_descriptor(
    memory: &WindowMemory,
    table: usize,
    number: usize,
    at: usize,
    length: u32,
    flags: u32,
    next: u16,
) {
    let mut bytes = [0; DESCRIPTOR_SIZE];
    bytes[..8].copy_from_slice(&(at as u64).to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&(flags as u16).to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    memory.write(table + DESCRIPTOR_SIZE * number, &bytes);
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
