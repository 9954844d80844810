//! A driver written by hand in front of a back-end that answers when it is told to, or in front of none, as in a replay.
//!
//! For tests and fuzz targets only.

#![cfg_attr(not(test), allow(dead_code, reason = "a fuzz target uses a part of it"))]

use super::service::{Progress, REQUEST_BYTES_MAX};
use super::{BackEnd, Service, Tag, offer};
use crate::chipset::pci_host::ECAM_BASE;
use crate::core::Core;
use crate::run::power_on;
use crate::window::WindowError;
use crate::window::requests::{Done, Framing, Room};
use crate::window::session::Session;
use replay::device::{DeviceChoice, DeviceKind, PciAddress, VirtioFunction, VirtioKind};
use replay::machine::Machine;
use replay::manifest;
use replay::time::Vtime;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

pub(super) const NOW: Vtime = Vtime(0);
pub(super) const DEVICE: u64 = 3;
pub(super) const SIZE: u16 = 8;
/// Guest RAM: a page for each ring part of each queue, then buffers.
pub(super) const RINGS: u64 = 0x10_0000;
pub(super) const DATA: u64 = 0x20_0000;

/// What a stand-in for a device process knows.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) requests: Vec<(u16, Tag, Vec<u8>, usize)>,
    pub(super) answered: VecDeque<(u16, Done<Tag>)>,
    pub(super) room: usize,
    pub(super) starts: Vec<u64>,
    pub(super) stops: usize,
}

#[derive(Clone)]
pub(super) struct FakeBackEnd(pub(super) Rc<RefCell<Fake>>);

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
    fn hold(&mut self) -> Result<(), WindowError> {
        Ok(())
    }
    fn is_held(&self) -> bool {
        false
    }
    fn reconnect(&mut self, _session: Session) -> Result<(), WindowError> {
        Ok(())
    }
}

pub(super) fn machine(kind: VirtioKind) -> Machine {
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

pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) service: Service,
    pub(super) fake: Rc<RefCell<Fake>>,
    pub(super) made: Vec<u16>,
    pub(super) bar: u64,
    /// Low half of the features that the driver takes.
    pub(super) features: u64,
}

impl Rig {
    pub(super) fn new(kind: VirtioKind, with_back_end: bool) -> Rig {
        let machine = machine(kind);
        let mut core = power_on::bare(&machine).expect("a rig");
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
        let mut rig = Rig { core, service, fake, made: vec![0; queues], bar: 0, features: 0 };
        // Memory decode and bus mastering on.
        rig.core.chipset.mmio_write(ECAM_BASE + (DEVICE << 15) + 4, 2, 6, NOW);
        let config = ECAM_BASE + (DEVICE << 15);
        let low = rig.core.chipset.mmio_read(config + 0x20, 4, NOW) & !0xf;
        rig.bar = rig.core.chipset.mmio_read(config + 0x24, 4, NOW) << 32 | low;
        rig
    }

    pub(super) fn common(&mut self, offset: u64, size: u8, value: u64) {
        self.core.chipset.mmio_write(self.bar + offset, size, value, NOW);
    }

    pub(super) fn status(&mut self) -> u64 {
        self.core.chipset.mmio_read(self.bar + 0x14, 1, NOW)
    }

    pub(super) fn area(queue: u16, part: u64) -> u64 {
        RINGS + u64::from(queue) * 0x3000 + part * 0x1000
    }

    /// What a driver does to get a device going (virtio 1.2, 3.1.1).
    pub(super) fn start(&mut self) {
        self.made.fill(0);
        for queue in 0..self.made.len() as u16 {
            for part in 0..3 {
                self.core.mem.ram.write_bytes(Rig::area(queue, part), &[0; 0x1000]);
            }
        }
        self.common(0x14, 1, 3);
        self.common(0x08, 4, 0);
        self.common(0x0c, 4, self.features);
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
    pub(super) fn settle(&mut self) {
        while let Progress::Waiting(_) = self.serve() {
            if self.fake.borrow().requests.is_empty() {
                self.fake.borrow_mut().room += 64;
            } else {
                self.answer(&[]);
            }
        }
    }

    pub(super) fn serve(&mut self) -> Progress {
        self.service.serve(&mut self.core).expect("a rig")
    }

    /// Descriptors `number`, `number + 1`: something out, something in.
    pub(super) fn request(&mut self, queue: u16, number: u16, out: &[u8], into: u32) {
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

    pub(super) fn kick(&mut self, queue: u16) {
        self.core.chipset.mmio_write(self.bar + 0x3000 + 4 * u64::from(queue), 2, queue.into(), NOW);
    }

    pub(super) fn half_word(&self, gpa: u64) -> u16 {
        let mut bytes = [0; 2];
        self.core.mem.ram.read_bytes(gpa, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    pub(super) fn used_index(&self, queue: u16) -> u16 {
        self.half_word(Rig::area(queue, 2) + 2)
    }

    /// The back-end answers its oldest request.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        let mut fake = self.fake.borrow_mut();
        let (queue, tag, _, into) = fake.requests.remove(0);
        let mut all = bytes.to_vec();
        all.resize(into, 0);
        fake.answered.push_back((queue, Done { tag, length: bytes.len() as u32, bytes: all }));
    }

    pub(super) fn deliver_all(&mut self) -> usize {
        self.service.reap(0).expect("a rig");
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
