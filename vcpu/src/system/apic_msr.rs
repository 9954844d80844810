//! What MSRs and CR8 reach of the local APIC: the seam between CPU and chipset.
//!
//! Every write here may make an interrupt due or move a deadline, so the block ends after it.

use crate::core::Core;
use crate::fault::Fault;

impl Core {
    /// IA32_APIC_BASE.
    pub(super) fn apic_base(&self) -> u64 {
        self.chipset.apic_base()
    }

    /// Writes IA32_APIC_BASE; #GP for reserved bits and transitions that SDM 3A 10.12.5 forbids.
    pub(super) fn set_apic_base(&mut self, value: u64) -> Result<(), Fault> {
        self.use_device();
        self.chipset.set_apic_base(value)
    }

    /// An x2APIC register by MSR number, 800H…8FFH; #GP where there is none or the APIC is not in x2APIC mode.
    pub(super) fn x2apic_read(&mut self, number: u32) -> Result<u64, Fault> {
        let now = self.vtime_now();
        self.chipset.x2apic_read(number, now).ok_or(Fault::gp(0))
    }

    /// Writes an x2APIC register.
    pub(super) fn x2apic_write(&mut self, number: u32, value: u64) -> Result<(), Fault> {
        self.use_device();
        let now = self.vtime_now();
        if self.chipset.x2apic_write(number, value, now) { Ok(()) } else { Err(Fault::gp(0)) }
    }

    /// IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.chipset.tsc_deadline(self.vtime_now())
    }

    /// Arms or disarms the TSC deadline timer.
    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        self.use_device();
        let now = self.vtime_now();
        self.chipset.set_tsc_deadline(value, self.cpu.msr.tsc_offset, now);
    }

    /// `cpu.msr.tsc_offset` changed: a TSC deadline comes earlier or later.
    pub(super) fn tsc_offset_changed(&mut self) {
        self.use_device();
        let now = self.vtime_now();
        self.chipset.tsc_changed(self.cpu.msr.tsc_offset, now);
    }

    /// The task-priority register as CR8 shows it: its upper half, in bits 4…7.
    pub(super) fn task_priority(&self) -> u64 {
        u64::from(self.chipset.cr8()) << 4
    }

    /// Writes the task-priority register; an interrupt may become due.
    pub(super) fn set_task_priority(&mut self, value: u64) {
        self.use_device();
        self.chipset.set_cr8((value >> 4) as u8 & 15);
    }
}
