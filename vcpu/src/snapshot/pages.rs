//! Contents of RAM at several snapshots: of each page, only the versions that differ.

use crate::mem::ram::PAGE_SIZE;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

/// Bytes of one page.
pub type Page = [u8; PAGE_SIZE as usize];

static ZEROS: Page = [0; PAGE_SIZE as usize];

/// Pages with their numbers, in the order of the numbers. A flat list: most of what happens to layers is that two of them become one.
type Layer = Vec<(u64, Arc<Page>)>;

/// Versions of pages by the snapshot that holds them; `K` orders snapshots as the guest passes them.
///
/// A page's content at a snapshot is its latest version up to there. One without such a version is zero.
#[derive(Debug)]
pub struct PageVersions<K> {
    layers: BTreeMap<K, Layer>,
    count: usize,
}

impl<K: Ord + Copy> Default for PageVersions<K> {
    fn default() -> PageVersions<K> {
        PageVersions { layers: BTreeMap::new(), count: 0 }
    }
}

impl<K: Ord + Copy> PageVersions<K> {
    /// Bytes of all versions.
    pub fn bytes(&self) -> usize {
        self.count * PAGE_SIZE as usize
    }

    /// Numbers of all pages that have a version.
    pub fn numbers(&self) -> BTreeSet<u64> {
        self.layers.values().flatten().map(|(number, _)| *number).collect()
    }

    /// Adds a snapshot with the pages written since the one before it, in the order of their numbers.
    pub fn add<'a>(&mut self, key: K, pages: impl Iterator<Item = (u64, &'a [u8])>) {
        let next = self.layers.range((Excluded(key), Unbounded)).next().map(|(next, _)| *next);
        let is_first = self.layers.is_empty();
        // What the next snapshot took for its own from the one before this.
        let mut kept = Layer::new();
        let mut layer = Layer::new();
        for (number, bytes) in pages {
            let page: &Page = bytes.try_into().expect("pages have their size");
            if let Some(next) = next {
                let older = self.version(number, key);
                if older.map_or(&ZEROS, |page| &**page) == page {
                    continue;
                }
                if find(&self.layers[&next], number).is_none() {
                    kept.push((number, older.cloned().unwrap_or_else(|| Arc::new(ZEROS))));
                }
            } else if is_first && *page == ZEROS {
                continue;
            }
            layer.push((number, Arc::new(*page)));
        }
        self.count += layer.len() + kept.len();
        self.layers.insert(key, layer);
        if let Some(layer) = next.and_then(|next| self.layers.get_mut(&next)) {
            merge(kept, layer);
        }
    }

    /// A page's latest version up to a snapshot.
    fn version(&self, number: u64, key: K) -> Option<&Arc<Page>> {
        self.layers.range(..=key).rev().find_map(|(_, layer)| find(layer, number))
    }

    /// A page's content at a snapshot.
    pub fn bytes_of(&self, number: u64, key: K) -> &Page {
        self.version(number, key).map_or(&ZEROS, |page| page)
    }

    /// Pages that may differ between two snapshots.
    pub fn between(&self, one: K, other: K) -> BTreeSet<u64> {
        if one == other {
            return BTreeSet::new();
        }
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let layers = self.layers.range((Excluded(low), Included(high)));
        layers.flat_map(|(_, layer)| layer.iter().map(|(number, _)| *number)).collect()
    }

    /// Forgets a snapshot. What only it held goes to the next one, which still needs it.
    pub fn remove(&mut self, key: K) {
        let Some(layer) = self.layers.remove(&key) else { return };
        match self.layers.range_mut((Excluded(key), Unbounded)).next() {
            Some((_, next)) => self.count -= merge(layer, next),
            None => self.count -= layer.len(),
        }
    }
}

fn find(layer: &Layer, number: u64) -> Option<&Arc<Page>> {
    layer.binary_search_by_key(&number, |(number, _)| *number).ok().map(|at| &layer[at].1)
}

/// Puts older versions into a layer that may have newer ones, which stay; the answer is how many there were of both.
fn merge(older: Layer, layer: &mut Layer) -> usize {
    if older.is_empty() {
        return 0;
    }
    let newer = std::mem::replace(layer, Layer::with_capacity(older.len() + layer.len()));
    let all = older.len() + newer.len();
    let (mut older, mut newer) = (older.into_iter().peekable(), newer.into_iter().peekable());
    while let (Some((one, _)), Some((other, _))) = (older.peek(), newer.peek()) {
        match one.cmp(other) {
            Ordering::Less => layer.extend(older.next()),
            Ordering::Greater => layer.extend(newer.next()),
            Ordering::Equal => {
                older.next();
                layer.extend(newer.next());
            }
        }
    }
    layer.extend(older);
    layer.extend(newer);
    all - layer.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    type Ram = Vec<Page>;

    fn check(versions: &PageVersions<u32>, snapshots: &BTreeMap<u32, Ram>) {
        for (key, ram) in snapshots {
            for (number, page) in ram.iter().enumerate() {
                assert_eq!(versions.bytes_of(number as u64, *key), page, "page {number} at {key}");
            }
        }
        let pairs = snapshots.iter().zip(snapshots.iter().skip(1));
        for ((low, before), (high, after)) in pairs {
            let may = versions.between(*low, *high);
            let differ = (0..before.len()).filter(|&number| before[number] != after[number]);
            assert!(differ.into_iter().all(|number| may.contains(&(number as u64))));
            assert_eq!(may, versions.between(*high, *low));
        }
    }

    #[test]
    fn every_snapshot_keeps_its_contents_whatever_is_removed_or_put_between() {
        let seed = 0x9a9e_0001;
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..50 {
            let mut versions = PageVersions::default();
            let mut snapshots: BTreeMap<u32, Ram> = BTreeMap::new();
            // The states that a run passes, one a step.
            let mut states: Vec<Ram> = vec![vec![ZEROS; 8]];
            for _ in 0..40 {
                let mut ram = states[states.len() - 1].clone();
                for _ in 0..dice.next_u32() % 4 {
                    ram[(dice.next_u32() % 8) as usize][0] = (dice.next_u32() % 3) as u8;
                }
                states.push(ram);
            }
            for _ in 0..60 {
                let key = dice.next_u32() % 41;
                if snapshots.contains_key(&key) {
                    snapshots.remove(&key);
                    versions.remove(key);
                } else {
                    // Written since the snapshot before: all that differs from it, and some that does not.
                    let before = snapshots.range(..key).next_back().map(|(_, ram)| ram.clone());
                    let before = before.unwrap_or(vec![ZEROS; 8]);
                    let ram = states[key as usize].clone();
                    let odd = dice.next_u32() % 8;
                    let written = (0..8).filter(|&n| ram[n] != before[n] || n as u32 == odd);
                    versions.add(key, written.map(|number| (number as u64, &ram[number][..])));
                    snapshots.insert(key, ram.clone());
                }
                check(&versions, &snapshots);
            }
        }
    }
}
