//! Disk processes that are stopped: the user is told for whom the machine waits, and nothing is lost.

use crate::disk::{PATIENCE, check, content, guests, make_qcow2, start};
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::process::{Child, assert_same};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

const NOTE: &str = "the machine waits for device \"d\", which has not answered for 5 s";
const MORE: &str = "-drive file=d.qcow2,if=none,id=d -device virtio-blk-pci,drive=d \
                    -monitor unix:m,server=on,wait=off -icount shift=auto,rr=record,rrfile=rec";

fn wait_for_note(child: &Child) {
    let deadline = Instant::now() + PATIENCE;
    while !child.err().contains(NOTE) {
        assert!(Instant::now() < deadline, "no warning: {}", child.err());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A guest whose disk process was stopped in the middle of its work, and its monitor.
fn stopped(lab: &Lab, guests: &Path) -> (Child, Monitor) {
    make_qcow2(lab, "d.qcow2");
    let mut child = start(lab, guests, "sectors", MORE);
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until_text("GUEST-UP", PATIENCE);
    child.member("device block").signal(Signal::SIGSTOP);
    wait_for_note(&child);
    let status = monitor.ask("info status");
    assert_eq!(status, "VM status: running (waiting for device \"d\")\n");
    (child, monitor)
}

#[test]
fn a_stopped_disk_is_named_and_goes_on() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let (mut child, mut monitor) = stopped(&lab, &guests);
    child.member("device block").signal(Signal::SIGCONT);
    child.until_text("direct reads 200", PATIENCE);
    assert!(!monitor.ask("info status").contains("waiting"), "it has answered");
    drop(monitor);
    let done = child.end(PATIENCE).well();
    check(&done, Some(&content(&lab, "rec/disks/d.qcow2")));

    // The same in its replay.
    let mut child = lab.start("replay rec");
    child.until_text("GUEST-UP", PATIENCE);
    let block = child.member("device block");
    block.signal(Signal::SIGSTOP);
    wait_for_note(&child);
    block.signal(Signal::SIGCONT);
    child.end(PATIENCE).well().same_output(&done);
}

#[test]
fn quit_works_while_a_disk_is_stopped() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let (child, mut monitor) = stopped(&lab, &guests);
    monitor.send("quit");
    let done = child.end(Duration::from_secs(20)).well();
    assert_eq!(lab.cause("rec"), "host-qmp-quit");
    lab.start("replay rec").end(PATIENCE).well().same_output(&done);
}

/// A guest that prints without end on a console whose process does not go on.
fn stopped_console(lab: &Lab) -> (Child, Monitor) {
    lab.write("k", crate::guests::ticker());
    let line = "record -o rec -kernel k -m 16 -serial file:out -monitor unix:m,server=on,wait=off";
    let child = lab.start(line);
    let mut monitor = Monitor::connect(&lab.path("m"));
    while monitor.icount() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.member("device chardev").signal(Signal::SIGSTOP);
    let note = "the machine waits for device \"serial0\", which has not answered for 5 s";
    let deadline = Instant::now() + PATIENCE;
    while !child.err().contains(note) {
        assert!(Instant::now() < deadline, "no warning: {}", child.err());
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = monitor.ask("info status");
    assert_eq!(status, "VM status: running (waiting for device \"serial0\")\n");
    (child, monitor)
}

#[test]
fn a_stopped_console_is_named_and_goes_on() {
    let lab = Lab::new();
    let (child, mut monitor) = stopped_console(&lab);
    let before = monitor.icount();
    child.member("device chardev").signal(Signal::SIGCONT);
    let deadline = Instant::now() + PATIENCE;
    while monitor.ask("info status").contains("waiting") || monitor.icount() == before {
        assert!(Instant::now() < deadline, "{}", child.err());
    }
    monitor.send("quit");
    child.end(PATIENCE).well();
    let written = std::fs::read(lab.path("out")).unwrap();
    let replayed = lab.run("replay rec -serial stdio").well();
    assert_same("what was written", &replayed.out, &written);
}

#[test]
fn quit_works_while_a_console_is_stopped() {
    let lab = Lab::new();
    let (child, mut monitor) = stopped_console(&lab);
    monitor.send("quit");
    let done = child.end(Duration::from_secs(20));
    assert_eq!(lab.cause("rec"), "host-qmp-quit", "{}", done.err);
    let replayed = lab.run("replay rec -serial stdio").well();
    let written = std::fs::read(lab.path("out")).unwrap();
    assert!(replayed.out.starts_with(&written), "the recording holds at least what was taken");
}
