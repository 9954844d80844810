//! Other back-ends while the machine runs.

use super::*;
use crate::cli::{Command, parse};
use crate::logging::LogSettings;
use crate::wiring::Wiring;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;

/// A swapper for the machine of a command line, and the vCPU's end of its control socket.
pub(super) fn swapper(line: &str, mode: Mode, pids: BTreeMap<u16, i32>) -> (Swapper, OwnedFd) {
    let words: Vec<String> = format!("-kernel /k {line}").split_whitespace().map(str::to_owned).collect();
    let Ok(Command::Run(options)) = parse(&words) else { panic!("{line}") };
    let Wiring { streams, limits, servers, .. } = Wiring::of_new(&options).unwrap();
    let plan = crate::launch::plan::Plan {
        machine: crate::machine::tests::machine(line),
        streams,
        mode,
        start_paused: false,
        digest_interval: 0,
        log: LogSettings::default(),
        layers: (mode == Mode::Record).then(|| "/nowhere".into()),
        replayed: None,
        tops: BTreeMap::new(),
        upkeep: BTreeMap::new(),
        saves_first: false,
        awaits_state: false,
        seeks: false,
        restarts_disks: options.on_device_exit == crate::cli::options::DeviceExit::Pause,
        running: true,
        limits,
        servers,
        debugger: None,
        captures: vec![],
    };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    (Swapper::new(plan, ours, pids, BTreeMap::new()), theirs)
}

/// The device of one message on the control socket, and how many descriptors came with it.
fn received(control: &OwnedFd) -> (u16, usize) {
    let mut bytes = [0; 2];
    let mut space = nix::cmsg_space!([RawFd; 16]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<()>(control.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let mut count = 0;
    for message in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(fds) = message {
            count += fds.len();
        }
    }
    (u16::from_le_bytes(bytes), count)
}

/// A vCPU that acknowledges everything until it is told to end; what it was told.
fn obedient(mut vcpu: VcpuEnd) -> Vec<Control> {
    vcpu.publish_state(RunState::Running);
    let mut told = Vec::new();
    loop {
        match next(&mut vcpu) {
            Inbound::Control { sequence, control } => {
                told.push(control);
                vcpu.send(&Outbound::Ack { sequence }).unwrap();
                vcpu.ring_doorbell().unwrap();
            }
            Inbound::Offer(Offer::Quit { cause }) => {
                end(&mut vcpu, 77, cause);
                return told;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The answers to `lines` on a machine of a command line, and what the vCPU process was told.
fn asked(line: &str, mode: Mode, lines: &str) -> (String, Vec<Control>, OwnedFd) {
    let signals = Signals::block().unwrap();
    let (mut sequence, vcpu) = start(&signals, Box::new(Plain), obedient);
    // Processes that are gone already.
    let pids = if line.is_empty() { BTreeMap::new() } else { BTreeMap::from([(0, 0), (1, 0)]) };
    let (swapper, control) = swapper(line, mode, pids);
    sequence.swapper = swapper;
    let mut device = monitor_on(&mut sequence);
    say(&mut device, &format!("{lines}\nq\n"));
    assert_eq!(sequence.run(&mut |_| {}), End::Shutdown(ShutdownCause::HostQuit));
    (shown(device), vcpu.join().unwrap(), control)
}

#[test]
fn a_foreign_back_end_is_connected_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let line = format!(
        "-chardev socket,id=c,path={} -device vhost-user-blk-pci,chardev=c,num-queues=3",
        path.display()
    );
    let (text, told, control) = asked(&line, Mode::Record, "device_restart c");
    assert!(!text.contains("Error"), "{text}");
    assert_eq!(told, [Control::Stop, Control::Reconnect { device: 1, goes_on: false }, Control::Continue]);
    // The connection and one call eventfd: all queues of a disk are one in the window.
    assert_eq!(received(&control), (1, 2));
    assert!(listener.accept().is_ok());
}

#[test]
fn what_cannot_be_replaced_is_named() {
    let disk = "-drive file=/d,if=virtio";
    for (line, mode, command, message) in [
        ("", Mode::Plain, "device_restart x", "Device 'x' not found"),
        ("-nographic", Mode::Plain, "device_restart serial0", "a monitor is on it; it cannot be replaced"),
        (disk, Mode::Replay, "device_restart virtio0", "what a replay writes goes with its process"),
        (
            "-blockdev driver=memory,node-name=n,size=1M -device virtio-blk,drive=n",
            Mode::Replay,
            "device_restart n",
            "it would be lost",
        ),
        ("-device virtio-net", Mode::Replay, "device_restart virtio-net0", "a replay has no back-end for"),
        (
            "-chardev socket,id=c,path=/no/such -device vhost-user-rng-pci,chardev=c",
            Mode::Plain,
            "device_restart c",
            "device \"c\": there is no socket '/no/such'",
        ),
        ("", Mode::Plain, "chardev-change x null", "Chardev 'x' does not exist"),
        ("-serial stdio", Mode::Plain, "chardev-change serial0 stdio", "cannot use stdio by multiple"),
        // This very program is no device process.
        (disk, Mode::Record, "device_restart virtio0", "device process block \"virtio0\" could not start"),
        (
            "-serial file:/dev/null",
            Mode::Plain,
            "chardev-change serial0 null",
            "device process chardev \"serial0\" could not start",
        ),
        ("", Mode::Plain, "chardev-change serial0 pty", "chardev 'serial0' was null at the start"),
    ] {
        let (text, told, _) = asked(line, mode, command);
        assert!(text.contains("Error: ") && text.contains(message), "{line} {command}: {text}");
        // One that was ended for another leaves the machine stopped.
        let lost = command == "device_restart virtio0" && mode == Mode::Record;
        let last = if lost { Control::Stop } else { Control::Continue };
        assert_eq!(told, [Control::Stop, last], "{command}");
    }
}

#[test]
fn a_machine_may_wait_for_the_back_end_it_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let line = format!("-chardev socket,id=c,path={} -device vhost-user-rng-pci,chardev=c", path.display());
    let signals = Signals::block().unwrap();
    let (mut sequence, vcpu) = start(&signals, Box::new(Plain), obedient);
    let child = std::process::Command::new("/bin/sh").args(["-c", "kill -9 $$"]).spawn().unwrap();
    let pid = sequence.children.add(Role::Device, "device process c".to_owned(), child);
    let (swapper, control) = swapper(&line, Mode::Record, BTreeMap::from([(1, pid)]));
    sequence.swapper = swapper;
    sequence.on_device_exit = DeviceExit::Pause;
    let mut device = monitor_on(&mut sequence);
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        say(&mut device, "info status\ncont\ndevice_restart c\ncont\ninfo status\nq\n");
        device
    });
    assert_eq!(sequence.run(&mut |_| {}), End::Shutdown(ShutdownCause::HostQuit));
    assert_eq!(received(&control), (1, 2));
    let told = vcpu.join().unwrap();
    assert_eq!(told, [Control::Stop, Control::Reconnect { device: 1, goes_on: false }, Control::Continue]);
    let text = shown(user.join().unwrap());
    let states: Vec<_> = text.lines().filter(|line| line.contains("VM status")).collect();
    assert!(states[0].ends_with("paused (io-error)") && states[1].ends_with("running"), "{text}");
    assert!(text.contains("has no back-end: device_restart"), "{text}");
}
