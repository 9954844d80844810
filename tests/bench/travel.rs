//! What it costs to go back: steps, breakpoints and stretches at three places of a recording, the snapshots that a replay makes for
//! that, and how long a machine stands still for `savevm` and `loadvm`.
//!
//! `tests/guests/fetch.sh && cargo build --release -p broker && cargo bench -p tests --bench travel`; BENCH_ROUNDS (default 3).
//! The recording is a boot of the Debian cloud kernel with `job=cpu`; the saves are of `job=churn`, which writes to its disk all the time.

#![allow(clippy::unwrap_used, reason = "a program for developers that cannot go on says where")]
#![allow(dead_code, reason = "the harness is shared with test programs, which use more of it")]

#[path = "../program/debian.rs"]
mod debian;
#[path = "../program/lab.rs"]
mod lab;
#[path = "../program/monitor_client.rs"]
mod monitor_client;
#[path = "../program/process.rs"]
mod process;
#[path = "../machine/stub.rs"]
mod stub;

use lab::Lab;
use monitor_client::Monitor;
use process::Child;
use std::path::Path;
use std::time::{Duration, Instant};
use stub::Stub;

/// After this a run counts as hung.
const PATIENCE: Duration = Duration::from_secs(900);
/// Steps back at each place.
const STEPS: usize = 41;
/// How far back a hit lies, in instructions.
const STRETCH: u64 = 5_000_000;
/// An address at which no code is.
const NOWHERE: u64 = 0x10;
/// Host time between saves.
const CHURN: Duration = Duration::from_secs(2);

fn main() {
    let guests = debian::guests().expect("REPRISE_NO_GUESTS is not set");
    let rounds = std::env::var("BENCH_ROUNDS").map_or(3, |text| text.parse().expect("a number of rounds"));
    let lab = Lab::new();
    let end = record(&lab, &guests);
    println!("recording: {} million instructions", end / 1_000_000);
    cost_of_snapshots(&lab, rounds);
    println!("{:>6} {:>10} {:>12} {:>14} {:>10}", "place", "first ms", "median ms", "highest ms", "hit ms");
    for percent in [10, 50, 95] {
        steps(&lab, end, percent);
    }
    stretch(&lab, end * 95 / 100);
    saves(&guests);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Starts a machine with the cloud kernel.
fn start(lab: &Lab, guests: &Path, job: &str, more: &[&str]) -> Child {
    let path = |name| guests.join(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (path("vmlinuz-cloud"), path("initrd-io.gz"));
    let append = format!("console=ttyS0 quiet panic=-1 job={job}");
    let mut words = vec!["record", "-o", "rec", "-kernel", &kernel, "-initrd", &initrd, "-append", &append];
    words.extend(["-m", "256", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    words.extend(more);
    lab.start_words(&words)
}

/// Records the boot and the job; the number of instructions.
fn record(lab: &Lab, guests: &Path) -> u64 {
    let recorded = start(lab, guests, "cpu", &[]).end(PATIENCE).well();
    assert!(recorded.text().contains("counted 20000"), "the job was not done: {}", recorded.text());
    let info = lab.run("info rec --json").well().json();
    info["log"]["instructions"].as_u64().unwrap_or_else(|| panic!("no icount in {info}"))
}

/// A replay with somebody who may ask for the past, against one without.
fn cost_of_snapshots(lab: &Lab, rounds: usize) {
    let (mut without, mut with) = (vec![], vec![]);
    for _ in 0..rounds {
        for (line, times) in
            [("replay rec", &mut without), ("replay rec -monitor unix:m,server=on,wait=off", &mut with)]
        {
            let began = Instant::now();
            lab.start(line).end(PATIENCE).well();
            times.push(ms(began) / 1000.0);
        }
    }
    let (without, with) = (median(without), median(with));
    println!("replay {without:.2} s, with snapshots {with:.2} s: {:.3}", with / without);
}

/// A replay that stands at a place, with a debugger.
fn at(lab: &Lab, icount: u64) -> (Child, Stub) {
    let child = lab.start("replay rec -S -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    stub.monitor(&format!("replay_seek {icount}"));
    assert_eq!(stub.icount(), icount);
    (child, stub)
}

fn leave(child: Child, mut stub: Stub) {
    stub.send("k");
    child.end(PATIENCE).well();
}

fn steps(lab: &Lab, end: u64, percent: u64) {
    let place = end * percent / 100;
    let (child, mut stub) = at(lab, place);
    let mut times = vec![];
    for step in 1..=STEPS as u64 {
        let began = Instant::now();
        assert_eq!(stub.ask("bs"), "T05thread:01;");
        times.push(ms(began));
        assert_eq!(stub.icount(), place - step);
    }
    let first = times.remove(0);
    let highest = times.iter().copied().fold(0.0, f64::max);
    leave(child, stub);

    // What is executed some way before is a breakpoint.
    let (child, mut stub) = at(lab, place - STRETCH);
    let rip = stub.rip();
    stub.monitor(&format!("replay_seek {place}"));
    assert_eq!(stub.ask(&format!("Z1,{rip:x},1")), "OK");
    let began = Instant::now();
    let stop = stub.ask("bc");
    let hit = ms(began);
    assert!(stop.contains("hwbreak"), "{stop}");
    assert!(stub.icount() >= place - STRETCH && stub.rip() == rip);
    leave(child, stub);
    println!("{percent:>5}% {first:10.1} {:12.2} {highest:14.2} {hit:10.1}", median(times));
}

/// Over everything that was recorded, with a breakpoint that is never met: forward, then back.
fn stretch(lab: &Lab, place: u64) {
    let child = lab.start("replay rec -S -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    assert_eq!(stub.ask(&format!("Z1,{NOWHERE:x},1")), "OK");
    stub.monitor(&format!("replay_break {place}"));
    let began = Instant::now();
    stub.ask("c");
    let forward = ms(began) / 1000.0;
    assert_eq!(stub.icount(), place);
    let began = Instant::now();
    let stop = stub.ask("bc");
    let back = ms(began) / 1000.0;
    assert!(stop.contains("replaylog:begin"), "{stop}");
    leave(child, stub);
    println!("no hit: forward {forward:.2} s, reverse-continue {back:.2} s: {:.2}", back / forward);
}

/// Saves and loads of a guest that runs, as the vCPU process tells of them.
fn saves(guests: &Path) {
    let lab = Lab::new();
    lab.write("d.raw", vec![0; 64 << 20]);
    let devices = "-drive file=d.raw,format=raw,if=none,id=d0 -device virtio-blk-pci,drive=d0 \
                   -monitor unix:m,server=on,wait=off -d info -D log";
    let devices: Vec<&str> = devices.split_whitespace().collect();
    let mut child = start(&lab, guests, "churn", &devices);
    child.until_text("round 3", PATIENCE);
    let mut monitor = Monitor::connect(&lab.path("m"));
    println!("{:10} {:>10} {:>10} {:>10}", "command", "answer ms", "pause ms", "pages");
    for line in ["savevm a", "savevm b", "savevm c", "loadvm b", "loadvm a", "loadvm c"] {
        std::thread::sleep(CHURN);
        let before = pauses(&lab).len();
        let began = Instant::now();
        assert_eq!(monitor.ask(line), "");
        let answer = ms(began);
        while pauses(&lab).len() == before {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (us, pages) = pauses(&lab)[before];
        println!("{line:10} {answer:10.0} {:10.2} {pages:>10}", us as f64 / 1000.0);
    }
    monitor.send("quit");
    child.end(PATIENCE).well();
}

/// How long the machine stood still, in microseconds, and pages, of every save and load so far.
fn pauses(lab: &Lab) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(lab.path("log")).unwrap_or_default();
    let number = |line: &str, name: &str| {
        let words = line.split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).next()
    };
    let lines = text.lines().filter(|line| line.contains("stood still for a"));
    lines.filter_map(|line| Some((number(line, "us=")?, number(line, "pages=")?))).collect()
}
