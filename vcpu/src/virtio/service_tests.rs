//! A driver written by hand in front of a back-end that answers when it is told to; and the same without one, as in a replay.

use super::super::function::Virtio;
use super::*;
use crate::chipset::pci_host::ECAM_BASE;
use crate::run::power_on;
use crate::window::session::Session;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use replay::codec;
use replay::device::{ConsolePort, DeviceChoice, DeviceKind, PciAddress};
use replay::machine::Machine;
use replay::manifest;
use replay::time::Vtime;
use std::cell::RefCell;
use std::rc::Rc;

const NOW: Vtime = Vtime(0);
const DEVICE: u64 = 3;
const SIZE: u16 = 8;
/// Guest RAM: a page for each ring part of each queue, then buffers.
const RINGS: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;

/// What a stand-in for a device process knows.
#[derive(Default)]
struct Fake {
    requests: Vec<(u16, Tag, Vec<u8>, usize)>,
    answered: VecDeque<(u16, Done<Tag>)>,
    room: usize,
    starts: Vec<u64>,
    stops: usize,
}

#[derive(Clone)]
struct FakeBackEnd(Rc<RefCell<Fake>>);

impl BackEnd for FakeBackEnd {
    fn features(&self) -> u64 {
        1 << 32 | 1 << 9
    }
    fn config(&mut self, size: usize) -> Result<Vec<u8>, WindowError> {
        Ok(vec![7; size])
    }
    fn start(&mut self, features: u64) -> Result<(), WindowError> {
        self.0.borrow_mut().starts.push(features);
        Ok(())
    }
    fn stop(&mut self) -> Result<(), WindowError> {
        let mut fake = self.0.borrow_mut();
        fake.stops += 1;
        fake.requests.clear();
        fake.answered.clear();
        Ok(())
    }
    fn room(&mut self, _queue: u16, out: usize, into: usize) -> Room {
        let fake = self.0.borrow();
        assert!(out + into <= REQUEST_BYTES_MAX);
        if fake.requests.len() + fake.answered.len() < fake.room { Room::Now } else { Room::Later }
    }
    fn submit(&mut self, queue: u16, tag: Tag, out: &[u8], into: usize, _framing: Framing) {
        self.0.borrow_mut().requests.push((queue, tag, out.to_vec(), into));
    }
    fn publish(&mut self, _queue: u16) -> Result<(), WindowError> {
        Ok(())
    }
    fn take(&mut self, queue: u16) -> Result<Option<Done<Tag>>, WindowError> {
        let mut fake = self.0.borrow_mut();
        let place = fake.answered.iter().position(|(of, _)| *of == queue);
        Ok(place.and_then(|place| fake.answered.remove(place)).map(|(_, done)| done))
    }
    fn outstanding(&self, _queue: u16) -> usize {
        let fake = self.0.borrow();
        fake.requests.len() + fake.answered.len()
    }
    fn reconnect(&mut self, _session: Session) -> Result<(), WindowError> {
        Ok(())
    }
}

fn machine(kind: VirtioKind) -> Machine {
    let devices = kind.back_ends().len();
    let function = VirtioFunction {
        id: "rig".into(),
        address: PciAddress { device: DEVICE as u8, function: 0 },
        kind,
        queue_size_max: 256,
        vectors: 0,
        window: true,
    };
    let device = DeviceChoice { id: "rig".into(), kind: DeviceKind::Chardev };
    Machine {
        ram_bytes: 4 << 20,
        devices: vec![device; devices],
        functions: vec![function],
        ..manifest::example().machine
    }
}

struct Rig {
    core: Core,
    service: Service,
    fake: Rc<RefCell<Fake>>,
    made: Vec<u16>,
    bar: u64,
}

impl Rig {
    fn new(kind: VirtioKind, with_back_end: bool) -> Rig {
        let machine = machine(kind);
        let mut core = power_on::bare(&machine).unwrap();
        let fake = Rc::new(RefCell::new(Fake { room: 64, ..Fake::default() }));
        let count = machine.devices.len();
        let back_end = || with_back_end.then(|| Box::new(FakeBackEnd(Rc::clone(&fake))) as Box<dyn BackEnd>);
        let service = Service::new(&machine.functions, (0..count).map(|_| back_end()).collect());
        service.offer_own(&mut core);
        for device in 0..count as u16 {
            if offer::of_kind(&machine.functions[0].kind).is_none() {
                service.apply_offer(&mut core, device, 1 << 32 | 1 << 9, &[7; 60]);
            }
        }
        let queues = usize::from(machine.functions[0].kind.queue_count());
        let mut rig = Rig { core, service, fake, made: vec![0; queues], bar: 0 };
        // Memory decode and bus mastering on.
        rig.core.chipset.mmio_write(ECAM_BASE + (DEVICE << 15) + 4, 2, 6, NOW);
        let config = ECAM_BASE + (DEVICE << 15);
        let low = rig.core.chipset.mmio_read(config + 0x20, 4, NOW) & !0xf;
        rig.bar = rig.core.chipset.mmio_read(config + 0x24, 4, NOW) << 32 | low;
        rig
    }

    fn common(&mut self, offset: u64, size: u8, value: u64) {
        self.core.chipset.mmio_write(self.bar + offset, size, value, NOW);
    }

    fn status(&mut self) -> u64 {
        self.core.chipset.mmio_read(self.bar + 0x14, 1, NOW)
    }

    fn area(queue: u16, part: u64) -> u64 {
        RINGS + u64::from(queue) * 0x3000 + part * 0x1000
    }

    /// What a driver does to get a device going (virtio 1.2, 3.1.1).
    fn start(&mut self) {
        self.made.fill(0);
        for queue in 0..self.made.len() as u16 {
            for part in 0..3 {
                self.core.mem.ram.write_bytes(Rig::area(queue, part), &[0; 0x1000]);
            }
        }
        self.common(0x14, 1, 3);
        self.common(0x08, 4, 1);
        self.common(0x0c, 4, 1);
        self.common(0x14, 1, 11);
        for queue in 0..self.made.len() as u16 {
            self.common(0x16, 2, queue.into());
            self.common(0x18, 2, SIZE.into());
            for part in 0..3 {
                self.common(0x20 + 8 * part, 4, Rig::area(queue, part));
            }
            self.common(0x1c, 2, 1);
        }
        self.common(0x14, 1, 15);
        self.settle();
    }

    /// Serves all, answering what must be answered first.
    fn settle(&mut self) {
        while let Progress::Waiting(_) = self.serve() {
            if self.fake.borrow().requests.is_empty() {
                self.fake.borrow_mut().room += 64;
            } else {
                self.answer(&[]);
            }
        }
    }

    fn serve(&mut self) -> Progress {
        self.service.serve(&mut self.core).unwrap()
    }

    /// Descriptors `number`, `number + 1`: something out, something in.
    fn request(&mut self, queue: u16, number: u16, out: &[u8], into: u32) {
        let data = DATA + 0x1000 * (u64::from(queue) * u64::from(SIZE) + u64::from(number));
        self.core.mem.ram.write_bytes(data, out);
        let descriptor = |gpa: u64, length: u32, flags: u16, next: u16| {
            let words = [gpa as u32, (gpa >> 32) as u32, length, u32::from(next) << 16 | u32::from(flags)];
            words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        let table = Rig::area(queue, 0) + 16 * u64::from(number);
        let flags = if into > 0 { 1 } else { 0 };
        self.core.mem.ram.write_bytes(table, &descriptor(data, out.len() as u32, flags, number + 1));
        self.core.mem.ram.write_bytes(table + 16, &descriptor(data + 0x800, into, 2, 0));
        let slot = u64::from(self.made[usize::from(queue)] % SIZE);
        self.core.mem.ram.write_bytes(Rig::area(queue, 1) + 4 + 2 * slot, &number.to_le_bytes());
        self.made[usize::from(queue)] = self.made[usize::from(queue)].wrapping_add(1);
        self.core.mem.ram.write_bytes(Rig::area(queue, 1) + 2, &self.made[usize::from(queue)].to_le_bytes());
    }

    fn kick(&mut self, queue: u16) {
        self.core.chipset.mmio_write(self.bar + 0x3000 + 4 * u64::from(queue), 2, queue.into(), NOW);
    }

    fn half_word(&self, gpa: u64) -> u16 {
        let mut bytes = [0; 2];
        self.core.mem.ram.read_bytes(gpa, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn used_index(&self, queue: u16) -> u16 {
        self.half_word(Rig::area(queue, 2) + 2)
    }

    /// The back-end answers its oldest request.
    fn answer(&mut self, bytes: &[u8]) {
        let mut fake = self.fake.borrow_mut();
        let (queue, tag, _, into) = fake.requests.remove(0);
        let mut all = bytes.to_vec();
        all.resize(into, 0);
        fake.answered.push_back((queue, Done { tag, length: bytes.len() as u32, bytes: all }));
    }

    fn deliver_all(&mut self) -> usize {
        self.service.reap(0).unwrap();
        let mut count = 0;
        loop {
            let answers = self.service.next_answers(&self.core, 0);
            let Some(first) = answers.first() else { return count };
            let queue = first.tag.queue;
            let brought: Vec<(u16, u32, &[u8])> =
                answers.iter().map(|done| (done.tag.head, done.length, &done.bytes[..])).collect();
            count += brought.len();
            assert!(self.service.deliver(&mut self.core, 0, queue, &brought));
        }
    }
}

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
