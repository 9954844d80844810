//! Between the machine's side of a run and the keeper of its snapshots: requests of monitors, news of the vCPU process.

use super::places::Places;
use crate::hmp::host::{RunStatus, Ticket};
use crate::sequence::core::Core;
use replay::branch::Cut;
use replay::manifest::{LogPlace, Manifest};
use replay::message::Control;
use replay::time::Icount;
use std::collections::{BTreeMap, VecDeque};

/// What a monitor asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Save under this name, or one that is made up.
    Save(Option<String>),
    /// Save under this name, which no snapshot must have.
    Create(String),
    /// Load.
    Load(String),
    /// Delete.
    Delete(String),
}

/// What the vCPU process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A state was saved; in a recording, this place in its log.
    Saved {
        /// The command.
        sequence: u64,
        /// Place in the log.
        place: Option<LogPlace>,
        /// What disks hold now belongs to it, and they wait.
        with_disks: bool,
    },
    /// Its pages are in their file, or why not.
    Copied {
        /// The command.
        sequence: u64,
        /// A line for the user.
        error: Option<String>,
    },
    /// A state was loaded, or why not.
    Loaded {
        /// The command.
        sequence: u64,
        /// A line for the user.
        error: Option<String>,
    },
    /// A replay wants the stored snapshot of this place.
    Fetch {
        /// Instructions retired.
        icount: u64,
        /// Events applied.
        events: u64,
    },
    /// A replay wants the state of its start, and disks that begin there.
    FetchStart,
}

impl Core {
    /// A state was loaded: in a recording, the log goes on from there, before anything of what follows is written to it.
    pub(crate) fn loaded(&mut self, sequence: u64, error: Option<String>) -> Result<(), String> {
        let cut = self.desk.cuts.remove(&sequence);
        if error.is_none() {
            self.reloaded = true;
            match cut {
                Some(cut) => {
                    self.journal.cut(&cut).map_err(|error| error.to_string())?;
                    self.icount = cut.icount.0;
                }
                None => self.icount = 0,
            }
        }
        self.desk.news.push_back(News::Loaded { sequence, error });
        Ok(())
    }

    /// A machine that had ended its guest has one again.
    pub(crate) fn state_was_loaded(&mut self) {
        if matches!(self.status, RunStatus::Shutdown | RunStatus::Panicked) {
            self.set_status(RunStatus::Paused);
        }
    }

    /// What was asked for is done, or is not.
    pub(crate) fn complete(&mut self, ticket: Ticket, failure: Option<String>) {
        self.failures.extend(failure.map(|why| (ticket, why)));
        self.done_tickets.push(ticket);
    }

    /// The recording's manifest and those of what was cut off it.
    pub(crate) fn manifests(&self) -> Vec<Manifest> {
        self.journal.manifests()
    }

    /// Whether the run's log passes a place.
    pub(crate) fn passes(&self, place: &LogPlace) -> bool {
        self.manifests().first().is_some_and(|manifest| manifest.passes(place))
    }

    /// Whether the recording can go on from a place.
    pub(crate) fn knows(&self, place: &LogPlace) -> bool {
        self.manifests().iter().any(|manifest| manifest.passes(place))
    }

    /// Whether the recording starts from this snapshot.
    pub(crate) fn is_start_of_recording(&self, tag: &str) -> bool {
        self.manifests().first().is_some_and(|manifest| manifest.start_snapshot.as_deref() == Some(tag))
    }

    /// Whether `rrsnapshot=` gave the start this name.
    pub(crate) fn is_start_tag(&self, tag: &str) -> bool {
        self.facts.start_snapshot.as_ref().is_some_and(|(name, _)| name == tag)
    }

    /// In a replay: goes to a place among the events at an icount; the ticket is done on arrival. A machine that runs runs on from
    /// there, as QEMU's does after `loadvm`.
    pub(crate) fn seek_place(&mut self, ticket: Ticket, icount: u64, events: u64) -> Result<(), String> {
        let ran = self.status == RunStatus::Running;
        self.leave_for_a_place()?;
        self.runs_on = ran.then_some(ticket);
        self.send_control(ticket, Control::Seek { icount: Icount(icount), events })
    }
}

/// What lies on the desk.
#[derive(Debug, Default)]
pub struct Desk {
    /// Where snapshots are; none: there is no keeper.
    pub places: Option<Places>,
    /// Requests that nobody has begun with.
    pub requests: VecDeque<(Ticket, Request)>,
    /// News that nobody has read.
    pub news: VecDeque<News>,
    /// What becomes of the log when a load succeeds, by its command.
    pub cuts: BTreeMap<u64, Cut>,
}
