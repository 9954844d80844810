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

/// What a replay of a recording is at these places, one after the other, and how it ends.
fn states(lab: &Lab, recording: &str, places: &[u64]) -> Vec<String> {
    let line = format!(
        "replay {recording} -S -monitor unix:m-{recording},server=on,wait=off -d vcpu=debug -D log-{recording}"
    );
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
    let expected = states(&lab, "bare", &places);
    // To the last one first, back over every snapshot, to the start, and on.
    let order = [5, 4, 0, 5, 2, 3, 1];
    let ways: Vec<u64> = order.iter().map(|index| places[*index]).collect();
    for (found, index) in states(&lab, "rec", &ways).iter().zip(order) {
        assert_eq!(*found, expected[index], "{index}");
    }
    let log = std::fs::read_to_string(lab.path("log-rec")).unwrap();
    let fetched = log.matches("a replay fetches a state").count();
    assert!(fetched >= 3, "{fetched} ways from stored snapshots: {log}");

    // A debugger's ways back lead over them, too.
    let script = format!(
        "set pagination off\nset remotetimeout 300\ntarget remote g\nmonitor replay_seek {}\nmaintenance flush register-cache\n\
         reverse-stepi\nprintf \"step %d %#lx\\n\", $icount, $pc\nset $there = $pc\n\
         monitor replay_seek {}\nmaintenance flush register-cache\nhbreak *$there\nreverse-continue\n\
         printf \"met %d %#lx\\n\", $icount, $pc\ndelete\nreverse-continue\nprintf \"begin %d\\n\", $icount\n\
         stepi\nprintf \"on %d\\n\", $icount\nkill\n",
        places[1], places[5]
    );
    let (bare, _) = debug_recording(&lab, "bare", &script);
    let (found, err) = debug_recording(&lab, "rec", &script);
    assert!(found.contains("begin 0\n") && found.contains("on 1\n"), "{found}{err}");
    assert_eq!(found, bare, "{err}");
}
