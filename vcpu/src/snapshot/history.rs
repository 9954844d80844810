//! The snapshots of a replay: taken as it goes on, thinned with distance, within a budget of memory.

use super::pages::PageVersions;
use super::state::{SavedState, StateError};
use crate::core::Core;
use crate::mem::ram::PAGE_SIZE;
use replay::time::Vtime;
use std::collections::{BTreeMap, BTreeSet};

/// A place on the time line: instructions retired, and events of the log that were applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Instructions retired.
    pub icount: u64,
    /// Events of the log that were taken.
    pub events: u64,
}

/// A point between two instructions, exactly: deliveries of exceptions and interrupts retire nothing, so several of them may
/// have one icount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Where.
    pub place: Place,
    /// Deliveries since the last retired instruction.
    pub turn: u32,
}

impl Moment {
    /// The arrival at a place.
    pub fn arrival(place: Place) -> Moment {
        Moment { place, turn: 0 }
    }
}

/// Memory that snapshots may take.
const BUDGET_BYTES: usize = 512 << 20;
/// Instructions between two snapshots of a run that goes forward: about 100 ms of replay.
const SPACING: u64 = 20_000_000;
/// Distances from the present below this are one octave.
const NEAR: u64 = 1 << 11;
/// Snapshots kept in an octave: it is that many stretches long, and the first one of each is.
const PER_OCTAVE: u64 = 4;

/// Snapshots of one replay, all in memory.
#[derive(Debug, Default)]
pub struct History {
    snapshots: BTreeMap<Place, SavedState>,
    pages: PageVersions<Place>,
    /// Pages written since the snapshot at `base`.
    written: BTreeSet<u64>,
    /// The snapshot from which the machine has come here.
    base: Option<Place>,
    /// From where to where the disks of this run have gone, if there are any: they only go forward, so from a snapshot elsewhere they
    /// would not know how to go on.
    reach: Option<(Place, Place)>,
}

impl History {
    /// Notes pages that were written.
    pub fn note(&mut self, pages: &[u64]) {
        self.written.extend(pages);
    }

    /// Whether a run that goes forward should leave a snapshot here.
    pub fn is_due(&self, here: Place) -> bool {
        match self.snapshots.range(..=here).next_back() {
            Some((before, _)) => here.icount - before.icount >= SPACING,
            None => true,
        }
    }

    /// The next place, after `here`, that has a snapshot: the machine must stop there, so that what was written since is known.
    pub fn next_place(&self, here: Place) -> Option<Place> {
        let after = (std::ops::Bound::Excluded(here), std::ops::Bound::Unbounded);
        self.snapshots.range(after).next().map(|(place, _)| *place)
    }

    /// There are disks, and they begin at `place`.
    pub fn disks_begin(&mut self, place: Place) {
        self.reach = Some((place, place));
    }

    /// The machine has come to `here`, and its disks with it, unless they were there before.
    pub fn reached(&mut self, here: Place) {
        if let Some((_, to)) = &mut self.reach {
            *to = here.max(*to);
        }
    }

    /// Whether the machine can go on from a snapshot of this place with the disks that it has.
    pub fn is_in_reach(&self, place: Place) -> bool {
        self.reach.is_none_or(|(from, to)| (from..=to).contains(&place))
    }

    /// Whether there are disks, which are not in reach of all places.
    pub fn has_disks(&self) -> bool {
        self.reach.is_some()
    }

    /// Instructions between the first and the last place in reach: what is given up when disks begin elsewhere.
    pub fn disks_span(&self) -> u64 {
        self.reach.map_or(0, |(from, to)| to.icount - from.icount)
    }

    /// Snapshots in reach up to a place, the latest first.
    fn up_to(&self, place: Place) -> impl Iterator<Item = (Place, &SavedState)> {
        let snapshots = self.snapshots.range(..=place).rev().map(|(place, state)| (*place, state));
        snapshots.filter(|(place, _)| self.is_in_reach(*place))
    }

    /// The latest snapshot at or before a place, in reach.
    pub fn before(&self, place: Place) -> Option<Place> {
        self.up_to(place).next().map(|(place, _)| place)
    }

    /// The latest snapshot before a moment, in reach.
    pub fn last_before(&self, moment: Moment) -> Option<Place> {
        self.up_to(moment.place).map(|(place, _)| place).find(|&found| Moment::arrival(found) < moment)
    }

    /// The first snapshot.
    pub fn first(&self) -> Option<Place> {
        self.snapshots.keys().next().copied()
    }

    /// The latest snapshot, in reach, whose guest time is not after `vtime`.
    pub fn before_time(&self, vtime: Vtime) -> Option<Place> {
        let last = *self.snapshots.keys().next_back()?;
        self.up_to(last).find(|(_, state)| state.vtime() <= vtime).map(|(place, _)| place)
    }

    /// Whether there is a snapshot of a place.
    pub fn holds(&self, place: Place) -> bool {
        self.snapshots.contains_key(&place)
    }

    /// Number of snapshots, and bytes of pages that they hold.
    pub fn size(&self) -> (usize, usize) {
        (self.snapshots.len(), self.pages.bytes())
    }

    /// The machine stands at `here` with every written page noted: takes a snapshot, or finds the one that is there.
    pub fn take(&mut self, core: &Core, here: Place) {
        if !self.snapshots.contains_key(&here) {
            let written = self.written.iter().map(|&number| (number, core.mem.ram.page(number)));
            self.pages.add(here, written);
            self.snapshots.insert(here, SavedState::of(core));
        }
        self.written.clear();
        self.base = Some(here);
        self.thin(here);
    }

    /// The machine has come to a place that may have a snapshot: from here on, writes count from it.
    pub fn pass(&mut self, here: Place) {
        if self.snapshots.contains_key(&here) {
            self.written.clear();
            self.base = Some(here);
        }
    }

    /// RAM was replaced: every page may differ from what it was at the base.
    pub fn note_all(&mut self) {
        self.written.extend(self.pages.numbers());
    }

    /// Puts the machine, every written page noted, back to a snapshot.
    pub fn restore(&mut self, core: &mut Core, place: Place) -> Result<(), StateError> {
        let snapshot = self.snapshots.get(&place).ok_or(StateError::Shape("place"))?;
        let mut pages = std::mem::take(&mut self.written);
        if let Some(base) = self.base {
            pages.extend(self.pages.between(base, place));
        }
        for number in pages {
            let bytes = self.pages.bytes_of(number, place);
            if core.mem.ram.page(number) != bytes {
                core.mem.ram.write_bytes(number * PAGE_SIZE, bytes);
            }
        }
        snapshot.restore(core)?;
        self.base = Some(place);
        Ok(())
    }

    /// Thins out with distance from `here`, then until the budget holds. The first and the base stay.
    fn thin(&mut self, here: Place) {
        for place in surplus(self.snapshots.keys().copied(), here) {
            self.forget(place);
        }
        while self.pages.bytes() > BUDGET_BYTES {
            // The two neighbours that are nearest to each other for their distance lose one.
            let crowded = self.crowded(here);
            match crowded {
                Some(place) => self.forget(place),
                None => break,
            }
        }
    }

    fn crowded(&self, here: Place) -> Option<Place> {
        let places: Vec<Place> = self.snapshots.keys().copied().collect();
        let gap = |index: usize| {
            let spacing = places[index + 1].icount - places[index - 1].icount;
            spacing as f64 / (1 + places[index].icount.abs_diff(here.icount)) as f64
        };
        let inner = 1..places.len().saturating_sub(1);
        let begin = self.reach.map(|(from, _)| from);
        let candidates = inner.filter(|&index| ![self.base, begin].contains(&Some(places[index])));
        candidates.min_by(|&a, &b| gap(a).total_cmp(&gap(b))).map(|index| places[index])
    }

    fn forget(&mut self, place: Place) {
        let is_first = self.snapshots.keys().next() == Some(&place);
        let is_first_in_reach = self.reach.is_some_and(|(from, _)| from == place);
        if is_first || is_first_in_reach || self.base == Some(place) {
            return;
        }
        self.snapshots.remove(&place);
        self.pages.remove(place);
    }
}

/// Which of `places`, in their order, are too many at their distance from `here`. Of each stretch the first one stays. Stretches do
/// not move with `here`, and a long one is made of short ones, so what stays far away was never dropped when it was near.
/// Those behind and those ahead are counted apart: whoever goes back leaves many ahead, and needs the ones before him.
fn surplus(places: impl Iterator<Item = Place>, here: Place) -> Vec<Place> {
    let mut last = None;
    let is_surplus = |place: &Place| {
        let distance = place.icount.abs_diff(here.icount) / NEAR;
        let octave = u64::BITS - distance.leading_zeros();
        let stretch = (NEAR / PER_OCTAVE / 2).checked_shl(octave).unwrap_or(u64::MAX);
        let this = Some((*place > here, octave, place.icount / stretch));
        std::mem::replace(&mut last, this) == this
    };
    places.filter(is_surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(icounts: impl Iterator<Item = u64>) -> Vec<Place> {
        icounts.map(|icount| Place { icount, events: 0 }).collect()
    }

    /// Snapshots that are left of a run that takes them at these places.
    fn left_of(run: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut left: Vec<Place> = vec![];
        for here in places(run) {
            left.push(here);
            let dropped = surplus(left.iter().copied(), here);
            left.retain(|place| *place == here || !dropped.contains(place));
        }
        left.iter().map(|place| place.icount).collect()
    }

    #[test]
    fn a_run_forward_leaves_some_at_every_distance() {
        let end = 500 * SPACING;
        let left = left_of((0..=500).map(|number| number * SPACING));
        assert!(left.len() < 40, "{left:?}");
        for target in (0..=500).map(|number| number * SPACING) {
            let before = left.iter().rev().find(|place| **place <= target).unwrap();
            let most = ((end - target) / 2).max(SPACING);
            assert!(target - before <= most, "{before} for {target}: {left:?}");
        }
    }

    #[test]
    fn many_snapshots_ahead_cost_none_behind() {
        let (here, before) = (Place { icount: 80_000_000, events: 0 }, [0, 60_000_000]);
        let ahead = [98_000_000, 98_100_000, 98_200_000, 103_463_584];
        let all = places(before.into_iter().chain([here.icount]).chain(ahead));
        let dropped = surplus(all.into_iter(), here);
        assert_eq!(dropped, places([98_100_000, 98_200_000].into_iter()));
    }
}
