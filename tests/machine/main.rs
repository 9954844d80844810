//! The whole program: whole machines, booted, recorded, replayed, killed, damaged, typed at.
//!
//! Every test drives the real binary on guests that are made here or are part of the program. Reading order: `lab` (one
//! test's directory and children), `guests`, then the tests by subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "the harness is shared with other test programs, which use more of it")]

mod backwards;
mod bad_input;
mod damage;
mod debugger;
mod disks;
mod endings;
mod field;
mod guests;
mod input;
mod killed;
#[path = "../program/lab.rs"]
mod lab;
mod load;
mod logging;
mod monitor;
#[path = "../program/monitor_client.rs"]
mod monitor_client;
mod monitor_machine;
#[path = "../program/process.rs"]
mod process;
mod progress;
mod qmp;
#[path = "../program/qmp_client.rs"]
mod qmp_client;
mod replaying;
mod seeking;
mod snapshots;
mod stub;
