//! The virtio network device (virtio 1.2, 5.1): queue 0 receives, queue 1 transmits.
//!
//! Configuration space and control queue are the front-end's, as vhost-user has it. A transmit request is given back when the
//! host side has the frame; while the host takes nothing it stays in the ring. A frame for which there is no receive buffer waits;
//! no more are taken from the host meanwhile.

use super::frame::{ETHERNET_HEADER_SIZE, FRAME_MAX, Frame, HEADER_SIZE, LEGACY_HEADER_SIZE};
use super::netdev::{Netdev, Sent};
use crate::batch::Batch;
use crate::rings::{Direction, Request};
use crate::serve::{Backend, Queues};
use std::borrow::Cow;
use std::os::fd::RawFd;
use std::time::Instant;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUES: usize = 2;

/// Frames moved in one direction before the other direction and other events get their turn.
const TURN_MAX: usize = 256;
/// How often the end waits for the host before it looks at the time.
const FINISH_STEP_MS: u16 = 20;

/// The back-end.
pub struct Card {
    netdev: Box<dyn Netdev>,
    label: String,
    /// Bytes before each frame in the driver's buffers.
    header_size: usize,
    /// A frame may take several receive buffers.
    mergeable: bool,
    /// Why the host does not do what the driver was promised.
    refusal: Option<String>,
    /// A frame that waits for receive buffers.
    waiting: Option<Frame>,
    dropped_to_guest: u64,
    dropped_from_guest: u64,
}

/// How a turn in one direction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is nothing left, or the other side will tell of more.
    Done,
    /// There is more, for which the host has no room; it will tell.
    Blocked,
    /// There is more.
    More,
}

/// What became of a frame for the driver.
enum Placed {
    Yes,
    /// It does not fit and never will.
    Never,
    /// There are no buffers now.
    NotYet(Frame),
}

impl Card {
    /// A device on `netdev`.
    pub fn new(netdev: Box<dyn Netdev>, label: &str) -> Card {
        Card {
            netdev,
            label: label.to_string(),
            header_size: HEADER_SIZE,
            mergeable: false,
            refusal: None,
            waiting: None,
            dropped_to_guest: 0,
            dropped_from_guest: 0,
        }
    }

    fn pump(&mut self, queues: &Queues) -> Result<(), String> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let out = self.transmit(queues)?;
        self.netdev.settle()?;
        let back = self.receive(queues)?;
        if out == Turn::More || back == Turn::More {
            self.netdev.wake();
        }
        Ok(())
    }

    /// Moves frames from the ring to the host, as far as it takes them.
    fn transmit(&mut self, queues: &Queues) -> Result<Turn, String> {
        let ring = &queues.rings[TRANSMIT];
        let mut batch = Batch::begin(queues, ring);
        batch.ask_for_silence()?;
        for _ in 0..TURN_MAX {
            let Some(request) = batch.pop_or_ask(Direction::FromDriver)? else {
                batch.publish()?;
                return Ok(Turn::Done);
            };
            let head = request.head;
            if self.send(queues, request)? == Sent::NotNow {
                // The host will tell when it takes more; kicks would say nothing new.
                batch.put_back(1);
                batch.publish()?;
                return Ok(Turn::Blocked);
            }
            batch.complete(head, 0);
        }
        batch.publish()?;
        Ok(Turn::More)
    }

    /// Takes one frame out of its buffers and gives it to the host.
    fn send(&mut self, queues: &Queues, mut request: Request) -> Result<Sent, String> {
        let frame_size = request.len().checked_sub(self.header_size);
        if !frame_size.is_some_and(|size| (ETHERNET_HEADER_SIZE..=FRAME_MAX).contains(&size)) {
            self.dropped_from_guest += 1;
            return Ok(Sent::Refused);
        }
        let mut bytes = Vec::with_capacity(HEADER_SIZE + FRAME_MAX.min(request.len()));
        request.take(queues, &mut bytes, self.header_size)?;
        bytes.resize(HEADER_SIZE, 0);
        request.take(queues, &mut bytes, FRAME_MAX)?;
        let sent = match Frame::from_wire(bytes) {
            Some(mut frame) => self.netdev.send(&mut frame),
            None => Sent::Refused,
        };
        self.dropped_from_guest += u64::from(sent == Sent::Refused);
        Ok(sent)
    }

    /// Moves frames from the host into the driver's buffers, while there are both.
    fn receive(&mut self, queues: &Queues) -> Result<Turn, String> {
        let mut batch = Batch::begin(queues, &queues.rings[RECEIVE]);
        batch.ask_for_silence()?;
        for _ in 0..TURN_MAX {
            let Some(frame) = self.waiting.take().or_else(|| self.netdev.receive()) else {
                batch.publish()?;
                return Ok(Turn::Done);
            };
            match self.place(queues, &mut batch, frame)? {
                Placed::Yes => {}
                Placed::Never => self.dropped_to_guest += 1,
                Placed::NotYet(frame) => {
                    self.waiting = Some(frame);
                    batch.publish()?;
                    return Ok(Turn::Done);
                }
            }
        }
        batch.publish()?;
        Ok(Turn::More)
    }

    /// Writes one frame into as many receive buffers as it needs (virtio 1.2, 5.1.6.4).
    fn place(&self, queues: &Queues, batch: &mut Batch<'_>, mut frame: Frame) -> Result<Placed, String> {
        let needed = self.header_size + frame.ethernet().len();
        let mut buffers: Vec<Request> = Vec::new();
        let mut room = 0usize;
        while room < needed {
            if buffers.len() == batch.size() || (!self.mergeable && !buffers.is_empty()) {
                batch.put_back(buffers.len());
                return Ok(Placed::Never);
            }
            let Some(buffer) = batch.pop_or_ask(Direction::ToDriver)? else {
                batch.put_back(buffers.len());
                return Ok(Placed::NotYet(frame));
            };
            room = room.saturating_add(buffer.len());
            buffers.push(buffer);
        }
        // A ring has at most 32768 requests.
        frame.set_buffers(buffers.len() as u16);
        let bytes = match self.header_size {
            HEADER_SIZE => Cow::Borrowed(frame.wire()),
            shorter => Cow::Owned([&frame.wire()[..shorter], frame.ethernet()].concat()),
        };
        let mut rest = &bytes[..];
        for buffer in buffers {
            let (now, later) = rest.split_at(buffer.len().min(rest.len()));
            buffer.fill(queues, now)?;
            batch.complete(buffer.head, now.len() as u32);
            rest = later;
        }
        Ok(Placed::Yes)
    }

    /// Says what was lost, once, at the end.
    fn report(&self) {
        let to_guest = self.dropped_to_guest + self.netdev.dropped();
        if to_guest + self.dropped_from_guest > 0 {
            eprintln!(
                "reprise device: {}: dropped {to_guest} packets to the guest and {} from it",
                self.label, self.dropped_from_guest
            );
        }
    }
}

impl Backend for Card {
    fn queues(&self) -> usize {
        QUEUES
    }

    fn queue_size_max(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        let of_rings = 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;
        self.netdev.features() | 1 << VIRTIO_NET_F_MRG_RXBUF | of_rings
    }

    fn accepted(&mut self, features: u64) {
        let has = |bit: u32| features & 1 << bit != 0;
        self.mergeable = has(VIRTIO_NET_F_MRG_RXBUF);
        let long = self.mergeable || has(VIRTIO_F_VERSION_1);
        self.header_size = if long { HEADER_SIZE } else { LEGACY_HEADER_SIZE };
        self.refusal = self.netdev.accept_features(features & self.netdev.features()).err();
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.netdev.poll_fd())
    }

    fn kicked(&mut self, _queue: usize, queues: &Queues) -> Result<(), String> {
        self.pump(queues)
    }

    fn woken(&mut self, queues: &Queues) -> Result<(), String> {
        self.netdev.attend()?;
        self.pump(queues)
    }

    fn finish(&mut self, queues: &Queues, deadline: Instant) -> Result<(), String> {
        loop {
            let turn = self.transmit(queues)?;
            self.netdev.settle()?;
            let flushed = turn == Turn::Done && self.netdev.is_flushed();
            if flushed || Instant::now() >= deadline {
                self.report();
                return Ok(());
            }
            self.netdev.wait(if turn == Turn::More { 0 } else { FINISH_STEP_MS });
        }
    }
}
