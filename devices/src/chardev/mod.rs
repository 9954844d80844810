//! `reprise device chardev`: a console back-end over a stream of the host.
//!
//! Reading order: `spec` (the command line), `stream` and its kinds (`stdio`, `pty`, `socket`), `port` (stream, log and
//! monitor together), `console` (the virtio device).

pub mod connect;
pub mod console;
pub mod descriptor;
pub mod escape;
pub mod log;
pub mod monitor;
pub mod outgoing;
pub mod poller;
pub mod port;
pub mod pty;
pub mod socket;
pub mod spec;
pub mod stdio;
pub mod stream;
pub mod telnet;
pub mod terminal;

use crate::front_end::{self, Common};
use crate::lifetime::Stop;
use clap::Parser;
use console::Console;
use escape::Escapes;
use log::Log;
use monitor::MonitorLink;
use port::{Owner, Port};
use replay::inherit;
use spec::ChardevSpec;
use std::ffi::OsString;
use std::os::fd::RawFd;

/// Serve a virtio console on a stream of the host.
#[derive(Parser)]
#[command(name = "reprise device chardev", disable_help_subcommand = true)]
struct Arguments {
    /// The stream, in the syntax of QEMU's -chardev.
    #[arg(long, value_name = "SPEC", required_unless_present = "print_capabilities")]
    chardev: Option<String>,
    /// Connected socket to the monitor that shares the stream.
    #[arg(long, value_name = "N")]
    monitor_fd: Option<RawFd>,
    #[command(flatten)]
    common: Common,
}

/// Runs the program; `arguments` are those after `chardev`.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let Some(arguments) = front_end::parse::<Arguments>("reprise device chardev", arguments)? else {
        return Ok(());
    };
    let common = &arguments.common;
    if common.print_capabilities {
        println!("{{\"type\": \"console\", \"features\": []}}");
        return Ok(());
    }
    let spec = ChardevSpec::parse(arguments.chardev.as_deref().unwrap_or_default())?;
    let label = common.label.clone().or_else(|| spec.id.clone()).unwrap_or_else(|| "chardev".into());
    let stop = Stop::default();
    common.take_signals(&stop)?;
    let front_end = common.open()?;
    let monitor = arguments.monitor_fd.map(inherit::take).transpose()?.map(MonitorLink::new);
    let ready = common.take_ready()?;
    let stream = stream::open_stream(&spec.stream, &label)?;
    let log = spec.log.as_ref().map(|log| Log::open(log, &label)).transpose()?;
    let owner = match (&front_end, &monitor) {
        (Some(_), None) => Owner::Console,
        (Some(_), Some(_)) => Owner::Both(Escapes::default()),
        (None, Some(_)) => Owner::Monitor,
        (None, None) => {
            return Err("one of --listen-fd, --socket-path, --fd and --monitor-fd is missing".into());
        }
    };
    let port = Port::new(stream, log, monitor, owner)?;
    replay::confine::confine(replay::confine::Role::Device).map_err(|error| error.to_string())?;
    front_end::tell_ready(ready);
    match front_end {
        Some(front_end) => front_end::serve(front_end, Console::new(port), &label, &stop),
        None => {
            serve_monitor(port);
            Ok(())
        }
    }
}

/// How long a step of the monitor's own stream waits; only how soon a missed event is made up for depends on it.
const MONITOR_STEP_MS: u16 = 1000;

/// A stream that is the monitor's alone, until the monitor hangs up and its last output was taken.
fn serve_monitor(mut port: Port) {
    loop {
        port.poller().drain(MONITOR_STEP_MS);
        port.attend();
        port.write_out();
        port.show_monitor_output();
        port.write_out();
        if !port.has_monitor() && port.is_flushed() {
            return;
        }
    }
}
