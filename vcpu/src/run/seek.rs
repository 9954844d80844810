//! Where a replay is on its way to: a place to arrive at, places to stop at, snapshots to leave on the way.

use super::machine::Machine;
use crate::snapshot::history::Place;
use replay::time::Vtime;
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included};

/// Distances before a place at which snapshots are left on the way to it, so that the steps back from it are short.
const MARKS: [u64; 8] = [1 << 25, 1 << 23, 1 << 21, 1 << 19, 1 << 17, 1 << 15, 1 << 13, 1 << 11];

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Instructions retired.
    Icount(u64),
    /// The first place at which guest time is this or later.
    Time(Vtime),
}

/// A place that the monitor asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Where.
    pub place: Target,
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
    /// Guest times to pause at, once each.
    pub time_breaks: BTreeSet<Vtime>,
    /// Guest time at the last look for them.
    looked: Vtime,
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
        self.goal.is_some_and(|goal| match goal.place {
            Target::Icount(icount) => machine.icount() >= icount,
            Target::Time(vtime) => machine.vtime() >= vtime,
        })
    }

    /// Takes the break that is here, if there is one.
    pub fn meets_break(&mut self, machine: &Machine) -> bool {
        let (before, now) = (self.looked, machine.vtime());
        self.looked = now;
        // After a jump back nothing lies between.
        let met = if before < now { Some((Excluded(before), Included(now))) } else { None };
        let met = met.and_then(|between| self.time_breaks.range(between).next().copied());
        let timed = met.is_some_and(|vtime| self.time_breaks.remove(&vtime));
        self.breaks.remove(&machine.icount()) || timed
    }

    /// The machine stands still, or has jumped: what lies before is not met any more.
    pub fn stands(&mut self, machine: &Machine) {
        self.looked = machine.vtime();
    }

    /// Forgets all places to pause at.
    pub fn forget_breaks(&mut self) {
        self.breaks.clear();
        self.time_breaks.clear();
    }

    /// The icount of the goal, as far as it is known here: guest time may jump ahead before it.
    fn goal_icount(&self, machine: &Machine) -> Option<u64> {
        self.goal.map(|goal| match goal.place {
            Target::Icount(icount) => icount,
            Target::Time(vtime) => machine.core.clock.icount_at(vtime),
        })
    }

    /// Whether a snapshot shall be left here.
    pub fn is_marked(&self, machine: &Machine) -> bool {
        let left = self.goal_icount(machine).map_or(0, |icount| icount.saturating_sub(machine.icount()));
        MARKS.contains(&left) || machine.history().is_some_and(|history| history.is_due(self.here(machine)))
    }

    /// The next icount, after the machine's, at which it must stop for one of these reasons.
    pub fn limit(&self, machine: &Machine) -> u64 {
        let now = machine.icount();
        let goal = self.goal_icount(machine);
        let marks = goal.iter().flat_map(|goal| MARKS.map(|distance| goal.saturating_sub(distance)));
        let stop = self.breaks.range(now + 1..).next().copied();
        let later = (Excluded(machine.vtime()), std::ops::Bound::Unbounded);
        let time_stop = self.time_breaks.range(later).next();
        let time_stop = time_stop.map(|vtime| machine.core.clock.icount_at(*vtime));
        let known = machine.history().and_then(|history| history.next_place(self.here(machine)));
        let known = known.map(|place| place.icount);
        let all = marks.chain(goal).chain(stop).chain(time_stop).chain(known);
        all.filter(|&icount| icount > now).min().unwrap_or(u64::MAX)
    }

    /// The snapshot from which to go to a place: none if the way from here is the shortest.
    pub fn start_for(&self, machine: &Machine, place: Target) -> Option<Place> {
        let (here, history) = (self.here(machine), machine.history()?);
        let (nearest, behind) = match place {
            Target::Icount(icount) => (history.before(Place { icount, events: 0 }), icount < here.icount),
            Target::Time(vtime) => (history.before_time(vtime), vtime < machine.vtime()),
        };
        nearest.filter(|nearest| behind || *nearest > here)
    }
}
