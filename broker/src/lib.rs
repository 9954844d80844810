//! broker

pub mod demo_guest;
