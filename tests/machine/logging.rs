//! `log` and `logfile` reach every process of the tree, while it records and while it replays.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::Child;
use std::time::{Duration, Instant};

/// How often a file holds a text; none if it is not there.
fn count(lab: &Lab, file: &str, text: &str) -> usize {
    let found = std::fs::read_to_string(lab.path(file)).unwrap_or_default();
    found.lines().filter(|line| line.contains(text)).count()
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn more_lines(child: &mut Child, count: usize) {
    let wanted = lines(&child.out()) + count;
    child.until("more lines", PATIENCE, |out| lines(out) >= wanted);
}

fn ticker(line: &str) -> (Lab, Child, Monitor) {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let child = lab.start(&format!("{line} -serial stdio -monitor unix:m,server=on,wait=off"));
    let monitor = Monitor::connect(&lab.path("m"));
    (lab, child, monitor)
}

#[test]
fn the_vcpu_process_logs_what_it_is_told_to() {
    const SAVED: &str = "stood still for a save";
    let (lab, child, mut monitor) = ticker("record -o rec -kernel k -m 16");
    let seen = |lab: &Lab| [count(lab, "one", SAVED), count(lab, "two", SAVED)];
    let save = |monitor: &mut Monitor, lines: &[&str]| {
        for line in lines {
            assert_eq!(monitor.ask(line), "", "{line}");
        }
        assert_eq!(monitor.ask("savevm a"), "");
        seen(&lab)
    };
    assert_eq!(save(&mut monitor, &["logfile one"]), [0, 0]);
    assert_eq!(save(&mut monitor, &["log vcpu=info"]), [1, 0]);
    assert_eq!(save(&mut monitor, &["log off,broker=trace"]), [1, 0]);
    assert_eq!(save(&mut monitor, &["log info"]), [2, 0]);
    assert_eq!(save(&mut monitor, &["logfile two"]), [2, 1]);
    assert_eq!(save(&mut monitor, &["log none"]), [2, 1]);
    assert_eq!(save(&mut monitor, &["log debug", "logfile two"]), [2, 2]);
    assert_eq!(save(&mut monitor, &["logfile"]), [2, 2]);
    let refused = monitor.ask("logfile /nonexist/x");
    assert!(refused.starts_with("Error: cannot write the log file /nonexist/x: "), "{refused}");
    // What is refused changes nothing.
    assert_eq!(save(&mut monitor, &[]), [2, 2]);
    monitor.send("quit");
    let recorded = child.end(PATIENCE).well();
    assert_eq!(recorded.err.matches(SAVED).count(), 2, "{}", recorded.err);
    lab.run("verify rec").well();
}

#[test]
fn device_processes_log_what_they_are_told_to() {
    const KICK: &str = "buffers may be available device=serial0";
    let (lab, mut child, mut monitor) = ticker("-kernel k -m 16");
    assert_eq!(monitor.ask("logfile one"), "");
    assert_eq!(monitor.ask("log warn,devices=trace"), "");
    until(|| count(&lab, "one", KICK) >= 5);
    assert_eq!(monitor.ask("log none"), "");
    // A line that was begun before is written by the time the next ones of the guest are.
    more_lines(&mut child, 5);
    let before = count(&lab, "one", KICK);
    more_lines(&mut child, 30);
    assert_eq!(count(&lab, "one", KICK), before);
    assert_eq!(monitor.ask("logfile two"), "");
    assert_eq!(monitor.ask("log devices=info"), "");
    assert_eq!(count(&lab, "two", "a front-end is connected"), 0);
    // A process that starts later.
    assert_eq!(monitor.ask("chardev-change serial0 file,path=out"), "");
    until(|| count(&lab, "two", "a front-end is connected device=serial0") == 1);
    monitor.send("quit");
    child.end(PATIENCE).well();
    assert_eq!(count(&lab, "one", KICK), before);
}

/// All threads of a process are stopped: a signal needs its time.
fn stands_still(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path());
    let stat = |task: std::path::PathBuf| std::fs::read_to_string(task.join("stat")).unwrap();
    tasks.map(stat).all(|text| text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

#[test]
fn a_process_that_is_stopped_holds_up_nobody() {
    let (lab, mut child, mut monitor) = ticker("-kernel k -m 16");
    more_lines(&mut child, 2);
    let device = child.member("device chardev --chardev=stdio");
    device.signal(nix::sys::signal::Signal::SIGSTOP);
    until(|| stands_still(device.pid));
    let answer = monitor.ask("log devices=trace");
    assert!(answer.contains("device process chardev \"serial0\" has not heard of it yet"), "{answer:?}");
    device.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(monitor.ask("logfile one"), "");
    until(|| count(&lab, "one", "device=serial0") > 0);
    monitor.send("quit");
    child.end(PATIENCE).well();
}
