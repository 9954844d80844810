//! Typed input: single keys, lines and bursts come back in a replay at the same instruction.

use crate::guests;
use crate::lab::{Lab, PATIENCE};
use std::time::Duration;

/// What is typed in all: no control characters, so that nothing of it has a meaning to the guest.
fn burst(length: usize) -> Vec<u8> {
    (0..length).map(|n| b' ' + (n * 7 % 95) as u8).collect()
}

#[test]
fn bursts_are_echoed_whole_and_replayed() {
    for rate in ["shift=auto", "shift=2"] {
        let lab = Lab::new();
        lab.write("k", guests::echo());
        let mut child = lab.start(&format!("record -o rec -kernel k -m 16 -serial stdio -icount {rate}"));
        child.until_text("B", PATIENCE);
        child.type_bytes(b"x");
        child.until_text("Bx", PATIENCE);
        for piece in burst(3000).chunks(7) {
            child.type_bytes(piece);
            std::thread::sleep(Duration::from_micros(300));
        }
        child.type_bytes(&burst(10 << 10));
        child.type_bytes(&[4]);
        let recorded = child.end(PATIENCE).well();
        let wanted = [b"Bx", &burst(3000)[..], &burst(10 << 10)].concat();
        crate::process::assert_same("echo", &wanted, &recorded.out);
        lab.run("replay rec").well().same_output(&recorded);
        lab.run("verify rec").well();
    }
}

#[test]
fn keys_land_between_the_same_instructions() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let mut child = lab.start("record -o rec -kernel k -m 16 -serial stdio -icount shift=auto");
    for n in 0..40u8 {
        child.until("a line", PATIENCE, |out| guests::lines(out) > usize::from(n) * 2);
        child.type_bytes(&[b'A' + n % 16]);
    }
    child.type_bytes(b"q");
    let recorded = child.end(PATIENCE).well();
    let echoed = recorded.out.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    assert_eq!(echoed, 40);
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
}

#[test]
fn input_to_a_replay_has_no_effect() {
    let (lab, recorded) = guests::demo_recorded();
    let mut child = lab.start("replay rec");
    child.type_bytes(b"something else\n");
    child.end(PATIENCE).well().same_output(&recorded);
}

#[test]
fn an_end_of_input_is_none_of_the_guest() {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let mut child = lab.start("record -o rec -kernel k -m 16 -serial stdio -monitor unix:m,server,nowait");
    child.type_bytes(b"z");
    child.close_input();
    child.until("30 lines", PATIENCE, |out| guests::lines(out) >= 30);
    let mut monitor = crate::monitor::Monitor::connect(&lab.path("m"));
    monitor.send("quit");
    let recorded = child.end(PATIENCE).well();
    assert!(recorded.out.contains(&b'z'));
    lab.run("replay rec").well().same_output(&recorded);
}
