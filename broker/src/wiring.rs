//! What a machine is connected to: character streams, disks, networks.

use crate::cli::CliError;
use crate::cli::chardev::{Backend, Chardev, Target};
use crate::cli::device::RateLimit;
use crate::cli::options::Options;
use crate::functions::{self, BackEnd, Detail};
use crate::recorded_functions;
use crate::streams::{Stream, Streams};
use replay::device::{DeviceChoice, VirtioFunction};
use replay::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};

/// All back-ends of a machine, and what only the host's side needs to know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    /// Streams in the order in which they are opened.
    pub streams: Vec<Stream>,
    /// As in [`Machine`].
    pub uarts: Vec<Option<u16>>,
    /// As in [`Machine`].
    pub devices: Vec<DeviceChoice>,
    /// As in [`Machine`].
    pub functions: Vec<VirtioFunction>,
    /// As in [`Machine`].
    pub debug_console: Option<(u16, u16)>,
    /// Limits of sources of entropy, by device.
    pub limits: BTreeMap<u16, RateLimit>,
    /// Devices whose vhost-user back-end connects to us.
    pub servers: BTreeSet<u16>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

impl Wiring {
    /// Of a machine that is made new.
    pub fn of_new(options: &Options) -> Result<Wiring, CliError> {
        let mut streams = Streams::of_ports(options)?;
        let functions = functions::attach(options, streams.devices.len() as u16, false)?;
        let mut wiring = Wiring::default();
        for BackEnd { choice, detail } in &functions.back_ends {
            let index = streams.devices.len() as u16;
            if streams.devices.iter().any(|other| other.id == choice.id) {
                let id = &choice.id;
                return Err(CliError(format!("two back-ends are called '{id}'; give one another name")));
            }
            streams.devices.push(choice.clone());
            wiring.take_detail(options, &mut streams, index, detail)?;
        }
        wiring.functions = functions.functions.into_iter().map(|attached| attached.function).collect();
        wiring.warnings = functions.warnings;
        wiring.complete(options, streams)
    }

    /// Of a replay: the machine is `recorded`, only what is on the host is free.
    /// `show` sends the first serial port to stdout when nothing else is said.
    pub fn of_replay(options: &Options, recorded: &Machine, show: bool) -> Result<Wiring, CliError> {
        let mut streams = Streams::of_replayed_ports(options, recorded, show)?;
        let given = functions::attach(options, 0, true)?;
        let mut wiring = Wiring::default();
        let merged = recorded_functions::merge(&given, recorded)?;
        (wiring.functions, streams.devices) = (merged.functions, merged.devices);
        for (index, BackEnd { detail, .. }) in merged.indexes.iter().zip(&given.back_ends) {
            if let Some(index) = index {
                wiring.take_detail(options, &mut streams, *index, detail)?;
            }
        }
        wiring.warnings = given.warnings;
        wiring.complete(options, streams)
    }

    /// Of a replay that shows nothing.
    pub fn silent(recorded: &Machine) -> Wiring {
        Wiring {
            uarts: recorded.uarts.clone(),
            devices: recorded.devices.clone(),
            functions: recorded.functions.clone(),
            debug_console: recorded.debug_console,
            ..Wiring::default()
        }
    }

    fn take_detail(
        &mut self,
        options: &Options,
        streams: &mut Streams,
        device: u16,
        detail: &Detail,
    ) -> Result<(), CliError> {
        match detail {
            Detail::None => {}
            Detail::Limit(limit) => {
                self.limits.insert(device, *limit);
            }
            Detail::Socket { chardev, server } => {
                streams.sockets.push(chardev.clone());
                if *server {
                    self.servers.insert(device);
                }
            }
            Detail::Stream(name) => {
                let target = match name {
                    Some(name) => Target::Named(name.clone()),
                    None => {
                        let id = streams.devices[usize::from(device)].id.clone();
                        Target::New { chardev: Chardev::new(&id, Backend::Null), monitor: false }
                    }
                };
                streams.serve(options, &target, device)?;
            }
        }
        Ok(())
    }

    fn complete(mut self, options: &Options, mut streams: Streams) -> Result<Wiring, CliError> {
        streams.add_monitors(options)?;
        let Streams { streams, uarts, devices, debug_console, warnings, .. } = streams;
        self.warnings.extend(warnings);
        Ok(Wiring { streams, uarts, devices, debug_console, ..self })
    }
}
