//! State of the virtio functions: rings and requests on their way. All of it is in the digest.

use super::console_control::ConsoleControl;
use super::ring::{GuestRing, RingFault, Segment};
use replay::device::VirtioFunction;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All virtio functions, in the order of the machine description.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Virtio {
    /// Their state.
    pub functions: Vec<Function>,
}

/// One function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    /// Its virtqueues.
    pub queues: Vec<Queue>,
    /// The driver said DRIVER_OK and has not reset it since.
    pub started: bool,
    /// A ring was wrong: nothing is served before a reset.
    pub broken: bool,
    /// Rings found wrong since power-on.
    pub faults: u64,
    /// Requests for back-ends since power-on.
    pub submitted: u64,
    /// Messages between a console and its driver.
    pub console: ConsoleControl,
}

/// One virtqueue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    /// Its ring, while the queue runs.
    pub ring: Option<GuestRing>,
    /// Requests that wait for their event, by first descriptor.
    pub in_flight: BTreeMap<u16, InFlight>,
    /// Grows when the queue forgets its requests.
    pub life: u32,
}

/// A request that waits for its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Its place among the function's requests since power-on.
    pub number: u64,
    /// Buffers with the request.
    pub readable: Vec<Segment>,
    /// Buffers for the answer.
    pub writable: Vec<Segment>,
    /// What is asked of a disk, for messages.
    pub block: Option<BlockRequest>,
}

/// Header of a request to a disk (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    /// VIRTIO_BLK_T_….
    pub kind: u32,
    /// First sector.
    pub sector: u64,
}

/// Bytes of that header: type, reserved, sector.
pub const BLOCK_HEADER: usize = 16;

impl BlockRequest {
    /// Reads the header; none if the request is too short to have one.
    pub fn of(out: &[u8]) -> Option<BlockRequest> {
        let kind = out.get(..4)?.try_into().ok()?;
        let sector = out.get(8..BLOCK_HEADER)?.try_into().ok()?;
        Some(BlockRequest { kind: u32::from_le_bytes(kind), sector: u64::from_le_bytes(sector) })
    }
}

impl Virtio {
    /// Functions whose drivers have not come yet.
    pub fn new(functions: &[VirtioFunction]) -> Virtio {
        let new = |function: &VirtioFunction| Function {
            queues: vec![Queue::default(); usize::from(function.kind.queue_count())],
            started: false,
            broken: false,
            faults: 0,
            submitted: 0,
            console: ConsoleControl::default(),
        };
        Virtio { functions: functions.iter().map(new).collect() }
    }
}

impl Function {
    /// As after a reset of the device; faults are counted on.
    pub fn reset(&mut self) {
        self.queues.iter_mut().for_each(Queue::reset);
        self.started = false;
        self.broken = false;
        self.console = ConsoleControl::default();
    }

    /// Notes that a ring is wrong.
    pub fn break_down(&mut self, id: &str, queue: u16, fault: &RingFault) {
        tracing::warn!(function = %id, queue, "the driver's ring is wrong: {fault}");
        self.broken = true;
        self.faults += 1;
    }
}

impl Queue {
    /// Stops and forgets its requests.
    pub fn reset(&mut self) {
        self.ring = None;
        self.in_flight.clear();
        self.life = self.life.wrapping_add(1);
    }
}
