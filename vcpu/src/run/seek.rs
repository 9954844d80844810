//! Where a replay is on its way to: a place to arrive at, places to stop at, snapshots to leave on the way.

use super::machine::Machine;
use crate::gdb::Told;
use crate::snapshot::history::{Moment, Place};
use replay::time::Vtime;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

/// Distances before a place at which snapshots are left on the way to it, so that the steps back from it are short.
const MARKS: [u64; 8] = [1 << 25, 1 << 23, 1 << 21, 1 << 19, 1 << 17, 1 << 15, 1 << 13, 1 << 11];

/// Instructions of replay that take longer than fetching a snapshot.
const WORTH: u64 = 50_000_000;

/// What disks that begin elsewhere give up behind them counts this much less than what is saved: it may not be wanted.
const LOSS: u64 = 4;

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

/// Where a way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// At a point between two instructions.
    Moment(Moment),
    /// At the first place where guest time is this or later.
    Time(Vtime),
}

/// Where a replay is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The end of the way.
    pub target: Target,
    /// What it is for.
    pub purpose: Purpose,
}

impl Goal {
    /// The arrival at a place, for a request of the monitor.
    pub fn of_monitor(place: Place, ticket: u64) -> Goal {
        let moment = Moment::arrival(place);
        Goal { target: Target::Moment(moment), purpose: Purpose::Monitor(ticket) }
    }

    /// The first place at or after a guest time, for a request of the monitor.
    pub fn of_time(vtime: Vtime, ticket: u64) -> Goal {
        Goal { target: Target::Time(vtime), purpose: Purpose::Monitor(ticket) }
    }

    /// A moment, for a debugger.
    pub fn of_debugger(moment: Moment, purpose: Purpose) -> Goal {
        Goal { target: Target::Moment(moment), purpose }
    }

    /// The moment, if it is one with deliveries before it.
    pub fn turn(&self) -> Option<Moment> {
        match self.target {
            Target::Moment(moment) if moment.turn > 0 => Some(moment),
            Target::Moment(_) | Target::Time(_) => None,
        }
    }

    /// Its icount, as far as it is known here: guest time may jump ahead before it.
    pub fn icount(&self, machine: &Machine) -> u64 {
        match self.target {
            Target::Moment(moment) => moment.place.icount,
            Target::Time(vtime) => machine.core.clock.icount_at(vtime),
        }
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
    /// Guest times to pause at, once each.
    pub time_breaks: BTreeSet<Vtime>,
    /// Guest time at the last look for them.
    looked: Vtime,
    /// Events of the log that were applied.
    pub events: u64,
    /// What comes from the broker belongs to a place that was left.
    pub discards: bool,
    /// Places of which the broker has a snapshot, and guest time there.
    pub stored: BTreeMap<Place, Vtime>,
}

/// A state that the broker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The stored snapshot of this place.
    Stored(Place),
    /// The start.
    Start,
}

impl Seek {
    /// Where the machine is.
    pub fn here(&self, machine: &Machine) -> Place {
        Place { icount: machine.icount(), events: self.events }
    }

    /// The machine is at its goal.
    pub fn has_arrived(&self, machine: &Machine) -> bool {
        self.goal.is_some_and(|goal| match goal.target {
            Target::Moment(Moment { place, turn: 0 }) => self.here(machine) >= place,
            Target::Moment(Moment { place, .. }) => {
                machine.core.probe.has_reached() || machine.icount() > place.icount
            }
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

    /// Whether a snapshot shall be left here.
    pub fn is_marked(&self, machine: &Machine) -> bool {
        let now = machine.icount();
        self.marks(machine).any(|mark| mark == now)
            || machine.history().is_some_and(|history| history.is_due(self.here(machine)))
    }

    /// Where snapshots shall be left on the way. One that looks for something leaves none: it may have to look further back.
    fn marks(&self, machine: &Machine) -> impl Iterator<Item = u64> {
        let lands = |goal: &Goal| !matches!(goal.purpose, Purpose::Scan(_));
        let end = self.goal.filter(lands).map(|goal| goal.icount(machine));
        end.into_iter()
            .flat_map(|end| MARKS.into_iter().filter_map(move |distance| end.checked_sub(distance)))
    }

    /// The next icount, after the machine's, at which it must stop for one of these reasons.
    pub fn limit(&self, machine: &Machine) -> u64 {
        let now = machine.icount();
        // Where something is to be delivered, nothing may retire but what it leads to.
        let end = self.goal.map(|goal| {
            let icount = goal.icount(machine);
            if icount > now { icount } else { icount.saturating_add(u64::from(goal.turn().is_some())) }
        });
        let stop = self.breaks.range(now + 1..).next().copied();
        let time_stop = self.time_breaks.range((Excluded(machine.vtime()), Unbounded)).next();
        let time_stop = time_stop.map(|vtime| machine.core.clock.icount_at(*vtime));
        let known = machine.history().and_then(|history| history.next_place(self.here(machine)));
        let known = known.map(|place| place.icount);
        let all = self.marks(machine).chain(end).chain(stop).chain(time_stop).chain(known);
        all.filter(|&icount| icount > now).min().unwrap_or(u64::MAX)
    }

    /// The snapshot from which to go to a goal: none if the way from here is the shortest.
    pub fn start_for(&self, machine: &Machine, goal: &Goal) -> Option<Place> {
        if let Purpose::Scan(from) = goal.purpose {
            return Some(from);
        }
        let (here, history) = (machine.core.moment(), machine.history()?);
        let (nearest, is_behind) = match goal.target {
            Target::Moment(moment) => (history.before(moment.place)?, moment < here),
            Target::Time(vtime) => (history.before_time(vtime)?, vtime < machine.vtime()),
        };
        (is_behind || Moment::arrival(nearest) > here).then_some(nearest)
    }

    /// What to fetch for the way to a goal: what is out of reach from here, or so much shorter that it is worth it.
    pub fn source_for(&self, machine: &Machine, goal: &Goal) -> Option<Source> {
        let history = machine.history()?;
        if let Purpose::Scan(from) = goal.purpose {
            let source = if self.stored.contains_key(&from) { Source::Stored(from) } else { Source::Start };
            return (!history.is_in_reach(from)).then_some(source);
        }
        let (stored, known, is_ahead) = match goal.target {
            Target::Moment(Moment { place, .. }) => {
                let stored = self.stored.range(..=place).next_back();
                (stored, history.before(place), self.here(machine) <= place)
            }
            Target::Time(vtime) => {
                let stored = self.stored.iter().rev().find(|(_, at)| **at <= vtime);
                (stored, history.before_time(vtime), machine.vtime() <= vtime)
            }
        };
        let nearest = known.into_iter().chain(is_ahead.then(|| self.here(machine))).max();
        match (stored.map(|(place, _)| *place), nearest) {
            (Some(stored), Some(nearest)) => {
                let least = WORTH.max(history.disks_span() / LOSS);
                let is_worth_it = stored.icount >= nearest.icount.saturating_add(least);
                is_worth_it.then_some(Source::Stored(stored))
            }
            (Some(stored), None) => Some(Source::Stored(stored)),
            (None, None) => history.has_disks().then_some(Source::Start),
            (None, Some(_)) => None,
        }
    }

    /// The latest place before a moment from which the machine can be run again.
    pub fn last_before(&self, machine: &Machine, moment: Moment) -> Option<Place> {
        let history = machine.history()?;
        history.last_before(moment).or_else(|| {
            let stored = self.stored.range(..moment.place).next_back().map(|(place, _)| *place);
            let first = history.first().filter(|first| Moment::arrival(*first) < moment);
            stored.or(first).filter(|_| history.has_disks())
        })
    }
}
