//! Contents of RAM at several snapshots: of each page, only the versions that differ.

use crate::mem::ram::PAGE_SIZE;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of one page.
pub type Page = [u8; PAGE_SIZE as usize];

static ZEROS: Page = [0; PAGE_SIZE as usize];

/// Versions of pages by the snapshot that holds them; `K` orders snapshots as the guest passes them.
///
/// A page's content at a snapshot is its latest version up to there. One without such a version is zero.
#[derive(Debug)]
pub struct PageVersions<K> {
    versions: BTreeMap<u64, BTreeMap<K, Arc<Page>>>,
    /// Pages with a version at a snapshot.
    at: BTreeMap<K, BTreeSet<u64>>,
    count: usize,
}

impl<K: Ord + Copy> Default for PageVersions<K> {
    fn default() -> PageVersions<K> {
        PageVersions { versions: BTreeMap::new(), at: BTreeMap::new(), count: 0 }
    }
}

impl<K: Ord + Copy> PageVersions<K> {
    /// Bytes of all versions.
    pub fn bytes(&self) -> usize {
        self.count * PAGE_SIZE as usize
    }

    /// Numbers of all pages that have a version.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.versions.keys().copied()
    }

    /// Adds a snapshot with the pages written since the one before it.
    pub fn add<'a>(&mut self, key: K, pages: impl Iterator<Item = (u64, &'a [u8])>) {
        let mut at = BTreeSet::new();
        let after = (std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded);
        let mut next = self.at.range_mut(after).next();
        for (number, bytes) in pages {
            let page: Page = bytes.try_into().expect("pages have their size");
            let versions = self.versions.entry(number).or_default();
            let older = versions.range(..=key).next_back().map(|(_, page)| Arc::clone(page));
            if older.as_deref().unwrap_or(&ZEROS) == &page {
                continue;
            }
            at.insert(number);
            versions.insert(key, Arc::new(page));
            self.count += 1;
            // The next snapshot took the older version for its own.
            if let Some((next_key, next_pages)) = &mut next
                && !versions.contains_key(next_key)
            {
                versions.insert(**next_key, older.unwrap_or_else(|| Arc::new(ZEROS)));
                next_pages.insert(number);
                self.count += 1;
            }
        }
        self.at.insert(key, at);
    }

    /// A page's content at a snapshot; none: zeros.
    pub fn content(&self, number: u64, key: K) -> Option<&Page> {
        let (_, page) = self.versions.get(&number)?.range(..=key).next_back()?;
        Some(page)
    }

    /// A page's content at a snapshot.
    pub fn bytes_of(&self, number: u64, key: K) -> &Page {
        self.content(number, key).unwrap_or(&ZEROS)
    }

    /// Pages that may differ between two snapshots.
    pub fn between(&self, one: K, other: K) -> BTreeSet<u64> {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let after = (std::ops::Bound::Excluded(low), std::ops::Bound::Included(high));
        if low == high {
            return BTreeSet::new();
        }
        self.at.range(after).flat_map(|(_, pages)| pages.iter().copied()).collect()
    }

    /// Forgets a snapshot. What only it held goes to the next one, which still needs it.
    pub fn remove(&mut self, key: K) {
        let Some(pages) = self.at.remove(&key) else { return };
        let after = (std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded);
        let mut next = self.at.range_mut(after).next();
        for number in pages {
            let Some(versions) = self.versions.get_mut(&number) else { continue };
            let Some(page) = versions.remove(&key) else { continue };
            match &mut next {
                Some((next_key, next_pages)) if !versions.contains_key(next_key) => {
                    versions.insert(**next_key, page);
                    next_pages.insert(number);
                }
                _ => self.count -= 1,
            }
            if versions.is_empty() {
                self.versions.remove(&number);
            }
        }
    }
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
