//! A client of a monitor, for tests.

use crate::lab;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PROMPT: &str = "(reprise) ";

/// A client of a monitor on a UNIX socket.
pub struct Monitor {
    stream: UnixStream,
}

impl Monitor {
    /// Connects as soon as the socket is there, and reads the greeting.
    pub fn connect(path: &Path) -> Monitor {
        let stream = lab::connect(path);
        let mut monitor = Monitor { stream };
        let greeting = monitor.answer();
        assert!(greeting.contains("monitor"), "{greeting}");
        monitor
    }

    /// How long an answer may take.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    pub fn send(&mut self, line: &str) {
        // The run may have ended; the answer will show it.
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    pub fn answer(&mut self) -> String {
        self.try_answer().expect("the monitor closed")
    }

    /// The answer, unless the run ends before it.
    pub fn try_answer(&mut self) -> Option<String> {
        let mut text = vec![];
        let mut bytes = [0; 4096];
        while !text.ends_with(PROMPT.as_bytes()) {
            match self.stream.read(&mut bytes) {
                Ok(count) if count > 0 => text.extend(&bytes[..count]),
                Ok(_) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&text)),
            }
        }
        text.truncate(text.len() - PROMPT.len());
        Some(String::from_utf8(text).unwrap().replace("\r\n", "\n"))
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()
    }

    /// The instruction count of `info replay`.
    pub fn icount(&mut self) -> u64 {
        let text = self.ask("info replay");
        text.trim_end().rsplit_once("= ").unwrap().1.parse().unwrap_or_else(|_| panic!("{text}"))
    }
}
