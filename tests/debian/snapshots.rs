//! Snapshots of a guest that writes to its disk all the time: layers are whole, a load is another future, a replay the same.

use crate::images::{self, tool};
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::process::Child;
use crate::{BOOT_PATIENCE, guests, start_io};

/// Waits until the guest has written and read `count` times more.
pub fn more_rounds(child: &mut Child, count: usize) {
    let rounds = |out: &[u8]| out.windows(6).filter(|window| window == b"round ").count();
    let wanted = rounds(&child.out()) + count;
    child.until("rounds", BOOT_PATIENCE, |out| rounds(out) >= wanted);
}

/// What each round wrote and read, from where the guest was last put.
fn last_rounds(out: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(out).into_owned();
    let rounds: Vec<&str> = text.lines().filter(|line| line.starts_with("round ")).collect();
    let number = |line: &str| line.split(' ').nth(1).and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
    let start = (1..rounds.len()).rev().find(|&at| number(rounds[at]) <= number(rounds[at - 1])).unwrap_or(0);
    rounds[start..].iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn in_the_midst_of_writing() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    images::make_base(&lab);
    let options = "-drive file=base.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0 \
                   -monitor unix:m,server=on,wait=off -snapdir snaps";
    let options: Vec<&str> = options.split_whitespace().collect();
    let mut child = start_io(&lab, &guests, "job=churn", &options);
    let mut monitor = Monitor::connect(&lab.path("m"));
    more_rounds(&mut child, 15);
    assert_eq!(monitor.ask("savevm a"), "");
    more_rounds(&mut child, 15);
    assert_eq!(monitor.ask("savevm b"), "");
    more_rounds(&mut child, 15);
    assert_eq!(monitor.ask("loadvm a"), "");
    more_rounds(&mut child, 40);
    assert_eq!(monitor.ask("loadvm b"), "");
    more_rounds(&mut child, 5);
    assert_eq!(monitor.ask("loadvm a"), "");
    more_rounds(&mut child, 30);
    monitor.send("quit");
    let recorded = child.end(BOOT_PATIENCE).well();
    assert!(!recorded.text().contains("broken after"), "{}", recorded.text());

    let (replay, verify) = (lab.start("replay rec"), lab.start("verify rec --json"));
    let replayed = replay.end(BOOT_PATIENCE).well();
    let report = verify.end(BOOT_PATIENCE).well().json();
    assert_eq!(report["ok"], true, "{report}");
    let last = last_rounds(&recorded.out);
    let all = last_rounds(&replayed.out);
    assert!(last.len() >= 25 && all.len() >= last.len() + 14, "{} {}", last.len(), all.len());
    assert!(all.ends_with(&last[1..]), "{all:?} does not end with {last:?}");

    let mut count = 0;
    for entry in std::fs::read_dir(lab.path("rec/disks")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "qcow2") {
            tool(&lab, &format!("qemu-img check -f qcow2 {}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 3, "{count} layers");
    let chains = std::fs::read_to_string(lab.path("rec/disks/chains.json")).unwrap();
    let chains: serde_json::Value = serde_json::from_str(&chains).unwrap();
    let top = chains["d0"].as_str().unwrap_or_else(|| panic!("{chains}"));
    tool(&lab, &format!("qemu-img convert -O raw rec/disks/{top} seen"));
    lab.run("commit rec").well();
    tool(&lab, "qemu-img convert -f qcow2 -O raw base.qcow2 committed");
    let read = |name: &str| std::fs::read(lab.path(name)).unwrap();
    assert!(read("seen") == read("committed"), "the base holds what the guest saw last");
}
