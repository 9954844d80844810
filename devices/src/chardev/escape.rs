//! Ctrl-a on a stream that console and monitor share; the keys are QEMU's.

use std::fmt::Write;
use std::time::{Duration, Instant};

/// Ctrl-a.
const ESCAPE: u8 = 1;

/// Who gets what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// The guest's console.
    Console,
    /// The broker's monitor.
    Monitor,
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It is for whoever has the focus.
    Byte(u8),
    /// First half of an escape.
    Nothing,
    /// A break condition for the console.
    Break,
    /// The focus has changed.
    FocusChanged,
    /// The user asks for the end.
    Exit,
    /// Show this.
    Say(&'static str),
}

/// What Ctrl-a h shows.
const HELP: &str = "\r\n\
    Ctrl-a h       this text\r\n\
    Ctrl-a x       end the machine\r\n\
    Ctrl-a b       break (the kernel's magic SysRq)\r\n\
    Ctrl-a c       between the console and the monitor\r\n\
    Ctrl-a t       time stamps on and off\r\n\
    Ctrl-a Ctrl-a  a Ctrl-a for the guest\r\n";

/// State of the escapes.
pub struct Escapes {
    pending: bool,
    /// Who has the focus.
    pub focus: Focus,
    /// When time stamps were switched on; they count from there.
    stamps: Option<Instant>,
    at_line_start: bool,
}

impl Default for Escapes {
    /// The console has the focus.
    fn default() -> Escapes {
        Escapes { pending: false, focus: Focus::Console, stamps: None, at_line_start: true }
    }
}

impl Escapes {
    /// Takes one byte from the stream.
    pub fn key(&mut self, byte: u8) -> Key {
        if !self.pending {
            self.pending = byte == ESCAPE;
            return if self.pending { Key::Nothing } else { Key::Byte(byte) };
        }
        self.pending = false;
        match byte {
            ESCAPE => Key::Byte(ESCAPE),
            b'h' | b'?' => Key::Say(HELP),
            b'x' => Key::Exit,
            b'b' => Key::Break,
            b'c' => {
                self.focus = if self.focus == Focus::Console { Focus::Monitor } else { Focus::Console };
                Key::FocusChanged
            }
            b't' => {
                self.stamps = if self.stamps.is_none() { Some(Instant::now()) } else { None };
                Key::Nothing
            }
            b's' => Key::Say("\r\nDisks are written at once; there is nothing to save.\r\n"),
            _ => Key::Nothing,
        }
    }

    /// Appends `bytes` to `out`, with a time stamp at the start of each line if they are on.
    pub fn stamp(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(since) = self.stamps else {
            if let Some(last) = bytes.last() {
                self.at_line_start = *last == b'\n';
            }
            out.extend_from_slice(bytes);
            return;
        };
        for &byte in bytes {
            if self.at_line_start {
                out.extend_from_slice(time_stamp(since.elapsed()).as_bytes());
            }
            self.at_line_start = byte == b'\n';
            out.push(byte);
        }
    }
}

fn time_stamp(elapsed: Duration) -> String {
    let (seconds, milliseconds) = (elapsed.as_secs(), elapsed.subsec_millis());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    write!(text, "[{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}] ")
        .expect("writing to a String cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let mut escapes = Escapes::default();
        let keys: Vec<Key> = b"a\x01\x01\x01c\x01x\x01b\x01z".iter().map(|&byte| escapes.key(byte)).collect();
        assert_eq!(
            keys,
            [
                Key::Byte(b'a'),
                Key::Nothing,
                Key::Byte(1),
                Key::Nothing,
                Key::FocusChanged,
                Key::Nothing,
                Key::Exit,
                Key::Nothing,
                Key::Break,
                Key::Nothing,
                Key::Nothing
            ]
        );
        assert_eq!(escapes.focus, Focus::Monitor);
    }

    #[test]
    fn stamps_start_lines() {
        assert_eq!(time_stamp(Duration::from_millis(3_723_004)), "[01:02:03.004] ");
        let mut escapes = Escapes::default();
        let mut out = Vec::new();
        escapes.stamp(b"a\nb", &mut out);
        assert_eq!(out, b"a\nb");
        escapes.key(1);
        escapes.key(b't');
        out.clear();
        escapes.stamp(b"c\nd", &mut out);
        assert!(out.starts_with(b"c\n[00:00:0") && out.ends_with(b"] d"));
    }
}
