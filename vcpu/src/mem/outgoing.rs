//! Pages on their way into the file of a saved state, while the machine runs on.
//!
//! A page is copied before its first write after the save, or when somebody has time. So what arrives is RAM as it was at the save,
//! and the machine stands still no longer than it takes to make a list.

use super::ram::PAGE_SIZE;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pages that are still to be copied, and where to.
#[derive(Debug)]
pub struct Outgoing {
    file: File,
    /// Place in the file, in pages, by number of the page.
    pending: BTreeMap<u64, u64>,
    error: Option<io::Error>,
}

impl Outgoing {
    /// `pages` in this order to `file`.
    pub fn new(file: File, pages: &[u64]) -> Outgoing {
        let pending = pages.iter().zip(0..).map(|(page, place)| (*page, place)).collect();
        Outgoing { file, pending, error: None }
    }

    /// A page that is still to be copied.
    pub fn next(&self) -> Option<u64> {
        self.pending.first_key_value().map(|(page, _)| *page)
    }

    /// Number of pages that are still to be copied.
    pub fn left(&self) -> usize {
        self.pending.len()
    }

    /// Copies a page, unless that is done.
    pub fn copy(&mut self, page: u64, bytes: &[u8]) {
        let Some(place) = self.pending.remove(&page) else { return };
        if self.error.is_none() {
            self.error = self.file.write_all_at(bytes, place * PAGE_SIZE).err();
        }
    }

    /// Whether all pages arrived, when none is left.
    pub fn result(self) -> io::Result<()> {
        self.error.map_or(Ok(()), Err)
    }
}
