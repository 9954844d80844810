//! The disk's process is killed at random moments: the recording replays up to there and no image is damaged.

use crate::images::{self, check_layer, sha256_of};
use crate::lab::Lab;
use crate::process::{Child, assert_gone};
use crate::{BOOT_PATIENCE, guests, start_io};
use nix::sys::signal::Signal;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::Duration;

/// What was seen this long before a kill must replay: a block is written every tenth of a second, on a busy host later.
const LOSS_MAX: Duration = Duration::from_millis(400);

/// Kills; REPRISE_TEST_KILLS says another number.
fn rounds() -> u64 {
    std::env::var("REPRISE_TEST_KILLS")
        .map_or(5, |count| count.parse().expect("REPRISE_TEST_KILLS is a number"))
}

/// What of a run a kill comes after.
#[derive(Clone, Copy, Debug)]
enum After {
    /// The machine runs: its first events are in the log.
    TheStart,
    /// The guest begins to write.
    TheBoot,
}

/// Bytes of a log that has its first digests.
const LOG_BEGUN: u64 = 300;

fn wait_for(after: After, lab: &Lab, child: &mut Child) {
    match after {
        After::TheStart => child.until("a log that grows", BOOT_PATIENCE, |_| {
            std::fs::metadata(lab.path("rec/events.log")).is_ok_and(|log| log.len() > LOG_BEGUN)
        }),
        After::TheBoot => child.until_text("churning", BOOT_PATIENCE),
    }
}

/// Records a guest that writes for ever until the disk's process is killed, some milliseconds after something.
fn kill_and_replay(guests: &Path, after: After, moment_ms: u64) {
    let what = format!("killed {moment_ms} ms after {after:?}");
    let lab = Lab::new();
    images::make_base(&lab);
    let base = sha256_of(&lab.path("base.qcow2"));
    let options = ["-drive", "file=base.qcow2,if=virtio"];
    let mut child = start_io(&lab, guests, "job=churn", &options);
    wait_for(after, &lab, &mut child);
    std::thread::sleep(Duration::from_millis(moment_ms));
    let seen = child.out();
    std::thread::sleep(LOSS_MAX);
    let tree = child.tree();
    child.member("device block").signal(Signal::SIGKILL);
    let recorded = child.end(Duration::from_secs(20));
    assert_gone(&tree);
    assert_eq!(recorded.code(), 1, "{what}: {}", recorded.err);
    let named = recorded.err.starts_with("reprise: ")
        && recorded.err.contains("block \"virtio0\"")
        && recorded.err.contains("was killed by signal 9");
    assert!(named && recorded.err.lines().count() == 1, "{what}: {}", recorded.err);
    assert_eq!(sha256_of(&lab.path("base.qcow2")), base, "{what}: the base has changed");
    check_layer(&lab);

    // It compares digests, too.
    let replayed = lab.start("replay rec").end(BOOT_PATIENCE).well();
    let shared = recorded.out.len().min(replayed.out.len());
    assert_eq!(recorded.out[..shared], replayed.out[..shared], "{what}");
    assert!(shared >= seen.len(), "{what}: {shared} of {} bytes; {}", seen.len(), replayed.err);
    assert_eq!(sha256_of(&lab.path("base.qcow2")), base, "{what}: a replay has changed the base");
}

#[test]
fn the_disk_at_random_moments() {
    let Some(guests) = guests() else { return };
    for round in 0..rounds() {
        let number = RandomState::new().hash_one(round);
        // Every fifth finds the kernel or the driver at work, or the first requests.
        if round % 5 == 4 {
            kill_and_replay(&guests, After::TheStart, number % 9000);
        } else {
            kill_and_replay(&guests, After::TheBoot, number % 3000);
        }
    }
}
