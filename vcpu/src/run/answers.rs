//! Answers of the virtio back-ends: from the windows to an event, from an event into RAM.

use super::error::RunError;
use super::machine::Machine;
use crate::virtio::service::Progress;
use crate::virtio::{BackEnd, Tag};
use replay::device::{DeviceKind, Policy};
use replay::digest;
use replay::event::{DeviceIndex, Event, Payload, UsedEntry};
use std::collections::VecDeque;

/// Whether an event's answers can go into RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Yes.
    Now,
    /// When this device has answered.
    Waiting(DeviceIndex),
    /// The answer is another than the recorded one.
    Differs {
        /// What differs, for the user.
        field: String,
        /// The recorded one.
        expected: String,
        /// This one.
        found: String,
    },
}

impl Machine {
    /// Serves what the guest has asked of virtio functions.
    pub fn serve_virtio(&mut self) -> Result<Progress, RunError> {
        Ok(self.service.serve(&mut self.core)?)
    }

    /// Whether a device is behind a virtio function.
    pub fn is_virtio(&self, device: DeviceIndex) -> bool {
        self.service.function_of(device).is_some()
    }

    /// Disks that have requests of the guest, and how many they have answered so far.
    pub fn disks_at_work(&self) -> Vec<(DeviceIndex, u64)> {
        self.service.disks_at_work()
    }

    /// Whether the back-end of a device has guest RAM itself: nothing of it comes out of a window.
    pub fn shares_ram(&self, device: DeviceIndex) -> bool {
        self.service.shares_ram(device)
    }

    /// Notes what back-ends that share guest RAM may have written.
    pub fn watch_shared(&mut self) -> Result<(), RunError> {
        Ok(self.service.watch_shared(&mut self.core)?)
    }

    /// The event of a signal from a back-end that shares guest RAM.
    pub fn shared_signal(&self, device: DeviceIndex, queue: u16) -> Option<Event> {
        let queue = self.service.guest_queue(device, queue)?;
        Some(Event::QueueUsed { device, queue, entries: vec![] })
    }

    /// What the back-ends offer, as events. Before the first instruction.
    pub fn offers(&mut self) -> Result<Vec<Event>, RunError> {
        Ok(self.service.offers()?)
    }

    /// Notes of what the guest has sent since the last call.
    pub fn take_sent(&mut self) -> Vec<Event> {
        self.service.take_sent()
    }

    /// Name of a device for the user.
    pub fn device_name(&self, device: DeviceIndex) -> &str {
        self.description.devices.get(usize::from(device)).map_or("a device", |choice| choice.id.as_str())
    }

    fn policy(&self, device: DeviceIndex) -> Policy {
        let kind = self.description.devices.get(usize::from(device)).map(|choice| &choice.kind);
        kind.map_or(Policy::Data, DeviceKind::policy)
    }

    /// Takes answers out of a device's window, for `next_answer`.
    pub fn reap(&mut self, device: DeviceIndex) -> Result<(), RunError> {
        Ok(self.service.reap(device)?)
    }

    /// An event with answers of a device that the guest waits for. It must be applied next.
    pub fn next_answer(&mut self, device: DeviceIndex) -> Option<Event> {
        let answers = self.service.next_answers(&self.core, device);
        let queue = answers.first()?.tag.queue;
        let policy = self.policy(device);
        let keeps_all = self.is_disk(device);
        let mut entries = Vec::new();
        for mut done in answers {
            if !keeps_all {
                done.bytes.truncate(done.length as usize);
            }
            let (id, len) = (done.tag.head, done.length);
            let payload = match policy {
                Policy::Data => Payload::Data(done.bytes),
                Policy::ReExecute => {
                    let payload = Payload::Digest(digest::of_bytes(&done.bytes));
                    self.answers.push_back(done);
                    payload
                }
            };
            entries.push(UsedEntry { id, len, payload });
        }
        Some(Event::QueueUsed { device, queue, entries })
    }

    /// Disks may leave the length wrong; their drivers do not look at it (virtio 1.2, 2.7.8.2).
    fn is_disk(&self, device: DeviceIndex) -> bool {
        const BLOCK: u16 = 2;
        let index = self.service.function_of(device);
        index.is_some_and(|index| self.service.functions()[index].kind.device_type() == BLOCK)
    }

    /// Brings an event's answers into RAM.
    pub(super) fn deliver(
        &mut self,
        device: DeviceIndex,
        queue: u16,
        entries: &[UsedEntry],
    ) -> Result<(), RunError> {
        let Some(index) = self.service.function_of(device) else { return Ok(()) };
        if self.service.shares_ram(device) {
            return Ok(self.service.signalled(&mut self.core, index, queue)?);
        }
        let mut owned = Vec::new();
        for entry in entries {
            if let Payload::Digest(_) = entry.payload {
                let done = self.answers.pop_front().filter(|done| done.tag.head == entry.id);
                owned.push(done.expect("whoever applies a digest has its answer at hand").bytes);
            }
        }
        let mut owned = owned.iter();
        let mut answers = Vec::new();
        for entry in entries {
            let bytes: &[u8] = match &entry.payload {
                Payload::Data(bytes) => bytes,
                Payload::Digest(_) => owned.next().expect("one for each digest was pushed above"),
            };
            answers.push((entry.id, entry.len, bytes));
        }
        if !self.service.deliver(&mut self.core, index, queue, &answers) {
            return Err(RunError::Setup(format!(
                "{}: an event answers a request of queue {queue} that the guest has not made",
                self.device_name(device)
            )));
        }
        Ok(())
    }

    /// In a replay: whether a recorded answer can be applied, and whether this run's is the same.
    pub fn prepare(&mut self, event: &Event) -> Result<Ready, RunError> {
        match event {
            Event::QueueUsed { device, queue, entries } => match self.service.function_of(*device) {
                Some(index) => self.prepare_answers(*device, index, *queue, entries),
                None => Ok(Ready::Now),
            },
            Event::DeviceOffered { device, .. } => self.compare_offer(*device, event),
            _ => Ok(Ready::Now),
        }
    }

    fn compare_offer(&mut self, device: DeviceIndex, recorded: &Event) -> Result<Ready, RunError> {
        // Before it is there, it says nothing.
        if let Some(held) = self.service.first_held() {
            return Ok(Ready::Waiting(held));
        }
        let of_device =
            |event: &Event| matches!(event, Event::DeviceOffered { device: d, .. } if *d == device);
        Ok(match self.service.offers()?.into_iter().find(of_device) {
            Some(offer) if offer != *recorded => Ready::Differs {
                field: format!("{}: what the device offers", self.device_name(device)),
                expected: format!("{recorded:x?}"),
                found: format!("{offer:x?}"),
            },
            _ => Ready::Now,
        })
    }

    fn prepare_answers(
        &mut self,
        device: DeviceIndex,
        index: usize,
        queue: u16,
        entries: &[UsedEntry],
    ) -> Result<Ready, RunError> {
        let waits = |head: u16| {
            let state = self.core.virtio.functions[index].queues.get(usize::from(queue));
            state.is_some_and(|state| state.in_flight.contains_key(&head))
        };
        if let Some(entry) = entries.iter().find(|entry| !waits(entry.id)) {
            return Ok(Ready::Differs {
                field: format!("{}: requests of queue {queue}", self.device_name(device)),
                expected: format!("request {} among those that wait", entry.id),
                found: "no such request".into(),
            });
        }
        let digests: Vec<&UsedEntry> =
            entries.iter().filter(|entry| matches!(entry.payload, Payload::Digest(_))).collect();
        if digests.is_empty() {
            return Ok(Ready::Now);
        }
        self.service.reap(device)?;
        let state = &self.core.virtio.functions[index].queues[usize::from(queue)];
        let tag = |head: u16| Tag { queue, head, life: state.life, number: state.in_flight[&head].number };
        let tags: Vec<Tag> = digests.iter().map(|entry| tag(entry.id)).collect();
        let mut found = VecDeque::new();
        for tag in tags {
            match self.service.kept_answer(device, tag)? {
                Some(done) => found.push_back(done),
                None => return Ok(Ready::Waiting(device)),
            }
        }
        for (entry, done) in digests.iter().zip(&found) {
            let sum = digest::of_bytes(&done.bytes);
            if entry.len != done.length || entry.payload != Payload::Digest(sum) {
                return Ok(self.differing_answer(device, index, queue, entry, done.length, sum));
            }
        }
        self.answers.extend(found);
        Ok(Ready::Now)
    }

    fn differing_answer(
        &self,
        device: DeviceIndex,
        index: usize,
        queue: u16,
        entry: &UsedEntry,
        length: u32,
        sum: u64,
    ) -> Ready {
        let request = &self.core.virtio.functions[index].queues[usize::from(queue)].in_flight[&entry.id];
        let what = match request.block {
            Some(block) => {
                let bytes: u32 = request.writable.iter().map(|segment| segment.length).sum();
                let sectors = u64::from(bytes) / 512;
                let last = block.sector + sectors.saturating_sub(1);
                format!("sectors {} to {last} (request type {})", block.sector, block.kind)
            }
            None => format!("request {}", entry.id),
        };
        let recorded = match entry.payload {
            Payload::Digest(digest) => digest,
            Payload::Data(_) => 0,
        };
        Ready::Differs {
            field: format!("{}: {what}", self.device_name(device)),
            expected: format!("{} bytes with digest {recorded:016x}", entry.len),
            found: format!("{length} bytes with digest {sum:016x}; was the image changed since?"),
        }
    }

    /// In a replay: keeps the answers of disks, which themselves only go forward.
    pub fn keep_answers(&mut self) -> Result<(), RunError> {
        self.service.keep_answers().map_err(|error| RunError::Setup(format!("cannot keep answers: {error}")))
    }

    /// A device that must answer before the guest can be taken elsewhere.
    pub fn unanswered(&mut self) -> Result<Option<DeviceIndex>, RunError> {
        Ok(self.service.busy_disk()?)
    }

    /// The window of a device, for tests of what is outstanding.
    pub fn back_end(&mut self, device: DeviceIndex) -> Option<&mut Box<dyn BackEnd>> {
        self.service.back_end(device)
    }
}
