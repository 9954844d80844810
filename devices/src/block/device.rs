//! The virtio block device (virtio 1.2, 5.2) on the vhost-user skeleton.
//!
//! A ring is emptied in batches: requests are carried out one by one, then given back together.

use super::blkreplay::Blkreplay;
use super::config::Config;
use super::disk::Disk;
use super::request::{Limits, Operation, Request, SECTOR};
use crate::rings::{self, Used};
use crate::serve::{Backend, Queues};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;
use vm_memory::GuestAddressSpace;

/// Largest virtqueue.
const QUEUE_SIZE_MAX: usize = 1024;
/// Requests given back together.
const BATCH_MAX: usize = 32;
/// Bytes after which a batch is given back although it is short: the driver may go on with them.
const BATCH_BYTES: usize = 1 << 18;
/// Requests of one queue before the other queues get their turn.
const REQUESTS_MAX: usize = 256;

/// The back-end.
pub struct BlockDevice {
    order: Blkreplay,
    config: Config,
    limits: Limits,
    /// Readable while a queue was left with requests in it, or there is something to do between requests.
    again: EventFd,
    finished: bool,
}

impl BlockDevice {
    /// A device with the contents of `disk`, described by `config`.
    pub fn new(disk: Disk, config: Config) -> Result<BlockDevice, String> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let again = EventFd::from_flags(flags).map_err(|error| format!("cannot make an eventfd: {error}"))?;
        let limits = Limits {
            sectors: config.size / SECTOR,
            block_sectors: u64::from(config.block) / SECTOR,
            read_only: config.read_only,
        };
        let order = Blkreplay::new(disk, usize::from(config.queues));
        let mut device = BlockDevice { order, config, limits, again, finished: false };
        device.follow_cache_mode();
        if device.order.disk().is_busy() {
            device.come_again()?;
        }
        Ok(device)
    }

    fn follow_cache_mode(&mut self) {
        self.order.disk().write_through = self.config.write_through();
    }

    /// Serves a queue until it is empty or others should have their turn; true: it is empty.
    fn empty(&mut self, queue: usize, queues: &Queues) -> Result<bool, String> {
        let Some(ring) = queues.rings.get(queue) else { return Ok(true) };
        rings::ask_for_silence(ring)?;
        let mut served = 0;
        while served < REQUESTS_MAX {
            let count = self.serve_batch(queue, queues)?;
            if count == 0 && !rings::ask_for_kicks(ring)? {
                return Ok(true);
            }
            // A driver that only wiggles its index has turns, too.
            served += count.max(1);
        }
        Ok(false)
    }

    /// Carries out some requests and gives them back.
    fn serve_batch(&mut self, queue: usize, queues: &Queues) -> Result<usize, String> {
        let ring = &queues.rings[queue];
        let memory = queues.memory.memory();
        let mut done: Vec<Used> = Vec::with_capacity(BATCH_MAX);
        let (mut count, mut bytes, mut has_read) = (0, 0, false);
        while count < BATCH_MAX && bytes < BATCH_BYTES {
            let Some(chain) = rings::pop_chain(queues, ring)? else { break };
            let request = Request::parse(&chain, &memory, &self.limits);
            bytes += weight(&request);
            count += 1;
            if has_read && changes(&request) && self.order.disk().is_restartable() {
                // Read again after a death it would see this change.
                rings::publish(queues, ring, &done)?;
                done.clear();
                has_read = false;
            }
            has_read |= matches!(request.operation, Ok(Operation::Read { .. }));
            done.push(self.order.perform(queue, &chain, &request, &memory)?);
        }
        rings::publish(queues, ring, &done)?;
        Ok(count)
    }

    fn serve_all(&mut self, queues: &Queues) -> Result<bool, String> {
        let mut all_empty = true;
        for queue in 0..queues.rings.len() {
            all_empty &= self.empty(queue, queues)?;
        }
        Ok(all_empty)
    }

    /// Comes again if there is more; an image is closed in order even if the device ends here.
    fn go_on(&mut self, empty: Result<bool, String>) -> Result<(), String> {
        match empty {
            Ok(true) if !self.order.disk().is_busy() => Ok(()),
            Ok(_) => self.come_again(),
            Err(message) => match self.order.disk().close() {
                Ok(()) => Err(message),
                Err(second) => Err(format!("{message}; {second}")),
            },
        }
    }

    fn come_again(&self) -> Result<(), String> {
        let woken = self.again.write(1);
        woken.map(drop).map_err(|error| format!("cannot write to an eventfd: {error}"))
    }
}

/// Whether later requests may have another answer after this one.
fn changes(request: &Request) -> bool {
    match &request.operation {
        Ok(Operation::Write { .. } | Operation::Discard(_) | Operation::WriteZeroes(_)) => true,
        Ok(Operation::Read { .. } | Operation::Flush | Operation::GetId { .. }) | Err(_) => false,
    }
}

/// How long a request takes, in bytes moved.
fn weight(request: &Request) -> usize {
    match &request.operation {
        Ok(Operation::Read { into: data, .. } | Operation::Write { from: data, .. }) => {
            super::request::length(data)
        }
        Ok(Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes(_)) => BATCH_BYTES,
        Ok(Operation::GetId { .. }) | Err(_) => 0,
    }
}

impl Backend for BlockDevice {
    fn queues(&self) -> usize {
        usize::from(self.config.queues)
    }

    fn queue_size_max(&self) -> usize {
        QUEUE_SIZE_MAX
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn config(&self) -> Vec<u8> {
        self.config.bytes()
    }

    fn set_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), String> {
        self.config.write(offset, bytes);
        self.follow_cache_mode();
        Ok(())
    }

    fn accepted(&mut self, features: u64) {
        self.config.accept(features);
        self.follow_cache_mode();
    }

    fn stopped(&mut self, queue: usize) {
        self.order.forget(queue);
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.again.as_raw_fd())
    }

    fn kicked(&mut self, queue: usize, queues: &Queues) -> Result<(), String> {
        if self.finished {
            return Ok(());
        }
        let empty = self.empty(queue, queues);
        self.go_on(empty)
    }

    fn woken(&mut self, queues: &Queues) -> Result<(), String> {
        // Empty when another wake-up took it.
        let _ = self.again.read();
        if self.finished {
            return Ok(());
        }
        let all_empty = self.serve_all(queues);
        // Also when requests never end: who waits for the copy shall get it.
        self.order.disk().step();
        self.go_on(all_empty)
    }

    fn finish(&mut self, queues: &Queues, deadline: Instant) -> Result<(), String> {
        self.finished = true;
        loop {
            let all_empty = self.serve_all(queues);
            match all_empty {
                Ok(false) if Instant::now() < deadline => {}
                Ok(_) => return self.order.disk().close(),
                Err(_) => return self.go_on(all_empty),
            }
        }
    }
}
