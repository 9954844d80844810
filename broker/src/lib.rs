//! The broker: command line, process tree, monitor, log.

pub mod demo_guest;
pub mod inspect;
pub mod journal;
