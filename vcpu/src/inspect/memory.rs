//! Memory as a monitor reads it: RAM, and device registers as a read would give them.

use super::walk;
use crate::chipset::Chipset;
use crate::core::Core;
use crate::mem::ram::PAGE_SIZE;
use replay::inspect::{MEMORY_BYTES_MAX, Space};
use replay::time::Vtime;

/// The bytes from `address` on, up to the first that cannot be read.
pub fn read(core: &Core, space: Space, address: u64, length: u32) -> Vec<u8> {
    let length = u64::from(length.min(MEMORY_BYTES_MAX));
    let mut reader = Reader { core, now: core.clock.at(core.cpu.icount), devices: None };
    let (mut bytes, mut done) = (vec![], 0);
    while done < length {
        let at = address.wrapping_add(done);
        let part = (PAGE_SIZE - at % PAGE_SIZE).min(length - done);
        let physical = match space {
            Space::Virtual => walk::translate(core, at),
            Space::Physical => Some(at),
        };
        let Some(physical) = physical else { break };
        if !reader.read_in_page(physical, part, &mut bytes) {
            break;
        }
        done += part;
    }
    bytes
}

struct Reader<'a> {
    core: &'a Core,
    now: Vtime,
    /// A copy: reads of registers may have effects.
    devices: Option<Box<Chipset>>,
}

impl Reader<'_> {
    /// Reads bytes of one page; false if not all could be read.
    fn read_in_page(&mut self, physical: u64, length: u64, into: &mut Vec<u8>) -> bool {
        let end = into.len();
        into.resize(end + length as usize, 0);
        if self.core.mem.ram.read_bytes(physical, &mut into[end..]) {
            return true;
        }
        into.truncate(end);
        let Some(after) = physical.checked_add(length) else { return false };
        let mut at = physical;
        while at < after {
            let size = (1u64 << at.trailing_zeros().min(2)).min(after - at);
            let size = if size == 3 { 1 } else { size };
            if !self.core.chipset.answers_at(at) {
                return false;
            }
            let devices = self.devices.get_or_insert_with(|| Box::new(self.core.chipset.clone()));
            let value = devices.mmio_read(at, size as u8, self.now);
            into.extend(&value.to_le_bytes()[..size as usize]);
            at += size;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::power_on;

    #[test]
    fn ram_ends_and_devices_answer() {
        let machine = replay::machine::Machine { ram_bytes: 4 << 20, ..replay::manifest::example().machine };
        let mut core = power_on::bare(&machine).unwrap();
        core.mem.ram.set(0x1ffe, 0x0403_0201u32.to_le());
        assert_eq!(read(&core, Space::Physical, 0x1ffe, 4), [1, 2, 3, 4]);
        assert_eq!(read(&core, Space::Physical, (4 << 20) - 0x1000, 0x2000).len(), 0x1000);
        assert_eq!(read(&core, Space::Physical, 0xd000_0000, 4), [0; 0]);
        // The version register of the local APIC; of its word the first byte alone, too.
        assert_eq!(read(&core, Space::Physical, 0xfee0_0030, 4), [0x14, 0, 5, 1]);
        assert_eq!(read(&core, Space::Physical, 0xfee0_0031, 3), [0, 5, 1]);
        assert_eq!(read(&core, Space::Physical, u64::MAX - 1, 4), [0; 0]);
        let all = read(&core, Space::Physical, 0, u32::MAX);
        assert_eq!(all.len(), MEMORY_BYTES_MAX as usize);
    }
}
