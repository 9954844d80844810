//! Travel in time on a busy host: a recording that is saved and taken back while it is made, and a replay that is sent
//! everywhere by a monitor and a debugger. What a place looks like must not depend on the way to it.

use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::process::{Child, Done};
use crate::stub::Stub;
use crate::{PATIENCE, disturb, make_base, pause, stop_one};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use tests::random::Random;

const OPTIONS: &str = "-monitor unix:monitor.sock,server=on,wait=off -snapdir snaps";
/// What a replay is asked to do.
const WISHES: u64 = 25;

fn monitor_of(lab: &Lab) -> Monitor {
    let monitor = Monitor::connect(&lab.path("monitor.sock"));
    monitor.set_patience(PATIENCE);
    monitor
}

/// Disturbs a program while `work` goes on with it.
fn under_disturbance<T>(child: &Child, random: &mut Random, work: impl FnOnce(&mut Random) -> T) -> T {
    /// However the work ends, the disturbance does.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    let mut other = Random::new(random.bits());
    thread::scope(|scope| {
        let told = Over(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) && stop_one(child, &mut other) {
                pause(&mut other, 200);
            }
        });
        let result = work(random);
        drop(told);
        result
    })
}

fn must(monitor: &mut Monitor, command: &str) {
    assert_eq!(monitor.ask(command), "", "{command}");
}

/// Snapshots by name: where they are.
fn snapshots(monitor: &mut Monitor) -> BTreeMap<String, u64> {
    let text = monitor.ask("info snapshots");
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.get(1)?).to_owned(), words.last()?.parse().ok()?))
    };
    text.lines().skip(2).filter_map(row).collect()
}

/// Rounds of the guest, which writes and reads its disk.
fn rounds(out: &[u8]) -> usize {
    out.windows(7).filter(|window| window == b"\nround ").count()
}

/// Records with saves, loads of what was saved, and deletions, while the guest writes to its disk; the names that are on the way.
fn record(lab: &Lab, guests: &Path, random: &mut Random) -> Done {
    make_base(lab);
    let (kernel, initrd) = (guests.join("vmlinuz-cloud"), guests.join("initrd-io.gz"));
    let mut words = vec!["record", "-o", "rec", "-kernel", kernel.to_str().unwrap()];
    words.extend(["-initrd", initrd.to_str().unwrap(), "-append", "console=ttyS0 quiet panic=-1 job=churn"]);
    words.extend(["-m", "256", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    words.extend(["-drive", "file=base.qcow2,if=virtio", "-device", "virtio-rng-pci"]);
    words.extend(OPTIONS.split_whitespace());
    let mut child = lab.start_words(&words);
    let mut monitor = monitor_of(lab);
    child.until_text("round 3", PATIENCE);
    under_disturbance(&child, random, |random| {
        let mut count = 0;
        for _ in 0..10 {
            match random.below(4) {
                0 if count > 0 => {
                    must(&mut monitor, &format!("loadvm s{}", random.below(count)));
                    assert!(monitor.ask("info status").starts_with("VM status: running"));
                }
                1 => must(&mut monitor, "sendkey a"),
                _ => {
                    must(&mut monitor, &format!("savevm s{count}"));
                    count += 1;
                }
            }
            pause(random, 250);
        }
        assert_eq!(snapshots(&mut monitor).len() as u64, count);
    });
    let before = rounds(&child.out());
    child.until("more rounds", PATIENCE, |out| rounds(out) >= before + 5);
    monitor.send("quit");
    child.end(PATIENCE).well()
}

/// Where a replay is and what a debugger sees there: registers, and the guest's pages of code and data around them.
fn look(stub: &mut Stub) -> (u64, String) {
    (stub.icount(), stub.ask("g"))
}

/// What was seen at each place. Two moments of one place differ (before and after a delivery), so only arrivals count.
#[derive(Default)]
struct Atlas(BTreeMap<u64, String>);

impl Atlas {
    fn arrive(&mut self, stub: &mut Stub, place: u64) {
        let (icount, registers) = look(stub);
        assert_eq!(icount, place, "it did not arrive");
        let known = self.0.entry(place).or_insert_with(|| registers.clone());
        assert_eq!(*known, registers, "place {place} looks otherwise than before");
    }
}

/// One thing that users do with a replay.
fn wish(atlas: &mut Atlas, monitor: &mut Monitor, stub: &mut Stub, random: &mut Random, length: u64) {
    match random.below(7) {
        0 | 1 => {
            let known = atlas.0.keys().nth(random.below(1 + atlas.0.len() as u64) as usize).copied();
            let place = known.unwrap_or_else(|| random.below(length));
            must(monitor, &format!("replay_seek {place}"));
            atlas.arrive(stub, place);
        }
        2 => {
            must(monitor, &format!("replay_seek {}", length.saturating_mul(10)));
            assert_eq!(stub.icount(), length, "past the end is the end");
        }
        3 => {
            let all: Vec<(String, u64)> = snapshots(monitor).into_iter().collect();
            let on_the_way = all.get(random.below(1 + all.len() as u64) as usize);
            if let Some((tag, place)) = on_the_way {
                let answer = monitor.ask(&format!("loadvm {tag}"));
                // Those of a future that was cut off are refused.
                if answer.is_empty() {
                    assert_eq!(stub.icount(), *place, "loadvm {tag}");
                } else {
                    assert!(answer.contains("a replay goes only where its recording went"), "{answer}");
                }
            }
        }
        4 => {
            must(monitor, &format!("savevm r{}", random.below(4)));
        }
        5 => steps(stub, random),
        _ => {
            // What is here was here before, or never.
            let (here, rip) = (stub.icount(), stub.rip());
            assert_eq!(stub.ask(&format!("Z1,{rip:x},1")), "OK");
            let stop = stub.ask("bc");
            assert!(stop.starts_with("T05"), "{stop}");
            assert!(stub.icount() <= here);
            if stub.icount() > 0 {
                assert_eq!(stub.rip(), rip);
            }
            assert_eq!(stub.ask(&format!("z1,{rip:x},1")), "OK");
        }
    }
}

/// Steps ahead, then back over the same places.
fn steps(stub: &mut Stub, random: &mut Random) {
    let mut seen = vec![look(stub)];
    for _ in 0..1 + random.below(15) {
        let stop = stub.ask("s");
        if stop.contains("replaylog:end") {
            break;
        }
        seen.push(look(stub));
    }
    for expected in seen.iter().rev().skip(1) {
        assert!(stub.ask("bs").starts_with("T05"));
        let found = look(stub);
        assert_eq!(found.0, expected.0, "a step back goes one back");
        assert_eq!(found.1, expected.1, "the way back looks otherwise at {}", found.0);
    }
}

fn length_of(lab: &Lab) -> u64 {
    let info = lab.start("info --json rec").end(PATIENCE).well().json();
    info["log"]["instructions"].as_u64().unwrap_or_else(|| panic!("{info}"))
}

/// Sends a replay everywhere, then lets it run from its beginning to its end.
fn travel(lab: &Lab, random: &mut Random, plain: &Done) {
    let length = length_of(lab);
    let child = lab.start(&format!("replay rec -S -gdb unix:gdb.sock {OPTIONS}"));
    let mut monitor = monitor_of(lab);
    let mut stub = Stub::attach(&lab.path("gdb.sock"));
    stub.set_patience(PATIENCE);
    under_disturbance(&child, random, |random| {
        let mut atlas = Atlas::default();
        for _ in 0..WISHES {
            wish(&mut atlas, &mut monitor, &mut stub, random, length);
        }
        must(&mut monitor, "replay_seek 0");
        let place = length / 3;
        must(&mut monitor, &format!("replay_break {place}"));
        assert!(stub.ask("c").starts_with('T'));
        assert_eq!(stub.icount(), place, "a break");
        must(&mut monitor, "replay_seek 0");
        assert_eq!(stub.ask("D"), "OK");
    });
    let mut child = child;
    disturb(&mut child, random, |_, _| {});
    let done = child.end(PATIENCE).well();
    assert!(done.out.ends_with(&plain.out), "the whole replay at last shows {:?}", done.text());
}

/// A debugger that wants to go back in a machine that lives.
fn back_in_a_live_machine(lab: &Lab, guests: &Path, random: &mut Random) {
    let (kernel, initrd) = (guests.join("vmlinuz-cloud"), guests.join("initrd.gz"));
    let mut words = vec!["-kernel", kernel.to_str().unwrap(), "-initrd", initrd.to_str().unwrap()];
    words.extend(["-append", "console=ttyS0 quiet panic=-1", "-m", "256", "-display", "none", "-no-reboot"]);
    words.extend(["-serial", "stdio", "-S", "-gdb", "unix:live.sock"]);
    let mut child = lab.start_words(&words);
    let mut stub = Stub::attach(&lab.path("live.sock"));
    stub.set_patience(PATIENCE);
    under_disturbance(&child, random, |random| {
        for _ in 0..10 {
            assert_eq!(stub.ask(["bs", "bc"][random.below(2) as usize]), "E22");
            stub.send("c");
            pause(random, 100);
            stub.raw(&[3]);
            assert_eq!(stub.answer(), "T02thread:01;");
        }
        assert_eq!(stub.ask("D"), "OK");
    });
    disturb(&mut child, random, |_, _| {});
    assert!(child.end(PATIENCE).well().text().contains("GUEST-DONE"));
}

/// One round; what it did, in a few words.
pub fn round(lab: &Lab, guests: &Path, random: &mut Random) -> String {
    let recorded = record(lab, guests, random);
    let plain = lab.start("replay rec").end(PATIENCE).well();
    assert!(rounds(&plain.out) >= 5, "{}", plain.text());
    // The recording may have shown more: what was cut off.
    let last = plain.out.len().min(200);
    assert!(recorded.out.ends_with(&plain.out[plain.out.len() - last..]), "{}", plain.text());
    let report = lab.start("verify rec --json").end(PATIENCE).well().json();
    assert_eq!(report["ok"], true, "{report}");
    travel(lab, random, &plain);
    back_in_a_live_machine(lab, guests, random);
    format!("{} digests, {} rounds of the guest, {WISHES} wishes", report["digests"], rounds(&plain.out))
}
