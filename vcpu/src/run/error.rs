//! Failures of the host while a machine runs.

use crate::window::WindowError;
use replay::lane::LaneError;

/// Why a vCPU process cannot go on. Printed as one line, then the process ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Guest RAM could not be made.
    #[error("guest memory: {0}")]
    Ram(#[from] crate::mem::ram::RamError),
    /// The table of cached translations could not be mapped.
    #[error("translation table: {0}")]
    Tlb(std::io::Error),
    /// The kernel could not be loaded.
    #[error("{0}")]
    Load(#[from] crate::load::LoadError),
    /// The CPU model cannot be had.
    #[error("CPU model: {0}")]
    Model(String),
    /// Memory for host code could not be had.
    #[error("host code for vector instructions: {0}")]
    Thunks(String),
    /// The lane to the broker failed.
    #[error("connection to the broker: {0}")]
    Lane(#[from] LaneError),
    /// A device's back-end failed or broke the protocol.
    #[error("{0}")]
    Window(#[from] WindowError),
    /// The debugger's socket is of no use.
    #[error("debugger: cannot take connections: {0}")]
    Debugger(std::io::Error),
    /// A back-end ended while the machine ran. The broker sees which, and why.
    #[error("{0}")]
    BackEndEnded(WindowError),
    /// System calls could not be given up.
    #[error("{0}")]
    Confine(#[from] replay::confine::ConfineError),
    /// The setup is not what this process understands.
    #[error("start parameters: {0}")]
    Setup(String),
    /// The host's random numbers could not be read.
    #[error("host entropy: {0}")]
    Entropy(std::io::Error),
    /// A device did not answer in a replay.
    #[error(
        "waited {seconds} s at instruction {icount} for device \"{device}\" to answer a request; is its process stopped?"
    )]
    NoAnswer {
        /// Its name.
        device: String,
        /// How long it was waited for.
        seconds: u64,
        /// Where the guest stands, in instructions.
        icount: u64,
    },
    /// A replay got no events for this long.
    #[error(
        "waited {seconds} s at instruction {icount} for the broker to send the next event of the log; is it stopped?"
    )]
    NoEvents {
        /// How long it waited.
        seconds: u64,
        /// Where the guest stands, in instructions.
        icount: u64,
    },
}

impl RunError {
    /// The error as it is once the machine runs.
    pub fn while_running(self) -> RunError {
        match self {
            RunError::Window(gone @ WindowError::Gone { .. }) => {
                tracing::debug!("{gone}");
                RunError::BackEndEnded(gone)
            }
            other => other,
        }
    }
}
