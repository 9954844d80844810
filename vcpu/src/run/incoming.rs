//! A state that the machine is to take: its pages are compared with RAM while the machine runs on, and what is written meanwhile is
//! compared once more at the end. So the machine stands still for the pages that differ, however large RAM is.

use crate::mem::ram::{PAGE_SIZE, Ram};
use crate::snapshot::whole::WholeState;
use replay::handover::Handover;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pages read at once.
const PIECE_PAGES: usize = 256;
const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// A state on its way.
#[derive(Debug)]
pub struct Incoming {
    /// What the broker says of it.
    pub handover: Handover,
    /// All of it but RAM.
    pub whole: WholeState,
    contents: File,
    /// Place in `contents`, in pages, by number of the page.
    places: BTreeMap<u64, u64>,
    /// Pages of RAM that the state does not have, where they are zero.
    unlisted: Vec<u64>,
    /// How many of those that the state has, and then of `unlisted`, have been compared.
    compared: usize,
    /// Pages that differ, or were written since they were compared.
    suspects: BTreeSet<u64>,
    /// For pages that are read.
    buffer: Vec<u8>,
}

impl Incoming {
    /// A state whose pages are in `contents`; `touched`: pages of RAM that may be other than zero. The caller has forgotten which pages were
    /// written before, and [`Incoming::note`]s those that are from now on.
    pub fn new(handover: Handover, whole: WholeState, contents: File, touched: Vec<u64>) -> Incoming {
        let places: BTreeMap<u64, u64> = handover.pages.iter().copied().zip(0..).collect();
        let mut incoming = Incoming {
            handover,
            whole,
            contents,
            places,
            unlisted: Vec::new(),
            compared: 0,
            suspects: BTreeSet::new(),
            buffer: vec![0; PIECE_PAGES * PAGE_SIZE as usize],
        };
        incoming.begin_again(touched);
        incoming
    }

    /// RAM was replaced: nothing is known of it.
    pub fn begin_again(&mut self, mut touched: Vec<u64>) {
        touched.retain(|page| !self.places.contains_key(page));
        self.unlisted = touched;
        self.compared = 0;
    }

    /// Pages that were written.
    pub fn note(&mut self, pages: &[u64]) {
        self.suspects.extend(pages);
    }

    /// Compares some pages; true when there are no more.
    pub fn compare(&mut self, ram: &Ram, count: usize) -> io::Result<bool> {
        let listed = self.handover.pages.len();
        let end = self.compared.saturating_add(count).min(listed + self.unlisted.len());
        while self.compared < end.min(listed) {
            let first = self.compared;
            let pages = &self.handover.pages[first..end.min(listed).min(first + PIECE_PAGES)];
            let bytes = &mut self.buffer[..pages.len() * PAGE_SIZE as usize];
            self.contents.read_exact_at(bytes, first as u64 * PAGE_SIZE)?;
            let both = pages.iter().zip(bytes.chunks_exact(PAGE_SIZE as usize));
            self.suspects
                .extend(both.filter(|(page, bytes)| ram.page(**page) != *bytes).map(|(page, _)| *page));
            self.compared += pages.len();
        }
        if self.compared < end {
            let pages = &self.unlisted[self.compared - listed..end - listed];
            self.suspects.extend(pages.iter().filter(|page| ram.page(**page) != ZEROS));
            self.compared = end;
        }
        Ok(end == listed + self.unlisted.len())
    }

    /// Makes RAM what the state has, once all pages are compared; the answer is how many pages were looked at for that.
    pub fn write(&self, ram: &mut Ram) -> io::Result<usize> {
        let mut bytes = ZEROS;
        for page in &self.suspects {
            match self.places.get(page) {
                Some(place) => self.contents.read_exact_at(&mut bytes, place * PAGE_SIZE)?,
                None => bytes = ZEROS,
            }
            if ram.page(*page) != bytes {
                ram.write_bytes(page * PAGE_SIZE, &bytes);
            }
        }
        Ok(self.suspects.len())
    }
}
