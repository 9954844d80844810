//! What can go wrong with a back-end.

use std::io;
use thiserror::Error;

/// A back-end failed or lied. The run cannot go on without it; the text names it and the value.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each field stands in the text above its variant")]
pub enum WindowError {
    /// A system call for the window failed.
    #[error("{device}: cannot {what}: {source}")]
    Host { device: String, what: &'static str, source: io::Error },
    /// A vhost-user request failed or was not answered in time.
    #[error("{device}: the back-end did not take {request}: {source}")]
    Handshake { device: String, request: &'static str, source: vhost::Error },
    /// A vhost-user request was not answered in time.
    #[error("{device}: the back-end did not answer within {seconds} s; is its process stopped?")]
    NoAnswer { device: String, seconds: u64 },
    /// The back-end lacks something that is needed.
    #[error("{device}: the back-end does not offer {feature}")]
    Feature { device: String, feature: &'static str },
    /// A back-end that was started again offers less than before.
    #[error("{device}: the new back-end lacks feature bits {missing:#x} of the one before it")]
    Lost { device: String, missing: u64 },
    /// A back-end's window does not hold what a saved state has it do.
    #[error("{device}: the window has no room for the requests of the saved state")]
    Full { device: String },
    /// The back-end hung up.
    #[error("{device}: the back-end is gone")]
    Gone { device: String },
    /// The used index ran ahead of what was offered.
    #[error(
        "{device}: queue {queue}: used index {index} from the back-end, but only {outstanding} requests after {seen} are outstanding"
    )]
    UsedIndex { device: String, queue: u16, index: u16, seen: u16, outstanding: u16 },
    /// A used element names a descriptor that is not the back-end's.
    #[error(
        "{device}: queue {queue}: used element {position} from the back-end names descriptor {id}, which is not outstanding"
    )]
    UsedId { device: String, queue: u16, position: u16, id: u32 },
    /// A used element is longer than its buffer.
    #[error(
        "{device}: queue {queue}: used element {position} from the back-end has {length} bytes, the buffer {buffer}"
    )]
    UsedLength { device: String, queue: u16, position: u16, length: u32, buffer: u32 },
}
