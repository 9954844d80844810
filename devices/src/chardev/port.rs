//! The host side of a chardev: a stream, a log, and perhaps a monitor.
//!
//! Knows nothing of virtqueues: `console` moves bytes between it and the driver.

use super::escape::{Escapes, Focus, Key};
use super::log::Log;
use super::monitor::{MonitorLink, Received, Tag};
use super::outgoing::Outgoing;
use super::poller::Poller;
use super::stream::{Input, Presence, Stream};
use std::collections::VecDeque;

/// Keys kept for a console whose driver offers no buffers.
const TYPED_MAX: usize = 4096;
/// Bytes read from the stream at a time.
const READ_SIZE: usize = 4096;

/// Whose input the stream is.
pub enum Owner {
    /// The console's.
    Console,
    /// Console and monitor take turns with Ctrl-a.
    Both(Escapes),
    /// The monitor's.
    Monitor,
}

/// What was typed for the console while its driver had no buffer for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typed {
    Byte(u8),
    Break,
}

/// The host side.
pub struct Port {
    stream: Box<dyn Stream>,
    log: Option<Log>,
    poller: Poller,
    /// The stream may have input; false from "nothing now" to the next event.
    readable: bool,
    /// Output not taken yet.
    pub outgoing: Outgoing,
    typed: VecDeque<Typed>,
    monitor: Option<MonitorLink>,
    owner: Owner,
}

impl Port {
    /// A port over an open stream. A `monitor` must be there unless the stream is the console's alone.
    pub fn new(
        mut stream: Box<dyn Stream>,
        log: Option<Log>,
        monitor: Option<MonitorLink>,
        owner: Owner,
    ) -> Result<Port, String> {
        let poller = Poller::new()?;
        stream.watch(&poller)?;
        if let Some(link) = &monitor {
            poller.watch(link)?;
        }
        // Input and clients may have been there before the first event.
        poller.wake();
        let (outgoing, typed) = (Outgoing::default(), VecDeque::new());
        Ok(Port { stream, log, poller, readable: true, outgoing, typed, monitor, owner })
    }

    /// What to wait for.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Whether the monitor has not hung up.
    pub fn has_monitor(&self) -> bool {
        self.monitor.is_some()
    }

    /// After an event: connections, the monitor, keys that do not wait for the driver's buffers.
    pub fn attend(&mut self) {
        self.readable = true;
        while let Some(presence) = self.stream.attend() {
            if presence == Presence::Arrived && matches!(self.owner, Owner::Monitor) {
                // It is for the client before.
                self.outgoing.drop_all();
            }
            if let Some(monitor) = &mut self.monitor {
                monitor.send(if presence == Presence::Arrived { Tag::Arrived } else { Tag::Left }, &[]);
            }
        }
        if let Some(monitor) = &mut self.monitor {
            monitor.flush();
        }
        self.show_monitor_output();
        self.read_keys();
    }

    /// Takes monitor output as far as there is room for it.
    pub fn show_monitor_output(&mut self) {
        while self.outgoing.room() > 0 {
            let Some(monitor) = &mut self.monitor else { return };
            match monitor.receive() {
                Received::Output(bytes) => self.put(&bytes),
                Received::Nothing => return,
                Received::Gone => {
                    self.monitor = None;
                    if let Owner::Both(escapes) = &mut self.owner {
                        escapes.focus = Focus::Console;
                    }
                }
            }
        }
    }

    /// Appends output.
    pub fn put(&mut self, bytes: &[u8]) {
        match &mut self.owner {
            Owner::Both(escapes) => escapes.stamp(bytes, self.outgoing.bytes()),
            Owner::Console | Owner::Monitor => self.outgoing.bytes().extend_from_slice(bytes),
        }
    }

    /// Gives the host what it takes.
    pub fn write_out(&mut self) {
        self.outgoing.write_to(&mut *self.stream, self.log.as_mut());
    }

    /// Whether the host has taken all output.
    pub fn is_flushed(&mut self) -> bool {
        self.stream.flush() && self.outgoing.is_empty()
    }

    /// Whether `next_input` may have something.
    pub fn may_have_input(&self) -> bool {
        !self.typed.is_empty() || (matches!(self.owner, Owner::Console) && self.readable)
    }

    /// Input for the console, at most `buffer`.
    pub fn next_input(&mut self, buffer: &mut [u8]) -> Option<Input> {
        if matches!(self.owner, Owner::Console) {
            return self.read(buffer);
        }
        if self.typed.front() == Some(&Typed::Break) {
            self.typed.pop_front();
            return Some(Input::Break);
        }
        let mut count = 0;
        while count < buffer.len() {
            let Some(&Typed::Byte(byte)) = self.typed.front() else { break };
            self.typed.pop_front();
            buffer[count] = byte;
            count += 1;
        }
        (count > 0).then_some(Input::Bytes(count))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<Input> {
        if !self.readable {
            return None;
        }
        let input = self.stream.read(buffer);
        self.readable = input.is_some();
        input
    }

    /// Reads the stream for its keys, where the console is not alone with it.
    pub fn read_keys(&mut self) {
        let mut buffer = [0; READ_SIZE];
        while self.takes_keys() {
            let Some(input) = self.read(&mut buffer) else { return };
            match (&self.owner, input) {
                (Owner::Console, _) => unreachable!("takes_keys is false for a console alone"),
                (Owner::Monitor, Input::Break) => {}
                (Owner::Monitor, Input::Bytes(count)) => self.tell_monitor(Tag::Input, &buffer[..count]),
                (Owner::Both(_), Input::Break) => self.type_for_console(Typed::Break),
                (Owner::Both(_), Input::Bytes(count)) => {
                    buffer[..count].iter().for_each(|&byte| self.key(byte))
                }
            }
        }
    }

    /// A user at a terminal sees that keys are lost and must always reach the monitor; a script is made to wait.
    fn takes_keys(&self) -> bool {
        let monitor_has_room = self.monitor.as_ref().is_none_or(MonitorLink::has_room);
        match self.owner {
            Owner::Console => false,
            Owner::Monitor => monitor_has_room,
            Owner::Both(_) => {
                monitor_has_room && (self.stream.is_interactive() || self.typed.len() < TYPED_MAX)
            }
        }
    }

    fn type_for_console(&mut self, typed: Typed) {
        if self.typed.len() < TYPED_MAX + READ_SIZE {
            self.typed.push_back(typed);
        }
    }

    fn tell_monitor(&mut self, tag: Tag, payload: &[u8]) {
        if let Some(monitor) = &mut self.monitor {
            monitor.send(tag, payload);
        }
    }

    fn key(&mut self, byte: u8) {
        let Owner::Both(escapes) = &mut self.owner else { return };
        match escapes.key(byte) {
            Key::Nothing => {}
            Key::Byte(byte) if escapes.focus == Focus::Monitor => self.tell_monitor(Tag::Input, &[byte]),
            Key::Byte(byte) => self.type_for_console(Typed::Byte(byte)),
            Key::Break => self.type_for_console(Typed::Break),
            Key::Say(text) => self.put(text.as_bytes()),
            Key::FocusChanged | Key::Exit if self.monitor.is_none() => {
                escapes.focus = Focus::Console;
                self.put(b"\r\nThe monitor is gone.\r\n");
            }
            Key::FocusChanged => {
                let monitor_has_it = escapes.focus == Focus::Monitor;
                self.tell_monitor(Tag::Focus, &[u8::from(monitor_has_it)]);
            }
            Key::Exit => self.tell_monitor(Tag::Exit, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::Socket;
    use super::super::spec::{Address, SocketSpec};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_for_one_client_is_not_shown_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let spec = SocketSpec {
            address: Address::Unix { path: path.display().to_string(), in_abstract: false },
            server: true,
            wait: false,
            telnet: false,
            nodelay: false,
            reconnect: None,
        };
        let (mut monitor, ours) = UnixStream::pair().unwrap();
        let stream = Box::new(Socket::open(&spec, "m").unwrap());
        let mut port = Port::new(stream, None, Some(MonitorLink::new(ours.into())), Owner::Monitor).unwrap();
        let mut turn = || {
            port.attend();
            port.write_out();
        };
        let first = UnixStream::connect(&path).unwrap();
        turn();
        monitor.write_all(b"C\0\0").unwrap();
        let mut second = UnixStream::connect(&path).unwrap();
        second.set_nonblocking(true).unwrap();
        // All of it is there at once when the port looks.
        monitor.write_all(b"O\x03\0old").unwrap();
        drop(first);
        turn();
        turn();
        monitor.write_all(b"C\0\0O\x03\0new").unwrap();
        turn();
        let mut shown = [0; 16];
        let count = second.read(&mut shown).unwrap();
        assert_eq!(&shown[..count], b"new");
    }
}
