//! Device processes and the virtio functions in front of them.
//!
//! A *device* is a back-end: one process, one window. A *function* is what the guest sees on the PCI bus. Most functions
//! have one device; a console has one for each port.

use crate::event::DeviceIndex;
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One device process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceChoice {
    /// Name shown to the user, e.g. `serial0`.
    pub id: String,
    /// Kind of back-end.
    pub kind: DeviceKind,
}

/// Kinds of device process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A console back-end on a character stream: queue 0 receives, queue 1 transmits.
    Chardev,
    /// A disk.
    Block(Disk),
    /// A network interface: queue 0 receives, queue 1 transmits.
    Net {
        /// What is behind it, in QEMU's `-netdev` grammar.
        netdev: String,
    },
    /// A source of entropy.
    Entropy {
        /// The host's source.
        filename: String,
    },
    /// Somebody else's vhost-user back-end; the broker connects to it and does not start it.
    Foreign {
        /// Path of its UNIX socket.
        socket: PathBuf,
    },
}

/// What a replay does instead of asking the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The bytes that went into the guest are in the journal; a replay needs no back-end.
    Data,
    /// The journal holds a digest; a replay runs the same requests on the same image and compares.
    ReExecute,
}

impl DeviceKind {
    /// Its replay policy.
    pub fn policy(&self) -> Policy {
        match self {
            DeviceKind::Block(_) => Policy::ReExecute,
            DeviceKind::Chardev
            | DeviceKind::Net { .. }
            | DeviceKind::Entropy { .. }
            | DeviceKind::Foreign { .. } => Policy::Data,
        }
    }
}

/// A disk: an image and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where its blocks are.
    pub image: Image,
    /// The guest may not write.
    pub read_only: bool,
    /// Serial number shown to the guest (`serial=`), at most 20 bytes.
    pub serial: Option<String>,
    /// Discards reach the image (`discard=unmap`).
    pub discard: bool,
    /// Flushes of the guest need not reach stable storage (`cache=unsafe`).
    pub cache_unsafe: bool,
    /// Writes are thrown away at the end (`-snapshot`, `snapshot=on`).
    pub snapshot: bool,
    /// Bytes of a logical block, if not 512.
    pub logical_block_size: Option<u32>,
}

/// Most images of a disk below one another; more is a loop.
pub const IMAGES_MAX: usize = 512;

/// Where a disk's blocks are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    /// In a file or block device.
    File {
        /// Its absolute path.
        path: PathBuf,
        /// `raw` or `qcow2`; the content decides if none is said.
        format: Option<String>,
    },
    /// Nowhere: reads are zeros, writes are dropped (`null-co`).
    Null {
        /// Size in bytes.
        bytes: u64,
    },
    /// In the memory of the device process, zeros at the start.
    Memory {
        /// Size in bytes.
        bytes: u64,
    },
}

/// Place on PCI bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// Device number, 0..=31.
    pub device: u8,
    /// Function number, 0..=7.
    pub function: u8,
}

/// One virtio function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioFunction {
    /// Name shown to the user, e.g. `virtio-disk0`.
    pub id: String,
    /// Where the guest finds it.
    pub address: PciAddress,
    /// What it is.
    pub kind: VirtioKind,
    /// Largest size of its virtqueues, a power of two of at most 1024.
    pub queue_size_max: u16,
    /// MSI-X vectors; 0: only INTx.
    pub vectors: u16,
    /// Off (`window=off`): its back-end gets guest RAM itself and the run cannot be recorded.
    pub window: bool,
}

/// What a virtio function is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtioKind {
    /// virtio-blk.
    Block {
        /// The back-end.
        device: DeviceIndex,
        /// Number of request queues.
        queues: u16,
    },
    /// virtio-net with one queue pair and a control queue.
    Net {
        /// The back-end.
        device: DeviceIndex,
        /// MAC address.
        mac: [u8; 6],
    },
    /// virtio-rng.
    Entropy {
        /// The back-end.
        device: DeviceIndex,
    },
    /// virtio-console with the multiport feature.
    Console {
        /// By port number.
        ports: Vec<ConsolePort>,
    },
    /// Any other device; the back-end says what its features and configuration space are.
    Other {
        /// The back-end.
        device: DeviceIndex,
        /// virtio device type (virtio 1.2, chapter 5).
        device_type: u16,
        /// Number of virtqueues.
        queues: u16,
    },
}

/// One port of a virtio console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsolePort {
    /// Port number (`nr=`).
    pub number: u16,
    /// The back-end.
    pub device: DeviceIndex,
    /// Name shown to the guest (`name=`).
    pub name: Option<String>,
    /// A console (`virtconsole`), not a plain port (`virtserialport`).
    pub console: bool,
}

/// Virtqueues of a chardev or network back-end: receive, transmit.
pub const QUEUE_PAIR: u16 = 2;

impl VirtioKind {
    /// The back-ends and how many virtqueues each has in its window. Queues that the vCPU process itself serves do not
    /// count, and all queues of a disk go through one, so that its requests have one order.
    pub fn back_ends(&self) -> Vec<(DeviceIndex, u16)> {
        match self {
            VirtioKind::Block { device, .. } => vec![(*device, 1)],
            VirtioKind::Other { device, queues, .. } => vec![(*device, *queues)],
            VirtioKind::Net { device, .. } => vec![(*device, QUEUE_PAIR)],
            VirtioKind::Entropy { device } => vec![(*device, 1)],
            VirtioKind::Console { ports } => ports.iter().map(|port| (port.device, QUEUE_PAIR)).collect(),
        }
    }

    /// Number of virtqueues that the guest sees.
    pub fn queue_count(&self) -> u16 {
        match self {
            VirtioKind::Block { queues, .. } | VirtioKind::Other { queues, .. } => *queues,
            // Receive, transmit, control.
            VirtioKind::Net { .. } => 3,
            VirtioKind::Entropy { .. } => 1,
            // Two for each port number up to the highest, and two for control.
            VirtioKind::Console { ports } => {
                let highest = ports.iter().map(|port| port.number).max().unwrap_or(0);
                2 * (highest + 2)
            }
        }
    }

    /// virtio device type (virtio 1.2, chapter 5).
    pub fn device_type(&self) -> u16 {
        match self {
            VirtioKind::Net { .. } => 1,
            VirtioKind::Block { .. } => 2,
            VirtioKind::Console { .. } => 3,
            VirtioKind::Entropy { .. } => 4,
            VirtioKind::Other { device_type, .. } => *device_type,
        }
    }
}

impl VirtioFunction {
    /// The back-ends and how many virtqueues each has: those of its window, or, without one, those of the guest.
    pub fn back_ends(&self) -> Vec<(DeviceIndex, u16)> {
        match &self.kind {
            VirtioKind::Block { device, queues } if !self.window => vec![(*device, *queues)],
            kind => kind.back_ends(),
        }
    }
}

impl Machine {
    /// Number of virtqueues of a back-end.
    pub fn queue_count(&self, device: DeviceIndex) -> u16 {
        let of_functions = self.functions.iter().flat_map(VirtioFunction::back_ends);
        of_functions.into_iter().find(|(index, _)| *index == device).map_or(QUEUE_PAIR, |(_, queues)| queues)
    }

    /// The function whose back-end a device is; none for those of UARTs and the debug console.
    pub fn function_of(&self, device: DeviceIndex) -> Option<usize> {
        let has =
            |function: &VirtioFunction| function.kind.back_ends().iter().any(|(index, _)| *index == device);
        self.functions.iter().position(has)
    }
}
