//! The vocabulary all reprise processes share: positions, events, lane, log, manifest.
//!
//! Invariant: nothing here decides when to do input or output; callers do. Nothing here reads a clock.

pub mod codec;
pub mod event;
pub mod lane;
pub mod machine;
pub mod message;
pub mod setup;
pub mod time;
