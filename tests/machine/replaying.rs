//! A recording is replayed: same output, wherever it goes, as often as one likes, and only on the same machine.

use crate::guests::{self, DEMO, answer_demo, demo_lab, demo_recorded, record_demo};
use crate::lab::{Lab, PATIENCE};
use crate::process::assert_same;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_replay_prints_the_same_without_input_and_options() {
    let (lab, recorded) = demo_recorded();
    lab.run("replay rec").well().same_output(&recorded);
    let words = format!("{DEMO} -serial stdio -icount shift=0,rr=replay,rrfile=rec");
    lab.run(&words).well().same_output(&recorded);
    assert_eq!(lab.cause("rec"), "guest-shutdown");
}

#[test]
fn the_rate_that_follows_the_host_is_replayed() {
    let lab = demo_lab();
    for round in 0..3 {
        let words = format!("{DEMO} -serial stdio -icount shift=auto,rr=record,rrfile=auto");
        let recorded = answer_demo(lab.start(&words)).well();
        let verified = lab.run("verify auto").well();
        assert!(verified.text().contains("equal"), "round {round}: {}", verified.text());
        lab.run("replay auto").well().same_output(&recorded);
    }
}

#[test]
fn a_recording_of_another_build_is_replayed_with_a_warning() {
    let (lab, recorded) = demo_recorded();
    assert_eq!(lab.run("replay rec").well().err, "");
    let text = std::fs::read(lab.path("rec/manifest.json")).unwrap();
    let mut manifest = replay::manifest::Manifest::from_text(&text).unwrap();
    manifest.build = "0.0.9+r0".to_owned();
    lab.write("rec/manifest.json", manifest.to_text().unwrap());
    for words in ["replay rec", "verify rec"] {
        let done = lab.run(words).well();
        let warning = "reprise: warning: rec: recorded by reprise 0.0.9+r0, this is ";
        assert!(done.err.starts_with(warning), "{words}: {}", done.err);
        if words == "replay rec" {
            done.same_output(&recorded);
            assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        }
    }
}

/// Bit 20 of an address is masked while the gate is closed, also where the translation was known before.
#[test]
fn the_a20_gate_masks_addresses() {
    let lab = Lab::new();
    lab.write("k", guests::a20());
    let recorded = lab.run("record --digest-interval 1000 -o rec -kernel k -m 16 -serial stdio").well();
    assert_eq!(recorded.out, b"BAZ");
    lab.run("verify rec").well();
}

/// At shift=0 a second of guest time has 10^9 instructions: far more than this guest runs in a second of the host.
#[test]
fn the_hosts_clock_is_replayed() {
    let lab = Lab::new();
    lab.write("k", guests::seconds());
    let words = "record -o rec -kernel k -serial stdio -icount shift=0 -rtc base=2001-01-01,clock=host";
    let recorded = lab.run(words).well();
    assert_eq!(recorded.out, b"TTT");
    let info = lab.run("info rec --json").well().json();
    let dates = info["log"]["kinds"]["host-clock"].as_u64().unwrap();
    assert!((10..1000).contains(&dates), "{dates} looks at the host's clock in some seconds");
    let instructions = info["log"]["instructions"].as_u64().unwrap();
    assert!(instructions < 900_000_000, "the RTC ran on guest time: {instructions} instructions");
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
    let refused = lab.run("-icount rr=replay,rrfile=rec -rtc clock=vm").with_status(1);
    assert!(refused.err.contains("-rtc clock=: recorded host (-"), "{}", refused.err);
}

#[test]
fn output_of_a_replay_may_go_elsewhere() {
    let (lab, recorded) = demo_recorded();
    let to_file = lab.run("replay rec -serial file:serial.txt").well();
    assert!(to_file.out.is_empty());
    assert_same("-serial file:", &recorded.out, &std::fs::read(lab.path("serial.txt")).unwrap());
    assert!(lab.run("replay rec -serial null").well().out.is_empty());
    assert!(lab.run("replay rec -serial none").well().out.is_empty());

    let listener = std::os::unix::net::UnixListener::bind(lab.path("socket")).unwrap();
    let replay = lab.start("replay rec -serial unix:socket");
    let (mut client, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = vec![];
    std::io::Read::read_to_end(&mut client, &mut text).unwrap();
    replay.end(PATIENCE).well();
    assert_same("-serial unix:", &recorded.out, &text);
}

#[test]
fn recordings_are_described() {
    let (lab, recorded) = demo_recorded();
    let info = lab.run("info rec --json").well().json();
    assert_eq!(info["log"]["kinds"]["queue-used"], 1);
    assert!(info["log"]["kinds"]["digest"].as_u64().unwrap() >= 10, "{info}");
    assert_eq!(info["manifest"]["machine"]["ram_bytes"], 16 << 20);
    let text = lab.run("info rec").well().text();
    assert!(text.contains("16 MiB RAM") && text.contains("log is complete"), "{text}");
    let log = lab.run("log rec --json").well().text();
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let typed = events.iter().find(|event| event["kind"] == "queue-used").expect("the typed line");
    assert!(typed.to_string().contains("6e65766572"), "{typed}");
    assert!(lab.run("log rec --kind shutdown").well().text().contains("guest-shutdown"));
    let verified = lab.run("verify rec --json").well().json();
    assert_eq!((&verified["ok"], &verified["divergence"]), (&true.into(), &serde_json::Value::Null));
    assert!(!recorded.out.is_empty());
}

#[test]
fn a_recording_is_only_replaced_when_asked() {
    let (lab, first) = demo_recorded();
    let refused = lab.run(&format!("record -o rec {DEMO} -serial stdio"));
    assert_eq!((refused.code(), refused.out.len()), (1, 0));
    assert!(refused.err.contains("holds a recording already"), "{}", refused.err);
    lab.run("replay rec").well().same_output(&first);
    let words = format!("record --force -o rec {DEMO} -serial stdio -icount shift=0");
    let second = answer_demo(lab.start(&words)).well();
    lab.run("replay rec").well().same_output(&second);
    let words = format!("{DEMO} -serial stdio -icount shift=0,rr=record,rrfile=rec");
    let third = answer_demo(lab.start(&words)).well();
    assert_ne!(third.out, first.out, "the random numbers are others");
    lab.run("replay rec").well().same_output(&third);
}

#[test]
fn two_replays_of_a_write_protected_recording_at_once() {
    let (lab, recorded) = demo_recorded();
    for name in ["events.log", "manifest.json"] {
        std::fs::set_permissions(lab.path("rec").join(name), PermissionsExt::from_mode(0o400)).unwrap();
    }
    std::fs::set_permissions(lab.path("rec"), PermissionsExt::from_mode(0o500)).unwrap();
    let pair = [lab.start("replay rec"), lab.start("replay rec")];
    for replay in pair {
        replay.end(PATIENCE).well().same_output(&recorded);
    }
    std::fs::set_permissions(lab.path("rec"), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn another_machine_is_refused_by_name_with_both_values() {
    let (lab, _) = demo_recorded();
    for (words, name, values) in [
        ("-m 32", "-m", ["16", "32"]),
        ("-cpu x86-64-v2", "-cpu", ["x86-64-v3", "x86-64-v2"]),
        ("-append other", "-append", ["", "other"]),
        ("-icount shift=5", "shift", ["0", "5"]),
    ] {
        let refused = lab.run(&format!("replay rec {words}"));
        assert_eq!(refused.code(), 1, "{words}");
        assert_eq!(refused.err.lines().count(), 1, "{words}: {}", refused.err);
        let named = refused.err.contains(name) && values.iter().all(|value| refused.err.contains(value));
        assert!(named, "{words}: {}", refused.err);
    }
}

#[test]
fn a_changed_kernel_is_refused() {
    let lab = demo_lab();
    record_demo(&lab, "rec");
    let mut image = broker::demo_guest::IMAGE.to_vec();
    image.push(0);
    lab.write("demo.elf", &image);
    let refused = lab.run("replay rec");
    assert_eq!(refused.code(), 1);
    assert!(refused.err.starts_with("reprise: ") && refused.err.contains("-kernel"), "{}", refused.err);
    assert_eq!(lab.run("verify rec").code(), 1);
    std::fs::remove_file(lab.path("demo.elf")).unwrap();
    assert!(lab.run("replay rec").err.contains("demo.elf"));
}

#[test]
fn a_bigger_machine_is_recorded_sparsely() {
    let lab = Lab::new();
    lab.write("k", guests::power_off());
    let recorded = lab.run("record -o rec -kernel k -m 64G -serial stdio").well();
    assert_eq!(recorded.out, b"B");
    lab.run("replay rec").well().same_output(&recorded);
}
