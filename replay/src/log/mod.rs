//! The log: the journal on disk, `events.log` of a recording. Format: docs/log-format.md.
//!
//! A file header, then blocks. Each block is complete in itself: a header of 40 bytes with its own checksum, which is
//! chained to the block before, and a payload with its own checksum. So
//!
//! - a writer that is killed loses what it had not flushed, nothing else; no footer is needed;
//! - a file cut at any byte is told apart from a damaged one: a cut block is *short*, a damaged one is whole and *wrong*;
//! - every single changed byte is found (a CRC32 finds every error burst of up to 32 bits), and no event of a block is
//!   handed out before all of the block was checked.
//!
//! When to flush is the caller's decision; nothing here looks at a clock.

mod format;
mod reader;
mod writer;

pub use format::{FILE_HEADER_BYTES, VERSION};
pub use reader::{Entry, Reader, Step, Survey, survey};
pub use writer::{Storage, Writer};

use crate::time::Icount;
use std::fmt;
use std::io;
use thiserror::Error;

/// How a log ends, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its End event: the recording was finished.
    Finished {
        /// Where the run ended.
        icount: Icount,
    },
    /// Without: the writer was killed or could not write on. Everything before is good.
    Cut {
        /// File offset behind the last whole block.
        at_offset: u64,
        /// The run is known to have reached this instruction count.
        last_icount: Icount,
    },
    /// At a block that is whole but wrong. Everything before is good.
    Damaged(Damage),
}

/// A block that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File offset of the block.
    pub offset: u64,
    /// Number of the block, from 0.
    pub block: u32,
    /// Events up to here are good.
    pub from: Icount,
    /// Events up to here are affected; unknown if the block's header is damaged.
    pub to: Option<Icount>,
    /// What does not fit.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the log is damaged at offset {} (block {}, instructions {} to ",
            self.offset, self.block, self.from
        )?;
        match self.to {
            Some(to) => write!(f, "{to}): {}", self.what),
            None => write!(f, "unknown): {}", self.what),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Finished { icount } => write!(f, "the log is complete and ends at instruction {icount}"),
            Ending::Cut { at_offset, last_icount } => write!(
                f,
                "the recording was cut short, not finished: the log ends at offset {at_offset}, instruction {last_icount}"
            ),
            Ending::Damaged(damage) => damage.fmt(f),
        }
    }
}

/// A log that cannot be read or written at all.
#[derive(Debug, Error)]
pub enum LogError {
    /// The host refused to read.
    #[error("cannot read the log: {0}")]
    Read(#[source] io::Error),
    /// The host refused to write; the file was cut back to its last whole block.
    #[error("cannot write the log, the recording ends at instruction {icount}: {source}")]
    Write {
        /// What the host said.
        source: io::Error,
        /// Last progress that is in the file.
        icount: Icount,
    },
    /// An earlier write failed; nothing more is taken.
    #[error("the log takes nothing more after a failed write")]
    Closed,
    /// The file does not begin like a log.
    #[error("this is not an event log of reprise")]
    NotALog,
    /// The file ends inside its header.
    #[error("the log is cut short: {bytes} bytes, not even its header is there")]
    NoHeader {
        /// Length of the file.
        bytes: usize,
    },
    /// The file header's checksum does not fit.
    #[error(
        "the log is damaged at offset 0 (file header, instruction 0): checksum {found:#010x}, not {expected:#010x}"
    )]
    HeaderDamaged {
        /// In the file.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// The log was written by a later release.
    #[error("the log has format {found}, this reprise reads formats up to {VERSION}: use a newer one")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// An event does not follow the one before.
    #[error("an event at instruction {icount} cannot be appended: {why}")]
    Order {
        /// The event's position.
        icount: Icount,
        /// The rule it breaks.
        why: String,
    },
}

#[cfg(test)]
mod tests;
