//! The vCPU's end of a lane.

use super::layout::{RING_WORDS, SLEEPS_FOR_ATTENTION, SLEEPS_FOR_MESSAGES};
use super::memory::{Memory, Slept, futex_wait, futex_wake};
use super::ring::{Consumer, Producer};
use super::{LaneError, RunState, check_header};
use crate::codec;
use crate::message::{Inbound, Outbound};
use crate::time::{Icount, Vtime};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

/// One sleep while the journal ring is full. Sleeps are counted, not timed, so that a stopped process tree (^Z)
/// finds its lane alive when it goes on.
const FULL_SLEEP: Duration = Duration::from_millis(100);
/// Sleeps without a single word of progress after which the broker is taken for stuck.
const FULL_SLEEPS_MAX: u32 = 600;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// What was waited for is there.
    Attention,
    /// It is not, and the time is over.
    TimedOut,
    /// It is not; a signal arrived. The caller looks at its clock and waits again.
    Interrupted,
}

/// The vCPU's end of a lane.
#[derive(Debug)]
pub struct VcpuEnd {
    memory: Arc<Memory>,
    inbound: Consumer,
    journal: Producer,
    doorbell: Option<File>,
    rang_above_half: bool,
}

/// Raises attention from inside the vCPU process: for threads that wait for something else.
#[derive(Clone, Debug)]
pub struct Waker {
    memory: Arc<Memory>,
}

impl Waker {
    /// Asks for a checkpoint, waking the vCPU if it sleeps.
    pub fn wake(&self) {
        self.memory.attention.0.store(1, Ordering::SeqCst);
        if self.memory.vcpu.0.sleeps.load(Ordering::SeqCst) != 0 {
            futex_wake(&self.memory.attention.0);
        }
    }
}

impl VcpuEnd {
    /// A handle that raises attention on this lane.
    pub fn waker(&self) -> Waker {
        Waker { memory: Arc::clone(&self.memory) }
    }

    /// Takes the lane that the broker made. `doorbell` is an eventfd that the broker polls.
    pub fn from_fd(file: OwnedFd, doorbell: Option<OwnedFd>) -> Result<VcpuEnd, LaneError> {
        VcpuEnd::new(Arc::new(Memory::open(&file)?), doorbell)
    }

    pub(super) fn new(memory: Arc<Memory>, doorbell: Option<OwnedFd>) -> Result<VcpuEnd, LaneError> {
        check_header(&memory)?;
        Ok(VcpuEnd {
            memory,
            inbound: Consumer::default(),
            journal: Producer::default(),
            doorbell: doorbell.map(File::from),
            rang_above_half: false,
        })
    }

    /// Non-zero when the broker wants a checkpoint; poll it with a relaxed load.
    #[inline]
    pub fn attention(&self) -> &AtomicU32 {
        &self.memory.attention.0
    }

    /// Clears the attention word; says whether it was raised. Then receive until there is nothing left.
    pub fn take_attention(&self) -> bool {
        self.memory.attention.0.swap(0, Ordering::SeqCst) != 0
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    /// [`LaneError::PeerGone`] when the broker is gone and nothing is left to read.
    pub fn receive(&mut self) -> Result<Option<Inbound>, LaneError> {
        let broker = &self.memory.broker.0;
        let gone = broker.gone.load(Ordering::Acquire) != 0;
        let payload = self.inbound.next(&self.memory.inbound)?;
        fence(Ordering::SeqCst);
        if broker.wants_room.load(Ordering::Relaxed) != 0
            && self.inbound.available(&self.memory.inbound)? <= RING_WORDS / 2
            && broker.wants_room.swap(0, Ordering::SeqCst) != 0
        {
            self.ring_doorbell()?;
        }
        match payload {
            Some(bytes) => Ok(Some(codec::decode_all(&bytes)?)),
            None if gone => Err(LaneError::PeerGone),
            None => Ok(None),
        }
    }

    /// Sleeps until attention is raised or a message arrives, at most for `timeout`.
    ///
    /// The attention word is left as it is.
    pub fn wait_message(&mut self, timeout: Option<Duration>) -> Result<Wake, LaneError> {
        self.wait(SLEEPS_FOR_MESSAGES, VcpuEnd::something_there, timeout)
    }

    /// Sleeps until attention is raised, at most for `timeout`. Messages that came without it stay in the ring.
    ///
    /// The attention word is left as it is.
    pub fn wait_attention(&mut self, timeout: Option<Duration>) -> Result<Wake, LaneError> {
        self.wait(SLEEPS_FOR_ATTENTION, VcpuEnd::is_raised, timeout)
    }

    fn wait(
        &mut self,
        sleeps: u32,
        done: fn(&VcpuEnd) -> Result<bool, LaneError>,
        timeout: Option<Duration>,
    ) -> Result<Wake, LaneError> {
        let words = &*self.memory;
        words.vcpu.0.sleeps.store(sleeps, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let slept = match timeout {
            _ if done(self)? => Slept::Woken,
            // Only a look: the kernel would take the processor away for some time.
            Some(Duration::ZERO) => Slept::TimedOut,
            timeout => futex_wait(&words.attention.0, 0, timeout),
        };
        words.vcpu.0.sleeps.store(0, Ordering::SeqCst);
        Ok(match slept {
            _ if done(self)? => Wake::Attention,
            Slept::TimedOut => Wake::TimedOut,
            Slept::Woken | Slept::Interrupted => Wake::Interrupted,
        })
    }

    /// Sleeps until a message is there or `timeout` is over: a replay that has used up its horizon.
    ///
    /// Rings the doorbell first, so that the broker reads on. Attention is taken on the way.
    pub fn wait_inbound(&mut self, timeout: Duration) -> Result<Option<Inbound>, LaneError> {
        self.wait_inbound_with(timeout, |lane, time| lane.wait_message(Some(time)))
    }

    /// As [`VcpuEnd::wait_inbound`], sleeping with `sleep`, which does what [`VcpuEnd::wait_message`] does.
    pub fn wait_inbound_with(
        &mut self,
        timeout: Duration,
        mut sleep: impl FnMut(&mut VcpuEnd, Duration) -> Result<Wake, LaneError>,
    ) -> Result<Option<Inbound>, LaneError> {
        if let Some(message) = self.receive()? {
            return Ok(Some(message));
        }
        self.ring_doorbell()?;
        // Sleeps are counted in slices for the same reason as FULL_SLEEP.
        let mut left = timeout;
        loop {
            self.take_attention();
            if let Some(message) = self.receive()? {
                return Ok(Some(message));
            }
            if left.is_zero() {
                return Ok(None);
            }
            let slice = left.min(FULL_SLEEP);
            if sleep(self, slice)? == Wake::TimedOut {
                left -= slice;
            }
        }
    }

    /// Sends a message. Blocks while the ring is full.
    ///
    /// # Errors
    /// [`LaneError::Stalled`] when the broker takes nothing for a minute, [`LaneError::PeerGone`] when it is gone.
    pub fn send(&mut self, message: &Outbound) -> Result<(), LaneError> {
        self.journal.enqueue(&codec::encode(message))?;
        self.journal.transfer(&self.memory.journal)?;
        let above_half = self.journal.used(&self.memory.journal)? > RING_WORDS / 2;
        if above_half && !self.rang_above_half {
            self.ring_doorbell()?;
        }
        self.rang_above_half = above_half;
        if self.journal.backlog_bytes() > 0 {
            self.drain_backlog()?;
        }
        Ok(())
    }

    /// Wakes the broker: there is something it should not find only at its next tick.
    pub fn ring_doorbell(&self) -> Result<(), LaneError> {
        match self.doorbell.as_ref().map(|mut file| file.write_all(&1u64.to_ne_bytes())) {
            // A counter at its limit has not been read for 2^64 - 2 rings: it is still up.
            Some(Err(error)) if error.kind() != std::io::ErrorKind::WouldBlock => {
                Err(LaneError::Memory(error))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Publishes progress. Everything that happened before `icount` must have been sent.
    #[inline]
    pub fn publish(&self, icount: Icount, vtime: Vtime) {
        self.memory.status.0.vtime.store(vtime.0, Ordering::Relaxed);
        self.memory.status.0.icount.store(icount.0, Ordering::Release);
    }

    /// Publishes what the process does.
    pub fn publish_state(&self, state: RunState) {
        self.memory.status.0.state.store(state as u32, Ordering::Release);
    }

    fn is_raised(&self) -> Result<bool, LaneError> {
        Ok(self.memory.attention.0.load(Ordering::SeqCst) != 0)
    }

    fn something_there(&self) -> Result<bool, LaneError> {
        Ok(self.is_raised()? || self.inbound.available(&self.memory.inbound)? > 0)
    }

    fn drain_backlog(&mut self) -> Result<(), LaneError> {
        let mut idle_sleeps = 0;
        while self.journal.backlog_bytes() > 0 {
            let words = &*self.memory;
            let space = words.broker.0.journal_space.load(Ordering::SeqCst);
            words.vcpu.0.wants_space.store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if self.journal.transfer(&words.journal)? {
                idle_sleeps = 0;
                continue;
            }
            if words.broker.0.gone.load(Ordering::SeqCst) != 0 {
                return Err(LaneError::PeerGone);
            }
            self.ring_doorbell()?;
            if futex_wait(&words.broker.0.journal_space, space, Some(FULL_SLEEP)) == Slept::TimedOut {
                idle_sleeps += 1;
            }
            if idle_sleeps == FULL_SLEEPS_MAX {
                let seconds = FULL_SLEEP.as_secs_f64() * f64::from(FULL_SLEEPS_MAX);
                return Err(LaneError::Stalled { seconds: seconds as u64 });
            }
        }
        self.memory.vcpu.0.wants_space.store(0, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for VcpuEnd {
    fn drop(&mut self) {
        self.memory.vcpu.0.gone.store(1, Ordering::SeqCst);
        // The broker may already be gone with its eventfd; nobody is left to be told.
        let _ = self.ring_doorbell();
    }
}
