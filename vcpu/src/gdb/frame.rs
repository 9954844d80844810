//! The frames of gdb's remote protocol: `$body#sum`, acknowledgements and the interrupt byte.

/// Longest packet. gdb is told so, and sends nothing longer.
pub const PACKET_MAX: usize = 16 << 10;

/// One unit of what a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A packet's body as it was sent, escapes and all; its checksum is right.
    Packet(Vec<u8>),
    /// A packet that did not come over well.
    Broken,
    /// A packet longer than `PACKET_MAX`.
    TooLong,
    /// Ctrl-C.
    Interrupt,
    /// The last answer did not come over well.
    Nack,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Between,
    Body,
    Sum(Option<u8>),
}

/// Finds packets in bytes.
#[derive(Debug, Default)]
pub struct Framer {
    state: State,
    body: Vec<u8>,
    too_long: bool,
}

impl Framer {
    /// Takes a byte; a unit if one is complete.
    pub fn push(&mut self, byte: u8) -> Option<Unit> {
        match (&self.state, byte) {
            (State::Between, b'$') | (State::Body, b'$') => {
                // A packet that begins anew takes the place of one that was not finished.
                self.body.clear();
                self.too_long = false;
                self.state = State::Body;
                None
            }
            (State::Between, 3) => Some(Unit::Interrupt),
            (State::Between, b'-') => Some(Unit::Nack),
            (State::Between, _) => None,
            (State::Body, b'#') => {
                self.state = State::Sum(None);
                None
            }
            (State::Body, byte) => {
                self.too_long |= self.body.len() == PACKET_MAX;
                if !self.too_long {
                    self.body.push(byte);
                }
                None
            }
            (State::Sum(None), byte) => {
                self.state = State::Sum(Some(byte));
                None
            }
            (State::Sum(Some(first)), second) => {
                let told = hex_digit(*first).zip(hex_digit(second)).map(|(high, low)| high << 4 | low);
                self.state = State::Between;
                let body = std::mem::take(&mut self.body);
                Some(match told {
                    _ if self.too_long => Unit::TooLong,
                    Some(sum) if sum == checksum(&body) => Unit::Packet(body),
                    _ => Unit::Broken,
                })
            }
        }
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Sum of a packet's bytes.
pub fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A packet as it is sent.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'$'];
    bytes.extend(body);
    bytes.extend(format!("#{:02x}", checksum(body)).into_bytes());
    bytes
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal digits.
pub fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(bytes: &[u8]) -> Vec<Unit> {
        let mut framer = Framer::default();
        bytes.iter().filter_map(|byte| framer.push(*byte)).collect()
    }

    #[test]
    fn packets_are_found_between_other_bytes() {
        let found = units(b"+$?#3f\x03noise-$g#67");
        let packet = |body: &[u8]| Unit::Packet(body.to_vec());
        assert_eq!(found, [packet(b"?"), Unit::Interrupt, Unit::Nack, packet(b"g")]);
    }

    #[test]
    fn broken_and_long_packets_are_told_apart() {
        assert_eq!(units(b"$g#68$g#zz$half$g#67"), [Unit::Broken, Unit::Broken, Unit::Packet(b"g".to_vec())]);
        let mut long = packet(&vec![b'x'; PACKET_MAX + 1]);
        long.extend(packet(b"g"));
        assert_eq!(units(&long), [Unit::TooLong, Unit::Packet(b"g".to_vec())]);
        assert_eq!(units(&packet(&vec![b'x'; PACKET_MAX])), [Unit::Packet(vec![b'x'; PACKET_MAX])]);
    }

    #[test]
    fn hexadecimal_digits_round_trip() {
        assert_eq!(from_hex(to_hex(&[0, 0x7f, 0xff]).as_bytes()), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(from_hex(b"abc"), None);
        assert_eq!(from_hex(b"+1"), None);
    }
}
