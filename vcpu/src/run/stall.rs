//! A machine that stands still because a device does not answer: waits ever longer, and tells the user.

use super::error::RunError;
use super::machine::Machine;
use super::pace::HostClock;
use replay::event::DeviceIndex;
use replay::lane::VcpuEnd;
use replay::message::Outbound;
use std::time::Duration;

/// A device that is about to answer does so within microseconds: looks without any sleep, then short ones.
const LOOKS: u32 = 100;
const WAIT_MIN: Duration = Duration::from_micros(20);
const WAIT_MAX: Duration = Duration::from_millis(2);
/// After this long the user is told whom the machine waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Since when the machine stands still, and for whom.
#[derive(Default)]
pub struct Stall {
    since: Option<(DeviceIndex, Duration)>,
    looks: u32,
    pause: Duration,
    told: bool,
}

impl Stall {
    /// The machine stands still, now as before: waits a little before the next look.
    pub fn wait(
        &mut self,
        machine: &Machine,
        device: DeviceIndex,
        clock: &mut dyn HostClock,
        lane: &mut VcpuEnd,
    ) -> Result<(), RunError> {
        let now = clock.now();
        let since = match self.since {
            Some((before, since)) if before == device => since,
            _ => {
                (self.since, self.looks, self.pause) = (Some((device, now)), 0, WAIT_MIN);
                now
            }
        };
        if !self.told && now.saturating_sub(since) >= PATIENCE {
            self.told = true;
            let text = waiting_text(machine, device);
            lane.send(&Outbound::Note { text })?;
            lane.send(&Outbound::Waiting { device: Some(device) })?;
            lane.ring_doorbell()?;
        }
        if self.looks < LOOKS {
            self.looks += 1;
            std::thread::yield_now();
            return Ok(());
        }
        clock.wait(lane, VcpuEnd::wait_attention, Some(self.pause))?;
        self.pause = (self.pause * 2).min(WAIT_MAX);
        Ok(())
    }

    /// How long the machine has stood still.
    pub fn lasted(&self, now: Duration) -> Duration {
        self.since.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since))
    }

    /// The machine goes on: what the broker must know of it.
    pub fn over(&mut self) -> Option<Outbound> {
        self.since = None;
        std::mem::take(&mut self.told).then_some(Outbound::Waiting { device: None })
    }
}

/// What the user is told.
pub(super) fn waiting_text(machine: &Machine, device: DeviceIndex) -> String {
    format!(
        "the machine waits for device \"{}\", which has not answered for {} s",
        machine.device_name(device),
        PATIENCE.as_secs()
    )
}
