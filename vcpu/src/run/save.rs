//! Saving a machine's state and taking another, between two instructions.
//!
//! A save makes disks finish what they have, notes all state but RAM, and lets the machine go on; RAM follows while it runs
//! (`mem::outgoing`). A load compares RAM with the state while the machine runs (`incoming`), and then writes what differs.

use super::error::RunError;
use super::incoming::Incoming;
use super::machine::Machine;
use crate::mem::ram::PAGE_SIZE;
use crate::snapshot::SavedState;
use crate::snapshot::history::Place;
use crate::snapshot::whole::WholeState;
use replay::event::DeviceIndex;
use replay::handover::{Files, Handover};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

/// What a machine knows of the snapshots that were made of it.
#[derive(Debug, Default)]
pub struct SaveBase {
    /// Pages written since the last save or load; none: there was none, or RAM was replaced since.
    written: Option<BTreeSet<u64>>,
}

impl SaveBase {
    /// Notes pages that were written.
    pub fn note(&mut self, pages: &[u64]) {
        if let Some(written) = &mut self.written {
            written.extend(pages);
        }
    }

    /// RAM was replaced: the next save is of all of it.
    pub fn forget(&mut self) {
        self.written = None;
    }

    fn begin(&mut self) {
        self.written = Some(BTreeSet::new());
    }
}

/// Why a state was not taken; nothing was changed.
pub type Refused = String;

/// A state that was taken.
#[derive(Debug)]
pub struct Taken {
    /// What came with it.
    pub handover: Handover,
    /// Pages that were looked at while the machine stood still.
    pub pages: usize,
}

fn unreadable(error: io::Error) -> RunError {
    RunError::Setup(format!("cannot read the pages of a state: {error}"))
}

impl Machine {
    /// Notes the state as it is here, and begins to copy RAM. The machine must be between two instructions, with no disk at work.
    pub fn begin_save(&mut self, full: bool, events: Option<u64>) -> Result<Files, RunError> {
        self.flush_consoles()?;
        self.finish_copying();
        self.note_written();
        let undelivered = self.service.undelivered(&self.core.virtio)?;
        let whole = WholeState { state: SavedState::of(&self.core), rtc_look: self.rtc_look, undelivered };
        let written = self.save_base.written.take().filter(|_| !full);
        let is_partial = written.is_some();
        let pages = match written {
            Some(written) => written.into_iter().collect(),
            None => self.core.mem.ram.touched()?,
        };
        let (icount, vtime_ns) = (self.icount(), self.vtime().0);
        let handover = Handover { icount, vtime_ns, events, is_partial, pages };
        let host = |error: io::Error| RunError::Setup(format!("cannot hand a state over: {error}"));
        let files = Files::new(&handover, &whole.to_sections()).map_err(host)?;
        let copy = files.pages.try_clone().map_err(host)?;
        self.core.mem.ram.begin_copying(copy, &handover.pages);
        self.save_base.begin();
        Ok(files)
    }

    /// Sends a state to the broker.
    pub fn hand_over(&self, files: &Files) -> Result<(), RunError> {
        let host = |error: io::Error| RunError::Setup(format!("cannot hand a state over: {error}"));
        let control = self.control.as_ref().ok_or_else(|| host(io::Error::other("there is no broker")))?;
        files.send(control.as_raw_fd()).map_err(host)
    }

    /// The state that the broker has sent.
    pub fn receive_state(&self) -> Result<Files, RunError> {
        let host = |error: io::Error| RunError::Setup(format!("cannot take a state over: {error}"));
        let control = self.control.as_ref().ok_or_else(|| host(io::Error::other("there is no broker")))?;
        Files::receive(control.as_raw_fd()).map_err(host)
    }

    /// Whether everything that the guest asked for has been looked at.
    pub fn is_served(&self) -> bool {
        self.service.is_served()
    }

    /// Whether disks have done what the guest has asked for and nothing beyond: in a replay that was taken back they are ahead.
    pub fn disks_are_here(&self) -> bool {
        self.service.disks_are_here(&self.core.virtio)
    }

    /// Gives these devices nothing more until they have other back-ends.
    pub fn hold(&mut self, devices: &[DeviceIndex]) -> Result<(), RunError> {
        Ok(self.service.hold(devices)?)
    }

    /// Devices with answers that the guest has not got.
    pub fn undelivered_devices(&self) -> Vec<DeviceIndex> {
        self.service.staged_devices()
    }

    /// Copies some pages of a saved state; the result when there are no more.
    pub fn copy_some(&mut self, count: usize) -> Option<io::Result<()>> {
        self.core.mem.ram.copy_some(count)
    }

    /// Pages of a saved state that are still to be copied.
    pub fn pages_to_copy(&self) -> usize {
        self.core.mem.ram.pages_to_copy()
    }

    /// Copies what is left of a saved state. How that went is kept for who asks next.
    pub fn finish_copying(&mut self) {
        self.copied = self.copied.take().or_else(|| self.core.mem.ram.copy_some(usize::MAX));
    }

    /// How the copying ended that `finish_copying` completed.
    pub fn take_copied(&mut self) -> Option<io::Result<()>> {
        self.copied.take()
    }

    /// Whether back-ends have guest RAM themselves: what they write is not noticed, so they and the machine must stand still
    /// while RAM is saved or compared.
    pub fn has_shared(&self) -> bool {
        self.service.has_shared()
    }

    /// Lets those back-ends stand still; why the machine cannot be saved like this, if it cannot.
    pub fn pause_shared(&mut self) -> Result<Option<Refused>, RunError> {
        let busy = self.service.pause_shared(&mut self.core)?;
        Ok(busy.map(|device| {
            format!(
                "device '{}': its back-end has requests that it does not answer",
                self.device_name(device)
            )
        }))
    }

    /// Lets them go on.
    pub fn resume_shared(&mut self) -> Result<(), RunError> {
        Ok(self.service.resume_shared(&self.core)?)
    }

    /// Begins to take another state. With an error inside, nothing was changed.
    pub fn begin_load(&mut self, files: Files) -> Result<Result<(), Refused>, RunError> {
        let mut files = files;
        let read = files.read().and_then(|(handover, sections)| {
            let whole = WholeState::from_sections(sections)?;
            self.check_state(&handover, &whole).map(|()| (handover, whole))
        });
        let (handover, whole) = match read {
            Ok(both) => both,
            Err(why) => return Ok(Err(why)),
        };
        self.note_written();
        let touched = self.core.mem.ram.touched()?;
        self.incoming = Some(Box::new(Incoming::new(handover, whole, files.pages, touched)));
        Ok(Ok(()))
    }

    /// Compares some of its pages; true when there are no more.
    pub fn compare_some(&mut self, count: usize) -> Result<bool, RunError> {
        let Some(incoming) = &mut self.incoming else { return Ok(true) };
        incoming.compare(&self.core.mem.ram, count).map_err(unreadable)
    }

    /// Takes the state, all pages of which have been compared. With an error inside, nothing was changed. The machine must be between two
    /// instructions.
    pub fn finish_load(&mut self, held: &[DeviceIndex]) -> Result<Result<Taken, Refused>, RunError> {
        self.flush_consoles()?;
        self.finish_copying();
        self.note_written();
        let Some(incoming) = self.incoming.take() else { return Ok(Err("no state has come".into())) };
        // Back-ends may be others than when it came.
        if let Err(why) = self.check_state(&incoming.handover, &incoming.whole) {
            return Ok(Err(why));
        }
        let pages = incoming.write(&mut self.core.mem.ram).map_err(unreadable)?;
        let Incoming { handover, whole: WholeState { state, rtc_look, undelivered }, .. } = *incoming;
        state.restore(&mut self.core).map_err(|error| RunError::Setup(error.to_string()))?;
        self.service.resume(&mut self.core, undelivered, held)?;
        self.state_was_replaced();
        self.rtc_look = rtc_look;
        self.save_base.begin();
        Ok(Ok(Taken { handover, pages }))
    }

    /// Looks at all that can be wrong with a state.
    fn check_state(&self, handover: &Handover, whole: &WholeState) -> Result<(), Refused> {
        whole.state.check(&self.core).map_err(|error| error.to_string())?;
        let is_ram =
            |page: &u64| page.checked_mul(PAGE_SIZE).is_some_and(|gpa| self.core.mem.ram.contains(gpa));
        if let Some(page) = handover.pages.iter().find(|page| !is_ram(page)) {
            return Err(format!("page {page:#x} of the snapshot is no RAM of this machine"));
        }
        if handover.is_partial || handover.icount != whole.state.icount() {
            return Err("the state is not whole".into());
        }
        if let Some((device, missing)) = self.service.lacking(whole.state.chipset()) {
            return Err(format!(
                "device '{}': the guest uses feature bits {missing:#x}, which its back-end does not offer",
                self.device_name(device)
            ));
        }
        Ok(())
    }

    /// In a replay: a state was taken that the history does not know; from here on it is one of its places.
    pub fn keep_loaded(&mut self, events: u64) -> Result<(), RunError> {
        if let Some(history) = &mut self.history {
            history.note_all();
        }
        self.core.probe.moved(events);
        self.disks_begin(events);
        self.take_snapshot(events)
    }

    /// In a replay: puts the machine to its power-on, with disks that begin there. Events of the log that are applied then.
    pub fn return_to_start(&mut self, held: &[DeviceIndex]) -> Result<u64, RunError> {
        let first = self.history().and_then(|history| history.first());
        let first = first.ok_or_else(|| RunError::Setup("the replay has no way back to its start".into()))?;
        self.restore_snapshot(first)?;
        self.service.resume(&mut self.core, vec![], held)?;
        self.disks_begin(first.events);
        Ok(first.events)
    }

    /// In a replay: its disks begin here.
    fn disks_begin(&mut self, events: u64) {
        let here = Place { icount: self.icount(), events };
        if self.service.keeps_answers()
            && let Some(history) = &mut self.history
        {
            history.disks_begin(here);
        }
    }

    /// In a replay: it has come here.
    pub fn reached(&mut self, events: u64) {
        let here = Place { icount: self.icount(), events };
        if let Some(history) = &mut self.history {
            history.reached(here);
        }
    }
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
