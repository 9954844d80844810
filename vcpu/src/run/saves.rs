//! What the broker asked for: states to save and to take, one after the other, at the places that the inputs give.

use super::error::RunError;
use super::machine::Machine;
use super::save::Taken;
use replay::event::DeviceIndex;
use replay::handover::Files;
use replay::lane::VcpuEnd;
use replay::message::Outbound;
use std::collections::VecDeque;
use std::time::Duration;

/// Wait of a machine that stands still, before it looks again what to save.
const NAP: Duration = Duration::from_micros(100);

/// One request.
#[derive(Debug)]
enum Asked {
    Save { sequence: u64, full: bool, held: Vec<DeviceIndex> },
    Load { sequence: u64, held: Vec<DeviceIndex>, files: Files },
}

/// What came of looking at the requests.
#[derive(Debug)]
pub enum Attended {
    /// The machine goes on as it is.
    Nothing,
    /// The machine must stand still until this disk has answered.
    Wait(DeviceIndex),
    /// It is in another state now; the broker is to be told by [`Saves::tell_loaded`] when everything fits it.
    Loaded {
        /// The request.
        sequence: u64,
        /// What came with the state.
        taken: Taken,
    },
    /// Its state was noted, with a list of so many pages, or it was refused.
    Saved {
        /// Pages that are to be copied.
        pages: usize,
    },
    /// It was to be put into another state, and is not.
    Refused,
}

/// Requests, and the states whose pages are on their way.
#[derive(Debug, Default)]
pub struct Saves {
    asked: VecDeque<Asked>,
    /// The save whose pages are being copied.
    copying: Option<u64>,
    /// The load whose pages are being compared, and which disks are to be held.
    comparing: Option<(u64, Vec<DeviceIndex>)>,
}

impl Saves {
    /// A state is to be saved; the devices `held` then wait for other back-ends.
    pub fn ask_to_save(&mut self, sequence: u64, full: bool, held: Vec<DeviceIndex>) {
        self.asked.push_back(Asked::Save { sequence, full, held });
    }

    /// A state is to be taken; the devices `held` then wait for other back-ends. It is on its way on the control socket, before what
    /// comes with later messages.
    pub fn ask_to_load(
        &mut self,
        machine: &Machine,
        sequence: u64,
        held: Vec<DeviceIndex>,
    ) -> Result<(), RunError> {
        let files = machine.receive_state()?;
        self.asked.push_back(Asked::Load { sequence, held, files });
        Ok(())
    }

    /// How long a machine that stands still may wait before it looks again: something is to be done.
    pub fn nap(&self) -> Option<Duration> {
        let is_busy = self.copying.is_some() || self.comparing.is_some() || !self.asked.is_empty();
        is_busy.then_some(NAP)
    }

    /// Does the next thing; the machine is between two instructions. `events`: those of the log that a replay has applied;
    /// `pages`: how many pages may be copied or compared now.
    pub fn attend(
        &mut self,
        machine: &mut Machine,
        lane: &mut VcpuEnd,
        events: Option<u64>,
        pages: usize,
    ) -> Result<Attended, RunError> {
        if let Some(sequence) = self.copying
            && let Some(result) = machine.take_copied().or_else(|| machine.copy_some(pages))
        {
            self.copying = None;
            let error = result.err().map(|error| format!("cannot copy the pages of the machine: {error}"));
            lane.send(&Outbound::Copied { sequence, error })?;
            lane.ring_doorbell()?;
        }
        if self.comparing.is_some() {
            return self.compare(machine, lane, pages);
        }
        if self.asked.is_empty() || self.copying.is_some() || !machine.is_served() {
            return Ok(Attended::Nothing);
        }
        if matches!(self.asked[0], Asked::Save { .. })
            && let Some(device) = machine.unanswered()?
        {
            return Ok(Attended::Wait(device));
        }
        match self.asked.pop_front() {
            Some(Asked::Save { sequence, full, held }) => {
                let pages = self.save(machine, lane, events, (sequence, full, &held))?;
                Ok(Attended::Saved { pages })
            }
            Some(Asked::Load { sequence, held, files }) => {
                // What back-ends with RAM are at is not needed any more, but all is compared at once.
                machine.pause_shared()?;
                let pages = if machine.has_shared() { usize::MAX } else { pages };
                match machine.begin_load(files)? {
                    Ok(()) => {
                        self.comparing = Some((sequence, held));
                        self.compare(machine, lane, pages)
                    }
                    Err(why) => self.refuse(machine, lane, sequence, why),
                }
            }
            None => Ok(Attended::Nothing),
        }
    }

    /// Goes on comparing, and takes the state when that is done.
    fn compare(
        &mut self,
        machine: &mut Machine,
        lane: &mut VcpuEnd,
        pages: usize,
    ) -> Result<Attended, RunError> {
        if !machine.compare_some(pages)? || !machine.is_served() {
            return Ok(Attended::Nothing);
        }
        let Some((sequence, held)) = self.comparing.take() else { return Ok(Attended::Nothing) };
        match machine.finish_load(&held)? {
            Ok(taken) => Ok(Attended::Loaded { sequence, taken }),
            Err(why) => self.refuse(machine, lane, sequence, why),
        }
    }

    fn refuse(
        &self,
        machine: &mut Machine,
        lane: &mut VcpuEnd,
        sequence: u64,
        why: String,
    ) -> Result<Attended, RunError> {
        machine.resume_shared()?;
        lane.send(&Outbound::Loaded { sequence, error: Some(why) })?;
        lane.ring_doorbell()?;
        Ok(Attended::Refused)
    }

    fn save(
        &mut self,
        machine: &mut Machine,
        lane: &mut VcpuEnd,
        events: Option<u64>,
        (sequence, full, held): (u64, bool, &[DeviceIndex]),
    ) -> Result<usize, RunError> {
        let mut pages = 0;
        if let Some(why) = machine.pause_shared()? {
            machine.resume_shared()?;
            lane.send(&Outbound::Copied { sequence, error: Some(why) })?;
        } else {
            let files = machine.begin_save(full || machine.has_shared(), events)?;
            if machine.has_shared() {
                machine.finish_copying();
            }
            let with_disks = machine.disks_are_here();
            machine.hold(if with_disks { held } else { &[] })?;
            machine.resume_shared()?;
            machine.hand_over(&files)?;
            pages = machine.pages_to_copy();
            self.copying = Some(sequence);
            lane.send(&Outbound::Saved { sequence, with_disks })?;
        }
        lane.ring_doorbell()?;
        Ok(pages)
    }

    /// Tells the broker that what follows happens in the state that was loaded.
    pub fn tell_loaded(&self, lane: &mut VcpuEnd, sequence: u64) -> Result<(), RunError> {
        lane.send(&Outbound::Loaded { sequence, error: None })?;
        Ok(lane.ring_doorbell()?)
    }
}
