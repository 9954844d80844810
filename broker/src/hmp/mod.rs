//! The human monitor: QEMU's commands, words and formats.
//!
//! Reading order: `session` (one conversation), `table` (one row a command), `commands` (what they do), `host` (what
//! they may ask of the run), `inquiry` (commands that ask the vCPU process), `memory` and `info` (those commands).
//! Bytes in, bytes out; the stream belongs to a device process. Only `memsave` and `pmemsave` touch a file.

pub mod args;
pub mod commands;
mod disassembly;
mod expression;
mod format;
pub mod hardware;
pub mod host;
mod info;
pub mod inquiry;
pub mod keys;
pub mod line;
mod logging;
mod memory;
mod place;
mod registers;
pub mod session;
mod snapshots;
pub mod table;
