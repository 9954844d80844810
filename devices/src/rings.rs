//! Device side of a virtqueue: taking requests out and giving them back.
//!
//! The driver is distrusted: a chain's length is bounded by the queue size (virtio-queue's descriptor iterator), its buffers are
//! only touched through vm-memory, which checks every address.

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

/// Asks the driver not to kick `ring` while it is being emptied.
pub fn ask_for_silence(ring: &Ring) -> Result<(), String> {
    if is_running(ring) { ring.disable_notification().map_err(cannot_use) } else { Ok(()) }
}

/// Asks the driver for kicks again; true: requests came in between, look again.
pub fn ask_for_kicks(ring: &Ring) -> Result<bool, String> {
    if is_running(ring) { ring.enable_notification().map_err(cannot_use) } else { Ok(false) }
}
