//! A log with a changed byte, wherever it is, is reported with its position; nothing hangs and nothing passes.

use crate::guests::demo_recorded;

/// Where the flipped bits of a log of `length` bytes are: all over it, and at both ends.
fn places(length: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..12).map(|n| n * length / 12).collect();
    places.extend([1, 8, length - 1, length - 9]);
    places
}

#[test]
fn each_changed_byte_is_reported() {
    let (lab, recorded) = demo_recorded();
    let log = std::fs::read(lab.path("rec/events.log")).unwrap();
    lab.copy("rec", "bad");
    for place in places(log.len()) {
        let mut bytes = log.clone();
        bytes[place] ^= 1 << (place % 8);
        lab.write("bad/events.log", &bytes);
        let replayed = lab.run("replay bad");
        let said = replayed.err.contains("events.log") || replayed.err.contains("cut short");
        assert!(said, "offset {place} of {}: status {}, {:?}", log.len(), replayed.code(), replayed.err);
        assert!(recorded.out.starts_with(&replayed.out), "offset {place}");
        let verified = lab.run("verify bad");
        assert!(!verified.err.is_empty() || verified.text().contains("cut short"), "offset {place}");
        if replayed.code() != 0 {
            assert_eq!(verified.code(), 1, "offset {place}: {}", verified.err);
        }
    }
}

#[test]
fn a_torn_log_is_replayed_as_far_as_it_goes() {
    let (lab, recorded) = demo_recorded();
    let log = std::fs::read(lab.path("rec/events.log")).unwrap();
    lab.copy("rec", "torn");
    for length in [log.len() - 1, log.len() - 30, log.len() * 2 / 3, log.len() / 2, log.len() / 4] {
        lab.write("torn/events.log", &log[..length]);
        let replayed = lab.run("replay torn");
        assert!(replayed.err.contains("cut short"), "{length} bytes: {:?}", replayed.err);
        assert!(recorded.out.starts_with(&replayed.out), "{length} bytes");
        lab.run("verify torn").well();
    }
    for length in [0, 5, 20] {
        lab.write("torn/events.log", &log[..length]);
        let replayed = lab.run("replay torn");
        assert!(!replayed.err.is_empty(), "{length} bytes");
        assert!(replayed.out.is_empty(), "{length} bytes");
    }
}

#[test]
fn a_changed_manifest_is_reported() {
    let (lab, _) = demo_recorded();
    let path = lab.path("rec/manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [("16777216", "33554432"), ("\"shift\": 0", "\"shift\": 1"), ("x86-64-v3", "x86-64-v2")]
    {
        assert!(manifest.contains(from), "{from}: {manifest}");
        std::fs::write(&path, manifest.replace(from, to)).unwrap();
        let replayed = lab.run("replay rec");
        assert_eq!(replayed.code(), 1, "{from} → {to}: {:?}", replayed.err);
        assert_eq!(replayed.err.lines().count(), 1, "{}", replayed.err);
    }
    std::fs::write(&path, &manifest[..manifest.len() / 2]).unwrap();
    assert!(lab.run("replay rec").err.contains("manifest.json"));
}
