//! Ways of a replay that begin at stored snapshots, or at its start once its disks have begun later.
//!
//! The process of a disk only goes forward, so another one takes its place: over the layers of the snapshot, or over the image.
//! The vCPU process takes the state, holds the disks, and goes on with the new ones.

use super::desk::News;
use super::disks::Disks;
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
    /// How disks are when the state of this request is taken.
    next: Option<(u64, Disks)>,
    /// Disks that are getting other processes.
    moving: BTreeSet<Ticket>,
}

impl Travel {
    /// Nothing is on its way.
    pub fn is_settled(&self) -> bool {
        self.next.is_none() && self.moving.is_empty()
    }

    /// One thing after the other: a disk must not go on where it was to begin before this. `settled`: no save lets disks go on elsewhere.
    pub fn hears(&self, news: &News, settled: bool) -> bool {
        self.moving.is_empty() && settled || !matches!(news, News::Fetch { .. } | News::FetchStart)
    }

    /// The machine has taken the state of a request, or not.
    pub fn loaded(&mut self, (sequence, taken): (u64, bool), disks: &mut Disks, hands: &mut Hands<'_>) {
        let Some((_, there)) = self.next.take_if(|(of, _)| *of == sequence) else { return };
        if !taken {
            return;
        }
        for (device, top) in disks.begin(there) {
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
            work::check_fits(info, &self.setup.machine)
                .and_then(|()| self.disks.at(&info.disks, root).map(drop))
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
        let (files, there) = match result {
            Ok((files, there)) => (files, Some(there)),
            Err(why) => {
                eprintln!("reprise: {why}; the replay goes on without it");
                let nothing =
                    Handover { icount, vtime_ns: 0, events: None, is_partial: false, pages: vec![] };
                let files = Files::new(&nothing, &[]);
                (files.map_err(|error| format!("cannot make a memory file: {error}"))?, None)
            }
        };
        let held = there.as_ref().map(Disks::devices).unwrap_or_default();
        let sequence = hands.send_state(&files, held)?;
        self.travel.next = there.map(|there| (sequence, there));
        Ok(())
    }

    /// A snapshot's state, and how disks are there.
    fn unpack(&self, tag: &str, events: u64) -> Result<(Files, Disks), String> {
        let fetched = work::fetch(&self.setup.places, tag, &self.setup.machine, None, Some(events))?;
        let Snapshot { info, .. } = &fetched.snapshot;
        let there = self.disks.at(&info.disks, fetched.store.root());
        Ok((fetched.files, there.map_err(|why| format!("snapshot '{tag}': {why}"))?))
    }

    /// A replay goes from its start, and its disks have begun later.
    pub(super) fn fetch_start(&mut self, hands: &mut Hands<'_>) -> Result<(), String> {
        let there = self.disks.at_start();
        let held = there.devices();
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
        self.travel.next = Some((sequence, there));
        Ok(())
    }
}
