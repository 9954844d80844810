//! broker
pub mod journal;
