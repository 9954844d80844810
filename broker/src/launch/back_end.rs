//! Which program serves a device, and with which arguments: a function of the run's mode and the device.
//!
//! What a device process does with its arguments is in docs/devices.md.

use super::plan::{Known, Plan, Task, Top, Upkeep};
use crate::cli::keyval::KeyValues;
use replay::device::{DeviceKind, Disk, Image};
use replay::machine::Machine;
use replay::setup::Mode;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// How a device gets its back-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// It has none: a replay takes its data from the log.
    None,
    /// A stream, if there is one.
    Stream,
    /// `reprise device KIND …`.
    Process(Program),
    /// Somebody's vhost-user back-end, which listens here.
    Connect(PathBuf),
    /// Somebody's vhost-user back-end, which connects here.
    Accept(PathBuf),
}

/// A device process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// `block`, `net` or `rng`.
    pub kind: &'static str,
    /// Its arguments, without those that every kind has.
    pub arguments: Vec<String>,
    /// Descriptors that this process itself was given for it.
    pub inherited: Vec<RawFd>,
}

impl BackEnd {
    /// The back-end of the device `index`.
    pub fn of(plan: &Plan, index: u16) -> BackEnd {
        let device = &plan.machine.devices[usize::from(index)];
        let program = |kind, arguments, inherited| BackEnd::Process(Program { kind, arguments, inherited });
        match &device.kind {
            DeviceKind::Chardev => BackEnd::Stream,
            DeviceKind::Block(disk) => {
                let (upkeep, inherited) = upkeep_arguments(plan.upkeep.get(&index));
                let mut arguments = block_arguments(plan, index, &device.id, disk);
                arguments.extend(upkeep);
                program("block", arguments, inherited)
            }
            _ if plan.mode == Mode::Replay => BackEnd::None,
            DeviceKind::Net { netdev } => {
                program("net", vec![format!("--netdev={netdev}")], inherited_of(netdev))
            }
            DeviceKind::Entropy { filename } => {
                let mut arguments = vec![format!("--filename={filename}")];
                if let Some(limit) = plan.limits.get(&index) {
                    arguments.push(format!("--max-bytes={}", limit.bytes_max));
                    arguments.push(format!("--period={}", limit.period_ms));
                }
                program("rng", arguments, vec![])
            }
            DeviceKind::Foreign { socket } if plan.servers.contains(&index) => {
                BackEnd::Accept(socket.clone())
            }
            DeviceKind::Foreign { socket } => BackEnd::Connect(socket.clone()),
        }
    }
}

fn block_arguments(plan: &Plan, index: u16, id: &str, disk: &Disk) -> Vec<String> {
    let layer = match &plan.layers {
        Some(layers) if writes_to_file(disk) => {
            Some(layers.join(format!("{id}.qcow2")).display().to_string())
        }
        _ => None,
    };
    let mut arguments = match plan.tops.get(&index) {
        Some(top) => top_arguments(top, plan.mode),
        None => image_arguments(disk, layer, plan),
    };
    if disk.read_only {
        arguments.push("--read-only".to_owned());
    }
    // A recording pays under one percent for it, and has what the guest wrote when the process is killed.
    let restartable = match plan.mode {
        Mode::Plain => plan.restarts_disks,
        Mode::Record => true,
        Mode::Replay => false,
    };
    let has_contents = plan.upkeep.get(&index).is_some_and(|upkeep| upkeep.contents.is_some());
    if restartable && (writes_to_file(disk) || has_contents) {
        arguments.push("--restartable".to_owned());
    }
    let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    if let Some(serial) = &disk.serial {
        add("serial", serial.clone());
    }
    add("num-queues", plan.machine.queue_count(index).to_string());
    add("discard", if disk.discard { "unmap" } else { "ignore" }.to_owned());
    add("cache", if disk.cache_unsafe { "unsafe" } else { "writeback" }.to_owned());
    if let Some(bytes) = disk.logical_block_size {
        add("logical-block-size", bytes.to_string());
    }
    arguments
}

/// What is done beside the requests of a disk, and the descriptors for it.
fn upkeep_arguments(upkeep: Option<&Upkeep>) -> (Vec<String>, Vec<RawFd>) {
    let (mut arguments, mut inherited) = (vec![], vec![]);
    let Some(upkeep) = upkeep else { return (arguments, inherited) };
    let mut add_fd = |name: &str, fd: &OwnedFd, arguments: &mut Vec<String>| {
        arguments.push(format!("--{name}={}", fd.as_raw_fd()));
        inherited.push(fd.as_raw_fd());
    };
    for (name, fd) in [("contents-fd", &upkeep.contents), ("changed-fd", &upkeep.changed)] {
        if let Some(fd) = fd {
            add_fd(name, fd, &mut arguments);
        }
    }
    let known = match &upkeep.task {
        None => &None,
        Some(Task::Keep { place, report, known }) => {
            arguments.push(format!("--keep={}", place.display()));
            add_fd("report-fd", report, &mut arguments);
            known
        }
        Some(Task::Restore { from, mark, known }) => {
            arguments.push(format!("--restore={}", from.display()));
            arguments.extend(mark.iter().map(|mark| format!("--mark={}", mark.display())));
            known
        }
    };
    if let Some(Known { image, due }) = known {
        arguments.push(format!("--known={}", image.display()));
        add_fd("due-fd", due, &mut arguments);
    }
    (arguments, inherited)
}

/// The same for a disk that was moved to another image.
fn top_arguments(top: &Top, mode: Mode) -> Vec<String> {
    let mut arguments = vec![format!("--image={}", top.image.display())];
    if !top.format.is_empty() {
        arguments.push(format!("--format={}", top.format));
    }
    arguments.extend(top.layer.as_ref().map(|layer| format!("--layer={}", layer.display())));
    if mode == Mode::Replay && top.layer.is_none() {
        arguments.push("--snapshot".to_owned());
    }
    arguments
}

/// Where the blocks are and where writes go.
fn image_arguments(disk: &Disk, layer: Option<String>, plan: &Plan) -> Vec<String> {
    let option = |name: &str, value: &str| format!("--{name}={value}");
    let (path, format) = match (&disk.image, &layer) {
        (Image::Null { bytes }, _) => {
            return vec![option("driver", "null-co"), option("size", &bytes.to_string())];
        }
        (Image::Memory { bytes }, _) => {
            return vec![option("driver", "memory"), option("size", &bytes.to_string())];
        }
        // The layer names what is below it.
        (Image::File { .. }, Some(layer)) if plan.running => (layer.clone(), Some("qcow2")),
        (Image::File { path, format }, _) => (path.display().to_string(), format.as_deref()),
    };
    let mut arguments = vec![option("image", &path)];
    arguments.extend(format.map(|format| option("format", format)));
    match plan.mode {
        Mode::Record => {
            arguments.extend(layer.filter(|_| !plan.running).map(|layer| option("layer", &layer)))
        }
        // The layer of the recording holds what was written later than what a replay reads.
        Mode::Replay if writes_to_file(disk) => arguments.push("--snapshot".to_owned()),
        Mode::Plain if disk.snapshot && writes_to_file(disk) => arguments.push("--snapshot".to_owned()),
        Mode::Replay | Mode::Plain => {}
    }
    arguments
}

fn writes_to_file(disk: &Disk) -> bool {
    matches!(disk.image, Image::File { .. }) && !disk.read_only
}

/// Whether a recording of this machine has layers over disks.
pub fn has_layers(machine: &Machine) -> bool {
    machine
        .devices
        .iter()
        .any(|device| matches!(&device.kind, DeviceKind::Block(disk) if writes_to_file(disk)))
}

/// Descriptors that a netdev names.
fn inherited_of(netdev: &str) -> Vec<RawFd> {
    let Ok(mut list) = KeyValues::parse(netdev, Some("type")) else { return vec![] };
    let number = list.take_number("fd").ok().flatten();
    number.and_then(|number| RawFd::try_from(number).ok()).into_iter().collect()
}

#[cfg(test)]
#[path = "back_end_tests.rs"]
mod tests;
