//! What a replay's command line says of disks, networks and other functions, over what was recorded.
//!
//! What is not said is as it was recorded. What is said and contradicts it stays in the result, so that the comparison of
//! both machines names it. Only where the data comes from is free.

use crate::cli::CliError;
use crate::cli::device::{DeviceOption, Model, Seen};
use crate::functions::{Attached, Functions};
use replay::device::{DeviceChoice, DeviceKind, Disk, Image, Policy, VirtioFunction, VirtioKind};
use replay::machine::Machine;

/// Functions and back-ends of a replayed machine.
#[derive(Debug)]
pub struct Merged {
    /// As in [`Machine`].
    pub functions: Vec<VirtioFunction>,
    /// As in [`Machine`].
    pub devices: Vec<DeviceChoice>,
    /// Where each given back-end stands among them.
    pub indexes: Vec<Option<u16>>,
}

/// Lays what is given over what was recorded. Given back-ends are numbered from 0 on.
pub fn merge(given: &Functions, recorded: &Machine) -> Result<Merged, CliError> {
    let mut merged = Merged {
        functions: recorded.functions.clone(),
        devices: recorded.devices.clone(),
        indexes: vec![None; given.back_ends.len()],
    };
    for attached in &given.functions {
        let at = find(attached, given, recorded)?;
        let old = &recorded.functions[at];
        let mut new = attached.function.clone();
        keep_unsaid(&mut new, &attached.option, old);
        for (from, to) in pairs(&attached.function.kind, &old.kind) {
            merged.indexes[usize::from(from)] = Some(to);
            let device = &mut merged.devices[usize::from(to)];
            device.kind = over(&given.back_ends[usize::from(from)].choice.kind, &device.kind);
        }
        number_back_ends(&mut new.kind, &merged.indexes);
        merged.functions[at] = new;
    }
    Ok(merged)
}

/// The recorded function that is meant: by the name of its back-end, or its own where that is not the user's.
fn find(attached: &Attached, given: &Functions, recorded: &Machine) -> Result<usize, CliError> {
    let function = &attached.function;
    let id_of = |device: u16, devices: &dyn Fn(usize) -> Option<String>| devices(usize::from(device));
    let given_id = |index: usize| given.back_ends.get(index).map(|end| end.choice.id.clone());
    let recorded_id = |index: usize| recorded.devices.get(index).map(|device| device.id.clone());
    let by_back_end = matches!(attached.option.model, Model::Block { .. } | Model::VhostUser { .. })
        || matches!(attached.option.model, Model::Net { netdev: Some(_), .. });
    let name = if by_back_end {
        let ends = function.kind.back_ends();
        ends.first().and_then(|(device, _)| id_of(*device, &given_id)).unwrap_or_default()
    } else {
        function.id.clone()
    };
    let is_it = |other: &VirtioFunction| {
        if by_back_end {
            let ends = other.kind.back_ends();
            ends.first().and_then(|(device, _)| id_of(*device, &recorded_id)).as_ref() == Some(&name)
        } else {
            other.id == name
        }
    };
    recorded.functions.iter().position(is_it).ok_or_else(|| {
        let names: Vec<String> = recorded.functions.iter().map(|other| label(other, recorded)).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CliError(format!(
            "the recording is of another machine: -device {} '{name}': recorded {names}",
            attached.option.driver
        ))
    })
}

fn label(function: &VirtioFunction, recorded: &Machine) -> String {
    let ends = function.kind.back_ends();
    let device = ends.first().and_then(|(device, _)| recorded.devices.get(usize::from(*device)));
    match device {
        Some(device) if ends.len() == 1 => format!("{} ({})", function.id, device.id),
        _ => function.id.clone(),
    }
}

/// Properties of which nothing was said are the recorded ones.
fn keep_unsaid(new: &mut VirtioFunction, said: &DeviceOption, old: &VirtioFunction) {
    if said.id.is_none() {
        new.id.clone_from(&old.id);
    }
    if said.address.is_none() {
        new.address = old.address;
    }
    if said.queue_size.is_none() {
        new.queue_size_max = old.queue_size_max;
    }
    if said.vectors.is_none() {
        new.vectors = old.vectors;
    }
    match (&mut new.kind, &old.kind, &said.model) {
        (
            VirtioKind::Block { queues, .. },
            VirtioKind::Block { queues: recorded, .. },
            Model::Block { queues: None, .. } | Model::VhostUser { seen: Seen::Block(None), .. },
        ) => *queues = *recorded,
        (
            VirtioKind::Net { mac, .. },
            VirtioKind::Net { mac: recorded, .. },
            Model::Net { mac: None, .. } | Model::VhostUser { seen: Seen::Net(None), .. },
        ) => *mac = *recorded,
        _ => {}
    }
}

/// Which given back-end stands for which recorded one.
fn pairs(given: &VirtioKind, recorded: &VirtioKind) -> Vec<(u16, u16)> {
    match (given, recorded) {
        (VirtioKind::Console { ports }, VirtioKind::Console { ports: recorded }) => {
            let same = |number: u16| recorded.iter().find(|port| port.number == number);
            ports.iter().filter_map(|port| Some((port.device, same(port.number)?.device))).collect()
        }
        (given, recorded) => {
            let ends = given.back_ends().into_iter().zip(recorded.back_ends());
            ends.map(|((from, _), (to, _))| (from, to)).collect()
        }
    }
}

/// Gives back-ends their recorded numbers. One without is in a function that differs, and that is told of.
fn number_back_ends(kind: &mut VirtioKind, indexes: &[Option<u16>]) {
    let number = |device: &mut u16| *device = indexes[usize::from(*device)].unwrap_or(0);
    match kind {
        VirtioKind::Block { device, .. }
        | VirtioKind::Net { device, .. }
        | VirtioKind::Entropy { device }
        | VirtioKind::Other { device, .. } => number(device),
        VirtioKind::Console { ports } => ports.iter_mut().for_each(|port| number(&mut port.device)),
    }
}

/// A back-end of a replay. One whose data is in the log is not started, so whatever stands for it is as good.
fn over(given: &DeviceKind, recorded: &DeviceKind) -> DeviceKind {
    match (given, recorded) {
        (DeviceKind::Block(given), DeviceKind::Block(recorded)) => {
            DeviceKind::Block(disk_over(given, recorded))
        }
        _ if given.policy() == Policy::Data && recorded.policy() == Policy::Data => recorded.clone(),
        _ => given.clone(),
    }
}

fn disk_over(given: &Disk, recorded: &Disk) -> Disk {
    let image = match (&given.image, &recorded.image) {
        (Image::File { path, format }, Image::File { path: old, format: old_format }) => {
            let kept = if path == old { old_format.clone() } else { None };
            Image::File { path: path.clone(), format: format.clone().or(kept) }
        }
        (given, _) => given.clone(),
    };
    Disk {
        image,
        read_only: given.read_only || recorded.read_only,
        serial: given.serial.clone().or_else(|| recorded.serial.clone()),
        logical_block_size: given.logical_block_size.or(recorded.logical_block_size),
        // What the guest was offered.
        discard: recorded.discard,
        cache_unsafe: given.cache_unsafe,
        snapshot: recorded.snapshot,
    }
}

#[cfg(test)]
#[path = "recorded_functions_tests.rs"]
mod tests;
