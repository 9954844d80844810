//! broker
pub mod inspect;
pub mod journal;
