//! A program under test: its output is collected, its end has a deadline, and all of its tree is gone when it is dropped.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One process: a number can be given out again, a number with its start time cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    started: u64,
    pub words: String,
}

impl Process {
    fn of(pid: i32) -> Option<(Process, i32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(fields[0], "Z" | "X") {
            return None;
        }
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let process = Process { pid, started: fields[19].parse().ok()?, words };
        Some((process, fields[1].parse().ok()?))
    }

    /// It still runs.
    pub fn lives(&self) -> bool {
        Process::of(self.pid).is_some_and(|(now, _)| now.started == self.started)
    }

    /// Sends a signal unless it is gone.
    pub fn signal(&self, signal: Signal) {
        if self.lives() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// A process and all that descend from it.
fn tree(root: i32) -> Vec<Process> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<(Process, i32)> = pids.filter_map(Process::of).collect();
    let mut found: Vec<Process> = all.iter().filter(|(p, _)| p.pid == root).map(|(p, _)| p.clone()).collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next].pid;
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(p, _)| p.clone()));
        next += 1;
    }
    found
}

type Buffer = Arc<Mutex<Vec<u8>>>;

/// A running program.
pub struct Child {
    /// The command line, for messages.
    words: String,
    child: std::process::Child,
    stdin: Option<ChildStdin>,
    out: Buffer,
    err: Buffer,
    drains: Vec<JoinHandle<()>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Done {
    words: String,
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
}

fn drain(mut stream: impl Read + Send + 'static, into: &Buffer) -> JoinHandle<()> {
    let into = Arc::clone(into);
    thread::spawn(move || {
        let mut bytes = [0; 65536];
        while let Ok(count) = stream.read(&mut bytes) {
            if count == 0 {
                return;
            }
            into.lock().unwrap().extend(&bytes[..count]);
        }
    })
}

impl Child {
    /// Takes over a program that was started with three pipes.
    pub fn new(words: String, mut child: std::process::Child) -> Child {
        let (out, err) = (Buffer::default(), Buffer::default());
        let drains =
            vec![drain(child.stdout.take().unwrap(), &out), drain(child.stderr.take().unwrap(), &err)];
        let stdin = child.stdin.take();
        Child { words, child, stdin, out, err, drains }
    }

    pub fn out(&self) -> Vec<u8> {
        self.out.lock().unwrap().clone()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.lock().unwrap()).into_owned()
    }

    /// It and its descendants.
    pub fn tree(&self) -> Vec<Process> {
        tree(self.child.id() as i32)
    }

    /// The one process of the tree whose command line holds `word`.
    pub fn member(&self, word: &str) -> Process {
        let found = self.tree().into_iter().find(|process| process.words.contains(word));
        found.unwrap_or_else(|| panic!("{}: no process {word:?}", self.words))
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    pub fn type_bytes(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(bytes).unwrap_or_else(|error| panic!("{}: typing: {error}", self.words));
    }

    /// Types unless it has just ended.
    pub fn try_type(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes);
        }
    }

    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until its output satisfies `condition`.
    pub fn until(&mut self, what: &str, timeout: Duration, condition: impl Fn(&[u8]) -> bool) {
        let deadline = Instant::now() + timeout;
        while !condition(&self.out()) {
            let alive = self.is_alive();
            if condition(&self.out()) {
                return;
            }
            let (out, err) = (self.out(), self.err());
            let out = String::from_utf8_lossy(&out[out.len().saturating_sub(300)..]).into_owned();
            assert!(alive, "{}: ended before {what}; stdout ends {out:?}; stderr {err:?}", self.words);
            assert!(
                Instant::now() < deadline,
                "{}: no {what} after {timeout:?}; stdout ends {out:?}; stderr {err:?}",
                self.words
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `text` was written to stdout.
    pub fn until_text(&mut self, text: &str, timeout: Duration) {
        self.until(&format!("{text:?}"), timeout, |out| contains(out, text.as_bytes()));
    }

    /// Closes its input and waits for its end.
    pub fn end(mut self, timeout: Duration) -> Done {
        self.close_input();
        let deadline = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "{}: did not end within {timeout:?}; stdout {:?}; stderr {:?}",
                self.words,
                String::from_utf8_lossy(&self.out()),
                self.err()
            );
            thread::sleep(Duration::from_millis(3));
        };
        // A descendant that outlives the program holds its pipes open; that is for the test to find, not to hang on.
        while !self.drains.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        Done { words: self.words.clone(), status, out: self.out(), err: self.err() }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let tree = self.tree();
        tree.iter().for_each(|process| process.signal(Signal::SIGKILL));
        let _ = self.child.wait();
    }
}

impl Done {
    /// Fails unless it ended with status 0.
    pub fn well(self) -> Done {
        self.with_status(0)
    }

    pub fn with_status(self, status: i32) -> Done {
        assert_eq!(self.code(), status, "{}: {:?}; stderr {:?}", self.words, self.text(), self.err);
        self
    }

    /// Its status; 128 and the signal if it was killed.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.words, self.text()))
    }

    /// Fails unless stdout is the same as another's.
    pub fn same_output(&self, other: &Done) {
        assert_same(&self.words, &other.out, &self.out);
    }
}

/// Whether `needle` is somewhere in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Fails at the first byte that differs.
pub fn assert_same(what: &str, recorded: &[u8], replayed: &[u8]) {
    let shared = recorded.iter().zip(replayed).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[shared.saturating_sub(20)..bytes.len().min(shared + 40)]).into_owned()
    };
    assert!(
        recorded == replayed,
        "{what}: output differs at byte {shared} of {} and {}: recorded {:?}, replayed {:?}",
        recorded.len(),
        replayed.len(),
        around(recorded),
        around(replayed)
    );
}

/// Fails unless all of these are gone soon.
pub fn assert_gone(processes: &[Process]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left: Vec<&Process> = processes.iter().filter(|process| process.lives()).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
