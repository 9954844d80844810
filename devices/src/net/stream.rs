//! `stream`: a peer at the other end of a stream socket, UNIX, TCP or inherited; server or client.
//!
//! A server has one peer at a time; others wait in the backlog until it is gone. Without a peer frames are dropped, as by a wire
//! that is not plugged in. A peer that reads slowly makes the driver wait.

use super::frame::Frame;
use super::framing::{self, Decoded, Decoder};
use super::netdev::{Netdev, Sent};
use super::spec::StreamSpec;
use super::{CSUM_FEATURES, checksum};
use crate::chardev::connect::{self, Connector, Listening};
use crate::chardev::descriptor::not_now;
use crate::chardev::poller::Poller;
use crate::chardev::spec::Address;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{SockType as SocketType, TcpNoDelay};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send, setsockopt};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Encoded frames kept before they are sent together.
const OUTGOING_MAX: usize = 64 * 1024;
/// Bytes read at a time.
const READ_SIZE: usize = 64 * 1024;

/// The netdev.
pub struct Stream {
    label: String,
    listening: Option<Listening>,
    connector: Option<Connector>,
    peer: Option<Peer>,
    poller: Poller,
    runts: u64,
    buffer: Vec<u8>,
}

struct Peer {
    socket: OwnedFd,
    decoder: Decoder,
    outgoing: VecDeque<u8>,
    /// The socket may have bytes; false from "nothing now" to the next event.
    readable: bool,
}

impl Stream {
    /// Binds or connects.
    pub fn open(spec: &StreamSpec, label: &str) -> Result<Stream, String> {
        let mut stream = Stream {
            label: label.to_string(),
            listening: None,
            connector: None,
            peer: None,
            poller: Poller::new()?,
            runts: 0,
            buffer: vec![0; READ_SIZE],
        };
        match (&spec.address, spec.reconnect) {
            (Address::Inherited(number), _) => match connect::inherited(*number, label)? {
                connect::Inherited::Listening(listening) => stream.listen(listening)?,
                connect::Inherited::Connected(socket) => {
                    if getsockopt(&socket, SocketType) != Ok(SockType::Stream) {
                        let hint = "for datagrams use dgram,local.type=fd,local.str=";
                        return Err(format!(
                            "{label}: file descriptor {number} is no stream socket; {hint}{number}"
                        ));
                    }
                    stream.adopt(socket)?;
                }
            },
            (address, _) if spec.server => stream.listen(connect::listen(address, label)?)?,
            (address, Some(interval)) => {
                let connector = Connector::start(address.clone(), interval, label)?;
                connector.watch(&stream.poller)?;
                stream.connector = Some(connector);
            }
            (address, None) => {
                let socket = connect::connect(address).map_err(|error| {
                    format!("{label}: cannot connect to {}: {error}", connect::name(address))
                })?;
                stream.adopt(socket)?;
            }
        }
        Ok(stream)
    }

    fn listen(&mut self, listening: Listening) -> Result<(), String> {
        self.poller.watch(&listening)?;
        self.listening = Some(listening);
        Ok(())
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<(), String> {
        // UNIX sockets have no such option and need none.
        let _ = setsockopt(&socket, TcpNoDelay, &true);
        self.poller.watch(&socket)?;
        let (decoder, outgoing) = (Decoder::default(), VecDeque::new());
        self.peer = Some(Peer { socket, decoder, outgoing, readable: true });
        Ok(())
    }

    /// Takes the next peer if there is none.
    fn accept(&mut self) -> Result<(), String> {
        if self.peer.is_some() {
            return Ok(());
        }
        let arrived = match (&self.listening, &mut self.connector) {
            (Some(listening), _) => listening.accept(),
            (None, Some(connector)) => connector.take(),
            (None, None) => None,
        };
        arrived.map_or(Ok(()), |socket| self.adopt(socket))
    }

    fn hang_up(&mut self, why: &str) {
        self.peer = None;
        if let Some(connector) = &self.connector {
            connector.again();
        } else if self.listening.is_none() {
            eprintln!("reprise device: {}: {why}; the link is down", self.label);
        }
        // The next peer may be waiting already.
        self.poller.wake();
    }
}

impl Peer {
    /// Sends what is there; true: nothing is left.
    fn flush(&mut self) -> Result<bool, Errno> {
        while !self.outgoing.is_empty() {
            let bytes = self.outgoing.as_slices().0;
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match not_now(send(self.socket.as_raw_fd(), bytes, flags))? {
                Some(count) => drop(self.outgoing.drain(..count)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads once. False: nothing now.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        if !self.readable {
            return Ok(false);
        }
        match not_now(recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)) {
            Ok(Some(0)) => Err("the peer hung up".into()),
            Ok(Some(count)) => {
                self.decoder.push(&buffer[..count]);
                Ok(true)
            }
            Ok(None) => {
                self.readable = false;
                Ok(false)
            }
            Err(error) => Err(format!("the peer is gone: {}", error.desc())),
        }
    }
}

impl Netdev for Stream {
    fn features(&self) -> u64 {
        CSUM_FEATURES
    }

    fn poll_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    fn attend(&mut self) -> Result<(), String> {
        self.poller.drain(0);
        if let Some(peer) = &mut self.peer {
            peer.readable = true;
        }
        self.accept()
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        let Some(peer) = &mut self.peer else { return Sent::Taken };
        if peer.outgoing.len() >= OUTGOING_MAX {
            match peer.flush() {
                Ok(true) => {}
                Ok(false) => return Sent::NotNow,
                Err(error) => {
                    self.hang_up(error.desc());
                    return Sent::Taken;
                }
            }
        }
        if !checksum::complete(frame) {
            return Sent::Refused;
        }
        framing::encode(frame.ethernet(), &mut peer.outgoing);
        Sent::Taken
    }

    fn receive(&mut self) -> Option<Frame> {
        loop {
            let peer = self.peer.as_mut()?;
            let why = match peer.decoder.pull() {
                Decoded::Frame(frame) => return Some(frame),
                Decoded::Runt => {
                    self.runts += 1;
                    continue;
                }
                Decoded::Nonsense(length) => format!("the peer announces a frame of {length} bytes"),
                Decoded::Nothing => match peer.read(&mut self.buffer) {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(why) => why,
                },
            };
            self.hang_up(&why);
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        if let Some(peer) = &mut self.peer
            && let Err(error) = peer.flush()
        {
            self.hang_up(error.desc());
        }
        Ok(())
    }

    fn wake(&self) {
        self.poller.wake();
    }

    fn wait(&mut self, timeout_ms: u16) {
        self.poller.drain(timeout_ms);
    }

    fn is_flushed(&mut self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.outgoing.is_empty())
    }

    fn dropped(&self) -> u64 {
        self.runts
    }
}
