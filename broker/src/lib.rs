//! The broker: command line, process tree, monitor, and the order of all events.
//!
//! Reading order: `cli` (what the user said), `streams` and `machine` (what is built from it), `launch` (the tree
//! of processes), `sequence` (the one loop that orders events), `hmp` (the monitor).

pub mod cli;
pub mod hmp;
pub mod host_clock;
pub mod inspect;
pub mod journal;
pub mod launch;
pub mod logging;
pub mod machine;
pub mod monitor_port;
pub mod streams;
