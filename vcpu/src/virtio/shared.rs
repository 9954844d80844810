//! Back-ends that have guest RAM itself (`window=off`): the plain vhost-user way, for runs that are not recorded.
//!
//! The back-end serves the guest's rings where they are; here are only its start and stop, kicks, and interrupts. What it writes
//! happens at any moment, so nothing of this could be repeated. Control queues are served here as with a window.

use super::Service;
use super::ring::{GuestRing, RingFault};
use super::roles;
use super::watch::Watch;
use super::{offer, ring};
use crate::core::Core;
use crate::mem::ram::Ram;
use crate::window::WindowError;
use crate::window::session::{RingPlace, Session};
use replay::event::DeviceIndex;
use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};
use vhost::VhostUserMemoryRegionInfo;

/// A connected back-end that shares guest RAM.
pub struct SharedBackEnd {
    session: Session,
    /// Features with which it runs; none: it is stopped.
    started: Option<u64>,
    /// Its rings that run, by its own number of the queue.
    rings: BTreeMap<u16, Running>,
    /// It stands still while the machine is saved.
    paused: bool,
    /// It gets nothing: another one is about to take its place.
    held: bool,
}

/// A ring that the back-end serves.
struct Running {
    place: RingPlace,
    watch: Watch,
}

impl SharedBackEnd {
    /// The back-end behind a session, stopped.
    pub fn new(session: Session) -> SharedBackEnd {
        SharedBackEnd { session, started: None, rings: BTreeMap::new(), paused: false, held: false }
    }

    /// Whether it touches RAM.
    fn is_active(&self) -> bool {
        self.started.is_some() && !self.paused && !self.held
    }

    fn start(&mut self, ram: &Ram, features: u64) -> Result<(), WindowError> {
        self.started = Some(features);
        if self.held {
            return Ok(());
        }
        // Guest physical and user addresses are the same, so no message depends on where anything is mapped.
        let region = |(gpa, size, offset)| VhostUserMemoryRegionInfo {
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: gpa,
            mmap_offset: offset,
            mmap_handle: ram.fd(),
        };
        let regions: Vec<_> = ram.pieces().into_iter().map(region).collect();
        let places: Vec<_> = self.rings.values().map(|running| running.place).collect();
        self.session.start(features, &regions, &places)
    }

    fn stop(&mut self) -> Result<(), WindowError> {
        let was_active = self.is_active();
        let places: Vec<_> = self.rings.values().map(|running| running.place).collect();
        self.rings.clear();
        (self.started, self.paused) = (None, false);
        if was_active {
            self.session.stop(&places)?;
        }
        Ok(())
    }

    /// Lets it stand still, and notes where in its rings; false: it is gone, and nobody knows.
    fn pause(&mut self) -> Result<bool, WindowError> {
        if !self.is_active() {
            return Ok(true);
        }
        self.paused = true;
        let places: Vec<_> = self.rings.values().map(|running| running.place).collect();
        let Some(bases) = self.session.stop(&places)? else { return Ok(false) };
        self.rings.values_mut().zip(bases).for_each(|(running, base)| running.place.base = base);
        Ok(true)
    }

    /// Lets it go on where it stands.
    fn resume(&mut self, ram: &Ram) -> Result<(), WindowError> {
        if std::mem::take(&mut self.paused)
            && let Some(features) = self.started
        {
            self.start(ram, features)?;
            self.kick_all()?;
        }
        Ok(())
    }

    /// Its rings go on where all before was given back.
    fn begin_at_used(&mut self, ram: &Ram) {
        for running in self.rings.values_mut() {
            running.place.base = running.watch.base(ram).unwrap_or(0);
        }
    }

    fn kick_all(&self) -> Result<(), WindowError> {
        if self.held {
            return Ok(());
        }
        self.rings.keys().try_for_each(|number| self.session.kick((*number).into()))
    }
}

/// Where back-ends begin in rings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// At their beginning: the driver has just made them.
    Zero,
    /// Behind what was given back.
    Used,
}

/// A queue of a function, and the same as a queue of its back-end.
pub(super) type OfBackEnd = (DeviceIndex, u16);

impl Service {
    /// Gives a device's back-end guest RAM instead of a window.
    pub fn share(&mut self, device: DeviceIndex, back_end: SharedBackEnd) {
        self.shared.insert(device, back_end);
    }

    /// Whether the back-end of a device has guest RAM itself.
    pub fn shares_ram(&self, device: DeviceIndex) -> bool {
        self.shared.contains_key(&device)
    }

    /// Features that such a back-end offers.
    pub(super) fn shared_features(&self, device: DeviceIndex) -> Option<u64> {
        self.shared.get(&device).map(|back_end| back_end.session.features())
    }

    /// Features and configuration space of such a back-end.
    pub(super) fn shared_offer(
        &mut self,
        device: DeviceIndex,
        size: usize,
    ) -> Result<Option<(u64, Vec<u8>)>, WindowError> {
        let Some(back_end) = self.shared.get_mut(&device) else { return Ok(None) };
        Ok(Some((back_end.session.features(), back_end.session.config(size)?)))
    }

    /// How many requests such a back-end has answered, if it has others.
    pub(super) fn shared_at_work(&self, device: DeviceIndex) -> Option<u64> {
        let rings = &self.shared.get(&device)?.rings;
        let busy = rings.values().any(|running| running.watch.is_busy());
        busy.then(|| rings.values().map(|running| running.watch.answered()).sum())
    }

    /// The queue of a back-end that serves a guest's queue itself.
    pub(super) fn shared_queue(&self, index: usize, queue: u16) -> Option<OfBackEnd> {
        let (device, of_back_end, _) = roles::shared_queue(&self.functions[index].kind, queue)?;
        self.shares_ram(device).then_some((device, of_back_end))
    }

    /// The guest's queue that is `queue` of a back-end.
    pub fn guest_queue(&self, device: DeviceIndex, queue: u16) -> Option<u16> {
        let index = self.function_of(device)?;
        let count = self.functions[index].kind.queue_count();
        (0..count).find(|&guest| self.shared_queue(index, guest) == Some((device, queue)))
    }

    /// The back-ends of a function that share guest RAM.
    fn sharing(&self, index: usize) -> Vec<DeviceIndex> {
        let ends = self.functions[index].back_ends();
        ends.into_iter().map(|(device, _)| device).filter(|device| self.shares_ram(*device)).collect()
    }

    /// DRIVER_OK: gives the back-ends RAM and the rings that the driver has enabled.
    pub(super) fn start_shared(&mut self, core: &mut Core, index: usize) -> Result<(), WindowError> {
        self.start_rings_at(core, index, Base::Zero)
    }

    fn start_rings_at(&mut self, core: &mut Core, index: usize, base: Base) -> Result<(), WindowError> {
        let driver = core.chipset.virtio(index).driver_features();
        for device in self.sharing(index) {
            let count = self.functions[index].kind.queue_count();
            for queue in 0..count {
                if self.shared_queue(index, queue).is_some_and(|(of, _)| of == device)
                    && !self.add_ring(core, (index, queue))
                {
                    return self.stop_shared(index);
                }
            }
            let kind = &self.functions[index].kind;
            if let Some(back_end) = self.shared.get_mut(&device) {
                if base == Base::Used {
                    back_end.begin_at_used(&core.mem.ram);
                }
                let features = offer::for_shared_back_end(kind, driver, back_end.session.features());
                back_end.start(&core.mem.ram, features)?;
            }
        }
        Ok(())
    }

    /// Takes a ring in, if the driver has enabled it; false: it is wrong, and the device needs a reset.
    fn add_ring(&mut self, core: &mut Core, (index, queue): (usize, u16)) -> bool {
        let kind = &self.functions[index].kind;
        let Some((device, number, outward)) = roles::shared_queue(kind, queue) else { return true };
        let registers = core.chipset.virtio(index);
        let Some(set_up) = registers.queue(queue).filter(|queue| queue.enabled).cloned() else { return true };
        let areas = (set_up.descriptors, set_up.driver_area, set_up.device_area);
        let ring = GuestRing::new(set_up.size, areas.0, areas.1, areas.2, false);
        let bus_master = registers.bus_master();
        let checked = if bus_master { ring.check(&core.mem.ram) } else { Err(ring::unreachable(areas.1)) };
        if let Err(fault) = checked {
            self.break_down(core, index, queue, &fault);
            return false;
        }
        let place = RingPlace {
            queue: number.into(),
            size: set_up.size,
            descriptors: areas.0,
            avail: areas.1,
            used: areas.2,
            base: 0,
        };
        if let Some(back_end) = self.shared.get_mut(&device) {
            back_end.rings.insert(number, Running { place, watch: Watch::new(ring, outward) });
        }
        true
    }

    /// Stops the back-ends of a function: when this returns they touch RAM no more.
    pub(super) fn stop_shared(&mut self, index: usize) -> Result<(), WindowError> {
        for device in self.sharing(index) {
            if let Some(back_end) = self.shared.get_mut(&device) {
                back_end.stop()?;
            }
        }
        Ok(())
    }

    /// Whether there are any.
    pub fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Lets all of them stand still: when this returns they touch RAM no more. The device that has taken requests which it has not
    /// answered, if there is one: nobody knows of them when its rings go on elsewhere.
    pub fn pause_shared(&mut self, core: &mut Core) -> Result<Option<DeviceIndex>, WindowError> {
        let mut gone = None;
        for (device, back_end) in &mut self.shared {
            if !back_end.pause()? {
                gone = Some(*device);
            }
        }
        self.watch_shared(core)?;
        if gone.is_some() {
            return Ok(gone);
        }
        let ram = &core.mem.ram;
        let is_ahead = |running: &Running| running.watch.base(ram) != Ok(running.place.base);
        let paused = self.shared.iter().filter(|(_, back_end)| back_end.paused);
        let mut busy = paused.filter(|(_, back_end)| back_end.rings.values().any(is_ahead));
        Ok(busy.next().map(|(device, _)| *device))
    }

    /// Lets all go on that were paused.
    pub fn resume_shared(&mut self, core: &Core) -> Result<(), WindowError> {
        self.shared.values_mut().try_for_each(|back_end| back_end.resume(&core.mem.ram))
    }

    /// Gives a device nothing more until it has another back-end.
    pub(super) fn hold_shared(&mut self, device: DeviceIndex) -> Result<(), WindowError> {
        let Some(back_end) = self.shared.get_mut(&device) else { return Ok(()) };
        back_end.pause()?;
        (back_end.paused, back_end.held) = (false, true);
        Ok(())
    }

    /// Whether such a back-end waits for another one to take its place.
    pub(super) fn is_shared_held(&self, device: DeviceIndex) -> bool {
        self.shared.get(&device).is_some_and(|back_end| back_end.held)
    }

    /// The machine was put into another state: the back-ends of a function that runs in it go on with its rings.
    pub(super) fn start_shared_again(&mut self, core: &mut Core, index: usize) -> Result<(), WindowError> {
        self.start_rings_at(core, index, Base::Used)?;
        for device in self.sharing(index) {
            let Some(back_end) = self.shared.get(&device) else { continue };
            back_end.kick_all()?;
            let queues: Vec<_> =
                back_end.rings.keys().filter_map(|number| self.guest_queue(device, *number)).collect();
            let now = core.clock.at(core.cpu.icount);
            // What was given back may not have been signalled yet. One interrupt too many harms no driver.
            queues.into_iter().for_each(|queue| core.chipset.virtio_queue_interrupt(index, queue, now));
        }
        Ok(())
    }

    /// Stops all of them.
    pub fn stop_all_shared(&mut self) -> Result<(), WindowError> {
        self.shared.values_mut().try_for_each(SharedBackEnd::stop)
    }

    /// The guest kicks a queue that a back-end serves.
    pub(super) fn kick_shared(
        &mut self,
        core: &mut Core,
        (index, queue): (usize, u16),
        (device, number): OfBackEnd,
    ) -> Result<(), WindowError> {
        let function = &core.virtio.functions[index];
        if !function.started || function.broken {
            return Ok(());
        }
        if !core.chipset.virtio(index).bus_master() {
            let gpa = core.chipset.virtio(index).queue(queue).map_or(0, |queue| queue.driver_area);
            return self.fail_shared(core, (index, queue), &ring::unreachable(gpa));
        }
        let runs = |service: &Service| service.shared[&device].rings.contains_key(&number);
        if !runs(self) {
            // Enabled after DRIVER_OK.
            if !self.add_ring(core, (index, queue)) {
                return self.stop_shared(index);
            }
            let Some(back_end) = self.shared.get_mut(&device) else { return Ok(()) };
            let Some(running) = back_end.rings.get(&number) else { return Ok(()) };
            if back_end.is_active() {
                back_end.session.start_ring(&running.place)?;
            }
        }
        if self.look_at(core, (index, queue), (device, number))? {
            // What the guest has written must be visible before the kick.
            fence(Ordering::SeqCst);
            self.shared[&device].session.kick(number.into())?;
        }
        Ok(())
    }

    /// Looks at one ring; false: it is wrong, or does not run.
    fn look_at(
        &mut self,
        core: &mut Core,
        (index, queue): (usize, u16),
        (device, number): OfBackEnd,
    ) -> Result<bool, WindowError> {
        let running = self.shared.get_mut(&device).and_then(|back_end| back_end.rings.get_mut(&number));
        let Some(running) = running else { return Ok(false) };
        match running.watch.look(&mut core.mem.ram) {
            Ok(()) => Ok(true),
            Err(fault) => self.fail_shared(core, (index, queue), &fault).map(|()| false),
        }
    }

    fn fail_shared(
        &mut self,
        core: &mut Core,
        (index, queue): (usize, u16),
        fault: &RingFault,
    ) -> Result<(), WindowError> {
        self.break_down(core, index, queue, fault);
        self.stop_shared(index)
    }

    /// Looks at all rings that back-ends serve themselves. Between two instructions, every quantum.
    pub fn watch_shared(&mut self, core: &mut Core) -> Result<(), WindowError> {
        if self.shared.is_empty() {
            return Ok(());
        }
        let running = |(device, back_end): (&DeviceIndex, &SharedBackEnd)| {
            back_end.rings.keys().map(|number| (*device, *number)).collect::<Vec<OfBackEnd>>()
        };
        for (device, number) in self.shared.iter().flat_map(running).collect::<Vec<OfBackEnd>>() {
            let (Some(index), Some(queue)) = (self.function_of(device), self.guest_queue(device, number))
            else {
                continue;
            };
            self.look_at(core, (index, queue), (device, number))?;
        }
        Ok(())
    }

    /// A back-end that serves a queue itself has signalled it: an interrupt, whether it is wanted was its decision.
    pub fn signalled(&mut self, core: &mut Core, index: usize, queue: u16) -> Result<(), WindowError> {
        let Some(of_back_end) = self.shared_queue(index, queue) else { return Ok(()) };
        if self.look_at(core, (index, queue), of_back_end)? {
            let now = core.clock.at(core.cpu.icount);
            core.chipset.virtio_queue_interrupt(index, queue, now);
        }
        Ok(())
    }

    /// Takes another back-end for a device that shares RAM; false: the device is none of them.
    pub fn reconnect_shared(
        &mut self,
        core: &Core,
        device: DeviceIndex,
        session: Session,
    ) -> Result<bool, WindowError> {
        let Some(back_end) = self.shared.get_mut(&device) else { return Ok(false) };
        let missing = back_end.session.features() & !session.features();
        if missing != 0 {
            return Err(session.changed(missing));
        }
        back_end.session = session;
        (back_end.paused, back_end.held) = (false, false);
        let Some(features) = back_end.started else { return Ok(true) };
        // What was begun is done again, as QEMU does after a reconnect.
        back_end.begin_at_used(&core.mem.ram);
        back_end.start(&core.mem.ram, features)?;
        back_end.kick_all()?;
        Ok(true)
    }
}
