//! Device side of a split virtqueue in guest RAM (virtio 1.2, 2.7).
//!
//! Nothing in the guest's ring is believed: every index, length and address is checked here, once. What breaks the rules is
//! a [`RingFault`], upon which the device needs a reset. All reads and writes happen between two instructions, at a
//! place that an icount names.

use crate::mem::ram::Ram;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};

/// Size of a descriptor in bytes.
const DESCRIPTOR_SIZE: u64 = 16;
/// Offset of the index in either ring, and of the ring behind it.
const INDEX: u64 = 2;
const RING: u64 = 4;
const USED_ELEMENT_SIZE: u64 = 8;
/// Most descriptors of a chain: the largest queue that there is. Indirect tables may be longer than the queue.
const CHAIN_MAX: u32 = 1024;

/// What is wrong with a ring of the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each field stands in the text above its variant")]
pub enum RingFault {
    /// A part of the ring is not in RAM.
    #[error("the {part} at {gpa:#x} is not in RAM")]
    Outside { part: &'static str, gpa: u64 },
    /// A part of the ring is not aligned.
    #[error("the {part} at {gpa:#x} is not aligned to {align} bytes")]
    Misaligned { part: &'static str, gpa: u64, align: u64 },
    /// The driver's index ran ahead of the size.
    #[error("the available index {index} is {ahead} ahead of {seen}, the queue has {size}")]
    Index { index: u16, seen: u16, ahead: u16, size: u16 },
    /// A descriptor number is not in the table.
    #[error("descriptor {number} of a table of {size}")]
    Number { number: u32, size: u32 },
    /// A chain has no end or is too long.
    #[error("the chain at descriptor {head} has more than {CHAIN_MAX} descriptors")]
    Endless { head: u16 },
    /// A buffer that the device reads stands behind one that it writes.
    #[error("the chain at descriptor {head} has a readable buffer behind a writable one")]
    Order { head: u16 },
    /// An indirect descriptor is not as it must be.
    #[error("the indirect table of descriptor {head} has {length} bytes, or is not allowed there")]
    Indirect { head: u16, length: u32 },
    /// A buffer is not in RAM.
    #[error("the buffer of {length} bytes at {gpa:#x} is not in RAM")]
    Buffer { gpa: u64, length: u32 },
    /// The buffers of a chain have more bytes than a length can say, or than a window can hold.
    #[error("the chain at descriptor {head} has too many bytes")]
    TooLong { head: u16 },
    /// A request was made available again before it was used.
    #[error("descriptor {head} was made available again before it was used")]
    Twice { head: u16 },
}

/// A buffer in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes; not zero.
    pub length: u32,
}

/// A descriptor chain, checked: all buffers are in RAM and fewer than 4 GiB together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Number of the first descriptor, by which the chain is given back.
    pub head: u16,
    /// Buffers that the device reads.
    pub readable: Vec<Segment>,
    /// Buffers that the device writes.
    pub writable: Vec<Segment>,
}

/// The fault of a driver that lets the device serve a ring and keeps it from the bus.
pub fn unreachable(gpa: u64) -> RingFault {
    RingFault::Outside { part: "available ring, without bus mastering,", gpa }
}

/// Bytes in buffers.
pub fn length(segments: &[Segment]) -> u32 {
    segments.iter().map(|segment| segment.length).sum()
}

/// Copies the bytes of readable buffers out of RAM.
pub fn gather(ram: &Ram, segments: &[Segment]) -> Vec<u8> {
    let mut bytes = vec![0; length(segments) as usize];
    let mut at = 0;
    for segment in segments {
        let end = at + segment.length as usize;
        assert!(
            ram.read_bytes(segment.gpa, &mut bytes[at..end]),
            "segments were checked when they were popped"
        );
        at = end;
    }
    bytes
}

/// Copies bytes into writable buffers as far as they go.
pub fn scatter(ram: &mut Ram, segments: &[Segment], mut bytes: &[u8]) {
    for segment in segments {
        let (now, later) = bytes.split_at(bytes.len().min(segment.length as usize));
        assert!(ram.device_write(segment.gpa, now), "segments were checked when they were popped");
        bytes = later;
    }
}

/// Where a queue is and how far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRing {
    size: u16,
    descriptors: u64,
    driver_area: u64,
    device_area: u64,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    /// Used index at the last interrupt.
    signalled: u16,
}

struct Descriptor {
    gpa: u64,
    length: u32,
    flags: u32,
    next: u16,
}

impl GuestRing {
    /// A queue at its start. `size` is a power of two.
    pub fn new(
        size: u16,
        descriptors: u64,
        driver_area: u64,
        device_area: u64,
        event_idx: bool,
    ) -> GuestRing {
        assert!(size.is_power_of_two(), "the transport checks the size");
        GuestRing { size, descriptors, driver_area, device_area, event_idx, ..GuestRing::default() }
    }

    /// The next chain that the driver made available.
    pub fn pop(&mut self, ram: &Ram) -> Result<Option<Chain>, RingFault> {
        let index = self.avail_index(ram)?;
        let ahead = index.wrapping_sub(self.next_avail);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.size {
            return Err(RingFault::Index { index, seen: self.next_avail, ahead, size: self.size });
        }
        let slot = u64::from(self.next_avail % self.size);
        let head = u16::from_le_bytes(read(ram, self.driver_area, RING + 2 * slot, "available ring")?);
        let chain = self.walk(ram, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the chain of the last `pop` back.
    pub fn unpop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Leaves the chains before `index` out.
    pub(super) fn skip_to(&mut self, index: u16) {
        self.next_avail = index;
    }

    /// Leaves the next chain out.
    pub(super) fn skip(&mut self) {
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Descriptors in its table.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Index up to which a back-end that serves the ring itself has given chains back.
    pub(super) fn used_index(&self, ram: &Ram) -> Result<u16, RingFault> {
        Ok(u16::from_le_bytes(read(ram, self.device_area, INDEX, "used ring")?))
    }

    /// The next chain that such a back-end gave back before `index`: its first descriptor.
    pub(super) fn take_used(&mut self, ram: &Ram, index: u16) -> Result<Option<u32>, RingFault> {
        if index == self.next_used {
            return Ok(None);
        }
        let slot = u64::from(self.next_used % self.size);
        let head = read(ram, self.device_area, RING + USED_ELEMENT_SIZE * slot, "used ring")?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(u32::from_le_bytes(head)))
    }

    /// Chains that such a back-end gave back before `index` and that were not taken; only the last of them can be found.
    pub(super) fn used_ahead(&mut self, index: u16) -> u16 {
        let ahead = index.wrapping_sub(self.next_used);
        if ahead > self.size {
            self.next_used = index.wrapping_sub(self.size);
        }
        ahead
    }

    /// Checks that all its parts are in RAM and aligned (virtio 1.2, 2.7).
    pub(super) fn check(&self, ram: &Ram) -> Result<(), RingFault> {
        let size = u64::from(self.size);
        for (part, gpa, length, align) in [
            ("descriptor table", self.descriptors, DESCRIPTOR_SIZE * size, 16),
            ("available ring", self.driver_area, RING + 2 * size + 2, 2),
            ("used ring", self.device_area, RING + USED_ELEMENT_SIZE * size + 2, 4),
        ] {
            if !gpa.is_multiple_of(align) {
                return Err(RingFault::Misaligned { part, gpa, align });
            }
            if !ram.contains_range(gpa, length) {
                return Err(RingFault::Outside { part, gpa });
            }
        }
        Ok(())
    }

    pub(super) fn avail_index(&self, ram: &Ram) -> Result<u16, RingFault> {
        Ok(u16::from_le_bytes(read(ram, self.driver_area, INDEX, "available ring")?))
    }

    fn walk(&self, ram: &Ram, head: u16) -> Result<Chain, RingFault> {
        let mut chain = Chain { head, ..Chain::default() };
        let (mut table, mut table_size) = (self.descriptors, u32::from(self.size));
        let mut number = u32::from(head);
        let mut bytes = 0u64;
        let mut indirect = false;
        for _ in 0..CHAIN_MAX {
            let descriptor = descriptor(ram, table, number, table_size)?;
            if descriptor.flags & VRING_DESC_F_INDIRECT != 0 {
                let length = descriptor.length;
                let whole = length != 0 && u64::from(length).is_multiple_of(DESCRIPTOR_SIZE);
                if indirect || descriptor.flags & VRING_DESC_F_NEXT != 0 || !whole {
                    return Err(RingFault::Indirect { head, length });
                }
                (table, table_size, number) = (descriptor.gpa, length / DESCRIPTOR_SIZE as u32, 0);
                indirect = true;
                continue;
            }
            bytes += u64::from(descriptor.length);
            take_buffer(ram, &mut chain, &descriptor)?;
            if bytes > u64::from(u32::MAX) {
                return Err(RingFault::TooLong { head });
            }
            if descriptor.flags & VRING_DESC_F_NEXT == 0 {
                return Ok(chain);
            }
            number = u32::from(descriptor.next);
        }
        Err(RingFault::Endless { head })
    }

    /// Gives a chain back with `length` bytes written to it.
    pub fn put(&mut self, ram: &mut Ram, head: u16, length: u32) -> Result<(), RingFault> {
        let slot = u64::from(self.next_used % self.size);
        let mut element = [0; USED_ELEMENT_SIZE as usize];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&length.to_le_bytes());
        write(ram, self.device_area, RING + USED_ELEMENT_SIZE * slot, &element)?;
        self.next_used = self.next_used.wrapping_add(1);
        write(ram, self.device_area, INDEX, &self.next_used.to_le_bytes())
    }

    /// Whether the driver wants an interrupt for what was given back since the last one (virtio 1.2, 2.7.7, 2.7.10).
    pub fn needs_interrupt(&mut self, ram: &Ram) -> Result<bool, RingFault> {
        let (new, old) = (self.next_used, self.signalled);
        if new == old {
            return Ok(false);
        }
        if !self.event_idx {
            self.signalled = new;
            let flags = u16::from_le_bytes(read(ram, self.driver_area, 0, "available ring")?);
            return Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let event = RING + 2 * u64::from(self.size);
        let event = u16::from_le_bytes(read(ram, self.driver_area, event, "available ring")?);
        self.signalled = new;
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Asks for a kick at the next chain (virtio 1.2, 2.7.10); without event index every one is kicked.
    pub fn ask_for_kick(&self, ram: &mut Ram) -> Result<(), RingFault> {
        if !self.event_idx {
            return Ok(());
        }
        let event = RING + USED_ELEMENT_SIZE * u64::from(self.size);
        write(ram, self.device_area, event, &self.next_avail.to_le_bytes())
    }
}

fn take_buffer(ram: &Ram, chain: &mut Chain, descriptor: &Descriptor) -> Result<(), RingFault> {
    let Descriptor { gpa, length, flags, .. } = *descriptor;
    if length == 0 {
        return Ok(());
    }
    if !ram.contains_range(gpa, u64::from(length)) {
        return Err(RingFault::Buffer { gpa, length });
    }
    let segment = Segment { gpa, length };
    if flags & VRING_DESC_F_WRITE != 0 {
        chain.writable.push(segment);
    } else if chain.writable.is_empty() {
        chain.readable.push(segment);
    } else {
        return Err(RingFault::Order { head: chain.head });
    }
    Ok(())
}

fn descriptor(ram: &Ram, table: u64, number: u32, size: u32) -> Result<Descriptor, RingFault> {
    if number >= size {
        return Err(RingFault::Number { number, size });
    }
    let offset = DESCRIPTOR_SIZE * u64::from(number);
    let bytes: [u8; DESCRIPTOR_SIZE as usize] = read(ram, table, offset, "descriptor table")?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok(Descriptor {
        gpa: u64::from(word(0)) | u64::from(word(4)) << 32,
        length: word(8),
        flags: word(12) & 0xffff,
        next: (word(12) >> 16) as u16,
    })
}

fn read<const N: usize>(ram: &Ram, base: u64, offset: u64, part: &'static str) -> Result<[u8; N], RingFault> {
    let mut bytes = [0; N];
    let inside = base.checked_add(offset).is_some_and(|gpa| ram.read_bytes(gpa, &mut bytes));
    if inside { Ok(bytes) } else { Err(RingFault::Outside { part, gpa: base.saturating_add(offset) }) }
}

fn write(ram: &mut Ram, base: u64, offset: u64, bytes: &[u8]) -> Result<(), RingFault> {
    let inside = base.checked_add(offset).is_some_and(|gpa| ram.device_write(gpa, bytes));
    if inside {
        Ok(())
    } else {
        Err(RingFault::Outside { part: "used ring", gpa: base.saturating_add(offset) })
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
