//! Disks that do not answer: the guest may wait for one without the machine standing still, so somebody must look.
//!
//! Only disks: they owe an answer to every request. A network has buffers of the guest for hours.

use super::error::RunError;
use super::machine::Machine;
use super::stall::{PATIENCE, waiting_text};
use replay::event::DeviceIndex;
use replay::lane::VcpuEnd;
use replay::message::Outbound;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which disks have requests, since when they have given none back, and of which the user was told.
#[derive(Default)]
pub struct Silence {
    since: BTreeMap<DeviceIndex, (u64, Duration)>,
    told: Option<DeviceIndex>,
}

impl Silence {
    /// Looks at the disks; tells the user of one that is silent for too long, and when it is not any more.
    pub fn look(&mut self, machine: &Machine, now: Duration, lane: &mut VcpuEnd) -> Result<(), RunError> {
        let at_work = machine.disks_at_work();
        self.since.retain(|device, _| at_work.iter().any(|(busy, _)| busy == device));
        for &(device, answered) in &at_work {
            let entry = self.since.entry(device).or_insert((answered, now));
            if entry.0 != answered {
                *entry = (answered, now);
            }
        }
        let silent = |(_, since): &(u64, Duration)| now.saturating_sub(*since) >= PATIENCE;
        if let Some(told) = self.told
            && !self.since.get(&told).is_some_and(silent)
        {
            self.told = None;
            lane.send(&Outbound::Waiting { device: None })?;
            lane.ring_doorbell()?;
        }
        if self.told.is_none()
            && let Some((&device, _)) = self.since.iter().find(|(_, entry)| silent(entry))
        {
            self.told = Some(device);
            lane.send(&Outbound::Note { text: waiting_text(machine, device) })?;
            lane.send(&Outbound::Waiting { device: Some(device) })?;
            lane.ring_doorbell()?;
        }
        Ok(())
    }

    /// Whether somebody should look now and then although the machine sleeps.
    pub fn is_expecting(&self) -> bool {
        !self.since.is_empty()
    }

    /// The machine stood still: that time does not count.
    pub fn begin_anew(&mut self) {
        self.since.clear();
    }
}
