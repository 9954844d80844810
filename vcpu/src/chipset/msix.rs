//! MSI-X of one function: its table, its pending bits, and when a message may go out.
//!
//! The message control register is configuration space; the owner copies it here (`set_control`). PCI Local Bus
//! Specification 3.0, section 6.8.2.

use super::bytewise;
use serde::{Deserialize, Serialize};

/// Most vectors a function can have.
pub const VECTORS_MAX: u16 = 2048;
/// Capability ID.
pub const CAPABILITY: u8 = 0x11;
/// Message control: MSI-X is on.
pub const ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const FUNCTION_MASK: u16 = 1 << 14;

/// Bytes of a table entry: address, data, vector control.
const ENTRY_SIZE: u64 = 16;
/// The smallest BAR: what lies in one page belongs to one driver.
const BAR_SIZE_MIN: u64 = 4096;

/// One table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

/// Table and pending bits as they are after a reset.
const RESET: Entry = Entry { address: 0, data: 0, masked: true, pending: false };

/// A message to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// MSI-X of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msix {
    entries: Vec<Entry>,
    enabled: bool,
    /// Messages are held: function mask, or the function may not be bus master.
    held: bool,
}

impl Msix {
    /// A table of that many vectors.
    pub fn new(vectors: u16) -> Msix {
        Msix { entries: vec![RESET; usize::from(vectors.min(VECTORS_MAX))], enabled: false, held: false }
    }

    /// Where the pending bits start in the BAR: in its second half, or after a longer table.
    fn pending_offset(vectors: u16) -> u64 {
        (ENTRY_SIZE * u64::from(vectors)).max(BAR_SIZE_MIN / 2)
    }

    /// Size of the BAR with table and pending bits.
    pub fn bar_size(vectors: u16) -> u64 {
        let pending = u64::from(vectors).div_ceil(64) * 8;
        (Msix::pending_offset(vectors) + pending).next_power_of_two().max(BAR_SIZE_MIN)
    }

    /// The capability after its id and next bytes, and what of it the guest may write.
    pub fn capability(vectors: u16, bar: u8) -> (Vec<u8>, Vec<u8>) {
        assert!((1..=VECTORS_MAX).contains(&vectors), "{vectors} MSI-X vectors");
        let control = vectors - 1;
        let table = u32::from(bar);
        let pending = Msix::pending_offset(vectors) as u32 | u32::from(bar);
        let body = [&control.to_le_bytes()[..], &table.to_le_bytes(), &pending.to_le_bytes()].concat();
        (body, (ENABLE | FUNCTION_MASK).to_le_bytes().to_vec())
    }

    /// Number of vectors.
    pub fn count(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Follows message control and the bus master bit.
    pub fn set_control(&mut self, control: u16, bus_master: bool) {
        self.enabled = control & ENABLE != 0;
        self.held = control & FUNCTION_MASK != 0 || !bus_master;
    }

    /// Whether the function interrupts by messages.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Interrupts by a vector: the message, or none while it is masked and stays pending. Other vectors are none.
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        if !self.enabled {
            return None;
        }
        let held = self.held;
        let entry = self.entries.get_mut(usize::from(vector))?;
        if held || entry.masked {
            entry.pending = true;
            return None;
        }
        Some(Message { address: entry.address, data: entry.data })
    }

    /// Takes a message that was pending and may go out now, the one of the lowest vector first.
    pub fn take_ready(&mut self) -> Option<Message> {
        if !self.enabled || self.held {
            return None;
        }
        let entry = self.entries.iter_mut().find(|entry| entry.pending && !entry.masked)?;
        entry.pending = false;
        Some(Message { address: entry.address, data: entry.data })
    }

    /// The device was reset: it has nothing to say any more.
    pub fn forget_pending(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.pending = false);
    }

    /// Reads the BAR; any size and alignment.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        bytewise::read(offset, size, |at| self.byte(at))
    }

    fn byte(&self, at: u64) -> u8 {
        if let Some(entry) = self.entries.get((at / ENTRY_SIZE) as usize) {
            let words =
                [entry.address as u32, (entry.address >> 32) as u32, entry.data, u32::from(entry.masked)];
            return (words[(at % ENTRY_SIZE / 4) as usize] >> (8 * (at % 4))) as u8;
        }
        let Some(first) = at.checked_sub(Msix::pending_offset(self.count())) else { return 0 };
        let first = first.saturating_mul(8);
        let pending = |bit: &u64| self.entries.get((first + bit) as usize).is_some_and(|entry| entry.pending);
        (0..8).filter(pending).fold(0, |byte, bit| byte | 1 << bit)
    }

    /// Writes the BAR: whole aligned words of the table. The specification leaves other accesses undefined; here
    /// they do nothing, nor do writes to the pending bits.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        let end = offset + u64::from(size);
        let mut at = offset.next_multiple_of(4);
        while at + 4 <= end {
            self.write_word(at, (value >> (8 * (at - offset))) as u32);
            at += 4;
        }
    }

    fn write_word(&mut self, at: u64, value: u32) {
        let Some(entry) = self.entries.get_mut((at / ENTRY_SIZE) as usize) else { return };
        let word = u64::from(value);
        match at % ENTRY_SIZE / 4 {
            0 => entry.address = entry.address & !0xffff_ffff | word & !3,
            1 => entry.address = entry.address & 0xffff_ffff | word << 32,
            2 => entry.data = value,
            _ => entry.masked = value & 1 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(vectors: u16) -> Msix {
        let mut msix = Msix::new(vectors);
        msix.set_control(ENABLE, true);
        for vector in 0..u64::from(vectors) {
            msix.write(16 * vector, 8, 0xfee0_1000);
            msix.write(16 * vector + 8, 8, 0x40 + vector);
        }
        msix
    }

    #[test]
    fn masked_at_reset() {
        let msix = Msix::new(3);
        assert_eq!(msix.read(0, 8), 0);
        // Vector control: mask bit set (6.8.2.9).
        assert_eq!(msix.read(8, 8), 1 << 32);
        assert_eq!(msix.read(0x2c, 4), 1);
        assert_eq!(msix.read(0x30, 4), 0, "past the table");
        assert_eq!(msix.read(0x800, 8), 0);
    }

    #[test]
    fn layout_of_table_and_pending_bits() {
        // Message control holds the number of vectors less one; offsets carry the BAR's number in bits 2:0.
        let (body, writable) = Msix::capability(3, 1);
        assert_eq!(body, [2, 0, 1, 0, 0, 0, 1, 8, 0, 0]);
        assert_eq!(writable, [0, 0xc0]);
        let sizes = [(1, 4096), (128, 4096), (254, 4096), (255, 8192), (2048, 65536)];
        for (vectors, size) in sizes {
            assert_eq!(Msix::bar_size(vectors), size, "{vectors}");
        }
        assert_eq!(Msix::capability(129, 1).0[6..], [0x11, 8, 0, 0]);
    }

    #[test]
    fn only_whole_words_are_written() {
        let mut msix = Msix::new(2);
        msix.write(0, 2, 0xffff);
        msix.write(1, 4, 0xffff_ffff);
        assert_eq!(msix.read(0, 8), 0);
        msix.write(0, 4, 0xfee0_0003);
        assert_eq!(msix.read(0, 4), 0xfee0_0000, "bits 1:0 are zero");
        msix.write(4, 4, 7);
        assert_eq!(msix.read(0, 8), 0x7_fee0_0000);
        msix.write(12, 4, 0xffff_fffe);
        assert_eq!(msix.read(12, 4), 0, "one bit of vector control exists");
        assert_eq!(msix.read(6, 2), 0);
        assert_eq!(msix.read(2, 4), 0x0007_fee0);
        msix.write(0x800, 8, u64::MAX);
        assert_eq!(msix.read(0x800, 8), 0);
        msix.write(0xffc, 8, u64::MAX);
    }

    #[test]
    fn a_masked_vector_waits() {
        let mut msix = table(70);
        let message = Message { address: 0xfee0_1000, data: 0x85 };
        assert_eq!(msix.raise(69), Some(message));
        assert_eq!(msix.raise(70), None, "no such vector");
        msix.write(16 * 69 + 12, 4, 1);
        assert_eq!(msix.raise(69), None);
        assert_eq!(msix.read(Msix::pending_offset(70), 8), 0);
        assert_eq!(msix.read(Msix::pending_offset(70) + 8, 8), 1 << 5);
        assert_eq!(msix.take_ready(), None);
        msix.write(16 * 69 + 12, 4, 0);
        assert_eq!(msix.take_ready(), Some(message));
        assert_eq!(msix.take_ready(), None);
        assert_eq!(msix.read(Msix::pending_offset(70) + 8, 8), 0);
    }

    #[test]
    fn the_function_mask_and_bus_mastering_hold_all() {
        for (control, master) in [(ENABLE | FUNCTION_MASK, true), (ENABLE, false)] {
            let mut msix = table(2);
            msix.set_control(control, master);
            assert_eq!(msix.raise(1), None);
            assert_eq!(msix.raise(0), None);
            assert_eq!(msix.read(Msix::pending_offset(2), 8), 3);
            assert_eq!(msix.take_ready(), None);
            msix.set_control(ENABLE, true);
            assert_eq!(msix.take_ready().map(|message| message.data), Some(0x40));
            assert_eq!(msix.take_ready().map(|message| message.data), Some(0x41));
            assert_eq!(msix.take_ready(), None);
        }
    }

    #[test]
    fn nothing_is_pending_while_off_or_after_a_reset() {
        let mut msix = table(1);
        msix.set_control(0, true);
        assert_eq!(msix.raise(0), None);
        msix.set_control(ENABLE, true);
        assert_eq!(msix.take_ready(), None);
        msix.write(12, 4, 1);
        msix.raise(0);
        msix.forget_pending();
        msix.write(12, 4, 0);
        assert_eq!(msix.take_ready(), None);
    }
}
