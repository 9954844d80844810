//! Disk processes that die in mid-run and are started again: the guest notices nothing, and the recording verifies.

use crate::disk::{PATIENCE, check, check_text, content, guests, make_qcow2, start, start_rebooting};
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use tests::random::Random;

/// Kills in one run.
const KILLS: u32 = 10;

/// Waits until the machine stands still because a device is gone.
pub fn wait_for_pause(monitor: &mut Monitor) {
    let deadline = Instant::now() + PATIENCE;
    while !monitor.ask("info status").contains("io-error") {
        assert!(Instant::now() < deadline, "the machine does not stop for its disk");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_killed_disk_goes_on_where_it_was() {
    let Some(guests) = guests() else { return };
    let seed = 0x5eed_0ff5_1234_0001;
    println!("seed {seed:#x}");
    let mut dice = Random::new(seed);
    let lab = Lab::new();
    make_qcow2(&lab, "d.qcow2");
    let more = "-drive file=d.qcow2,if=none,id=d -device virtio-blk-pci,drive=d -action device-exit=pause \
                -monitor unix:m,server=on,wait=off -icount shift=auto,rr=record,rrfile=rec";
    let mut child = start(&lab, &guests, "sectors_twice", more);
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until_text("GUEST-UP", PATIENCE);
    let mut killed = 0;
    while killed < KILLS {
        std::thread::sleep(Duration::from_micros(1 + dice.below(300_000)));
        if String::from_utf8_lossy(&child.out()).contains("GUEST-DONE") {
            break;
        }
        child.member("device block").signal(Signal::SIGKILL);
        killed += 1;
        wait_for_pause(&mut monitor);
        assert_eq!(monitor.ask("device_restart d"), "");
        assert_eq!(monitor.ask("cont"), "");
    }
    drop(monitor);
    let done = child.end(PATIENCE).well();
    assert_eq!(killed, KILLS, "the guest was done too soon: {}", done.text());
    // The second pass wrote last.
    let text = done.text();
    let (first, second) = text.split_at(text.rfind("written").unwrap());
    assert_eq!(first.matches("direct reads 200").count(), 1, "{text}");
    check_text(second, &done.err, Some(&content(&lab, "rec/disks/d.qcow2")));
    let verified = lab.start("verify rec --json").end(PATIENCE).well().json();
    assert_eq!(verified["ok"], true, "{verified}");
    let log = lab.run("log rec").well().text();
    assert_eq!(log.matches("device-restarted").count(), KILLS as usize, "the journal says what happened");
}

/// A live disk that is told to end finishes first.
#[test]
fn a_disk_in_use_is_started_again() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    make_qcow2(&lab, "d.qcow2");
    let more = "-drive file=d.qcow2,if=none,id=d -device virtio-blk-pci,drive=d \
                -monitor unix:m,server=on,wait=off -icount shift=auto,rr=record,rrfile=rec";
    let mut child = start(&lab, &guests, "sectors", more);
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until_text("GUEST-UP", PATIENCE);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(70));
        assert_eq!(monitor.ask("device_restart d"), "");
    }
    drop(monitor);
    let done = child.end(PATIENCE).well();
    check(&done, Some(&content(&lab, "rec/disks/d.qcow2")));
    let verified = lab.start("verify rec --json").end(PATIENCE).well().json();
    assert_eq!(verified["ok"], true, "{verified}");
}

/// The name of the layer to which the guest's disk `d` was written last.
fn present_layer(lab: &Lab) -> String {
    let chains = std::fs::read(lab.path("rec/disks/chains.json")).unwrap();
    let chains: serde_json::Value = serde_json::from_slice(&chains).unwrap();
    format!("rec/disks/{}", chains["d"].as_str().unwrap())
}

/// One monitor saves, the other starts the disk's process again, both all the time: the guest notices neither.
#[test]
fn a_disk_at_work_is_saved_and_started_again_at_once() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    make_qcow2(&lab, "d.qcow2");
    let more = "-drive file=d.qcow2,if=none,id=d -device virtio-blk-pci,drive=d -monitor unix:m,server=on,wait=off \
                -monitor unix:m2,server=on,wait=off -icount shift=auto,rr=record,rrfile=rec";
    let mut child = start(&lab, &guests, "sectors", more);
    let (mut monitor, mut other) = (Monitor::connect(&lab.path("m")), Monitor::connect(&lab.path("m2")));
    child.until_text("GUEST-UP", PATIENCE);
    // Unless the guest has done its work before.
    let saves = std::thread::spawn(move || {
        for save in 0..20 {
            monitor.send(&format!("savevm s{save}"));
            match monitor.try_answer() {
                Some(answer) => assert_eq!(answer, "", "save {save}"),
                None => return save,
            }
        }
        20
    });
    let mut restarts = 0;
    while !saves.is_finished() {
        other.send("device_restart d");
        let Some(answer) = other.try_answer() else { break };
        let is_too_soon = answer == "Error: another back-end is being started for this device\n";
        assert!(answer.is_empty() || is_too_soon, "{answer}");
        restarts += u32::from(answer.is_empty());
    }
    let saves = saves.join().unwrap();
    let done = child.end(PATIENCE).well();
    assert!(saves >= 3 && restarts >= 3, "{saves} saves, {restarts} restarts: {}", done.text());
    check(&done, Some(&content(&lab, &present_layer(&lab))));
    let verified = lab.start("verify rec --json").end(PATIENCE).well().json();
    assert_eq!(verified["ok"], true, "{verified}");
}

/// What a monitor asks for while the disk's process is dead is done, or refused with a line; the machine is not lost.
#[test]
fn a_machine_whose_disk_is_gone_is_saved_and_reset() {
    let Some(guests) = guests() else { return };
    for window in ["on", "off"] {
        let lab = Lab::new();
        make_qcow2(&lab, "d.qcow2");
        let more = format!(
            "-drive file=d.qcow2,if=none,id=d -device virtio-blk-pci,drive=d,window={window} \
             -action device-exit=pause -monitor unix:m,server=on,wait=off -snapdir snaps"
        );
        let mut child = start_rebooting(&lab, &guests, "sectors", &more);
        let mut monitor = Monitor::connect(&lab.path("m"));
        child.until_text("GUEST-UP", PATIENCE);
        child.member("device block").signal(Signal::SIGKILL);
        wait_for_pause(&mut monitor);
        let answer = monitor.ask("savevm a");
        assert!(answer.is_empty() || answer.starts_with("Error: "), "window={window}: {answer}");
        assert_eq!(monitor.ask("system_reset"), "", "window={window}");
        assert_eq!(monitor.ask("device_restart d"), "", "window={window}");
        assert_eq!(monitor.ask("cont"), "", "window={window}");
        let deadline = Instant::now() + PATIENCE;
        while String::from_utf8_lossy(&child.out()).matches("GUEST-UP").count() < 2 {
            assert!(Instant::now() < deadline, "window={window}: the machine does not boot again");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(monitor.ask("savevm b"), "", "window={window}");
        monitor.send("quit");
        assert!(monitor.try_answer().is_none());
        child.end(PATIENCE).well();
    }
}
