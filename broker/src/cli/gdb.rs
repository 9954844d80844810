//! Where a debugger is expected: `-gdb`, `-s` and the monitor's `gdbserver`.

use super::chardev::{self, Address, Backend, Target};
use std::fmt;

/// What `-s` and `gdbserver` without an argument mean.
pub const DEFAULT: &str = "tcp::1234";

/// A listening socket for debuggers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GdbDevice {
    /// Of the UNIX family.
    Unix {
        /// Its path.
        path: String,
    },
    /// Of the Internet.
    Tcp {
        /// Name or address; empty for this host alone.
        host: String,
        /// Port number; 0 for any that is free.
        port: u16,
    },
}

impl fmt::Display for GdbDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GdbDevice::Unix { path } => write!(f, "unix:{path}"),
            GdbDevice::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// Reads `tcp:[HOST]:PORT`, `unix:PATH` or `none`, with the options of a socket.
pub fn parse(text: &str) -> Result<Option<GdbDevice>, String> {
    const FORMS: &str = "tcp:[HOST]:PORT, unix:PATH or none";
    let kind = text.split_once([':', ',']).map_or(text, |(kind, _)| kind);
    if !matches!(kind, "tcp" | "unix" | "none") {
        return Err(format!("'{kind}' is not supported for gdb; use {FORMS}"));
    }
    let socket = match chardev::parse_target(text, "gdb")? {
        Target::None => return Ok(None),
        Target::New { chardev, .. } => match chardev.backend {
            Backend::Socket(socket) => socket,
            _ => return Err(format!("not supported for gdb; use {FORMS}")),
        },
        Target::Named(_) => return Err(format!("not supported for gdb; use {FORMS}")),
    };
    let asks_to_connect = text.split(',').any(|part| matches!(part, "server=off" | "server=no"));
    if asks_to_connect || socket.reconnect.is_some() {
        return Err("gdb connects to this end; server=off is not supported".to_owned());
    }
    match socket.address {
        Address::Unix { in_abstract: true, .. } => Err("abstract=on is not supported for gdb".to_owned()),
        Address::Unix { path, .. } => Ok(Some(GdbDevice::Unix { path })),
        Address::Tcp { host, port } => {
            let port = port.parse().map_err(|_| format!("'{port}' is not a port number"))?;
            Ok(Some(GdbDevice::Tcp { host, port }))
        }
        Address::Fd(_) => Err(format!("fd= is not supported for gdb; use {FORMS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_of_qemu() {
        let tcp = |host: &str, port| Ok(Some(GdbDevice::Tcp { host: host.to_owned(), port }));
        let unix = Ok(Some(GdbDevice::Unix { path: "g".to_owned() }));
        assert_eq!(parse(DEFAULT), tcp("", 1234));
        assert_eq!(parse("tcp:127.0.0.1:0,server=on,wait=off"), tcp("127.0.0.1", 0));
        assert_eq!(parse("unix:g"), unix);
        assert_eq!(parse("unix:g,server=on,wait=off"), unix);
        assert_eq!(parse("unix:g,server,nowait"), unix);
        assert_eq!(parse("none"), Ok(None));
    }

    #[test]
    fn other_devices_are_refused_by_name() {
        for text in
            ["stdio", "pty", "udp::1234", "telnet::1234", "chardev:c", "mon:stdio", "file:x", "null", ""]
        {
            let kind = text.split(':').next().unwrap_or_default();
            let why = parse(text).unwrap_err();
            assert!(why.contains(&format!("'{kind}' is not supported for gdb")), "{text}: {why}");
        }
        for text in ["tcp::gdb", "tcp::70000", "unix:g,server=off", "unix:g,abstract=on", "tcp:", "unix:"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
