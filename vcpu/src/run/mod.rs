//! The loop that orders everything by icount: timers, events, instructions.
//!
//! `machine` is the guest; `inputs` says what comes from outside and when, in two forms: `live` (from the
//! host, journaled) and `playback` (from the log). `process` is the entry of `reprise vcpu`.

pub mod answers;
mod backwards;
mod comparison;
pub mod connect;
pub mod consoles;
pub mod digest;
pub mod error;
mod incoming;
pub mod inputs;
pub mod live;
mod live_saves;
pub mod machine;
pub mod pace;
mod patience;
pub mod playback;
mod playback_control;
mod playback_saves;
pub mod power_on;
pub mod process;
pub mod save;
pub mod saves;
mod seek;
mod silence;
mod stall;
pub mod vtime;
