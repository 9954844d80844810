//! The 8259A interrupt controller (Intel 231468) and the PC's pair of them.
//!
//! Edge or level is chosen per line by the ELCR registers of the PCI-to-ISA bridge, which replace the
//! LTIM bit of ICW1. As on the data sheet, a request that falls before it is acknowledged is gone, and an
//! acknowledge cycle that finds none gets input 7's vector (spurious).

use super::pci_host::PIRQ_IRQ_MASK;
use serde::{Deserialize, Serialize};

/// Where an initialisation sequence stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Init {
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}

const ICW1: u8 = 1 << 4;
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_READ_REGISTER: u8 = 1 << 1;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_SET_SPECIAL_MASK: u8 = 1 << 6;

/// Input of the master to which the slave's output is wired.
const CASCADE: u8 = 2;

/// One 8259A.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pic {
    /// Levels of the inputs.
    lines: u8,
    /// Requests: latched edges of edge inputs; level inputs follow `lines`.
    requests: u8,
    mask: u8,
    in_service: u8,
    /// Input with the lowest priority; the next one has the highest.
    lowest: u8,
    vector_base: u8,
    init: Init,
    needs_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    /// Special fully nested mode: an input in service does not hold off itself (for the cascade).
    fully_nested: bool,
    read_in_service: bool,
    poll: bool,
    /// Level-triggered inputs.
    elcr: u8,
    /// ELCR bits that are wired to zero.
    elcr_fixed: u8,
}

impl Pic {
    fn new(elcr_fixed: u8) -> Pic {
        Pic { lowest: 7, elcr_fixed, ..Pic::default() }
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let rises = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if !level {
            self.requests &= !bit;
        } else if rises || self.elcr & bit != 0 {
            self.requests |= bit;
        }
    }

    /// Steps below the highest priority of the first input in `inputs`; 8 if there is none.
    fn rank(&self, inputs: u8) -> u8 {
        inputs.rotate_right(u32::from(self.lowest + 1) & 7).trailing_zeros() as u8
    }

    fn input_of_rank(&self, rank: u8) -> u8 {
        (self.lowest + 1 + rank) & 7
    }

    /// In-service inputs that hold off others.
    fn holding(&self) -> u8 {
        if self.special_mask { self.in_service & !self.mask } else { self.in_service }
    }

    /// The input that would be acknowledged now.
    fn pending(&self) -> Option<u8> {
        if self.init != Init::Done {
            return None;
        }
        let request = self.rank(self.requests & !self.mask);
        // In special fully nested mode the slave may interrupt itself through the same cascade input.
        let holding = if self.fully_nested { self.holding() & !(1 << CASCADE) } else { self.holding() };
        (request < self.rank(holding)).then(|| self.input_of_rank(request))
    }

    /// Takes an input into service.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.requests &= !bit;
        }
        if !self.auto_eoi {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.start_init(value);
        } else if value & OCW3 != 0 {
            self.poll = value & OCW3_POLL != 0;
            if value & OCW3_READ_REGISTER != 0 {
                self.read_in_service = value & 1 != 0;
            }
            if value & OCW3_SET_SPECIAL_MASK != 0 {
                self.special_mask = value & 1 << 5 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    /// ICW1 clears the edge detectors, the mask and the modes and makes input 7 the lowest.
    fn start_init(&mut self, icw1: u8) {
        *self = Pic {
            lines: self.lines,
            requests: self.lines & self.elcr,
            elcr: self.elcr,
            vector_base: self.vector_base,
            init: Init::Icw2,
            needs_icw4: icw1 & ICW1_NEEDS_ICW4 != 0,
            single: icw1 & ICW1_SINGLE != 0,
            ..Pic::new(self.elcr_fixed)
        };
    }

    /// OCW2: rotate, specific and EOI in bits 7..5.
    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                let rank = self.rank(self.holding());
                if rank < 8 {
                    let input = self.input_of_rank(rank);
                    self.end_of_interrupt(input, value >> 5 == 5);
                }
            }
            3 | 7 => self.end_of_interrupt(named, value >> 5 == 7),
            6 => self.lowest = named,
            // 2 is "no operation".
            _ => {}
        }
    }

    fn end_of_interrupt(&mut self, input: u8, rotate: bool) {
        self.in_service &= !(1 << input);
        if rotate {
            self.lowest = input;
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.needs_icw4 { Init::Icw4 } else { Init::Done };
        match self.init {
            Init::Done => self.mask = value,
            Init::Icw2 => {
                self.vector_base = value & 0xf8;
                self.init = if self.single { after_icw3 } else { Init::Icw3 };
            }
            // The cascade is wired: ICW3 has one right value and nothing to choose.
            Init::Icw3 => self.init = after_icw3,
            Init::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.fully_nested = value & ICW4_FULLY_NESTED != 0;
                self.init = Init::Done;
            }
        }
    }

    fn read(&self, data_port: bool) -> u8 {
        match (data_port, self.read_in_service) {
            (true, _) => self.mask,
            (false, true) => self.in_service,
            (false, false) => self.requests,
        }
    }

    fn write_elcr(&mut self, value: u8) {
        self.elcr = value & !self.elcr_fixed;
        self.requests |= self.lines & self.elcr;
    }
}

/// Master at ports 0x20–0x21, slave at 0xa0–0xa1 on the master's input 2, ELCR at 0x4d0–0x4d1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PicPair {
    master: Pic,
    slave: Pic,
}

impl Default for PicPair {
    /// The pair as PC firmware leaves it: vectors from 0x08 and 0x70 on, all inputs masked, those of PCI
    /// level-triggered.
    fn default() -> PicPair {
        // IRQ 0, 1, 2, 8 and 13 are always edges.
        let left = |elcr_fixed, vector_base| Pic { mask: 0xff, vector_base, ..Pic::new(elcr_fixed) };
        let mut pair = PicPair { master: left(0b0000_0111, 0x08), slave: left(0b0010_0001, 0x70) };
        let [low, high] = PIRQ_IRQ_MASK.to_le_bytes();
        (pair.master.elcr, pair.slave.elcr) = (low, high);
        pair
    }
}

impl PicPair {
    /// Sets the level of ISA interrupt `irq` (0..=15; 2 is the cascade and has no pin).
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..=7 => self.master.set_line(irq, level),
            8..=15 => self.slave.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    /// Level of the INTR output.
    pub fn line(&self) -> bool {
        self.master.pending().is_some()
    }

    /// An interrupt acknowledge cycle: the vector, the spurious one if nothing is pending.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.pending() {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                Self::acknowledge_or_spurious(&mut self.slave)
            }
            _ => return Self::acknowledge_or_spurious(&mut self.master),
        };
        self.pulse_cascade();
        vector
    }

    fn acknowledge_or_spurious(pic: &mut Pic) -> u8 {
        let Some(input) = pic.pending() else { return pic.vector_base | 7 };
        pic.acknowledge(input);
        pic.vector_base | input
    }

    /// Carries the slave's output to the master's cascade input.
    fn cascade(&mut self) {
        self.master.set_line(CASCADE, self.slave.pending().is_some());
    }

    /// The slave's output falls at an acknowledge cycle; another request behind it is a new edge.
    fn pulse_cascade(&mut self) {
        self.master.set_line(CASCADE, false);
        self.cascade();
    }

    /// Reads a byte of the master or slave (`offset` 0 command, 1 data).
    pub fn read(&mut self, slave: bool, offset: u64) -> u8 {
        let pic = if slave { &mut self.slave } else { &mut self.master };
        if !std::mem::take(&mut pic.poll) {
            return pic.read(offset & 1 != 0);
        }
        // Poll mode: the read is the acknowledge cycle.
        let Some(input) = pic.pending() else { return 0 };
        pic.acknowledge(input);
        if slave {
            self.pulse_cascade();
        }
        0x80 | input
    }

    /// Writes a byte of the master or slave (`offset` 0 command, 1 data).
    pub fn write(&mut self, slave: bool, offset: u64, value: u8) {
        let pic = if slave { &mut self.slave } else { &mut self.master };
        if offset & 1 == 0 {
            pic.write_command(value)
        } else {
            pic.write_data(value)
        }
        self.cascade();
    }

    /// Master and slave as a monitor shows them.
    pub fn view(&self) -> [replay::inspect::Pic; 2] {
        [&self.master, &self.slave].map(|pic| replay::inspect::Pic {
            requests: pic.requests,
            mask: pic.mask,
            in_service: pic.in_service,
            highest: (pic.lowest + 1) & 7,
            vector_base: pic.vector_base,
            reads_in_service: pic.read_in_service,
            level: pic.elcr,
            fully_nested: pic.fully_nested,
        })
    }

    /// Reads ELCR1 (offset 0) or ELCR2.
    pub fn read_elcr(&self, offset: u64) -> u8 {
        if offset & 1 == 0 { self.master.elcr } else { self.slave.elcr }
    }

    /// Writes ELCR1 (offset 0) or ELCR2.
    pub fn write_elcr(&mut self, offset: u64, value: u8) {
        let pic = if offset & 1 == 0 { &mut self.master } else { &mut self.slave };
        pic.write_elcr(value);
        self.cascade();
    }
}

#[cfg(test)]
#[path = "pic_tests.rs"]
mod tests;
