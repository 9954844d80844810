//! Guests that stand still while the log, or the user, wants them to go on.

use crate::guests;
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use nix::sys::signal::Signal;
use replay::event::{Event, ShutdownCause, Stamped};
use replay::log::Step;
use replay::recording::Recording;
use replay::time::Icount;

/// Records a guest that halts, and returns its events up to there.
fn record_until_halt(lab: &Lab, guest: Vec<u8>) -> (Recording, Vec<Stamped>) {
    lab.write("k", guest);
    let mut child = lab.start("record -o rec -kernel k -serial stdio -icount shift=3");
    child.until_text("B", PATIENCE);
    std::thread::sleep(std::time::Duration::from_millis(100));
    child.signal(Signal::SIGTERM);
    child.end(PATIENCE).with_status(128 + 15);
    lab.run("verify rec").well();
    let recording = Recording::open(&lab.path("rec")).unwrap();
    let mut log = recording.open_log().unwrap();
    let mut events = vec![];
    while let Step::Event(entry) = log.next().unwrap() {
        events.push(entry.stamped);
    }
    let until = events.iter().position(|stamped| matches!(stamped.event, Event::IdleWake { .. })).unwrap();
    events.truncate(until);
    (recording, events)
}

/// A log that says that a guest which cannot go on did.
fn does_not_go_on(guest: Vec<u8>, found: &str) {
    let lab = Lab::new();
    let (recording, events) = record_until_halt(&lab, guest);
    std::fs::remove_file(recording.log_path()).unwrap();
    let mut log = recording.create_log().unwrap();
    events.iter().for_each(|stamped| log.append(stamped).unwrap());
    let end = Icount(1_000_000);
    log.append(&Stamped { icount: end, event: Event::Shutdown { cause: ShutdownCause::HostQuit } }).unwrap();
    log.finish(end).unwrap();
    for words in ["replay rec", "verify rec"] {
        let done = lab.run(words).with_status(1);
        let text = format!("{}{}", done.text(), done.err);
        for part in ["progress", "HostQuit", "icount 1000000", found] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn a_halted_cpu_whose_timers_never_wake_it() {
    does_not_go_on(guests::halted_with_timer(), "timers that do not wake the CPU");
}

#[test]
fn a_halted_cpu_without_timers() {
    does_not_go_on(guests::halted(), "the CPU is halted for ever");
}

/// A CPU that raises exceptions for ever is reset by the monitor.
fn is_reset(guest: Vec<u8>) {
    let lab = Lab::new();
    lab.write("k", guest);
    let mut child =
        lab.start("record -o rec -kernel k -m 2048 -serial stdio -monitor unix:mon,server,nowait");
    let mut monitor = Monitor::connect(&lab.path("mon"));
    for boots in 1..=3 {
        child.until("another boot", PATIENCE, |out| out.len() == boots);
        // It is stuck by then, and said so.
        std::thread::sleep(std::time::Duration::from_millis(200));
        monitor.ask("system_reset");
    }
    child.until("another boot", PATIENCE, |out| out.len() == 4);
    monitor.send("quit");
    let recorded = child.end(PATIENCE).well();
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
}

#[test]
fn a_stuck_machine_is_reset() {
    is_reset(guests::stuck());
}

/// Every delivery goes to a device here.
#[test]
fn a_machine_that_is_stuck_without_a_stack_is_reset() {
    is_reset(guests::stuck_on_nothing());
}

#[test]
fn a_stuck_machine_ends_with_a_reset_under_no_reboot() {
    let lab = Lab::new();
    lab.write("k", guests::stuck());
    let words = "record -o rec -kernel k -m 2048 -serial stdio -monitor unix:mon,server,nowait -no-reboot";
    let mut child = lab.start(words);
    child.until_text("B", PATIENCE);
    std::thread::sleep(std::time::Duration::from_millis(200));
    Monitor::connect(&lab.path("mon")).send("system_reset");
    let recorded = child.end(PATIENCE).well();
    assert_eq!(lab.cause("rec"), "guest-reset");
    lab.run("replay rec").well().same_output(&recorded);
}

/// With sleep=off the timers of a guest that nothing wakes follow one another without a pause; the user is heard.
#[test]
fn a_monitor_is_heard_while_timers_run_free() {
    let lab = Lab::new();
    lab.write("k", guests::halted_with_timer());
    let words =
        "record -o rec -kernel k -serial stdio -monitor unix:mon,server,nowait -icount shift=3,sleep=off";
    let mut child = lab.start(words);
    child.until_text("B", PATIENCE);
    let mut monitor = Monitor::connect(&lab.path("mon"));
    for _ in 0..20 {
        assert!(monitor.ask("info status").contains("running"));
    }
    monitor.ask("stop");
    assert!(monitor.ask("info status").contains("paused"));
    monitor.ask("cont");
    monitor.send("quit");
    child.end(PATIENCE).well();
    lab.run("verify rec").well();
}
