//! A monitor's end of a stream: frames to and from the device process that owns the stream (docs/devices.md).

use crate::cli::chardev::{Backend, Chardev};
use crate::hmp::host::{Host, Ticket};
use crate::hmp::session::Session;
use crate::qmp;
use crate::sequence::notices::Notice;
use crate::streams::Language;
use std::collections::VecDeque;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

const HEADER_BYTES: usize = 3;
/// More outstanding output than this: the monitor is not read before its reader catches up.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 4096;

/// When a stream's monitor begins a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greets {
    /// At once.
    Start,
    /// With each client.
    Connect,
    /// When the user first turns to it.
    Focus,
}

/// A conversation in either language.
#[derive(Debug)]
enum Conversation {
    Human(Session),
    Control(qmp::session::Session),
}

impl Conversation {
    fn begin(language: Language, terminal: bool) -> Conversation {
        match language {
            Language::Human => {
                let mut session = Session::new(terminal);
                session.greet();
                Conversation::Human(session)
            }
            Language::Control { pretty } => {
                let mut session = qmp::session::Session::new(pretty);
                session.greet();
                Conversation::Control(session)
            }
        }
    }

    fn has_room(&self) -> bool {
        match self {
            Conversation::Human(session) => session.has_room(),
            Conversation::Control(session) => session.has_room(),
        }
    }

    fn input(&mut self, bytes: &[u8], host: &mut dyn Host) {
        match self {
            Conversation::Human(session) => session.input(bytes, host),
            Conversation::Control(session) => session.input(bytes, host),
        }
    }

    fn ticket_done(&mut self, ticket: Ticket, host: &mut dyn Host) {
        match self {
            Conversation::Human(session) => session.ticket_done(ticket, host),
            Conversation::Control(session) => session.ticket_done(ticket, host),
        }
    }

    fn take_output(&mut self) -> Vec<u8> {
        match self {
            Conversation::Human(session) => session.take_output(),
            Conversation::Control(session) => session.take_output(),
        }
    }
}

/// A monitor on one stream.
#[derive(Debug)]
pub struct MonitorPort {
    socket: Option<UnixStream>,
    terminal: bool,
    greets: Greets,
    language: Language,
    session: Option<Conversation>,
    incoming: Vec<u8>,
    outgoing: VecDeque<u8>,
}

/// What the user did beside typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// Ctrl-a x.
    Quit,
}

impl MonitorPort {
    /// A monitor on `chardev`, whose device process is at the other end of `socket`; `shared` with a device.
    pub fn new(socket: UnixStream, chardev: &Chardev, language: Language, shared: bool) -> MonitorPort {
        let (terminal, greets) = match &chardev.backend {
            Backend::Stdio { .. } => (std::io::stdin().is_terminal(), Greets::Start),
            Backend::Pty => (true, Greets::Connect),
            Backend::Serial { .. } => (true, Greets::Start),
            // A telnet client leaves the echo to the server.
            Backend::Socket(socket) => (socket.telnet, Greets::Connect),
            Backend::Null | Backend::File { .. } | Backend::Pipe { .. } => (false, Greets::Start),
        };
        let greets = if shared { Greets::Focus } else { greets };
        let mut port = MonitorPort {
            socket: Some(socket),
            terminal,
            greets,
            language,
            session: None,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
        };
        if greets == Greets::Start {
            port.begin();
        }
        port
    }

    /// What to poll, and whether for input and output; `None` when the other end is gone.
    pub fn poll(&self) -> Option<(BorrowedFd<'_>, bool, bool)> {
        let socket = self.socket.as_ref()?;
        Some((socket.as_fd(), self.wants_input(), !self.outgoing.is_empty()))
    }

    fn wants_input(&self) -> bool {
        self.outgoing.len() < OUTPUT_BYTES_MAX && self.session.as_ref().is_none_or(Conversation::has_room)
    }

    /// Reads what is there and answers it.
    pub fn read(&mut self, host: &mut dyn Host) -> Wish {
        let mut wish = Wish::None;
        while self.wants_input() {
            let mut bytes = [0; READ_BYTES];
            match self.socket.as_ref().map(|mut socket| socket.read(&mut bytes)) {
                None => return wish,
                Some(Ok(count)) if count > 0 => self.incoming.extend(&bytes[..count]),
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => return wish,
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Some(Ok(_) | Err(_)) => {
                    self.socket = None;
                    return wish;
                }
            }
            while let Some((tag, payload)) = take_frame(&mut self.incoming) {
                if self.frame(tag, &payload, host) == Wish::Quit {
                    wish = Wish::Quit;
                }
            }
        }
        wish
    }

    /// Writes as much as is taken.
    pub fn write(&mut self) {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match self.socket.as_ref().map(|mut socket| socket.write(front)) {
                None => self.outgoing.clear(),
                Some(Ok(count)) if count > 0 => {
                    self.outgoing.drain(..count);
                }
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => return,
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Some(Ok(_) | Err(_)) => self.socket = None,
            }
        }
    }

    /// A request of the monitor is done.
    pub fn ticket_done(&mut self, ticket: Ticket, host: &mut dyn Host) {
        if let Some(session) = &mut self.session {
            session.ticket_done(ticket, host);
        }
        self.collect();
    }

    /// Time passes: a terminal is shown how far the machine is.
    pub fn tick(&mut self, host: &dyn Host, now: Instant) {
        if let Some(Conversation::Human(session)) = &mut self.session
            && self.outgoing.is_empty()
        {
            session.tick(host, now);
            self.collect();
        }
    }

    /// Something happened. Who does not read is told no more than there is room for.
    pub fn notice(&mut self, notice: &Notice) {
        if let Some(Conversation::Control(session)) = &mut self.session
            && self.outgoing.len() < OUTPUT_BYTES_MAX
        {
            session.notice(notice);
            self.collect();
        }
    }

    fn begin(&mut self) {
        self.session = Some(Conversation::begin(self.language, self.terminal));
        self.collect();
    }

    fn frame(&mut self, tag: u8, payload: &[u8], host: &mut dyn Host) -> Wish {
        match tag {
            b'I' => {
                if let Some(session) = &mut self.session {
                    session.input(payload, host);
                }
                self.collect();
            }
            b'C' => {
                // What was said before is for the client before.
                self.outgoing.extend(b"C\0\0");
                if self.greets == Greets::Connect {
                    self.begin();
                }
                self.write();
            }
            b'D' if self.greets == Greets::Connect => self.session = None,
            b'F' if payload == [1] && self.session.is_none() => self.begin(),
            b'X' => return Wish::Quit,
            // Connections of a shared stream are the console's; later versions may tell more.
            _ => {}
        }
        Wish::None
    }

    /// Frames the session's output.
    fn collect(&mut self) {
        let Some(session) = &mut self.session else { return };
        for part in session.take_output().chunks(usize::from(u16::MAX)) {
            self.outgoing.push_back(b'O');
            self.outgoing.extend((part.len() as u16).to_le_bytes());
            self.outgoing.extend(part);
        }
        self.write();
    }
}

/// Takes one whole frame off the front: tag, length (16 bits, little endian), payload.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let header = bytes.get(..HEADER_BYTES)?;
    let (tag, length) = (header[0], usize::from(u16::from_le_bytes([header[1], header[2]])));
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + length)?.to_vec();
    bytes.drain(..HEADER_BYTES + length);
    Some((tag, payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hmp::session::tests::Fake;
    use replay::setup::Mode;

    fn frame(tag: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((payload.len() as u16).to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    fn shown(socket: &mut UnixStream) -> String {
        let mut bytes = vec![0; 65536];
        let count = socket.read(&mut bytes).unwrap_or(0);
        bytes.truncate(count);
        let mut text = Vec::new();
        while let Some((tag, payload)) = take_frame(&mut bytes) {
            assert!(tag == b'O' || tag == b'C' && payload.is_empty());
            text.extend(payload);
        }
        String::from_utf8(text).unwrap()
    }

    fn port(device: &str, shared: bool) -> (MonitorPort, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let crate::cli::chardev::Target::New { chardev, .. } =
            crate::cli::chardev::parse_target(device, "m").unwrap()
        else {
            panic!("{device}")
        };
        (MonitorPort::new(ours, &chardev, Language::Human, shared), theirs)
    }

    #[test]
    fn each_client_gets_a_banner() {
        let mut host = Fake::new(Mode::Plain);
        let (mut port, mut device) = port("unix:x,server,nowait", false);
        assert_eq!(shown(&mut device), "");
        for _ in 0..2 {
            device.write_all(&frame(b'C', b"")).unwrap();
            // A frame may come in pieces.
            let input = frame(b'I', b"info status\n");
            device.write_all(&input[..5]).unwrap();
            assert_eq!(port.read(&mut host), Wish::None);
            assert!(shown(&mut device).contains("monitor - type 'help'"));
            device.write_all(&input[5..]).unwrap();
            port.read(&mut host);
            assert_eq!(shown(&mut device), "VM status: running\r\n(reprise) ");
            device.write_all(&frame(b'D', b"")).unwrap();
        }
    }

    #[test]
    fn a_shared_stream_is_greeted_at_first_focus() {
        let mut host = Fake::new(Mode::Plain);
        let (mut port, mut device) = port("mon:stdio", true);
        device.write_all(&frame(b'F', &[1])).unwrap();
        port.read(&mut host);
        assert!(shown(&mut device).ends_with("(reprise) "));
        device.write_all(&[frame(b'F', &[0]), frame(b'F', &[1])].concat()).unwrap();
        port.read(&mut host);
        assert_eq!(shown(&mut device), "");
        device.write_all(&frame(b'X', b"")).unwrap();
        assert_eq!(port.read(&mut host), Wish::Quit);
    }

    #[test]
    fn a_device_that_is_gone_is_not_polled() {
        let (mut port, device) = port("null", false);
        drop(device);
        port.read(&mut Fake::new(Mode::Plain));
        assert!(port.poll().is_none());
    }
}
