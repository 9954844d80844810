//! Back-ends that share guest RAM, die, stop, lie, or are replaced, under a Debian kernel that uses its disk.
//!
//! The guest is a kernel `vmlinuz` and an `initrd.gz` whose init has a job `disk`: it writes 16 MiB of random bytes at 1 MiB of
//! `/dev/vda`, syncs, reads them back past its caches, and prints their MD5 sum; then 200 direct reads. REPRISE_IO_GUESTS says
//! where they are. Without them these tests fail, unless REPRISE_NO_GUESTS=1 says that they shall not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "the harness is shared with other test programs, which use more of it")]

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
