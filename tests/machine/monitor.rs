//! The monitor, while recording and replaying, on a socket and behind Ctrl-a.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
pub use crate::monitor_client::Monitor;
use crate::process::Child;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

fn start(lab: &Lab, line: &str) -> (Child, Monitor) {
    lab.write("k", guests::ticker());
    let child = lab.start(&format!("{line} -monitor unix:m,server=on,wait=off"));
    let monitor = Monitor::connect(&lab.path("m"));
    (child, monitor)
}

fn stop_and_cont(child: &mut Child, monitor: &mut Monitor, verb: &str) {
    assert_eq!(monitor.ask("info status"), "VM status: running\n");
    assert_eq!(monitor.ask("stop"), "");
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    let stopped = monitor.icount();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(monitor.icount(), stopped, "a stopped machine stands still");
    let answer = monitor.ask("info replay");
    assert_eq!(answer, format!("{verb} execution 'rec': instruction count = {stopped}\n"));
    let before = lines(&child.out());
    assert_eq!(monitor.ask("cont"), "");
    child.until("more lines", PATIENCE, |out| lines(out) > before + 1);
    assert!(monitor.icount() > stopped);
}

#[test]
fn commands_in_a_recording_and_in_its_replay() {
    let lab = Lab::new();
    let (mut child, mut monitor) = start(&lab, "record -o rec -kernel k -m 16 -serial stdio");
    child.until("10 lines", PATIENCE, |out| lines(out) >= 10);
    stop_and_cont(&mut child, &mut monitor, "Recording");
    assert!(monitor.ask("info version").starts_with(env!("CARGO_PKG_VERSION")));
    let help = monitor.ask("help");
    assert!(help.lines().count() > 10 && help.contains("quit|q"), "{help}");
    assert_eq!(monitor.ask("frobnicate"), "unknown command: 'frobnicate'\n");
    assert_eq!(monitor.ask("info nothing"), "unknown command: 'info nothing'\n");
    // Long enough for a replay that is looked at while it runs.
    child.until("500 lines", PATIENCE, |out| lines(out) >= 500);
    monitor.send("quit");
    let recorded = child.end(PATIENCE).well();
    assert_eq!(lab.cause("rec"), "host-qmp-quit");

    let (mut child, mut monitor) = start(&lab, "replay rec -S -serial stdio");
    assert_eq!(monitor.ask("info status"), "VM status: paused (prelaunch)\n");
    assert_eq!(monitor.ask("cont"), "");
    stop_and_cont(&mut child, &mut monitor, "Replaying");
    let refused = monitor.ask("system_reset");
    assert!(refused.contains("not possible in a replay"), "{refused}");
    drop(monitor);
    child.end(PATIENCE).well().same_output(&recorded);

    let (child, mut monitor) = start(&lab, "replay rec -S -serial stdio");
    monitor.send("quit");
    assert!(child.end(PATIENCE).well().out.is_empty());
}

#[test]
fn a_paused_start() {
    let lab = Lab::new();
    let (mut child, mut monitor) = start(&lab, "record -o rec -kernel k -m 16 -serial stdio -S");
    assert_eq!(monitor.ask("info status"), "VM status: paused (prelaunch)\n");
    assert_eq!(monitor.icount(), 0);
    assert!(child.out().is_empty());
    monitor.ask("cont");
    child.until("5 lines", PATIENCE, |out| lines(out) >= 5);
    child.type_bytes(b"q");
    let recorded = child.end(PATIENCE).well();
    lab.run("replay rec").well().same_output(&recorded);
}

#[test]
fn console_and_monitor_share_a_stream() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let mut child = lab.start("record -o rec -kernel k -m 16 -serial mon:stdio");
    child.until("5 lines", PATIENCE, |out| lines(out) >= 5);
    child.type_bytes(b"\x01cinfo status\n");
    child.until_text("VM status: running", PATIENCE);
    child.type_bytes(b"\x01cZ");
    child.until_text("Z", PATIENCE);
    child.type_bytes(b"\x01x");
    child.end(PATIENCE).well();
    assert_eq!(lab.cause("rec"), "host-qmp-quit");
    let replayed = lab.run("replay rec").well().text();
    assert!(replayed.contains('Z') && !replayed.contains("VM status"), "{replayed}");
    lab.run("verify rec").well();
}

#[test]
fn a_monitor_may_come_and_go() {
    let lab = Lab::new();
    let (mut child, monitor) = start(&lab, "record -o rec -kernel k -m 16 -serial stdio");
    drop(monitor);
    for _ in 0..3 {
        let mut monitor = Monitor::connect(&lab.path("m"));
        monitor.ask("stop");
        monitor.ask("cont");
    }
    child.type_bytes(b"q");
    let recorded = child.end(PATIENCE).well();
    lab.run("replay rec").well().same_output(&recorded);
}

/// A process that has output which nobody takes is given five seconds for it when another one is to come. The monitors do not wait
/// for it.
#[test]
fn monitors_answer_while_a_process_takes_its_time_to_end() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    for end in ["p.in", "p.out"] {
        nix::unistd::mkfifo(&lab.path(end), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let mut options = File::options();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    let mut pipe = options.open(lab.path("p.out")).unwrap();
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    let line = "record -o rec -kernel k -m 16 -serial pipe:p -monitor unix:m,server=on,wait=off \
                -monitor unix:m2,server=on,wait=off";
    let child = lab.start(line);
    let (mut monitor, mut other) = (Monitor::connect(&lab.path("m")), Monitor::connect(&lab.path("m2")));
    let deadline = Instant::now() + PATIENCE;
    while monitor.icount() < 1_000_000 {
        assert!(Instant::now() < deadline, "{}", child.err());
    }
    monitor.send("chardev-change serial0 null");
    let answered = std::thread::spawn(move || {
        assert_eq!(monitor.answer(), "");
        monitor
    });
    let mut asked = 0;
    while !answered.is_finished() {
        assert!(other.ask("info status").starts_with("VM status: "));
        asked += 1;
    }
    assert!(asked >= 10, "only {asked} answers meanwhile");
    let mut monitor = answered.join().unwrap();
    monitor.send("quit");
    child.end(PATIENCE).well();
}
