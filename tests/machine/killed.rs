//! Any process of a recording is killed at any moment: nothing is left behind, and what was recorded replays.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
use crate::process::assert_gone;
use nix::sys::signal::Signal;
use std::time::Duration;

/// What was seen this long before a kill must replay: a block is written every tenth of a second, on a busy host later.
const LOSS_MAX: Duration = Duration::from_millis(400);

/// Kills the process of the tree whose command line holds `victim` after a number of lines and a moment.
fn kill_and_replay(victim: &str, after_lines: usize, moment: Duration) {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let mut child = lab.start("record -o rec -kernel k -m 16 -serial stdio -icount shift=auto");
    child.until(&format!("{after_lines} lines"), PATIENCE, |out| lines(out) >= after_lines);
    let seen = lines(&child.out());
    std::thread::sleep(LOSS_MAX + moment);
    let tree = child.tree();
    assert!(tree.len() >= 3, "broker, vcpu and chardev: {tree:?}");
    let killed = child.member(victim);
    killed.signal(Signal::SIGKILL);
    let recorded = child.end(Duration::from_secs(10));
    assert_gone(&tree);
    assert_ne!(recorded.code(), 0);
    let what = format!("{victim} killed after {after_lines} lines and {moment:?}");
    let is_broker = killed.pid == tree[0].pid;
    if !is_broker {
        let named = recorded.err.lines().any(|line| {
            line.starts_with("reprise: ") && line.contains(victim) && line.contains("killed by signal 9")
        });
        assert!(named && recorded.err.lines().count() == 1, "{what}: {}", recorded.err);
    }

    let replayed = lab.start("replay rec").end(PATIENCE);
    let shared = recorded.out.len().min(replayed.out.len());
    assert_eq!(recorded.out[..shared], replayed.out[..shared], "{what}");
    let got = lines(&replayed.out);
    assert!(got >= seen, "{what}: {got} of {seen} lines; {}", replayed.err);
    if is_broker {
        assert_eq!(replayed.code(), 0, "{what}: {}", replayed.err);
        assert!(replayed.err.contains("cut short"), "{what}: {}", replayed.err);
        assert!(lab.run("info rec").text().contains("cut short"));
    }
    lab.run("verify rec").well();
}

#[test]
fn the_broker() {
    for (after_lines, moment_ms) in [(1, 0), (20, 7), (60, 23), (100, 61)] {
        kill_and_replay("record -o", after_lines, Duration::from_millis(moment_ms));
    }
}

#[test]
fn the_vcpu() {
    for (after_lines, moment_ms) in [(1, 3), (40, 31)] {
        kill_and_replay("vcpu", after_lines, Duration::from_millis(moment_ms));
    }
}

#[test]
fn the_chardev() {
    for (after_lines, moment_ms) in [(1, 5), (40, 17)] {
        kill_and_replay("chardev", after_lines, Duration::from_millis(moment_ms));
    }
}

#[test]
fn a_replay_leaves_nothing_behind_either() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let mut child = lab.start("record -o rec -kernel k -m 16 -serial stdio");
    child.until("50 lines", PATIENCE, |out| lines(out) >= 50);
    child.type_bytes(b"q");
    let recorded = child.end(PATIENCE).well();
    for victim in ["replay", "vcpu", "chardev"] {
        let mut child = lab.start("replay rec");
        child.until("a line", PATIENCE, |out| lines(out) >= 1);
        let tree = child.tree();
        if let Some(process) = tree.iter().find(|process| process.words.contains(victim)) {
            process.signal(Signal::SIGKILL);
        }
        child.end(PATIENCE);
        assert_gone(&tree);
    }
    lab.run("replay rec").well().same_output(&recorded);
}
