//! The console driver of the vCPU process against the real chardev back-end, both in this process.

#![allow(clippy::unwrap_used, reason = "clippy takes only #[test] functions for tests, not their helpers")]

use devices::chardev::console::Console as BackEnd;
use devices::chardev::log::Log;
use devices::chardev::port::{Owner, Port};
use devices::chardev::pty::Pty;
use devices::chardev::spec::ChardevSpec;
use devices::chardev::stream::{Stream, open_stream};
use devices::lifetime::Stop;
use devices::serve::serve;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use replay::event::{Payload, UsedEntry};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vcpu::window::Console;

const SECONDS: Duration = Duration::from_secs(20);

struct Rig {
    console: Console,
    receive_call: EventFd,
    back_end: JoinHandle<Result<(), String>>,
}

/// Starts a back-end on `chardev` and connects the driver to it.
fn start(name: &str, chardev: &str) -> Rig {
    let spec = ChardevSpec::parse(chardev).unwrap();
    let log = spec.log.as_ref().map(|log| Log::open(log, name).unwrap());
    start_on(name, open_stream(&spec.stream, name).unwrap(), log)
}

fn start_on(name: &str, stream: Box<dyn Stream>, log: Option<Log>) -> Rig {
    let port = Port::new(stream, log, None, Owner::Console).unwrap();
    let address =
        SocketAddr::from_abstract_name(format!("reprise-test-{}-{name}", std::process::id())).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let label = name.to_string();
    let back_end = thread::spawn(move || serve(listener, BackEnd::new(port), &label, &Stop::default()));
    let socket = UnixStream::connect_addr(&address).unwrap();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let receive_call = EventFd::from_flags(flags).unwrap();
    let call: [OwnedFd; 2] = [
        receive_call.as_fd().try_clone_to_owned().unwrap(),
        EventFd::from_flags(flags).unwrap().as_fd().try_clone_to_owned().unwrap(),
    ];
    let console = Console::connect(socket, call, name).unwrap();
    Rig { console, receive_call, back_end }
}

impl Rig {
    /// Receives until `count` bytes (a break counts as one) are there.
    fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let deadline = Instant::now() + SECONDS;
        while bytes.len() < count {
            assert!(Instant::now() < deadline, "only {} of {count} bytes came", bytes.len());
            let mut fds = [PollFd::new(self.receive_call.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100u16)).unwrap() > 0 {
                self.receive_call.read().unwrap();
            }
            for UsedEntry { len, payload, .. } in self.console.receive().unwrap() {
                let Payload::Data(data) = payload else { panic!("a console's input is data") };
                assert_eq!(data.len(), len as usize);
                bytes.extend(data);
            }
        }
        bytes
    }

    /// Hands everything over, as soon as there is room.
    fn transmit(&mut self, bytes: &[u8]) {
        let deadline = Instant::now() + SECONDS;
        let mut taken = self.console.transmit(bytes).unwrap();
        while taken < bytes.len() {
            assert!(Instant::now() < deadline, "only {taken} of {} bytes were taken", bytes.len());
            thread::sleep(Duration::from_micros(50));
            taken += self.console.transmit(&bytes[taken..]).unwrap();
        }
    }

    /// Hangs up and waits for the back-end's end.
    fn end(self) {
        drop(self.console);
        self.back_end.join().unwrap().unwrap();
    }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32)
        .flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes())
        .take(count)
        .collect()
}

#[test]
fn output_reaches_a_file_and_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let (path, log) = (directory.path().join("out"), directory.path().join("log"));
    let chardev = format!("file,path={},logfile={}", path.display(), log.display());
    let mut rig = start("to-file", &chardev);
    let bytes = pattern(3_000_001);
    for part in bytes.chunks(77_777) {
        rig.transmit(part);
    }
    assert!(rig.console.drain(SECONDS).unwrap());
    assert!(std::fs::read(&path).unwrap() == bytes, "after drain everything is in the file");
    rig.transmit(b"last words");
    rig.end();
    let written = std::fs::read(&path).unwrap();
    assert!(written.ends_with(b"last words"), "what was handed over before the hang-up is still written");
    assert!(std::fs::read(&log).unwrap() == written);
}

#[test]
fn a_slow_host_stops_output_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut rig = start("slow", &format!("socket,path={},server=on,wait=off", path.display()));
    let mut client = UnixStream::connect(&path).unwrap();
    // The client is there once its bytes come through.
    rig.console.start_receiving().unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(rig.receive(5), b"hello");
    let bytes = pattern(2_000_000);
    let expected = bytes.clone();
    let reader = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        let mut read = vec![0; expected.len()];
        client.read_exact(&mut read).unwrap();
        assert!(read == expected);
    });
    rig.transmit(&bytes);
    assert!(rig.console.drain(SECONDS).unwrap());
    reader.join().unwrap();
    rig.end();
}

#[test]
fn input_waits_for_receive_buffers() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in");
    let bytes = pattern(100_000);
    std::fs::write(&input, &bytes).unwrap();
    let chardev = format!("file,path={},input-path={}", Path::new("/dev/null").display(), input.display());
    let mut rig = start("from-file", &chardev);
    thread::sleep(Duration::from_millis(50));
    assert!(rig.console.receive().unwrap().is_empty(), "nothing is taken before it is asked for");
    rig.console.start_receiving().unwrap();
    assert!(rig.receive(bytes.len()) == bytes);
    rig.end();
}

#[test]
fn clients_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut rig = start("clients", &format!("socket,path={},server=on,wait=off", path.display()));
    rig.transmit(b"nobody reads this");
    assert!(rig.console.drain(SECONDS).unwrap(), "output without a client is dropped");
    rig.console.start_receiving().unwrap();
    for round in 0..3u8 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&[round; 3]).unwrap();
        assert_eq!(rig.receive(3), [round; 3]);
        rig.transmit(&[round; 2]);
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round; 2]);
    }
    rig.end();
}

#[test]
fn a_pty_can_be_opened_again_and_drops_output_in_between() {
    let pty = Pty::open("pty0").unwrap();
    let path = pty.path().to_owned();
    let mut rig = start_on("pty0", Box::new(pty), None);
    rig.console.start_receiving().unwrap();
    for round in 0..2u8 {
        rig.transmit(b"nobody reads this");
        assert!(rig.console.drain(SECONDS).unwrap());
        let mut user = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        user.write_all(&[b'a', round, 3, b'\n']).unwrap();
        assert_eq!(rig.receive(4), [b'a', round, 3, b'\n']);
        rig.transmit(b"x\ny");
        let mut answer = [0; 3];
        user.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"x\ny", "raw both ways");
    }
    rig.end();
}

#[test]
#[ignore = "a measurement: run it by name, with --nocapture"]
fn cost_of_small_writes() {
    let mut rig = start("cost", "null");
    let start = Instant::now();
    for _ in 0..100_000 {
        rig.transmit(&[b'x'; 64]);
    }
    println!("{} ns a transmit", start.elapsed().as_nanos() / 100_000);
    assert!(rig.console.drain(SECONDS).unwrap());
    rig.end();
}

#[test]
fn telnet_is_taken_out_and_break_is_an_empty_buffer() {
    let mut rig = start("telnet", "socket,host=127.0.0.1,port=34719,to=34799,server=on,wait=off,telnet=on");
    let mut client =
        (34719..34799).find_map(|port| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).unwrap();
    let mut greeting = [0; 12];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..3], [255, 251, 1]);
    rig.console.start_receiving().unwrap();
    client.write_all(b"a\xff\xfd\x01\xff\xffb").unwrap();
    assert_eq!(rig.receive(3), b"a\xffb");
    rig.transmit(b"x\xffy");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"x\xff\xffy");
    client.write_all(b"\xff\xf3").unwrap();
    let deadline = Instant::now() + SECONDS;
    let entries = loop {
        let entries = rig.console.receive().unwrap();
        if !entries.is_empty() {
            break entries;
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!((entries.len(), entries[0].len), (1, 0));
    rig.end();
}

#[test]
fn a_back_end_that_dies_is_named() {
    let (socket, other) = UnixStream::pair().unwrap();
    let answer = thread::spawn(move || drop(other));
    let call = || EventFd::new().unwrap().as_fd().try_clone_to_owned().unwrap();
    let error = Console::connect(socket, [call(), call()], "serial0").err().expect("nobody answers");
    assert!(error.to_string().starts_with("serial0: the back-end did not take "), "{error}");
    answer.join().unwrap();
}
