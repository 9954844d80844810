//! QMP: a whole conversation over a recording and its replay, and clients that misbehave.

use crate::guests::{self, demo_recorded, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::Child;
use crate::qmp_client::Qmp;
use serde_json::json;
use std::io::{Read, Write};
use std::time::Instant;

fn start(lab: &Lab, line: &str) -> (Child, Qmp) {
    let child = lab.start(&format!("{line} -qmp unix:q,server=on,wait=off"));
    (child, Qmp::connect(&lab.path("q")))
}

#[test]
fn a_recording_is_driven() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let (mut child, mut qmp) = start(&lab, "record -o rec -kernel k -m 16 -serial stdio -name n");
    child.until("10 lines", PATIENCE, |out| lines(out) >= 10);
    assert_eq!(qmp.ask("query-status", json!({}))["status"], "running");
    assert_eq!(qmp.ask("query-name", json!({}))["name"], "n");
    assert_eq!(qmp.ask("stop", json!({})), json!({}));
    let stop = qmp.event("STOP");
    assert!(stop["timestamp"]["seconds"].as_u64().unwrap() > 1_700_000_000, "{stop}");
    let replay = qmp.ask("query-replay", json!({}));
    assert_eq!((&replay["mode"], &replay["filename"]), (&json!("record"), &json!("rec")));
    assert_eq!(qmp.ask("query-replay", json!({})), replay, "a stopped machine stands still");
    let text = qmp.ask("human-monitor-command", json!({"command-line": "info registers"}));
    assert!(text.as_str().unwrap().contains("\r\nEAX="), "{text}");
    qmp.ask("cont", json!({}));
    qmp.event("RESUME");
    // A write to the transmitter of the UART shows in recording and replay.
    qmp.ask("human-monitor-command", json!({"command-line": "o/b 0x3f8 0x40"}));
    child.until_text("@", PATIENCE);
    qmp.ask("system_reset", json!({}));
    let reset = qmp.event("RESET");
    assert_eq!(reset["data"], json!({"guest": false, "reason": "host-qmp-system-reset"}));
    child.until("20 more lines", PATIENCE, |out| lines(out) >= 30);
    qmp.ask("quit", json!({}));
    assert_eq!(qmp.event("SHUTDOWN")["data"], json!({"guest": false, "reason": "host-qmp-quit"}));
    assert_eq!(qmp.read(), None);
    let recorded = child.end(PATIENCE).well();
    assert!(lab.run("log rec --kind port-write").well().text().contains("port 0x03f8 size 1 value 0x40"));
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
}

#[test]
fn a_replay_is_driven() {
    let (lab, recorded) = demo_recorded();
    let (child, mut qmp) = start(&lab, "replay rec -S -serial stdio");
    assert_eq!(qmp.ask("query-status", json!({}))["status"], "prelaunch");
    qmp.ask("human-monitor-command", json!({"command-line": "replay_seek end"}));
    let length = qmp.ask("query-replay", json!({}))["icount"].as_u64().unwrap();
    for (name, icount) in [("replay-seek", length / 3), ("replay-break", length / 2), ("replay-seek", 1000)] {
        qmp.events.clear();
        qmp.ask(name, json!({"icount": icount}));
        if name == "replay-break" {
            qmp.ask("cont", json!({}));
        }
        qmp.event("RESUME");
        qmp.event("STOP");
        assert_eq!(qmp.ask("query-replay", json!({}))["icount"], icount, "{name}");
        assert_eq!(qmp.ask("query-status", json!({}))["running"], false, "{name}");
    }
    for (line, what) in [("o/b 0x80 1", "o is"), ("nmi", "nmi is"), ("system_reset", "system_reset is")] {
        let text = qmp.ask("human-monitor-command", json!({"command-line": line}));
        assert!(
            text.as_str().unwrap().contains(&format!("Error: {what} not possible in a replay")),
            "{text}"
        );
    }
    qmp.ask("replay-seek", json!({"icount": 0}));
    qmp.event("STOP");
    qmp.ask("cont", json!({}));
    assert_eq!(qmp.event("SHUTDOWN")["data"]["guest"], false);
    child.end(PATIENCE).well().same_output(&recorded);
}

#[test]
fn a_guest_that_resets_itself_is_told_of() {
    let lab = Lab::new();
    lab.write("k", guests::reset());
    let (child, mut qmp) = start(&lab, "-kernel k -m 16 -serial null -S");
    qmp.ask("cont", json!({}));
    assert_eq!(qmp.event("RESET")["data"], json!({"guest": true, "reason": "guest-reset"}));
    qmp.ask("quit", json!({}));
    child.end(PATIENCE).well();
}

#[test]
fn hostile_clients_are_survived() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let words =
        "-kernel k -m 16 -serial null -monitor unix:m,server=on,wait=off -qmp unix:q,server=on,wait=off";
    let child = lab.start(words);
    let mut monitor = Monitor::connect(&lab.path("m"));
    let rubbish = [
        b"nonsense\n".to_vec(),
        vec![b'['; 1 << 20],
        vec![b'{'; 1 << 16],
        [b"{\"execute\":\"".to_vec(), vec![b'x'; 3 << 20], b"\"}\n".to_vec()].concat(),
        b"{\"execute\":\"qmp_capabilities\"".to_vec(),
        vec![0xff; 10_000],
        b"\0\0\0\n\n\n]]]}}}\n".to_vec(),
    ];
    for bytes in rubbish {
        let mut qmp = Qmp::greeted(&lab.path("q"));
        qmp.send(&bytes);
        drop(qmp);
        assert_eq!(monitor.ask("info status"), "VM status: running\n");
    }
    // Rubbish, then sense, in one conversation.
    let mut qmp = Qmp::greeted(&lab.path("q"));
    qmp.send(&[vec![b'['; 300], b"\n{\"execute\":\"qmp_capabilities\",\"id\":5}".to_vec()].concat());
    assert_eq!(qmp.answer()["error"]["desc"], "JSON nesting depth limit exceeded");
    assert_eq!(qmp.answer(), json!({"return": {}, "id": 5}));
    // One that asks for ever and never reads: it is not heard any more, and nobody else notices.
    qmp.stream().set_nonblocking(true).unwrap();
    let request = b"{\"execute\":\"query-commands\"}".repeat(100);
    let (begin, mut sent, mut full) = (Instant::now(), 0, None);
    while full.is_none_or(|at: Instant| at.elapsed().as_millis() < 300) {
        match qmp.stream().write(&request) {
            Ok(count) => (sent, full) = (sent + count, None),
            Err(_) => {
                full.get_or_insert_with(Instant::now);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        assert!(begin.elapsed() < PATIENCE, "it is read without end: {sent} bytes");
    }
    assert_eq!(monitor.ask("stop"), "");
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    for _ in 0..2000 {
        monitor.ask("cont");
        monitor.ask("stop");
    }
    let mut bytes = vec![0; 1 << 16];
    qmp.stream().set_nonblocking(false).unwrap();
    assert!(qmp.stream().read(&mut bytes).unwrap() > 0, "what was answered is still there");
    monitor.send("quit");
    drop(qmp);
    child.end(PATIENCE).well();
}

/// PyPI's qemu.qmp, where `REPRISE_QMP_PYTHON` names a Python that has it (CI does).
#[test]
fn the_reference_client_drives_a_replay() {
    let Some(python) = std::env::var_os("REPRISE_QMP_PYTHON") else {
        println!("REPRISE_QMP_PYTHON is not set: the client of PyPI is not tried");
        return;
    };
    let (lab, _) = demo_recorded();
    let child = lab.start("replay rec -S -serial null -qmp unix:q,server=on,wait=off");
    let deadline = Instant::now() + PATIENCE;
    while !lab.path("q").exists() {
        assert!(Instant::now() < deadline, "no socket");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/qmp/drive.py");
    let done = std::process::Command::new(python).arg(script).arg(lab.path("q")).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let found: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(found["greeting"], concat!("reprise ", env!("CARGO_PKG_VERSION")));
    assert_eq!((&found["status"], &found["mode"]), (&json!("prelaunch"), &json!("play")));
    assert_eq!((&found["events"], &found["icount"]), (&json!(["RESUME", "STOP"]), &json!(5000)));
    assert_eq!((&found["error"], &found["end"]), (&json!("CommandNotFound"), &json!("host-qmp-quit")));
    assert_eq!(found["hmp"], "VM status: paused\r\n");
    child.end(PATIENCE).well();
}
