//! System behaviour: modes, exceptions, far transfers, control registers, MSRs, CPUID.
//!
//! Reading order: `mode` (what follows from the control registers), `descriptor` and `segment` (segmentation),
//! `stack`, `deliver` (exceptions and interrupts), `iret` and `far` (the ways back and across), then one file
//! a group of instructions. Every file with instructions offers `ROWS`.

pub mod debug;
pub mod deliver;
pub mod deliver_legacy;
pub mod descriptor;
pub mod interrupt;
pub mod iret;
pub mod mode;
pub mod segment;
pub mod stack;
pub mod task;
pub mod transfer;

pub mod cpuid;
