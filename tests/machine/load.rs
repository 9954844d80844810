//! A busy host, and processes that stand still at any moment, change nothing of what a replay shows.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
use crate::process::{Child, Done};
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use tests::random::Random;

/// Keeps three threads busy as long as it lives.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Stops and continues processes of the tree at random, and types, until `time` is over or it has ended.
fn disturb(child: &mut Child, random: &mut Random, time: Duration, types: bool) {
    let end = Instant::now() + time;
    while Instant::now() < end && child.is_alive() {
        let tree = child.tree();
        if tree.is_empty() {
            return;
        }
        let victim = &tree[random.below(tree.len() as u64) as usize];
        victim.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(random.below(25)));
        if types && random.below(3) == 0 {
            child.type_bytes(&[b'A' + random.below(16) as u8]);
        }
        thread::sleep(Duration::from_millis(random.below(10)));
        victim.signal(Signal::SIGCONT);
        thread::sleep(Duration::from_millis(random.below(15)));
    }
}

fn finish(mut child: Child) -> Done {
    child.type_bytes(b"q");
    child.end(PATIENCE).well()
}

#[test]
fn a_recording_and_its_replay_are_disturbed() {
    let seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _busy = Busy(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let lab = Lab::new();
        lab.write("k", guests::ticker());
        let mut child = lab.start("record -o rec -kernel k -m 16 -serial stdio -icount shift=auto");
        disturb(&mut child, &mut random, Duration::from_secs(4), true);
        child.until("a line", PATIENCE, |out| lines(out) >= 1);
        let recorded = finish(child);
        for _ in 0..2 {
            let mut replay = lab.start("replay rec");
            disturb(&mut replay, &mut random, Duration::from_secs(3), false);
            replay.end(PATIENCE).well().same_output(&recorded);
        }
        lab.run("verify rec").well();
    });
}

#[test]
fn timer_interrupts_and_idling_under_load() {
    let seed = u64::from(std::process::id()) << 21 | 1;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for _ in 0..3 {
        let lab = guests::demo_lab();
        let words = format!("record -o rec {} -serial stdio -icount shift=auto", guests::DEMO);
        let mut child = lab.start(&words);
        disturb(&mut child, &mut random, Duration::from_millis(400), false);
        let recorded = guests::answer_demo(child).well();
        let mut replay = lab.start("replay rec");
        disturb(&mut replay, &mut random, Duration::from_millis(300), false);
        replay.end(PATIENCE).well().same_output(&recorded);
    }
}
