//! What users of other record and replay systems complain of, where it needs a real kernel (docs/field-cases.md).

use crate::http::Server;
use crate::images;
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::process::Child;
use crate::{BOOT_PATIENCE, CLOUD, INITRD, IO_INITRD, guests, start_with};
use std::path::Path;

const MONITOR: [&str; 2] = ["-monitor", "unix:m,server=on,wait=off"];

/// The command line of the complaint (GL#2634), to record and to replay with the same words.
fn boot(lab: &Lab, guests: &Path, mode: &str, more: &[&str]) -> Child {
    let (kernel, initrd) = (guests.join(CLOUD), guests.join(INITRD));
    let icount = format!("shift=auto,rr={mode},rrfile=rec,rrsnapshot=init");
    let mut words = vec!["-kernel", kernel.to_str().unwrap(), "-initrd", initrd.to_str().unwrap()];
    words.extend(["-append", "console=ttyS0 quiet panic=-1 job=facts", "-m", "256", "-smp", "1"]);
    words.extend(["-display", "none", "-no-reboot", "-serial", "stdio", "-icount", &icount]);
    words.extend(more);
    lab.start_words(&words)
}

/// A1: a Linux boot with a snapshot of its start is replayed to its end, and from the snapshot again and again.
#[test]
fn field_a1_a_boot_with_a_snapshot_of_its_start() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let recorded = boot(&lab, &guests, "record", &[]).end(BOOT_PATIENCE).well();
    assert!(recorded.text().contains("GUEST-DONE"), "{}", recorded.text());

    let child = boot(&lab, &guests, "replay", &[&["-S"][..], &MONITOR].concat());
    let mut monitor = Monitor::connect(&lab.path("m"));
    let mut ends = vec![];
    for percent in [20, 55, 85] {
        assert_eq!(monitor.ask(&format!("replay_seek {percent}%")), "");
        assert!(monitor.icount() > 0);
        assert_eq!(monitor.ask("loadvm init"), "");
        assert_eq!(monitor.icount(), 0);
        assert_eq!(monitor.ask("replay_seek end"), "");
        ends.push((monitor.icount(), monitor.ask("info registers"), monitor.ask("sum 0x1000000 0x1000000")));
    }
    assert!(ends[0].0 > 100_000_000 && ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    assert_eq!(monitor.ask("loadvm init"), "");
    monitor.send("cont");
    child.end(BOOT_PATIENCE).well().same_output(&recorded);
    lab.run("verify rec").well();
}

/// Saves; more by `REPRISE_TEST_SAVES`.
fn saves() -> u64 {
    let given = std::env::var("REPRISE_TEST_SAVES");
    given.map_or(60, |count| count.parse().expect("REPRISE_TEST_SAVES is a number"))
}

/// A4: saves at any moment of a guest that uses disk and network all the time: none is refused, and all can be gone to.
#[test]
fn field_a4_no_save_is_refused() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    images::make_base(&lab);
    let server = Server::start();
    let script = "B=/bin/busybox; $B --install -s /bin; export PATH=/bin; mount -t proc none /proc; \
                  mount -t sysfs none /sys; mount -t devtmpfs none /dev; . /jobs; \
                  (job_net; while :; do wget -q -O- http://10.0.2.2:$port/page | md5sum; done) & job_churn";
    let append = format!("port={} rdinit=/bin/busybox -- sh -c \"{script}\"", server.port());
    let options =
        "-drive file=base.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0 -nic user -snapdir snaps";
    let mut options: Vec<&str> = options.split_whitespace().collect();
    options.extend(MONITOR);
    let mut child = start_with(&lab, [&guests.join(CLOUD), &guests.join(IO_INITRD)], &append, &options);
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until_text("page ", BOOT_PATIENCE);
    child.until_text("round 5", BOOT_PATIENCE);
    let count = saves();
    let mut state = 41u64;
    for save in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = monitor.icount() + (state >> 33) % 3_000_000;
        while monitor.icount() < place {}
        assert_eq!(monitor.ask(&format!("savevm s{save}")), "", "save {save}");
    }
    let table = monitor.ask("info snapshots");
    assert_eq!(table.lines().count() as u64, 2 + count, "{table}");
    for at in [count / 2, 0, count - 1] {
        assert_eq!(monitor.ask(&format!("loadvm s{at}")), "");
        let seen = child.out().len();
        child.until("another round", BOOT_PATIENCE, |out| {
            out[seen..].windows(6).any(|window| window == b"round ")
        });
    }
    monitor.send("quit");
    let recorded = child.end(BOOT_PATIENCE).well();
    assert!(!recorded.text().contains("broken after"), "{}", recorded.text());
    lab.start("verify rec").end(BOOT_PATIENCE).well();
}
