//! Saves and loads in a run that is not a replay.

use super::error::RunError;
use super::inputs::{Flow, Inputs as _};
use super::live::Live;
use super::machine::Machine;
use super::pace::Pace;
use super::patience::Stillness;
use super::saves::Attended;
use replay::lane::{RunState, VcpuEnd};
use replay::message::Offer;

/// Pages of a state that are copied or compared at a checkpoint: about 50 µs.
const PAGES_AT_ONCE: usize = 32;
/// The same of a guest that waits for a timer: about 1 ms.
const PAGES_WHEN_IDLE: usize = 1024;

impl Live {
    /// Saves and loads that are asked for; a flow if the machine does not go on from here as it is.
    pub(super) fn attend_saves(&mut self, machine: &mut Machine) -> Result<Option<Flow>, RunError> {
        if self.saves.nap().is_none() && !self.awaits_state {
            return Ok(None);
        }
        loop {
            let pages = match machine.halted() {
                // A machine that stands still has time.
                _ if self.paused || self.awaits_state => usize::MAX,
                true => PAGES_WHEN_IDLE,
                false => PAGES_AT_ONCE,
            };
            let entered = self.clock.now();
            let attended = self.saves.attend(machine, &mut self.lane, None, pages)?;
            let us = self.clock.now().saturating_sub(entered).as_micros() as u64;
            match attended {
                Attended::Wait(device) => return self.stalled(machine, device).map(Some),
                Attended::Loaded { sequence, taken } => {
                    tracing::info!(us, pages = taken.pages, "stood still for a load");
                    self.begin_anew(machine);
                    self.saves.tell_loaded(&mut self.lane, sequence)?;
                    return Ok(Some(Flow::Again));
                }
                Attended::Saved { pages } => {
                    tracing::info!(us, pages, "stood still for a save");
                    if self.paused {
                        continue;
                    }
                }
                Attended::Nothing | Attended::Refused => {}
            }
            if !self.awaits_state {
                return Ok(None);
            }
            if let Some(cause) = self.quit_offered() {
                return self.end(machine, cause).map(Some);
            }
            self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, None)?;
            if self.receive(machine)? == Some(Flow::Leave) {
                return Ok(Some(Flow::Leave));
            }
        }
    }

    /// The machine is in another state: what was known of the one before is worth nothing.
    fn begin_anew(&mut self, machine: &Machine) {
        let icount = machine.icount();
        self.awaits_state = false;
        // At this icount an exception may have been delivered already.
        self.last_icount = Some(icount);
        (self.idle_since, self.date_told) = (None, None);
        self.silence.begin_anew();
        self.stillness = Stillness::default();
        self.pace = Pace::new(icount, self.clock.now());
        let number = icount.checked_div(self.digest_interval);
        self.next_digest = number.map_or(u64::MAX, |number| (number + 1) * self.digest_interval);
        let devices = machine.undelivered_devices();
        self.offers.extend(devices.into_iter().map(|device| Offer::DeviceReady { device, queue: 0 }));
        let state = if self.paused { RunState::Paused } else { RunState::Running };
        self.publish(machine, state);
    }
}
