//! Ports for firmware and tests: debug console (0xe9), isa-debug-exit (0xf4), POST code (0x80).

use super::bytewise;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Port of the debug console; it reads back its own number, by which guests find it.
pub const CONSOLE_PORT: u16 = 0xe9;
/// Usual port of isa-debug-exit.
pub const EXIT_PORT: u16 = 0xf4;
/// Number of ports of isa-debug-exit.
pub const EXIT_PORT_COUNT: u16 = 4;
/// Port of the POST code display. Linux writes it as a delay.
pub const POST_PORT: u16 = 0x80;

/// Characters out, one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugConsole {
    output: Vec<u8>,
}

impl DebugConsole {
    /// Reads 0xe9 at any offset.
    pub fn read(&mut self, _offset: u64, size: u8, _now: Vtime) -> u64 {
        bytewise::read(0, size, |offset| if offset == 0 { CONSOLE_PORT as u8 } else { 0xff })
    }

    /// Takes one character; the owner takes the output after every write.
    pub fn write(&mut self, _offset: u64, _size: u8, value: u64, _now: Vtime) {
        self.output.push(value as u8);
    }

    /// Takes what the guest has written.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }
}

/// isa-debug-exit: a write ends the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugExit {
    value: Option<u32>,
}

impl DebugExit {
    /// Reads zero.
    pub fn read(&mut self, _offset: u64, _size: u8, _now: Vtime) -> u64 {
        0
    }

    /// Asks for the end; the first value written counts.
    pub fn write(&mut self, _offset: u64, size: u8, value: u64, _now: Vtime) {
        self.value.get_or_insert(bytewise::truncate(value, size.min(4)) as u32);
    }

    /// The value written, if any; the process ends with status `value << 1 | 1`.
    pub fn take_exit(&mut self) -> Option<u32> {
        self.value.take()
    }
}

/// The POST code register: keeps the last byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostCode {
    code: u8,
}

impl PostCode {
    /// Reads the last code.
    pub fn read(&mut self, _offset: u64, size: u8, _now: Vtime) -> u64 {
        bytewise::read(0, size, |offset| if offset == 0 { self.code } else { 0xff })
    }

    /// Shows a code.
    pub fn write(&mut self, _offset: u64, _size: u8, value: u64, _now: Vtime) {
        self.code = value as u8;
    }

    /// The last code shown.
    pub fn code(&self) -> u8 {
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Vtime = Vtime(0);

    #[test]
    fn console() {
        let mut console = DebugConsole::default();
        assert_eq!(console.read(0, 1, T0), 0xe9);
        for byte in b"ok" {
            console.write(0, 1, u64::from(*byte), T0);
        }
        assert_eq!(console.take_output(), b"ok");
        assert_eq!(console.take_output(), b"");
    }

    #[test]
    fn exit() {
        let mut exit = DebugExit::default();
        assert_eq!(exit.take_exit(), None);
        exit.write(0, 1, 0x1_ff10, T0);
        exit.write(0, 4, 3, T0);
        assert_eq!(exit.take_exit(), Some(0x10));
        exit.write(0, 4, 0x1234_5678, T0);
        assert_eq!(exit.take_exit(), Some(0x1234_5678));
    }

    #[test]
    fn post_code() {
        let mut post = PostCode::default();
        post.write(0, 1, 0xaa, T0);
        assert_eq!(post.read(0, 1, T0), 0xaa);
        assert_eq!(post.code(), 0xaa);
    }
}
