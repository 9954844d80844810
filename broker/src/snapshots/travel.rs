//! Ways of a replay that begin at stored snapshots, or at its start once its disks have begun later.
//!
//! The process of a disk only goes forward, so another one takes its place: over the layers of the snapshot, or over the image.
//! The vCPU process takes the state, holds the disks, and goes on with the new ones.

use super::desk::News;
use super::disks::Tops;
use super::keeper::{Hands, Keeper};
use super::work;
use crate::hmp::host::{Host as _, Ticket};
use crate::sequence::core::Core;
use replay::handover::{Files, Handover};
use replay::message::Control;
use replay::setup::Mode;
use replay::store::{Info, Snapshot};
use replay::time::{Icount, Vtime};
use std::collections::BTreeSet;
use std::path::Path;

/// What is on its way.
#[derive(Debug, Default)]
pub struct Travel {
    /// Where disks begin when the state of this request is taken.
    next: Option<(u64, Tops)>,
    /// Disks that are getting other processes.
    moving: BTreeSet<Ticket>,
}

impl Travel {
    /// One way after the other: a disk must not go on where it was to begin before this.
    pub fn hears(&self, news: &News) -> bool {
        self.moving.is_empty() || !matches!(news, News::Fetch { .. } | News::FetchStart)
    }

    /// The machine has taken a state, or not.
    pub fn loaded(&mut self, sequence: u64, taken: bool, hands: &mut Hands<'_>) {
        let Some((_, tops)) = self.next.take_if(|(of, _)| *of == sequence) else { return };
        for (device, top) in tops.into_iter().filter(|_| taken) {
            let ticket = hands.core.new_ticket();
            hands.swapper.begin_elsewhere(ticket, device, top, hands.children);
            self.moving.insert(ticket);
        }
    }

    /// A disk goes on, or not.
    pub fn ticket_done(&mut self, ticket: Ticket, core: &mut Core) {
        if self.moving.remove(&ticket)
            && let Some(why) = core.take_failure(ticket)
        {
            eprintln!("reprise: {why}; the replay stands still without the disk");
        }
    }
}

impl Keeper {
    /// In a replay: the places to which it can be put at once.
    pub fn announce(&self, core: &mut Core) -> Result<(), String> {
        let is_replay = self.setup.mode == Mode::Replay;
        let (found, _) = if is_replay { self.setup.places.list_with_stores() } else { Default::default() };
        found.iter().try_for_each(|(info, store)| self.announce_one(core, info, store.root()))
    }

    /// In a replay: that it can be put to a snapshot in the store at `root`, if that is so.
    pub(super) fn announce_one(&self, core: &mut Core, info: &Info, root: &Path) -> Result<(), String> {
        let place = info.place.as_ref().filter(|place| core.passes(place));
        let fits = || {
            work::check_fits(info, &self.setup.machine).and_then(|()| self.disks.tops_of(&info.disks, root))
        };
        if let Some(place) = place.filter(|_| self.setup.mode == Mode::Replay)
            && fits().is_ok()
        {
            let (icount, vtime) = (Icount(info.icount), Vtime(info.vtime_ns));
            let ticket = core.new_ticket();
            core.send_control(ticket, Control::Known { icount, events: place.events, vtime })?;
        }
        Ok(())
    }

    /// A replay wants a stored snapshot; if it cannot have it, it goes the longer way.
    pub(super) fn fetch(&mut self, icount: u64, events: u64, hands: &mut Hands<'_>) -> Result<(), String> {
        let is_it = |info: &Info| {
            info.icount == icount && info.place.as_ref().is_some_and(|place| place.events == events)
        };
        let found = self.setup.places.list().0.into_iter().find(is_it);
        let result = match found {
            Some(info) => self.unpack(&info.tag, events),
            None => Err("a snapshot on the way is gone".to_owned()),
        };
        let (files, tops) = match result {
            Ok(both) => both,
            Err(why) => {
                eprintln!("reprise: {why}; the replay goes on without it");
                let nothing =
                    Handover { icount, vtime_ns: 0, events: None, is_partial: false, pages: vec![] };
                let files = Files::new(&nothing, &[]);
                (files.map_err(|error| format!("cannot make a memory file: {error}"))?, vec![])
            }
        };
        let held = tops.iter().map(|(device, _)| *device).collect();
        let sequence = hands.send_state(&files, held)?;
        self.travel.next = Some((sequence, tops));
        Ok(())
    }

    /// A snapshot's state, and where disks begin there.
    fn unpack(&self, tag: &str, events: u64) -> Result<(Files, Tops), String> {
        let fetched = work::fetch(&self.setup.places, tag, &self.setup.machine, None, Some(events))?;
        let Snapshot { info, .. } = &fetched.snapshot;
        let tops = self.disks.tops_of(&info.disks, fetched.store.root());
        Ok((fetched.files, tops.map_err(|why| format!("snapshot '{tag}': {why}"))?))
    }

    /// A replay goes from its start, and its disks have begun later.
    pub(super) fn fetch_start(&mut self, hands: &mut Hands<'_>) -> Result<(), String> {
        let tops = self.disks.tops_of_start();
        let held = tops.iter().map(|(device, _)| *device).collect();
        let sequence = match self.setup.load.clone() {
            // It began at a snapshot. Nothing has been applied there.
            Some(tag) => {
                let (files, _) = self.unpack(&tag, 0)?;
                hands.send_state(&files, held)?
            }
            None => {
                let sequence = hands.core.new_ticket();
                hands.core.send_control(sequence, Control::LoadStart { held })?;
                sequence
            }
        };
        self.travel.next = Some((sequence, tops));
        Ok(())
    }
}
