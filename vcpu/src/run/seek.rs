//! Where a replay is on its way to: a place to arrive at, places to stop at, snapshots to leave on the way.

use super::machine::Machine;
use crate::snapshot::history::Place;
use std::collections::BTreeSet;

/// Distances before a place at which snapshots are left on the way to it, so that the steps back from it are short.
const MARKS: [u64; 8] = [1 << 25, 1 << 23, 1 << 21, 1 << 19, 1 << 17, 1 << 15, 1 << 13, 1 << 11];

/// Instructions of replay that take longer than fetching a snapshot.
const WORTH: u64 = 50_000_000;

/// A place that the monitor asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Instructions retired.
    pub icount: u64,
    /// Events of the log at this icount that are to be applied, too: the number of all up to there.
    pub events: u64,
    /// The request, to be acknowledged on arrival.
    pub ticket: u64,
}

impl Goal {
    fn place(&self) -> Place {
        Place { icount: self.icount, events: self.events }
    }
}

/// What a replay is to do beside playing.
#[derive(Debug, Default)]
pub struct Seek {
    /// Asked for and not begun.
    pub wish: Option<Goal>,
    /// On the way there.
    pub goal: Option<Goal>,
    /// Places to pause at, once each.
    pub breaks: BTreeSet<u64>,
    /// Events of the log that were applied.
    pub events: u64,
    /// What comes from the broker belongs to a place that was left.
    pub discards: bool,
    /// Places of which the broker has a snapshot.
    pub stored: BTreeSet<Place>,
}

impl Seek {
    /// Where the machine is.
    pub fn here(&self, machine: &Machine) -> Place {
        Place { icount: machine.icount(), events: self.events }
    }

    /// The machine is at its goal.
    pub fn has_arrived(&self, machine: &Machine) -> bool {
        let here = (machine.icount(), self.events);
        self.goal.is_some_and(|goal| here.0 > goal.icount || here >= (goal.icount, goal.events))
    }

    /// Whether a snapshot shall be left here.
    pub fn is_marked(&self, machine: &Machine) -> bool {
        let left = self.goal.map_or(0, |goal| goal.icount.saturating_sub(machine.icount()));
        MARKS.contains(&left) || machine.history().is_some_and(|history| history.is_due(self.here(machine)))
    }

    /// The next icount, after the machine's, at which it must stop for one of these reasons.
    pub fn limit(&self, machine: &Machine) -> u64 {
        let now = machine.icount();
        let marks =
            self.goal.iter().flat_map(|goal| MARKS.map(|distance| goal.icount.saturating_sub(distance)));
        let goal = self.goal.map(|goal| goal.icount);
        let stop = self.breaks.range(now + 1..).next().copied();
        let known = machine.history().and_then(|history| history.next_place(self.here(machine)));
        let known = known.map(|place| place.icount);
        let all = marks.chain(goal).chain(stop).chain(known);
        all.filter(|&icount| icount > now).min().unwrap_or(u64::MAX)
    }

    /// The snapshot from which to go to a place: none if the way from here is the shortest.
    pub fn start_for(&self, machine: &Machine, goal: Goal) -> Option<Place> {
        let (here, place) = (self.here(machine), goal.place());
        let history = machine.history()?;
        let nearest = history.before(place).or(history.first())?;
        (place < here || nearest > here).then_some(nearest)
    }

    /// The broker's snapshot from which the way is so much shorter that it is worth fetching.
    pub fn stored_for(&self, machine: &Machine, goal: Goal) -> Option<Place> {
        let stored = *self.stored.range(..=goal.place()).next_back()?;
        let (here, known) = (self.here(machine), machine.history()?.before(goal.place()));
        let nearest = known.into_iter().chain((here <= goal.place()).then_some(here)).max();
        nearest.is_none_or(|nearest| stored.icount >= nearest.icount.saturating_add(WORTH)).then_some(stored)
    }
}
