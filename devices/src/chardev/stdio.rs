//! Standard input and output, and terminal devices of the host.

use super::descriptor::{Descriptor, Sink, Source};
use super::poller::Poller;
use super::stream::{Input, Pair, Stream, open_path};
use super::terminal;
use nix::fcntl::OFlag;
use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The standard streams; a terminal is raw until the end of the process.
pub struct Stdio {
    pair: Pair,
    interactive: bool,
}

impl Stdio {
    /// Takes over stdin and stdout. `signals`: ^C reaches the host, not the guest.
    pub fn open(signals: bool, label: &str) -> Result<Stdio, String> {
        let copy = |fd: std::io::Result<OwnedFd>| {
            fd.map_err(|error| format!("{label}: cannot use standard input and output: {error}"))
        };
        let input = copy(stdin().as_fd().try_clone_to_owned())?;
        let output = copy(stdout().as_fd().try_clone_to_owned())?;
        let interactive = input.is_terminal();
        if interactive {
            terminal::make_raw(&input, signals)
                .map_err(|error| format!("{label}: cannot make the terminal raw: {}", error.desc()))?;
        }
        let source = Source::new(Some(Descriptor::shared(input, OFlag::O_RDONLY)));
        let sink = Sink::new(Descriptor::shared(output, OFlag::O_WRONLY), label);
        Ok(Stdio { pair: Pair::new(source, sink), interactive })
    }
}

impl Stream for Stdio {
    fn watch(&mut self, poller: &Poller) -> Result<(), String> {
        self.pair.watch(poller)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<Input> {
        self.pair.read(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        self.pair.write(bytes)
    }

    fn is_interactive(&self) -> bool {
        self.interactive
    }
}

/// A terminal device of the host, such as a serial port, raw until the end of the process.
pub fn open_serial(path: &Path, label: &str) -> Result<Box<dyn Stream>, String> {
    let input = open_path(path, OFlag::O_RDWR)?;
    terminal::make_raw(&input, false)
        .map_err(|error| format!("{label}: '{}' is no terminal: {}", path.display(), error.desc()))?;
    let output = input.try_clone().map_err(|error| format!("{label}: '{}': {error}", path.display()))?;
    let source = Source::new(Some(Descriptor::own(input)));
    Ok(Box::new(Pair::new(source, Sink::new(Descriptor::own(output), label))))
}
