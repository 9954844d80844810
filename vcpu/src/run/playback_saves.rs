//! Saves and loads in a replay: states for the broker's store, and stored ones on the way to a place.

use super::error::RunError;
use super::inputs::{Flow, Inputs as _};
use super::machine::Machine;
use super::patience::{Patience, Stillness};
use super::playback::Playback;
use super::saves::Attended;
use replay::lane::{RunState, VcpuEnd};
use replay::message::Outbound;

/// Pages of a saved state that are copied at a checkpoint: less than the time between two.
const PAGES_AT_ONCE: usize = 256;

impl Playback {
    /// The machine was put elsewhere: the log is needed from there on.
    pub(super) fn jumped(&mut self, machine: &Machine, events: u64) -> Result<(), RunError> {
        self.seek.events = events;
        self.seek.stands(machine);
        self.seek.discards = true;
        self.ahead.clear();
        self.guest_ended = false;
        (self.patience, self.stillness) = (Patience::default(), Stillness::default());
        self.publish(machine, RunState::Running);
        self.lane.send(&Outbound::Rewind { events })?;
        Ok(self.lane.ring_doorbell()?)
    }

    /// Saves and loads that are asked for; a flow if the machine does not go on from here as it is.
    pub(super) fn attend_saves(&mut self, machine: &mut Machine) -> Result<Option<Flow>, RunError> {
        loop {
            if let Some((sequence, held)) = self.start_asked.take() {
                let events = machine.return_to_start(&held)?;
                (self.awaits_state, self.fetching) = (false, false);
                self.saves.tell_loaded(&mut self.lane, sequence)?;
                self.jumped(machine, events)?;
                return Ok(Some(Flow::Again));
            }
            let has_time = self.paused || self.awaits_state || machine.halted();
            let pages = if has_time { usize::MAX } else { PAGES_AT_ONCE };
            match self.saves.attend(machine, &mut self.lane, Some(self.seek.events), pages)? {
                Attended::Wait(device) => return self.stalled(machine, device).map(Some),
                Attended::Loaded { sequence, taken } => {
                    let events = taken.handover.events.unwrap_or(0);
                    (self.awaits_state, self.fetching) = (false, false);
                    machine.keep_loaded(events)?;
                    self.saves.tell_loaded(&mut self.lane, sequence)?;
                    self.jumped(machine, events)?;
                    return Ok(Some(Flow::Again));
                }
                Attended::Refused if self.fetching => {
                    // The way is longer without it.
                    (self.awaits_state, self.fetching) = (false, false);
                    self.seek.stored.clear();
                    self.seek.wish = self.seek.wish.take().or(self.seek.goal.take());
                    return Ok(Some(Flow::Again));
                }
                _ if !self.awaits_state => return Ok(None),
                Attended::Saved { .. } | Attended::Nothing | Attended::Refused => {}
            }
            self.clock.wait(&mut self.lane, VcpuEnd::wait_attention, None)?;
            if self.receive(machine)? == Flow::Leave {
                return Ok(Some(Flow::Leave));
            }
        }
    }
}
