//! The entropy device.

use crate::driver::{Driver, RECEIVE, SECONDS};
use crate::lab::{Device, refusal, turn};
use std::time::{Duration, Instant};

const QUEUE: usize = RECEIVE;

/// Waits for the next used buffer.
fn next(driver: &mut Driver) -> Vec<u8> {
    let deadline = Instant::now() + SECONDS;
    loop {
        if let Some((head, length)) = driver.next_used(QUEUE) {
            return driver.contents(QUEUE, head, length);
        }
        assert!(Instant::now() < deadline, "a buffer comes back");
        driver.wait_for_call(QUEUE, Duration::from_millis(20));
    }
}

#[test]
fn buffers_come_back_random() {
    let _turn = turn();
    let mut device = Device::start(&["rng"]);
    let mut driver = Driver::connect(device.socket(), 0, &[16]);
    let mut seen = Vec::new();
    for _ in 0..40 {
        driver.offer_one(64);
        driver.kick(QUEUE);
        let bytes = next(&mut driver);
        assert_eq!(bytes.len(), 64);
        assert!(!seen.contains(&bytes));
        seen.push(bytes);
    }
    let ones: u32 = seen.iter().flatten().map(|byte| byte.count_ones()).sum();
    let bits = 40 * 64 * 8;
    // Ten standard deviations to each side of half.
    assert!(ones.abs_diff(bits / 2) < 720, "{ones} of {bits} bits are set");
    device.end(driver);
}

#[test]
fn the_rate_is_kept() {
    let _turn = turn();
    let started = Instant::now();
    let mut device = Device::start(&["rng", "--max-bytes=100", "--period=100"]);
    let mut driver = Driver::connect(device.socket(), 0, &[16]);
    let mut bytes = 0;
    // A buffer may come back with less than it could hold.
    while bytes < 1000 {
        driver.offer_one(64);
        driver.kick(QUEUE);
        let got = next(&mut driver).len();
        assert!((1..=64).contains(&got));
        bytes += got;
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "ten periods, of which the first is free");
    assert!(started.elapsed() < SECONDS);
    device.end(driver);
}

#[test]
fn a_source_that_ends_is_named() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bytes");
    std::fs::write(&path, [7; 10]).unwrap();
    let mut device = Device::start(&["rng", "--label=r0", "--filename", &path.display().to_string()]);
    let mut driver = Driver::connect(device.socket(), 0, &[16]);
    driver.offer_one(64);
    driver.kick(QUEUE);
    assert_eq!(next(&mut driver), [7; 10]);
    driver.offer_one(64);
    driver.kick(QUEUE);
    assert_eq!(device.wait(), (Some(1), format!("reprise device: r0: '{}' has ended\n", path.display())));
}

#[test]
fn options_that_make_no_sense() {
    let _turn = turn();
    for (arguments, message) in [
        (vec!["rng", "--filename=/no/where"], "cannot open '/no/where': No such file"),
        (vec!["rng", "--max-bytes=1"], "--period <MS>"),
        (vec!["rng", "--max-bytes=0", "--period=1"], "--max-bytes is at least 1"),
        (vec!["rng", "--max-bytes=1", "--period=0"], "--period is at least 1"),
    ] {
        let text = refusal(&[&arguments[..], &["--socket-path=/tmp/unused"]].concat());
        assert!(text.contains(message), "{text}");
    }
}
