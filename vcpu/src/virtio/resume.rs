//! What is on its way between guest and back-ends when a state is saved, and setting it on its way again.
//!
//! A disk finishes first: its answers are kept with the state, undelivered. Other back-ends hold buffers of the guest for hours;
//! those are handed out again. What the guest wrote into them is still in its RAM, where a driver must leave it (virtio 1.2,
//! 2.7.13).

use super::back_end::Tag;
use super::function::{InFlight, Virtio};
use super::roles::{self, Role};
use super::service::BLOCK_FRAMING;
use super::{Service, offer, ring};
use crate::chipset::Chipset;
use crate::core::Core;
use crate::window::WindowError;
use crate::window::requests::{Done, Framing, Room};
use replay::device::VirtioKind;
use replay::event::DeviceIndex;
use std::collections::BTreeSet;

/// An answer that the guest has not got yet.
pub type Undelivered = (DeviceIndex, Done<Tag>);

impl Service {
    /// Devices behind functions that are disks.
    fn disks(&self) -> Vec<DeviceIndex> {
        let disk = |kind: &VirtioKind| match kind {
            VirtioKind::Block { device, .. } => Some(*device),
            VirtioKind::Net { .. }
            | VirtioKind::Console { .. }
            | VirtioKind::Entropy { .. }
            | VirtioKind::Other { .. } => None,
        };
        self.functions.iter().filter_map(|function| disk(&function.kind)).collect()
    }

    /// A disk that still works on requests.
    pub fn busy_disk(&mut self) -> Result<Option<DeviceIndex>, WindowError> {
        for device in self.disks() {
            self.reap(device)?;
            let back_end = self.back_ends[usize::from(device)].as_ref();
            if back_end.is_some_and(|back_end| back_end.outstanding(0) > 0) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// Whether everything that the guest asked for has been looked at.
    pub fn is_served(&self) -> bool {
        self.work.is_empty()
    }

    /// Answers that are here and the guest has not got, when no disk is busy.
    pub fn undelivered(&mut self, virtio: &Virtio) -> Result<Vec<Undelivered>, WindowError> {
        let mut found = Vec::new();
        for device in 0..self.back_ends.len() as DeviceIndex {
            self.reap(device)?;
            if self.spools[usize::from(device)].is_some() {
                for tag in self.waiting(virtio, device) {
                    let kept = self.kept_answer(device, tag)?;
                    found.extend(kept.map(|done| (device, done)));
                }
            }
            let waiting = self.waiting(virtio, device);
            let staged = self.staged[usize::from(device)].iter().filter(|done| waiting.contains(&done.tag));
            found.extend(staged.map(|done| (device, done.clone())));
        }
        Ok(found)
    }

    /// Devices with answers that were taken out of their windows.
    pub fn staged_devices(&self) -> Vec<DeviceIndex> {
        let staged = self.staged.iter().zip(0..).filter(|(staged, _)| !staged.is_empty());
        staged.map(|(_, device)| device).collect()
    }

    /// Requests that wait for an answer of `device`, in the order in which they were made.
    fn waiting(&self, virtio: &Virtio, device: DeviceIndex) -> Vec<Tag> {
        let Some(index) = self.function_of(device) else { return vec![] };
        let mut tags: Vec<Tag> = requests(virtio, index)
            .filter(|(tag, _)| self.back_end_of(index, tag.queue).is_some_and(|(of, _)| of == device))
            .map(|(tag, _)| tag)
            .collect();
        tags.sort_by_key(|tag| tag.number);
        tags
    }

    fn back_end_of(&self, index: usize, queue: u16) -> Option<(DeviceIndex, u16)> {
        match roles::role(&self.functions[index].kind, queue) {
            Role::BackEnd { device, queue } => Some((device, queue)),
            Role::Outward { .. }
            | Role::NetControl
            | Role::ConsoleToGuest
            | Role::ConsoleFromGuest
            | Role::Nobody => None,
        }
    }

    /// Whether devices whose answers are kept have had all requests of the guest and no more.
    pub fn disks_are_here(&self, virtio: &Virtio) -> bool {
        let of =
            |device: usize| self.function_of(device as DeviceIndex).map(|index| &virtio.functions[index]);
        let spools = self.spools.iter().enumerate();
        let mut kept = spools.filter_map(|(device, spool)| Some((spool.as_ref()?, of(device)?)));
        kept.all(|(spool, function)| spool.is_at(function.submitted))
    }

    /// Gives these devices nothing more until they have other back-ends.
    pub fn hold(&mut self, devices: &[DeviceIndex]) -> Result<(), WindowError> {
        for device in devices {
            if let Some(Some(back_end)) = self.back_ends.get_mut(usize::from(*device)) {
                back_end.hold()?;
            }
            self.hold_shared(*device)?;
        }
        Ok(())
    }

    /// Whether a back-end waits for another one to take its place.
    pub fn is_held(&self, device: DeviceIndex) -> bool {
        let back_end = self.back_ends.get(usize::from(device)).and_then(Option::as_ref);
        back_end.is_some_and(|back_end| back_end.is_held()) || self.is_shared_held(device)
    }

    /// A device that waits for another back-end.
    pub fn first_held(&self) -> Option<DeviceIndex> {
        (0..self.back_ends.len() as DeviceIndex).find(|device| self.is_held(*device))
    }

    /// Finds a back-end that offers less than the driver in a saved state uses: device and features.
    pub fn lacking(&self, chipset: &Chipset) -> Option<(DeviceIndex, u64)> {
        for (index, function) in self.functions.iter().enumerate() {
            let driver = chipset.virtio(index).driver_features();
            for (device, _) in function.kind.back_ends() {
                let back_end = self.back_ends[usize::from(device)].as_ref();
                let offered = back_end.map(|end| end.features()).or_else(|| self.shared_features(device));
                let Some(offered) = offered else { continue };
                let missing = offer::needed_of_back_end(&function.kind, driver) & !offered;
                if missing != 0 {
                    return Some((device, missing));
                }
            }
        }
        None
    }

    /// The machine was put into another state: the back-ends get what that state has them do.
    pub fn resume(
        &mut self,
        core: &mut Core,
        undelivered: Vec<Undelivered>,
        held: &[DeviceIndex],
    ) -> Result<(), WindowError> {
        self.work.clear();
        self.sent.clear();
        for back_end in self.back_ends.iter_mut().flatten() {
            back_end.stop()?;
        }
        self.stop_all_shared()?;
        self.staged.iter_mut().for_each(|staged| staged.clear());
        self.hold(held)?;
        let answered: BTreeSet<(DeviceIndex, u64)> =
            undelivered.iter().map(|(device, done)| (*device, done.tag.number)).collect();
        for index in 0..self.functions.len() {
            if core.virtio.functions[index].started {
                self.start_again(core, index, &answered)?;
                self.start_shared_again(core, index)?;
            }
            for (device, _) in self.functions[index].kind.back_ends() {
                if let Some(spool) = &mut self.spools[usize::from(device)] {
                    spool.begin_at(core.virtio.functions[index].submitted);
                }
            }
        }
        for (device, done) in undelivered {
            match self.spools.get_mut(usize::from(device)) {
                Some(Some(spool)) => spool.put(done)?,
                Some(None) => self.staged[usize::from(device)].push_back(done),
                None => {}
            }
        }
        Ok(())
    }

    fn start_again(
        &mut self,
        core: &mut Core,
        index: usize,
        answered: &BTreeSet<(DeviceIndex, u64)>,
    ) -> Result<(), WindowError> {
        let kind = self.functions[index].kind.clone();
        let driver = core.chipset.virtio(index).driver_features();
        for (device, _) in kind.back_ends() {
            if let Some(back_end) = &mut self.back_ends[usize::from(device)] {
                back_end.start(offer::for_back_end(&kind, driver, back_end.features()))?;
            }
        }
        let mut left: Vec<(Tag, InFlight)> = requests(&core.virtio, index).collect();
        left.sort_by_key(|(tag, _)| tag.number);
        for (tag, request) in left {
            let Some((device, to)) = self.back_end_of(index, tag.queue) else { continue };
            if answered.contains(&(device, tag.number)) {
                continue;
            }
            let Some(back_end) = &mut self.back_ends[usize::from(device)] else { continue };
            let out = ring::gather(&core.mem.ram, &request.readable);
            let into = ring::length(&request.writable) as usize;
            if out.len() + into == 0 {
                continue;
            }
            if back_end.room(to, out.len(), into) != Room::Now {
                return Err(WindowError::Full { device: self.functions[index].id.clone() });
            }
            let is_block = matches!(kind, VirtioKind::Block { .. });
            let framing = if is_block { BLOCK_FRAMING } else { Framing::default() };
            back_end.submit(to, tag, &out, into, framing);
            back_end.publish(to)?;
        }
        Ok(())
    }
}

/// All requests of a function that wait for their event.
fn requests(virtio: &Virtio, index: usize) -> impl Iterator<Item = (Tag, InFlight)> + '_ {
    let queues = virtio.functions[index].queues.iter().zip(0u16..);
    queues.flat_map(|(state, queue)| {
        state.in_flight.iter().map(move |(&head, request)| {
            (Tag { queue, head, life: state.life, number: request.number }, request.clone())
        })
    })
}
