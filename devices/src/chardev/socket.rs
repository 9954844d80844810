//! A stream socket: UNIX, TCP or inherited; server or client; with or without telnet.
//!
//! A server has one client at a time; others wait in the backlog until it is gone, as in QEMU. Output without a client is dropped.

use super::connect::{self, Connector, Listening};
use super::descriptor::not_now;
use super::poller::Poller;
use super::spec::{Address, SocketSpec};
use super::stream::{Input, Presence, Stream};
use super::telnet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::TcpNoDelay;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Bytes encoded at a time for a telnet client.
const TELNET_CHUNK: usize = 4096;
/// How often a client that keeps sending is read at the end.
const UNREAD_READS_MAX: usize = 256;

/// A socket chardev.
pub struct Socket {
    label: String,
    telnet: bool,
    nodelay: bool,
    listening: Option<Listening>,
    connector: Option<Connector>,
    client: Option<Client>,
    /// Arrivals and departures that `attend` has not told yet.
    notices: VecDeque<Presence>,
    poller: Option<Poller>,
}

struct Client {
    socket: OwnedFd,
    telnet: Option<telnet::Decoder>,
    /// Encoded output that `write` took and the socket did not.
    backlog: VecDeque<u8>,
}

impl Socket {
    /// Binds or connects. With `wait` it returns when there is a client.
    pub fn open(spec: &SocketSpec, label: &str) -> Result<Socket, String> {
        let mut socket = Socket {
            label: label.to_string(),
            telnet: spec.telnet,
            nodelay: spec.nodelay,
            listening: None,
            connector: None,
            client: None,
            notices: VecDeque::new(),
            poller: None,
        };
        match (&spec.address, spec.reconnect) {
            (Address::Inherited(number), _) => match connect::inherited(*number, label)? {
                connect::Inherited::Listening(listening) => socket.listening = Some(listening),
                connect::Inherited::Connected(connected) => socket.adopt(connected),
            },
            (address, _) if spec.server => socket.listening = Some(connect::listen(address, label)?),
            (address, Some(interval)) => {
                socket.connector = Some(Connector::start(address.clone(), interval, label)?);
            }
            (address, None) => {
                let connected = connect::connect(address).map_err(|error| {
                    format!("{label}: cannot connect to {}: {error}", connect::name(address))
                })?;
                socket.adopt(connected);
            }
        }
        if spec.wait && socket.listening.is_some() {
            socket.wait_for_client()?;
        }
        Ok(socket)
    }

    fn wait_for_client(&mut self) -> Result<(), String> {
        let Some(listening) = &self.listening else { return Ok(()) };
        let name = match listening.name().strip_prefix("tcp:") {
            Some(address) if self.telnet => format!("telnet:{address}"),
            _ => listening.name().to_string(),
        };
        eprintln!("reprise device: {}: info: waiting for connection on: {name},server=on", self.label);
        while self.client.is_none() {
            let Some(listening) = &self.listening else { return Ok(()) };
            let mut fds = [PollFd::new(listening.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => self.accept(),
                Err(error) => return Err(format!("{}: cannot wait: {}", self.label, error.desc())),
            }
        }
        Ok(())
    }

    /// Takes the next client if there is none.
    fn accept(&mut self) {
        if self.client.is_some() {
            return;
        }
        let arrived = match (&self.listening, &mut self.connector) {
            (Some(listening), _) => listening.accept(),
            (None, Some(connector)) => connector.take(),
            (None, None) => None,
        };
        if let Some(socket) = arrived {
            self.adopt(socket);
        }
    }

    fn adopt(&mut self, socket: OwnedFd) {
        if self.nodelay {
            // UNIX sockets have no such option and need none.
            let _ = setsockopt(&socket, TcpNoDelay, &true);
        }
        let mut client = Client { socket, telnet: None, backlog: VecDeque::new() };
        if self.telnet {
            client.telnet = Some(telnet::Decoder::default());
            client.backlog.extend(telnet::GREETING);
        }
        if let Some(poller) = &self.poller
            && let Err(message) = poller.watch(&client.socket)
        {
            eprintln!("reprise device: {}: {message}", self.label);
            return;
        }
        client.flush();
        self.client = Some(client);
        self.notices.push_back(Presence::Arrived);
    }

    fn hang_up(&mut self) {
        self.client = None;
        self.notices.push_back(Presence::Left);
        if let Some(connector) = &self.connector {
            connector.again();
        }
        // The next client comes at the next event, so let there be one: what is on its way now is not for it.
        if let Some(poller) = &self.poller {
            poller.wake();
        }
    }
}

impl Client {
    /// Sends; `Some` with fewer bytes or `None` when the socket is full, an error when the client is gone.
    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        not_now(send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL))
    }

    /// Sends the backlog; true: nothing is left of it, or nobody to send it to.
    fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            let bytes = self.backlog.as_slices().0.to_vec();
            match self.send(&bytes) {
                Ok(Some(count)) => drop(self.backlog.drain(..count)),
                Ok(None) => return false,
                Err(_) => self.backlog.clear(),
            }
        }
        true
    }

    fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        if self.telnet.is_none() {
            return self.send(bytes);
        }
        if !self.flush() {
            return Ok(None);
        }
        let chunk = &bytes[..bytes.len().min(TELNET_CHUNK)];
        telnet::encode(chunk, &mut self.backlog);
        self.flush();
        Ok(Some(chunk.len()))
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        not_now(recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))
    }

    /// Input that is there; `Err`: the client is gone.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<Input>, Errno> {
        loop {
            if let Some(decoder) = &mut self.telnet
                && let Some(input) = decoder.pull(buffer)
            {
                return Ok(Some(input));
            }
            let Some(count) = self.receive(buffer)? else { return Ok(None) };
            if count == 0 {
                return Err(Errno::EPIPE);
            }
            match &mut self.telnet {
                None => return Ok(Some(Input::Bytes(count))),
                Some(decoder) => decoder.push(&buffer[..count]),
            }
        }
    }
}

impl Stream for Socket {
    fn watch(&mut self, poller: &Poller) -> Result<(), String> {
        if let Some(listening) = &self.listening {
            poller.watch(listening)?;
        }
        if let Some(connector) = &self.connector {
            connector.watch(poller)?;
        }
        if let Some(client) = &self.client {
            poller.watch(&client.socket)?;
        }
        self.poller = Some(poller.clone());
        Ok(())
    }

    fn attend(&mut self) -> Option<Presence> {
        self.accept();
        if let Some(client) = &mut self.client {
            client.flush();
        }
        self.notices.pop_front()
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<Input> {
        let result = self.client.as_mut()?.read(buffer);
        result.unwrap_or_else(|_| {
            self.hang_up();
            None
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        let Some(client) = &mut self.client else { return Some(bytes.len()) };
        client.write(bytes).unwrap_or_else(|_| {
            self.hang_up();
            Some(bytes.len())
        })
    }

    fn flush(&mut self) -> bool {
        self.client.as_mut().is_none_or(Client::flush)
    }
}

impl Drop for Socket {
    /// Lets a client read the last output: closing with unread input would make TCP throw it away.
    fn drop(&mut self) {
        let Some(client) = &mut self.client else { return };
        let _ = nix::sys::socket::shutdown(client.socket.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        let mut unread = [0; 4096];
        for _ in 0..UNREAD_READS_MAX {
            if !matches!(client.receive(&mut unread), Ok(Some(count)) if count > 0) {
                return;
            }
        }
    }
}
