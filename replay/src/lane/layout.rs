//! What lies where in the shared memory of a lane.
//!
//! Each word has one writer. Words of different writers are on different cache lines. Everything is an atomic, so
//! a peer that breaks the rules can give us wrong values but never undefined behaviour.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// First word of every lane: "RPRSLANE".
pub const MAGIC: u64 = u64::from_le_bytes(*b"RPRSLANE");
/// Version of layout and messages together; both processes come from one binary, so it is compared for equality.
pub const VERSION: u64 = 2;
/// Size of each ring in 8-byte words: 1 MiB. A power of two.
pub const RING_WORDS: usize = 1 << 17;

/// A sleep that any message ends.
pub const SLEEPS_FOR_MESSAGES: u32 = 1;
/// A sleep that only raised attention ends: the log that is read ahead is no reason to wake.
pub const SLEEPS_FOR_ATTENTION: u32 = 2;

/// One cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// A lane.
#[derive(Debug)]
#[repr(C)]
pub struct Shared {
    /// Written once, before the file descriptor is given away.
    pub header: Line<Header>,
    /// Non-zero: the broker wants a checkpoint. Set by the broker, cleared by the vCPU; both sleep on it.
    pub attention: Line<AtomicU32>,
    /// Written by the broker.
    pub broker: Line<BrokerWords>,
    /// Written by the vCPU.
    pub vcpu: Line<VcpuWords>,
    /// Where the vCPU stands. Written by the vCPU.
    pub status: Line<StatusWords>,
    /// Broker → vCPU.
    pub inbound: Ring,
    /// vCPU → broker.
    pub journal: Ring,
}

/// What the memory is.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU64,
    /// [`RING_WORDS`].
    pub ring_words: AtomicU64,
}

/// Flags of the broker.
#[derive(Debug)]
#[repr(C)]
pub struct BrokerWords {
    /// Counts the times space was made in the journal ring for a waiting vCPU; the vCPU sleeps on it.
    pub journal_space: AtomicU32,
    /// The broker wants the doorbell when the inbound ring is half empty. Cleared by the vCPU.
    pub wants_room: AtomicU32,
    /// The broker has let go of the lane.
    pub gone: AtomicU32,
}

/// Flags of the vCPU.
#[derive(Debug)]
#[repr(C)]
pub struct VcpuWords {
    /// The vCPU sleeps, or is about to, on the attention word: [`SLEEPS_FOR_MESSAGES`], [`SLEEPS_FOR_ATTENTION`]
    /// or 0.
    pub sleeps: AtomicU32,
    /// The vCPU waits for space in the journal ring. Cleared by the broker.
    pub wants_space: AtomicU32,
    /// The vCPU has let go of the lane.
    pub gone: AtomicU32,
}

/// Progress, for anyone who wants to look.
#[derive(Debug)]
#[repr(C)]
pub struct StatusWords {
    /// Instructions retired.
    pub icount: AtomicU64,
    /// Guest nanoseconds.
    pub vtime: AtomicU64,
    /// A `RunState` as a number.
    pub state: AtomicU32,
}

/// One direction: a stream of 8-byte words.
#[derive(Debug)]
#[repr(C)]
pub struct Ring {
    /// Words written since the start; the next goes to `words[written % RING_WORDS]`. Written by the producer.
    pub written: Line<AtomicU64>,
    /// Words read since the start. Written by the consumer.
    pub read: Line<AtomicU64>,
    /// The words.
    pub words: [AtomicU64; RING_WORDS],
}
