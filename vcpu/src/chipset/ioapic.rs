//! The I/O APIC: 24 pins and their redirection table (Intel 290566, ICH9 data sheet 13.5 for EOI).
//!
//! Pin 0 is wired to the 8259 pair's INTR, pin 2 to the 8254 or HPET, pin n to ISA interrupt n, pins 16–23
//! to PCI. Pins are active here whatever the polarity bit says: the board's wiring matches it.

use super::interrupts::{DeliveryMode, Destination, Message, destination_8bit, mode_has_trigger};
use serde::{Deserialize, Serialize};

/// Number of pins.
pub const PINS: usize = 24;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const INDEX_ID: u8 = 0x00;
const INDEX_VERSION: u8 = 0x01;
const INDEX_ARBITRATION: u8 = 0x02;
const INDEX_TABLE: u8 = 0x10;

/// Version 0x20 has the EOI register.
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x20;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;
/// All but delivery status (bit 12), remote IRR and the reserved bits.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// State of the I/O APIC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IoApic {
    select: u8,
    id: u32,
    table: [u64; PINS],
    /// Levels of the pins, one bit each.
    lines: u32,
    /// Edges waiting to be sent.
    edges: u32,
}

impl Default for IoApic {
    fn default() -> IoApic {
        IoApic { select: 0, id: 0, table: [MASKED; PINS], lines: 0, edges: 0 }
    }
}

impl IoApic {
    /// Reads 32 bits; `offset` is into the page.
    pub fn read(&self, offset: u64) -> u32 {
        match offset & 0xff {
            SELECT => u32::from(self.select),
            WINDOW => self.read_indexed(),
            _ => 0,
        }
    }

    /// Writes 32 bits; `offset` is into the page.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset & 0xff {
            SELECT => self.select = value as u8,
            WINDOW => self.write_indexed(value),
            EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    fn read_indexed(&self) -> u32 {
        match self.select {
            INDEX_ID | INDEX_ARBITRATION => self.id,
            INDEX_VERSION => VERSION,
            index => match self.entry_of(index) {
                Some((pin, shift)) => (self.table[pin] >> shift) as u32,
                None => 0,
            },
        }
    }

    fn write_indexed(&mut self, value: u32) {
        if self.select == INDEX_ID {
            self.id = value & 0x0f00_0000;
        }
        let Some((pin, shift)) = self.entry_of(self.select) else { return };
        let mask = (0xffff_ffff << shift) & WRITABLE;
        let entry = self.table[pin] & !mask | u64::from(value) << shift & mask;
        // Remote IRR belongs to level-triggered entries; turning to edge clears it.
        self.table[pin] = if entry & LEVEL == 0 { entry & !REMOTE_IRR } else { entry };
    }

    /// Pin and bit position of a table index.
    fn entry_of(&self, index: u8) -> Option<(usize, u32)> {
        let register = usize::from(index.checked_sub(INDEX_TABLE)?);
        (register < 2 * PINS).then_some((register / 2, 32 * (register as u32 & 1)))
    }

    /// Sets the level of a pin. An edge on a masked pin is lost, as the data sheet says.
    pub fn set_pin(&mut self, pin: usize, level: bool) {
        let bit = 1 << pin;
        let rises = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if rises && self.table[pin] & MASKED == 0 && !is_level(self.table[pin]) {
            self.edges |= bit;
        }
    }

    /// Whether a pin has something to send: an edge, or a level that is not at a local APIC yet.
    fn is_ready(&self, pin: usize) -> bool {
        let (entry, bit) = (self.table[pin], 1 << pin);
        if entry & MASKED != 0 {
            return false;
        }
        if is_level(entry) { self.lines & bit != 0 && entry & REMOTE_IRR == 0 } else { self.edges & bit != 0 }
    }

    /// The message of the first ready pin at or after `pin`, and that pin.
    pub fn next_message(&mut self, pin: usize) -> Option<(usize, Message)> {
        let pin = (pin..PINS).find(|&pin| self.is_ready(pin))?;
        self.edges &= !(1 << pin);
        let entry = self.table[pin];
        let mode = match DeliveryMode::decode(entry as u32) {
            // Start-up is an encoding of the ICR only.
            DeliveryMode::StartUp => DeliveryMode::Reserved,
            mode => mode,
        };
        let level = is_level(entry);
        let destination = destination_8bit((entry >> 56) as u8, entry & LOGICAL != 0);
        Some((pin, Message { destination, mode, vector: entry as u8, level }))
    }

    /// Notes that a local APIC has taken a pin's message: a level waits for its EOI.
    pub fn accepted(&mut self, pin: usize) {
        if is_level(self.table[pin]) {
            self.table[pin] |= REMOTE_IRR;
        }
    }

    /// An EOI, broadcast or written: level entries with this vector may be sent again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.table {
            if *entry & LEVEL != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// Adds what a monitor shows of it.
    pub fn view(&self, into: &mut replay::inspect::Interrupts) {
        (into.ioapic_id, into.ioapic_select) = (self.id, self.select);
        into.ioapic_table = self.table.to_vec();
        let levels = (0..PINS).filter(|&pin| is_level(self.table[pin]));
        let levels = levels.fold(0, |pins, pin| pins | self.lines & 1 << pin);
        into.ioapic_requests = self.edges | levels;
    }

    /// Whether pin 0 passes the 8259 pair's INTR on as ExtINT, and to whom.
    pub fn extint(&self) -> Option<Destination> {
        let entry = self.table[0];
        let wired = entry & MASKED == 0 && DeliveryMode::decode(entry as u32) == DeliveryMode::ExtInt;
        wired.then(|| destination_8bit((entry >> 56) as u8, entry & LOGICAL != 0))
    }
}

/// Whether an entry is level-triggered; NMI, INIT and ExtINT are edges whatever their bit says.
fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && mode_has_trigger(DeliveryMode::decode(entry as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_entry(ioapic: &mut IoApic, pin: u32, entry: u64) {
        for (i, half) in [entry as u32, (entry >> 32) as u32].into_iter().enumerate() {
            ioapic.write(SELECT, 0x10 + 2 * pin + i as u32);
            ioapic.write(WINDOW, half);
        }
    }

    fn read_low(ioapic: &mut IoApic, pin: u32) -> u32 {
        ioapic.write(SELECT, 0x10 + 2 * pin);
        ioapic.read(WINDOW)
    }

    #[test]
    fn registers_read_as_the_data_sheet_says() {
        let mut ioapic = IoApic::default();
        ioapic.write(SELECT, 1);
        assert_eq!(ioapic.read(WINDOW), 0x0017_0020);
        ioapic.write(SELECT, 0);
        ioapic.write(WINDOW, 0xffff_ffff);
        assert_eq!(ioapic.read(WINDOW), 0x0f00_0000);
        assert_eq!(read_low(&mut ioapic, 5), 0x1_0000);
        write_entry(&mut ioapic, 5, u64::MAX);
        assert_eq!(read_low(&mut ioapic, 5), 0x1_afff);
        assert_eq!(ioapic.read(WINDOW), 0x1_afff);
        ioapic.write(SELECT, 0x40);
        assert_eq!(ioapic.read(WINDOW), 0, "past the table");
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_when_masked() {
        let mut ioapic = IoApic::default();
        ioapic.set_pin(4, true);
        write_entry(&mut ioapic, 4, 0x0100_0000_0000_0034);
        assert_eq!(ioapic.next_message(0), None);
        ioapic.set_pin(4, false);
        ioapic.set_pin(4, true);
        let (pin, message) = ioapic.next_message(0).expect("an edge");
        assert_eq!((pin, message.vector, message.level), (4, 0x34, false));
        assert_eq!(message.destination, Destination::Physical(1));
        ioapic.accepted(4);
        assert_eq!(ioapic.next_message(0), None);
    }

    #[test]
    fn a_level_is_sent_again_after_its_eoi() {
        let mut ioapic = IoApic::default();
        write_entry(&mut ioapic, 20, 0x0000_0000_0000_8850);
        ioapic.set_pin(20, true);
        let (_, message) = ioapic.next_message(0).expect("a level");
        assert_eq!((message.level, message.destination), (true, Destination::Logical(0)));
        ioapic.accepted(20);
        assert_eq!(read_low(&mut ioapic, 20) & REMOTE_IRR as u32, REMOTE_IRR as u32);
        assert_eq!(ioapic.next_message(0), None);
        ioapic.write(EOI, 0x51);
        assert_eq!(ioapic.next_message(0), None, "another vector");
        ioapic.write(EOI, 0x50);
        assert!(ioapic.next_message(0).is_some());
        ioapic.accepted(20);
        ioapic.set_pin(20, false);
        ioapic.end_of_interrupt(0x50);
        assert_eq!(ioapic.next_message(0), None);
    }

    #[test]
    fn turning_to_edge_clears_remote_irr() {
        let mut ioapic = IoApic::default();
        write_entry(&mut ioapic, 9, 0x8031);
        ioapic.set_pin(9, true);
        assert!(ioapic.next_message(0).is_some());
        ioapic.accepted(9);
        write_entry(&mut ioapic, 9, 0x1_0031);
        write_entry(&mut ioapic, 9, 0x8031);
        assert!(ioapic.next_message(0).is_some());
    }
}
