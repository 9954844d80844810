//! Carries requests from the guest's rings to the back-ends and answers back, at the places that the run loop gives.
//!
//! `serve` does what the guest asked with its last instruction; `deliver` brings the answers of one event into RAM.

use super::back_end::{BackEnd, Tag};
use super::capture::Capture;
use super::function::{BLOCK_HEADER, BlockRequest, InFlight};
use super::ring::{self, Chain, GuestRing, RingFault};
use super::roles::{self, Role};
use super::shared::SharedBackEnd;
use super::spool::Spool;
use super::{console_control, offer};
use crate::chipset::Work;
use crate::core::Core;
use crate::window::WindowError;
use crate::window::requests::{Done, Framing, Room};
use replay::device::{VirtioFunction, VirtioKind};
use replay::digest;
use replay::event::{DeviceIndex, Event};
use std::collections::{BTreeMap, VecDeque};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// Bytes of a request, out and in: more is refused whether there is a window or, as in a replay, none.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Bytes of answers in one event, unless a single answer has more.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of an acknowledgement of a network function, and of a disk's status.
const STATUS_BYTES: u32 = 1;

/// Framing of requests to a disk.
pub(super) const BLOCK_FRAMING: Framing = Framing { head: BLOCK_HEADER as u32, tail: STATUS_BYTES };

/// What became of the guest's wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All are served.
    Done,
    /// The window of this device is full, or it must finish first; ask again later.
    Waiting(DeviceIndex),
}

/// The back-ends, and what is between them and the guest.
#[derive(Default)]
pub struct Service {
    pub(super) functions: Vec<VirtioFunction>,
    /// By device; none where a replay needs no back-end.
    pub(super) back_ends: Vec<Option<Box<dyn BackEnd>>>,
    /// Back-ends without a window, by device.
    pub(super) shared: BTreeMap<DeviceIndex, SharedBackEnd>,
    /// Answers taken out of the windows, by device.
    pub(super) staged: Vec<VecDeque<Done<Tag>>>,
    /// How many requests back-ends have given back, by device.
    answered: Vec<u64>,
    pub(super) work: VecDeque<Work>,
    /// Notes of what was sent, for the journal or to be compared with it.
    pub(super) sent: Vec<Event>,
    captures: Vec<Option<Capture>>,
    /// Kept answers, by device.
    pub(super) spools: Vec<Option<Spool>>,
}

impl Service {
    /// For the functions of a machine; `back_ends` by device.
    pub fn new(functions: &[VirtioFunction], back_ends: Vec<Option<Box<dyn BackEnd>>>) -> Service {
        Service {
            functions: functions.to_vec(),
            staged: back_ends.iter().map(|_| VecDeque::new()).collect(),
            answered: vec![0; back_ends.len()],
            captures: functions.iter().map(|_| None).collect(),
            spools: back_ends.iter().map(|_| None).collect(),
            back_ends,
            shared: BTreeMap::new(),
            work: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// Writes the packets of a function to a capture.
    pub fn capture(&mut self, function: usize, capture: Capture) {
        self.captures[function] = Some(capture);
    }

    /// The capture of a function that failed, if one did.
    pub fn failed_capture(&mut self) -> Option<std::io::Error> {
        self.captures.iter_mut().flatten().find_map(Capture::take_error)
    }

    /// The function whose back-end a device is.
    pub fn function_of(&self, device: DeviceIndex) -> Option<usize> {
        let has =
            |function: &VirtioFunction| function.kind.back_ends().iter().any(|(index, _)| *index == device);
        self.functions.iter().position(has)
    }

    /// The functions.
    pub fn functions(&self) -> &[VirtioFunction] {
        &self.functions
    }

    /// The back-end of a device.
    pub fn back_end(&mut self, device: DeviceIndex) -> Option<&mut Box<dyn BackEnd>> {
        self.back_ends.get_mut(usize::from(device))?.as_mut()
    }

    /// Notes of what was sent since the last call.
    pub fn take_sent(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.sent)
    }

    /// Serves what the guest has asked for.
    pub fn serve(&mut self, core: &mut Core) -> Result<Progress, WindowError> {
        self.work.extend(core.chipset.take_virtio_work());
        while let Some(work) = self.work.front_mut() {
            let mut left = *work;
            let progress = self.serve_one(core, &mut left)?;
            if let Progress::Waiting(_) = progress {
                self.work[0] = left;
                return Ok(progress);
            }
            self.work.pop_front();
        }
        Ok(Progress::Done)
    }

    fn serve_one(&mut self, core: &mut Core, work: &mut Work) -> Result<Progress, WindowError> {
        let index = work.function;
        if work.reset {
            if let Some(device) = self.reset(core, index)? {
                return Ok(Progress::Waiting(device));
            }
            work.reset = false;
        }
        while work.queue_resets != 0 {
            let queue = work.queue_resets.trailing_zeros() as u16;
            if let Some(device) = self.busy(index, queue)? {
                return Ok(Progress::Waiting(device));
            }
            if let Some(queue) = core.virtio.functions[index].queues.get_mut(usize::from(queue)) {
                queue.reset();
            }
            work.queue_resets &= work.queue_resets - 1;
        }
        if std::mem::take(&mut work.driver_ok) {
            self.start(core, index)?;
            // Buffers may have been made available before.
            let count = core.virtio.functions[index].queues.len().min(64);
            work.kicks |= if count == 64 { u64::MAX } else { (1 << count) - 1 };
        }
        while work.kicks != 0 {
            let queue = work.kicks.trailing_zeros() as u16;
            if let Some(device) = self.serve_queue(core, index, queue)? {
                return Ok(Progress::Waiting(device));
            }
            work.kicks &= work.kicks - 1;
        }
        Ok(Progress::Done)
    }

    /// The device that still works on requests of a queue whose effects last: they must have happened before it may
    /// be stopped.
    fn busy(&mut self, index: usize, queue: u16) -> Result<Option<DeviceIndex>, WindowError> {
        let kind = &self.functions[index].kind;
        let (VirtioKind::Block { .. }, Role::BackEnd { device, queue }) = (kind, roles::role(kind, queue))
        else {
            return Ok(None);
        };
        self.reap(device)?;
        let busy = self.back_ends[usize::from(device)].as_ref().is_some_and(|b| b.outstanding(queue) > 0);
        Ok(busy.then_some(device))
    }

    /// Resets a function; a device that must finish first is returned.
    fn reset(&mut self, core: &mut Core, index: usize) -> Result<Option<DeviceIndex>, WindowError> {
        if let Some(device) = self.busy(index, 0)? {
            return Ok(Some(device));
        }
        for (device, _) in self.functions[index].kind.back_ends() {
            if let Some(back_end) = &mut self.back_ends[usize::from(device)] {
                back_end.stop()?;
            }
            self.staged[usize::from(device)].clear();
        }
        self.stop_shared(index)?;
        core.virtio.functions[index].reset();
        Ok(None)
    }

    fn start(&mut self, core: &mut Core, index: usize) -> Result<(), WindowError> {
        core.virtio.functions[index].started = true;
        let kind = &self.functions[index].kind;
        let driver = core.chipset.virtio(index).driver_features();
        for (device, _) in kind.back_ends() {
            if let Some(back_end) = &mut self.back_ends[usize::from(device)] {
                back_end.start(offer::for_back_end(kind, driver, back_end.features()))?;
            }
        }
        self.start_shared(core, index)
    }

    /// Serves one queue as far as it goes; a device whose window is full is returned.
    fn serve_queue(
        &mut self,
        core: &mut Core,
        index: usize,
        queue: u16,
    ) -> Result<Option<DeviceIndex>, WindowError> {
        if let Some(of_back_end) = self.shared_queue(index, queue) {
            return self.kick_shared(core, (index, queue), of_back_end).map(|()| None);
        }
        if !self.has_ring(core, index, queue) {
            return Ok(None);
        }
        if !core.chipset.virtio(index).bus_master() {
            // The rings are out of its reach.
            let gpa = core.chipset.virtio(index).queue(queue).map_or(0, |queue| queue.driver_area);
            self.break_down(core, index, queue, &ring::unreachable(gpa));
            return Ok(None);
        }
        let served = match roles::role(&self.functions[index].kind, queue) {
            Role::BackEnd { device, queue: to } => self.submit_all(core, (index, queue), (device, to)),
            Role::Outward { device, queue: to } => self.send_all(core, (index, queue), (device, to)),
            Role::NetControl => {
                super::net_control::serve(core, index, queue).map(|()| None).map_err(Trouble::Ring)
            }
            Role::ConsoleFromGuest => self.hear_console(core, index, queue),
            Role::ConsoleToGuest => {
                console_control::talk_to_guest(core, index, queue).map(|()| None).map_err(Trouble::Ring)
            }
            Role::Nobody => Ok(None),
        };
        match served {
            Ok(waiting) => {
                if waiting.is_none() {
                    self.finish_queue(core, index, queue);
                }
                Ok(waiting)
            }
            Err(Trouble::Ring(fault)) => {
                self.break_down(core, index, queue, &fault);
                Ok(None)
            }
            Err(Trouble::Window(error)) => Err(error),
        }
    }

    /// Makes sure that a queue which the driver has enabled has a ring; false: there is nothing to serve.
    fn has_ring(&self, core: &mut Core, index: usize, queue: u16) -> bool {
        let registers = core.chipset.virtio(index);
        let event_idx = registers.driver_features() & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let set_up = registers.queue(queue).filter(|queue| queue.enabled).cloned();
        let function = &mut core.virtio.functions[index];
        let Some(state) = function.queues.get_mut(usize::from(queue)) else { return false };
        if !function.started || function.broken {
            return false;
        }
        if let (None, Some(set_up)) = (&state.ring, set_up) {
            state.ring = Some(GuestRing::new(
                set_up.size,
                set_up.descriptors,
                set_up.driver_area,
                set_up.device_area,
                event_idx,
            ));
        }
        state.ring.is_some()
    }

    /// After a queue was emptied: asks for the next kick, and interrupts for what was given back.
    fn finish_queue(&mut self, core: &mut Core, index: usize, queue: u16) {
        let Some(ring) = &core.virtio.functions[index].queues[usize::from(queue)].ring else { return };
        if let Err(fault) = ring.ask_for_kick(&mut core.mem.ram) {
            return self.break_down(core, index, queue, &fault);
        }
        self.interrupt(core, index, queue);
    }

    fn interrupt(&mut self, core: &mut Core, index: usize, queue: u16) {
        let Some(ring) = &mut core.virtio.functions[index].queues[usize::from(queue)].ring else { return };
        match ring.needs_interrupt(&core.mem.ram) {
            Ok(true) => {
                let now = core.clock.at(core.cpu.icount);
                core.chipset.virtio_queue_interrupt(index, queue, now);
            }
            Ok(false) => {}
            Err(fault) => self.break_down(core, index, queue, &fault),
        }
    }

    pub(super) fn break_down(&mut self, core: &mut Core, index: usize, queue: u16, fault: &RingFault) {
        core.virtio.functions[index].break_down(&self.functions[index].id, queue, fault);
        let now = core.clock.at(core.cpu.icount);
        core.chipset.virtio_needs_reset(index, now);
    }

    /// Hands all available requests to the back-end.
    fn submit_all(
        &mut self,
        core: &mut Core,
        (index, queue): (usize, u16),
        (device, to): (DeviceIndex, u16),
    ) -> Result<Option<DeviceIndex>, Trouble> {
        let is_block = matches!(self.functions[index].kind, VirtioKind::Block { .. });
        let framing = if is_block { BLOCK_FRAMING } else { Framing::default() };
        let mut waiting = None;
        while let Some(chain) = pop(core, index, queue)? {
            let (out, into) = (ring::length(&chain.readable), ring::length(&chain.writable));
            if !self.wait_for_room(core, (index, queue), (device, to), &chain)? {
                waiting = Some(device);
                break;
            }
            // Only what is looked at is copied: a replay without back-end needs a disk's header.
            let has_back_end = self.back_ends[usize::from(device)].is_some();
            let bytes =
                if has_back_end || is_block { ring::gather(&core.mem.ram, &chain.readable) } else { vec![] };
            let function = &mut core.virtio.functions[index];
            let number = function.submitted;
            function.submitted += 1;
            let state = &mut function.queues[usize::from(queue)];
            let block = if is_block { BlockRequest::of(&bytes) } else { None };
            let life = state.life;
            let request = InFlight { number, readable: chain.readable, writable: chain.writable, block };
            let before = state.in_flight.insert(chain.head, request);
            if before.is_some() {
                return Err(Trouble::Ring(RingFault::Twice { head: chain.head }));
            }
            let is_new = self.spools[usize::from(device)].as_mut().is_none_or(|spool| spool.is_new(number));
            if let Some(back_end) = &mut self.back_ends[usize::from(device)]
                && out + into > 0
                && is_new
            {
                let tag = Tag { queue, head: chain.head, life, number };
                back_end.submit(to, tag, &bytes, into as usize, framing);
            }
        }
        self.publish(device, to)?;
        Ok(waiting)
    }

    /// Sends all available requests and gives them back at once.
    fn send_all(
        &mut self,
        core: &mut Core,
        (index, queue): (usize, u16),
        (device, to): (DeviceIndex, u16),
    ) -> Result<Option<DeviceIndex>, Trouble> {
        let is_net = matches!(self.functions[index].kind, VirtioKind::Net { .. });
        let (mut waiting, mut count, mut sum) = (None, 0u32, digest::Running::default());
        while let Some(chain) = pop(core, index, queue)? {
            if !self.wait_for_room(core, (index, queue), (device, to), &chain)? {
                waiting = Some(device);
                break;
            }
            let bytes = ring::gather(&core.mem.ram, &chain.readable);
            if is_net {
                count += 1;
                sum.add(&bytes);
                if let Some(capture) = &mut self.captures[index] {
                    capture.sent(&bytes, core.clock.at(core.cpu.icount));
                }
            }
            if let Some(back_end) = &mut self.back_ends[usize::from(device)]
                && !bytes.is_empty()
            {
                let tag = Tag { queue, head: chain.head, life: 0, number: 0 };
                back_end.submit(to, tag, &bytes, 0, Framing::default());
            }
            put(core, index, queue, chain.head, 0)?;
        }
        if count > 0 {
            self.sent.push(Event::Sent { device, queue, count, digest: sum.value() });
        }
        self.publish(device, to)?;
        Ok(waiting)
    }

    /// Whether the window has room for a chain; if not, the chain is put back.
    fn wait_for_room(
        &mut self,
        core: &mut Core,
        (index, queue): (usize, u16),
        (device, to): (DeviceIndex, u16),
        chain: &Chain,
    ) -> Result<bool, Trouble> {
        let (out, into) = (ring::length(&chain.readable) as usize, ring::length(&chain.writable) as usize);
        if out.saturating_add(into) > REQUEST_BYTES_MAX {
            return Err(Trouble::Ring(RingFault::TooLong { head: chain.head }));
        }
        for _ in 0..2 {
            let Some(back_end) = &mut self.back_ends[usize::from(device)] else { return Ok(true) };
            match back_end.room(to, out, into) {
                Room::Now => return Ok(true),
                Room::Never => unreachable!("windows take the largest request"),
                Room::Later => {
                    self.publish(device, to)?;
                    self.reap(device)?;
                }
            }
        }
        if let Some(ring) = &mut core.virtio.functions[index].queues[usize::from(queue)].ring {
            ring.unpop();
        }
        Ok(false)
    }

    fn publish(&mut self, device: DeviceIndex, queue: u16) -> Result<(), Trouble> {
        match &mut self.back_ends[usize::from(device)] {
            Some(back_end) => back_end.publish(queue).map_err(Trouble::Window),
            None => Ok(()),
        }
    }

    fn hear_console(
        &mut self,
        core: &mut Core,
        index: usize,
        queue: u16,
    ) -> Result<Option<DeviceIndex>, Trouble> {
        while let Some(chain) = pop(core, index, queue)? {
            // A message has eight bytes; what a driver adds to it is not looked at.
            let head = chain.readable.first().map_or(0, |first| first.length.min(64));
            let first = chain.readable.first().map(|first| ring::Segment { gpa: first.gpa, length: head });
            let message = ring::gather(&core.mem.ram, first.as_slice());
            if let VirtioKind::Console { ports } = &self.functions[index].kind {
                core.virtio.functions[index].console.take(ports, &message);
            }
            put(core, index, queue, chain.head, 0)?;
        }
        // The answers go through the queue before this one.
        let answers = queue - 1;
        if self.has_ring(core, index, answers) {
            console_control::talk_to_guest(core, index, answers)?;
            self.finish_queue(core, index, answers);
        }
        Ok(None)
    }

    /// Takes what the back-end of `device` has answered out of its window.
    pub fn reap(&mut self, device: DeviceIndex) -> Result<(), WindowError> {
        let Some(function) = self.function_of(device) else { return Ok(()) };
        let queues = roles::window_queues(&self.functions[function].kind, device);
        let Some(back_end) = &mut self.back_ends[usize::from(device)] else { return Ok(()) };
        for (queue, outward) in queues {
            while let Some(done) = back_end.take(queue)? {
                self.answered[usize::from(device)] += 1;
                if outward {
                    continue;
                }
                match &mut self.spools[usize::from(device)] {
                    Some(spool) => spool.put(done)?,
                    None => self.staged[usize::from(device)].push_back(done),
                }
            }
        }
        Ok(())
    }

    /// Disks that have requests, and how many they have answered so far.
    pub fn disks_at_work(&self) -> Vec<(DeviceIndex, u64)> {
        let mut at_work = Vec::new();
        for function in &self.functions {
            let VirtioKind::Block { device, .. } = function.kind else { continue };
            if let Some(Some(back_end)) = self.back_ends.get(usize::from(device))
                && back_end.outstanding(0) > 0
            {
                at_work.push((device, self.answered[usize::from(device)]));
            }
            at_work.extend(self.shared_at_work(device).map(|answered| (device, answered)));
        }
        at_work
    }

    /// Answers that may go to the guest now: those of one virtqueue, in order.
    pub fn next_answers(&mut self, core: &Core, device: DeviceIndex) -> Vec<Done<Tag>> {
        let Some(index) = self.function_of(device) else { return vec![] };
        let function = &core.virtio.functions[index];
        let staged = &mut self.staged[usize::from(device)];
        let (mut answers, mut bytes): (Vec<Done<Tag>>, usize) = (vec![], 0);
        while let Some(done) = staged.front() {
            let queue = &function.queues[usize::from(done.tag.queue)];
            let is_waited_for = queue.life == done.tag.life && queue.in_flight.contains_key(&done.tag.head);
            if function.broken || !is_waited_for {
                staged.pop_front();
                continue;
            }
            let same = answers.last().is_none_or(|last| last.tag.queue == done.tag.queue);
            if !same || !answers.is_empty() && bytes + done.bytes.len() > EVENT_BYTES_MAX {
                break;
            }
            bytes += done.bytes.len();
            answers.extend(staged.pop_front());
        }
        answers
    }

    /// In a replay: keeps the answers of devices that run requests again, which themselves only go forward.
    pub fn keep_answers(&mut self) -> std::io::Result<()> {
        for function in &self.functions {
            for (device, _) in function.kind.back_ends() {
                if self.back_ends[usize::from(device)].is_some()
                    && matches!(function.kind, VirtioKind::Block { .. })
                {
                    self.spools[usize::from(device)] = Some(Spool::new()?);
                }
            }
        }
        Ok(())
    }

    /// Whether there are any.
    pub fn keeps_answers(&self) -> bool {
        self.spools.iter().any(Option::is_some)
    }

    /// The kept answer to a request: bytes written and the whole buffer.
    pub fn kept_answer(&mut self, device: DeviceIndex, tag: Tag) -> Result<Option<Done<Tag>>, WindowError> {
        match &mut self.spools[usize::from(device)] {
            Some(spool) => spool.get(tag),
            None => Ok(None),
        }
    }

    /// Brings answers into RAM: descriptor number, bytes written, the bytes. False: nobody waits for one of them.
    pub fn deliver(
        &mut self,
        core: &mut Core,
        index: usize,
        queue: u16,
        answers: &[(u16, u32, &[u8])],
    ) -> bool {
        for &(head, length, bytes) in answers {
            let Some(state) = core.virtio.functions[index].queues.get_mut(usize::from(queue)) else {
                return false;
            };
            let Some(request) = state.in_flight.remove(&head) else { return false };
            ring::scatter(&mut core.mem.ram, &request.writable, bytes);
            if let Some(capture) = &mut self.captures[index] {
                capture.received(bytes, core.clock.at(core.cpu.icount));
            }
            if let Err(fault) = put(core, index, queue, head, length) {
                self.break_down(core, index, queue, &fault);
                return true;
            }
        }
        self.interrupt(core, index, queue);
        true
    }
}

/// What stops a queue from being served.
enum Trouble {
    Ring(RingFault),
    Window(WindowError),
}

impl From<RingFault> for Trouble {
    fn from(fault: RingFault) -> Trouble {
        Trouble::Ring(fault)
    }
}

impl From<WindowError> for Trouble {
    fn from(error: WindowError) -> Trouble {
        Trouble::Window(error)
    }
}

pub(super) fn pop(core: &mut Core, index: usize, queue: u16) -> Result<Option<Chain>, RingFault> {
    match &mut core.virtio.functions[index].queues[usize::from(queue)].ring {
        Some(ring) => ring.pop(&core.mem.ram),
        None => Ok(None),
    }
}

pub(super) fn put(
    core: &mut Core,
    index: usize,
    queue: u16,
    head: u16,
    length: u32,
) -> Result<(), RingFault> {
    match &mut core.virtio.functions[index].queues[usize::from(queue)].ring {
        Some(ring) => ring.put(&mut core.mem.ram, head, length),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
