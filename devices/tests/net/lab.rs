//! The device program as a child process, and a driver connected to it.

use crate::driver::Driver;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tests take turns: a descriptor meant for one child must not reach another's.
static TURN: Mutex<()> = Mutex::new(());

pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn device(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
    let mut command = Command::new(profile.join("examples/device"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a device that cannot start; what it says on stderr.
pub fn refusal(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = device(arguments).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    text
}

/// Lets a descriptor be inherited under its own number.
pub fn inheritable(fd: &impl AsFd) -> String {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}

/// A running device.
pub struct Device {
    child: Child,
    socket: Option<UnixStream>,
}

impl Device {
    /// Starts a device and waits until it is ready. `arguments`: the kind and its options.
    pub fn start(arguments: &[&str]) -> Device {
        let (socket, for_child) = UnixStream::pair().unwrap();
        let (mut ready, ready_for_child) = UnixStream::pair().unwrap();
        let fd = format!("--fd={}", inheritable(&for_child));
        let ready_fd = format!("--ready-fd={}", inheritable(&ready_for_child));
        let child = device(&[arguments, &[&fd, &ready_fd]].concat()).spawn().unwrap();
        drop((for_child, ready_for_child));
        let mut byte = Vec::new();
        ready.read_to_end(&mut byte).unwrap();
        let mut device = Device { child, socket: Some(socket) };
        if byte != b"R" {
            panic!("not ready: {}", device.wait().1);
        }
        device
    }

    /// A network device on `netdev`.
    pub fn net(netdev: &str) -> Device {
        Device::start(&["net", &format!("--netdev={netdev}")])
    }

    /// The front-end's side of the connection.
    pub fn socket(&mut self) -> UnixStream {
        self.socket.take().expect("one driver a device")
    }

    /// A driver with two queues of 256.
    pub fn driver(&mut self, features: u64) -> Driver {
        Driver::connect(self.socket(), features, &[256, 256])
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// CPU time that the device has used, in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name in parentheses: state is the first field, user and system time the twelfth and thirteenth.
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Waits for the end; exit status (`None`: killed by a signal) and stderr.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }

    /// Hangs up and waits for an end without complaints.
    pub fn end(mut self, mut driver: Driver) {
        driver.hang_up();
        assert_eq!(self.wait(), (Some(0), String::new()));
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
