//! Answers about a machine, for monitors. Everything here takes the machine by shared reference: nothing can change.
//!
//! Device registers whose reads have effects are read from a copy of the chipset.

mod memory;
mod registers;
mod walk;

use crate::core::Core;
use replay::inspect::{Answer, Query};

/// Answers a query; the machine stands between two instructions.
pub fn answer(core: &Core, query: Query) -> Answer {
    let now = core.clock.at(core.cpu.icount);
    match query {
        Query::Registers => Answer::Registers(Box::new(registers::registers(core))),
        Query::Memory { space, address, length } => {
            Answer::Memory(memory::read(core, space, address, length))
        }
        Query::Translate { address } => Answer::Translated(walk::translate(core, address)),
        Query::Mappings { from } => walk::mappings(core, from),
        Query::Port { port, size } => {
            // A peer may ask for any size; ports know these.
            let size = if matches!(size, 1 | 2 | 4) { size } else { 4 };
            Answer::Port(core.chipset.clone().port_read(port, size, now))
        }
        Query::Interrupts => Answer::Interrupts(Box::new(core.chipset.view_interrupts())),
        Query::LocalApic => Answer::LocalApic(Box::new(core.chipset.view_local_apic(now))),
        Query::PciFunctions => Answer::PciFunctions(core.chipset.view_pci()),
        Query::AddressMap => {
            let ends = [core.mem.ram.low_end(), core.mem.ram.high_end()];
            Answer::AddressMap(core.chipset.view_addresses(ends))
        }
    }
}
