//! What a recording shows of itself without being replayed: `reprise log` and `reprise info`.

mod describe;
mod dump;
mod info;

pub use describe::KINDS;
pub use dump::{Filter, dump};
pub use info::{Summary, info, summarize};

use replay::log::{Ending, LogError};
use replay::recording::RecordingError;
use serde_json::{Value, json};
use std::io;
use thiserror::Error;

/// For a reader or for a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines and columns.
    Text,
    /// JSON: `log` one object a line, `info` one object.
    Json,
}

/// Why nothing (more) is shown.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The recording cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The log cannot be read on.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The output takes nothing more; a broken pipe is no failure of ours.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// A filter names a kind that there is not.
    #[error("there is no event kind {0:?}; the kinds are: {kinds}", kinds = KINDS.join(", "))]
    UnknownKind(String),
    /// A filter names a device that the recorded machine has not.
    #[error("the recorded machine has no device {name:?}; its devices are: {devices}")]
    UnknownDevice {
        /// The name.
        name: String,
        /// All of them.
        devices: String,
    },
}

/// An ending for a script.
fn ending_json(ending: &Ending) -> Value {
    match ending {
        Ending::Finished { icount } => json!({"ending": "finished", "icount": icount}),
        Ending::Cut { at_offset, last_icount } => {
            json!({"ending": "cut", "icount": last_icount, "offset": at_offset})
        }
        Ending::Damaged(damage) => json!({
            "ending": "damaged",
            "icount": damage.from,
            "icount_to": damage.to,
            "offset": damage.offset,
            "block": damage.block,
            "what": damage.what,
        }),
    }
}

#[cfg(test)]
mod tests;
