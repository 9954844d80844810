//! The broker's end of a lane. Nothing in it blocks.

use super::layout::{RING_WORDS, SLEEPS_FOR_MESSAGES};
use super::memory::{Memory, futex_wake};
use super::ring::{Consumer, Producer};
use super::{LaneError, RING_BYTES, RunState, Status};
use crate::codec;
use crate::message::{Inbound, Outbound};
use crate::time::{Icount, Vtime};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The broker's end of a lane.
#[derive(Debug)]
pub struct BrokerEnd {
    memory: Arc<Memory>,
    inbound: Producer,
    journal: Consumer,
}

impl BrokerEnd {
    pub(super) fn new(memory: Arc<Memory>) -> BrokerEnd {
        BrokerEnd { memory, inbound: Producer::default(), journal: Consumer::default() }
    }

    /// Sends a message behind all earlier ones. A vCPU that sleeps for messages is woken; one that runs is not
    /// interrupted, and one that sleeps for attention alone sleeps on.
    pub fn send(&mut self, message: &Inbound) -> Result<(), LaneError> {
        let is_late = self.backlog_bytes() > 0;
        self.inbound.enqueue(&codec::encode(message))?;
        self.transfer(is_late)
    }

    /// Moves messages that waited for space into the ring. Call it whenever the doorbell rang or time passed.
    pub fn pump(&mut self) -> Result<(), LaneError> {
        self.transfer(self.backlog_bytes() > 0)
    }

    /// Attention that was raised for a late message was taken before the message was there: it is raised again.
    fn transfer(&mut self, is_late: bool) -> Result<(), LaneError> {
        if self.inbound.transfer(&self.memory.inbound)? {
            fence(Ordering::SeqCst);
            if is_late || self.memory.vcpu.0.sleeps.load(Ordering::Relaxed) == SLEEPS_FOR_MESSAGES {
                self.raise_attention();
            }
        }
        if self.inbound.backlog_bytes() > 0 {
            self.want_room();
        }
        Ok(())
    }

    /// Asks for a checkpoint, waking the vCPU if it sleeps.
    pub fn raise_attention(&self) {
        self.memory.attention.0.store(1, Ordering::SeqCst);
        if self.memory.vcpu.0.sleeps.load(Ordering::SeqCst) != 0 {
            futex_wake(&self.memory.attention.0);
        }
    }

    /// The next message of the vCPU, if there is one.
    pub fn receive(&mut self) -> Result<Option<Outbound>, LaneError> {
        let payload = self.journal.next(&self.memory.journal)?;
        fence(Ordering::SeqCst);
        let wants_space = &self.memory.vcpu.0.wants_space;
        if wants_space.load(Ordering::Relaxed) != 0
            && self.journal.available(&self.memory.journal)? <= RING_WORDS / 2
        {
            wants_space.store(0, Ordering::Relaxed);
            self.memory.broker.0.journal_space.fetch_add(1, Ordering::SeqCst);
            futex_wake(&self.memory.broker.0.journal_space);
        }
        Ok(payload.map(|bytes| codec::decode_all(&bytes)).transpose()?)
    }

    /// Bytes sent that are not in the ring yet.
    pub fn backlog_bytes(&self) -> usize {
        self.inbound.backlog_bytes()
    }

    /// Free bytes in the inbound ring; 0 while there is a backlog.
    pub fn room_bytes(&self) -> Result<usize, LaneError> {
        if self.backlog_bytes() > 0 {
            return Ok(0);
        }
        Ok(RING_BYTES - self.inbound.used(&self.memory.inbound)? * 8)
    }

    /// Asks for the doorbell once the inbound ring is at least half empty.
    pub fn want_room(&self) {
        self.memory.broker.0.wants_room.store(1, Ordering::SeqCst);
    }

    /// Where the vCPU stands. See the module's "Progress" for how to read it together with the journal.
    pub fn status(&self) -> Result<Status, LaneError> {
        let words = &self.memory.status.0;
        Ok(Status {
            state: RunState::from_word(words.state.load(Ordering::Acquire))?,
            icount: Icount(words.icount.load(Ordering::Acquire)),
            vtime: Vtime(words.vtime.load(Ordering::Relaxed)),
        })
    }

    /// The vCPU has let go of the lane. A process that was killed does not say so: its exit tells.
    pub fn peer_gone(&self) -> bool {
        self.memory.vcpu.0.gone.load(Ordering::Acquire) != 0
    }
}

impl Drop for BrokerEnd {
    fn drop(&mut self) {
        self.memory.broker.0.gone.store(1, Ordering::SeqCst);
        self.memory.attention.0.store(1, Ordering::SeqCst);
        futex_wake(&self.memory.attention.0);
        self.memory.broker.0.journal_space.fetch_add(1, Ordering::SeqCst);
        futex_wake(&self.memory.broker.0.journal_space);
    }
}
