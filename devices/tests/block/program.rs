//! The program around the device: sockets, capabilities, failing hosts.

use crate::device::{Lab, pattern};
use crate::driver::*;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Tests that hand descriptors down take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Lets a descriptor be inherited under its own number.
fn inheritable(fd: &impl AsFd) -> String {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    fd.as_fd().as_raw_fd().to_string()
}

#[test]
fn a_connected_socket_and_a_listening_one() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for connected in [true, false] {
        let lab = Lab::new();
        let contents = lab.raw("disk", 1 << 20);
        let (mut ready, for_child) = UnixStream::pair().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = UnixListener::bind(lab.path("socket")).unwrap();
        let socket = match connected {
            true => format!("--fd={}", inheritable(&theirs)),
            false => format!("--listen-fd={}", inheritable(&listener)),
        };
        let line = format!("--image disk {socket} --ready-fd={}", inheritable(&for_child));
        let mut child = lab.command(&line).spawn().unwrap();
        drop((theirs, for_child));
        let mut byte = [0];
        ready.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"R");
        let stream = if connected { ours } else { UnixStream::connect(lab.path("socket")).unwrap() };
        let mut driver = Driver::start(stream, 1, u64::MAX);
        driver.write_sectors(3, &[9; 512]);
        assert_eq!(driver.read_sectors(2, 2), [&contents[1024..1536], &[9; 512]].concat());
        if connected {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        } else {
            drop(driver);
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "connected: {connected}");
    }
}

#[test]
fn it_says_what_it_can_do() {
    let lab = Lab::new();
    let text = lab.run("--print-capabilities").unwrap();
    assert_eq!(text, "{\"type\": \"block\", \"features\": [\"blk-file\", \"read-only\"]}\n");
    let text = lab.run("--image disk").unwrap_err();
    assert!(text.contains("one of --listen-fd, --socket-path and --fd is missing"), "{text}");
    assert!(lab.run("--help").unwrap().contains("--logical-block-size"));
}

#[test]
fn errors_of_the_host_are_the_requests_and_few_lines() {
    let lab = Lab::new();
    let contents = lab.raw("disk", 4 << 20);
    // No file may become larger than 300 KiB: the layer is full soon.
    let mut command = std::process::Command::new("sh");
    let device = lab.command("--image disk --layer layer --socket-path=limited.sock --label=hd0");
    command.args(["-c", "trap '' XFSZ; ulimit -f 600; exec \"$0\" \"$@\""]).arg(device.get_program());
    command.args(device.get_args()).current_dir(lab.path("")).stdin(Stdio::null()).stderr(Stdio::piped());
    let device = lab.spawn("limited", command);
    let mut driver = device.connect(1, u64::MAX);
    let mut failed = 0;
    for number in 0..50u64 {
        let (status, _) = driver.request(OUT, number * 128, &pattern(512), 0);
        failed += u32::from(status == IOERR);
    }
    assert!(failed > 40, "{failed} requests failed");
    assert_eq!(driver.read_sectors(40 * 128, 8), contents[40 * 65536..][..4096], "and it reads on");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(driver.request(OUT, 6000, &pattern(512), 0).0, IOERR);
    drop(driver);
    let (_, text) = device.end();
    assert!(text.contains("hd0: write of 512 bytes at byte "), "{text}");
    assert!(text.contains("File too large") && text.contains("more requests failed"), "{text}");
    assert!(text.lines().count() < 8, "{text}");
}
