//! The vocabulary all reprise processes share: positions, events, lane, log, manifest.
//!
//! Invariant: nothing here decides when to do input or output; callers do. Nothing here reads a clock.

pub mod branch;
pub mod clusters;
pub mod codec;
pub mod confine;
pub mod device;
pub mod difference;
pub mod digest;
pub mod event;
pub mod handover;
pub mod inherit;
pub mod inspect;
pub mod lane;
pub mod log;
pub mod machine;
pub mod manifest;
pub mod message;
pub mod recording;
pub mod setup;
pub mod store;
pub mod time;
