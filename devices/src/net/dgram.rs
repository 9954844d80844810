//! `dgram`: one frame a datagram, to one peer or a multicast group. Datagrams get lost; nobody waits for them.

use super::frame::{ETHERNET_HEADER_SIZE, FRAME_MAX, Frame};
use super::netdev::{Netdev, Sent};
use super::spec::DgramSpec;
use super::{CSUM_FEATURES, checksum};
use crate::chardev::poller::Poller;
use crate::lifetime;
use nix::sys::socket::sockopt::{ReuseAddr, SockType as SocketType};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrStorage, UnixAddr, bind, getsockopt,
    recv, send, sendto, setsockopt, socket,
};
use replay::inherit;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;

/// Where datagrams go.
enum Remote {
    /// Where the inherited socket is connected to.
    Connected,
    Internet(SockaddrStorage),
    Unix(UnixAddr),
}

/// The netdev.
pub struct Dgram {
    socket: OwnedFd,
    /// What sends, if it is another one: a socket bound to an address sends to a group by that address's interface.
    sender: Option<OwnedFd>,
    remote: Remote,
    poller: Poller,
    /// There may be datagrams; false from "nothing now" to the next event.
    readable: bool,
    dropped: u64,
    buffer: Vec<u8>,
}

impl Dgram {
    /// Binds the socket.
    pub fn open(spec: &DgramSpec, label: &str) -> Result<Dgram, String> {
        let mut sender = None;
        let (socket, remote) = match spec {
            DgramSpec::Unix { local, remote } => {
                let refused = |path: &str, why: &dyn std::fmt::Display| {
                    format!("{label}: cannot use the datagram socket '{path}': {why}")
                };
                let socket = bind_unix(local).map_err(|error| refused(local, &error))?;
                let address =
                    UnixAddr::new(remote.as_str()).map_err(|error| refused(remote, &error.desc()))?;
                (socket, Remote::Unix(address))
            }
            DgramSpec::Udp { local, remote } => {
                let refused = |side: &(String, u16), why: &io::Error| {
                    format!("{label}: cannot use udp {}:{}: {why}", side.0, side.1)
                };
                let to = resolve(remote).map_err(|error| refused(remote, &error))?;
                let socket =
                    resolve(local).and_then(UdpSocket::bind).map_err(|error| refused(local, &error))?;
                (socket.into(), Remote::Internet(to.into()))
            }
            DgramSpec::Multicast { group, port, local } => {
                let refused = |why: io::Error| {
                    format!("{label}: cannot join the multicast group {group}:{port}: {why}")
                };
                let socket = join(*group, *port, *local).map_err(refused)?;
                sender = local.map(sender_at).transpose().map_err(refused)?;
                let to = SocketAddr::V4(SocketAddrV4::new(*group, *port));
                (socket.into(), Remote::Internet(to.into()))
            }
            DgramSpec::Inherited(number) => {
                let socket = inherit::take(*number).map_err(|message| format!("{label}: {message}"))?;
                if getsockopt(&socket, SocketType) != Ok(SockType::Datagram) {
                    return Err(format!("{label}: file descriptor {number} is no datagram socket"));
                }
                (socket, Remote::Connected)
            }
        };
        let poller = Poller::new()?;
        poller.watch(&socket)?;
        // One byte more shows that a datagram was cut off.
        let buffer = vec![0; FRAME_MAX + 1];
        Ok(Dgram { socket, sender, remote, poller, readable: true, dropped: 0, buffer })
    }
}

/// Binds a UNIX datagram socket, in place of one that an earlier process left behind.
fn bind_unix(path: &str) -> io::Result<OwnedFd> {
    if std::fs::symlink_metadata(path).is_ok_and(|status| status.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let socket = UnixDatagram::bind(path)?;
    lifetime::remove_at_end(path.into());
    Ok(socket.into())
}

fn resolve((host, port): &(String, u16)) -> io::Result<SocketAddr> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let mut addresses = (host, *port).to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
}

/// A socket in a multicast group. Others on this host may be in it too, so the port is shared.
fn join(group: Ipv4Addr, port: u16, local: Option<Ipv4Addr>) -> io::Result<UdpSocket> {
    let new = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&new, ReuseAddr, &true)?;
    bind(new.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(group, port)))?;
    let joined = UdpSocket::from(new);
    joined.join_multicast_v4(&group, &local.unwrap_or(Ipv4Addr::UNSPECIFIED))?;
    joined.set_multicast_loop_v4(true)?;
    Ok(joined)
}

fn sender_at(local: Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = UdpSocket::bind((local, 0))?;
    socket.set_multicast_loop_v4(true)?;
    Ok(socket.into())
}

impl Netdev for Dgram {
    fn features(&self) -> u64 {
        CSUM_FEATURES
    }

    fn poll_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    fn attend(&mut self) -> Result<(), String> {
        self.poller.drain(0);
        self.readable = true;
        Ok(())
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if !checksum::complete(frame) {
            return Sent::Refused;
        }
        let socket = self.sender.as_ref().unwrap_or(&self.socket);
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        let sent = match &self.remote {
            Remote::Connected => send(fd, frame.ethernet(), flags),
            Remote::Internet(address) => sendto(fd, frame.ethernet(), address, flags),
            Remote::Unix(address) => sendto(fd, frame.ethernet(), address, flags),
        };
        if sent.is_ok() { Sent::Taken } else { Sent::Refused }
    }

    fn receive(&mut self) -> Option<Frame> {
        while self.readable {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(count @ ETHERNET_HEADER_SIZE..=FRAME_MAX) => {
                    return Some(Frame::from_ethernet(&self.buffer[..count], 0));
                }
                Ok(_) => self.dropped += 1,
                // Also the echo of a datagram that found nobody: the next event tells of the next one.
                Err(_) => self.readable = false,
            }
        }
        None
    }

    fn wake(&self) {
        self.poller.wake();
    }

    fn wait(&mut self, timeout_ms: u16) {
        self.poller.drain(timeout_ms);
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
