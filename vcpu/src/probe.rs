//! What a debugger outside the machine waits for: breakpoints and watchpoints.
//!
//! Not machine state: no digest covers it, no event names it, and the guest cannot see it. An engine with something to look for
//! stops earlier, at places where it may stop anyway. One that goes over the past (`Quest::Note`) does not stop at all: it only
//! remembers what it met last.

use crate::core::Core;
use crate::isa::Op;
use crate::mem::ram::PAGE_SIZE;
use crate::snapshot::history::{Moment, Place};
use crate::state::seg;

/// Most breakpoints, and most watchpoints, at once.
pub const POINTS_MAX: usize = 4096;

/// Which accesses a watchpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Writes.
    Writes,
    /// Reads.
    Reads,
    /// Both.
    Both,
}

/// A watchpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// Linear address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// For which accesses.
    pub accesses: Watched,
}

impl Watchpoint {
    fn meets(&self, address: u64, length: u64, write: bool) -> bool {
        let wanted = match self.accesses {
            Watched::Writes => write,
            Watched::Reads => !write,
            Watched::Both => true,
        };
        let overlaps =
            address.wrapping_sub(self.address) < self.length || self.address.wrapping_sub(address) < length;
        wanted && overlaps
    }
}

/// What was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The next instruction has a breakpoint.
    Breakpoint {
        /// One that gdb calls a hardware breakpoint.
        hardware: bool,
    },
    /// The last instruction, or a device since, has touched what is watched.
    Watchpoint(Watchpoint),
}

/// What an engine does when it meets a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quest {
    /// It stops.
    #[default]
    Stop,
    /// It goes on.
    Pass,
    /// It goes on and remembers it.
    Note,
}

/// All that is waited for.
#[derive(Debug, Default)]
pub struct Probe {
    /// Linear addresses and whether gdb calls them hardware breakpoints, sorted. One that was set twice is there twice.
    breakpoints: Vec<(u64, bool)>,
    watchpoints: Vec<Watchpoint>,
    hit: Option<Hit>,
    /// Where the breakpoint lies at which the machine stood last: icount and address. It does not stop there again.
    stood_at: Option<(u64, u64)>,
    quest: Quest,
    /// What was met last, and the beginning of the instruction or delivery that met it.
    noted: Option<(Moment, Hit)>,
    /// Where the engine is to stop, if that is between deliveries.
    until: Option<Moment>,
    reached: bool,
    /// Events of the log that were applied.
    events: u64,
    /// Where the last of them was applied.
    event_at: Option<Place>,
    /// Deliveries since the last retired instruction, if its icount is this.
    turns: (u64, u32),
}

impl Probe {
    /// There is something to look for, or something was met.
    #[inline(always)]
    pub fn is_armed(&self) -> bool {
        let looks =
            self.quest != Quest::Pass && !(self.breakpoints.is_empty() && self.watchpoints.is_empty());
        looks || self.hit.is_some() || self.until.is_some()
    }

    /// Begins a quest, unless it goes on; what another has met is forgotten. `until`: where to stop between deliveries.
    pub fn begin(&mut self, quest: Quest, until: Option<Moment>) {
        if (quest, until) == (Quest::Stop, None) && (self.quest, self.until) == (quest, until) {
            return;
        }
        (self.quest, self.until) = (quest, until);
        (self.hit, self.noted, self.reached, self.stood_at) = (None, None, false, None);
    }

    /// `until` is reached.
    pub fn has_reached(&self) -> bool {
        self.reached
    }

    /// Takes what was met last, and where what met it begins.
    pub fn take_noted(&mut self) -> Option<(Moment, Hit)> {
        self.noted.take()
    }

    /// An event of the log is applied at `place`, as one of `events` by now.
    pub fn applies_event(&mut self, place: Place, events: u64) {
        (self.event_at, self.events) = (Some(place), events);
    }

    /// The machine is another: it stands where `events` of the log were applied.
    pub fn moved(&mut self, events: u64) {
        (self.events, self.event_at, self.turns, self.hit) = (events, None, (u64::MAX, 0), None);
    }

    /// An exception or an interrupt was delivered.
    pub fn delivered(&mut self, icount: u64) {
        self.turns =
            if self.turns.0 == icount { (icount, self.turns.1.saturating_add(1)) } else { (icount, 1) };
    }

    /// Some accesses are waited for.
    #[inline(always)]
    pub fn watches(&self) -> bool {
        !self.watchpoints.is_empty()
    }

    /// What was met, once.
    pub fn take_hit(&mut self) -> Option<Hit> {
        self.hit.take()
    }

    /// Something was met and not taken, or the end is reached.
    #[inline(always)]
    pub fn is_to_stop(&self) -> bool {
        self.hit.is_some() || self.reached
    }

    /// Sets a breakpoint; false when there are too many.
    pub fn add_breakpoint(&mut self, address: u64, hardware: bool) -> bool {
        if self.breakpoints.len() == POINTS_MAX {
            return false;
        }
        let at = self.breakpoints.partition_point(|known| *known < (address, hardware));
        self.breakpoints.insert(at, (address, hardware));
        true
    }

    /// Removes a breakpoint; false when there is none.
    pub fn remove_breakpoint(&mut self, address: u64, hardware: bool) -> bool {
        let found = self.breakpoints.binary_search(&(address, hardware)).ok();
        found.map(|at| self.breakpoints.remove(at)).is_some()
    }

    /// The breakpoint at an address: whether it is a hardware breakpoint.
    fn breakpoint_at(&self, address: u64) -> Option<bool> {
        let at = self.breakpoints.partition_point(|(known, _)| *known < address);
        self.breakpoints.get(at).filter(|(known, _)| *known == address).map(|(_, hardware)| *hardware)
    }

    /// A point is met by what begins at `moment`. True when the engine is to stop.
    fn meet(&mut self, moment: Moment, hit: Hit) -> bool {
        match self.quest {
            Quest::Stop => drop(self.hit.get_or_insert(hit)),
            Quest::Pass => {}
            // Of what one instruction meets, the first counts.
            Quest::Note if self.noted.is_some_and(|(known, _)| known == moment) => {}
            Quest::Note => self.noted = Some((moment, hit)),
        }
        self.quest == Quest::Stop
    }
}

impl Core {
    /// Sets a watchpoint; false when there are too many.
    pub fn add_watchpoint(&mut self, point: Watchpoint) -> bool {
        if self.probe.watchpoints.len() == POINTS_MAX {
            return false;
        }
        self.probe.watchpoints.push(point);
        self.watchpoints_changed();
        true
    }

    /// Removes a watchpoint; false when there is none.
    pub fn remove_watchpoint(&mut self, point: Watchpoint) -> bool {
        let found = self.probe.watchpoints.iter().position(|known| *known == point);
        if let Some(at) = found {
            self.probe.watchpoints.remove(at);
            self.watchpoints_changed();
        }
        found.is_some()
    }

    /// Looks for nothing any more.
    pub fn clear_probe(&mut self) {
        self.probe.breakpoints.clear();
        self.probe.watchpoints.clear();
        (self.probe.hit, self.probe.noted, self.probe.stood_at) = (None, None, None);
        self.watchpoints_changed();
    }

    /// To be called after any change of the watchpoints, and when RAM or translations are others.
    pub fn watchpoints_changed(&mut self) {
        self.mem.ram.watch_devices(self.probe.watches());
        let pages = |point: &Watchpoint| {
            let pages = (point.address % PAGE_SIZE + point.length).div_ceil(PAGE_SIZE);
            let first = point.address;
            (0..pages).map(move |page| first.wrapping_add(page * PAGE_SIZE))
        };
        self.cpu.tlb.watch(self.probe.watchpoints.iter().flat_map(pages));
        self.breakpoints_changed();
    }

    /// The moment that has come: between two instructions, or the beginning of the one that is executed.
    pub fn moment(&self) -> Moment {
        let icount = self.icount_now();
        let (turned_at, turn) = self.probe.turns;
        let place = Place { icount, events: self.probe.events };
        Moment { place, turn: if turned_at == icount { turn } else { 0 } }
    }

    /// The CPU is about to execute: true when it is to stop before that, for `until` or a breakpoint where it has not stood.
    pub fn meets_breakpoint(&mut self) -> bool {
        if self.probe.until.is_some_and(|until| self.moment() >= until) {
            self.probe.reached = true;
            return true;
        }
        let address = self.linear_rip();
        let Some(hardware) = self.probe.breakpoint_at(address) else { return false };
        let here = Some((self.cpu.icount, address));
        if self.probe.stood_at == here {
            return false;
        }
        if self.probe.quest == Quest::Stop {
            self.probe.stood_at = here;
        }
        self.probe.meet(self.moment(), Hit::Breakpoint { hardware })
    }

    /// The machine was taken here: a breakpoint of the next instruction does not stop it again.
    pub fn stand_here(&mut self) {
        self.probe.stood_at = Some((self.cpu.icount, self.linear_rip()));
    }

    /// How many of `ops`, which begin at RIP, come before the next breakpoint; at least one.
    #[inline(always)]
    pub fn ops_before_breakpoint(&self, ops: &[Op]) -> usize {
        let start = self.linear_rip();
        let last = start.wrapping_add(ops.last().map_or(0, |op| u64::from(op.offset)));
        let points = &self.probe.breakpoints;
        let next = points.partition_point(|(address, _)| *address <= start);
        if last >= start
            && last & self.code_mask() == last
            && points.get(next).is_none_or(|(at, _)| *at > last)
        {
            return ops.len();
        }
        self.ops_up_to_breakpoint(ops, start)
    }

    #[cold]
    fn ops_up_to_breakpoint(&self, ops: &[Op], start: u64) -> usize {
        let mask = self.code_mask();
        let address = |op: &Op| start.wrapping_add(u64::from(op.offset)) & mask;
        let before = |op: &&Op| self.probe.breakpoint_at(address(op)).is_none();
        1 + ops.iter().skip(1).take_while(before).count()
    }

    /// Linear address of the next instruction.
    pub fn linear_rip(&self) -> u64 {
        self.cpu.rip.wrapping_add(self.cpu.ea_base[seg::CS]) & self.code_mask()
    }

    /// The CPU has accessed memory.
    pub fn probe_access(&mut self, gva: u64, length: u64, write: bool) {
        let met = self.probe.watchpoints.iter().find(|point| point.meets(gva, length, write)).copied();
        if let Some(point) = met
            && self.probe.meet(self.moment(), Hit::Watchpoint(point))
        {
            self.leave_block = true;
        }
    }

    /// Looks at what devices have written since the last call.
    pub fn probe_device_writes(&mut self) {
        for (gpa, length) in self.mem.ram.take_device_writes() {
            self.probe_device_write(gpa, length);
        }
    }

    /// A device has written RAM: met are the watchpoints whose bytes lie there by the page tables of now.
    fn probe_device_write(&mut self, gpa: u64, length: u64) {
        let wanted = |point: &&Watchpoint| {
            point.accesses != Watched::Reads && self.lies_in(point.address, point.length, gpa, length)
        };
        if let Some(point) = self.probe.watchpoints.iter().find(wanted).copied() {
            self.probe.meet(self.before_device_write(), Hit::Watchpoint(point));
        }
    }

    /// Where what made a device write begins: an event that was applied here, or else the last instruction.
    fn before_device_write(&self) -> Moment {
        let icount = self.cpu.icount;
        let before = Place { icount: icount.saturating_sub(1), events: 0 };
        Moment::arrival(self.probe.event_at.filter(|place| place.icount == icount).unwrap_or(before))
    }

    /// Whether one of the bytes at a linear address lies in a range of physical ones.
    fn lies_in(&self, address: u64, length: u64, gpa: u64, gpa_length: u64) -> bool {
        let mut done = 0;
        while done < length {
            let at = address.wrapping_add(done);
            let part = (PAGE_SIZE - at % PAGE_SIZE).min(length - done);
            let inside = |first: u64| first.wrapping_sub(gpa) < gpa_length || gpa.wrapping_sub(first) < part;
            if self.look_up(at).is_some_and(inside) {
                return true;
            }
            done += part;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchpoints_meet_their_accesses_and_bytes() {
        let point = |accesses| Watchpoint { address: 0x1000, length: 4, accesses };
        for (accesses, write, read) in
            [(Watched::Writes, true, false), (Watched::Reads, false, true), (Watched::Both, true, true)]
        {
            assert_eq!(point(accesses).meets(0x1000, 4, true), write);
            assert_eq!(point(accesses).meets(0x1000, 4, false), read);
        }
        let both = point(Watched::Both);
        assert!(both.meets(0xffd, 8, true) && both.meets(0x1003, 1, false));
        assert!(!both.meets(0xfff, 1, true) && !both.meets(0x1004, 8, true));
    }

    #[test]
    fn a_breakpoint_set_twice_is_removed_twice() {
        let mut probe = Probe::default();
        assert!(!probe.is_armed() && !probe.remove_breakpoint(5, false));
        for (address, hardware) in [(9, true), (5, true), (5, false)] {
            assert!(probe.add_breakpoint(address, hardware));
        }
        assert!(!probe.remove_breakpoint(9, false), "it is of the other kind");
        assert!(probe.remove_breakpoint(5, false) && probe.breakpoint_at(5) == Some(true));
        assert!(probe.remove_breakpoint(5, true) && probe.breakpoint_at(5).is_none());
        for address in 0..POINTS_MAX as u64 {
            let room = address + 1 < POINTS_MAX as u64;
            assert_eq!(probe.add_breakpoint(address, false), room);
        }
    }
}
