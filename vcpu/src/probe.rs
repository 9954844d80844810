//! What a debugger outside the machine waits for: breakpoints and watchpoints.
//!
//! Not machine state: no digest covers it, no event names it, and the guest cannot see it. An engine with something to look for
//! stops earlier, at places where it may stop anyway.

use crate::core::Core;
use crate::isa::Op;
use crate::mem::ram::PAGE_SIZE;
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

/// All that is waited for.
#[derive(Debug, Default)]
pub struct Probe {
    /// Linear addresses and whether gdb calls them hardware breakpoints, sorted. One that was set twice is there twice.
    breakpoints: Vec<(u64, bool)>,
    watchpoints: Vec<Watchpoint>,
    hit: Option<Hit>,
    /// Where the breakpoint lies at which the machine stood last: icount and address. It does not stop there again.
    stood_at: Option<(u64, u64)>,
}

impl Probe {
    /// There is something to look for, or something was met.
    #[inline(always)]
    pub fn is_armed(&self) -> bool {
        !self.breakpoints.is_empty() || !self.watchpoints.is_empty() || self.hit.is_some()
    }

    /// Some accesses are waited for.
    pub fn watches(&self) -> bool {
        !self.watchpoints.is_empty()
    }

    /// What was met, once.
    pub fn take_hit(&mut self) -> Option<Hit> {
        self.hit.take()
    }

    /// Something was met and not taken.
    #[inline(always)]
    pub fn has_hit(&self) -> bool {
        self.hit.is_some()
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

    fn note(&mut self, hit: Hit) {
        self.hit.get_or_insert(hit);
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
        self.probe = Probe::default();
        self.watchpoints_changed();
    }

    /// To be called after any change of the watchpoints, and when RAM is another.
    pub fn watchpoints_changed(&mut self) {
        self.mem.ram.watch_devices(self.probe.watches());
        self.breakpoints_changed();
    }

    /// The CPU is about to execute: true when there is a breakpoint and the CPU has not stood there already.
    pub fn meets_breakpoint(&mut self) -> bool {
        let address = self.linear_rip();
        let here = Some((self.cpu.icount, address));
        let Some(hardware) = self.probe.breakpoint_at(address) else { return false };
        if self.probe.stood_at == here {
            return false;
        }
        self.probe.stood_at = here;
        self.probe.note(Hit::Breakpoint { hardware });
        true
    }

    /// How many of `ops`, which begin at RIP, come before the next breakpoint; at least one.
    pub fn ops_before_breakpoint(&self, ops: &[Op]) -> usize {
        let start = self.linear_rip();
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
        if let Some(point) = met {
            self.probe.note(Hit::Watchpoint(point));
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
        let points = std::mem::take(&mut self.probe.watchpoints);
        let met = points.iter().find(|point| {
            point.accesses != Watched::Reads && self.lies_in(point.address, point.length, gpa, length)
        });
        if let Some(point) = met {
            self.probe.note(Hit::Watchpoint(*point));
        }
        self.probe.watchpoints = points;
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
