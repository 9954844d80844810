//! QMP, QEMU's monitor for programs: JSON objects in both directions.
//!
//! Reading order: `reader` (bytes to values), `session` (one conversation), `table` (one row a command), `commands` (what they
//! do). Bytes in, bytes out, as in `hmp`; what is asked of the run goes through the same `Host`.

mod commands;
mod queries;
mod reader;
pub mod session;
mod table;
