//! Replays of a guest with a disk that begin at stored snapshots: whatever the way to a place, the machine is the same there.

use crate::debugging::debug_recording;
use crate::images;
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::snapshots::more_rounds;
use crate::{BOOT_PATIENCE, guests, start_io};
use std::path::Path;

/// Records a guest that writes all the time, with snapshots on the way; `bare` is the same without them.
fn record(lab: &Lab, guests: &Path) {
    images::make_base(lab);
    let options = "-drive file=base.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0 \
                   -monitor unix:m,server=on,wait=off";
    let options: Vec<&str> = options.split_whitespace().collect();
    let mut child = start_io(lab, guests, "job=churn", &options);
    let mut monitor = Monitor::connect(&lab.path("m"));
    for tag in ["a", "b", "c"] {
        more_rounds(&mut child, 12);
        assert_eq!(monitor.ask(&format!("savevm {tag}")), "");
    }
    more_rounds(&mut child, 12);
    monitor.send("quit");
    child.end(BOOT_PATIENCE).well();
    images::tool(lab, "cp -r rec bare");
    std::fs::remove_dir_all(lab.path("bare/snapshots")).unwrap();
}

/// What a replay of a recording, with more options, is at these places, one after the other. It ends well.
fn states(lab: &Lab, recording: &str, more: &str, places: &[u64]) -> Vec<String> {
    let monitor = format!("-monitor unix:m-{recording},server=on,wait=off");
    let line = format!("replay {recording} -S {monitor} -d vcpu=debug -D log-{recording} {more}");
    let child = lab.start(&line);
    let mut monitor = Monitor::connect(&lab.path(&format!("m-{recording}")));
    let mut state = |place: u64| {
        assert_eq!(monitor.ask(&format!("replay_seek {place}")), "", "{recording} {place}");
        let sum = monitor.ask("sum 0x1000000 0x4000000");
        format!("{}{sum}", monitor.ask("info registers"))
    };
    let found = places.iter().map(|place| state(*place)).collect();
    // All digests from there on.
    monitor.send("cont");
    child.end(BOOT_PATIENCE).well();
    found
}

#[test]
fn places_before_and_behind_snapshots() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    record(&lab, &guests);
    let end = lab.run("info rec --json").well().json()["log"]["instructions"].as_u64().unwrap();
    let places: Vec<u64> = [40, 60, 70, 80, 90, 98].map(|percent| end / 100 * percent).to_vec();
    let expected = states(&lab, "bare", "", &places);
    // To the last one first, back over every snapshot, to the start, and on.
    let order = [5, 4, 0, 5, 2, 3, 1];
    let ways: Vec<u64> = order.iter().map(|index| places[*index]).collect();
    for (found, index) in states(&lab, "rec", "", &ways).iter().zip(order) {
        assert_eq!(*found, expected[index], "{index}");
    }
    let fetched = |recording: &str| {
        let log = std::fs::read_to_string(lab.path(&format!("log-{recording}"))).unwrap();
        log.matches("source=Stored").count()
    };
    assert!(fetched("rec") >= 2);

    // What one replay keeps serves the next: but for a snapshot that is made when the disk has gone further.
    let line = "replay bare -S -monitor unix:m,server=on,wait=off -snapdir kept";
    let (child, mut monitor) = (lab.start(line), Monitor::connect(&lab.path("m")));
    for (index, tag) in [(2, "x"), (4, "y"), (0, "z")] {
        assert_eq!(monitor.ask(&format!("replay_seek {}", places[index])), "");
        assert_eq!(monitor.ask(&format!("savevm {tag}")), "");
    }
    monitor.send("quit");
    child.end(BOOT_PATIENCE).well();
    let layers = std::fs::read_dir(lab.path("kept/disks")).unwrap().count();
    assert_eq!(layers, 2, "one for x, one more for y");
    for (found, index) in states(&lab, "bare", "-snapdir kept", &ways[..4]).iter().zip(order) {
        assert_eq!(*found, expected[index], "{index}");
    }
    assert!(fetched("bare") >= 2);

    // A debugger's ways back lead over them, too.
    let script = format!(
        "set pagination off\nset remotetimeout 300\ntarget remote g\nmonitor replay_seek {}\nmaintenance flush register-cache\n\
         reverse-stepi\nprintf \"step %d %#lx\\n\", $icount, $pc\nset $there = $pc\n\
         monitor replay_seek {}\nmaintenance flush register-cache\nhbreak *$there\nreverse-continue\n\
         printf \"met %d %#lx\\n\", $icount, $pc\n",
        places[1], places[5]
    );
    let to_start = "delete\nreverse-continue\nprintf \"begin %d\\n\", $icount\n\
                    stepi\nprintf \"on %d\\n\", $icount\n";
    let (bare, _) = debug_recording(&lab, "bare", &format!("{script}kill\n"));
    let (found, err) = debug_recording(&lab, "rec", &format!("{script}{to_start}kill\n"));
    let (same, end) = found.split_at(found.find("\nNo more reverse-execution history").expect(&found));
    assert!(end.contains("begin 0\n") && end.contains("on 1\n"), "{found}{err}");
    assert!(bare.starts_with(same) && bare.contains("met "), "{found}{bare}{err}");
}
