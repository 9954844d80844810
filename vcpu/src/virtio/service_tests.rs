//! A driver written by hand in front of a back-end that answers when it is told to; and the same without one, as in a replay.

use super::super::function::Virtio;
use super::super::rig::{DATA, NOW, Rig, SIZE};
use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use replay::codec;
use replay::device::ConsolePort;

fn disk() -> VirtioKind {
    VirtioKind::Block { device: 0, queues: 2 }
}

fn net() -> VirtioKind {
    VirtioKind::Net { device: 0, mac: [2, 0, 0, 0, 0, 1] }
}

#[test]
fn a_request_goes_out_at_the_kick_and_its_answer_in_at_the_event() {
    let mut rig = Rig::new(disk(), true);
    rig.start();
    assert_eq!(rig.fake.borrow().starts, [0], "the driver took no device features");
    let header = [[0; 8], 9u64.to_le_bytes()].concat();
    rig.request(1, 0, &header, 0x201);
    assert!(rig.fake.borrow().requests.is_empty(), "nothing happens before the kick");
    rig.kick(1);
    assert_eq!(rig.serve(), Progress::Done);
    assert_eq!(rig.fake.borrow().requests[0].2, header);
    assert_eq!(rig.fake.borrow().requests[0].0, 0, "all queues of a disk share one in the window");
    let in_flight = &rig.core.virtio.functions[0].queues[1].in_flight[&0];
    assert_eq!(in_flight.block, Some(BlockRequest { kind: 0, sector: 9 }));
    rig.answer(&[0xab; 0x201]);
    assert_eq!(rig.used_index(1), 0, "an answer waits for its event");
    assert_eq!(rig.deliver_all(), 1);
    assert_eq!((rig.used_index(1), rig.half_word(Rig::area(1, 2) + 8)), (1, 0x201));
    assert_eq!(rig.half_word(DATA + 0x1000 * u64::from(SIZE) + 0x800 + 0x1ff), 0xabab);
    assert_eq!(rig.core.chipset.mmio_read(rig.bar + 0x1000, 1, NOW), 1, "the interrupt");
}

#[test]
fn what_only_goes_out_is_complete_at_the_kick_with_and_without_a_back_end() {
    let sent = |with_back_end: bool| {
        let mut rig = Rig::new(net(), with_back_end);
        rig.start();
        rig.request(1, 0, b"0123456789abframe one", 0);
        rig.request(1, 2, b"0123456789abframe two", 0);
        rig.kick(1);
        assert_eq!(rig.serve(), Progress::Done);
        assert_eq!(rig.used_index(1), 2);
        assert_eq!(rig.fake.borrow().requests.len(), if with_back_end { 2 } else { 0 });
        (rig.service.take_sent(), codec::encode(&rig.core.virtio))
    };
    let (notes, state) = sent(true);
    assert!(matches!(notes[..], [Event::Sent { device: 0, queue: 1, count: 2, .. }]));
    assert_eq!(sent(false), (notes, state));
}

#[test]
fn a_full_window_waits_and_loses_nothing() {
    let mut rig = Rig::new(disk(), true);
    rig.start();
    rig.fake.borrow_mut().room = 1;
    for number in [0, 2, 4] {
        rig.request(0, number, &[number as u8; 16], 1);
    }
    rig.kick(0);
    assert_eq!(rig.serve(), Progress::Waiting(0));
    assert_eq!(rig.serve(), Progress::Waiting(0));
    rig.answer(&[0]);
    assert_eq!(rig.serve(), Progress::Waiting(0), "room for the second, not for the third");
    rig.answer(&[0]);
    assert_eq!(rig.serve(), Progress::Done);
    rig.answer(&[0]);
    assert_eq!(rig.deliver_all(), 3);
    assert_eq!(rig.used_index(0), 3);
}

#[test]
fn a_disk_finishes_before_it_is_reset_and_a_network_does_not_wait() {
    let mut rig = Rig::new(disk(), true);
    rig.start();
    rig.request(0, 0, &[1; 16], 1);
    rig.kick(0);
    assert_eq!(rig.serve(), Progress::Done);
    rig.common(0x14, 1, 0);
    assert_eq!(rig.serve(), Progress::Waiting(0));
    rig.answer(&[0]);
    assert_eq!(rig.serve(), Progress::Done);
    assert_eq!((rig.fake.borrow().stops, rig.used_index(0)), (1, 0));
    assert_eq!(rig.deliver_all(), 0, "the guest has forgotten it");

    let mut rig = Rig::new(net(), true);
    rig.start();
    rig.request(0, 0, b"", 1500);
    rig.kick(0);
    rig.serve();
    rig.common(0x14, 1, 0);
    assert_eq!(rig.serve(), Progress::Done);
    rig.start();
    assert_eq!(rig.status(), 15);
}

#[test]
fn a_wrong_ring_needs_a_reset_and_gets_over_it() {
    let mut rig = Rig::new(net(), true);
    rig.start();
    rig.core.mem.ram.write_bytes(Rig::area(1, 1) + 2, &100u16.to_le_bytes());
    rig.kick(1);
    assert_eq!(rig.serve(), Progress::Done);
    assert_eq!(rig.status(), 15 | 64);
    assert_eq!(rig.core.virtio.functions[0].faults, 1);
    rig.request(0, 0, b"", 64);
    rig.kick(0);
    rig.serve();
    assert!(rig.fake.borrow().requests.is_empty(), "nothing is served before a reset");
    rig.common(0x14, 1, 0);
    rig.serve();
    rig.start();
    rig.request(1, 0, b"again", 0);
    rig.kick(1);
    rig.serve();
    assert_eq!((rig.status(), rig.used_index(1)), (15, 1));
    assert_eq!(rig.core.virtio.functions[0].faults, 1, "counted since power-on");
}

#[test]
fn a_console_tells_its_ports() {
    let port = |number| ConsolePort { number, device: number, name: None, console: number == 0 };
    let mut rig = Rig::new(VirtioKind::Console { ports: vec![port(0), port(1)] }, true);
    rig.start();
    rig.request(2, 0, b"", 32);
    rig.request(2, 2, b"", 32);
    rig.kick(2);
    rig.request(3, 0, &[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0], 0);
    rig.kick(3);
    assert_eq!(rig.serve(), Progress::Done);
    assert_eq!((rig.used_index(3), rig.used_index(2)), (1, 2), "PORT_ADD for both ports");
}

/// One step of a random driver; both rigs take the same.
fn step(rig: &mut Rig, dice: &mut ChaCha8Rng) {
    let queue = (dice.next_u32() % rig.made.len() as u32) as u16;
    match dice.next_u32() % 16 {
        0 => {
            let mut bytes = [0; 64];
            dice.fill_bytes(&mut bytes);
            let at = Rig::area(queue, u64::from(dice.next_u32() % 2)) + u64::from(dice.next_u32() % 256);
            rig.core.mem.ram.write_bytes(at, &bytes);
        }
        1 => rig.common(0x14, 1, 0),
        2 if rig.status() & 64 != 0 || rig.status() == 0 => {
            rig.common(0x14, 1, 0);
            rig.settle();
            rig.start();
        }
        3 => {
            let (offset, value) = (u64::from(dice.next_u32() % 0x3c), u64::from(dice.next_u32()));
            rig.common(offset, 1, value);
        }
        roll => {
            let number = (dice.next_u32() % u32::from(SIZE)) as u16 & !1;
            let out = vec![roll as u8; (dice.next_u32() % 64) as usize];
            rig.request(queue, number, &out, dice.next_u32() % 600);
            rig.kick(queue);
        }
    }
}

/// A live run and a replay of what it journaled are the same machine after every step, whatever the driver does.
#[test]
fn random_drivers_leave_the_same_state_with_and_without_back_ends() {
    for (seed, kind) in (0..60u64).flat_map(|seed| [(seed, net()), (seed, disk())]) {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let (mut live, mut again) = (Rig::new(kind.clone(), true), Rig::new(kind.clone(), false));
        live.start();
        again.start();
        for _ in 0..200 {
            let mut same = dice.clone();
            step(&mut live, &mut dice);
            step(&mut again, &mut same);
            live.settle();
            again.settle();
            while dice.next_u32().is_multiple_of(2) && !live.fake.borrow().requests.is_empty() {
                let into = live.fake.borrow().requests[0].3;
                let bytes = vec![seed as u8; (dice.next_u32() as usize) % (into + 1)];
                live.answer(&bytes);
            }
            live.service.reap(0).unwrap();
            loop {
                let answers = live.service.next_answers(&live.core, 0);
                let Some(first) = answers.first() else { break };
                let queue = first.tag.queue;
                let brought: Vec<(u16, u32, &[u8])> =
                    answers.iter().map(|done| (done.tag.head, done.length, &done.bytes[..])).collect();
                assert!(live.service.deliver(&mut live.core, 0, queue, &brought));
                assert!(again.service.deliver(&mut again.core, 0, queue, &brought), "seed {seed}");
            }
            assert_eq!(live.service.take_sent(), again.service.take_sent(), "seed {seed}");
            let state = |virtio: &Virtio| codec::encode(virtio);
            assert_eq!(state(&live.core.virtio), state(&again.core.virtio), "seed {seed}");
        }
    }
}

#[test]
fn what_is_on_its_way_at_a_save_is_on_its_way_again_after_a_load() {
    let mut rig = Rig::new(VirtioKind::Entropy { device: 0 }, true);
    rig.start();
    for (number, text) in [(0, "first"), (2, "second"), (4, "third")] {
        rig.request(0, number, text.as_bytes(), 8);
    }
    rig.kick(0);
    rig.serve();
    rig.answer(b"one");
    let undelivered = rig.service.undelivered(&rig.core.virtio).unwrap();
    assert_eq!(undelivered.len(), 1);
    let (saved, chipset) = (rig.core.virtio.clone(), rig.core.chipset.clone());
    // Another future: everything is answered, then the driver starts anew.
    rig.answer(b"two");
    rig.answer(b"three");
    assert_eq!(rig.deliver_all(), 3);
    rig.start();
    (rig.core.virtio, rig.core.chipset) = (saved, chipset);
    for used in [2, 3] {
        rig.core.mem.ram.write_bytes(Rig::area(0, 2) + used, &[0]);
    }
    for number in [0, 2, 4] {
        rig.request(0, number, [&b"first"[..], b"second", b"third"][usize::from(number) / 2], 8);
    }
    rig.service.resume(&mut rig.core, undelivered, &[]).unwrap();
    assert_eq!(rig.service.staged_devices(), [0]);
    let outs: Vec<Vec<u8>> = rig.fake.borrow().requests.iter().map(|request| request.2.clone()).collect();
    assert_eq!(outs, [b"second".to_vec(), b"third".to_vec()]);
    rig.answer(b"deux");
    rig.answer(b"trois");
    assert_eq!(rig.deliver_all(), 3, "the kept answer and two new ones");
    assert_eq!(rig.used_index(0), 3);
}

#[test]
fn a_back_end_must_offer_what_the_driver_of_a_saved_state_uses() {
    let mut rig = Rig::new(disk(), true);
    // The stand-in offers bit 9 (VIRTIO_BLK_F_FLUSH) and version 1.
    rig.features = 1 << 9;
    rig.start();
    assert_eq!(rig.service.lacking(&rig.core.chipset), None);
    let mut saved = rig.core.chipset.clone();
    saved.virtio_offer(0, 1 << 32 | 1 << 9 | 1 << 6, vec![], 1);
    assert_eq!(rig.service.lacking(&saved), None, "what the driver did not take does not matter");
}
