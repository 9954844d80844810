//! Devices that are killed: what was flushed is there, the image is sound, the base untouched.

use crate::device::{Lab, pattern};
use crate::driver::*;
use crate::random::Random;
use nix::sys::signal::Signal;
use std::time::Duration;

const SIZE: usize = 16 << 20;
const SECTORS: u64 = SIZE as u64 / 512;

/// Rounds; more by `REPRISE_TEST_KILLS`.
fn rounds() -> u64 {
    std::env::var("REPRISE_TEST_KILLS")
        .map_or(10, |count| count.parse().expect("REPRISE_TEST_KILLS is a number"))
}

/// Writes for a while, then the device is killed while requests are in its ring. Answers with what was flushed, and
/// which sectors may be anything since.
fn write_and_kill(lab: &Lab, options: &str, random: &mut Random, contents: &mut [u8]) -> Vec<bool> {
    let (device, mut driver) = lab.drive("disk", options);
    let mut unsure = vec![false; SECTORS as usize];
    for _ in 0..random.below(6) {
        for _ in 0..random.below(60) {
            let (count, kind) = (1 + random.below(200), random.below(6));
            let sector = random.below(SECTORS - count);
            let bytes = sector as usize * 512..(sector + count) as usize * 512;
            if kind == 0 {
                let range = range(sector, count as u32, 0);
                assert_eq!(driver.request(DISCARD, 0, &range, 0).0, OK);
                contents[bytes].fill(0);
            } else {
                let data = vec![random.below(255) as u8 + 1; count as usize * 512];
                driver.write_sectors(sector, &data);
                contents[bytes].copy_from_slice(&data);
            }
        }
        driver.flush();
    }
    for slot in 0..40u64 {
        let count = 1 + random.below(200);
        let sector = random.below(SECTORS - count);
        unsure[sector as usize..(sector + count) as usize].fill(true);
        let (kind, out) = match random.below(6) {
            0 => (DISCARD, range(sector, count as u32, 0)),
            1 => (FLUSH, vec![]),
            _ => (OUT, vec![0xaa; count as usize * 512]),
        };
        let first = if kind == OUT { sector } else { 0 };
        let buffers = driver.place(BUFFERS + slot * 0x1a000, kind, first, &out, 0);
        let head = driver.make_chain(0, &buffers);
        driver.offer(0, head);
    }
    driver.kick(0);
    std::thread::sleep(Duration::from_micros(random.below(4000)));
    device.signal(Signal::SIGKILL);
    assert_eq!(device.end().0, None);
    unsure
}

/// The image is sound, except that it may have clusters nobody uses, and holds what was flushed.
fn check(lab: &Lab, round: u64, name: &str, contents: &mut [u8], unsure: &[bool]) {
    let output = lab.try_tool(&format!("qemu-img check --output=json {name}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // 0: sound, 3: sound with unused clusters.
    assert!(matches!(output.status.code(), Some(0 | 3)), "round {round}: {text}");
    assert!(!text.contains("corruptions\""), "round {round}: {text}");
    let found = lab.contents(name, "qcow2");
    for (sector, unsure) in unsure.iter().enumerate() {
        let bytes = sector * 512..(sector + 1) * 512;
        if !unsure {
            assert!(found[bytes.clone()] == contents[bytes.clone()], "round {round}: sector {sector}");
        }
        contents[bytes.clone()].copy_from_slice(&found[bytes]);
    }
}

#[test]
fn a_layer_survives_the_death_of_its_device() {
    let mut random = Random::new("kills of a layer");
    for round in 0..rounds() {
        let lab = Lab::new();
        let mut contents = lab.raw("base", SIZE);
        let options = "--image base --layer layer --discard unmap";
        let unsure = write_and_kill(&lab, options, &mut random, &mut contents);
        assert!(std::fs::read(lab.path("base")).unwrap() == pattern(SIZE), "round {round}: the base");
        check(&lab, round, "layer", &mut contents, &unsure);
        // And it can be used again as it is, and be killed again.
        let unsure = write_and_kill(&lab, "--image layer --discard unmap", &mut random, &mut contents);
        check(&lab, round, "layer", &mut contents, &unsure);
    }
}

#[test]
fn an_image_with_small_clusters_survives_too() {
    let mut random = Random::new("kills of an image");
    let lab = Lab::new();
    let mut contents = lab.raw("base", SIZE);
    lab.tool("qemu-img convert -c -f raw -O qcow2 -o cluster_size=1k base image");
    for round in 0..rounds() {
        let unsure = write_and_kill(&lab, "--image image --discard unmap", &mut random, &mut contents);
        check(&lab, round, "image", &mut contents, &unsure);
    }
}

#[test]
fn a_layer_is_there_whole_or_not_at_all() {
    let mut random = Random::new("kills at the start");
    let lab = Lab::new();
    lab.raw("base", SIZE);
    let mut made = 0;
    for round in 0..rounds() {
        let mut device = lab.start_unready("base", "--image base --layer layer");
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        device.kill();
        if lab.path("layer").exists() {
            made += 1;
            lab.tool("qemu-img check -q layer");
            assert!(lab.contents("layer", "qcow2") == pattern(SIZE), "round {round}");
            std::fs::remove_file(lab.path("layer")).unwrap();
        }
    }
    println!("{made} layers were made");
}

/// What a new table is in use for is in the file before anything refers to the table.
#[test]
fn a_new_table_counts_before_it_is_referred_to() {
    let lab = Lab::new();
    let mut contents = lab.raw("base", SIZE);
    let (device, mut driver) = lab.drive("disk", "--image base --layer layer");
    driver.write_sectors(0, &[1; 512]);
    device.signal(Signal::SIGKILL);
    assert_eq!(device.end().0, None);
    let unsure: Vec<bool> = (0..SECTORS).map(|sector| sector == 0).collect();
    check(&lab, 0, "layer", &mut contents, &unsure);

    // Small clusters have a new reference block for each half megabyte, and here a hole in which it fits.
    lab.tool("qemu-img convert -f raw -O qcow2 -o cluster_size=1k base image");
    let (device, mut driver) = lab.drive("disk", "--image image --discard unmap");
    assert_eq!(driver.request(DISCARD, 0, &range(0, 4000, 0), 0).0, OK);
    contents[..4000 * 512].fill(0);
    driver.flush();
    for sector in (0..4000).step_by(200) {
        driver.write_sectors(sector, &[2; 100 * 512]);
    }
    device.signal(Signal::SIGKILL);
    assert_eq!(device.end().0, None);
    let unsure: Vec<bool> = (0..SECTORS).map(|sector| sector < 4000).collect();
    check(&lab, 1, "image", &mut contents, &unsure);
}
