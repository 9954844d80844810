//! A device's window: rings and buffers that one back-end shares with the vCPU process, and nothing else.

use super::error::WindowError;
use super::memory::WindowMemory;
use super::requests::{Done, Framing, Layout, QueueShape, RequestQueue, Room};
use super::session::{RingPlace, Session};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vhost::VhostUserMemoryRegionInfo;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

/// One back-end with its window. `T` names a request to the caller.
pub struct DeviceWindow<T> {
    memory: WindowMemory,
    queues: Vec<RequestQueue<T>>,
    session: Session,
    /// What back-ends before this one gave back and nobody took yet, by queue.
    early: Vec<VecDeque<Done<T>>>,
    /// Features with which the rings were started; none: they are stopped.
    started: Option<u64>,
    /// The back-end gets nothing: another one is about to take its place.
    held: bool,
}

impl<T: Clone> DeviceWindow<T> {
    /// Greets the back-end at the other end of `socket` and lays out a window for `shapes`, one a queue. The back-end signals
    /// `calls`, one a queue.
    pub fn connect(
        socket: UnixStream,
        calls: Vec<OwnedFd>,
        device: &str,
        shapes: &[QueueShape],
    ) -> Result<DeviceWindow<T>, WindowError> {
        assert_eq!(calls.len(), shapes.len(), "each queue has a call descriptor");
        let mut end = 0;
        let mut layouts = Vec::new();
        for shape in shapes {
            let layout = Layout::new(end, shape);
            end = layout.end;
            layouts.push(layout);
        }
        let memory = WindowMemory::new(device, end)?;
        let make = |(index, (shape, layout)): (usize, (&QueueShape, Layout))| {
            RequestQueue::new(device, index as u16, *shape, layout)
        };
        let queues = shapes.iter().zip(layouts).enumerate().map(make).collect();
        let session = Session::connect(socket, calls, device)?;
        let early = shapes.iter().map(|_| VecDeque::new()).collect();
        Ok(DeviceWindow { memory, queues, session, early, started: None, held: false })
    }

    /// Feature bits that the back-end offers.
    pub fn features(&self) -> u64 {
        self.session.features()
    }

    /// The first `size` bytes of the back-end's configuration space; empty if it has none.
    pub fn config(&mut self, size: usize) -> Result<Vec<u8>, WindowError> {
        self.session.config(size)
    }

    /// Starts empty rings. `features` are those that the driver took; how the window's own rings work is added here.
    pub fn start(&mut self, features: u64) -> Result<(), WindowError> {
        let (features, indirect) = self.own_features(features);
        self.queues.iter_mut().for_each(|queue| queue.reset(&self.memory, indirect));
        self.early.iter_mut().for_each(VecDeque::clear);
        self.start_rings(features)
    }

    fn own_features(&self, features: u64) -> (u64, bool) {
        let indirect = self.session.features() & 1 << VIRTIO_RING_F_INDIRECT_DESC;
        (features | 1 << VIRTIO_F_VERSION_1 | indirect, indirect != 0)
    }

    fn start_rings(&mut self, features: u64) -> Result<(), WindowError> {
        // Offset, guest address and user address are the same, so no message depends on where anything is mapped.
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: self.memory.size() as u64,
            userspace_addr: 0,
            mmap_offset: 0,
            mmap_handle: self.memory.fd(),
        };
        self.started = Some(features);
        if self.held {
            return Ok(());
        }
        self.session.start(features, &[region], &self.places())?;
        Ok(())
    }

    fn places(&self) -> Vec<RingPlace> {
        let place = |(queue, ring): (usize, &RequestQueue<T>)| RingPlace {
            queue,
            size: ring.shape().size,
            descriptors: ring.layout().descriptors as u64,
            avail: ring.layout().avail as u64,
            used: ring.layout().used as u64,
            base: 0,
        };
        self.queues.iter().enumerate().map(place).collect()
    }

    /// Stops the rings; what is outstanding is forgotten.
    pub fn stop(&mut self) -> Result<(), WindowError> {
        if self.started.take().is_some() && !self.held {
            self.session.stop(&self.places())?;
        }
        Ok(())
    }

    /// Stops the rings and keeps what the driver asks for from here on, until another back-end is connected.
    pub fn hold(&mut self) -> Result<(), WindowError> {
        if self.started.is_some() && !self.held {
            self.session.stop(&self.places())?;
        }
        self.held = true;
        Ok(())
    }

    /// Whether another back-end is awaited.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Whether the rings run.
    pub fn is_started(&self) -> bool {
        self.started.is_some()
    }

    /// Takes another back-end, which gets once more what is outstanding. What the one before it has given back is done: it is
    /// not asked for again.
    pub fn reconnect(&mut self, session: Session) -> Result<(), WindowError> {
        let missing = self.session.features() & !session.features();
        if missing != 0 {
            return Err(session.changed(missing));
        }
        self.session = session;
        self.held = false;
        if let Some(features) = self.started {
            let (features, indirect) = self.own_features(features);
            for (queue, early) in self.queues.iter_mut().zip(&mut self.early) {
                while let Some(done) = queue.take(&self.memory)? {
                    early.push_back(done);
                }
                queue.submit_again(&self.memory, indirect);
            }
            self.start_rings(features)?;
            for queue in 0..self.queues.len() {
                self.queues[queue].publish(&self.memory);
                self.session.kick(queue)?;
            }
        }
        Ok(())
    }

    /// Whether a request with these sizes can be submitted.
    pub fn room(&mut self, queue: usize, out: usize, into: usize) -> Room {
        self.queues[queue].room(out, into)
    }

    /// Puts a request in the ring. There must be room.
    pub fn submit(&mut self, queue: usize, tag: T, out: &[u8], into: usize, framing: Framing) {
        self.queues[queue].submit(&self.memory, tag, out, into, framing);
    }

    /// Shows the back-end what was submitted.
    pub fn publish(&mut self, queue: usize) -> Result<(), WindowError> {
        let wants_kick = self.queues[queue].publish(&self.memory);
        if wants_kick && !self.held { self.session.kick(queue) } else { Ok(()) }
    }

    /// The next request that the back-end gave back.
    pub fn take(&mut self, queue: usize) -> Result<Option<Done<T>>, WindowError> {
        if self.started.is_none() {
            return Ok(None);
        }
        match self.early[queue].pop_front() {
            Some(done) => Ok(Some(done)),
            None => self.queues[queue].take(&self.memory),
        }
    }

    /// Requests that are the back-end's, or that one before it gave back and nobody took.
    pub fn outstanding(&self, queue: usize) -> usize {
        if self.started.is_some() { self.queues[queue].outstanding() + self.early[queue].len() } else { 0 }
    }

    /// Lets host time pass, at most `timeout`; an error if the back-end hung up.
    pub fn wait(&self, timeout: Duration) -> Result<(), WindowError> {
        self.session.wait(timeout)
    }
}
