//! Floating-point functions whose results differ between CPU vendors, in integer arithmetic.
//!
//! Nothing here touches CPU state: values in, values and exception flags out. `f80` is the register format,
//! `wide` the working format with 128 bits of significand, the rest are the functions.

pub(crate) mod approx;
pub(crate) mod f80;
pub(crate) mod log;
mod series;
pub(crate) mod trig;
pub(crate) mod wide;

pub(crate) use f80::{Class, F80, Rounding};
pub(crate) use wide::Wide;
