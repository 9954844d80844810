//! What `info` shows of the machine itself: the vCPU process is asked, the text is made here, in QEMU's form.

mod cpu;
mod interrupts;
mod maps;
mod pci;

pub(super) use cpu::{mem, registers, tlb};
pub(super) use interrupts::{irq, lapic, pic};
pub(super) use maps::mtree;
pub(super) use pci::pci;
