//! Boots a Debian kernel plain, recording and replaying, in turn, and prints what each costs.
//!
//! `cargo bench -p tests --bench boot` with REPRISE_GUESTS naming a directory with `vmlinuz` and `initrd.gz`
//! (tests/guests/fetch.sh makes one) and BENCH_ROUNDS (default 3). Builds of `reprise` must be up to date:
//! `cargo build --release`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One run's cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall_s: f64,
    /// CPU time of the whole tree.
    cpu_s: f64,
    /// Highest sum of the resident set sizes of the tree, shared pages counted once a process.
    resident_mib: f64,
}

fn main() {
    let guests =
        PathBuf::from(std::env::var("REPRISE_GUESTS").expect("REPRISE_GUESTS names the guests' directory"));
    let rounds: usize =
        std::env::var("BENCH_ROUNDS").map_or(3, |text| text.parse().expect("a number of rounds"));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/reprise");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("log");
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for (mode, costs) in [None, Some("record"), Some("replay")].into_iter().zip(&mut costs) {
            costs.push(run(&program, &guests, mode, &log));
        }
    }
    let instructions = instructions(&program, &log);
    println!("{:8} {:>8} {:>8} {:>10} {:>10}", "run", "wall s", "cpu s", "M insn/s", "RSS MiB");
    for (name, costs) in ["plain", "record", "replay"].into_iter().zip(&costs) {
        let cost = median(costs);
        let rate = instructions as f64 / 1e6 / cost.cpu_s;
        println!("{name:8} {:8.2} {:8.2} {rate:10.1} {:10.1}", cost.wall_s, cost.cpu_s, cost.resident_mib);
    }
    let [plain, record, replay] = costs.map(|costs| median(&costs));
    println!("recording / plain, CPU time: {:.3}", record.cpu_s / plain.cpu_s);
    println!("replay / recording, wall time: {:.3}", replay.wall_s / record.wall_s);
    let size = std::fs::metadata(log.join("events.log")).expect("a log").len();
    println!("{instructions} instructions, log {size} bytes");
}

fn median(costs: &[Cost]) -> Cost {
    let middle = |value: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Cost {
        wall_s: middle(|c| c.wall_s),
        cpu_s: middle(|c| c.cpu_s),
        resident_mib: middle(|c| c.resident_mib),
    }
}

fn run(program: &Path, guests: &Path, mode: Option<&str>, log: &Path) -> Cost {
    let mut command = Command::new(program);
    command.args([
        "-display",
        "none",
        "-no-reboot",
        "-m",
        "256",
        "-net",
        "none",
        "-serial",
        "stdio",
        "-kernel",
    ]);
    command.arg(guests.join("vmlinuz")).arg("-initrd").arg(guests.join("initrd.gz"));
    command.args(["-append", "console=ttyS0 quiet panic=-1 job=boot"]);
    if let Some(mode) = mode {
        command.arg("-icount").arg(format!("shift=auto,rr={mode},rrfile={}", log.display()));
    }
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("reprise starts");
    let resident_mib = watch(&mut child);
    let wall_s = start.elapsed().as_secs_f64();
    let status = child.wait().expect("reprise can be waited for");
    assert!(status.success(), "a run of {mode:?} ended with {status}");
    Cost { wall_s, cpu_s: children_cpu_s(), resident_mib }
}

/// Waits for the end; the highest memory of the tree on the way.
fn watch(child: &mut Child) -> f64 {
    let mut highest = 0u64;
    while child.try_wait().expect("reprise can be waited for").is_none() {
        highest = highest.max(tree(child.id()).iter().map(|&pid| resident_kib(pid)).sum());
        std::thread::sleep(Duration::from_millis(50));
    }
    highest as f64 / 1024.0
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let tasks = format!("/proc/{0}/task/{0}/children", found[at]);
        let children = std::fs::read_to_string(tasks).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    found
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU seconds of children waited for since the last call.
fn children_cpu_s() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use std::sync::atomic::{AtomicU64, Ordering};
    static BEFORE_US: AtomicU64 = AtomicU64::new(0);
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let microseconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    let now = microseconds(usage.user_time()) + microseconds(usage.system_time());
    (now - BEFORE_US.swap(now, Ordering::Relaxed)) as f64 / 1e6
}

fn instructions(program: &Path, log: &Path) -> u64 {
    let output = Command::new(program).arg("info").arg("--json").arg(log).output().expect("reprise info");
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("reprise info prints JSON");
    find_number(&facts, "instructions").expect("reprise info tells the last icount")
}

/// The largest number under a key anywhere in the facts.
fn find_number(facts: &serde_json::Value, key: &str) -> Option<u64> {
    match facts {
        serde_json::Value::Object(fields) => {
            let own = fields.get(key).and_then(serde_json::Value::as_u64);
            fields.values().filter_map(|value| find_number(value, key)).chain(own).max()
        }
        serde_json::Value::Array(items) => items.iter().filter_map(|item| find_number(item, key)).max(),
        _ => None,
    }
}
