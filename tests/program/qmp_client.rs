//! A client of QMP, for tests.

use crate::lab;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A client of QMP on a UNIX socket.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// Events that came before answers.
    pub events: Vec<Value>,
}

impl Qmp {
    /// Connects as soon as the socket is there, reads the greeting and negotiates.
    pub fn connect(path: &Path) -> Qmp {
        let mut qmp = Qmp::greeted(path);
        assert_eq!(qmp.ask("qmp_capabilities", json!({})), json!({}));
        qmp
    }

    /// The same without negotiation.
    pub fn greeted(path: &Path) -> Qmp {
        let stream = lab::connect(path);
        let mut qmp = Qmp { stream: BufReader::new(stream), events: vec![] };
        let greeting = qmp.read().unwrap();
        assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64(), "{greeting}");
        qmp
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The run may have ended; the answer will show it.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// The connection itself.
    pub fn stream(&mut self) -> &mut UnixStream {
        self.stream.get_mut()
    }

    /// The next value; none at the end of the connection.
    pub fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The next answer; events before it are put aside.
    pub fn answer(&mut self) -> Value {
        loop {
            let value = self.read().expect("QMP closed the connection");
            if value["event"].is_null() {
                return value;
            }
            self.events.push(value);
        }
    }

    /// The next event of this name, which may have come already.
    pub fn event(&mut self, name: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.drain(..=at).next_back().unwrap();
        }
        loop {
            let value = self.read().unwrap_or_else(|| panic!("no event {name}"));
            if value["event"] == name {
                return value;
            }
        }
    }

    /// Carries a command out that must succeed.
    pub fn ask(&mut self, name: &str, arguments: Value) -> Value {
        self.send(json!({"execute": name, "arguments": arguments}).to_string().as_bytes());
        let mut answer = self.answer();
        assert!(answer["error"].is_null(), "{name}: {answer}");
        answer["return"].take()
    }
}
