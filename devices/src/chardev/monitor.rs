//! The link to the broker's monitor when it shares a stream with the console, or has one to itself.
//!
//! Frames: tag, 16-bit little-endian length, payload (docs/devices.md).

use super::descriptor::not_now;
use nix::sys::socket::{MsgFlags, recv, send};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const HEADER_SIZE: usize = 3;
/// A monitor that does not read gets no more than this; then the stream is not read either.
const UNSENT_MAX: usize = 64 * 1024;

/// What a frame to the monitor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// Bytes typed.
    Input = b'I',
    /// Who has the focus: 1 the monitor, 0 the console.
    Focus = b'F',
    /// The user asked for the end.
    Exit = b'X',
    /// A client connected. The monitor answers with the same: output before its answer was for the client before.
    Arrived = b'C',
    /// The client hung up.
    Left = b'D',
    /// Output to be shown.
    Output = b'O',
}

/// One end of the link, on the side of the chardev.
pub struct MonitorLink {
    socket: OwnedFd,
    unsent: VecDeque<u8>,
    received: Vec<u8>,
    /// Connected clients of which the monitor does not know yet.
    unknown_clients: u32,
}

/// What came over the link.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Output to show.
    Output(Vec<u8>),
    /// Nothing now.
    Nothing,
    /// The monitor hung up.
    Gone,
}

impl MonitorLink {
    /// A link over a connected stream socket.
    pub fn new(socket: OwnedFd) -> MonitorLink {
        MonitorLink { socket, unsent: VecDeque::new(), received: Vec::new(), unknown_clients: 0 }
    }

    /// Sends a frame, or keeps it until the monitor reads.
    pub fn send(&mut self, tag: Tag, payload: &[u8]) {
        if tag == Tag::Arrived {
            self.unknown_clients += 1;
        }
        for part in payload.chunks(usize::from(u16::MAX)) {
            self.queue(tag, part);
        }
        if payload.is_empty() {
            self.queue(tag, payload);
        }
        self.flush();
    }

    fn queue(&mut self, tag: Tag, payload: &[u8]) {
        let length = u16::try_from(payload.len()).expect("callers split at u16::MAX");
        self.unsent.push_back(tag as u8);
        self.unsent.extend(length.to_le_bytes());
        self.unsent.extend(payload);
    }

    /// Whether the monitor takes more input.
    pub fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT_MAX
    }

    /// Sends what was kept.
    pub fn flush(&mut self) {
        while !self.unsent.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match not_now(send(self.socket.as_raw_fd(), self.unsent.as_slices().0, flags)) {
                Ok(Some(count)) => drop(self.unsent.drain(..count)),
                Ok(None) => return,
                // `receive` finds the hang-up.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// The next frame. An unknown tag ends the link: nothing after it could be trusted.
    pub fn receive(&mut self) -> Received {
        loop {
            if let Some(header) = self.received.first_chunk::<HEADER_SIZE>() {
                let end = HEADER_SIZE + usize::from(u16::from_le_bytes([header[1], header[2]]));
                let tag = header[0];
                if tag != Tag::Output as u8 && (tag != Tag::Arrived as u8 || self.unknown_clients == 0) {
                    return Received::Gone;
                }
                if self.received.len() >= end {
                    let frame: Vec<u8> = self.received.drain(..end).collect();
                    if tag == Tag::Arrived as u8 {
                        self.unknown_clients -= 1;
                    } else if self.unknown_clients == 0 {
                        return Received::Output(frame[HEADER_SIZE..].to_vec());
                    }
                    continue;
                }
            }
            let mut buffer = [0; 4096];
            match not_now(recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)) {
                Ok(Some(0)) | Err(_) => return Received::Gone,
                Ok(Some(count)) => self.received.extend_from_slice(&buffer[..count]),
                Ok(None) => return Received::Nothing,
            }
        }
    }
}

impl AsFd for MonitorLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn frames() {
        let (ours, mut monitor) = UnixStream::pair().unwrap();
        let mut link = MonitorLink::new(ours.into());
        link.send(Tag::Input, b"ab");
        link.send(Tag::Exit, b"");
        let mut bytes = [0; 8];
        monitor.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"I\x02\0abX\0\0");
        assert_eq!(link.receive(), Received::Nothing);
        monitor.write_all(b"O\x02").unwrap();
        assert_eq!(link.receive(), Received::Nothing);
        monitor.write_all(b"\0xyO\x01\0z").unwrap();
        assert_eq!(link.receive(), Received::Output(b"xy".to_vec()));
        assert_eq!(link.receive(), Received::Output(b"z".to_vec()));
        // What was for another client is not shown.
        link.send(Tag::Arrived, b"");
        monitor.write_all(b"O\x03\0oldC\0\0O\x03\0new").unwrap();
        assert_eq!(link.receive(), Received::Output(b"new".to_vec()));
        drop(monitor);
        assert_eq!(link.receive(), Received::Gone);
    }
}
