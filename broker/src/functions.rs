//! From `-device` and its like to the functions on the PCI bus and the back-ends behind them.
//!
//! Nothing is opened here. What only the host's side needs to know of a back-end is its [`Detail`]; it is no part of the
//! machine.

use crate::cli::CliError;
use crate::cli::chardev::{Address, Backend};
use crate::cli::device::{DeviceOption, Model, RateLimit, Seen};
use crate::cli::drive::Interface;
use crate::cli::net::CARD_OF_NET;
use crate::cli::object::{ENTROPY_DEFAULT, ObjectKind};
use crate::cli::options::Options;
use crate::consoles;
use crate::networks::{self, Behind};
use crate::{disks, places};
use replay::device::{DeviceChoice, DeviceKind, PciAddress, VirtioFunction, VirtioKind};
use std::path::PathBuf;

/// A function and what was said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The function.
    pub function: VirtioFunction,
    /// The option it comes from.
    pub option: DeviceOption,
}

/// A back-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackEnd {
    /// As in the machine.
    pub choice: DeviceChoice,
    /// What is not in the machine.
    pub detail: Detail,
}

/// What the host's side needs to know of a back-end beside the machine description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing.
    None,
    /// Name of the stream of a console's port.
    Stream(Option<String>),
    /// How much entropy the guest may have.
    Limit(RateLimit),
    /// The socket of a vhost-user back-end.
    Socket {
        /// Name of the chardev.
        chardev: String,
        /// The back-end connects to us.
        server: bool,
    },
}

/// Everything on the PCI bus that options ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// In their order.
    pub functions: Vec<Attached>,
    /// In the order of their indexes.
    pub back_ends: Vec<BackEnd>,
    /// Lines for the user.
    pub warnings: Vec<String>,
    index_first: u16,
    in_replay: bool,
    /// Nodes and netdevs that are used.
    used: Vec<String>,
}

/// What the options attach; back-ends are numbered from `index_first` on. In a replay, netdevs and sockets may be
/// absent.
pub fn attach(options: &Options, index_first: u16, in_replay: bool) -> Result<Functions, CliError> {
    let mut found = Functions { index_first, in_replay, ..Functions::default() };
    let ordered = in_order(&options.devices);
    for option in &ordered {
        found.add(options, option)?;
    }
    found.place()?;
    if !in_replay {
        networks::check_filters(options)?;
        found.warn_of_unused(options)?;
    }
    Ok(found)
}

/// The devices in the order of the command line; IDE and SCSI disks among themselves by their index.
fn in_order(devices: &[DeviceOption]) -> Vec<DeviceOption> {
    let place = |device: &DeviceOption| match device.model {
        Model::Block { place: Some(place @ (Interface::Ide | Interface::Scsi, _)), .. } => Some(place),
        _ => None,
    };
    let mut ordered = devices.to_vec();
    let positions: Vec<usize> = (0..ordered.len()).filter(|at| place(&ordered[*at]).is_some()).collect();
    let mut disks: Vec<DeviceOption> = positions.iter().map(|at| ordered[*at].clone()).collect();
    disks.sort_by_key(place);
    for (at, disk) in positions.into_iter().zip(disks) {
        ordered[at] = disk;
    }
    ordered
}

/// Virtqueues of a disk of which nothing else was said, with one CPU.
const DISK_QUEUES_DEFAULT: u16 = 1;

impl Functions {
    fn add(&mut self, options: &Options, option: &DeviceOption) -> Result<(), CliError> {
        match &option.model {
            Model::Block { drive, serial, queues, logical_block_size, .. } => {
                let (mut disk, nodes) = disks::disk(options, drive)?;
                if nodes.iter().any(|node| self.used.contains(node)) {
                    return Err(CliError(format!("Drive '{drive}' is already in use by another device")));
                }
                self.used.extend(nodes);
                disk.serial = serial.clone().or(disk.serial);
                disk.logical_block_size = *logical_block_size;
                let device = self.back_end(drive, DeviceKind::Block(disk), Detail::None)?;
                let queues = queues.unwrap_or(DISK_QUEUES_DEFAULT);
                self.function("virtio-disk", option, VirtioKind::Block { device, queues }, 256, queues + 1)
            }
            Model::Net { netdev, mac } => self.add_net(options, option, netdev.as_deref(), *mac),
            Model::Entropy { rng, limit } => self.add_entropy(options, option, rng.as_deref(), *limit),
            Model::Serial { ports_max } => {
                let kind = VirtioKind::Console { ports: Vec::new() };
                // QEMU's rule: one vector for each port and one more.
                self.function("virtio-serial", option, kind, 128, ports_max + 1)
            }
            Model::Port { console, .. } => {
                let id = self.free_id(if *console { "virtconsole" } else { "virtserialport" }, option);
                let device = self.index_first + self.back_ends.len() as u16;
                let chardev = consoles::add_port(&mut self.functions, option, device)?;
                self.back_end(&id, DeviceKind::Chardev, Detail::Stream(chardev)).map(drop)
            }
            Model::VhostUser { chardev, seen } => self.add_vhost_user(options, option, chardev, *seen),
        }
    }

    fn add_net(
        &mut self,
        options: &Options,
        option: &DeviceOption,
        netdev: Option<&str>,
        mac: Option<[u8; 6]>,
    ) -> Result<(), CliError> {
        let joined = if option.driver == CARD_OF_NET { networks::of_card(options)? } else { None };
        let netdev = netdev.map(str::to_owned).or(joined);
        let name = netdev.clone().unwrap_or_else(|| self.free_id("virtio-net", option));
        if netdev.is_some() && self.used.contains(&name) {
            return Err(CliError(format!("netdev '{name}' is already in use by another device")));
        }
        let behind = match &netdev {
            Some(netdev) => networks::behind(options, netdev, self.in_replay)?,
            None => networks::nothing(&name),
        };
        self.used.extend(netdev);
        let device = match behind {
            Behind::Served(netdev) => self.back_end(&name, DeviceKind::Net { netdev }, Detail::None)?,
            Behind::VhostUser(chardev) => self.socket(options, &name, &chardev)?,
        };
        let mac = mac.unwrap_or_else(|| networks::free_mac(&self.macs()));
        self.function("virtio-net", option, VirtioKind::Net { device, mac }, 256, 3)
    }

    fn add_entropy(
        &mut self,
        options: &Options,
        option: &DeviceOption,
        rng: Option<&str>,
        limit: Option<RateLimit>,
    ) -> Result<(), CliError> {
        let source = |name: &str| {
            options.objects.iter().find(|object| object.id == name).and_then(|object| match &object.kind {
                ObjectKind::Entropy { filename } => Some(filename.clone()),
                ObjectKind::FilterReplay { .. } => None,
            })
        };
        let filename = match rng {
            None => ENTROPY_DEFAULT.to_owned(),
            Some(name) => match source(name) {
                Some(filename) => filename,
                None if self.in_replay => ENTROPY_DEFAULT.to_owned(),
                None => return Err(CliError(format!("Property 'rng': there is no such source as '{name}'"))),
            },
        };
        let id = self.free_id("virtio-rng", option);
        let detail = limit.map_or(Detail::None, Detail::Limit);
        let device = self.back_end(&id, DeviceKind::Entropy { filename }, detail)?;
        self.function("virtio-rng", option, VirtioKind::Entropy { device }, 8, 2)
    }

    fn add_vhost_user(
        &mut self,
        options: &Options,
        option: &DeviceOption,
        chardev: &str,
        seen: Seen,
    ) -> Result<(), CliError> {
        let device = self.socket(options, chardev, chardev)?;
        let (stem, kind, queue_size, vectors) = match seen {
            Seen::Block(queues) => {
                let queues = queues.unwrap_or(DISK_QUEUES_DEFAULT);
                ("virtio-disk", VirtioKind::Block { device, queues }, 128, queues + 1)
            }
            Seen::Net(mac) => {
                let mac = mac.unwrap_or_else(|| networks::free_mac(&self.macs()));
                ("virtio-net", VirtioKind::Net { device, mac }, 256, 3)
            }
            Seen::Entropy => ("virtio-rng", VirtioKind::Entropy { device }, 8, 2),
            Seen::Other { device_type, queues } => {
                ("vhost-user", VirtioKind::Other { device, device_type, queues }, 64, queues + 1)
            }
        };
        self.function(stem, option, kind, queue_size, vectors)
    }

    /// A back-end on a socket.
    fn socket(&mut self, options: &Options, id: &str, chardev: &str) -> Result<u16, CliError> {
        let (socket, server) = match options.chardevs.iter().find(|known| known.id == chardev) {
            Some(known) => unix_socket(chardev, &known.backend)?,
            None if self.in_replay => (PathBuf::new(), false),
            None => return Err(CliError(format!("Chardev '{chardev}' does not exist"))),
        };
        let is_it =
            |detail: &Detail| matches!(detail, Detail::Socket { chardev: other, .. } if other == chardev);
        if self.back_ends.iter().any(|other| is_it(&other.detail)) {
            return Err(CliError(format!("Device '{chardev}' is in use")));
        }
        let detail = Detail::Socket { chardev: chardev.to_owned(), server };
        self.back_end(id, DeviceKind::Foreign { socket }, detail)
    }

    fn back_end(&mut self, id: &str, kind: DeviceKind, detail: Detail) -> Result<u16, CliError> {
        if self.back_ends.iter().any(|other| other.choice.id == id) {
            return Err(CliError(format!("two back-ends are called '{id}'; give one another name")));
        }
        let index = self.index_first + self.back_ends.len() as u16;
        self.back_ends.push(BackEnd { choice: DeviceChoice { id: id.to_owned(), kind }, detail });
        Ok(index)
    }

    fn function(
        &mut self,
        stem: &str,
        option: &DeviceOption,
        kind: VirtioKind,
        queue_size: u16,
        vectors: u16,
    ) -> Result<(), CliError> {
        let id = self.free_id(stem, option);
        if self.functions.iter().any(|other| other.function.id == id) {
            return Err(CliError(format!("Duplicate device ID '{id}'")));
        }
        let function = VirtioFunction {
            id,
            // Given when all are known.
            address: PciAddress { device: 0, function: 0 },
            kind,
            queue_size_max: option.queue_size.unwrap_or(queue_size),
            vectors: option.vectors.unwrap_or(vectors),
            window: option.window,
        };
        self.functions.push(Attached { function, option: option.clone() });
        Ok(())
    }

    /// The name of a device: its own, or the first free number behind `stem`.
    fn free_id(&self, stem: &str, option: &DeviceOption) -> String {
        if let Some(id) = &option.id {
            return id.clone();
        }
        let is_used = |id: &String| {
            let functions = self.functions.iter().any(|other| other.function.id == *id);
            let port = |end: &BackEnd| matches!(end.detail, Detail::Stream(_)) && end.choice.id == *id;
            functions || self.back_ends.iter().any(port)
        };
        let mut names = (0..).map(|number| format!("{stem}{number}"));
        names.find(|id| !is_used(id)).expect("there are fewer devices than numbers")
    }

    fn macs(&self) -> Vec<[u8; 6]> {
        let mac = |attached: &Attached| match attached.function.kind {
            VirtioKind::Net { mac, .. } => Some(mac),
            _ => None,
        };
        self.functions.iter().filter_map(mac).collect()
    }

    fn place(&mut self) -> Result<(), CliError> {
        let asked: Vec<_> =
            self.functions.iter().map(|each| (each.function.id.as_str(), each.option.address)).collect();
        let places = places::assign(&asked)?;
        for (attached, place) in self.functions.iter_mut().zip(places) {
            attached.function.address = place;
        }
        Ok(())
    }

    fn warn_of_unused(&mut self, options: &Options) -> Result<(), CliError> {
        networks::of_card(options)?;
        for node in &options.nodes {
            if let (Some(name), false) =
                (node.names.first(), node.names.iter().any(|name| self.used.contains(name)))
            {
                self.warnings.push(format!("drive '{name}': nothing uses it; it is not opened"));
            }
        }
        for netdev in options.netdevs.iter().filter(|netdev| !self.used.contains(&netdev.id)) {
            self.warnings.push(format!("netdev '{}': nothing uses it; it is not opened", netdev.id));
        }
        Ok(())
    }
}

/// Path of a vhost-user back-end's socket, and whether we listen on it.
fn unix_socket(id: &str, backend: &Backend) -> Result<(PathBuf, bool), CliError> {
    let wrong = |why: &str| Err(CliError(format!("chardev '{id}': a vhost-user device {why}")));
    let Backend::Socket(socket) = backend else { return wrong("needs a socket: -chardev socket,path=") };
    let Address::Unix { path, in_abstract: false } = &socket.address else {
        return wrong("needs a UNIX socket with a path");
    };
    if socket.reconnect.is_some() {
        return wrong("cannot reconnect by itself; use device_restart");
    }
    if socket.telnet {
        return wrong("does not speak telnet");
    }
    let path = std::path::absolute(path).map_err(|error| CliError(format!("chardev '{id}': {error}")))?;
    Ok((path, socket.server))
}

#[cfg(test)]
#[path = "functions_tests.rs"]
mod tests;
