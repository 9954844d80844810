//! Driver side of a split virtqueue in a window (virtio 1.2, 2.7).
//!
//! Each descriptor has its own fixed buffer, so a request is one descriptor and its number says where its bytes are. All
//! that the back-end writes, used index, ids and lengths, is checked here and nowhere else.

use super::error::WindowError;
use super::memory::WindowMemory;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

const DESCRIPTOR_SIZE: usize = 16;
const DESCRIPTOR_WRITE: u16 = 2;
const AVAIL_RING: usize = 4;
const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_RING: usize = 4;
const USED_ELEMENT_SIZE: usize = 8;
const USED_NO_NOTIFY: u16 = 1;

/// Which way a queue's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The back-end reads them.
    ToDevice,
    /// The back-end writes them.
    FromDevice,
}

/// Shape of one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueShape {
    /// Number of requests, a power of two.
    pub size: u16,
    /// Bytes of each request's buffer.
    pub buffer_size: u32,
    /// Which way they go.
    pub direction: Direction,
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
    /// First buffer.
    pub buffers: usize,
    /// End of the last one.
    pub end: usize,
}

impl Layout {
    /// Lays a queue out from `start` on. A page is left before it: address 0 means "not set" to some back-ends.
    pub fn new(start: usize, shape: &QueueShape) -> Layout {
        const PAGE: usize = 4096;
        let size = usize::from(shape.size);
        let descriptors = start.max(PAGE).next_multiple_of(PAGE);
        let avail = descriptors + DESCRIPTOR_SIZE * size;
        let used = (avail + AVAIL_RING + 2 * size + 2).next_multiple_of(PAGE);
        let buffers = (used + USED_RING + USED_ELEMENT_SIZE * size + 2).next_multiple_of(PAGE);
        let end = (buffers + shape.buffer_size as usize * size).next_multiple_of(PAGE);
        Layout { descriptors, avail, used, buffers, end }
    }
}

/// A request that the back-end gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its descriptor.
    pub id: u16,
    /// Bytes written by the back-end.
    pub length: u32,
}

/// One virtqueue, seen from the driver.
pub struct DriverQueue {
    device: String,
    index: u16,
    shape: QueueShape,
    layout: Layout,
    /// Descriptors that are ours.
    free: Vec<u16>,
    /// Descriptors that are the back-end's.
    outstanding: Vec<bool>,
    outstanding_count: u16,
    /// Next available index; what the back-end sees of it is `published`.
    next_avail: u16,
    published: u16,
    next_used: u16,
}

impl DriverQueue {
    /// Sets up queue `index` of `device` at `layout`; nothing is offered yet.
    pub fn new(
        memory: &WindowMemory,
        device: &str,
        index: u16,
        shape: QueueShape,
        layout: Layout,
    ) -> DriverQueue {
        assert!(shape.size.is_power_of_two() && layout.end <= memory.size(), "the layout is in the window");
        let queue = DriverQueue {
            device: device.to_string(),
            index,
            shape,
            layout,
            free: (0..shape.size).rev().collect(),
            outstanding: vec![false; usize::from(shape.size)],
            outstanding_count: 0,
            next_avail: 0,
            published: 0,
            next_used: 0,
        };
        // A transmit queue is looked at when it is used again; only input is worth an interrupt.
        let flags = if shape.direction == Direction::ToDevice { AVAIL_NO_INTERRUPT } else { 0 };
        memory.store(flags.to_le(), layout.avail, Ordering::Relaxed);
        queue
    }

    /// Its number of requests, for the handshake.
    pub fn shape(&self) -> &QueueShape {
        &self.shape
    }

    /// Its place, for the handshake.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether a request can be offered.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Requests that are the back-end's.
    pub fn outstanding(&self) -> u16 {
        self.outstanding_count
    }

    /// Offset of the buffer of `id` in the window.
    pub fn buffer(&self, id: u16) -> Range<usize> {
        let size = self.shape.buffer_size as usize;
        let start = self.layout.buffers + usize::from(id) * size;
        start..start + size
    }

    /// Puts a request in the ring, for `publish` to show: `bytes` to the device, or the whole buffer from it.
    ///
    /// There must be a free one.
    pub fn offer(&mut self, memory: &WindowMemory, bytes: &[u8]) -> u16 {
        let id = self.free.pop().expect("callers ask has_free first");
        let buffer = self.buffer(id);
        let (length, flags) = match self.shape.direction {
            Direction::ToDevice => {
                assert!(bytes.len() <= buffer.len(), "callers cut output into buffers");
                memory.write(buffer.start, bytes);
                (bytes.len() as u32, 0)
            }
            Direction::FromDevice => (self.shape.buffer_size, DESCRIPTOR_WRITE),
        };
        let mut descriptor = [0; DESCRIPTOR_SIZE];
        descriptor[..8].copy_from_slice(&(buffer.start as u64).to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        memory.write(self.layout.descriptors + DESCRIPTOR_SIZE * usize::from(id), &descriptor);
        let slot = usize::from(self.next_avail % self.shape.size);
        memory.store(id.to_le(), self.layout.avail + AVAIL_RING + 2 * slot, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.outstanding[usize::from(id)] = true;
        self.outstanding_count += 1;
        id
    }

    /// Shows the back-end what was offered; true: it wants a kick.
    pub fn publish(&mut self, memory: &WindowMemory) -> bool {
        if self.published == self.next_avail {
            return false;
        }
        self.published = self.next_avail;
        memory.store(self.next_avail.to_le(), self.layout.avail + 2, Ordering::Release);
        // The index must be visible before the flag is read (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        u16::from_le(memory.load(self.layout.used, Ordering::Acquire)) & USED_NO_NOTIFY == 0
    }

    /// The next request that the back-end gave back. Its buffer is ours again at the next `offer`.
    pub fn take_used(&mut self, memory: &WindowMemory) -> Result<Option<Used>, WindowError> {
        let index = u16::from_le(memory.load(self.layout.used + 2, Ordering::Acquire));
        let ahead = index.wrapping_sub(self.next_used);
        if ahead == 0 {
            return Ok(None);
        }
        let (device, queue) = (|| self.device.clone(), self.index);
        if ahead > self.outstanding_count {
            let (seen, outstanding) = (self.next_used, self.outstanding_count);
            return Err(WindowError::UsedIndex { device: device(), queue, index, seen, outstanding });
        }
        let position = self.next_used;
        let slot = usize::from(position % self.shape.size);
        let mut element = [0; USED_ELEMENT_SIZE];
        memory.read(self.layout.used + USED_RING + USED_ELEMENT_SIZE * slot, &mut element);
        let [id, length] = [0, 4]
            .map(|at| u32::from_le_bytes([element[at], element[at + 1], element[at + 2], element[at + 3]]));
        let known = self.outstanding.get(id as usize).copied().unwrap_or(false);
        if !known {
            return Err(WindowError::UsedId { device: device(), queue, position, id });
        }
        let buffer = match self.shape.direction {
            Direction::ToDevice => 0,
            Direction::FromDevice => self.shape.buffer_size,
        };
        if length > buffer {
            return Err(WindowError::UsedLength { device: device(), queue, position, length, buffer });
        }
        self.outstanding[id as usize] = false;
        self.outstanding_count -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        let id = id as u16;
        self.free.push(id);
        Ok(Some(Used { id, length }))
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
