//! A console back-end, driven for the UARTs: bytes out, bytes in.
//!
//! Output is complete for the guest when it is copied into the window; if the window is full, host time passes and guest time stands
//! still. Input stays in the window until `receive` is called, which is where it becomes an event.

use super::error::WindowError;
use super::frontend::Connection;
use super::memory::WindowMemory;
use super::queue::{Direction, DriverQueue, Layout, QueueShape};
use replay::event::{Payload, UsedEntry};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const RECEIVE_SHAPE: QueueShape = QueueShape { size: 32, buffer_size: 256, direction: Direction::FromDevice };
const TRANSMIT_SHAPE: QueueShape = QueueShape { size: 64, buffer_size: 4096, direction: Direction::ToDevice };

/// After this long without room the user is told whom the machine waits for.
const PATIENCE: Duration = Duration::from_secs(5);
/// A back-end that is about to make room does so within microseconds; one that is blocked, within any time.
const WAIT_MIN: Duration = Duration::from_micros(50);
const WAIT_MAX: Duration = Duration::from_millis(2);

/// The driver of one console.
pub struct Console {
    device: String,
    memory: WindowMemory,
    receive: DriverQueue,
    transmit: DriverQueue,
    connection: Connection,
    receiving: bool,
}

impl Console {
    /// Makes a window, hands it to the back-end at the other end of `socket` and starts its rings. `call`: what the back-end
    /// signals for the receive and the transmit queue. No receive buffer is offered before `start_receiving`.
    pub fn connect(socket: UnixStream, call: [OwnedFd; 2], name: &str) -> Result<Console, WindowError> {
        let receive_layout = Layout::new(0, &RECEIVE_SHAPE);
        let transmit_layout = Layout::new(receive_layout.end, &TRANSMIT_SHAPE);
        let memory = WindowMemory::new(name, transmit_layout.end)?;
        let receive = DriverQueue::new(&memory, name, RECEIVE as u16, RECEIVE_SHAPE, receive_layout);
        let transmit = DriverQueue::new(&memory, name, TRANSMIT as u16, TRANSMIT_SHAPE, transmit_layout);
        let connection = Connection::open(socket, call.into(), name, &memory, &[&receive, &transmit])?;
        Ok(Console { device: name.to_string(), memory, receive, transmit, connection, receiving: false })
    }

    /// Hands `bytes` to the back-end. Waits in host time while the window is full.
    pub fn transmit(&mut self, bytes: &[u8]) -> Result<(), WindowError> {
        for part in bytes.chunks(TRANSMIT_SHAPE.buffer_size as usize) {
            self.reap()?;
            if !self.transmit.has_free() {
                self.publish(TRANSMIT)?;
                self.wait_for_room()?;
            }
            self.transmit.offer(&self.memory, part);
        }
        self.publish(TRANSMIT)
    }

    /// Waits until the host has taken all output; false: not within `timeout`.
    pub fn drain(&mut self, timeout: Duration) -> Result<bool, WindowError> {
        let deadline = Instant::now() + timeout;
        let mut pause = WAIT_MIN;
        loop {
            self.reap()?;
            if self.transmit.outstanding() == 0 {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.connection.wait(pause.min(left))?;
            pause = (pause * 2).min(WAIT_MAX);
        }
    }

    /// Offers receive buffers from here on: input of the host may come. A replay never does this.
    pub fn start_receiving(&mut self) -> Result<(), WindowError> {
        self.receiving = true;
        self.offer_receive_buffers()
    }

    /// Offers no more receive buffers. What the back-end has already may still come.
    pub fn stop_receiving(&mut self) {
        self.receiving = false;
    }

    /// Input since the last call, in order. An entry of length 0 is a break condition.
    pub fn receive(&mut self) -> Result<Vec<UsedEntry>, WindowError> {
        let mut entries = Vec::new();
        // No more than one ring's worth: a back-end that keeps answering must not keep us here.
        for _ in 0..RECEIVE_SHAPE.size {
            let Some(used) = self.receive.take_used(&self.memory)? else { break };
            let mut bytes = vec![0; used.length as usize];
            self.memory.read(self.receive.buffer(used.id).start, &mut bytes);
            entries.push(UsedEntry { id: used.id, len: used.length, payload: Payload::Data(bytes) });
        }
        self.offer_receive_buffers()?;
        Ok(entries)
    }

    fn offer_receive_buffers(&mut self) -> Result<(), WindowError> {
        if !self.receiving {
            return Ok(());
        }
        while self.receive.has_free() {
            self.receive.offer(&self.memory, b"");
        }
        self.publish(RECEIVE)
    }

    fn publish(&mut self, queue: usize) -> Result<(), WindowError> {
        let ring = if queue == RECEIVE { &mut self.receive } else { &mut self.transmit };
        if ring.publish(&self.memory) { self.connection.kick(queue) } else { Ok(()) }
    }

    /// Takes back transmit buffers that the back-end is done with.
    fn reap(&mut self) -> Result<(), WindowError> {
        for _ in 0..TRANSMIT_SHAPE.size {
            if self.transmit.take_used(&self.memory)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn wait_for_room(&mut self) -> Result<(), WindowError> {
        let start = Instant::now();
        let mut pause = WAIT_MIN;
        let mut told = false;
        loop {
            self.reap()?;
            if self.transmit.has_free() {
                return Ok(());
            }
            if !told && start.elapsed() >= PATIENCE {
                tracing::warn!(device = %self.device, "the machine waits for the host to take output");
                told = true;
            }
            self.connection.wait(pause)?;
            pause = (pause * 2).min(WAIT_MAX);
        }
    }
}
