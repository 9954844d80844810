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
/// Snapshots kept in each octave of distance from the present, on either side of it.
const PER_OCTAVE: usize = 3;
/// Distances below this are one octave.
const NEAR: u64 = 1 << 11;

/// Snapshots of one replay, all in memory.
#[derive(Debug, Default)]
pub struct History {
    snapshots: BTreeMap<Place, SavedState>,
    pages: PageVersions<Place>,
    /// Pages written since the snapshot at `base`.
    written: BTreeSet<u64>,
    /// The snapshot from which the machine has come here.
    base: Option<Place>,
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

    /// The latest snapshot at or before a place.
    pub fn before(&self, place: Place) -> Option<Place> {
        self.snapshots.range(..=place).next_back().map(|(place, _)| *place)
    }

    /// The latest snapshot before a moment.
    pub fn last_before(&self, moment: Moment) -> Option<Place> {
        self.before(moment.place).filter(|&found| Moment::arrival(found) < moment).or_else(|| {
            let earlier = self.snapshots.range(..moment.place).next_back();
            earlier.map(|(place, _)| *place)
        })
    }

    /// The first snapshot.
    pub fn first(&self) -> Option<Place> {
        self.snapshots.keys().next().copied()
    }

    /// The latest snapshot whose guest time is not after `vtime`.
    pub fn before_time(&self, vtime: Vtime) -> Option<Place> {
        let mut places = self.snapshots.iter().rev();
        places.find(|(_, state)| state.vtime() <= vtime).map(|(place, _)| *place)
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
        for place in surplus(self.snapshots.keys().rev().copied(), here) {
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
        let candidates = inner.filter(|&index| Some(places[index]) != self.base);
        candidates.min_by(|&a, &b| gap(a).total_cmp(&gap(b))).map(|index| places[index])
    }

    fn forget(&mut self, place: Place) {
        let is_first = self.snapshots.keys().next() == Some(&place);
        if is_first || self.base == Some(place) {
            return;
        }
        self.snapshots.remove(&place);
        self.pages.remove(place);
    }
}

/// Which of `places`, the latest first, are too many at their distance from `here`. Those behind and those ahead are counted
/// apart: whoever goes back leaves many ahead, and needs the ones before him.
fn surplus(places: impl Iterator<Item = Place>, here: Place) -> Vec<Place> {
    let mut octaves: BTreeMap<(bool, u32), usize> = BTreeMap::new();
    let is_surplus = |place: &Place| {
        let distance = place.icount.abs_diff(here.icount) / NEAR;
        let octave = u64::BITS - distance.leading_zeros();
        let kept = octaves.entry((*place > here, octave)).or_default();
        *kept += 1;
        *kept > PER_OCTAVE
    };
    places.filter(is_surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(icounts: impl Iterator<Item = u64>) -> Vec<Place> {
        icounts.map(|icount| Place { icount, events: 0 }).collect()
    }

    #[test]
    fn a_run_forward_keeps_a_few_of_each_octave() {
        let all = places((0..=100).rev().map(|number| number * SPACING));
        let dropped = surplus(all.iter().copied(), all[0]);
        let kept: Vec<u64> = all
            .iter()
            .filter(|place| !dropped.contains(place))
            .map(|place| 100 - place.icount / SPACING)
            .collect();
        assert_eq!(kept, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16, 27, 28, 29, 54, 55, 56]);
    }

    #[test]
    fn many_snapshots_ahead_cost_none_behind() {
        let (here, before) = (Place { icount: 80_000_000, events: 0 }, [60_000_000, 0]);
        let ahead = [103_463_584, 101_000_000, 100_000_000, 99_000_000, 98_000_000];
        let all = places(ahead.into_iter().chain([here.icount]).chain(before));
        let dropped = surplus(all.into_iter(), here);
        assert_eq!(dropped, places([99_000_000, 98_000_000].into_iter()));
    }
}
