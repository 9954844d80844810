//! Places for requests in a window: first fit, so that the part of the window in use stays small.

use std::collections::BTreeMap;
use std::ops::Range;

/// Smallest alignment of a place.
const ALIGN: usize = 64;

/// A stretch of the window of which parts are in use.
#[derive(Debug)]
pub struct Arena {
    whole: Range<usize>,
    /// Free parts: start → end. No two touch.
    free: BTreeMap<usize, usize>,
}

impl Arena {
    /// All of `whole` is free.
    pub fn new(whole: Range<usize>) -> Arena {
        Arena { free: BTreeMap::from([(whole.start, whole.end)]), whole }
    }

    /// Whether `size` bytes could ever be had.
    pub fn can_hold(&self, size: usize) -> bool {
        let start = self.whole.start.next_multiple_of(place_align(size));
        size <= self.whole.len() && start + place_size(size) <= self.whole.end
    }

    /// Takes `size` bytes: whole pages on a page for a page and more, else aligned to 64 bytes.
    pub fn take(&mut self, size: usize) -> Option<Range<usize>> {
        let (size, align) = (place_size(size), place_align(size));
        let fits = |(&start, &end): (&usize, &usize)| {
            let at = start.next_multiple_of(align);
            (at.checked_add(size)? <= end).then_some((start, end, at))
        };
        let (start, end, at) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if at + size < end {
            self.free.insert(at + size, end);
        }
        Some(at..at + size)
    }

    /// Gives a place back.
    pub fn give(&mut self, place: Range<usize>) {
        let (mut start, mut end) = (place.start, place.end);
        if let Some((&before, &its_end)) = self.free.range(..start).next_back() {
            assert!(its_end <= start, "a place is given back once");
            if its_end == start {
                self.free.remove(&before);
                start = before;
            }
        }
        if let Some((&after, &its_end)) = self.free.range(start..).next() {
            assert!(end <= after, "a place is given back once");
            if end == after {
                self.free.remove(&after);
                end = its_end;
            }
        }
        self.free.insert(start, end);
    }
}

fn place_size(size: usize) -> usize {
    size.max(1).next_multiple_of(ALIGN)
}

fn place_align(size: usize) -> usize {
    const PAGE: usize = 4096;
    if size >= PAGE { PAGE } else { ALIGN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    #[test]
    fn places_never_overlap_and_all_come_back() {
        let seed = 0xa4e7_a001;
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut arena = Arena::new(4096..1 << 20);
        let mut taken: Vec<Range<usize>> = vec![];
        for _ in 0..20_000 {
            let size = (dice.next_u32() % 20_000) as usize;
            if dice.next_u32().is_multiple_of(2) {
                if let Some(place) = arena.take(size) {
                    assert!(place.len() >= size && place.start >= 4096 && place.end <= 1 << 20);
                    assert!(size < 4096 || place.start.is_multiple_of(4096));
                    assert!(taken.iter().all(|other| other.end <= place.start || place.end <= other.start));
                    taken.push(place);
                }
            } else if !taken.is_empty() {
                let index = dice.next_u32() as usize % taken.len();
                arena.give(taken.swap_remove(index));
            }
        }
        taken.into_iter().for_each(|place| arena.give(place));
        assert_eq!(arena.free, BTreeMap::from([(4096, 1 << 20)]));
    }

    #[test]
    fn what_cannot_fit_is_known() {
        let mut arena = Arena::new(4096..3 * 4096);
        assert!(arena.can_hold(8192) && !arena.can_hold(8193) && !arena.can_hold(usize::MAX - 4096));
        let place = arena.take(8192).unwrap();
        assert!(arena.take(1).is_none());
        arena.give(place);
        assert!(arena.take(1).is_some());
    }
}
