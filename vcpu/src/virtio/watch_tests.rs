//! A back-end beside the watch, which writes RAM when it likes.

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
/// The buffer of descriptor n is the whole page n of this.
const DATA: u64 = 0x10_000;
const SIZE: u16 = 8;
const WRITE: u16 = 2;

struct Rig {
    ram: Ram,
    watch: Watch,
    available: u16,
    used: u16,
}

impl Rig {
    fn new() -> Rig {
        let mut ram = Ram::new(1 << 20).unwrap();
        for number in 0..SIZE {
            let mut bytes = page_of(number).to_le_bytes().to_vec();
            bytes.extend(4096u32.to_le_bytes());
            bytes.extend(WRITE.to_le_bytes());
            bytes.extend([0; 2]);
            ram.write_bytes(TABLE + 16 * u64::from(number), &bytes);
        }
        let ring = GuestRing::new(SIZE, TABLE, AVAIL, USED, false);
        ring.check(&ram).unwrap();
        Rig { ram, watch: Watch::new(ring, false), available: 0, used: 0 }
    }

    fn give(&mut self, head: u16) {
        self.ram.write_bytes(AVAIL + 4 + 2 * u64::from(self.available % SIZE), &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.ram.write_bytes(AVAIL + 2, &self.available.to_le_bytes());
    }

    fn take_back(&mut self, head: u16) {
        let element = [u32::from(head).to_le_bytes(), 4096u32.to_le_bytes()].concat();
        self.ram.write_bytes(USED + 4 + 8 * u64::from(self.used % SIZE), &element);
        self.used = self.used.wrapping_add(1);
        self.ram.write_bytes(USED + 2, &self.used.to_le_bytes());
    }

    /// Code was decoded in these pages; which of them are stale after a look.
    fn stale_of(&mut self, heads: &[u16]) -> Vec<u16> {
        for &head in heads {
            self.ram.note_code(page_of(head) + 0x100, 8);
        }
        self.watch.look(&mut self.ram).unwrap();
        let stale = self.ram.take_stale_code();
        stale.iter().for_each(|page| self.ram.forget_code(*page));
        let mut stale: Vec<u16> = stale.iter().map(|page| (page - (DATA >> 12)) as u16).collect();
        stale.sort_unstable();
        stale.dedup();
        stale
    }
}

fn page_of(head: u16) -> u64 {
    DATA + 4096 * u64::from(head)
}

#[test]
fn buffers_are_stale_when_they_are_given_and_when_they_come_back() {
    let mut rig = Rig::new();
    rig.give(3);
    assert_eq!(rig.stale_of(&[2, 3]), [3]);
    assert_eq!(rig.stale_of(&[3]), [0u16; 0], "only once");
    rig.give(5);
    rig.take_back(3);
    assert_eq!(rig.stale_of(&[5]), [3, 5], "2 was never the back-end's; 3 was decoded while it was");
}

#[test]
fn a_chain_that_came_back_unseen_makes_all_code_stale() {
    let mut rig = Rig::new();
    rig.give(1);
    rig.take_back(1);
    // Its descriptor is another's now.
    rig.ram.write_bytes(TABLE + 16, &page_of(6).to_le_bytes());
    rig.give(4);
    assert_eq!(rig.stale_of(&[0, 1, 4, 7]), [0, 1, 4, 7]);
    assert_eq!(rig.stale_of(&[0, 7]), [0u16; 0]);
    rig.take_back(4);
    assert_eq!(rig.stale_of(&[4]), [4], "the others are followed again");
}

#[test]
fn more_chains_than_the_ring_has_may_pass_between_two_looks() {
    let mut rig = Rig::new();
    for round in 0..40 {
        rig.give(round % SIZE);
        rig.take_back(round % SIZE);
    }
    rig.give(2);
    assert_eq!(rig.stale_of(&[0, 2]), [0, 2]);
    rig.take_back(2);
    assert_eq!(rig.stale_of(&[0, 2]), [2], "the ring is followed again");
}

#[test]
fn what_is_wrong_is_refused() {
    let mut rig = Rig::new();
    rig.ram.write_bytes(AVAIL + 2, &(SIZE + 1).to_le_bytes());
    assert!(matches!(rig.watch.look(&mut rig.ram), Err(RingFault::Index { .. })));
    let check = |table, avail, used| GuestRing::new(SIZE, table, avail, used, false).check(&rig.ram);
    assert!(matches!(check(TABLE + 8, AVAIL, USED), Err(RingFault::Misaligned { .. })));
    assert!(matches!(check(TABLE, AVAIL, (1 << 20) - 8), Err(RingFault::Outside { .. })));
    assert!(matches!(check(u64::MAX - 15, AVAIL, USED), Err(RingFault::Outside { .. })));
}

/// A guest and a back-end that write anything into ring and table: no panic, no endless loop.
#[test]
fn random_rings() {
    let seed = 0x5a7e_d001;
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..2000 {
        let mut rig = Rig::new();
        for _ in 0..20 {
            let area = [TABLE, AVAIL, USED][dice.next_u32() as usize % 3];
            let at = area + u64::from(dice.next_u32() % 140);
            let value =
                if dice.next_u32().is_multiple_of(2) { dice.next_u32() % 16 } else { dice.next_u32() };
            rig.ram.write_bytes(at, &value.to_le_bytes()[..1 + dice.next_u32() as usize % 4]);
            let _ = rig.watch.look(&mut rig.ram);
            let _ = rig.watch.base(&rig.ram);
        }
    }
}
