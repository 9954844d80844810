//! How a socket chardev gets its sockets: binding, connecting, trying again, taking an inherited one.

use super::poller::Poller;
use super::spec::{Address, Family};
use crate::lifetime;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt};
use nix::sys::stat::{Mode, umask};
use replay::inherit;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// A bound, listening socket.
pub enum Listening {
    /// UNIX domain.
    Unix(UnixListener, String),
    /// TCP.
    Tcp(TcpListener, String),
}

impl Listening {
    /// The address, in QEMU's form.
    pub fn name(&self) -> &str {
        match self {
            Listening::Unix(_, name) | Listening::Tcp(_, name) => name,
        }
    }

    /// The next client, if one is waiting.
    pub fn accept(&self) -> Option<OwnedFd> {
        match self {
            Listening::Unix(listener, _) => listener.accept().ok().map(|(stream, _)| stream.into()),
            Listening::Tcp(listener, _) => listener.accept().ok().map(|(stream, _)| stream.into()),
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listening::Unix(listener, _) => listener.as_fd(),
            Listening::Tcp(listener, _) => listener.as_fd(),
        }
    }
}

/// A socket that the parent process handed down.
pub enum Inherited {
    /// With a peer.
    Connected(OwnedFd),
    /// Waiting for one.
    Listening(Listening),
}

/// An address in QEMU's form: `unix:PATH`, `tcp:HOST:PORT`.
pub fn name(address: &Address) -> String {
    match address {
        Address::Unix { path, in_abstract: false } => format!("unix:{path}"),
        Address::Unix { path, in_abstract: true } => format!("unix:@{path}"),
        Address::Tcp { host, port, .. } if host.contains(':') => format!("tcp:[{host}]:{port}"),
        Address::Tcp { host, port, .. } => format!("tcp:{host}:{port}"),
        Address::Inherited(number) => format!("fd:{number}"),
    }
}

/// Takes over descriptor `number`.
pub fn inherited(number: RawFd, label: &str) -> Result<Inherited, String> {
    let socket = inherit::take(number).map_err(|message| format!("{label}: {message}"))?;
    let no_socket = |_| format!("{label}: file descriptor {number} is no stream socket");
    let own: SockaddrStorage = getsockname(socket.as_raw_fd()).map_err(no_socket)?;
    if !getsockopt(&socket, AcceptConn).map_err(no_socket)? {
        return Ok(Inherited::Connected(socket));
    }
    let address = format!("fd:{number}");
    let listening = match own.family() {
        Some(AddressFamily::Unix) => Listening::Unix(socket.into(), address),
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Listening::Tcp(socket.into(), address),
        _ => return Err(format!("{label}: file descriptor {number} is neither a UNIX nor a TCP socket")),
    };
    make_nonblocking(&listening).map_err(|error| format!("{label}: {}: {error}", listening.name()))?;
    Ok(Inherited::Listening(listening))
}

fn make_nonblocking(listening: &Listening) -> io::Result<()> {
    match listening {
        Listening::Unix(listener, _) => listener.set_nonblocking(true),
        Listening::Tcp(listener, _) => listener.set_nonblocking(true),
    }
}

/// Binds `address` and listens. A UNIX socket is for its owner only and goes away with the process.
pub fn listen(address: &Address, label: &str) -> Result<Listening, String> {
    let failed = |error: io::Error| format!("{label}: cannot listen on {}: {error}", name(address));
    let listening = match address {
        Address::Unix { path, in_abstract } => {
            let listener = bind_unix(path, *in_abstract).map_err(failed)?;
            Listening::Unix(listener, name(address))
        }
        Address::Tcp { host, port, port_last, family } => {
            let listener = bind_tcp(host, *port, *port_last, *family).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Listening::Tcp(listener, format!("tcp:{bound}"))
        }
        Address::Inherited(number) => {
            return Err(format!("{label}: file descriptor {number} is bound already"));
        }
    };
    make_nonblocking(&listening).map_err(failed)?;
    Ok(listening)
}

/// Binds a UNIX socket with mode 0600, in place of one that an earlier process left behind.
pub fn bind_unix(path: &str, in_abstract: bool) -> io::Result<UnixListener> {
    if in_abstract {
        return UnixListener::bind_addr(&UnixAddress::from_abstract_name(path)?);
    }
    if std::fs::symlink_metadata(path).is_ok_and(|status| status.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    if listener.is_ok() {
        lifetime::remove_at_end(path.into());
    }
    listener
}

fn bind_tcp(host: &str, port: u16, port_last: u16, family: Family) -> io::Result<TcpListener> {
    let host = if host.is_empty() { if family == Family::V6 { "::" } else { "0.0.0.0" } } else { host };
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the range of ports is empty");
    for port in port..=port_last {
        match TcpListener::bind(&resolve(host, port, family)?[..]) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn resolve(host: &str, port: u16, family: Family) -> io::Result<Vec<SocketAddr>> {
    let wanted = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.filter(wanted).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no such address"));
    }
    Ok(addresses)
}

/// Connects to `address` and waits for it.
pub fn connect(address: &Address) -> io::Result<OwnedFd> {
    match address {
        Address::Unix { path, in_abstract: false } => UnixStream::connect(path).map(OwnedFd::from),
        Address::Unix { path, in_abstract: true } => {
            UnixStream::connect_addr(&UnixAddress::from_abstract_name(path)?).map(OwnedFd::from)
        }
        Address::Tcp { host, port, family, .. } => {
            let host = if host.is_empty() { "localhost" } else { host };
            TcpStream::connect(&resolve(host, *port, *family)?[..]).map(OwnedFd::from)
        }
        Address::Inherited(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Connects again and again on a thread of its own, because connecting can take minutes.
pub struct Connector {
    request: Sender<()>,
    connected: Receiver<OwnedFd>,
    event: Arc<EventFd>,
}

impl Connector {
    /// Starts with the first attempt; one that fails is repeated after `interval`.
    pub fn start(address: Address, interval: Duration, label: &str) -> Result<Connector, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{label}: cannot start connecting: {error}");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = Arc::new(EventFd::from_flags(flags).map_err(|error| failed(&error))?);
        let (request, requests) = channel();
        let (send, connected) = channel();
        let connector = Connector { request, connected, event: event.clone() };
        connector.again();
        let attempts = move || {
            while requests.recv().is_ok() {
                let socket = loop {
                    match connect(&address) {
                        Ok(socket) => break socket,
                        Err(_) => thread::sleep(interval),
                    }
                };
                // Both fail only at the end of the process.
                let _ = send.send(socket);
                let _ = event.write(1);
            }
        };
        thread::Builder::new().name("connect".into()).spawn(attempts).map_err(|error| failed(&error))?;
        Ok(connector)
    }

    /// Asks for another connection.
    pub fn again(&self) {
        // Fails only if the thread is gone, which lives as long as the connector.
        let _ = self.request.send(());
    }

    /// The connection, once there is one.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.connected.try_recv().ok()
    }

    /// Lets `poller` know of connections.
    pub fn watch(&self, poller: &Poller) -> Result<(), String> {
        poller.watch(&*self.event)
    }
}
