//! What a network device is connected to on the host.

use super::dgram::Dgram;
use super::frame::Frame;
use super::nothing::Nothing;
use super::spec::{HostSpec, NetdevSpec};
use super::stream::Stream;
use super::tap::Tap;
use super::user::User;
use std::os::fd::RawFd;

/// What became of a frame that the driver sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The host has it, or had no use for it as a wire without a peer has none.
    Taken,
    /// The host takes nothing now; the descriptor becomes readable when it does.
    NotNow,
    /// The host refuses it.
    Refused,
}

/// The host side of a network device.
pub trait Netdev: Send {
    /// Feature bits of virtio-net that depend on the host side.
    fn features(&self) -> u64 {
        0
    }

    /// Of `features`, those that the driver will use.
    ///
    /// # Errors
    /// The host refuses what it offered.
    fn accept_features(&mut self, _features: u64) -> Result<(), String> {
        Ok(())
    }

    /// A descriptor that is readable when `attend` should run.
    fn poll_fd(&self) -> RawFd;

    /// Takes in what `poll_fd` is readable for.
    ///
    /// # Errors
    /// The host side has failed for good.
    fn attend(&mut self) -> Result<(), String>;

    /// Sends a frame, whose bytes it may change.
    fn send(&mut self, frame: &mut Frame) -> Sent;

    /// The next frame from the host.
    fn receive(&mut self) -> Option<Frame>;

    /// After frames were sent and received: makes sure that `poll_fd` tells of what comes next.
    ///
    /// # Errors
    /// The host side has failed for good.
    fn settle(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Makes `poll_fd` readable once more.
    fn wake(&self);

    /// Waits up to `timeout_ms` until a sender that was told `NotNow` may try again.
    fn wait(&mut self, timeout_ms: u16);

    /// Whether everything that was taken has left this process.
    fn is_flushed(&mut self) -> bool {
        true
    }

    /// Frames from the host that this side had to drop.
    fn dropped(&self) -> u64 {
        0
    }
}

/// Opens the host side.
///
/// # Errors
/// One line that says what could not be opened and why.
pub fn open(spec: &NetdevSpec, label: &str) -> Result<Box<dyn Netdev>, String> {
    Ok(match &spec.host {
        HostSpec::User(user) => Box::new(User::open(user, label)?),
        HostSpec::Tap(tap) => Box::new(Tap::open(tap, label)?),
        HostSpec::Stream(stream) => Box::new(Stream::open(stream, label)?),
        HostSpec::Dgram(dgram) => Box::new(Dgram::open(dgram, label)?),
        HostSpec::Nothing => Box::new(Nothing::open()?),
    })
}
