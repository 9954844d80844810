//! The broker: command line, process tree, monitor, and the order of all events.
//!
//! Reading order: `cli` (what the user said), `wiring` (streams, disks, networks) and `machine` (what is built from it),
//! `run` (the flows),
//! `launch` (the tree of processes), `sequence` (the one loop that orders events), `journal` (where its inputs come
//! from and go to), `hmp` (the monitor), `snapshots` (on disk).

pub mod cli;
pub mod commit;
pub mod consoles;
pub mod debugger;
pub mod demo;
pub mod demo_guest;
pub mod disk_images;
pub mod disks;
pub mod exit;
pub mod export;
pub mod functions;
pub mod hmp;
pub mod host_clock;
pub mod images;
pub mod inspect;
pub mod journal;
pub mod launch;
pub mod logging;
pub mod machine;
pub mod monitor_port;
pub mod networks;
pub mod pidfile;
pub mod places;
pub mod qmp;
pub mod recorded_functions;
pub mod run;
pub mod sequence;
pub mod snapshots;
pub mod streams;
pub mod verify;
pub mod wiring;

use cli::Command;
use cli::subcommand::Subcommand;
use replay::log::Ending;
use replay::machine::CpuChoice;
use replay::recording::Recording;
use replay::time::Icount;
use run::RunError;
use std::process::ExitCode;

/// What the other crates bring in. Only the program itself knows them; the broker meets them as processes.
pub struct Programs {
    /// `reprise vcpu`, by the descriptor of its setup.
    pub vcpu: fn(i32) -> ExitCode,
    /// `reprise device KIND …`, from KIND on.
    pub device: fn(Vec<String>) -> ExitCode,
    /// Says why a CPU cannot be offered on this host.
    pub check_cpu: fn(&CpuChoice) -> Result<(), String>,
}

/// The whole program; `arguments` without its name.
pub fn main(arguments: &[String], programs: &Programs) -> ExitCode {
    let result = cli::parse(arguments).map_err(RunError::from);
    match result.and_then(|command| dispatch(command, arguments, programs)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("reprise: {error}");
            ExitCode::from(exit::STATUS_FAILURE)
        }
    }
}

fn dispatch(command: Command, arguments: &[String], programs: &Programs) -> Result<ExitCode, RunError> {
    let subcommand = match command {
        Command::Print(text) => {
            print!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        Command::Run(options) => return Ok(ended(run::command_line(&options, arguments, programs)?)),
        Command::Sub(subcommand) => subcommand,
    };
    Ok(match subcommand {
        Subcommand::Record { words, options } => ended(run::record(&words, &options, arguments, programs)?),
        Subcommand::Replay { recording, options } => ended(run::replay(&options, &recording, None, true)?),
        Subcommand::Verify(inspect) => ExitCode::from(verify::verify(&inspect.recording, inspect.json)?),
        Subcommand::Info(words) => {
            show(|out| inspect::info(&Recording::open(&words.recording)?, form(words.json), out))?
        }
        Subcommand::Log(words) => show(|out| {
            let filter = inspect::Filter {
                kinds: words.kind.clone(),
                device: words.device.clone(),
                from: words.from.map(Icount),
                to: words.to.map(Icount),
            };
            inspect::dump(&Recording::open(&words.recording)?, &filter, form(words.json), out)
        })?,
        Subcommand::Commit(words) => {
            commit::commit(&words.recording, words.disk.as_deref())?;
            ExitCode::SUCCESS
        }
        Subcommand::Export(words) => {
            ExitCode::from(export::pcap(&words.recording, words.output.as_deref(), words.nic.as_deref())?)
        }
        Subcommand::Demo => {
            demo::demo()?;
            ExitCode::SUCCESS
        }
        Subcommand::Device(words) => {
            log_as_child();
            (programs.device)(words)
        }
        Subcommand::Vcpu { setup_fd } => {
            log_as_child();
            (programs.vcpu)(setup_fd)
        }
    })
}

/// Logs as the environment says, and as the broker says later.
fn log_as_child() {
    logging::init(&logging::LogSettings::default());
    logging::link::listen();
}

fn form(json: bool) -> inspect::Form {
    if json { inspect::Form::Json } else { inspect::Form::Text }
}

/// Shows a recording on stdout. Damage is a failure; a reader that has seen enough is none.
fn show(
    write: impl FnOnce(&mut dyn std::io::Write) -> Result<Ending, inspect::InspectError>,
) -> Result<ExitCode, RunError> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = write(&mut out).and_then(|ending| Ok(std::io::Write::flush(&mut out).map(|()| ending)?));
    match result {
        Ok(Ending::Finished { .. } | Ending::Cut { .. }) => Ok(ExitCode::SUCCESS),
        Ok(Ending::Damaged(_)) => Ok(ExitCode::from(exit::STATUS_FAILURE)),
        Err(inspect::InspectError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells the user how a run ended.
fn ended(end: sequence::ending::End) -> ExitCode {
    if let Some(message) = end.message() {
        eprintln!("reprise: {message}");
    }
    ExitCode::from(end.status())
}
