//! The vCPU process's side of a simulated run: the real loop with the real inputs, stepped by the world.

use crate::world::World;
use replay::event::{DeviceIndex, ShutdownCause};
use replay::lane::{LaneError, VcpuEnd, Wake};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use vcpu::run::error::RunError;
use vcpu::run::inputs::{Flow, Inputs};
use vcpu::run::machine::Machine;
use vcpu::run::pace::{HostClock, Sleep};

/// The world, as both sides of a run hold it.
pub type Shared = Rc<RefCell<World>>;

/// Host time as the world counts it; a sleep is a number of turns.
pub struct Clock(pub Shared);

impl HostClock for Clock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.borrow().time_ns())
    }

    fn unix_ns(&self) -> u64 {
        self.0.borrow_mut().date_ns()
    }

    fn wait(
        &mut self,
        lane: &mut VcpuEnd,
        sleep: Sleep,
        timeout: Option<Duration>,
    ) -> Result<Wake, LaneError> {
        let start = self.now();
        loop {
            // The lane's own answer; it does not sleep.
            if sleep(lane, Some(Duration::ZERO))? == Wake::Attention {
                return Ok(Wake::Attention);
            }
            let passed = self.now() - start;
            if timeout.is_some_and(|time| passed >= time) {
                return Ok(Wake::TimedOut);
            }
            let mut world = self.0.borrow_mut();
            let left = timeout.map_or(u64::MAX, |time| (time - passed).as_nanos() as u64);
            world.turn(Some(left));
            if world.killed {
                return Err(LaneError::PeerGone);
            }
            if world.dice().one_in(50) {
                return Ok(Wake::Interrupted);
            }
        }
    }
}

/// Inputs in slices of any length, with a turn of the world between two.
pub struct Sliced<'a> {
    pub inner: &'a mut dyn Inputs,
    pub world: Shared,
    /// Slices are up to 2^this instructions long.
    pub slice_bits: u64,
    pub last_icount: u64,
}

impl Inputs for Sliced<'_> {
    fn checkpoint(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        {
            let mut world = self.world.borrow_mut();
            if machine.icount() != self.last_icount {
                world.not_idle();
            }
            self.last_icount = machine.icount();
            world.turn(None);
            if world.killed {
                return Err(LaneError::PeerGone.into());
            }
        }
        self.inner.checkpoint(machine)
    }

    fn limit(&self, machine: &Machine) -> u64 {
        let slice = self.world.borrow_mut().dice().magnitude(self.slice_bits);
        self.inner.limit(machine).min(machine.icount() + slice)
    }

    fn idle(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        self.inner.idle(machine)
    }

    fn stalled(&mut self, machine: &mut Machine, device: DeviceIndex) -> Result<Flow, RunError> {
        self.inner.stalled(machine, device)
    }

    fn guest_pauses(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError> {
        self.inner.guest_pauses(machine, cause)
    }

    fn guest_ended(&mut self, machine: &mut Machine, cause: ShutdownCause) -> Result<Flow, RunError> {
        self.inner.guest_ended(machine, cause)
    }

    fn was_reset(&mut self, guest: bool) -> Result<(), RunError> {
        self.inner.was_reset(guest)
    }

    fn stuck(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        self.inner.stuck(machine)
    }
}
