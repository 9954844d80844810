//! The host side of a chardev: one trait, one file a kind.

use super::descriptor::{Descriptor, Sink, Source};
use super::poller::Poller;
use super::spec::{FileSpec, StreamSpec};
use super::{pty, socket, stdio};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Something read from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// This many bytes were put into the buffer.
    Bytes(usize),
    /// A break condition.
    Break,
}

/// Whether someone is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A client connected.
    Arrived,
    /// The client hung up.
    Left,
}

/// A byte stream of the host. Nothing here blocks once the stream is open.
///
/// Failures of the host side are reported on stderr by the stream, once; what cannot be delivered any more is dropped.
pub trait Stream: Send {
    /// Names the descriptors to wait for. Streams keep the poller for those that come later.
    fn watch(&mut self, poller: &Poller) -> Result<(), String>;

    /// Looks after connections; runs whenever a watched descriptor had an event.
    fn attend(&mut self) -> Option<Presence> {
        None
    }

    /// Input that is there now.
    fn read(&mut self, buffer: &mut [u8]) -> Option<Input>;

    /// Writes what fits; `None`: no room now, an event follows when there is.
    fn write(&mut self, bytes: &[u8]) -> Option<usize>;

    /// Passes on what `write` took but kept; false: not all yet.
    fn flush(&mut self) -> bool {
        true
    }

    /// Keys of a user, who can see that some were not taken.
    fn is_interactive(&self) -> bool {
        false
    }
}

/// Opens what `spec` says. Everything that can fail does so here, with one line that says what was tried.
pub fn open_stream(spec: &StreamSpec, label: &str) -> Result<Box<dyn Stream>, String> {
    match spec {
        StreamSpec::Stdio { signals } => Ok(Box::new(stdio::Stdio::open(*signals, label)?)),
        StreamSpec::File { output, input } => open_files(output, input.as_deref(), label),
        StreamSpec::Pipe { path } => open_pipe(path, label),
        StreamSpec::Pty => Ok(Box::new(pty::Pty::open(label)?)),
        StreamSpec::Serial { path } => stdio::open_serial(path, label),
        StreamSpec::Null => Ok(Box::new(Null)),
        StreamSpec::Socket(spec) => Ok(Box::new(socket::Socket::open(spec, label)?)),
    }
}

/// Input and output descriptors without connections.
pub struct Pair {
    source: Source,
    sink: Sink,
}

impl Pair {
    /// Reads from `source`, writes to `sink`.
    pub fn new(source: Source, sink: Sink) -> Pair {
        Pair { source, sink }
    }
}

impl Stream for Pair {
    fn watch(&mut self, poller: &Poller) -> Result<(), String> {
        if let Some(descriptor) = self.source.descriptor() {
            poller.watch(descriptor)?;
        }
        poller.watch(self.sink.descriptor())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<Input> {
        self.source.read(buffer).map(Input::Bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        self.sink.write(bytes)
    }
}

/// Takes everything and has nothing.
struct Null;

impl Stream for Null {
    fn watch(&mut self, _poller: &Poller) -> Result<(), String> {
        Ok(())
    }

    fn read(&mut self, _buffer: &mut [u8]) -> Option<Input> {
        None
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        Some(bytes.len())
    }
}

fn open_files(output: &FileSpec, input: Option<&Path>, label: &str) -> Result<Box<dyn Stream>, String> {
    let sink = Sink::new(Descriptor::own(open_output(output)?), label);
    let source = match input {
        Some(path) => Some(Descriptor::own(open_path(path, OFlag::O_RDONLY)?)),
        None => None,
    };
    Ok(Box::new(Pair::new(Source::new(source), sink)))
}

/// Opens a file for output as `-chardev file` and `logfile=` do.
pub fn open_output(spec: &FileSpec) -> Result<OwnedFd, String> {
    let start = if spec.append { OFlag::O_APPEND } else { OFlag::O_TRUNC };
    open_path(&spec.path, OFlag::O_WRONLY | OFlag::O_CREAT | start)
}

/// Opens `path` without blocking.
pub fn open_path(path: &Path, flags: OFlag) -> Result<OwnedFd, String> {
    let always = OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    open(path, flags | always, Mode::from_bits_truncate(0o666)).map_err(|error| match error {
        Errno::ENXIO => format!("cannot open '{}': nobody reads from it", path.display()),
        error => format!("cannot open '{}': {}", path.display(), error.desc()),
    })
}

/// `P.in` and `P.out` where both exist, else `P` both ways. Opened for both directions, so that neither open waits for a
/// peer and the pipe outlives readers and writers that come and go.
fn open_pipe(path: &Path, label: &str) -> Result<Box<dyn Stream>, String> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (input_path, output_path) = (with(".in"), with(".out"));
    let (input, output) = if input_path.exists() && output_path.exists() {
        (open_path(&input_path, OFlag::O_RDWR)?, open_path(&output_path, OFlag::O_RDWR)?)
    } else {
        let both = open_path(path, OFlag::O_RDWR)?;
        let copy = both.try_clone().map_err(|error| format!("cannot open '{}': {error}", path.display()))?;
        (both, copy)
    };
    let source = Source::new(Some(Descriptor::own(input)));
    Ok(Box::new(Pair::new(source, Sink::new(Descriptor::own(output), label))))
}
