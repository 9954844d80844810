//! The human monitor: QEMU's commands, words and formats.
//!
//! Reading order: `session` (one conversation), `table` (one row a command), `commands` (what they do), `host` (what
//! they may ask of the run). Pure: bytes in, bytes out; the stream belongs to a device process.

pub mod args;
pub mod commands;
pub mod hardware;
pub mod host;
pub mod keys;
pub mod line;
pub mod session;
mod snapshots;
pub mod table;
