//! Device side of a virtqueue: taking requests out and giving them back.
//!
//! The driver is distrusted: a chain's length is bounded by the queue size (virtio-queue's descriptor iterator), its buffers are
//! only touched through vm-memory, which checks every address.
//!
//! Two ways to use a ring. `pop` and `complete`: one-way requests, given back one by one (the console).
//! `pop_chain` and `publish`: requests with both kinds of buffers, given back in batches (block).

use crate::serve::{Memory, Queues, Ring};
use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use vhost_user_backend::{VringState, VringT};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace};

/// A buffer of a request: address and length.
pub type Segment = (GuestAddress, usize);

/// One request: the buffers of a descriptor chain that go one way.
pub struct Request {
    /// Number by which it is given back.
    pub head: u16,
    /// Its buffers, in order.
    pub segments: VecDeque<Segment>,
}

/// Which buffers of a chain are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device reads them.
    FromDriver,
    /// The device writes them.
    ToDriver,
}

impl Request {
    /// Bytes in all buffers.
    pub fn len(&self) -> usize {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.1))
    }

    /// Whether there is no byte left.
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.1 == 0)
    }

    /// Moves up to `count_max` bytes out of the buffers to the end of `bytes`.
    pub fn take(&mut self, queues: &Queues, bytes: &mut Vec<u8>, count_max: usize) -> Result<(), String> {
        let memory = queues.memory.memory();
        let mut room = count_max;
        while let Some((address, length)) = self.segments.pop_front() {
            let count = length.min(room);
            let start = bytes.len();
            bytes.resize(start + count, 0);
            memory.read_slice(&mut bytes[start..], address).map_err(outside_of_memory)?;
            room -= count;
            if count < length {
                let rest = address.checked_add(count as u64).ok_or("a buffer wraps around")?;
                self.segments.push_front((rest, length - count));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes `bytes`, which must fit, to the start of the buffers.
    pub fn fill(&self, queues: &Queues, bytes: &[u8]) -> Result<(), String> {
        let memory = queues.memory.memory();
        let mut rest = bytes;
        for &(address, length) in &self.segments {
            let (now, later) = rest.split_at(length.min(rest.len()));
            memory.write_slice(now, address).map_err(outside_of_memory)?;
            rest = later;
        }
        Ok(())
    }
}

pub(crate) fn outside_of_memory(error: vm_memory::GuestMemoryError) -> String {
    format!("the driver's buffer is not in its memory: {error}")
}

/// Whether the front-end has set `ring` up and started it.
fn is_running(ring: &Ring) -> bool {
    let state = ring.get_ref();
    state.is_enabled() && state.get_queue().ready()
}

/// The next request of `ring`, if the ring runs and has one.
pub fn pop(queues: &Queues, ring: &Ring, direction: Direction) -> Option<Request> {
    pop_locked(queues, &mut ring.get_mut(), direction)
}

/// As `pop`, on a ring that the caller has locked.
pub(crate) fn pop_locked(
    queues: &Queues,
    state: &mut VringState<Memory>,
    direction: Direction,
) -> Option<Request> {
    if !state.is_enabled() || !state.get_queue().ready() {
        return None;
    }
    let chain = state.get_queue_mut().pop_descriptor_chain(queues.memory.memory())?;
    let head = chain.head_index();
    let wanted = chain.filter(|descriptor| descriptor.is_write_only() == (direction == Direction::ToDriver));
    let segments = wanted.map(|descriptor| (descriptor.addr(), descriptor.len() as usize)).collect();
    Some(Request { head, segments })
}

/// Offers the next receive buffer of `ring` to `fill`, which answers with the bytes it wrote, or `None` to leave the buffer
/// in the ring. True: one was used. The ring cannot be stopped in between, so its position is always right.
pub fn fill_next(
    queues: &Queues,
    ring: &Ring,
    fill: impl FnOnce(&Request) -> Result<Option<usize>, String>,
) -> Result<bool, String> {
    let mut state = ring.get_mut();
    let Some(request) = pop_locked(queues, &mut state, Direction::ToDriver) else { return Ok(false) };
    let Some(length) = fill(&request)? else {
        state.get_queue_mut().go_to_previous_position();
        return Ok(false);
    };
    let length = u32::try_from(length).map_err(|_| "more than 4 GiB in one request")?;
    state.add_used(request.head, length).map_err(cannot_use)?;
    Ok(true)
}

/// Gives a request back with `length` bytes written to it.
pub fn complete(ring: &Ring, head: u16, length: usize) -> Result<(), String> {
    let length = u32::try_from(length).map_err(|_| "more than 4 GiB in one request")?;
    ring.add_used(head, length).map_err(cannot_use)
}

pub(crate) fn cannot_use(error: virtio_queue::Error) -> String {
    format!("cannot use the driver's ring: {error}")
}

/// Tells the driver of completed requests, unless it asked not to be told (virtio 1.2, 2.7.7).
pub fn notify(queues: &Queues, ring: &Ring) -> Result<(), String> {
    // The used index must be visible before the driver's flag is read.
    fence(Ordering::SeqCst);
    let state = ring.get_ref();
    let flags_address = GuestAddress(state.get_queue().avail_ring());
    let flags: u16 =
        queues.memory.memory().load(flags_address, Ordering::Acquire).map_err(outside_of_memory)?;
    if u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0 {
        return Ok(());
    }
    state.signal_used_queue().map_err(|error| format!("cannot signal the driver: {error}"))
}

/// Most buffers kept of one chain; a longer one is not sound.
pub const SEGMENTS_MAX: usize = 1024;

/// A descriptor chain as the driver made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its place in the available ring, counted from the ring's start, modulo 2^16.
    pub position: u16,
    /// Number by which it is given back.
    pub head: u16,
    /// Buffers that the device reads, in order.
    pub readable: Vec<Segment>,
    /// Buffers that the device writes, in order.
    pub writable: Vec<Segment>,
    /// Whether it keeps the rules: readable before writable (virtio 1.2, 2.7.4.2), a proper end, not too many buffers.
    pub sound: bool,
}

/// The next chain of `ring`, if the ring runs and has one.
///
/// # Errors
/// The available ring itself is damaged.
pub fn pop_chain(queues: &Queues, ring: &Ring) -> Result<Option<Chain>, String> {
    let mut state = ring.get_mut();
    if !state.is_enabled() || !state.get_queue().ready() {
        return Ok(None);
    }
    let memory = queues.memory.memory();
    let queue = state.get_queue_mut();
    let (position, size) = (queue.next_avail(), queue.size());
    let available = queue.avail_idx(&*memory, Ordering::Acquire).map_err(cannot_use)?;
    if available.0 == position {
        return Ok(None);
    }
    let popped = queue.iter(memory).map_err(cannot_use)?.next();
    let Some(descriptors) = popped else {
        return Err("the driver's available ring is not in its memory".into());
    };
    let head = descriptors.head_index();
    if head >= size {
        return Err(format!("the driver's ring of {size} descriptors offers number {head}"));
    }
    let mut chain = Chain { position, head, sound: true, ..Chain::default() };
    let mut ended = false;
    for descriptor in descriptors {
        ended = !descriptor.has_next();
        let segment = (descriptor.addr(), descriptor.len() as usize);
        if chain.readable.len() + chain.writable.len() == SEGMENTS_MAX {
            chain.sound = false;
            // The last byte that may be written is where many devices put their answer.
            if descriptor.is_write_only() {
                chain.writable.pop();
                chain.writable.push(segment);
            }
        } else if descriptor.is_write_only() {
            chain.writable.push(segment);
        } else {
            chain.sound &= chain.writable.is_empty();
            chain.readable.push(segment);
        }
    }
    chain.sound &= ended;
    Ok(Some(chain))
}

/// A chain that is done: its head and how many bytes were written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Number by which it was offered.
    pub head: u16,
    /// Bytes written.
    pub length: u32,
}

/// Gives chains back in this order with one step of the used index, and tells the driver unless it asked not to
/// be told (virtio 1.2, 2.7.7 and 2.7.10).
pub fn publish(queues: &Queues, ring: &Ring, done: &[Used]) -> Result<(), String> {
    if done.is_empty() {
        return Ok(());
    }
    let memory = queues.memory.memory();
    let mut state = ring.get_mut();
    let queue = state.get_queue_mut();
    let (before, size) = (queue.next_used(), queue.size());
    let used_ring = GuestAddress(queue.used_ring());
    let at = |offset: u64| used_ring.checked_add(offset).ok_or("the driver's used ring wraps around");
    let mut after = before;
    for used in done {
        let element = u64::from(used.length) << 32 | u64::from(used.head);
        let place = at(4 + 8 * u64::from(after % size))?;
        memory.write_obj(element.to_le(), place).map_err(outside_of_memory)?;
        after = after.wrapping_add(1);
    }
    memory.store(after.to_le(), at(2)?, Ordering::Release).map_err(outside_of_memory)?;
    queue.set_next_used(after);
    // The used index must be visible before the driver's wish is read.
    fence(Ordering::SeqCst);
    let available_ring = GuestAddress(queue.avail_ring());
    let wish_at = if queue.event_idx_enabled() { 4 + 2 * u64::from(size) } else { 0 };
    let wish_at = available_ring.checked_add(wish_at).ok_or("the driver's available ring wraps around")?;
    let wish = u16::from_le(memory.load(wish_at, Ordering::Acquire).map_err(outside_of_memory)?);
    let wanted = if queue.event_idx_enabled() {
        after.wrapping_sub(wish).wrapping_sub(1) < after.wrapping_sub(before)
    } else {
        u32::from(wish) & VRING_AVAIL_F_NO_INTERRUPT == 0
    };
    if !wanted {
        return Ok(());
    }
    state.signal_used_queue().map_err(|error| format!("cannot signal the driver: {error}"))
}

/// Asks the driver not to kick `ring` while it is being emptied.
pub fn ask_for_silence(ring: &Ring) -> Result<(), String> {
    if is_running(ring) { ring.disable_notification().map_err(cannot_use) } else { Ok(()) }
}

/// Asks the driver for kicks again; true: requests came in between, look again.
pub fn ask_for_kicks(ring: &Ring) -> Result<bool, String> {
    if is_running(ring) { ring.enable_notification().map_err(cannot_use) } else { Ok(false) }
}
