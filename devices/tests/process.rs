//! The device program as a process: start, ready byte, exit status, terminal, monitor frames.
//!
//! The process is the example `device`, which `cargo test` builds beside the tests.

#![allow(clippy::unwrap_used, reason = "clippy takes only #[test] functions for tests, not their helpers")]

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(20);

/// Tests take turns: a descriptor meant for one child must not reach another's.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
    let mut command = Command::new(profile.join("examples/device"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run_to_end(arguments: &[&str]) -> Output {
    device(arguments).output().unwrap()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SECONDS;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets a descriptor be inherited under its own number.
fn inheritable(fd: &impl AsFd) -> String {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn what_cannot_start_says_why_in_one_line() {
    let _turn = turn();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let busy = format!("--chardev=socket,host=127.0.0.1,port={port},server=on,wait=off");
    for (arguments, message) in [
        (vec!["frob"], "no device of kind 'frob'"),
        (
            vec!["chardev", "--chardev", "null"],
            "one of --listen-fd, --socket-path, --fd and --monitor-fd is missing",
        ),
        (vec!["chardev", "--frob"], "unexpected argument '--frob'"),
        (vec!["chardev", "--chardev=null", "--listen-fd=77"], "file descriptor 77: Bad file"),
        (
            vec!["chardev", "--chardev=file,path=/no/where", "--monitor-fd=1"],
            "cannot open '/no/where': No such",
        ),
        (vec!["chardev", "--label=com1", &busy, "--monitor-fd=1"], "com1: cannot listen on tcp:127.0.0.1"),
    ] {
        let output = run_to_end(&arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(message), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn ready_then_ended_by_sigterm_without_leaving_its_socket() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let (front, console) = (directory.path().join("front"), directory.path().join("console"));
    let (mut ready, for_child) = UnixStream::pair().unwrap();
    let mut child = device(&[
        "chardev",
        &format!("--chardev=socket,path={},server=on,wait=on", console.display()),
        &format!("--socket-path={}", front.display()),
        &format!("--ready-fd={}", inheritable(&for_child)),
    ])
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    drop(for_child);
    ready.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    let early = ready.read(&mut byte).expect_err("not ready before there is a client");
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    let _client = UnixStream::connect(&console).unwrap();
    ready.set_read_timeout(Some(SECONDS)).unwrap();
    ready.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"R");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!console.exists() && !front.exists(), "socket files are removed");
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains(&format!("waiting for connection on: unix:{}", console.display())), "{text}");
}

#[test]
fn the_terminal_is_raw_and_comes_back() {
    let _turn = turn();
    for (number, option, supervised) in [
        (Signal::SIGTERM, "", true),
        (Signal::SIGTERM, ",signal=off", false),
        (Signal::SIGINT, "", false),
        (Signal::SIGHUP, "", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let front = directory.path().join("front");
        let pair = openpty(None, None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("listener")).unwrap();
        let where_ = match supervised {
            true => format!("--listen-fd={}", inheritable(&listener)),
            false => format!("--socket-path={}", front.display()),
        };
        let terminal = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut child = device(&["chardev", &format!("--chardev=stdio{option}"), &where_])
            .stdin(terminal())
            .stdout(terminal())
            .spawn()
            .unwrap();
        wait_for("raw mode", || !tcgetattr(&pair.slave).unwrap().local_flags.contains(LocalFlags::ICANON));
        let raw = tcgetattr(&pair.slave).unwrap().local_flags;
        assert_eq!(raw.contains(LocalFlags::ISIG), option.is_empty());
        assert!(!raw.contains(LocalFlags::ECHO));
        if supervised {
            signal(&child, Signal::SIGINT);
            std::thread::sleep(Duration::from_millis(50));
            assert!(child.try_wait().unwrap().is_none(), "SIGINT is the broker's business");
        }
        signal(&child, number);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(tcgetattr(&pair.slave).unwrap(), before, "after {number}");
    }
}

#[test]
fn a_connected_front_end_that_hangs_up_ends_the_device() {
    let _turn = turn();
    let (mut ready, ready_for_child) = UnixStream::pair().unwrap();
    let (front_end, for_child) = UnixStream::pair().unwrap();
    let mut child = device(&[
        "chardev",
        "--chardev=null",
        &format!("--fd={}", inheritable(&for_child)),
        &format!("--ready-fd={}", inheritable(&ready_for_child)),
    ])
    .spawn()
    .unwrap();
    drop((for_child, ready_for_child));
    let mut byte = [0];
    ready.read_exact(&mut byte).unwrap();
    front_end.set_read_timeout(Some(SECONDS)).unwrap();
    let mut front_end = vhost::vhost_user::Frontend::from_stream(front_end, 2);
    vhost::VhostBackend::set_owner(&front_end).unwrap();
    let features = vhost::VhostBackend::get_features(&front_end).unwrap();
    assert_ne!(features & 1 << 32, 0, "it answers through the relay");
    let queues = vhost::vhost_user::VhostUserFrontend::get_protocol_features(&mut front_end);
    assert!(queues.unwrap().contains(vhost::vhost_user::message::VhostUserProtocolFeatures::MQ));
    assert!(child.try_wait().unwrap().is_none());
    drop(front_end);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Reads one frame.
fn frame(monitor: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; 3];
    monitor.read_exact(&mut header).unwrap();
    let mut payload = vec![0; usize::from(u16::from_le_bytes([header[1], header[2]]))];
    monitor.read_exact(&mut payload).unwrap();
    (header[0], payload)
}

fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end.as_bytes()) {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_stream_for_the_monitor_alone() {
    let _turn = turn();
    let (mut monitor, for_child) = UnixStream::pair().unwrap();
    let (mut user, console) = UnixStream::pair().unwrap();
    monitor.set_read_timeout(Some(SECONDS)).unwrap();
    user.set_read_timeout(Some(SECONDS)).unwrap();
    let mut child = device(&[
        "chardev",
        &format!("--chardev=socket,fd={}", inheritable(&console)),
        &format!("--monitor-fd={}", inheritable(&for_child)),
    ])
    .spawn()
    .unwrap();
    drop((console, for_child));
    assert_eq!(frame(&mut monitor), (b'C', vec![]));
    user.write_all(b"info \x01c\n").unwrap();
    assert_eq!(frame(&mut monitor), (b'I', b"info \x01c\n".to_vec()), "no escapes here");
    monitor.write_all(b"O\x03\0oldC\0\0O\x07\0(qemu) ").unwrap();
    assert_eq!(read_until(&mut user, ") "), "(qemu) ");
    monitor.write_all(b"O\x04\0bye\n").unwrap();
    drop(monitor);
    assert_eq!(read_until(&mut user, "\n"), "bye\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn console_and_monitor_share_a_terminal() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let front = directory.path().join("front");
    let (mut monitor, for_child) = UnixStream::pair().unwrap();
    monitor.set_read_timeout(Some(SECONDS)).unwrap();
    let pair = openpty(None, None).unwrap();
    let terminal = || Stdio::from(pair.slave.try_clone().unwrap());
    let mut child = device(&[
        "chardev",
        "--chardev=stdio,mux=on,signal=off",
        &format!("--socket-path={}", front.display()),
        &format!("--monitor-fd={}", inheritable(&for_child)),
    ])
    .stdin(terminal())
    .stdout(terminal())
    .spawn()
    .unwrap();
    drop(for_child);
    wait_for("raw mode", || !tcgetattr(&pair.slave).unwrap().local_flags.contains(LocalFlags::ICANON));
    let mut user = File::from(pair.master.try_clone().unwrap());
    // More than anyone keeps, with nobody there to take it: the escape must still work.
    for _ in 0..5 {
        user.write_all(&[b'z'; 3000]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    user.write_all(b"\x01h\x01cquit\x01x").unwrap();
    assert_eq!(frame(&mut monitor), (b'F', vec![1]));
    let typed: Vec<u8> = (0..4).flat_map(|_| frame(&mut monitor).1).collect();
    assert_eq!(typed, b"quit");
    assert_eq!(frame(&mut monitor), (b'X', vec![]));
    assert!(read_until(&mut user, "for the guest").contains("Ctrl-a x"));
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!Path::new(&front).exists());
}
