//! Where a replay is on its way to: a place to arrive at, places to stop at, snapshots to leave on the way.

use super::machine::Machine;
use crate::snapshot::history::Place;
use std::collections::BTreeSet;

/// Distances before a place at which snapshots are left on the way to it, so that the steps back from it are short.
const MARKS: [u64; 8] = [1 << 25, 1 << 23, 1 << 21, 1 << 19, 1 << 17, 1 << 15, 1 << 13, 1 << 11];

/// A place that the monitor asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Instructions retired.
    pub icount: u64,
    /// The request, to be acknowledged on arrival.
    pub ticket: u64,
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
}

impl Seek {
    /// Where the machine is.
    pub fn here(&self, machine: &Machine) -> Place {
        Place { icount: machine.icount(), events: self.events }
    }

    /// The machine is at its goal.
    pub fn has_arrived(&self, machine: &Machine) -> bool {
        self.goal.is_some_and(|goal| machine.icount() >= goal.icount)
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

    /// The snapshot from which to go to `icount`: none if the way from here is the shortest.
    pub fn start_for(&self, machine: &Machine, icount: u64) -> Option<Place> {
        let here = self.here(machine);
        let nearest = machine.history()?.before(Place { icount, events: 0 })?;
        (icount < here.icount || nearest > here).then_some(nearest)
    }
}
