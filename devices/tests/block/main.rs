//! The block device as a process, driven over vhost-user as a guest's driver would: every operation, images made by
//! QEMU's tools, hostile and random requests, kills.
//!
//! The process is the example `device`, which `cargo test` builds beside the tests. qemu-img and qemu-io must be there.

#![allow(clippy::unwrap_used, reason = "clippy takes only #[test] functions for tests, not their helpers")]

mod device;
mod driver;
mod hostile;
mod images;
mod kills;
mod merging;
mod operations;
mod program;
mod random;
