//! The device program as a process, and the images it is tried on.

use crate::driver::{Driver, PATIENCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A directory with images, in which devices run.
pub struct Lab {
    directory: TempDir,
}

pub struct Device {
    child: Child,
    socket: PathBuf,
}

/// The example, beside the tests, and not older than its sources: `--test block` alone does not build it.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
        let path = profile.join("examples/device");
        let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        let built = changed(&path).expect("`cargo build -p devices --examples` makes it");
        let sources = std::fs::read_to_string(path.with_extension("d")).unwrap_or_default();
        for source in sources.split_whitespace().skip(1) {
            let newer = changed(Path::new(source)).is_some_and(|time| time > built);
            assert!(!newer, "{} is newer: run `cargo build -p devices --examples`", source);
        }
        path
    })
}

impl Lab {
    pub fn new() -> Lab {
        Lab { directory: TempDir::with_prefix("reprise-block-").unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A raw image with a pattern.
    pub fn raw(&self, name: &str, bytes: usize) -> Vec<u8> {
        let contents = pattern(bytes);
        std::fs::write(self.path(name), &contents).unwrap();
        contents
    }

    /// Runs a tool of QEMU, which must succeed.
    pub fn tool(&self, line: &str) -> String {
        let output = self.try_tool(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a tool of QEMU: the words of a line, or those in quotes.
    pub fn try_tool(&self, line: &str) -> Output {
        let mut words = vec![];
        for (number, part) in line.split('\'').enumerate() {
            if number % 2 == 1 {
                words.push(part);
            } else {
                words.extend(part.split_whitespace());
            }
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.directory.path()).stdin(Stdio::null());
        command.output().unwrap_or_else(|error| panic!("{} (package qemu-utils): {error}", words[0]))
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(program());
        command.arg("block").args(line.split_whitespace()).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end; answers with what it prints.
    pub fn run(&self, line: &str) -> Result<String, String> {
        let output = self.command(line).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) if error.is_empty() => Ok(String::from_utf8(output.stdout).unwrap()),
            Some(1) if error.lines().count() == 1 => Err(error),
            other => panic!("{line}: {other:?}: {error}"),
        }
    }

    /// Runs a device that cannot start; answers with what it says.
    pub fn refused(&self, line: &str) -> String {
        let (status, text) = self.start_unready("refused", line).end();
        assert_eq!(status, Some(1), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
        text
    }

    /// Starts a device that will listen on `NAME.sock`.
    pub fn start_unready(&self, name: &str, line: &str) -> Device {
        let socket = self.path(&format!("{name}.sock"));
        // One that was killed leaves its own.
        let _ = std::fs::remove_file(&socket);
        let command = self.command(&format!("--socket-path={} {line}", socket.display()));
        self.spawn(name, command)
    }

    /// Runs a command that will listen on `NAME.sock`.
    pub fn spawn(&self, name: &str, mut command: Command) -> Device {
        Device { child: command.spawn().unwrap(), socket: self.path(&format!("{name}.sock")) }
    }

    /// Starts a device that listens on `NAME.sock`.
    pub fn start(&self, name: &str, line: &str) -> Device {
        let mut device = self.start_unready(name, line);
        let deadline = Instant::now() + PATIENCE;
        while !device.socket.exists() {
            if let Some(status) = device.child.try_wait().unwrap() {
                panic!("{line}: {status}: {}", device.stderr());
            }
            assert!(Instant::now() < deadline, "{line}: there is no socket");
            std::thread::sleep(Duration::from_millis(2));
        }
        device
    }

    /// Starts a device and a driver with all features.
    pub fn drive(&self, name: &str, line: &str) -> (Device, Driver) {
        let device = self.start(name, line);
        let driver = device.connect(1, u64::MAX);
        (device, driver)
    }

    /// What is in an image, by QEMU's judgement.
    pub fn contents(&self, name: &str, format: &str) -> Vec<u8> {
        self.tool(&format!("qemu-img convert -f {format} -O raw {name} {name}.contents"));
        std::fs::read(self.path(&format!("{name}.contents"))).unwrap()
    }
}

impl Device {
    pub fn connect(&self, queues: u16, mask: u64) -> Driver {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                // Bound, and not listening yet.
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.socket.display()),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Driver::start(stream, queues, mask)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; answers with status and what it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.stderr());
            }
            assert!(Instant::now() < deadline, "the device does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for an end in order.
    pub fn end_well(self) {
        assert_eq!(self.end(), (Some(0), String::new()));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        }
        text
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Ended already, or the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that differ from place to place and are nowhere zero for long.
pub fn pattern(bytes: usize) -> Vec<u8> {
    let words = 0..bytes.div_ceil(4) as u32;
    let mut pattern: Vec<u8> =
        words.flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    pattern.truncate(bytes);
    pattern
}
