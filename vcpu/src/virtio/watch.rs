//! Watches a ring in guest RAM that a back-end serves itself (`window=off`): what it may write is noted before the guest can
//! execute it.
//!
//! Decoded blocks are dropped when their bytes are written, and writes of another process are not seen. So the buffers of every
//! chain are noted as written when the chain is first seen, and again when it has come back. A look is taken at each kick, before
//! each queue interrupt, and every quantum, since drivers are told to leave kicks out. Why that suffices:
//!
//! - The guest stands still during a look, so all that it has made available by then is walked as it is.
//! - A block that is decoded between two looks holds bytes which the guest executes while they belong to a device. No driver
//!   does that; one that does executes new bytes after the look at the latest, which comes before the interrupt.
//! - A chain that was made available, served and given back all between two looks was never walked, and its descriptors may be
//!   others by now. The used index gives it away: then all decoded code is dropped.
//! - What is left is a driver that polls: it may see such a chain given back, and jump into its buffer, before the next look.
//!   Between them lie at most a few thousand instructions without a kick and without an interrupt. A guest that loads code
//!   like that must not use `window=off`.

use super::ring::{GuestRing, RingFault, Segment};
use crate::mem::ram::Ram;
use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

/// One ring under watch.
pub(super) struct Watch {
    ring: GuestRing,
    /// The device only reads its chains.
    outward: bool,
    /// Buffers of chains that the back-end has, by head.
    in_flight: BTreeMap<u16, Vec<Segment>>,
    /// Chains that have come back.
    answered: u64,
}

impl Watch {
    /// A ring that was just started.
    pub fn new(ring: GuestRing, outward: bool) -> Watch {
        Watch { ring, outward, in_flight: BTreeMap::new(), answered: 0 }
    }

    /// Index of the next chain that a back-end without memory must take: all before it were given back.
    pub fn base(&self, ram: &Ram) -> Result<u16, RingFault> {
        self.ring.used_index(ram)
    }

    /// Whether the back-end has chains.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// How many chains were seen to come back.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Notes what the back-end may write or has written.
    pub fn look(&mut self, ram: &mut Ram) -> Result<(), RingFault> {
        // First what was given back: so no chain counts as given back that was not available.
        let used = self.ring.used_index(ram)?;
        fence(Ordering::Acquire);
        let missed = self.take_used(ram, used)?;
        let available = self.ring.avail_index(ram)?;
        let outstanding = available.wrapping_sub(used);
        if outstanding > self.ring.size() {
            let size = self.ring.size();
            return Err(RingFault::Index { index: available, seen: used, ahead: outstanding, size });
        }
        if missed {
            // Which of the chains are still the back-end's cannot be known, but it is these, or before them in `in_flight`.
            self.ring.skip_to(available.wrapping_sub(outstanding));
        }
        self.walk(ram, missed)
    }

    fn take_used(&mut self, ram: &mut Ram, used: u16) -> Result<bool, RingFault> {
        let mut missed = self.ring.used_ahead(used) > self.ring.size();
        while let Some(head) = self.ring.take_used(ram, used)? {
            let segments = u16::try_from(head).ok().and_then(|head| self.in_flight.remove(&head));
            missed |= segments.is_none();
            self.answered += 1;
            note(ram, segments.as_deref().unwrap_or_default());
        }
        if missed && !self.outward {
            ram.note_all_code_stale();
        }
        Ok(missed)
    }

    fn walk(&mut self, ram: &mut Ram, lenient: bool) -> Result<(), RingFault> {
        loop {
            match self.ring.pop(ram) {
                Ok(None) => return Ok(()),
                Ok(Some(chain)) => {
                    note(ram, &chain.writable);
                    self.in_flight.insert(chain.head, chain.writable);
                }
                // It may have been given back, and its descriptors be others'.
                Err(_) if lenient => self.ring.skip(),
                Err(fault) => return Err(fault),
            }
        }
    }
}

fn note(ram: &mut Ram, segments: &[Segment]) {
    for segment in segments {
        ram.note_shared_write(segment.gpa, segment.length.into());
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
