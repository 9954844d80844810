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

use crate::lifetime::{Stop, handle_signals};
use crate::serve;
use clap::Parser;
use console::Console;
use escape::Escapes;
use log::Log;
use monitor::MonitorLink;
use port::{Owner, Port};
use replay::inherit;
use spec::ChardevSpec;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;

/// Serve a virtio console on a stream of the host.
#[derive(Parser)]
#[command(name = "reprise device chardev", disable_help_subcommand = true)]
struct Arguments {
    /// The stream, in the syntax of QEMU's -chardev.
    #[arg(long, value_name = "SPEC", required_unless_present = "print_capabilities")]
    chardev: Option<String>,
    /// Listening UNIX socket on which the front-end connects.
    #[arg(long, value_name = "N", conflicts_with = "socket_path")]
    listen_fd: Option<RawFd>,
    /// UNIX socket to make and listen on.
    #[arg(long, value_name = "PATH")]
    socket_path: Option<String>,
    /// Connected socket to the monitor that shares the stream.
    #[arg(long, value_name = "N")]
    monitor_fd: Option<RawFd>,
    /// Gets one byte when the device is ready.
    #[arg(long, value_name = "N")]
    ready_fd: Option<RawFd>,
    /// Name in messages.
    #[arg(long, value_name = "ID")]
    label: Option<String>,
    /// Print what the back-end can do, as JSON.
    #[arg(long)]
    print_capabilities: bool,
}

/// Runs the program; `arguments` are those after `chardev`.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let program = [OsString::from("reprise device chardev")];
    let arguments = match Arguments::try_parse_from(program.into_iter().chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => return error.print().map_err(|error| error.to_string()),
        Err(error) => return Err(first_line(&error.to_string())),
    };
    if arguments.print_capabilities {
        println!("{{\"type\": \"console\", \"features\": []}}");
        return Ok(());
    }
    let spec = ChardevSpec::parse(arguments.chardev.as_deref().unwrap_or_default())?;
    let label = arguments.label.clone().or_else(|| spec.id.clone()).unwrap_or_else(|| "chardev".into());
    let stop = Stop::default();
    handle_signals(stop.clone(), arguments.socket_path.is_none())?;
    let listener = front_end_listener(&arguments)?;
    let monitor = arguments.monitor_fd.map(inherit::take).transpose()?.map(MonitorLink::new);
    let ready = arguments.ready_fd.map(inherit::take).transpose()?;
    let stream = stream::open_stream(&spec.stream, &label)?;
    let log = spec.log.as_ref().map(|log| Log::open(log, &label)).transpose()?;
    let owner = match (&listener, &monitor) {
        (Some(_), None) => Owner::Console,
        (Some(_), Some(_)) => Owner::Both(Escapes::default()),
        (None, Some(_)) => Owner::Monitor,
        (None, None) => return Err("one of --listen-fd, --socket-path and --monitor-fd is missing".into()),
    };
    let port = Port::new(stream, log, monitor, owner)?;
    if let Some(ready) = ready {
        // A parent that does not listen any more will end us by other means.
        let _ = File::from(ready).write_all(b"R");
    }
    match listener {
        Some(listener) => serve::serve(listener, Console::new(port), &label, &stop),
        None => {
            serve_monitor(port);
            Ok(())
        }
    }
}

/// The first line of clap's message, without its prefix.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_string()
}

fn front_end_listener(arguments: &Arguments) -> Result<Option<UnixListener>, String> {
    match (arguments.listen_fd, &arguments.socket_path) {
        (Some(number), _) => Ok(Some(UnixListener::from(inherit::take(number)?))),
        (None, Some(path)) => {
            let listener = connect::bind_unix(path, false);
            listener.map(Some).map_err(|error| format!("cannot listen on '{path}': {error}"))
        }
        (None, None) => Ok(None),
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
