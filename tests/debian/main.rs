//! Debian's kernels, as Debian ships them: booted, recorded, replayed, verified; what they see looks like a PC.
//!
//! `tests/guests/fetch.sh` makes the guests. Without them these tests fail, unless REPRISE_NO_GUESTS=1 says that they
//! shall not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "the harness is shared with other test programs, which use more of it")]

mod chardevs;
#[path = "../program/debian.rs"]
mod debian;
mod debugging;
mod disks;
mod field;
#[path = "../program/http.rs"]
mod http;
mod images;
mod kept;
mod killed;
#[path = "../program/lab.rs"]
mod lab;
#[path = "../program/monitor_client.rs"]
mod monitor_client;
mod networks;
#[path = "../program/process.rs"]
mod process;
mod snapshots;
mod sources;
mod travel;

use debian::{CLOUD, GENERIC, INITRD, IO_INITRD, guests};
use lab::Lab;
use process::{Child, Done};
use std::path::Path;
use std::time::Duration;

/// After this a boot counts as hung: it takes a quarter of a minute on an idle CPU.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// Starts to record a kernel with a job of its init, to `rec`.
fn start(lab: &Lab, guests: &Path, kernel: &str, append: &str) -> Child {
    start_with(lab, [&guests.join(kernel), &guests.join(INITRD)], append, &[])
}

/// Starts to record the cloud kernel with a job that uses virtio devices, to `rec`.
fn start_io(lab: &Lab, guests: &Path, append: &str, options: &[&str]) -> Child {
    start_with(lab, [&guests.join(CLOUD), &guests.join(IO_INITRD)], append, options)
}

fn start_with(lab: &Lab, [kernel, initrd]: [&Path; 2], append: &str, options: &[&str]) -> Child {
    let append = format!("console=ttyS0 quiet panic=-1 {append}");
    let icount = "shift=auto,rr=record,rrfile=rec";
    let mut words = vec!["-kernel", kernel.to_str().unwrap(), "-initrd", initrd.to_str().unwrap()];
    words.extend(["-append", &append, "-m", "256", "-display", "none", "-no-reboot"]);
    words.extend(["-serial", "stdio", "-icount", icount]);
    words.extend(options);
    lab.start_words(&words)
}

/// Replays and verifies `rec`, both at once.
fn replay_and_verify(lab: &Lab, recorded: &Done) {
    let (replay, verify) = (lab.start("replay rec"), lab.start("verify rec --json"));
    replay.end(BOOT_PATIENCE).well().same_output(recorded);
    let report = verify.end(BOOT_PATIENCE).well().json();
    assert_eq!(report["ok"], true, "{report}");
    assert!(report["digests"].as_u64().unwrap() >= 20, "{report}");
}

/// The value of a line `name value` or `name : value`.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.split(['\t', ' ', ':']).next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line[name.len()..].trim_start_matches(['\t', ' ', ':']).trim()
}

/// What the guest found out about its machine.
fn check_facts(text: &str) {
    assert!(text.contains("GUEST-DONE"), "{text}");
    // FIPS 180-4 over 4 MiB of zeros, as sha256sum of any host prints it.
    assert!(
        value(text, "zeros").starts_with("bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"),
        "{text}"
    );
    assert_eq!(value(text, "clocksource"), "tsc");
    assert!(value(text, "fpu").contains("yes"));
    let megahertz = text.lines().find_map(|line| line.strip_prefix("cpu MHz")).expect("cpu MHz");
    let megahertz: f64 = megahertz.trim_start_matches(['\t', ' ', ':']).parse().unwrap();
    assert!((500.0..5000.0).contains(&megahertz), "{megahertz} MHz");
    let flags = text.lines().find(|line| line.starts_with("flags")).expect("flags");
    for flag in
        ["lm", "nx", "sse4_2", "avx2", "bmi2", "rdrand", "x2apic", "tsc_deadline_timer", "smep", "smap"]
    {
        assert!(flags.split_whitespace().any(|word| word == flag), "{flag}: {flags}");
    }
    let up: f64 = value(text, "uptime").split_whitespace().next().unwrap().parse().unwrap();
    assert!(up > 0.1 && up < 600.0, "up for {up} s");
    assert_eq!(value(text, "uuid").len(), 36);
    let year = text.lines().find_map(|line| line.split_once(" UTC ")).expect("the date").1.trim();
    assert!((2024..2100).contains(&year.parse::<u32>().unwrap()), "year {year}");
    let warnings: Vec<&str> = text.lines().filter(|line| line.starts_with("WARNING ")).collect();
    assert!(warnings.is_empty(), "the kernel complains: {warnings:#?}");
}

fn boots_and_replays(kernel: &str) {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let recorded = start(&lab, &guests, kernel, "job=facts").end(BOOT_PATIENCE).well();
    check_facts(&recorded.text());
    assert_eq!(lab.cause("rec"), "guest-shutdown");
    let bytes = std::fs::metadata(lab.path("rec/events.log")).unwrap().len();
    assert!(bytes <= 100 << 10, "the log of a boot has {bytes} bytes");
    replay_and_verify(&lab, &recorded);
}

#[test]
fn the_cloud_kernel() {
    boots_and_replays(CLOUD);
}

#[test]
fn the_generic_kernel() {
    boots_and_replays(GENERIC);
}

#[test]
fn a_typed_line_is_replayed() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let mut child = start(&lab, &guests, CLOUD, "job=input");
    child.until_text("type: ", BOOT_PATIENCE);
    child.type_bytes(b"never diverge\n");
    let recorded = child.end(BOOT_PATIENCE).well();
    assert!(recorded.text().contains("typed never diverge"), "{}", recorded.text());
    replay_and_verify(&lab, &recorded);
}

/// The kernel ends the machine in its own way.
fn ends(job: &str, status: i32, cause: &str) {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let recorded = start(&lab, &guests, CLOUD, job).end(BOOT_PATIENCE).with_status(status);
    assert!(recorded.text().contains("GUEST-DONE"), "{}", recorded.text());
    assert_eq!(lab.cause("rec"), cause);
    lab.start("replay rec").end(BOOT_PATIENCE).well().same_output(&recorded);
}

#[test]
fn reboot() {
    ends("job=reboot", 0, "guest-reset");
}

/// With panic=-1 a kernel that panics resets the machine at once. Its driver has told the pvpanic device.
#[test]
fn panic() {
    ends("job=panic", 1, "guest-panic");
}

/// Without the driver nothing but the reset can be seen.
#[test]
fn panic_without_the_driver() {
    ends("job=panic-untold", 0, "guest-reset");
}

#[test]
fn power_off() {
    ends("job=power-off", 0, "guest-shutdown");
}

/// With reboot=t the kernel resets by a triple fault.
#[test]
fn triple_fault() {
    ends("job=reboot reboot=t", 1, "triple-fault");
}
