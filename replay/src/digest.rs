//! Digests: what two runs compare to know that they are the same.
//!
//! All are XXH3-64, which takes memory at its own speed. They find differences, not forgeries.
//!
//! **Memory** is digested page by page so that a change costs one page, not all of RAM: the digest of a memory is the
//! wrapping sum, over all pages that are not zero, of the page's hash seeded with its number. A page of zeros counts 0,
//! so memory that was never touched need not be looked at. A sum can be changed in place: see [`MemoryDigest::replace`].
//!
//! **Anything else** (registers, device state) is digested as its encoding by [`crate::codec`].

use crate::codec;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Digest of bytes that moved, for `Payload::Digest`.
pub fn of_bytes(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Digest of byte strings one after the other; where one ends counts.
#[derive(Clone, Default)]
pub struct Running(Xxh3);

impl Running {
    /// Adds a byte string.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The digest so far.
    pub fn value(&self) -> u64 {
        self.0.digest()
    }
}

/// Digest of a value's encoding.
///
/// # Panics
/// As [`codec::encode`].
pub fn of_value<T: Serialize>(value: &T) -> u64 {
    xxh3_64(&codec::encode(value))
}

/// What one page adds to the digest of its memory; 0 for a page of zeros.
///
/// # Panics
/// If `page` has not [`PAGE_BYTES`] bytes.
pub fn of_page(number: u64, page: &[u8]) -> u64 {
    assert_eq!(page.len(), PAGE_BYTES, "a page is digested whole");
    if page == ZEROS { 0 } else { xxh3_64_with_seed(page, number) }
}

/// The digest of a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDigest(u64);

impl MemoryDigest {
    /// Changes what a page adds from `old` to `new`, both from [`of_page`]; a new page's old value is 0.
    pub fn replace(&mut self, old: u64, new: u64) {
        self.0 = self.0.wrapping_sub(old).wrapping_add(new);
    }

    /// The value that an event carries.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_xxh3_64() {
        // XXH3_64bits of the empty input with seed 0, from the xxHash specification's test vectors.
        assert_eq!(of_bytes(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn a_memory_digest_can_be_changed_page_by_page() {
        let pages: Vec<Vec<u8>> = (0..4u8).map(|n| vec![n; PAGE_BYTES]).collect();
        let sum = |order: &[usize]| {
            let mut digest = MemoryDigest::default();
            order.iter().for_each(|n| digest.replace(0, of_page(*n as u64, &pages[*n])));
            digest
        };
        let whole = sum(&[0, 1, 2, 3]);
        assert_eq!(whole, sum(&[3, 1, 2]), "order does not matter, zeros count nothing");
        let mut changed = whole;
        changed.replace(of_page(1, &pages[1]), of_page(1, &pages[2]));
        assert_ne!(changed, whole);
        changed.replace(of_page(1, &pages[2]), of_page(1, &pages[1]));
        assert_eq!(changed, whole);
    }

    #[test]
    fn the_place_of_a_page_matters() {
        let page = [5; PAGE_BYTES];
        assert_ne!(of_page(1, &page), of_page(2, &page));
    }
}
