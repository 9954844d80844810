//! Looks for indeterminism on demand, again and again, while the host is busy and processes stand still at random moments.
//!
//! Two kinds of rounds take turns. `replay`: records a guest that uses disk, network, entropy, console, keys and mouse, replays and
//! verifies it. `travel`: snapshots while recording, then a replay that is sent everywhere (`travel.rs`).
//!
//! `cargo bench -p tests --bench load` after `cargo build --release -p broker` and `tests/guests/fetch.sh`.
//! LOAD_ROUNDS says how often (default 10), LOAD_KIND that there is only one kind, LOAD_SEED where the sequence of disturbances
//! begins. A round that fails is a bug: its directory is kept and named, and the program ends with status 1.

#![allow(clippy::unwrap_used, reason = "a program for developers that cannot go on says where")]
#![allow(dead_code, reason = "the harness is shared with other test programs, which use more of it")]

#[path = "../program/debian.rs"]
mod debian;
#[path = "../program/http.rs"]
mod http;
#[path = "../program/lab.rs"]
mod lab;
#[path = "../program/monitor_client.rs"]
mod monitor_client;
#[path = "../program/process.rs"]
mod process;
#[path = "../machine/stub.rs"]
mod stub;
mod travel;

use lab::Lab;
use nix::sys::signal::Signal;
use process::{Child, Done};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use tests::random::Random;

/// After this a run counts as hung.
const PATIENCE: Duration = Duration::from_secs(900);
const BUSY_THREADS: usize = 3;

/// Waits a moment of random length.
fn pause(random: &mut Random, limit_ms: u64) {
    thread::sleep(Duration::from_millis(random.below(limit_ms)));
}

/// Stops a process of the tree for a moment; false: there is none.
fn stop_one(child: &Child, random: &mut Random) -> bool {
    let tree = child.tree();
    if tree.is_empty() {
        return false;
    }
    let victim = &tree[random.below(tree.len() as u64) as usize];
    victim.signal(Signal::SIGSTOP);
    pause(random, 80);
    victim.signal(Signal::SIGCONT);
    true
}

/// Stops and continues processes of the tree at random until it has ended; `input` is called now and then.
fn disturb(child: &mut Child, random: &mut Random, mut input: impl FnMut(&mut Child, &mut Random)) {
    let end = Instant::now() + PATIENCE;
    while child.is_alive() && Instant::now() < end {
        if !stop_one(child, random) {
            return;
        }
        if random.below(8) == 0 {
            input(child, random);
        }
        pause(random, 200);
    }
}

/// Types, presses a key or moves the mouse. Nobody minds when the machine has just ended.
fn give_input(child: &mut Child, random: &mut Random, monitor: &mut Option<UnixStream>, socket: &Path) {
    let letter = b'a' + random.below(26) as u8;
    let command = match random.below(3) {
        0 => return child.try_type(&[letter]),
        1 => format!("sendkey {}\n", letter as char),
        _ => format!("mouse_move {} {}\n", random.below(20), random.below(20)),
    };
    if monitor.is_none() {
        *monitor = UnixStream::connect(socket).ok();
    }
    if let Some(monitor) = monitor {
        let _ = monitor.write_all(command.as_bytes());
    }
}

/// Makes the image `base.qcow2`.
fn make_base(lab: &Lab) {
    let mut command = std::process::Command::new("qemu-img");
    let line = ["create", "-q", "-f", "qcow2", "base.qcow2", "64M"];
    let made = command.args(line).current_dir(lab.path("")).status();
    assert!(made.is_ok_and(|status| status.success()), "qemu-img create (package qemu-utils)");
}

fn record(lab: &Lab, guests: &Path, random: &mut Random) -> Done {
    let server = http::Server::start();
    make_base(lab);
    let (kernel, initrd) = (guests.join("vmlinuz-cloud"), guests.join("initrd-io.gz"));
    let append = format!("console=ttyS0 quiet panic=-1 job=mix port={}", server.port());
    let mut words = vec!["record", "-o", "rec", "-kernel", kernel.to_str().unwrap()];
    words.extend(["-initrd", initrd.to_str().unwrap(), "-append", &append, "-m", "256"]);
    words.extend(["-display", "none", "-no-reboot", "-serial", "stdio", "-icount", "shift=auto"]);
    words.extend(["-drive", "file=base.qcow2,if=virtio", "-nic", "user", "-device", "virtio-rng-pci"]);
    words.extend(["-monitor", "unix:monitor.sock,server=on,wait=off"]);
    let mut child = lab.start_words(&words);
    let (mut monitor, socket) = (None, lab.path("monitor.sock"));
    disturb(&mut child, random, |child, random| give_input(child, random, &mut monitor, &socket));
    let recorded = child.end(PATIENCE).well();
    let text = recorded.text();
    for line in ["GUEST-DONE", "refused", &http::page_line()] {
        assert!(text.contains(line), "the guest did not do its work, no {line:?}: {text}");
    }
    recorded
}

/// Records once, replays and verifies, all disturbed; what it did, in a few words.
fn replay_round(lab: &Lab, guests: &Path, random: &mut Random) -> String {
    let recorded = record(lab, guests, random);
    let mut replay = lab.start("replay rec");
    let mut verify = lab.start("verify rec --json");
    thread::scope(|scope| {
        let mut other = Random::new(random.bits());
        let verify = &mut verify;
        scope.spawn(move || disturb(verify, &mut other, |_, _| {}));
        disturb(&mut replay, random, |_, _| {});
    });
    replay.end(PATIENCE).well().same_output(&recorded);
    let report = verify.end(PATIENCE).well().json();
    assert_eq!(report["ok"], true, "{report}");
    format!("{} digests", report["digests"])
}

/// A kind of round, and its name.
type Kind = (&'static str, fn(&Lab, &Path, &mut Random) -> String);
const KINDS: [Kind; 2] = [("replay", replay_round), ("travel", travel::round)];

/// The kinds that are wanted.
fn kinds() -> Vec<Kind> {
    let wanted = std::env::var("LOAD_KIND").ok();
    let kinds = KINDS.into_iter().filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted == name));
    let kinds: Vec<Kind> = kinds.collect();
    assert!(!kinds.is_empty(), "LOAD_KIND is {}", KINDS.map(|(name, _)| name).join(" or "));
    kinds
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn main() -> ExitCode {
    let (guests, rounds, kinds) =
        (debian::guests().expect("REPRISE_NO_GUESTS is not set"), number("LOAD_ROUNDS", 10), kinds());
    let first = number("LOAD_SEED", u64::from(std::process::id()) << 16);
    let over = AtomicBool::new(false);
    let mut failed = 0;
    thread::scope(|scope| {
        for _ in 0..BUSY_THREADS {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for seed in first..first + rounds {
            let (lab, started) = (Lab::new(), Instant::now());
            let (name, round) = kinds[((seed - first) % kinds.len() as u64) as usize];
            let done = catch_unwind(AssertUnwindSafe(|| round(&lab, &guests, &mut Random::new(seed))));
            let seconds = started.elapsed().as_secs();
            match done {
                Ok(did) => println!("seed {seed}: {name}: good in {seconds} s, {did}"),
                Err(_) => {
                    // The panic has told what is wrong.
                    failed += 1;
                    println!("seed {seed}: {name}: FAILED; kept: {}", lab.path("").display());
                    // Its directory stays.
                    std::mem::forget(lab);
                }
            }
        }
        over.store(true, Relaxed);
    });
    println!("{} of {rounds} rounds good", rounds - failed);
    ExitCode::from(u8::from(failed > 0))
}
