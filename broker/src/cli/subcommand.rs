//! The subcommands beside QEMU's grammar.
//!
//! clap reads a subcommand's own words; what follows in QEMU's grammar is split off first, because clap has no
//! long options with a single dash.

use super::options::Options;
use super::{CliError, Command, table};
use clap::{Args, Parser};
use std::path::PathBuf;

/// First words that are subcommands.
pub const NAMES: [&str; 10] =
    ["record", "replay", "verify", "info", "log", "commit", "export", "demo", "device", "vcpu"];

/// Lines about the subcommands in the help.
pub const USAGE: &str = "       \
       reprise record -o DIR [--force] [OPTIONS]   run it and record to DIR\n       \
       reprise replay DIR [OPTIONS]                replay; nothing else needs to be said\n       \
       reprise verify DIR [--json]                 replay without output, compare every digest\n       \
       reprise info DIR [--json]                   what a recording holds\n       \
       reprise log DIR [--help]                    its events, readable\n       \
       reprise commit DIR [--disk ID]              what the guest wrote to disks goes into their images\n       \
       reprise export pcap DIR [-o FILE] [--nic ID]\n       \
      \x20                                             packets of its networks\n       \
       reprise demo                                record, replay and verify a small guest\n       \
       reprise device KIND [--help]                a device process (vhost-user back-end)\n";

/// A subcommand with what it was given.
#[derive(Debug)]
pub enum Subcommand {
    /// Record to a directory.
    Record {
        /// Where to, and how.
        words: RecordWords,
        /// The machine.
        options: Box<Options>,
    },
    /// Replay a directory.
    Replay {
        /// The directory.
        recording: PathBuf,
        /// What is said beside.
        options: Box<Options>,
    },
    /// Replay and compare, silently.
    Verify(Inspect),
    /// Describe a recording.
    Info(Inspect),
    /// Dump its events.
    Log(LogWords),
    /// Merge what was written to disks into their images.
    Commit(CommitWords),
    /// Export packets.
    Export(PcapWords),
    /// Record, replay and verify the embedded guest.
    Demo,
    /// A device process; the words are read by the device.
    Device(Vec<String>),
    /// The vCPU process.
    Vcpu {
        /// File with its start parameters.
        setup_fd: i32,
    },
}

/// Words of `record`.
#[derive(Args, Debug)]
pub struct RecordWords {
    /// Directory to make.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace a recording that is there.
    #[arg(long)]
    pub force: bool,
    /// Instructions between two digests of the machine's state; 0 for none.
    #[arg(long, value_name = "N", default_value_t = crate::run::DIGEST_INTERVAL)]
    pub digest_interval: u64,
}

/// Words of `verify` and `info`.
#[derive(Args, Debug)]
pub struct Inspect {
    /// Directory of the recording.
    pub recording: PathBuf,
    /// Print JSON for a script.
    #[arg(long)]
    pub json: bool,
}

/// Words of `commit`.
#[derive(Args, Debug)]
pub struct CommitWords {
    /// Directory of the recording.
    pub recording: PathBuf,
    /// Only this disk.
    #[arg(long, value_name = "ID")]
    pub disk: Option<String>,
}

/// What `export` exports.
#[derive(clap::Subcommand, Debug)]
enum ExportWords {
    /// Packets of the networks, with guest time stamps, as a pcap file for each.
    Pcap(PcapWords),
}

/// Words of `export pcap`.
#[derive(Args, Debug)]
pub struct PcapWords {
    /// Directory of the recording.
    pub recording: PathBuf,
    /// Where packets go; stdout without it. With several networks their names are added to that of the file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only this network card or netdev.
    #[arg(long, value_name = "ID")]
    pub nic: Option<String>,
}

/// Words of `log`.
#[derive(Args, Debug)]
pub struct LogWords {
    /// Directory of the recording.
    pub recording: PathBuf,
    /// Only events of this kind; may be given more than once.
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,
    /// Only events of this device, by its id or index.
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// Only events from this instruction count on.
    #[arg(long, value_name = "ICOUNT")]
    pub from: Option<u64>,
    /// Only events up to this instruction count.
    #[arg(long, value_name = "ICOUNT")]
    pub to: Option<u64>,
    /// Print JSON for a script, one event a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Parser, Debug)]
#[command(name = "reprise", disable_help_subcommand = true)]
enum Words {
    /// Run a machine and record it; options of the machine follow, as QEMU's.
    Record(RecordWords),
    /// Replay a recording; options may follow, as QEMU's.
    Replay {
        /// Directory of the recording.
        recording: PathBuf,
    },
    /// Replay a recording without its output and compare every digest.
    Verify(Inspect),
    /// Show what a recording holds.
    Info(Inspect),
    /// Show the events of a recording.
    Log(LogWords),
    /// Merge what the guest wrote to the disks of a recording into their images.
    Commit(CommitWords),
    /// Write what a recording holds in other forms.
    Export {
        #[command(subcommand)]
        what: ExportWords,
    },
    /// Record, replay and verify a small guest.
    Demo,
    #[command(hide = true)]
    Vcpu {
        #[arg(long)]
        setup_fd: i32,
    },
}

/// Reads a command line whose first word is a subcommand.
pub fn parse(args: &[String]) -> Result<Command, CliError> {
    let rest = &args[1..];
    if args[0] == "device" {
        return Ok(Command::Sub(Subcommand::Device(rest.to_vec())));
    }
    let own = 1 + count_own_words(&args[0], rest);
    let words = std::iter::once("reprise".to_owned()).chain(args[..own].iter().cloned());
    let words = match Words::try_parse_from(words) {
        Ok(words) => words,
        Err(error) if !error.use_stderr() => return Ok(Command::Print(error.to_string())),
        Err(error) => return Err(CliError(one_line(&error.to_string()))),
    };
    let subcommand = match words {
        Words::Record(words) => match machine_options(&args[own..])? {
            Err(text) => return Ok(Command::Print(text)),
            Ok(options) => Subcommand::Record { words, options },
        },
        Words::Replay { recording } => match machine_options(&args[own..])? {
            Err(text) => return Ok(Command::Print(text)),
            Ok(options) => Subcommand::Replay { recording, options },
        },
        Words::Verify(inspect) => Subcommand::Verify(inspect),
        Words::Info(inspect) => Subcommand::Info(inspect),
        Words::Log(words) => Subcommand::Log(words),
        Words::Commit(words) => Subcommand::Commit(words),
        Words::Export { what: ExportWords::Pcap(words) } => Subcommand::Export(words),
        Words::Demo => Subcommand::Demo,
        Words::Vcpu { setup_fd } => Subcommand::Vcpu { setup_fd },
    };
    Ok(Command::Sub(subcommand))
}

/// Options of the machine after a subcommand's own words, or a text to print.
fn machine_options(args: &[String]) -> Result<Result<Box<Options>, String>, CliError> {
    match table::parse(args)? {
        table::Parsed::Print(text) => Ok(Err(text)),
        table::Parsed::Options(options) if options.icount.record_replay.is_some() => {
            Err(CliError("-icount rr=: the subcommand says it already".to_owned()))
        }
        table::Parsed::Options(options) => Ok(Ok(options)),
    }
}

/// How many of a subcommand's words are its own and not QEMU's.
fn count_own_words(name: &str, words: &[String]) -> usize {
    let mut count = 0;
    while let Some(word) = words.get(count) {
        count += match (name, word.as_str()) {
            ("record", "-o" | "--output" | "--digest-interval") => 2,
            ("record", "--force") => 1,
            ("record", word) if word.starts_with("--output=") || word.starts_with("--digest-interval=") => 1,
            ("replay", word) if count == 0 && !word.starts_with('-') => 1,
            ("record" | "replay", "--help" | "-h") if count == 0 => 1,
            ("record" | "replay", _) => return count.min(words.len()),
            _ => 1,
        };
    }
    count.min(words.len())
}

/// clap's message without its usage lines.
fn one_line(message: &str) -> String {
    let head = message.split("\n\nUsage").next().unwrap_or(message);
    let text = head.split_whitespace().collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sub(line: &str) -> Result<Subcommand, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words) {
            Ok(Command::Sub(sub)) => Ok(sub),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(CliError(why)) => Err(why),
        }
    }

    #[test]
    fn record_takes_its_words_and_those_of_qemu() {
        for line in ["record -o d --force -m 512 -kernel k", "record --force --output=d -m 512 -kernel k"] {
            let Ok(Subcommand::Record { words, options }) = sub(line) else { panic!("{line}") };
            assert_eq!((words.force, words.digest_interval), (true, 10_000_000));
            assert_eq!((words.output, options.ram_bytes), (PathBuf::from("d"), Some(512 << 20)));
        }
        assert!(
            sub("record -m 512").unwrap_err().contains("--output"),
            "{}",
            sub("record -m 512").unwrap_err()
        );
        assert!(sub("record -o d -icount rr=replay,rrfile=x").is_err());
    }

    #[test]
    fn replay_takes_a_directory_and_options() {
        let Ok(Subcommand::Replay { recording, options }) = sub("replay d -serial null -S") else { panic!() };
        assert_eq!(recording, PathBuf::from("d"));
        assert!(options.start_paused);
        assert!(sub("replay").is_err());
        assert!(sub("replay d e f").is_err());
    }

    #[test]
    fn the_others() {
        assert!(matches!(sub("verify d --json"), Ok(Subcommand::Verify(Inspect { json: true, .. }))));
        assert!(matches!(sub("vcpu --setup-fd=5"), Ok(Subcommand::Vcpu { setup_fd: 5 })));
        assert!(
            matches!(sub("device chardev --chardev=null"), Ok(Subcommand::Device(words)) if words.len() == 2)
        );
        assert!(
            matches!(sub("commit d --disk x"), Ok(Subcommand::Commit(words)) if words.disk.as_deref() == Some("x"))
        );
        let Ok(Subcommand::Export(words)) = sub("export pcap d -o f --nic n") else { panic!() };
        assert_eq!((words.output, words.nic.as_deref()), (Some("f".into()), Some("n")));
        assert!(sub("export d").is_err() && sub("export").is_err());
        let message = sub("info").unwrap_err();
        assert!(!message.contains('\n'), "{message}");
    }
}
