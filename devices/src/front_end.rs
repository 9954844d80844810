//! How a device program meets its front-end: the options every kind has, and the socket they name.

use crate::lifetime::{Stop, handle_signals};
use crate::relay;
use crate::serve;
use clap::error::Error as ClapError;
use clap::{Args, Parser};
use replay::inherit;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Options of every kind of device.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Listening UNIX socket on which the front-end connects.
    #[arg(long, value_name = "N", conflicts_with_all = ["socket_path", "fd"])]
    pub listen_fd: Option<RawFd>,
    /// UNIX socket to make and listen on.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<String>,
    /// UNIX socket that is connected to the front-end.
    #[arg(long, value_name = "N")]
    pub fd: Option<RawFd>,
    /// Gets one byte when the device is ready.
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<RawFd>,
    /// Name in messages.
    #[arg(long, value_name = "ID")]
    pub label: Option<String>,
    /// Print what the back-end can do, as JSON.
    #[arg(long)]
    pub print_capabilities: bool,
}

/// Where the front-end is, or will be.
pub enum FrontEnd {
    /// It will connect here.
    Listening(UnixListener),
    /// It is at the other end.
    Connected(UnixStream),
}

/// Reads the arguments of one kind; `None`: help was asked for and printed.
pub fn parse<A: Parser>(
    program: &str,
    arguments: impl Iterator<Item = OsString>,
) -> Result<Option<A>, String> {
    match A::try_parse_from([OsString::from(program)].into_iter().chain(arguments)) {
        Ok(arguments) => Ok(Some(arguments)),
        Err(error) if !error.use_stderr() => print(&error).map(|()| None),
        Err(error) => Err(first_line(&error.to_string())),
    }
}

fn print(error: &ClapError) -> Result<(), String> {
    error.print().map_err(|error| error.to_string())
}

/// The first line of clap's message, without its prefix, and the names it lists below.
fn first_line(message: &str) -> String {
    let mut lines = message.lines();
    let line = lines.next().unwrap_or_default();
    let mut line = line.strip_prefix("error: ").unwrap_or(line).to_string();
    for name in lines.take_while(|line| line.starts_with("  ")) {
        line.push(' ');
        line.push_str(name.trim());
    }
    line
}

impl Common {
    /// Takes over the signals, before any other thread starts.
    pub fn take_signals(&self, stop: &Stop) -> Result<(), String> {
        handle_signals(stop.clone(), self.socket_path.is_none())
    }

    /// Opens the socket to the front-end, if one was named.
    pub fn open(&self) -> Result<Option<FrontEnd>, String> {
        let taken = |number: Option<RawFd>| number.map(inherit::take).transpose();
        if let Some(listener) = taken(self.listen_fd)? {
            return Ok(Some(FrontEnd::Listening(UnixListener::from(listener))));
        }
        if let Some(stream) = taken(self.fd)? {
            return Ok(Some(FrontEnd::Connected(UnixStream::from(stream))));
        }
        let Some(path) = &self.socket_path else { return Ok(None) };
        let listener = crate::chardev::connect::bind_unix(path, false);
        let listener = listener.map_err(|error| format!("cannot listen on '{path}': {error}"))?;
        Ok(Some(FrontEnd::Listening(listener)))
    }

    /// Takes over the descriptor that is told when the device is ready.
    pub fn take_ready(&self) -> Result<Option<OwnedFd>, String> {
        self.ready_fd.map(inherit::take).transpose()
    }
}

/// Says that the device is ready. A parent that does not listen any more will end us by other means.
pub fn tell_ready(ready: Option<OwnedFd>) {
    if let Some(ready) = ready {
        let _ = File::from(ready).write_all(b"R");
    }
}

/// Serves the front-end until it hangs up or `stop` is requested.
pub fn serve<B: serve::Backend>(
    front_end: FrontEnd,
    backend: B,
    label: &str,
    stop: &Stop,
) -> Result<(), String> {
    match front_end {
        FrontEnd::Listening(listener) => serve::serve(listener, backend, label, stop),
        FrontEnd::Connected(stream) => {
            let listener = relay::start(stream).map_err(|error| format!("{label}: {error}"))?;
            serve::serve(listener, backend, label, stop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[arg(long, required_unless_present = "print_capabilities")]
        thing: Option<String>,
        #[command(flatten)]
        common: Common,
    }

    fn refused(words: &[&str]) -> String {
        let words = words.iter().map(OsString::from);
        parse::<Program>("program", words).unwrap_err()
    }

    #[test]
    fn refusals_are_one_line_with_the_name() {
        assert!(refused(&["--thing=a", "--frob"]).contains("unexpected argument '--frob'"));
        assert!(refused(&[]).contains("--thing <THING>"));
        let both = refused(&["--thing=a", "--fd=3", "--listen-fd=4"]);
        assert!(both.contains("--listen-fd") && both.contains("--fd") && !both.contains('\n'), "{both}");
    }

    #[test]
    fn both_spellings_of_an_option() {
        let words = ["--thing", "a", "--label=b", "--fd", "7"].map(OsString::from);
        let program = parse::<Program>("program", words.into_iter()).unwrap().unwrap();
        assert_eq!((program.common.label.as_deref(), program.common.fd), (Some("b"), Some(7)));
        assert_eq!(program.thing.as_deref(), Some("a"));
    }
}
