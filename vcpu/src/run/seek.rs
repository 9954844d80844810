//! Where a replay is on its way to: a place to arrive at, places to stop at, snapshots to leave on the way.

use super::machine::Machine;
use crate::gdb::Told;
use crate::snapshot::history::{Moment, Place};
use std::collections::BTreeSet;

/// Distances before a place at which snapshots are left on the way to it, so that the steps back from it are short.
const MARKS: [u64; 8] = [1 << 25, 1 << 23, 1 << 21, 1 << 19, 1 << 17, 1 << 15, 1 << 13, 1 << 11];

/// Why a replay is on its way to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The monitor asked for it, by this request, which is acknowledged on arrival.
    Monitor(u64),
    /// A debugger's way back ends there.
    Land(Told),
    /// What a debugger waits for is looked for from a snapshot up to there.
    Scan(Place),
}

/// Where a replay is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The end of the way.
    pub moment: Moment,
    /// What it is for.
    pub purpose: Purpose,
}

impl Goal {
    /// The first arrival at an icount, for a request of the monitor.
    pub fn of_monitor(icount: u64, ticket: u64) -> Goal {
        let moment = Moment::arrival(Place { icount, events: 0 });
        Goal { moment, purpose: Purpose::Monitor(ticket) }
    }

    /// It is for a debugger.
    pub fn is_of_debugger(&self) -> bool {
        match self.purpose {
            Purpose::Land(_) | Purpose::Scan(_) => true,
            Purpose::Monitor(_) => false,
        }
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
}

impl Seek {
    /// Where the machine is.
    pub fn here(&self, machine: &Machine) -> Place {
        Place { icount: machine.icount(), events: self.events }
    }

    /// The machine is at its goal.
    pub fn has_arrived(&self, machine: &Machine) -> bool {
        self.goal.is_some_and(|goal| {
            let place = goal.moment.place;
            match goal.moment.turn {
                0 => self.here(machine) >= place,
                _ => machine.core.probe.has_reached() || machine.icount() > place.icount,
            }
        })
    }

    /// Whether a snapshot shall be left here.
    pub fn is_marked(&self, machine: &Machine) -> bool {
        let now = machine.icount();
        self.marks().any(|mark| mark == now)
            || machine.history().is_some_and(|history| history.is_due(self.here(machine)))
    }

    /// Where snapshots shall be left on the way. One that looks for something leaves none: it may have to look further back.
    fn marks(&self) -> impl Iterator<Item = u64> {
        let lands = |goal: &Goal| !matches!(goal.purpose, Purpose::Scan(_));
        let end = self.goal.filter(lands).map(|goal| goal.moment.place.icount);
        end.into_iter()
            .flat_map(|end| MARKS.into_iter().filter_map(move |distance| end.checked_sub(distance)))
    }

    /// The next icount, after the machine's, at which it must stop for one of these reasons.
    pub fn limit(&self, machine: &Machine) -> u64 {
        let now = machine.icount();
        // Where something is to be delivered, nothing may retire but what it leads to.
        let end = self.goal.map(|Goal { moment, .. }| {
            let icount = moment.place.icount;
            if icount > now { icount } else { icount.saturating_add(u64::from(moment.turn.min(1))) }
        });
        let stop = self.breaks.range(now + 1..).next().copied();
        let known = machine.history().and_then(|history| history.next_place(self.here(machine)));
        let known = known.map(|place| place.icount);
        let all = self.marks().chain(end).chain(stop).chain(known);
        all.filter(|&icount| icount > now).min().unwrap_or(u64::MAX)
    }

    /// The snapshot from which to go to a goal: none if the way from here is the shortest.
    pub fn start_for(&self, machine: &Machine, goal: &Goal) -> Option<Place> {
        if let Purpose::Scan(from) = goal.purpose {
            return Some(from);
        }
        let here = machine.core.moment();
        let nearest = machine.history()?.before(goal.moment.place)?;
        (goal.moment < here || Moment::arrival(nearest) > here).then_some(nearest)
    }
}
