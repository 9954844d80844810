//! System behaviour: modes, exceptions, far transfers, control registers, MSRs, CPUID.
//!
//! Reading order: `mode` (what follows from the control registers), `descriptor` and `segment` (segmentation),
//! `stack`, `deliver` (exceptions and interrupts), `iret` and `far` (the ways back and across), then one file
//! a group of instructions. Every file with instructions offers `ROWS`.

pub mod apic_msr;
pub mod call_gate;
pub mod control;
pub mod debug;
pub mod deliver;
pub mod deliver_legacy;
pub mod descriptor;
pub mod entropy;
pub mod far;
pub mod flags;
pub mod interrupt;
pub mod iret;
pub mod mode;
pub mod msr;
pub mod mtrr;
pub mod privileged;
pub mod reset;
pub mod segment;
pub mod segment_ops;
pub mod stack;
pub mod syscall;
pub mod tables;
pub mod task;
pub mod transfer;
pub mod tsc;

pub mod cpuid;

#[cfg(test)]
mod tests;

use crate::isa::Row;

/// The rows of all families of system instructions.
pub const ROWS: &[&[Row]] = &[
    control::ROWS,
    cpuid::leaves::ROWS,
    debug::ROWS,
    entropy::ROWS,
    far::ROWS,
    flags::ROWS,
    interrupt::ROWS,
    iret::ROWS,
    msr::ROWS,
    privileged::ROWS,
    segment_ops::ROWS,
    syscall::ROWS,
    tables::ROWS,
    tsc::ROWS,
];
