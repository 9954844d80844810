//! The loop against a vCPU that is a thread of this process.

use super::core::Facts;
use super::*;
use crate::cli::chardev::{Backend, Chardev};
use crate::journal::{Journal, Plain, Playback, Record};
use crate::snapshots::{Places, Setup};
use crate::streams::Language;
use nix::sys::eventfd::EfdFlags;
use replay::event::{Event, Stamped};
use replay::lane::{self, RunState, VcpuEnd};
use replay::message::{Control, Inbound, Outbound, PauseReason};
use replay::recording::{Recording, Replace};
use replay::setup::Mode;
use replay::store::Store;
use replay::time::{Icount, Vtime};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

#[path = "swap_tests.rs"]
mod swap_tests;

fn event_fd() -> EventFd {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap()
}

fn duplicate(fd: &EventFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// A run whose vCPU is `vcpu`.
fn start<'a, T: Send + 'static>(
    signals: &'a Signals,
    journal: Box<dyn Journal>,
    vcpu: impl FnOnce(VcpuEnd) -> T + Send + 'static,
) -> (Sequence<'a>, JoinHandle<T>) {
    let doorbell = event_fd();
    let (broker, vcpu_end) = lane::pair(Some(duplicate(&doorbell))).unwrap();
    let core = Core::new(broker, journal, Facts { recording: "r".to_owned(), ..Facts::default() }, false);
    let doorbell = Arc::new(doorbell);
    let swapper = swap_tests::swapper("", Mode::Plain, BTreeMap::new()).0;
    let setup = Setup {
        places: Places { own: Store::new(Path::new("/nowhere")), others: vec![] },
        mode: Mode::Plain,
        machine: swapper.plan().machine.clone(),
        load: None,
        go_to: None,
        save: None,
        periodic: None,
    };
    let keeper = Keeper::new(setup, Default::default(), Arc::clone(&doorbell), false);
    let sequence = Sequence {
        core,
        doorbell,
        calls: vec![],
        monitors: vec![],
        children: Children::default(),
        swapper,
        keeper,
        relog: Relog::default(),
        on_device_exit: DeviceExit::Shutdown,
        signals,
    };
    (sequence, std::thread::spawn(move || vcpu(vcpu_end)))
}

fn next(vcpu: &mut VcpuEnd) -> Inbound {
    vcpu.wait_inbound(Duration::from_secs(20)).unwrap().expect("the broker is silent")
}

fn journal(vcpu: &mut VcpuEnd, icount: u64, event: Event) {
    vcpu.send(&Outbound::Journal(Stamped { icount: Icount(icount), event })).unwrap();
    vcpu.publish(Icount(icount), Vtime(icount));
    vcpu.publish_state(RunState::Running);
}

/// The machine ends as it was told, or by itself.
fn end(vcpu: &mut VcpuEnd, icount: u64, cause: ShutdownCause) {
    journal(vcpu, icount, Event::Shutdown { cause });
    vcpu.send(&Outbound::Ended { cause, icount: Icount(icount) }).unwrap();
    vcpu.ring_doorbell().unwrap();
}

fn monitor_on(sequence: &mut Sequence<'_>) -> UnixStream {
    let (ours, device) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    sequence.monitors.push(MonitorPort::new(ours, &Chardev::new("m", Backend::Null), Language::Human, false));
    device
}

fn say(device: &mut UnixStream, text: &str) {
    device.write_all(&[&[b'I', text.len() as u8, 0], text.as_bytes()].concat()).unwrap();
}

/// Everything shown until the monitor hangs up, without frames.
fn shown(mut device: UnixStream) -> String {
    let (mut bytes, mut text) = (Vec::new(), Vec::new());
    device.read_to_end(&mut bytes).unwrap();
    while bytes.len() >= 3 {
        let length = usize::from(u16::from_le_bytes([bytes[1], bytes[2]]));
        text.extend(&bytes[3..3 + length]);
        bytes.drain(..3 + length);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn the_guest_ends_the_run() {
    let signals = Signals::block().unwrap();
    let (mut sequence, vcpu) =
        start(&signals, Box::new(Plain), |mut vcpu| end(&mut vcpu, 5, ShutdownCause::GuestShutdown));
    assert_eq!(sequence.run(&mut |_| {}), End::Shutdown(ShutdownCause::GuestShutdown));
    assert_eq!(sequence.core.icount(), 5);
    vcpu.join().unwrap();
}

#[test]
fn a_signalled_queue_is_offered_in_its_turn() {
    let signals = Signals::block().unwrap();
    let (mut sequence, vcpu) = start(&signals, Box::new(Plain), |mut vcpu| {
        let offer = next(&mut vcpu);
        end(&mut vcpu, 1, ShutdownCause::GuestShutdown);
        offer
    });
    let fd = event_fd();
    fd.write(1).unwrap();
    sequence.calls.push(Call { fd, device: 3, queue: 0 });
    sequence.run(&mut |_| {});
    assert_eq!(vcpu.join().unwrap(), Inbound::Offer(Offer::DeviceReady { device: 3, queue: 0 }));
}

#[test]
fn a_monitor_stops_asks_and_quits() {
    let signals = Signals::block().unwrap();
    let (mut sequence, vcpu) = start(&signals, Box::new(Plain), |mut vcpu| {
        vcpu.publish_state(RunState::Running);
        loop {
            match next(&mut vcpu) {
                Inbound::Control { sequence, control } => {
                    assert_eq!(control, Control::Stop);
                    vcpu.publish(Icount(77), Vtime(77));
                    // The answer comes late: what was typed behind `stop` must wait for it.
                    std::thread::sleep(Duration::from_millis(20));
                    vcpu.send(&Outbound::Ack { sequence }).unwrap();
                    vcpu.ring_doorbell().unwrap();
                }
                Inbound::Offer(Offer::Quit { cause }) => return end(&mut vcpu, 77, cause),
                other => panic!("{other:?}"),
            }
        }
    });
    let mut device = monitor_on(&mut sequence);
    say(&mut device, "stop\ninfo status\ninfo replay\nq\n");
    assert_eq!(sequence.run(&mut |_| {}), End::Shutdown(ShutdownCause::HostQuit));
    vcpu.join().unwrap();
    let text = shown(device);
    assert!(text.ends_with(
        "(reprise) (reprise) VM status: paused\r\n(reprise) Record/replay is not active\r\n(reprise) "
    ));
}

fn record(directory: &Path) {
    let signals = Signals::block().unwrap();
    let recording = Recording::create(directory, Replace::No, replay::manifest::example()).unwrap();
    let (mut sequence, vcpu) = start(&signals, Box::new(Record::create(recording).unwrap()), |mut vcpu| {
        journal(&mut vcpu, 0, Event::Entropy { bytes: vec![1; 32] });
        journal(&mut vcpu, 10, Event::Nmi);
        end(&mut vcpu, 20, ShutdownCause::GuestShutdown);
    });
    assert_eq!(sequence.run(&mut |_| {}).status(), 0);
    vcpu.join().unwrap();
}

fn play(directory: &Path, vcpu: impl FnOnce(VcpuEnd) + Send + 'static) -> End {
    let signals = Signals::block().unwrap();
    let recording = Recording::open(directory).unwrap();
    let (mut sequence, thread) = start(&signals, Box::new(Playback::open(recording).unwrap()), vcpu);
    let end = sequence.run(&mut |_| {});
    thread.join().unwrap();
    end
}

/// Pauses for `reason` until the broker lets go.
fn pause(vcpu: &mut VcpuEnd, reason: PauseReason) {
    vcpu.send(&Outbound::Paused { icount: Icount(20), reason }).unwrap();
    vcpu.ring_doorbell().unwrap();
    let quit = next(vcpu);
    assert!(matches!(quit, Inbound::Control { control: Control::Quit, .. }), "{quit:?}");
}

#[test]
fn what_was_recorded_is_played_in_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    record(&path);
    let end = play(&path, |mut vcpu| {
        let mut events = Vec::new();
        let icount = loop {
            match next(&mut vcpu) {
                Inbound::Apply(stamped) => events.push((stamped.icount.0, stamped.event)),
                Inbound::LogEnds { icount, .. } => break icount.0,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(events[0], (0, Event::Entropy { bytes: vec![1; 32] }));
        assert_eq!(events[1], (10, Event::Nmi));
        assert_eq!(icount, 20);
        pause(&mut vcpu, PauseReason::EndOfLog);
    });
    assert_eq!(end, End::Replayed);
    assert_eq!((end.status(), end.message()), (0, None));
}

#[test]
fn a_difference_ends_a_replay_with_both_values() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    record(&path);
    let end = play(&path, |mut vcpu| {
        let divergence = Outbound::Divergence {
            icount: Icount(10),
            field: "digest of registers".to_owned(),
            expected: "aa".to_owned(),
            found: "bb".to_owned(),
        };
        vcpu.send(&divergence).unwrap();
        while !matches!(next(&mut vcpu), Inbound::LogEnds { .. }) {}
        pause(&mut vcpu, PauseReason::Divergence);
    });
    let message = end.message().unwrap();
    assert!(message.contains("instruction 10: digest of registers: recorded aa, replayed bb"), "{message}");
    assert_eq!(end.status(), 1);
}

#[test]
fn a_device_that_dies_ends_the_run_and_the_log_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    let signals = Signals::block().unwrap();
    let recording = Recording::create(&path, Replace::No, replay::manifest::example()).unwrap();
    let (mut sequence, vcpu) = start(&signals, Box::new(Record::create(recording).unwrap()), |mut vcpu| {
        vcpu.publish_state(RunState::Running);
        let Inbound::Offer(Offer::Quit { cause }) = next(&mut vcpu) else { panic!("no quit") };
        end(&mut vcpu, 9, cause);
    });
    let child = std::process::Command::new("/bin/sh").args(["-c", "kill -9 $$"]).spawn().unwrap();
    sequence.children.add(Role::Device, "device process chardev \"serial0\"".to_owned(), child);
    let end = sequence.run(&mut |_| {});
    vcpu.join().unwrap();
    let message = end.message().unwrap();
    assert!(message.contains("chardev \"serial0\"") && message.contains("killed by signal 9"), "{message}");
    assert_eq!(end.status(), 1);
    let survey = Recording::open(&path).unwrap().survey_log().unwrap();
    assert_eq!(survey.ending, replay::log::Ending::Finished { icount: Icount(9) });
}

#[test]
fn a_vcpu_that_breaks_the_lane_is_a_failure() {
    let signals = Signals::block().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    record(&path);
    let recording = Recording::open(&path).unwrap();
    // A replay must not report new events.
    let (mut sequence, vcpu) = start(&signals, Box::new(Playback::open(recording).unwrap()), |mut vcpu| {
        journal(&mut vcpu, 3, Event::Nmi);
    });
    let end = sequence.run(&mut |_| {});
    assert!(matches!(&end, End::Failed(why) if why.contains("Nmi")), "{end:?}");
    vcpu.join().unwrap();
}
