//! Going to places in a replay, forward and back: the digests on the way are compared, so a wrong state cannot hide.

use crate::debugger::Dice;
use crate::guests;
use crate::guests::{demo_recorded, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::Done;
use std::collections::BTreeMap;

#[test]
fn a_replay_can_be_taken_anywhere_and_then_runs_to_its_end() {
    let (lab, recorded) = demo_recorded();
    let child = lab.start("replay rec -S -serial stdio -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    let length = recorded_length(&lab);
    let mut dice = Dice::new(1);
    // What the clock shows at a place is the same however one came there.
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    for round in 0..60 {
        let wanted = match round % 3 {
            0 => dice.below(length),
            1 => seen.keys().nth(round % seen.len()).copied().unwrap_or(0),
            _ => monitor.icount().saturating_sub(1 + dice.below(3)),
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
fn the_end_of_a_replay_is_a_pause_where_that_is_wanted() {
    let (lab, recorded) = demo_recorded();
    let options = "-serial stdio -monitor unix:m,server=on,wait=off -action replay-end=pause";
    let child = lab.start(&format!("replay rec {options}"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    let length = recorded_length(&lab);
    for _ in 0..2 {
        while monitor.ask("info status") != "VM status: paused\n" {}
        assert_eq!(monitor.icount(), length);
        assert_eq!(monitor.ask("replay_seek 50%"), "");
        assert_eq!(monitor.icount(), length / 2);
        assert_eq!(monitor.ask("cont"), "");
    }
    while monitor.ask("info status") != "VM status: paused\n" {}
    monitor.send("quit");
    let done = child.end(PATIENCE).well();
    assert!(done.out.starts_with(&recorded.out), "{}", done.text());
    let refused = lab.run("-kernel k -action replay-end=pause").with_status(1);
    assert!(refused.err.contains("replay-end= is of use to a replay only"), "{}", refused.err);
}

/// Command line of a recording or replay with a name for its start.
fn named_start(mode: &str) -> String {
    let words = "-kernel k -m 16 -serial stdio -monitor unix:m,server=on,wait=off";
    format!("{words} -icount shift=3,rr={mode},rrfile=rec,rrsnapshot=init")
}

/// A recording of so many lines, `rec`, whose start has a name.
fn recorded_from_a_name(count: usize) -> (Lab, Done) {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let mut child = lab.start(&named_start("record"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until(&format!("{count} lines"), PATIENCE, |out| lines(out) >= count);
    monitor.send("quit");
    let recorded = child.end(PATIENCE).well();
    (lab, recorded)
}

#[test]
fn the_name_of_the_start_takes_back_to_it() {
    let (lab, _) = recorded_from_a_name(100);
    let child = lab.start(&format!("{} -S", named_start("replay")));
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
    let (lab, recorded) = recorded_from_a_name(500);
    // It is still running when it is told, however slow the host.
    let child = lab.start(&format!("{} -S", named_start("replay")));
    let mut monitor = Monitor::connect(&lab.path("m"));
    assert_eq!(monitor.ask("cont"), "");
    while monitor.icount() < 1_000_000 {}
    assert_eq!(monitor.ask("loadvm init"), "");
    let done = child.end(PATIENCE).well();
    assert!(done.out.ends_with(&recorded.out), "{}", done.text());
    assert!(done.out.len() > recorded.out.len(), "it was at the start twice");
}
