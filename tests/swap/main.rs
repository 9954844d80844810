//! Back-ends that share guest RAM, die, stop, lie, or are replaced, under a Debian kernel that uses its disk.
//!
//! The guest is the cloud kernel of `tests/guests/fetch.sh` with the job `sectors`: it writes 16 MiB of random bytes at 1 MiB of
//! `/dev/vda`, syncs, reads them back past its caches, and prints their MD5 sum; then 200 direct reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "the harness is shared with other test programs, which use more of it")]

#[path = "../program/debian.rs"]
mod debian;
mod disk;
mod foreign;
#[path = "../machine/guests.rs"]
mod guests;
#[path = "../program/lab.rs"]
mod lab;
mod liar;
#[path = "../program/monitor_client.rs"]
mod monitor_client;
#[path = "../program/process.rs"]
mod process;
mod restart;
mod shared;
mod stalled;
mod streams;
