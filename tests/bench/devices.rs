//! Disks and networks: plain, with guest RAM shared, recording and replaying, in turn with QEMU's TCG.
//!
//! `tests/guests/fetch.sh && cargo build --release -p broker && cargo bench -p tests --bench devices`; BENCH_ROUNDS (default 3),
//! BENCH_JOB (disk or network; both without). QEMU's column needs qemu-system-x86_64 and is left out without it. Both use the image
//! that qemu-img makes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes that the guest fetches over the network.
const FETCHED_BYTES: usize = 32 << 20;
/// Requests that the guest makes to its disk (`job_reads` of the test guests): 4 KiB each, one after the other.
const READS: u64 = 20_000;
/// Where QEMU is.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// What a guest does, and with which devices.
struct Job {
    name: &'static str,
    append: String,
    devices: Vec<String>,
    /// The device's properties go on the end of the last of `devices`.
    requests: u64,
    /// A line that shows that it was done.
    proof: String,
}

/// One way to run it.
struct Way {
    name: &'static str,
    program: PathBuf,
    mode: Option<&'static str>,
    property: &'static str,
}

/// What a run took.
struct Run {
    wall: Duration,
    /// From the line "GUEST-UP" to its end: what the devices bound.
    job: Duration,
}

struct Lab {
    directory: tempfile::TempDir,
    guests: PathBuf,
}

fn main() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guests = std::env::var_os("REPRISE_GUESTS").map_or_else(|| top.join("target/guests"), PathBuf::from);
    let rounds = std::env::var("BENCH_ROUNDS").map_or(3, |text| text.parse().expect("a number of rounds"));
    let wanted = std::env::var("BENCH_JOB").ok();
    let lab = Lab { directory: tempfile::tempdir().expect("a temporary directory"), guests };
    let image = lab.directory.path().join("d.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("256M").status();
    assert!(made.expect("qemu-img starts").success(), "qemu-img cannot make an image");
    let reprise = top.join("target/release/reprise");
    let way = |name, mode, property| Way { name, program: reprise.clone(), mode, property };
    let mut ways = vec![
        way("plain", None, ""),
        way("window=off", None, ",window=off"),
        way("record", Some("record"), ""),
        way("replay", Some("replay"), ""),
    ];
    if Path::new(QEMU).exists() {
        ways.insert(0, Way { name: "qemu tcg", program: QEMU.into(), mode: None, property: "" });
    }
    println!("{:8} {:10} {:>8} {:>8} {:>12}", "job", "run", "wall s", "job s", "log bytes");
    for job in [disk(&image), network(serve())] {
        if wanted.as_ref().is_none_or(|wanted| wanted == job.name) {
            lab.compare(&job, &ways, rounds);
        }
    }
}

fn disk(image: &Path) -> Job {
    let drive = format!("file={},if=none,id=d,format=qcow2", image.display());
    let devices = ["-net", "none", "-drive", &drive, "-device", "virtio-blk-pci,drive=d"];
    Job {
        name: "disk",
        append: "job=reads".into(),
        devices: devices.map(str::to_owned).to_vec(),
        requests: READS,
        proof: format!("{READS} reads"),
    }
}

fn network(port: u16) -> Job {
    let devices = ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"];
    Job {
        name: "network",
        append: format!("job=fetch port={port}"),
        devices: devices.map(str::to_owned).to_vec(),
        requests: 0,
        proof: format!("{FETCHED_BYTES} fetched"),
    }
}

/// A server on the loopback that answers everything with many bytes.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a local address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let _ = client.read(&mut request);
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {FETCHED_BYTES}\r\n\r\n");
                let body = noise(FETCHED_BYTES);
                // A client that hangs up is its own affair.
                let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body));
            });
        }
    });
    port
}

/// Bytes that cannot be compressed (Marsaglia's xorshift), the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

fn median(mut values: Vec<Duration>) -> f64 {
    values.sort();
    values[values.len() / 2].as_secs_f64()
}

impl Lab {
    fn compare(&self, job: &Job, ways: &[Way], rounds: usize) {
        let log = self.directory.path().join(job.name);
        let mut runs: Vec<Vec<Run>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (way, runs) in ways.iter().zip(&mut runs) {
                runs.push(self.run(way, job, &log));
            }
        }
        let size = std::fs::metadata(log.join("events.log")).map_or(0, |metadata| metadata.len());
        let mut medians = Vec::new();
        for (way, runs) in ways.iter().zip(&runs) {
            let wall = median(runs.iter().map(|run| run.wall).collect());
            let spent = median(runs.iter().map(|run| run.job).collect());
            let bytes = if way.mode == Some("record") { size.to_string() } else { String::new() };
            println!("{:8} {:10} {wall:8.2} {spent:8.2} {bytes:>12}", job.name, way.name);
            medians.push((way.name, spent));
        }
        let of = |wanted: &str| {
            medians.iter().find(|(name, _)| *name == wanted).map_or(f64::NAN, |(_, time)| *time)
        };
        println!("{}: recording / plain {:.3} (of the job)", job.name, of("record") / of("plain"));
        println!("{}: replay / recording {:.3} (of the job)", job.name, of("replay") / of("record"));
        if job.requests > 0 {
            println!("{}: log bytes / request {:.1}", job.name, size as f64 / job.requests as f64);
        } else {
            self.packets(job, &log, size, &ways[ways.len() - 1].program);
        }
    }

    /// Bytes of the log beyond the packets that the guest received, by packet.
    fn packets(&self, job: &Job, log: &Path, size: u64, reprise: &Path) {
        let capture = self.directory.path().join("packets.pcap");
        let mut export = Command::new(reprise);
        let status = export.args(["export", "pcap"]).arg(log).arg("-o").arg(&capture).status();
        assert!(status.expect("reprise starts").success(), "export pcap failed");
        let bytes = std::fs::read(&capture).expect("a capture");
        let (mut at, mut packets, mut total) = (24, 0u64, 0u64);
        while let Some(field) = bytes.get(at + 8..at + 12) {
            let length = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
            (at, packets, total) = (at + 16 + length as usize, packets + 1, total + u64::from(length));
        }
        let extra = (size as f64 - total as f64) / packets as f64;
        println!(
            "{}: {packets} packets of {total} bytes both ways, log bytes beyond them / packet {extra:.1}",
            job.name
        );
    }

    fn run(&self, way: &Way, job: &Job, log: &Path) -> Run {
        let mut command = Command::new(&way.program);
        command.args(["-display", "none", "-no-reboot", "-m", "256", "-serial", "stdio", "-monitor", "none"]);
        command.arg("-kernel").arg(self.guests.join("vmlinuz-cloud"));
        command.arg("-initrd").arg(self.guests.join("initrd-io.gz"));
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {}", job.append));
        let (device, others) = job.devices.split_last().expect("a job has devices");
        command.args(others).arg(format!("{device}{}", way.property));
        if let Some(mode) = way.mode {
            command.arg("-icount").arg(format!("shift=auto,rr={mode},rrfile={}", log.display()));
        }
        let start = Instant::now();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the machine starts");
        let mut shown = child.stdout.take().expect("a pipe");
        let (mut text, mut chunk, mut up) = (Vec::new(), [0; 4096], None);
        while let Ok(count @ 1..) = shown.read(&mut chunk) {
            text.extend(&chunk[..count]);
            if up.is_none() && text.windows(8).any(|part| part == b"GUEST-UP") {
                up = Some(Instant::now());
            }
        }
        let status = child.wait().expect("the machine can be waited for");
        let text = String::from_utf8_lossy(&text);
        assert!(status.success(), "{} {} ended with {status}: {text}", job.name, way.name);
        assert!(text.contains(&job.proof), "{} {}: {text}", job.name, way.name);
        let up = up.expect("the guest says that it is up");
        Run { wall: start.elapsed(), job: up.elapsed() }
    }
}
