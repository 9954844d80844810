//! Back-ends of somebody else that go away, or never were what they should be.

use crate::disk::{PATIENCE, StorageDaemon, check, content, guests, make_raw, start};
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::process::Child;
use crate::restart::wait_for_pause;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

const FOREIGN: &str = "-chardev socket,id=c,path=S -device vhost-user-blk-pci,chardev=c";
const RECORD: &str = "-icount shift=auto,rr=record,rrfile=rec";

#[test]
fn a_hang_up_ends_the_run_and_keeps_the_recording() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    make_raw(&lab, "d.raw");
    let daemon = StorageDaemon::start(&lab, "d.raw");
    let mut child = start(&lab, &guests, "sectors", &format!("{FOREIGN} {RECORD}"));
    child.until_text("written", PATIENCE);
    drop(daemon);
    let done = child.end(PATIENCE).with_status(1);
    let line = "the vhost-user back-end of device \"c\" on '";
    assert!(done.err.contains(line) && done.err.contains("hung up; the run ends"), "{}", done.err);
    assert_eq!(lab.cause("rec"), "host-error");
    let replayed = lab.start("replay rec").end(PATIENCE).well();
    replayed.same_output(&done);
}

/// A recording that stands still because its disk's back-end ended, so long after the guest's first word.
fn left_alone(guests: &Path, after: Duration) -> (Lab, Child, Monitor) {
    let lab = Lab::new();
    make_raw(&lab, "d.raw");
    let daemon = StorageDaemon::start(&lab, "d.raw");
    let more = format!("{FOREIGN} {RECORD} -action device-exit=pause -monitor unix:m,server=on,wait=off");
    let mut child = start(&lab, guests, "sectors", &more);
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until_text("GUEST-UP", PATIENCE);
    std::thread::sleep(after);
    drop(daemon);
    wait_for_pause(&mut monitor);
    (lab, child, monitor)
}

/// With a back-end again it goes on as if nothing had been.
fn goes_on(lab: &Lab, child: Child, mut monitor: Monitor) {
    std::fs::remove_file(lab.path("S")).unwrap();
    let daemon = StorageDaemon::start(lab, "d.raw");
    assert_eq!(monitor.ask("device_restart c"), "");
    assert_eq!(monitor.ask("cont"), "");
    drop(monitor);
    let done = child.end(PATIENCE).well();
    drop(daemon);
    check(&done, Some(&content(lab, "d.raw")));
    lab.start("verify rec").end(PATIENCE).well();
}

#[test]
fn a_machine_waits_for_a_back_end_to_come_back() {
    let Some(guests) = guests() else { return };
    let (lab, child, mut monitor) = left_alone(&guests, Duration::from_millis(300));
    let deadline = Instant::now() + PATIENCE;
    while !child.err().contains("hung up; the machine is stopped: device_restart c, then cont") {
        assert!(Instant::now() < deadline, "{}", child.err());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(monitor.ask("device_restart c").contains("start its vhost-user back-end first"));
    goes_on(&lab, child, monitor);
}

/// Whoever takes the socket and hangs up is not a back-end; the machine waits for one that is.
#[test]
fn a_machine_waits_on_when_the_wrong_one_comes() {
    let Some(guests) = guests() else { return };
    let (lab, child, mut monitor) = left_alone(&guests, Duration::ZERO);
    std::fs::remove_file(lab.path("S")).unwrap();
    let wrong = UnixListener::bind(lab.path("S")).unwrap();
    let thread = std::thread::spawn(move || drop(wrong.accept().unwrap()));
    let answer = monitor.ask("device_restart c");
    assert!(answer.contains("Error: c: the back-end did not take"), "{answer}");
    thread.join().unwrap();
    assert!(monitor.ask("info status").contains("io-error"));
    assert!(monitor.ask("cont").contains("has no back-end"));
    goes_on(&lab, child, monitor);
}

/// One clear line, and not later than this.
fn refused(lab: &Lab, limit: Duration) -> String {
    let started = Instant::now();
    lab.write("k", crate::guests::halted());
    let done = lab.start(&format!("record -o rec -kernel k {FOREIGN}")).end(PATIENCE).with_status(1);
    assert!(started.elapsed() < limit, "it took {:?}", started.elapsed());
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    assert!(!lab.path("rec/events.log").exists() || lab.run("replay rec").code() <= 1);
    done.err
}

#[test]
fn a_back_end_that_says_nothing_is_not_waited_for_long() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.path("S")).unwrap();
    let error = refused(&lab, Duration::from_secs(14));
    assert!(error.contains("c: the back-end did not answer within 10 s"), "{error}");
    drop(listener);
}

#[test]
fn a_back_end_that_hangs_up_in_the_handshake_is_named() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.path("S")).unwrap();
    let thread = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = refused(&lab, Duration::from_secs(5));
    assert!(error.contains("c: the back-end did not take"), "{error}");
    thread.join().unwrap();
}
