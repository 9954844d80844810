//! Where a run's inputs come from.

use super::error::RunError;
use super::machine::Machine;
use replay::event::{DeviceIndex, ShutdownCause};

/// What the loop does after inputs had their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Execute instructions.
    Go,
    /// Look again before executing: guest time or interrupts changed.
    Again,
    /// Leave the loop: the process ends.
    Leave,
}

/// The two halves of a run's outside: the host (`live`) or the log (`playback`).
pub trait Inputs {
    /// Between two instructions: takes messages, applies the events that are due now.
    fn checkpoint(&mut self, machine: &mut Machine) -> Result<Flow, RunError>;

    /// The icount at which `checkpoint` must run again.
    fn limit(&self, machine: &Machine) -> u64;

    /// Between two instructions: `device` has no room for what the guest asks, or must finish first. Lets host time pass;
    /// guest time stands still. Anything but `Leave` tries again.
    fn stalled(&mut self, machine: &mut Machine, device: DeviceIndex) -> Result<Flow, RunError>;

    /// The CPU waits in HLT: lets guest time go on until something happens.
    fn idle(&mut self, machine: &mut Machine) -> Result<Flow, RunError>;

    /// The guest came to a place where its user wants it to stand still.
    fn guest_pauses(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError>;

    /// The guest ended itself.
    fn guest_ended(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError>;

    /// The machine was reset, by its guest or by a monitor.
    fn was_reset(&mut self, guest: bool) -> Result<(), RunError>;

    /// The machine stands still for ever or loops in exceptions: only the outside can change that.
    fn stuck(&mut self, machine: &mut Machine) -> Result<Flow, RunError>;
}
