//! QMP, QEMU's monitor for programs: JSON objects in both directions.
//!
//! Reading order: `reader` (bytes to values), `session` (one conversation), `table` (one row a command), `commands`, `queries` and
//! `snapshots` (what they do), `jobs` (what goes on after the answer). Bytes in, bytes out, as in `hmp`; what is asked of the run goes
//! through the same `Host`.

mod commands;
pub mod jobs;
mod queries;
mod reader;
pub mod session;
mod snapshots;
mod table;
