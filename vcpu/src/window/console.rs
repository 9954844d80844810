//! A console back-end, driven for the UARTs: bytes out, bytes in.
//!
//! Output is complete for the guest when it is copied into the window; if the window is full, the machine stands still until it has
//! room. Input stays in the window until `receive` is called, which is where it becomes an event.

use super::device::DeviceWindow;
use super::error::WindowError;
use super::requests::{Framing, QueueShape, Room};
use replay::event::{Payload, UsedEntry};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const RECEIVE_BUFFERS: u16 = 32;
const RECEIVE_BUFFER_SIZE: usize = 256;
const TRANSMIT_BUFFERS: u16 = 64;
const TRANSMIT_BUFFER_SIZE: usize = 4096;
/// A request's place is a little larger than its bytes.
const PLACE_OVERHEAD: usize = 4096;

const SHAPES: [QueueShape; 2] = [
    QueueShape {
        size: RECEIVE_BUFFERS,
        arena_bytes: RECEIVE_BUFFERS as usize * 2 * RECEIVE_BUFFER_SIZE,
        signals: true,
    },
    // Looked at when it is used again; only input is worth an interrupt.
    QueueShape {
        size: TRANSMIT_BUFFERS,
        arena_bytes: TRANSMIT_BUFFERS as usize * (TRANSMIT_BUFFER_SIZE + PLACE_OVERHEAD),
        signals: false,
    },
];

/// A back-end that is about to make room does so within microseconds; one that is blocked, within any time.
const WAIT_MIN: Duration = Duration::from_micros(50);
const WAIT_MAX: Duration = Duration::from_millis(2);

/// The driver of one console.
pub struct Console {
    window: DeviceWindow<u16>,
    /// Number of the next receive buffer, as the journal shows it.
    next_buffer: u16,
    receiving: bool,
}

impl Console {
    /// Makes a window, hands it to the back-end at the other end of `socket` and starts its rings. `call`: what the back-end
    /// signals for the receive and the transmit queue. No receive buffer is offered before `start_receiving`.
    pub fn connect(socket: UnixStream, call: [OwnedFd; 2], name: &str) -> Result<Console, WindowError> {
        let mut window = DeviceWindow::connect(socket, call.into(), name, &SHAPES)?;
        window.start(0)?;
        Ok(Console { window, next_buffer: 0, receiving: false })
    }

    /// The window, for another back-end.
    pub fn window(&mut self) -> &mut DeviceWindow<u16> {
        &mut self.window
    }

    /// Hands as many of `bytes` to the back-end as its window has room for; their number.
    pub fn transmit(&mut self, bytes: &[u8]) -> Result<usize, WindowError> {
        self.reap()?;
        let mut taken = 0;
        for part in bytes.chunks(TRANSMIT_BUFFER_SIZE) {
            if self.window.room(TRANSMIT, part.len(), 0) != Room::Now {
                break;
            }
            self.window.submit(TRANSMIT, 0, part, 0, Framing::default());
            taken += part.len();
        }
        self.window.publish(TRANSMIT)?;
        Ok(taken)
    }

    /// Waits until the host has taken all output; false: not within `timeout`.
    pub fn drain(&mut self, timeout: Duration) -> Result<bool, WindowError> {
        let deadline = Instant::now() + timeout;
        let mut pause = WAIT_MIN;
        loop {
            self.reap()?;
            if self.window.outstanding(TRANSMIT) == 0 {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.window.wait(pause.min(left))?;
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
        for _ in 0..RECEIVE_BUFFERS {
            let Some(mut done) = self.window.take(RECEIVE)? else { break };
            done.bytes.truncate(done.length as usize);
            entries.push(UsedEntry { id: done.tag, len: done.length, payload: Payload::Data(done.bytes) });
        }
        self.offer_receive_buffers()?;
        Ok(entries)
    }

    fn offer_receive_buffers(&mut self) -> Result<(), WindowError> {
        if !self.receiving {
            return Ok(());
        }
        while self.window.outstanding(RECEIVE) < usize::from(RECEIVE_BUFFERS)
            && self.window.room(RECEIVE, 0, RECEIVE_BUFFER_SIZE) == Room::Now
        {
            self.window.submit(RECEIVE, self.next_buffer, b"", RECEIVE_BUFFER_SIZE, Framing::default());
            self.next_buffer = (self.next_buffer + 1) % RECEIVE_BUFFERS;
        }
        self.window.publish(RECEIVE)
    }

    /// Takes back transmit buffers that the back-end is done with.
    fn reap(&mut self) -> Result<(), WindowError> {
        for _ in 0..TRANSMIT_BUFFERS {
            if self.window.take(TRANSMIT)?.is_none() {
                break;
            }
        }
        Ok(())
    }
}
