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

/// What became of a job: its error, if it has one. It is dismissed.
fn conclude(qmp: &mut Qmp, id: &str) -> Option<String> {
    let mut way = vec![];
    while way.last().is_none_or(|status| status != "concluded") {
        let event = qmp.event("JOB_STATUS_CHANGE");
        assert_eq!(event["data"]["id"], id);
        way.push(event["data"]["status"].as_str().unwrap().to_owned());
    }
    let jobs = qmp.ask("query-jobs", json!({}));
    assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");
    assert_eq!((&jobs[0]["status"], &jobs[0]["current-progress"]), (&json!("concluded"), &json!(1)));
    let error = jobs[0]["error"].as_str().map(str::to_owned);
    let ends: &[&str] = if error.is_some() { &["aborting"] } else { &["waiting", "pending"] };
    assert_eq!(way, [&["created", "running"][..], ends, &["concluded"]].concat());
    qmp.ask("job-dismiss", json!({"id": id}));
    assert_eq!(qmp.event("JOB_STATUS_CHANGE")["data"], json!({"id": id, "status": "null"}));
    assert_eq!(qmp.ask("query-jobs", json!({})), json!([]));
    error
}

fn job(qmp: &mut Qmp, name: &str, mut arguments: serde_json::Value) -> Option<String> {
    arguments["job-id"] = json!("j");
    assert_eq!(qmp.ask(name, arguments), json!({}));
    conclude(qmp, "j")
}

fn icount(qmp: &mut Qmp) -> u64 {
    qmp.ask("query-replay", json!({}))["icount"].as_u64().unwrap()
}

#[test]
fn snapshots_are_jobs() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    lab.write("disk", vec![0; 1 << 20]);
    let disk = "-drive file=disk,if=none,id=d,format=raw -device virtio-blk-pci,drive=d";
    let line = "-kernel k -m 16 -serial stdio -icount shift=3,rr=record,rrfile=rec -snapdir snaps";
    let (mut child, mut qmp) = start(&lab, &format!("{line} {disk}"));
    child.until("10 lines", PATIENCE, |out| lines(out) >= 10);
    let all = |tag: &str| json!({"tag": tag, "vmstate": "d", "devices": ["d"]});
    assert_eq!(job(&mut qmp, "snapshot-save", all("a")), None);
    let exists = "Snapshot 'a' already exists in one or more devices";
    assert_eq!(job(&mut qmp, "snapshot-save", all("a")).as_deref(), Some(exists));
    let other = json!({"tag": "b", "vmstate": "x", "devices": ["x"]});
    assert_eq!(job(&mut qmp, "snapshot-save", other).as_deref(), Some("No block device node 'x'"));
    let absent = "Snapshot 'nosuch' does not exist in one or more devices";
    assert_eq!(job(&mut qmp, "snapshot-load", all("nosuch")).as_deref(), Some(absent));
    // One that stood still stands still.
    qmp.ask("stop", json!({}));
    let far = icount(&mut qmp);
    assert_eq!(job(&mut qmp, "snapshot-load", all("a")), None);
    let at = icount(&mut qmp);
    assert!(at < far, "{at} {far}");
    assert_eq!(qmp.ask("query-status", json!({}))["status"], "paused");
    qmp.ask("cont", json!({}));
    let seen = lines(&child.out());
    child.until("10 more lines", PATIENCE, |out| lines(out) >= seen + 10);
    // One that ran runs on.
    assert_eq!(job(&mut qmp, "snapshot-load", all("a")), None);
    assert_eq!(qmp.ask("query-status", json!({}))["running"], true);
    let seen = lines(&child.out());
    child.until("10 lines again", PATIENCE, |out| lines(out) >= seen + 10);
    assert_eq!(job(&mut qmp, "snapshot-save", all("b")), None);
    for _ in 0..2 {
        assert_eq!(job(&mut qmp, "snapshot-delete", json!({"tag": "b", "devices": ["d"]})), None);
    }
    assert_eq!(job(&mut qmp, "snapshot-save", all("b")), None);
    qmp.ask("quit", json!({}));
    child.end(PATIENCE).well();
    lab.run("verify rec").well();

    let (child, mut qmp) = start(&lab, "replay rec -S -serial null");
    assert_eq!(job(&mut qmp, "snapshot-load", all("a")), None);
    assert_eq!(icount(&mut qmp), at);
    assert_eq!(job(&mut qmp, "snapshot-save", all("c")), None);
    qmp.ask("human-monitor-command", json!({"command-line": "replay_seek 10"}));
    assert_eq!(job(&mut qmp, "snapshot-load", all("c")), None);
    assert_eq!(icount(&mut qmp), at);
    qmp.ask("quit", json!({}));
    child.end(PATIENCE).well();
}

#[test]
fn a_machine_without_disks_has_snapshots_too() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let (child, mut qmp) = start(&lab, "-kernel k -m 16 -serial null -snapdir snaps -S");
    let none = |tag: &str| json!({"tag": tag, "vmstate": "", "devices": []});
    assert_eq!(job(&mut qmp, "snapshot-save", none("a")), None);
    assert_eq!(job(&mut qmp, "snapshot-load", none("a")), None);
    // All at once: they are done one after the other, and none is lost.
    for number in 0..20 {
        let mut arguments = none(&format!("s{number}"));
        arguments["job-id"] = json!(format!("j{number}"));
        qmp.ask("snapshot-save", arguments);
    }
    let mut concluded = 0;
    while concluded < 20 {
        let event = qmp.event("JOB_STATUS_CHANGE");
        concluded += u32::from(event["data"]["status"] == "concluded");
        assert_ne!(event["data"]["status"], "aborting", "{event}");
    }
    let table = qmp.ask("human-monitor-command", json!({"command-line": "info snapshots"}));
    assert_eq!(table.as_str().unwrap().lines().count(), 2 + 21, "{table}");
    qmp.ask("quit", json!({}));
    child.end(PATIENCE).well();
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
