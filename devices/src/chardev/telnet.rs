//! The telnet protocol as far as a terminal server needs it (RFC 854, 856, 857, 858).

use super::stream::Input;
use std::collections::VecDeque;

const IAC: u8 = 255;
const DO: u8 = 253;
const WILL: u8 = 251;
const SUBNEGOTIATION: u8 = 250;
const BREAK: u8 = 243;
const SUBNEGOTIATION_END: u8 = 240;
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;

/// What a server says first: characters one by one, eight bits, echoed by the guest.
pub const GREETING: [u8; 12] =
    [IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY];

/// Takes the protocol out of what a client sends. Requests of the client are read over: what we do was said first.
#[derive(Default)]
pub struct Decoder {
    state: State,
    after_return: bool,
    decoded: VecDeque<Decoded>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoded {
    Byte(u8),
    Break,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Command,
    Option,
    Subnegotiation,
    SubnegotiationCommand,
}

impl Decoder {
    /// Takes in bytes from the client.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Data, IAC) => State::Command,
                (State::Data, byte) => self.data(byte),
                (State::Command, IAC) => self.data(IAC),
                (State::Command, BREAK) => {
                    self.decoded.push_back(Decoded::Break);
                    State::Data
                }
                (State::Command, SUBNEGOTIATION) => State::Subnegotiation,
                (State::Command, WILL..=254) => State::Option,
                (State::Command, _) | (State::Option, _) => State::Data,
                (State::Subnegotiation, IAC) => State::SubnegotiationCommand,
                (State::Subnegotiation, _) => State::Subnegotiation,
                (State::SubnegotiationCommand, SUBNEGOTIATION_END) => State::Data,
                (State::SubnegotiationCommand, _) => State::Subnegotiation,
            };
        }
    }

    /// A carriage return is followed by NUL or a newline that are not typed (RFC 854, page 11).
    fn data(&mut self, byte: u8) -> State {
        let padding = std::mem::replace(&mut self.after_return, byte == b'\r') && matches!(byte, 0 | b'\n');
        if !padding {
            self.decoded.push_back(Decoded::Byte(byte));
        }
        State::Data
    }

    /// Whether there is nothing to pull.
    pub fn is_empty(&self) -> bool {
        self.decoded.is_empty()
    }

    /// Gives what was typed.
    pub fn pull(&mut self, buffer: &mut [u8]) -> Option<Input> {
        if self.decoded.front() == Some(&Decoded::Break) {
            self.decoded.pop_front();
            return Some(Input::Break);
        }
        let mut count = 0;
        while count < buffer.len() {
            let Some(&Decoded::Byte(byte)) = self.decoded.front() else { break };
            self.decoded.pop_front();
            buffer[count] = byte;
            count += 1;
        }
        (count > 0).then_some(Input::Bytes(count))
    }
}

/// Appends `bytes` to `out` with 255 doubled.
pub fn encode(bytes: &[u8], out: &mut VecDeque<u8>) {
    for &byte in bytes {
        out.push_back(byte);
        if byte == IAC {
            out.push_back(IAC);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_split_anywhere_are_taken_out() {
        let sent = b"a\xff\xfd\x01b\xff\xff\xff\xfa\x18\x00x\xff\xff\xff\xf0c\xff\xf1d\r\0e\r\nf";
        for split in 0..sent.len() {
            let mut decoder = Decoder::default();
            decoder.push(&sent[..split]);
            decoder.push(&sent[split..]);
            let mut buffer = [0; 32];
            assert_eq!(decoder.pull(&mut buffer), Some(Input::Bytes(9)), "split at {split}");
            assert_eq!(&buffer[..9], b"ab\xffcd\re\rf");
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn break_keeps_its_place() {
        let mut decoder = Decoder::default();
        decoder.push(b"x\xff\xf3y");
        let mut buffer = [0; 8];
        assert_eq!(decoder.pull(&mut buffer), Some(Input::Bytes(1)));
        assert_eq!(decoder.pull(&mut buffer), Some(Input::Break));
        assert_eq!(decoder.pull(&mut buffer), Some(Input::Bytes(1)));
        assert_eq!(decoder.pull(&mut buffer), None);
    }

    #[test]
    fn output_is_escaped() {
        let mut out = VecDeque::new();
        encode(b"\x01\xff\x02", &mut out);
        assert_eq!(out, b"\x01\xff\xff\x02");
    }
}
