//! The network and entropy devices as processes, driven by a vhost-user front-end made for that.
//!
//! The process is the example `device`, which `cargo test` builds beside the tests. `user` needs libslirp (package libslirp0).

#![allow(clippy::unwrap_used, reason = "clippy takes only #[test] functions for tests, not their helpers")]

mod driver;
mod hostile;
mod lab;
mod links;
mod packets;
mod rng;
mod user;
