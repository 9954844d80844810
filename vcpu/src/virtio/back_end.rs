//! What a function asks of its back-end: a device process behind its window, or a stand-in inside a test.

use crate::window::requests::{Done, Framing, Room};
use crate::window::session::Session;
use crate::window::{DeviceWindow, WindowError};

/// A request as the guest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Virtqueue of the function.
    pub queue: u16,
    /// Number of its first descriptor.
    pub head: u16,
    /// Which life of the queue it belongs to: one that was reset has forgotten its requests.
    pub life: u32,
    /// Its place among the function's requests since power-on.
    pub number: u64,
}

/// One back-end. Its queues are those of its window.
pub trait BackEnd {
    /// Feature bits that it offers.
    fn features(&self) -> u64;
    /// The first `size` bytes of its configuration space; empty if it has none.
    fn config(&mut self, size: usize) -> Result<Vec<u8>, WindowError>;
    /// Starts empty rings.
    fn start(&mut self, features: u64) -> Result<(), WindowError>;
    /// Stops the rings; what is outstanding is forgotten.
    fn stop(&mut self) -> Result<(), WindowError>;
    /// Whether a request with these sizes can be submitted.
    fn room(&mut self, queue: u16, out: usize, into: usize) -> Room;
    /// Submits a request. There must be room.
    fn submit(&mut self, queue: u16, tag: Tag, out: &[u8], into: usize, framing: Framing);
    /// Shows the back-end what was submitted.
    fn publish(&mut self, queue: u16) -> Result<(), WindowError>;
    /// The next request that it gave back.
    fn take(&mut self, queue: u16) -> Result<Option<Done<Tag>>, WindowError>;
    /// Requests that it has.
    fn outstanding(&self, queue: u16) -> usize;
    /// Gives it nothing more: another process is about to take its place.
    fn hold(&mut self) -> Result<(), WindowError>;
    /// Whether it is.
    fn is_held(&self) -> bool;
    /// Takes another process in its place.
    fn reconnect(&mut self, session: Session) -> Result<(), WindowError>;
}

impl BackEnd for DeviceWindow<Tag> {
    fn features(&self) -> u64 {
        DeviceWindow::features(self)
    }

    fn config(&mut self, size: usize) -> Result<Vec<u8>, WindowError> {
        DeviceWindow::config(self, size)
    }

    fn start(&mut self, features: u64) -> Result<(), WindowError> {
        DeviceWindow::start(self, features)
    }

    fn stop(&mut self) -> Result<(), WindowError> {
        DeviceWindow::stop(self)
    }

    fn room(&mut self, queue: u16, out: usize, into: usize) -> Room {
        DeviceWindow::room(self, queue.into(), out, into)
    }

    fn submit(&mut self, queue: u16, tag: Tag, out: &[u8], into: usize, framing: Framing) {
        DeviceWindow::submit(self, queue.into(), tag, out, into, framing);
    }

    fn publish(&mut self, queue: u16) -> Result<(), WindowError> {
        DeviceWindow::publish(self, queue.into())
    }

    fn take(&mut self, queue: u16) -> Result<Option<Done<Tag>>, WindowError> {
        DeviceWindow::take(self, queue.into())
    }

    fn outstanding(&self, queue: u16) -> usize {
        DeviceWindow::outstanding(self, queue.into())
    }

    fn hold(&mut self) -> Result<(), WindowError> {
        DeviceWindow::hold(self)
    }

    fn is_held(&self) -> bool {
        DeviceWindow::is_held(self)
    }

    fn reconnect(&mut self, session: Session) -> Result<(), WindowError> {
        DeviceWindow::reconnect(self, session)
    }
}
