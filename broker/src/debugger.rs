//! The broker's part in debugging: the listening socket, and what a debugger asks of monitor and machine.
//!
//! A debugger talks to the vCPU process itself. The broker makes the socket, because a confined process cannot.

use crate::cli::gdb::GdbDevice;
use crate::hmp::commands::{Context, execute};
use crate::hmp::host::{Host, Ticket};
use crate::sequence::ending::End;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, umask};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// A socket on which debuggers are expected.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Its place in the file system, which ends with it.
    pub place: Place,
    /// A line for the user.
    pub warning: Option<String>,
}

/// A socket's path; removed when this is dropped.
#[derive(Debug, Default)]
pub struct Place(Option<PathBuf>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Somebody may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens on a device; an error is one line for the user.
pub fn listen(device: &GdbDevice) -> Result<Listener, String> {
    let failed = |error: std::io::Error| format!("gdb: cannot listen on {device}: {error}");
    match device {
        GdbDevice::Unix { path } => {
            let listener = bind_unix(path).map_err(failed)?;
            Ok(Listener { fd: listener.into(), place: Place(Some(path.into())), warning: None })
        }
        GdbDevice::Tcp { host, port } => {
            let host = if host.is_empty() { "127.0.0.1" } else { host };
            let addresses: Vec<_> = (host, *port).to_socket_addrs().map_err(failed)?.collect();
            let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            let warning = if !bound.ip().is_loopback() {
                Some(format!(
                    "warning: gdb: {device} is open to other hosts: whoever reaches it reads the guest's memory"
                ))
            } else if *port == 0 {
                Some(format!("gdb: listening on {bound}"))
            } else {
                None
            };
            Ok(Listener { fd: listener.into(), place: Place::default(), warning })
        }
    }
}

/// Binds with mode 0600, in place of a socket that an earlier process left behind.
fn bind_unix(path: &str) -> std::io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|status| status.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::from(std::io::ErrorKind::AddrInUse));
        }
        std::fs::remove_file(path)?;
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// What is known of debuggers in a run.
#[derive(Debug, Default)]
pub struct Debugger {
    control: Option<OwnedFd>,
    place: Place,
    attached: bool,
    /// The run has come to its end, and a debugger still looks at it.
    kept: Option<End>,
    /// Commands with their numbers.
    lines: VecDeque<(u64, String)>,
    /// The request for which a command's answer waits, the command's number, and the answer so far.
    waiting: Option<(Ticket, u64, String)>,
}

impl Debugger {
    /// `control` hands descriptors to the vCPU process; `place` is that of the socket that it has already.
    pub fn new(control: Option<OwnedFd>, place: Place) -> Debugger {
        Debugger { control, place, ..Debugger::default() }
    }

    /// Hands a new socket to the vCPU process, or notes that there is none any more.
    pub fn replace(&mut self, listener: Option<Listener>) -> Result<(), String> {
        let Some(listener) = listener else {
            self.place = Place::default();
            return Ok(());
        };
        let control = self.control.as_ref().ok_or("there is no vcpu process to debug")?;
        let message = [ControlMessage::ScmRights(&[listener.fd.as_raw_fd()])];
        sendmsg::<()>(control.as_raw_fd(), &[IoSlice::new(b"g")], &message, MsgFlags::MSG_DONTWAIT, None)
            .map_err(|error| format!("cannot hand the socket over: {}", error.desc()))?;
        self.place = listener.place;
        if let Some(warning) = listener.warning {
            eprintln!("reprise: {warning}");
        }
        Ok(())
    }

    /// A debugger came, or went. The end that was put off for it.
    pub fn set_attached(&mut self, attached: bool) -> Option<End> {
        self.attached = attached;
        if attached {
            return None;
        }
        self.lines.clear();
        self.waiting = None;
        self.kept.take()
    }

    /// Whether the end of a replay is put off, because a debugger looks at it.
    pub fn keeps(&mut self, end: &End) -> bool {
        if self.attached {
            self.kept = Some(end.clone());
        }
        self.attached
    }

    /// A command for the monitor.
    pub fn put_line(&mut self, number: u64, line: String) {
        self.lines.push_back((number, line));
    }

    /// The next command, if the one before is answered.
    pub fn next_line(&mut self) -> Option<(u64, String)> {
        if self.waiting.is_some() { None } else { self.lines.pop_front() }
    }

    /// The answer of the last command waits for a request.
    pub fn wait_for(&mut self, ticket: Ticket, number: u64, answer: String) {
        self.waiting = Some((ticket, number, answer));
    }

    /// The answer of the command that waited for this request.
    pub fn ticket_done(&mut self, ticket: Ticket) -> Option<(u64, String)> {
        match self.waiting.take() {
            Some((waited, number, text)) if waited == ticket => Some((number, text)),
            other => {
                self.waiting = other;
                None
            }
        }
    }
}

/// Carries a command out: its answer, and the request for which the answer waits.
pub fn command(line: &str, host: &mut dyn Host) -> (String, Option<Ticket>) {
    let mut context = Context { host, history: &[], out: String::new(), wait: None, ended: false };
    execute(&mut context, line);
    (context.out, context.wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_private_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("g");
        let device = GdbDevice::Unix { path: path.to_str().unwrap().to_owned() };
        let listener = listen(&device).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let refused = listen(&device).unwrap_err();
        assert!(
            refused.starts_with("gdb: cannot listen on unix:") && refused.contains("in use"),
            "{refused}"
        );
        drop(listener);
        assert!(!path.exists());
        // One that was left behind is replaced.
        std::mem::forget(listen(&device).unwrap().place);
        assert!(listen(&device).is_ok());
    }

    #[test]
    fn a_busy_port_is_one_clear_line() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = listen(&GdbDevice::Tcp { host: String::new(), port }).unwrap_err();
        assert!(refused.starts_with(&format!("gdb: cannot listen on tcp::{port}: Address")), "{refused}");
    }

    #[test]
    fn only_a_port_for_other_hosts_warns() {
        let warning = |host: &str| {
            let device = GdbDevice::Tcp { host: host.to_owned(), port: 0 };
            listen(&device).unwrap().warning.unwrap_or_default()
        };
        assert!(warning("").starts_with("gdb: listening on 127.0.0.1:"));
        assert!(warning("0.0.0.0").contains("open to other hosts"));
    }

    #[test]
    fn an_end_is_put_off_while_a_debugger_looks() {
        let mut debugger = Debugger::default();
        assert!(!debugger.keeps(&End::Replayed));
        assert_eq!(debugger.set_attached(true), None);
        assert!(debugger.keeps(&End::Replayed));
        assert_eq!(debugger.set_attached(false), Some(End::Replayed));
        assert_eq!(debugger.set_attached(false), None);
    }
}
