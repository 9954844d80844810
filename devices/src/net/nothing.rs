//! A link with nobody at its other end.

use super::CSUM_FEATURES;
use super::frame::Frame;
use super::netdev::{Netdev, Sent};
use crate::chardev::poller::Poller;
use std::os::fd::RawFd;

/// Takes every frame and sends none.
pub struct Nothing {
    poller: Poller,
}

impl Nothing {
    /// Such a link.
    pub fn open() -> Result<Nothing, String> {
        Ok(Nothing { poller: Poller::new()? })
    }
}

impl Netdev for Nothing {
    /// Nobody will miss the checksums.
    fn features(&self) -> u64 {
        CSUM_FEATURES
    }

    fn poll_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    fn attend(&mut self) -> Result<(), String> {
        self.poller.drain(0);
        Ok(())
    }

    fn send(&mut self, _frame: &mut Frame) -> Sent {
        Sent::Taken
    }

    fn receive(&mut self) -> Option<Frame> {
        None
    }

    fn wake(&self) {
        self.poller.wake();
    }

    fn wait(&mut self, timeout_ms: u16) {
        self.poller.drain(timeout_ms);
    }
}
