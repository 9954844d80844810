//! Interrupt messages: what I/O APIC, MSI and inter-processor interrupts say to local APICs.
//!
//! One shape for all three, decoded once here; `Chipset` finds the receivers.

use serde::{Deserialize, Serialize};

/// How a message is to be delivered (SDM 3A 11.6.1, ICR bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// The vector of the message, at all receivers.
    Fixed,
    /// The vector of the message, at the receiver with the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up: the vector is the page of the first instruction.
    StartUp,
    /// The vector comes from the 8259 pair.
    ExtInt,
    /// An encoding the manual reserves; nothing is delivered.
    Reserved,
}

impl DeliveryMode {
    /// Decodes bits 10:8 of an LVT entry, redirection entry, MSI data or ICR. 110b is start-up only in the ICR.
    pub fn decode(register: u32) -> DeliveryMode {
        match register >> 8 & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::StartUp,
            7 => DeliveryMode::ExtInt,
            _ => DeliveryMode::Reserved,
        }
    }
}

/// Which local APICs a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// Every local APIC.
    All,
    /// Every local APIC but that of this CPU index.
    AllExcept(usize),
    /// The local APIC of this CPU index.
    Cpu(usize),
    /// The one with this APIC ID.
    Physical(u32),
    /// Those whose logical ID matches (LDR and DFR, or the x2APIC's cluster).
    Logical(u32),
}

/// One interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Receivers.
    pub destination: Destination,
    /// What it asks for.
    pub mode: DeliveryMode,
    /// Interrupt vector, where the mode has one.
    pub vector: u8,
    /// Level-triggered: its EOI is broadcast to the I/O APIC.
    pub level: bool,
}

/// Decodes an 8-bit destination of an I/O APIC, MSI or xAPIC message; 0xff is a broadcast.
pub fn destination_8bit(id: u8, logical: bool) -> Destination {
    match (id, logical) {
        (0xff, _) => Destination::All,
        (_, false) => Destination::Physical(u32::from(id)),
        (_, true) => Destination::Logical(u32::from(id)),
    }
}

/// Decodes a write to the MSI window (SDM 3A 11.11); none if the address is not in it.
pub fn decode_msi(address: u64, data: u32) -> Option<Message> {
    if address >> 20 != 0xfee {
        return None;
    }
    let logical = address & 1 << 2 != 0;
    let redirect = address & 1 << 3 != 0;
    let mode = match DeliveryMode::decode(data) {
        // The redirection hint asks for one receiver of the logical set.
        DeliveryMode::Fixed if redirect && logical => DeliveryMode::LowestPriority,
        // Start-up is an ICR encoding; in MSI data it is reserved.
        DeliveryMode::StartUp => DeliveryMode::Reserved,
        mode => mode,
    };
    Some(Message {
        destination: destination_8bit((address >> 12) as u8, logical),
        mode,
        vector: data as u8,
        level: data & 1 << 15 != 0 && mode_has_trigger(mode),
    })
}

/// Whether the trigger mode means anything; NMI, INIT and the like are always edges (SDM 3A 11.5.1).
pub fn mode_has_trigger(mode: DeliveryMode) -> bool {
    matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields_are_where_the_manual_puts_them() {
        let message = decode_msi(0xfee0_3000, 0x0041).expect("in the window");
        assert_eq!(message.destination, Destination::Physical(3));
        assert_eq!((message.mode, message.vector, message.level), (DeliveryMode::Fixed, 0x41, false));
        let message = decode_msi(0xfee0_100c, 0xc141).expect("in the window");
        assert_eq!(message.destination, Destination::Logical(1));
        assert_eq!((message.mode, message.level), (DeliveryMode::LowestPriority, true));
        assert_eq!(decode_msi(0xfeef_f000, 0x400).expect("in the window").destination, Destination::All);
        assert_eq!(decode_msi(0xfec0_0000, 0), None);
    }
}
