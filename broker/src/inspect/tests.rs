//! Tests of dump and info on a small recording with every kind of event.

use super::*;
use replay::event::{Event, Input, Payload, ShutdownCause, Stamped, UsedEntry};
use replay::log::Ending;
use replay::manifest;
use replay::recording::{Recording, Replace};
use replay::time::{Icount, Vtime};

/// One event of each kind but End, at 100, 200, …
fn events() -> Vec<Stamped> {
    let data = UsedEntry { id: 3, len: 3, payload: Payload::Data(b"ls\r".to_vec()) };
    let digest = UsedEntry { id: 4, len: 512, payload: Payload::Digest(0xabc) };
    let events = [
        Event::QueueUsed { device: 0, queue: 0, entries: vec![data, digest] },
        Event::ConfigChanged { device: 0, bytes: vec![b'x'; 40] },
        Event::Input(Input::Key { scancode: 0x1c, down: true }),
        Event::PowerButton,
        Event::Nmi,
        Event::Reset,
        Event::HostClock { unix_ns: 1_500_000_000 },
        Event::Entropy { bytes: vec![0xa5, 1] },
        Event::IdleWake { vtime: Vtime(2_000_000_001) },
        Event::Rate { shift: 4 },
        Event::Digest { registers: 1, memory: 2 },
        Event::DeviceOffered { device: 0, features: 1 << 32, config: vec![1, 2] },
        Event::Sent { device: 0, queue: 1, count: 2, digest: 3 },
        Event::DeviceRestarted { device: 0 },
        Event::PortWrite { port: 0x80, size: 1, value: 0x42 },
        Event::Shutdown { cause: ShutdownCause::GuestShutdown },
    ];
    (1..).zip(events).map(|(n, event)| Stamped { icount: Icount(n * 100), event }).collect()
}

fn recording(guard: &tempfile::TempDir) -> Recording {
    let path = guard.path().join("run");
    let recording = Recording::create(&path, Replace::No, manifest::example()).unwrap();
    let mut writer = recording.create_log().unwrap();
    events().iter().for_each(|stamped| writer.append(stamped).unwrap());
    writer.flush(Icount(1650)).unwrap();
    writer.finish(Icount(1700)).unwrap();
    recording
}

fn dumped(filter: Filter, form: Form) -> String {
    let guard = tempfile::tempdir().unwrap();
    let mut out = Vec::new();
    let ending = dump(&recording(&guard), &filter, form, &mut out).unwrap();
    assert_eq!(ending, Ending::Finished { icount: Icount(1700) });
    String::from_utf8(out).unwrap()
}

#[test]
fn every_event_is_a_line() {
    let expected = "          icount  block  kind           detail
             100      0  queue-used     serial0 queue 0: id 3 len 3 \"ls\\r\"; id 4 len 512 digest 0000000000000abc
             200      0  config-changed serial0 \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" and 8 bytes more
             300      0  input          key 0x1c down
             400      0  power-button
             500      0  nmi
             600      0  reset
             700      0  host-clock     1.500000000 s since 1970
             800      0  entropy        a501
             900      0  idle-wake      guest time 2.000000001s
            1000      0  rate           2^4 ns an instruction
            1100      0  digest         registers 0000000000000001 memory 0000000000000002
            1200      0  device-offered serial0 features 0x100000000 config 0102
            1300      0  sent           serial0 queue 1: 2 request(s) digest 0000000000000003
            1400      0  device-restarted serial0
            1500      0  port-write     port 0x0080 size 1 value 0x42
            1600      0  shutdown       guest-shutdown
            1700      1  end
# the log is complete and ends at instruction 1700
";
    assert_eq!(dumped(Filter::default(), Form::Text), expected);
}

#[test]
fn filters_select_and_unknown_names_are_refused() {
    let icounts = |filter| {
        let lines = dumped(filter, Form::Text);
        let numbers = lines.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
        numbers.collect::<Vec<u64>>()
    };
    let kinds = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(icounts(Filter { kinds: kinds(&["nmi", "end"]), ..Filter::default() }), [500, 1700]);
    assert_eq!(
        icounts(Filter { device: Some("serial0".into()), ..Filter::default() }),
        [100, 200, 1200, 1300, 1400]
    );
    assert_eq!(
        icounts(Filter { device: Some("0".into()), ..Filter::default() }),
        [100, 200, 1200, 1300, 1400]
    );
    let range = Filter { from: Some(Icount(300)), to: Some(Icount(500)), ..Filter::default() };
    assert_eq!(icounts(range), [300, 400, 500]);
    let guard = tempfile::tempdir().unwrap();
    let recording = recording(&guard);
    let error = |filter| dump(&recording, &filter, Form::Text, &mut Vec::new()).unwrap_err().to_string();
    let text = error(Filter { kinds: kinds(&["nim"]), ..Filter::default() });
    assert!(text.starts_with("there is no event kind \"nim\"; the kinds are: queue-used, "), "{text}");
    let text = error(Filter { device: Some("disk".into()), ..Filter::default() });
    assert_eq!(text, "the recorded machine has no device \"disk\"; its devices are: serial0");
}

#[test]
fn a_script_gets_an_object_a_line() {
    let lines: Vec<Value> = dumped(Filter::default(), Form::Json)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert!(KINDS.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    assert_eq!(kinds.len(), KINDS.len());
    assert_eq!(lines[0]["device"], "serial0");
    assert_eq!(lines[0]["entries"][0]["data"], "6c730d");
    assert_eq!(
        lines[2],
        json!({"icount": 300, "block": 0, "offset": 36, "kind": "input", "scancode": 28, "down": true})
    );
    assert_eq!(lines.last().unwrap(), &json!({"ending": "finished", "icount": 1700}));
}

#[test]
fn info_tells_what_was_recorded() {
    let guard = tempfile::tempdir().unwrap();
    let recording = recording(&guard);
    let mut out = Vec::new();
    info(&recording, Form::Text, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    for part in [
        "format        2, made by reprise 0.1.0+r3\n",
        "created       2023-11-14 22:13:21 UTC\n",
        "machine       256 MiB RAM, 1 CPU x86-64-v3,-avx2, icount shift=5, RTC from 2023-11-14 22:13:20 UTC\n",
        "initrd        none\n",
        "length        1700 instructions\n",
        "state         the log is complete and ends at instruction 1700\n",
    ] {
        assert!(text.contains(part), "{part}{text}");
    }
    let mut out = Vec::new();
    info(&recording, Form::Json, &mut out).unwrap();
    let json: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&json["log"]["events"], &json["log"]["kinds"]["nmi"]), (&json!(17), &json!(1)));
    assert_eq!(json["manifest"]["machine"]["ram_bytes"], 256 << 20);
}

#[test]
fn cut_and_damaged_logs_are_shown_up_to_there() {
    let guard = tempfile::tempdir().unwrap();
    let recording = recording(&guard);
    let whole = std::fs::read(recording.log_path()).unwrap();
    std::fs::write(recording.log_path(), &whole[..whole.len() - 1]).unwrap();
    let mut out = Vec::new();
    let ending = dump(&recording, &Filter::default(), Form::Text, &mut out).unwrap();
    assert!(matches!(ending, Ending::Cut { last_icount: Icount(1650), .. }));
    assert!(String::from_utf8(out).unwrap().contains("# the recording was cut short, not finished"));
    let mut damaged = whole;
    damaged[50] ^= 1;
    std::fs::write(recording.log_path(), damaged).unwrap();
    let mut out = Vec::new();
    assert!(matches!(info(&recording, Form::Json, &mut out).unwrap(), Ending::Damaged(_)));
    let json: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["log"]["ending"]["ending"], "damaged");
    assert_eq!(json["log"]["ending"]["offset"], 36);
}
