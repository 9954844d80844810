//! What to start.

use crate::cli::device::RateLimit;
use crate::logging::LogSettings;
use crate::snapshots::kept_file;
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

/// Layers of one replay.
#[derive(Debug)]
pub struct Replayed {
    /// Where they are.
    pub directory: PathBuf,
    /// In their names: no other run has it.
    pub run: String,
    /// Keeps others from removing those that no snapshot names yet.
    pub lock: kept_file::Lock,
}

/// What the process of a disk gets besides its image, so that what the disk holds can be kept and had again.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Contents of a disk in memory, or what is written under `-snapshot`: they outlive the process.
    pub contents: Option<OwnedFd>,
    /// Set of clusters to which every change is added.
    pub changed: Option<OwnedFd>,
    /// What the next process does first.
    pub task: Option<Task>,
}

/// Something that the process of a disk does beside or before its requests.
#[derive(Debug)]
pub enum Task {
    /// Keeps what the disk holds now, while it is in use.
    Keep {
        /// The new image.
        place: PathBuf,
        /// Pipe that is told how it ended.
        report: OwnedFd,
        /// What need not be copied.
        known: Option<Known>,
    },
    /// Gives the disk contents that were kept, before it is ready.
    Restore {
        /// The image with the contents.
        from: PathBuf,
        /// A file that is there while the disk's own image is half one thing and half another.
        mark: Option<PathBuf>,
        /// What need not be compared.
        known: Option<Known>,
    },
}

/// An image that holds what a disk holds, but for some clusters.
#[derive(Debug)]
pub struct Known {
    /// The image.
    pub image: PathBuf,
    /// Set of clusters.
    pub due: OwnedFd,
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
    /// A replay whose snapshots keep what is on its disks: where its layers are.
    pub replayed: Option<Replayed>,
    /// Disks that are elsewhere than at their start, by device.
    pub tops: BTreeMap<u16, Top>,
    /// What disks get besides their images, by device.
    pub upkeep: BTreeMap<u16, Upkeep>,
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
