//! Bytes that drive a virtio driver: registers, rings, kicks, resets, and a back-end that answers in between.
//!
//! Whatever they are, nothing panics or loops, and a machine without back-ends that is given the same answers, as a replay is, has
//! the same state.

use super::rig::{DATA, Rig, SIZE};
use replay::codec;
use replay::device::{ConsolePort, VirtioKind};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Most steps of one run.
const STEPS_MAX: usize = 400;

/// Bytes as numbers; zeros after their end.
pub(crate) struct Numbers<'a>(pub(crate) &'a [u8]);

impl Numbers<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.next(), self.next(), self.next(), self.next()])
    }
}

fn kind(number: u8) -> VirtioKind {
    let port = |number| ConsolePort { number, device: number, name: None, console: number == 0 };
    match number % 5 {
        0 => VirtioKind::Block { device: 0, queues: 2 },
        1 => VirtioKind::Net { device: 0, mac: [2, 0, 0, 0, 0, 1] },
        2 => VirtioKind::Console { ports: vec![port(0), port(1)] },
        3 => VirtioKind::Entropy { device: 0 },
        _ => VirtioKind::Other { device: 0, device_type: 18, queues: 2 },
    }
}

/// One run.
pub fn guest_side(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let kind = kind(numbers.next());
    let devices = kind.back_ends().len() as u16;
    let mut features = 0;
    for bit in [VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC] {
        features |= u64::from(numbers.next() & 1) << bit;
    }
    let mut rigs = [Rig::new(kind.clone(), true), Rig::new(kind, false)];
    for rig in &mut rigs {
        rig.features = features;
        rig.start();
    }
    for _ in 0..STEPS_MAX {
        if numbers.is_empty() {
            return;
        }
        let mut used = 0;
        for rig in &mut rigs {
            let mut same = Numbers(numbers.0);
            step(rig, &mut same);
            rig.settle();
            used = numbers.0.len() - same.0.len();
        }
        numbers = Numbers(&numbers.0[used..]);
        let [live, again] = &mut rigs;
        while numbers.next() & 1 != 0 && !live.fake.borrow().requests.is_empty() {
            let into = live.fake.borrow().requests[0].3;
            let answer = vec![numbers.next(); numbers.word() as usize % (into + 1)];
            live.answer(&answer);
        }
        (0..devices).for_each(|device| deliver(live, again, device));
        assert_eq!(live.service.take_sent(), again.service.take_sent(), "what was sent");
        let [live, again] = [&rigs[0], &rigs[1]].map(|rig| codec::encode(&rig.core.virtio));
        assert_eq!(live, again, "state with and without back-ends");
    }
}

/// Brings the answers of the live machine into both.
fn deliver(live: &mut Rig, again: &mut Rig, device: u16) {
    live.service.reap(device).expect("the stand-in does not lie");
    loop {
        let answers = live.service.next_answers(&live.core, device);
        let Some(first) = answers.first() else { return };
        let queue = first.tag.queue;
        let brought: Vec<(u16, u32, &[u8])> =
            answers.iter().map(|done| (done.tag.head, done.length, &done.bytes[..])).collect();
        for rig in [&mut *live, &mut *again] {
            assert!(rig.service.deliver(&mut rig.core, 0, queue, &brought), "both have asked");
        }
    }
}

/// What a driver does next.
fn step(rig: &mut Rig, numbers: &mut Numbers<'_>) {
    let queue = u16::from(numbers.next()) % rig.made.len() as u16;
    match numbers.next() % 16 {
        // Anything, in a table or a ring.
        0 => {
            let at = Rig::area(queue, u64::from(numbers.next() % 2)) + u64::from(numbers.next());
            let value = numbers.word().to_le_bytes();
            rig.core.mem.ram.write_bytes(at, &value);
        }
        1 => rig.common(0x14, 1, 0),
        2 if rig.status() & 64 != 0 || rig.status() == 0 => {
            rig.common(0x14, 1, 0);
            rig.settle();
            rig.start();
        }
        3 => rig.common(u64::from(numbers.next() % 0x3c), 1, numbers.next().into()),
        // A kick without anything new.
        4 => rig.kick(queue),
        5 => indirect(rig, queue, numbers),
        _ => {
            let number = (u16::from(numbers.next()) % SIZE) & !1;
            let out = vec![numbers.next(); usize::from(numbers.next() % 64)];
            rig.request(queue, number, &out, numbers.word() % 600);
            rig.kick(queue);
        }
    }
}

/// A request whose descriptor leads to a table, which is of the right form more often than not.
fn indirect(rig: &mut Rig, queue: u16, numbers: &mut Numbers<'_>) {
    const INDIRECT: u32 = 4;
    let number = (u16::from(numbers.next()) % SIZE) & !1;
    rig.request(queue, number, &[numbers.next(); 16], 64);
    let direct = Rig::area(queue, 0) + 16 * u64::from(number);
    let table = DATA + 0x8_0000;
    let mut both = [0; 32];
    rig.core.mem.ram.read_bytes(direct, &mut both);
    // The second is number 1 of its table.
    both[14..16].copy_from_slice(&1u16.to_le_bytes());
    if numbers.next().is_multiple_of(4) {
        both[usize::from(numbers.next()) % 32] = numbers.next();
    }
    rig.core.mem.ram.write_bytes(table, &both);
    let length = if numbers.next().is_multiple_of(8) { numbers.next().into() } else { 32u32 };
    let words = [table as u32, (table >> 32) as u32, length, INDIRECT];
    let descriptor: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    rig.core.mem.ram.write_bytes(direct, &descriptor);
    rig.kick(queue);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::fuzz::run_for_a_while;

    #[test]
    fn random_drivers() {
        run_for_a_while(0x9e57_0001, 4096, guest_side);
    }
}
