//! A driver written by hand: right ones, wrong ones, random ones.

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const DATA: u64 = 0x8000;
const RAM_BYTES: u64 = 1 << 20;
const SIZE: u16 = 8;

struct Rig {
    ram: Ram,
    ring: GuestRing,
    made: u16,
}

impl Rig {
    fn new(event_idx: bool) -> Rig {
        let ring = GuestRing::new(SIZE, TABLE, AVAIL, USED, event_idx);
        Rig { ram: Ram::new(RAM_BYTES).unwrap(), ring, made: 0 }
    }

    fn descriptor(&mut self, table: u64, number: u16, gpa: u64, length: u32, flags: u32, next: u16) {
        let mut bytes = gpa.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend((flags as u16).to_le_bytes());
        bytes.extend(next.to_le_bytes());
        assert!(self.ram.write_bytes(table + 16 * u64::from(number), &bytes));
    }

    fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.made % SIZE);
        self.ram.write_bytes(AVAIL + 4 + 2 * slot, &head.to_le_bytes());
        self.made = self.made.wrapping_add(1);
        self.ram.write_bytes(AVAIL + 2, &self.made.to_le_bytes());
    }

    fn half_word(&self, gpa: u64) -> u16 {
        let mut bytes = [0; 2];
        assert!(self.ram.read_bytes(gpa, &mut bytes));
        u16::from_le_bytes(bytes)
    }
}

const NEXT: u32 = VRING_DESC_F_NEXT;
const WRITE: u32 = VRING_DESC_F_WRITE;
const INDIRECT: u32 = VRING_DESC_F_INDIRECT;

#[test]
fn a_chain_is_read_in_order_and_given_back() {
    let mut rig = Rig::new(false);
    rig.ram.write_bytes(DATA, b"headbody");
    rig.descriptor(TABLE, 3, DATA, 4, NEXT, 5);
    rig.descriptor(TABLE, 5, DATA + 4, 4, NEXT, 1);
    rig.descriptor(TABLE, 1, DATA + 0x100, 16, NEXT | WRITE, 0);
    rig.descriptor(TABLE, 0, DATA + 0x200, 1, WRITE, 7);
    assert_eq!(rig.ring.pop(&rig.ram), Ok(None));
    rig.make_available(3);
    let chain = rig.ring.pop(&rig.ram).unwrap().unwrap();
    assert_eq!((chain.head, length(&chain.readable), length(&chain.writable)), (3, 8, 17));
    assert_eq!(gather(&rig.ram, &chain.readable), b"headbody");
    scatter(&mut rig.ram, &chain.writable, b"0123456789abcdefS");
    let mut status = [0];
    rig.ram.read_bytes(DATA + 0x200, &mut status);
    assert_eq!(&status, b"S");
    assert_eq!(rig.ring.pop(&rig.ram), Ok(None));
    rig.ring.unpop();
    assert_eq!(rig.ring.pop(&rig.ram).unwrap().unwrap(), chain);
    rig.ring.put(&mut rig.ram, 3, 17).unwrap();
    assert_eq!((rig.half_word(USED + 2), rig.half_word(USED + 4), rig.half_word(USED + 8)), (1, 3, 17));
    assert_eq!(rig.ring.needs_interrupt(&rig.ram), Ok(true));
    assert_eq!(rig.ring.needs_interrupt(&rig.ram), Ok(false), "once");
}

#[test]
fn an_indirect_table_may_be_longer_than_the_queue() {
    let mut rig = Rig::new(false);
    let table = DATA + 0x4000;
    for number in 0..20 {
        let flags = if number == 19 { 0 } else { NEXT };
        rig.descriptor(table, number, DATA + u64::from(number), 1, flags, number + 1);
    }
    rig.descriptor(TABLE, 0, table, 20 * 16, INDIRECT, 0);
    rig.make_available(0);
    assert_eq!(length(&rig.ring.pop(&rig.ram).unwrap().unwrap().readable), 20);
}

#[test]
fn the_driver_is_not_believed() {
    type Case = (&'static str, fn(&mut Rig), RingFault);
    let cases: &[Case] = &[
        ("loop", |r| r.descriptor(TABLE, 0, DATA, 1, NEXT, 0), RingFault::Endless { head: 0 }),
        ("number", |r| r.descriptor(TABLE, 0, DATA, 1, NEXT, 8), RingFault::Number { number: 8, size: 8 }),
        (
            "address",
            |r| r.descriptor(TABLE, 0, RAM_BYTES - 1, 2, 0, 0),
            RingFault::Buffer { gpa: RAM_BYTES - 1, length: 2 },
        ),
        (
            "wrap",
            |r| r.descriptor(TABLE, 0, u64::MAX, 2, 0, 0),
            RingFault::Buffer { gpa: u64::MAX, length: 2 },
        ),
        (
            "order",
            |r| {
                r.descriptor(TABLE, 0, DATA, 1, NEXT | WRITE, 1);
                r.descriptor(TABLE, 1, DATA, 1, 0, 0);
            },
            RingFault::Order { head: 0 },
        ),
        (
            "odd table",
            |r| r.descriptor(TABLE, 0, DATA, 17, INDIRECT, 0),
            RingFault::Indirect { head: 0, length: 17 },
        ),
        (
            "table in a table",
            |r| {
                r.descriptor(TABLE, 0, DATA, 16, INDIRECT, 0);
                r.descriptor(DATA, 0, DATA, 16, INDIRECT, 0);
            },
            RingFault::Indirect { head: 0, length: 16 },
        ),
        (
            "table outside",
            |r| r.descriptor(TABLE, 0, RAM_BYTES, 16, INDIRECT, 0),
            RingFault::Outside { part: "descriptor table", gpa: RAM_BYTES },
        ),
    ];
    for (name, break_it, fault) in cases {
        let mut rig = Rig::new(false);
        break_it(&mut rig);
        rig.make_available(0);
        assert_eq!(rig.ring.pop(&rig.ram), Err(fault.clone()), "{name}");
    }
    let mut rig = Rig::new(false);
    rig.made = 9;
    rig.make_available(0);
    assert_eq!(rig.ring.pop(&rig.ram), Err(RingFault::Index { index: 10, seen: 0, ahead: 10, size: 8 }));
    let mut rig = Rig::new(false);
    rig.make_available(8);
    assert_eq!(rig.ring.pop(&rig.ram), Err(RingFault::Number { number: 8, size: 8 }));
}

#[test]
fn the_event_index_suppresses_both_ways() {
    let mut rig = Rig::new(true);
    let used_event = AVAIL + 4 + 2 * u64::from(SIZE);
    rig.ram.write_bytes(used_event, &1u16.to_le_bytes());
    rig.ring.put(&mut rig.ram, 0, 0).unwrap();
    assert_eq!(rig.ring.needs_interrupt(&rig.ram), Ok(false), "the driver waits for the second");
    rig.ring.put(&mut rig.ram, 1, 0).unwrap();
    assert_eq!(rig.ring.needs_interrupt(&rig.ram), Ok(true));
    rig.descriptor(TABLE, 0, DATA, 1, 0, 0);
    rig.make_available(0);
    rig.ring.pop(&rig.ram).unwrap();
    rig.ring.ask_for_kick(&mut rig.ram).unwrap();
    assert_eq!(rig.half_word(USED + 4 + 8 * u64::from(SIZE)), 1);
}

#[test]
fn random_rings_end_in_a_chain_or_a_fault() {
    let seed = 0x7e57_0001;
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    for round in 0..20_000 {
        let mut rig = Rig::new(round % 2 == 0);
        let mut bytes = vec![0; 0x400];
        dice.fill_bytes(&mut bytes);
        if round % 3 == 0 {
            // Mostly plausible: small addresses, lengths and numbers.
            bytes.iter_mut().skip(2).step_by(4).for_each(|byte| *byte = 0);
            bytes.iter_mut().skip(3).step_by(4).for_each(|byte| *byte = 0);
        }
        for area in [TABLE, AVAIL, DATA] {
            rig.ram.write_bytes(area, &bytes);
        }
        for _ in 0..20 {
            match rig.ring.pop(&rig.ram) {
                Ok(Some(chain)) => {
                    if length(&chain.readable) < 1 << 20 {
                        gather(&rig.ram, &chain.readable);
                    }
                    rig.ring.put(&mut rig.ram, chain.head, 0).unwrap();
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
}
