//! What interrupts do to a local APIC: acceptance, priority, acknowledge, EOI and the ICR (SDM 3A 11.6–11.8).

use super::interrupts::{DeliveryMode, Destination, Message, destination_8bit};
use super::lapic::{Lapic, Output, SVR_SUPPRESS_BROADCAST, error, lvt, x2apic_ldr};

/// ICR: logical destination mode.
const ICR_LOGICAL: u32 = 1 << 11;
/// ICR: level assert; clear is the INIT level de-assert.
const ICR_ASSERT: u32 = 1 << 14;
/// ICR: level trigger, which only the INIT level de-assert uses.
const ICR_LEVEL: u32 = 1 << 15;

/// Vectors below are exceptions; an interrupt message must not carry one.
const VECTOR_MIN: u8 = 16;

impl Lapic {
    /// Processor priority (SDM 3A 11.8.3.1).
    pub fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 }
    }

    /// The vector that would interrupt the CPU now.
    pub fn pending_vector(&self) -> Option<u8> {
        self.irr.highest().filter(|vector| self.is_enabled() && vector >> 4 > self.ppr() >> 4)
    }

    /// Takes the pending vector into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending_vector()?;
        self.irr.set(vector, false);
        self.isr.set(vector, true);
        Some(vector)
    }

    /// Whether the INTR line of the 8259 pair reaches the CPU: LINT0 as ExtINT, or no APIC in between.
    pub fn passes_extint(&self) -> bool {
        let lint0 = self.lvt[lvt::LINT0];
        !self.is_enabled() || lint0 & lvt::MASKED == 0 && DeliveryMode::decode(lint0) == DeliveryMode::ExtInt
    }

    /// Sets the level of the LINT0 pin, to which the 8259 pair's INTR is wired.
    pub fn set_lint0(&mut self, level: bool) {
        let rises = level && !self.lint0;
        self.lint0 = level;
        if self.lvt[lvt::LINT0] & lvt::LEVEL != 0 {
            self.poll_lint0();
        } else if rises {
            self.deliver_local(lvt::LINT0);
        }
    }

    /// Delivers a level-triggered LINT0 that is not on its way yet.
    pub(super) fn poll_lint0(&mut self) {
        let entry = self.lvt[lvt::LINT0];
        let fixed = DeliveryMode::decode(entry) == DeliveryMode::Fixed;
        let idle = entry & (lvt::MASKED | lvt::REMOTE_IRR) == 0;
        if self.lint0 && fixed && idle && entry & lvt::LEVEL != 0 && self.accept_vector(entry as u8, true) {
            self.lvt[lvt::LINT0] |= lvt::REMOTE_IRR;
        }
    }

    /// The NMI pin: LINT1, or the CPU's own pin while the APIC is off.
    pub fn raise_nmi_pin(&mut self) {
        if self.is_enabled() {
            self.deliver_local(lvt::LINT1);
        } else {
            self.signals.nmi = true;
        }
    }

    /// Delivers a local interrupt as its LVT entry says.
    pub(super) fn deliver_local(&mut self, entry: usize) {
        let register = self.lvt[entry];
        if register & lvt::MASKED != 0 {
            return;
        }
        // The timer's and the error entry's mode field is not there: they are fixed.
        let has_mode = lvt::WRITABLE[entry] & 0x700 != 0;
        let mode = if has_mode { DeliveryMode::decode(register) } else { DeliveryMode::Fixed };
        match mode {
            DeliveryMode::Fixed => {
                self.accept_vector(register as u8, false);
            }
            DeliveryMode::Nmi => self.signals.nmi = true,
            DeliveryMode::Init => self.accept_init(),
            // ExtINT is a level (`passes_extint`); there is no SMM; the rest is reserved in the LVT.
            DeliveryMode::ExtInt
            | DeliveryMode::Smi
            | DeliveryMode::LowestPriority
            | DeliveryMode::StartUp
            | DeliveryMode::Reserved => {}
        }
    }

    /// Whether a message's destination names this APIC (SDM 3A 11.6.2).
    pub fn matches(&self, destination: Destination) -> bool {
        match destination {
            Destination::All => true,
            Destination::AllExcept(cpu) => cpu != self.cpu,
            Destination::Cpu(cpu) => cpu == self.cpu,
            Destination::Physical(id) if self.is_x2apic() => id == self.apic_id(),
            Destination::Physical(id) => id == self.id_register >> 24,
            Destination::Logical(id) if self.is_x2apic() => {
                let own = x2apic_ldr(self.apic_id());
                id >> 16 == own >> 16 && id & own & 0xffff != 0
            }
            Destination::Logical(id) => match (self.dfr >> 28, self.ldr >> 24) {
                // Flat and cluster model.
                (0xf, own) => id & own != 0,
                (0, own) => id >> 4 == own >> 4 && id & own & 0xf != 0,
                _ => false,
            },
        }
    }

    /// Takes a message; false if this APIC is off and the message is lost.
    pub fn accept(&mut self, message: &Message) -> bool {
        if !self.is_enabled() {
            return false;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                return self.is_software_enabled() && self.accept_vector(message.vector, message.level);
            }
            DeliveryMode::Nmi => self.signals.nmi = true,
            DeliveryMode::Init => self.accept_init(),
            DeliveryMode::StartUp => self.signals.startup = Some(message.vector),
            // There is no SMM; ExtINT is a level that the chipset follows; the rest is reserved.
            DeliveryMode::Smi | DeliveryMode::ExtInt | DeliveryMode::Reserved => {}
        }
        true
    }

    fn accept_init(&mut self) {
        self.reset_registers();
        self.signals.init = true;
        self.signals.startup = None;
    }

    /// Puts a vector into the IRR. An illegal one is taken too, as an error.
    fn accept_vector(&mut self, vector: u8, level: bool) -> bool {
        if vector < VECTOR_MIN {
            self.report_error(error::RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.irr.set(vector, true);
            self.tmr.set(vector, level);
        }
        true
    }

    /// Notes an error and interrupts for it if it is a new one (SDM 3A 11.5.3).
    pub(super) fn report_error(&mut self, bit: u32) {
        let is_new = self.errors & bit == 0;
        self.errors |= bit;
        // An illegal vector in the error entry itself must not report for ever.
        if is_new {
            self.deliver_local(lvt::ERROR);
        }
    }

    /// Ends the highest vector in service; a level-triggered one is broadcast (SDM 3A 11.8.5).
    pub(super) fn end_of_interrupt(&mut self) {
        let Some(vector) = self.isr.highest() else { return };
        self.isr.set(vector, false);
        if !self.tmr.contains(vector) {
            return;
        }
        let lint0 = self.lvt[lvt::LINT0];
        if lint0 & lvt::REMOTE_IRR != 0 && lint0 as u8 == vector {
            self.lvt[lvt::LINT0] &= !lvt::REMOTE_IRR;
            self.poll_lint0();
        }
        if self.svr & SVR_SUPPRESS_BROADCAST == 0 {
            self.output = Some(Output::EndOfInterrupt(vector));
        }
    }

    /// Sends what the interrupt command register holds (SDM 3A 11.6.1).
    pub(super) fn send_icr(&mut self) {
        let low = self.icr as u32;
        let mode = DeliveryMode::decode(low);
        let logical = low & ICR_LOGICAL != 0;
        let destination = match low >> 18 & 3 {
            0 if self.is_x2apic() => match ((self.icr >> 32) as u32, logical) {
                (u32::MAX, _) => Destination::All,
                (id, false) => Destination::Physical(id),
                (id, true) => Destination::Logical(id),
            },
            0 => destination_8bit((self.icr >> 56) as u8, logical),
            1 => Destination::Cpu(self.cpu),
            2 => Destination::All,
            _ => Destination::AllExcept(self.cpu),
        };
        let includes_self = matches!(low >> 18 & 3, 1 | 2);
        match mode {
            // The INIT level de-assert synchronised arbitration IDs, which are gone.
            DeliveryMode::Init if low & ICR_LEVEL != 0 && low & ICR_ASSERT == 0 => return,
            // Not valid with a shorthand that includes the sender (SDM 3A table 11-3).
            DeliveryMode::Init | DeliveryMode::StartUp if includes_self => return,
            DeliveryMode::ExtInt | DeliveryMode::Reserved => return,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if (low as u8) < VECTOR_MIN => {
                self.report_error(error::SEND_ILLEGAL_VECTOR);
                return;
            }
            _ => {}
        }
        // Inter-processor interrupts are edges whatever the trigger bit says.
        self.output = Some(Output::Send(Message { destination, mode, vector: low as u8, level: false }));
    }
}
