//! Failures of the host while a machine runs.

use replay::lane::LaneError;

/// Why a vCPU process cannot go on. Printed as one line, then the process ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("guest memory: {0}")]
    Ram(#[from] crate::mem::ram::RamError),
    #[error("translation table: {0}")]
    Tlb(std::io::Error),
    #[error("{0}")]
    Load(#[from] crate::load::LoadError),
    #[error("CPU model: {0}")]
    Model(String),
    #[error("host code for vector instructions: {0}")]
    Thunks(String),
    #[error("connection to the broker: {0}")]
    Lane(#[from] LaneError),
    #[error("{0}")]
    Window(#[from] crate::window::WindowError),
    #[error("start parameters: {0}")]
    Setup(String),
    #[error("host entropy: {0}")]
    Entropy(std::io::Error),
    #[error(
        "waited {seconds} s at instruction {icount} for the broker to send the next event of the log; is it stopped?"
    )]
    NoEvents { seconds: u64, icount: u64 },
}
