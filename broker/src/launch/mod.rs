//! The tree of processes: started, watched, ended.
//!
//! Reading order: `plan` (what to start), `tree` (how it is wired), `back_end` (which program serves a device), `process`
//! (one device process), `spawn` (one child), `signals`, `terminal`. A child gets
//! only the descriptors it was given. None outlives the broker: each has a death signal.

pub mod back_end;
pub mod children;
pub mod foreign;
pub mod plan;
pub mod process;
pub mod signals;
pub mod spawn;
pub mod terminal;
pub mod tree;

use std::io;

/// The host refused something; prints as one line.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct HostError {
    /// What was tried.
    pub action: String,
    /// What the host said.
    pub source: io::Error,
}

/// Gives a failure of the host its context: `host("make a pipe", …)`.
pub fn host<T, E: Into<io::Error>>(action: &str, result: Result<T, E>) -> Result<T, HostError> {
    result.map_err(|error| HostError { action: action.to_owned(), source: error.into() })
}

/// Why a tree is not there.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The lane could not be made.
    #[error(transparent)]
    Lane(#[from] replay::lane::LaneError),
    /// A child could not start.
    #[error("{name} could not start")]
    Child {
        /// Which.
        name: String,
        /// It told the user why.
        said_why: bool,
    },
    /// A back-end of somebody else is not there; one line for the user.
    #[error("{0}")]
    BackEnd(String),
    /// A signal ended the wait.
    #[error("terminated by signal {0} while starting")]
    Signal(i32),
}
