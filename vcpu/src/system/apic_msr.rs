//! What MSRs and CR8 reach of the local APIC: the seam between CPU and chipset.

use crate::core::Core;
use crate::fault::Fault;

impl Core {
    /// IA32_APIC_BASE.
    pub(super) fn apic_base(&self) -> u64 {
        todo!("wired when the chipset lands")
    }

    /// Writes IA32_APIC_BASE; #GP for reserved bits and transitions that SDM 3A 10.12.5 forbids.
    pub(super) fn set_apic_base(&mut self, _value: u64) -> Result<(), Fault> {
        todo!("wired when the chipset lands")
    }

    /// An x2APIC register by MSR number, 800H…8FFH; #GP where there is none or the APIC is not in x2APIC mode.
    pub(super) fn x2apic_read(&mut self, _number: u32) -> Result<u64, Fault> {
        todo!("wired when the chipset lands")
    }

    /// Writes an x2APIC register.
    pub(super) fn x2apic_write(&mut self, _number: u32, _value: u64) -> Result<(), Fault> {
        todo!("wired when the chipset lands")
    }

    /// IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&self) -> u64 {
        todo!("wired when the chipset lands")
    }

    /// Arms or disarms the TSC deadline timer.
    pub(super) fn set_tsc_deadline(&mut self, _value: u64) {
        todo!("wired when the chipset lands")
    }

    /// `cpu.msr.tsc_offset` changed: a TSC deadline comes earlier or later.
    pub(super) fn tsc_offset_changed(&mut self) {
        todo!("wired when the chipset lands")
    }

    /// The task-priority register, bits 0…7; CR8 is its upper half.
    pub(super) fn task_priority(&self) -> u64 {
        todo!("wired when the chipset lands")
    }

    /// Writes the task-priority register; an interrupt may become due.
    pub(super) fn set_task_priority(&mut self, _value: u64) {
        todo!("wired when the chipset lands")
    }
}
