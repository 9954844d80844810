//! Floating-point functions whose results differ between CPU vendors, in integer arithmetic.
//!
//! Nothing here touches CPU state: values in, values and exception flags out. `f80` is the register format,
//! `wide` the working format with 128 bits of significand, the rest are the functions.

pub mod approx;
pub mod f80;
pub mod log;
mod series;
pub mod trig;
pub mod wide;

pub use f80::{Class, F80, Rounding};
pub use wide::Wide;
