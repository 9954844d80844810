//! What saves and loads do with disks: each gets another process.

use super::keeper::{Hands, Keeper};
use super::kept::{Target, Work};
use crate::hmp::host::{Host as _, RunStatus};
use crate::sequence::core::Core;
use replay::message::Control;
use replay::store::DiskState;
use std::collections::BTreeMap;
use std::path::Path;

impl Keeper {
    /// Disks that get other processes at a load.
    pub(super) fn changing_disks(&self) -> Vec<u16> {
        self.disks.changing().into_iter().chain(self.kept.devices()).collect()
    }

    /// Disks that get other processes at a save.
    pub(super) fn saved_disks(&self) -> Vec<u16> {
        self.disks.freezing().into_iter().chain(self.kept.devices()).collect()
    }

    /// The machine's state was noted: what its disks hold now is kept, while they go on. Answers how a snapshot names it. `with_disks`:
    /// that is what belongs to the state.
    pub(super) fn save_disks(&mut self, with_disks: bool, hands: &mut Hands<'_>) -> Vec<DiskState> {
        if !with_disks || self.disks.freezing().is_empty() && self.kept.is_empty() {
            let nothing = |state: DiskState| DiskState { layers: None, replayed: None, ..state };
            return self.disks.states().into_iter().map(nothing).collect();
        }
        let mut states = self.disks.states();
        self.begin_layers(hands);
        let (works, result) = self.kept.begin_keeping();
        states.extend(self.kept.states());
        self.begin_works(works, result, hands);
        states
    }

    /// Finds what disks are to get, before anything is changed.
    pub(super) fn check_disks(
        &mut self,
        states: &[DiskState],
        root: &Path,
    ) -> Result<BTreeMap<u16, Target>, String> {
        if self.disks.change() {
            self.disks.clone().take_over(states, root)?;
        }
        self.kept.prepare()?;
        self.kept.find(states, root)
    }

    /// The machine has another state: its disks get what fits it.
    pub(super) fn load_disks(
        &mut self,
        states: &[DiskState],
        root: &Path,
        targets: BTreeMap<u16, Target>,
        hands: &mut Hands<'_>,
    ) -> Result<(), String> {
        if self.disks.change() {
            // It was looked at before.
            let left = self.disks.present();
            self.disks.take_over(states, root)?;
            self.begin_layers(hands);
            for layer in left {
                if let Err(error) = std::fs::remove_file(&layer) {
                    eprintln!("reprise: cannot remove {}: {error}", layer.display());
                }
            }
        }
        let own = self.setup.places.own.root().to_owned();
        let (works, result) = self.kept.begin_restoring(targets, &own);
        self.begin_works(works, result, hands);
        Ok(())
    }

    /// Lets every disk of a recording go on in a new layer.
    fn begin_layers(&mut self, hands: &mut Hands<'_>) {
        if self.disks.freezing().is_empty() {
            return;
        }
        for (device, top) in self.disks.new_layers() {
            let ticket = hands.core.new_ticket();
            hands.swapper.begin_layer(ticket, device, top, hands.children);
            self.swaps.insert(ticket, device);
        }
        if let Err(why) = self.disks.write_down() {
            self.failure.get_or_insert(why);
        }
    }

    /// Lets other processes serve disks that are written in place.
    fn begin_works(&mut self, works: Vec<Work>, result: Result<(), String>, hands: &mut Hands<'_>) {
        let mut without = self.kept.devices();
        for (device, work) in works {
            without.retain(|other| *other != device);
            let ticket = hands.core.new_ticket();
            hands.swapper.begin_upkeep(ticket, device, work, hands.children);
            self.swaps.insert(ticket, device);
        }
        if let Err(why) = result {
            // It was told to wait for a process that it does not get.
            without.into_iter().for_each(|device| self.lose(device, why.clone(), hands));
        }
    }

    fn lose(&mut self, device: u16, why: String, hands: &mut Hands<'_>) {
        self.kept.swapped(device, false);
        self.failure.get_or_insert(why);
        if let Err(error) = hands.core.lost_back_end(device) {
            eprintln!("reprise: {error}");
        }
    }

    /// Nothing of the guest runs until its disks have what was loaded.
    pub(super) fn stand_still(&mut self, core: &mut Core) -> Result<(), String> {
        if !self.kept.is_empty() && core.run_status() == RunStatus::Running {
            let ticket = core.new_ticket();
            core.send_control(ticket, Control::Stop)?;
            self.stands_still = true;
        }
        Ok(())
    }

    /// They have it, or there is nothing to wait for. Somebody may have stopped the machine meanwhile.
    pub(super) fn run_on(&mut self, core: &mut Core) -> Result<(), String> {
        if std::mem::take(&mut self.stands_still) && core.run_status() == RunStatus::Running {
            let ticket = core.new_ticket();
            core.send_control(ticket, Control::Continue)?;
        }
        Ok(())
    }
}
