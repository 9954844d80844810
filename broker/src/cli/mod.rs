//! The command line: QEMU's own grammar, and subcommands beside it.
//!
//! Reading order: `options` (what a command line says), `table` (one row an option), `keyval` (key=value
//! lists), then the values that need a file of their own. Nothing here opens a file or starts a process, and
//! nothing is ignored in silence: what is not supported is an error that names it.

pub mod block;
pub mod chardev;
pub mod device;
pub mod drive;
pub mod gdb;
pub mod icount;
pub mod id;
pub mod keyval;
pub mod net;
pub mod object;
pub mod options;
pub mod refused;
pub mod rtc;
mod set;
mod set_hardware;
pub mod size;
pub mod subcommand;
pub mod table;
pub mod tree;

use options::Options;
use subcommand::Subcommand;

/// Name and version, as `-version` prints them.
pub const VERSION: &str = concat!("reprise ", env!("CARGO_PKG_VERSION"));

/// A command line that cannot be obeyed; one line for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CliError(pub String);

/// What the user asked for.
#[derive(Debug)]
pub enum Command {
    /// Run a machine described in QEMU's grammar.
    Run(Box<Options>),
    /// One of the subcommands.
    Sub(Subcommand),
    /// Print this text and end with status 0.
    Print(String),
}

/// Reads a command line without the program's name.
pub fn parse(args: &[String]) -> Result<Command, CliError> {
    if let Some(first) = args.first()
        && subcommand::NAMES.contains(&first.as_str())
    {
        return subcommand::parse(args);
    }
    Ok(match table::parse(args)? {
        table::Parsed::Options(options) => Command::Run(options),
        table::Parsed::Print(text) => Command::Print(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn version_does_not_claim_to_be_qemu() {
        let Ok(Command::Print(text)) = parse(&words("--version")) else { panic!("no version") };
        assert_eq!(text, "reprise 0.1.0\n");
    }

    #[test]
    fn a_subcommand_is_only_the_first_word() {
        assert!(matches!(parse(&words("info DIR")), Ok(Command::Sub(_))));
        assert!(matches!(parse(&words("-name info")), Ok(Command::Run(_))));
    }
}
