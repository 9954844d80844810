//! What to start.

use crate::cli::device::RateLimit;
use crate::logging::LogSettings;
use crate::streams::Stream;
use replay::machine::Machine;
use replay::setup::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where a disk's bytes are now: not in the image of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// The image to open.
    pub image: PathBuf,
    /// Its format.
    pub format: String,
    /// A layer that is to be made over it.
    pub layer: Option<PathBuf>,
}

/// A run: the machine and everything around it.
#[derive(Debug)]
pub struct Plan {
    /// The machine.
    pub machine: Machine,
    /// Its streams.
    pub streams: Vec<Stream>,
    /// Where inputs come from.
    pub mode: Mode,
    /// `-S`.
    pub start_paused: bool,
    /// Instructions between two digests.
    pub digest_interval: u64,
    /// What the children log.
    pub log: LogSettings,
    /// Where a recording's disks are written.
    pub layers: Option<PathBuf>,
    /// Disks that are elsewhere than at their start, by device.
    pub tops: BTreeMap<u16, Top>,
    /// A snapshot of the start is made before the first instruction; the machine stands still until then.
    pub saves_first: bool,
    /// The vCPU process loads a state before anything else.
    pub awaits_state: bool,
    /// A replay is to go to a place of its log by itself.
    pub seeks: bool,
    /// A disk's process that dies is replaced by another (`-action device-exit=pause`).
    pub restarts_disks: bool,
    /// The run has begun: layers exist.
    pub running: bool,
    /// Limits of sources of entropy, by device.
    pub limits: BTreeMap<u16, RateLimit>,
    /// Devices whose vhost-user back-end connects to us.
    pub servers: BTreeSet<u16>,
    /// Listening socket for debuggers; the vCPU process has it once it has started.
    pub debugger: Option<OwnedFd>,
    /// Packet captures: number of a function, and where its traffic goes.
    pub captures: Vec<(u16, File)>,
}
