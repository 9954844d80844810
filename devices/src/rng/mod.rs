//! `reprise device rng`: an entropy back-end over a file of the host.

pub mod entropy;

use crate::front_end::{self, Common};
use crate::lifetime::Stop;
use clap::Parser;
use entropy::{Entropy, Rate};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Serve a virtio entropy device from a file of the host.
#[derive(Parser)]
#[command(name = "reprise device rng", disable_help_subcommand = true)]
struct Arguments {
    /// Where the random bytes come from.
    #[arg(long, value_name = "PATH", default_value = "/dev/urandom")]
    filename: PathBuf,
    /// Bytes given out in one period at most.
    #[arg(long, value_name = "N", requires = "period")]
    max_bytes: Option<u64>,
    /// Length of a period in milliseconds.
    #[arg(long, value_name = "MS", requires = "max_bytes")]
    period: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Runs the program; `arguments` are those after `rng`.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let Some(arguments) = front_end::parse::<Arguments>("reprise device rng", arguments)? else {
        return Ok(());
    };
    let common = &arguments.common;
    if common.print_capabilities {
        println!("{{\"type\": \"rng\", \"features\": []}}");
        return Ok(());
    }
    let rate = match (arguments.max_bytes, arguments.period) {
        (Some(0), _) => return Err("--max-bytes is at least 1".into()),
        (_, Some(0)) => return Err("--period is at least 1".into()),
        (Some(bytes_max), Some(period)) => Some(Rate { bytes_max, period: Duration::from_millis(period) }),
        _ => None,
    };
    let label = common.label.clone().unwrap_or_else(|| "rng".into());
    let stop = Stop::default();
    common.take_signals(&stop)?;
    let front_end = common.open()?.ok_or("one of --listen-fd, --socket-path and --fd is missing")?;
    let ready = common.take_ready()?;
    let entropy = Entropy::open(&arguments.filename, rate, &label)?;
    replay::confine::confine(replay::confine::Role::Device).map_err(|error| error.to_string())?;
    front_end::tell_ready(ready);
    front_end::serve(front_end, entropy, &label, &stop)
}
