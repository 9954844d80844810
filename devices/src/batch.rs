//! Several requests of one virtqueue, taken and given back together.
//!
//! The ring is locked while a batch is open, so it cannot be stopped in between and its position is always right. What was given
//! back becomes visible at once, by one update of the used index (virtio 1.2, 2.7.8): a packet that was spread over several
//! receive buffers must not be seen half. The driver is told at most once a batch.

use crate::rings::{self, Direction, Request, cannot_use, outside_of_memory};
use crate::serve::{Memory, Queues, Ring};
use std::num::Wrapping;
use std::sync::MutexGuard;
use std::sync::atomic::{Ordering, fence};
use vhost_user_backend::{VringState, VringT};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace};

/// Bytes before the first element of an avail or used ring: flags and index.
const RING_HEADER: u64 = 4;
/// Bytes of one element of the used ring: head and length.
const USED_ELEMENT: u64 = 8;
/// Bytes of one element of the avail ring.
const AVAIL_ELEMENT: u64 = 2;

/// A ring that is held while requests go in and out.
pub struct Batch<'a> {
    queues: &'a Queues,
    state: MutexGuard<'a, VringState<Memory>>,
    /// Head and length of what was given back and is not visible yet.
    used: Vec<(u16, u32)>,
}

impl<'a> Batch<'a> {
    /// Locks `ring`.
    pub fn begin(queues: &'a Queues, ring: &'a Ring) -> Batch<'a> {
        Batch { queues, state: ring.get_mut(), used: Vec::new() }
    }

    /// The next request, if the ring runs and has one.
    pub fn pop(&mut self, direction: Direction) -> Option<Request> {
        // More could only be offered by a driver that offers requests it has not got back.
        if self.used.len() >= usize::from(self.state.get_queue().size()) {
            return None;
        }
        rings::pop_locked(self.queues, &mut self.state, direction)
    }

    /// As `pop`; when there is nothing the driver is asked to kick at the next request.
    ///
    /// # Errors
    /// The ring offers requests and has none.
    pub fn pop_or_ask(&mut self, direction: Direction) -> Result<Option<Request>, String> {
        if let Some(request) = self.pop(direction) {
            return Ok(Some(request));
        }
        if !self.is_running() || !self.state.enable_notification().map_err(cannot_use)? {
            return Ok(None);
        }
        // Something came in between.
        match self.pop(direction) {
            Some(request) => {
                self.ask_for_silence()?;
                Ok(Some(request))
            }
            None => Err("the driver's ring is damaged: it offers requests and has none".into()),
        }
    }

    /// Asks the driver not to kick.
    pub fn ask_for_silence(&mut self) -> Result<(), String> {
        if self.is_running() { self.state.disable_notification().map_err(cannot_use) } else { Ok(()) }
    }

    fn is_running(&self) -> bool {
        self.state.is_enabled() && self.state.get_queue().ready()
    }

    /// Leaves the last `count` popped requests in the ring.
    pub fn put_back(&mut self, count: usize) {
        for _ in 0..count {
            self.state.get_queue_mut().go_to_previous_position();
        }
    }

    /// Requests the ring can hold.
    pub fn size(&self) -> usize {
        usize::from(self.state.get_queue().size())
    }

    /// Gives a request back with `length` bytes written to it.
    pub fn complete(&mut self, head: u16, length: u32) {
        self.used.push((head, length));
    }

    /// Makes visible what was given back and tells the driver, if it wants to know.
    ///
    /// # Errors
    /// The driver's ring is not in its memory or names descriptors that it has not.
    pub fn publish(mut self) -> Result<(), String> {
        let Some((&(last_head, last_length), earlier)) = self.used.split_last() else { return Ok(()) };
        let queue = self.state.get_queue();
        let (size, used_ring, start) = (queue.size(), GuestAddress(queue.used_ring()), queue.next_used());
        let memory = self.queues.memory.memory();
        for (number, &(head, length)) in earlier.iter().enumerate() {
            if head >= size {
                return Err(cannot_use(virtio_queue::Error::InvalidDescriptorIndex));
            }
            let slot = start.wrapping_add(number as u16) % size;
            let address = at(used_ring, u64::from(slot) * USED_ELEMENT)?;
            let mut element = [0; USED_ELEMENT as usize];
            element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
            element[4..].copy_from_slice(&length.to_le_bytes());
            memory.write_slice(&element, address).map_err(outside_of_memory)?;
        }
        let last_slot = start.wrapping_add(earlier.len() as u16);
        self.state.get_queue_mut().set_next_used(last_slot);
        // Writes the last element, then the index, which releases all of them.
        self.state.add_used(last_head, last_length).map_err(cannot_use)?;
        if self.driver_wants_to_know(start)? {
            let signalled = self.state.signal_used_queue();
            signalled.map_err(|error| format!("cannot signal the driver: {error}"))?;
        }
        Ok(())
    }

    /// Whether a used index that moved from `start` to where it is now must be signalled (virtio 1.2, 2.7.7).
    fn driver_wants_to_know(&self, start: u16) -> Result<bool, String> {
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let memory = self.queues.memory.memory();
        let queue = self.state.get_queue();
        let avail_ring = GuestAddress(queue.avail_ring());
        if !queue.event_idx_enabled() {
            let flags: u16 = memory.load(avail_ring, Ordering::Acquire).map_err(outside_of_memory)?;
            return Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let used_event = at(avail_ring, u64::from(queue.size()) * AVAIL_ELEMENT)?;
        let used_event: u16 = memory.load(used_event, Ordering::Acquire).map_err(outside_of_memory)?;
        let (start, end) = (Wrapping(start), Wrapping(queue.next_used()));
        Ok(end - Wrapping(u16::from_le(used_event)) - Wrapping(1) < end - start)
    }
}

/// The address `offset` bytes behind a ring's header.
fn at(ring: GuestAddress, offset: u64) -> Result<GuestAddress, String> {
    ring.checked_add(RING_HEADER + offset).ok_or_else(|| "a ring of the driver wraps around".to_string())
}
