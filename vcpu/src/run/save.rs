//! Saving a machine's state and taking another, between two instructions.
//!
//! A save makes disks finish what they have, notes all state but RAM, and lets the machine go on; RAM follows while it runs
//! (`mem::outgoing`). A load compares every page and writes those that differ.

use super::error::RunError;
use super::machine::Machine;
use crate::mem::ram::PAGE_SIZE;
use crate::snapshot::whole::WholeState;
use crate::snapshot::{SavedState, history};
use replay::event::DeviceIndex;
use replay::handover::{Files, Handover};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Pages read at once.
const PIECE_PAGES: usize = 256;

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

    /// Devices whose state nobody here can save: their back-ends have guest RAM themselves.
    pub fn unsavable(&self) -> Option<String> {
        let function = self.service.functions().iter().find(|function| !function.window)?;
        Some(format!(
            "device '{}' has window=off: what its back-end does to RAM cannot be saved",
            function.id
        ))
    }

    /// Takes another state. With an error inside, nothing was changed.
    pub fn load(
        &mut self,
        files: &mut Files,
        held: &[DeviceIndex],
    ) -> Result<Result<Handover, Refused>, RunError> {
        let (handover, whole) = match self.check_state(files) {
            Ok(checked) => checked,
            Err(why) => return Ok(Err(why)),
        };
        self.flush_consoles()?;
        self.finish_copying();
        self.note_written();
        self.load_pages(&files.pages, &handover.pages)?;
        let WholeState { state, rtc_look, undelivered } = whole;
        state.restore(&mut self.core).map_err(|error| RunError::Setup(error.to_string()))?;
        self.service.resume(&mut self.core, undelivered, held)?;
        self.state_was_replaced();
        self.rtc_look = rtc_look;
        self.save_base.begin();
        Ok(Ok(handover))
    }

    /// Looks at all that can be wrong with a state.
    fn check_state(&self, files: &mut Files) -> Result<(Handover, WholeState), Refused> {
        if let Some(why) = self.unsavable() {
            return Err(why);
        }
        let (handover, sections) = files.read()?;
        let whole = WholeState::from_sections(sections)?;
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
        Ok((handover, whole))
    }

    /// Writes the pages that differ; those that are not listed become zero.
    fn load_pages(&mut self, contents: &File, pages: &[u64]) -> Result<(), RunError> {
        let host = |error: io::Error| RunError::Setup(format!("cannot read the pages of a state: {error}"));
        let ram = &mut self.core.mem.ram;
        let listed: BTreeSet<u64> = pages.iter().copied().collect();
        let zeros = [0; PAGE_SIZE as usize];
        for page in ram.touched()? {
            if !listed.contains(&page) && ram.page(page) != zeros {
                ram.write_bytes(page * PAGE_SIZE, &zeros);
            }
        }
        let mut buffer = vec![0; PIECE_PAGES * PAGE_SIZE as usize];
        for (piece, pages) in pages.chunks(PIECE_PAGES).enumerate() {
            let bytes = &mut buffer[..pages.len() * PAGE_SIZE as usize];
            let offset = (piece * PIECE_PAGES) as u64 * PAGE_SIZE;
            contents.read_exact_at(bytes, offset).map_err(host)?;
            for (page, bytes) in pages.iter().zip(bytes.chunks_exact(PAGE_SIZE as usize)) {
                if ram.page(*page) != bytes {
                    ram.write_bytes(page * PAGE_SIZE, bytes);
                }
            }
        }
        Ok(())
    }

    /// In a replay: a state was taken that the history does not know; from here on it is one of its places.
    pub fn keep_loaded(&mut self, events: u64) -> Result<(), RunError> {
        let here = history::Place { icount: self.icount(), events };
        if let Some(history) = &mut self.history {
            history.note_all();
        }
        self.core.probe.moved(events);
        self.take_snapshot(here.events)
    }
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
