//! The interrupt wiring: from device lines to the 8259 pair and the I/O APIC, from there to the local APICs.
//!
//! Lines have ISA numbers (0–15; 0 is pin 2 of the I/O APIC) or are pins of the I/O APIC (16–23: the PIRQs, to which
//! INTx of PCI functions are wired; the ISA bridge routes them to ISA interrupts of the 8259 pair as well). A line is
//! high while any of its devices drives it.

use super::Chipset;
use super::config::UARTS_MAX;
use super::interrupts::{DeliveryMode, Message};
use super::lapic::Output;
use super::{acpi_pm, i8042, rtc};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Number of interrupt lines.
pub const LINES: u8 = 24;

/// ISA interrupt of the 8254 and the HPET's timer 0 in legacy routing.
const IRQ_TIMER: u8 = 0;
/// Input of the 8259 pair's cascade: not a line.
const IRQ_CASCADE: u8 = 2;
/// Pin of the I/O APIC to which ISA interrupt 0 is wired, as the MADT's override says.
const PIN_TIMER: usize = 2;
/// Pin of the I/O APIC to which the 8259 pair's INTR is wired.
const PIN_INTR: usize = 0;

/// Pin of the I/O APIC to which PIRQA is wired; the other seven follow.
const PIN_PIRQ: u8 = 16;

/// Interrupt lines of the UARTs, by number.
const IRQ_UART: [u8; UARTS_MAX as usize] = [4, 3, 4, 3];

/// Levels of the lines, one bit each.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Lines {
    /// Driven by `Chipset::set_irq`: devices outside the chipset.
    external: u32,
    /// Levels the interrupt controllers have been told.
    routed: u32,
    /// ISA interrupts that PIRQs drive in the 8259 pair alone, as it has been told.
    routed_pirqs: u16,
    /// How often lines and ISA interrupts of PIRQs were raised: for monitors, no part of the machine's state.
    #[serde(skip)]
    raised: Raised,
}

/// Counts of edges.
#[derive(Clone, Copy, Debug, Default)]
struct Raised {
    lines: [u64; LINES as usize],
    pirqs: [u64; 16],
}

impl Lines {
    /// The interrupt controllers were reset and know no levels.
    pub(super) fn forget_routed(&mut self) {
        self.routed = 0;
        self.routed_pirqs = 0;
    }

    /// How often each line was raised, and each input of the 8259 pair.
    pub(super) fn raised(&self) -> ([u64; LINES as usize], [u64; 16]) {
        let isa = std::array::from_fn(|irq| self.raised.lines[irq] + self.raised.pirqs[irq]);
        (self.raised.lines, isa)
    }
}

/// Levels and edges that the devices drive now.
struct Driven {
    levels: u32,
    /// Lines that have risen since the last look, whatever their level is now.
    edges: u32,
    /// ISA interrupts that PIRQs drive in the 8259 pair.
    pirqs: u16,
}

impl Chipset {
    /// Sets an interrupt line: ISA interrupt 0–15 or I/O APIC pin 16–23. Others do not exist.
    pub fn set_irq(&mut self, gsi: u8, level: bool) {
        if gsi < LINES && gsi != IRQ_CASCADE {
            let bit = 1 << gsi;
            self.lines.external = if level { self.lines.external | bit } else { self.lines.external & !bit };
            self.settle();
        }
    }

    /// Delivers a message-signalled interrupt; an address outside the MSI window is no interrupt.
    pub fn deliver_msi(&mut self, address: u64, data: u32, now: Vtime) {
        self.catch_up(now);
        if let Some(message) = super::interrupts::decode_msi(address, data) {
            self.deliver(&message);
            self.settle_apics();
        }
    }

    /// What the devices of the chipset drive.
    fn driven(&mut self) -> Driven {
        let legacy = self.hpet.is_legacy();
        let levels = self.lines.external | self.hpet.lines();
        let mut driven = Driven { levels, edges: self.hpet.take_edges(), pirqs: 0 };
        // With legacy routing the HPET has taken the places of the 8254 and the RTC.
        if self.pit.take_edge() && !legacy {
            driven.edges |= 1 << IRQ_TIMER;
        }
        driven.levels |= u32::from(self.pit.line() && !legacy) << IRQ_TIMER;
        driven.levels |= u32::from(self.rtc.line() && !legacy) << rtc::IRQ;
        driven.levels |= u32::from(self.acpi_pm.line()) << acpi_pm::SCI_IRQ;
        driven.levels |= u32::from(self.i8042.line()) << i8042::KEYBOARD_IRQ;
        driven.levels |= u32::from(self.i8042.mouse_line()) << i8042::MOUSE_IRQ;
        for (uart, irq) in self.uarts.iter().zip(IRQ_UART) {
            driven.levels |= u32::from(uart.line()) << irq;
        }
        let pirqs = self.virtio.pirqs();
        if pirqs != 0 {
            driven.levels |= u32::from(pirqs) << PIN_PIRQ;
            driven.pirqs = self.pci.pirq_irqs(pirqs);
        }
        driven
    }

    /// Carries every change of a line through to the CPUs.
    pub(super) fn settle(&mut self) {
        let driven = self.driven();
        let mut changed = (driven.levels ^ self.lines.routed) | driven.edges;
        while changed != 0 {
            let line = changed.trailing_zeros() as u8;
            changed &= changed - 1;
            let level = driven.levels & 1 << line != 0;
            self.lines.raised.lines[usize::from(line)] += u64::from(level || driven.edges & 1 << line != 0);
            if driven.edges & 1 << line != 0 {
                self.route_line(line, false);
                self.route_line(line, true);
            }
            self.route_line(line, level);
        }
        self.lines.routed = driven.levels;
        if driven.pirqs != self.lines.routed_pirqs {
            self.route_pirqs(driven.pirqs);
        }
        if self.nmi_waits && !self.rtc.nmi_masked() {
            self.nmi_waits = false;
            self.lapics[0].raise_nmi_pin();
        }
        self.refresh_device_deadline();
        self.settle_apics();
    }

    fn route_line(&mut self, line: u8, level: bool) {
        if line < 16 {
            self.pic.set_irq(line, level || self.lines.routed_pirqs & 1 << line != 0);
        }
        let pin = if line == IRQ_TIMER { PIN_TIMER } else { usize::from(line) };
        self.ioapic.set_pin(pin, level);
    }

    /// The 8259 pair sees PIRQs at the IRQs to which they are routed, beside what drives the ISA line.
    fn route_pirqs(&mut self, pirqs: u16) {
        let changed = pirqs ^ self.lines.routed_pirqs;
        self.lines.routed_pirqs = pirqs;
        for irq in (0..16).filter(|irq| changed & 1 << irq != 0) {
            self.lines.raised.pirqs[usize::from(irq)] += u64::from(pirqs & 1 << irq != 0);
            self.pic.set_irq(irq, pirqs & 1 << irq != 0 || self.lines.routed & 1 << irq != 0);
        }
    }

    /// Moves what the interrupt controllers hold towards the CPUs and keeps the cached answers.
    pub(super) fn settle_apics(&mut self) {
        for cpu in 0..self.lapics.len() {
            match self.lapics[cpu].take_output() {
                Some(Output::EndOfInterrupt(vector)) => self.ioapic.end_of_interrupt(vector),
                Some(Output::Send(message)) => {
                    self.deliver(&message);
                }
                None => {}
            }
        }
        let intr = self.pic.line();
        self.lapics[0].set_lint0(intr);
        self.ioapic.set_pin(PIN_INTR, intr);
        let mut pin = 0;
        while let Some((ready, message)) = self.ioapic.next_message(pin) {
            if self.deliver(&message) {
                self.ioapic.accepted(ready);
            }
            pin = ready + 1;
        }
        self.refresh();
    }

    /// Gives a message to its receivers; false if there is none.
    fn deliver(&mut self, message: &Message) -> bool {
        let receivers = self.lapics.iter_mut().filter(|lapic| lapic.matches(message.destination));
        if message.mode != DeliveryMode::LowestPriority {
            // Every receiver gets it, so no short circuit.
            return receivers.fold(false, |any, lapic| lapic.accept(message) | any);
        }
        let ready = receivers.filter(|lapic| lapic.is_software_enabled());
        ready.min_by_key(|lapic| lapic.ppr()).is_some_and(|lapic| lapic.accept(message))
    }

    /// Whether the 8259 pair interrupts a CPU: by LINT0 of the first, or by pin 0 of the I/O APIC.
    pub(super) fn extint_pending(&self, cpu: usize) -> bool {
        self.pic.line()
            && (cpu == 0 && self.lapics[0].passes_extint()
                || self.ioapic.extint().is_some_and(|to| self.lapics[cpu].matches(to)))
    }
}
