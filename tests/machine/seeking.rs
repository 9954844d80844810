//! Going to places in a replay, forward and back: the digests on the way are compared, so a wrong state cannot hide.

use crate::guests;
use crate::guests::{demo_recorded, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use std::collections::BTreeMap;

/// A linear congruential generator (Knuth, MMIX); its seed is in the test's name for it.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn a_replay_can_be_taken_anywhere_and_then_runs_to_its_end() {
    let (lab, recorded) = demo_recorded();
    let child = lab.start("replay rec -S -serial stdio -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    let length = recorded_length(&lab);
    let mut dice = 1;
    // What the clock shows at a place is the same however one came there.
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    for round in 0..60 {
        let wanted = match round % 3 {
            0 => next(&mut dice) % length,
            1 => seen.keys().nth(round % seen.len()).copied().unwrap_or(0),
            _ => monitor.icount().saturating_sub(1 + next(&mut dice) % 3),
        };
        assert_eq!(monitor.ask(&format!("replay_seek {wanted}")), "", "round {round}");
        assert_eq!(monitor.icount(), wanted, "round {round}");
        let status = monitor.ask("info status");
        assert_eq!(status, "VM status: paused\n", "round {round}");
        let before = seen.entry(wanted).or_insert_with(|| status.clone());
        assert_eq!(*before, status);
    }
    assert_eq!(monitor.ask("replay_seek 0"), "");
    monitor.send("cont");
    child.end(PATIENCE).well().same_output(&recorded);
}

fn recorded_length(lab: &Lab) -> u64 {
    let info = lab.run("info --json rec").well();
    let facts: serde_json::Value = serde_json::from_str(&info.text()).unwrap();
    facts["log"]["instructions"].as_u64().unwrap_or_else(|| panic!("{facts}"))
}

#[test]
fn past_the_end_is_a_pause_and_breaks_stop_once() {
    let (lab, recorded) = demo_recorded();
    let child = lab.start("replay rec -S -serial stdio -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    let length = recorded_length(&lab);
    assert_eq!(monitor.ask(&format!("replay_seek {}", 10 * length)), "");
    assert_eq!((monitor.icount(), monitor.ask("info status")), (length, "VM status: paused\n".to_owned()));
    assert_eq!(monitor.ask("replay_seek 1000"), "");
    assert_eq!(monitor.icount(), 1000);
    assert_eq!(monitor.ask(&format!("replay_break {}", length / 2)), "");
    assert_eq!(monitor.ask(&format!("replay_break {}", length / 3)), "");
    for stop in [length / 3, length / 2] {
        assert_eq!(monitor.ask("cont"), "");
        while monitor.ask("info status") != "VM status: paused\n" {}
        assert_eq!(monitor.icount(), stop);
    }
    assert_eq!(monitor.ask("replay_break 1"), "cannot set breakpoint at the instruction in the past\n");
    monitor.send("cont");
    let done = child.end(PATIENCE).well();
    // What was passed by seeking was not shown; what was run was.
    assert!(recorded.out.ends_with(&done.out), "{}", done.text());
}

#[test]
fn the_name_of_the_start_takes_back_to_it() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let words = "-kernel k -m 16 -serial stdio -monitor unix:m,server=on,wait=off";
    let rr = |mode: &str| format!("{words} -icount shift=3,rr={mode},rrfile=rec,rrsnapshot=init");
    let mut child = lab.start(&rr("record"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until("100 lines", PATIENCE, |out| lines(out) >= 100);
    monitor.send("quit");
    child.end(PATIENCE).well();
    let child = lab.start(&format!("{} -S", rr("replay")));
    let mut monitor = Monitor::connect(&lab.path("m"));
    assert_eq!(monitor.ask("replay_seek 100000"), "");
    assert_eq!(monitor.ask("loadvm init"), "");
    assert_eq!(monitor.icount(), 0);
    assert!(monitor.ask("loadvm other").contains("does not exist"));
    monitor.send("quit");
    child.end(PATIENCE).well();
}

/// As in QEMU: what ran before `loadvm` runs after it.
#[test]
fn a_replay_that_runs_goes_on_from_the_start() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let words = "-kernel k -m 16 -serial stdio -monitor unix:m,server=on,wait=off";
    let rr = |mode: &str| format!("{words} -icount shift=3,rr={mode},rrfile=rec,rrsnapshot=init");
    let mut child = lab.start(&rr("record"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until("500 lines", PATIENCE, |out| lines(out) >= 500);
    monitor.send("quit");
    let recorded = child.end(PATIENCE).well();
    let child = lab.start(&rr("replay"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    while monitor.icount() < 1_000_000 {}
    assert_eq!(monitor.ask("loadvm init"), "");
    let done = child.end(PATIENCE).well();
    assert!(done.out.ends_with(&recorded.out), "{}", done.text());
    assert!(done.out.len() > recorded.out.len(), "it was at the start twice");
}
