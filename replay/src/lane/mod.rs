//! The lane: the shared-memory channel between the broker and a vCPU process.
//!
//! It holds an attention word, status words and two rings. While there is nothing to say, both sides run without a
//! system call:
//!
//! - The vCPU polls [`VcpuEnd::attention`] with one relaxed load. When it is set, it calls
//!   [`VcpuEnd::take_attention`], then receives until there is nothing left. In that order nothing is missed.
//! - **Horizon.** In a replay the broker keeps the inbound ring filled with the events of the log. The next
//!   `Apply` *is* the horizon: the vCPU holds it and runs to its icount without any message between, because
//!   messages keep their order and the log is in order of icount. `LogEnds` is the last horizon. Only when the ring is
//!   empty must the vCPU stand still, in host time, with [`VcpuEnd::wait_inbound`]; its deadline is the caller's, who
//!   names what was waited for. Guest time does not pass meanwhile.
//! - **Nothing is lost.** The broker never blocks: what does not fit the inbound ring waits in its memory
//!   ([`BrokerEnd::backlog_bytes`]). The vCPU blocks while the journal ring is full; guest time stands still.
//! - **Progress.** The vCPU journals what happened before it publishes an icount beyond it. So a broker that first
//!   reads [`BrokerEnd::status`] and then receives until the ring is empty knows every event before that icount.
//!
//! The peer is not believed: positions, lengths and encodings are checked, and garbage is a [`LaneError`].

mod broker_end;
pub mod layout;
mod memory;
mod ring;
mod vcpu_end;

pub use broker_end::BrokerEnd;
pub use ring::BACKLOG_BYTES_MAX;
pub use vcpu_end::{VcpuEnd, Wake, Waker};

use crate::codec::CodecError;
use crate::time::{Icount, Vtime};
use memory::Memory;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;

/// Bytes in each ring.
pub const RING_BYTES: usize = layout::RING_WORDS * 8;

/// What can go wrong on a lane. After any of these the lane is of no more use.
#[derive(Debug, Error)]
pub enum LaneError {
    /// The memory could not be made or mapped.
    #[error("cannot set up the lane: {0}")]
    Memory(#[from] io::Error),
    /// The memory is not a lane of this version.
    #[error("the lane's header is not ours: {what}")]
    Header {
        /// Which word, and both values.
        what: String,
    },
    /// The peer wrote something that cannot be.
    #[error("the lane is corrupt: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// A frame does not hold a message.
    #[error("the lane holds a frame that is no message: {0}")]
    Message(#[from] CodecError),
    /// A message is longer than a lane carries.
    #[error("a message of {bytes} bytes is too long for the lane")]
    TooLong {
        /// Its encoded length.
        bytes: usize,
    },
    /// More is sent than the peer takes.
    #[error("the vCPU process does not take its messages: {bytes} bytes wait")]
    Overrun {
        /// What waits already.
        bytes: usize,
    },
    /// The broker has taken nothing out of a full ring for a long time.
    #[error("the broker has taken nothing from the full journal ring for {seconds} s")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// The peer has let go of the lane.
    #[error("the other end of the lane is gone")]
    PeerGone,
}

/// What a vCPU process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RunState {
    /// It has not begun: memory, images and back-ends are being set up.
    Starting = 0,
    /// It executes instructions.
    Running = 1,
    /// Every CPU is halted.
    Idle = 2,
    /// It stands still between two instructions.
    Paused = 3,
    /// The run is over.
    Ended = 4,
}

/// Where a vCPU process stands, as it last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Instructions retired; every event before it is in the journal ring or was there.
    pub icount: Icount,
    /// Guest time.
    pub vtime: Vtime,
    /// What it does.
    pub state: RunState,
}

/// Creates a lane: the broker's end, and the file to hand to the vCPU process for [`VcpuEnd::from_fd`].
pub fn create() -> Result<(BrokerEnd, OwnedFd), LaneError> {
    let (memory, file) = Memory::create()?;
    initialise(&memory);
    Ok((BrokerEnd::new(Arc::new(memory)), file))
}

/// Both ends of a lane inside one process. `doorbell` is as in [`VcpuEnd::from_fd`].
pub fn pair(doorbell: Option<OwnedFd>) -> Result<(BrokerEnd, VcpuEnd), LaneError> {
    let memory = Arc::new(Memory::anonymous()?);
    initialise(&memory);
    Ok((BrokerEnd::new(memory.clone()), VcpuEnd::new(memory, doorbell)?))
}

fn initialise(memory: &Memory) {
    let header = &memory.header.0;
    header.version.store(layout::VERSION, Ordering::Relaxed);
    header.ring_words.store(layout::RING_WORDS as u64, Ordering::Relaxed);
    header.magic.store(layout::MAGIC, Ordering::Release);
}

fn check_header(memory: &Memory) -> Result<(), LaneError> {
    let header = &memory.header.0;
    let facts = [
        ("magic", header.magic.load(Ordering::Acquire), layout::MAGIC),
        ("version", header.version.load(Ordering::Relaxed), layout::VERSION),
        ("ring words", header.ring_words.load(Ordering::Relaxed), layout::RING_WORDS as u64),
    ];
    match facts.into_iter().find(|(_, found, wanted)| found != wanted) {
        Some((name, found, wanted)) => {
            Err(LaneError::Header { what: format!("{name} is {found:#x}, not {wanted:#x}") })
        }
        None => Ok(()),
    }
}

impl RunState {
    fn from_word(word: u32) -> Result<RunState, LaneError> {
        [RunState::Starting, RunState::Running, RunState::Idle, RunState::Paused, RunState::Ended]
            .into_iter()
            .find(|state| *state as u32 == word)
            .ok_or_else(|| LaneError::Corrupt { what: format!("run state {word}") })
    }
}

#[cfg(test)]
mod tests;
