//! A bare client of gdb's remote protocol.

use crate::lab;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A client that does not acknowledge.
pub struct Stub {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Stub {
    /// Connects as soon as the socket is there. The machine stands still from the first answer on.
    pub fn connect(path: &Path) -> Stub {
        let stream = lab::connect(path);
        Stub { stream, unread: vec![] }
    }

    /// Connects and looks.
    pub fn attach(path: &Path) -> Stub {
        let mut stub = Stub::connect(path);
        assert_eq!(stub.ask("?"), "T05thread:01;");
        stub
    }

    /// How long an answer may take.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Writes what may be refused by a connection that has ended.
    pub fn try_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn send(&mut self, body: &str) {
        self.raw(&framed(body.as_bytes()));
    }

    /// The next packet, run lengths expanded; none when the connection ends.
    pub fn next(&mut self) -> Option<String> {
        loop {
            if let Some(body) = self.take() {
                return Some(body);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no packet: {error}"),
            }
        }
    }

    fn take(&mut self) -> Option<String> {
        let start = self.unread.iter().position(|byte| *byte == b'$')?;
        let end = start + self.unread[start..].iter().position(|byte| *byte == b'#')?;
        if self.unread.len() < end + 3 {
            return None;
        }
        let body = self.unread[start + 1..end].to_vec();
        self.unread.drain(..end + 3);
        let mut text: Vec<u8> = vec![];
        let mut bytes = body.into_iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' => {
                    let count = bytes.next().unwrap() - 29;
                    let last = *text.last().unwrap();
                    text.extend(std::iter::repeat_n(last, count.into()));
                }
                byte => text.push(byte),
            }
        }
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    pub fn answer(&mut self) -> String {
        self.next().expect("the connection has ended")
    }

    pub fn ask(&mut self, body: &str) -> String {
        self.send(body);
        self.answer()
    }

    /// A register by its number in the description.
    fn register(&mut self, number: usize) -> u64 {
        let text = self.ask(&format!("p{number:x}"));
        let bytes = (0..8).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap());
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(byte))
    }

    pub fn icount(&mut self) -> u64 {
        self.register(82)
    }

    pub fn rip(&mut self) -> u64 {
        self.register(16)
    }

    /// A command of the monitor.
    pub fn monitor(&mut self, line: &str) -> String {
        let digits: String = line.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut answer = self.ask(&format!("qRcmd,{digits}"));
        let mut text = String::new();
        while let Some(digits) = answer.strip_prefix('O').filter(|rest| *rest != "K") {
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            text.push_str(&String::from_utf8(bytes).unwrap());
            answer = self.answer();
        }
        assert_eq!(answer, "OK", "{line}");
        text
    }
}

/// A packet with its frame.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}
