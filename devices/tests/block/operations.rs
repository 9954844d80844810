//! Every operation, on images that are written in place.

use crate::device::{Lab, pattern};
use crate::driver::*;
use nix::sys::signal::Signal;

const MEGABYTE: usize = 1 << 20;

#[test]
fn reads_and_writes_reach_a_raw_image() {
    let lab = Lab::new();
    let mut contents = lab.raw("disk", MEGABYTE);
    let (device, mut driver) = lab.drive("disk", "--image disk --serial abc");
    assert_eq!(driver.read_sectors(0, 8), contents[..4096]);
    assert_eq!(driver.read_sectors(2047, 1), contents[MEGABYTE - 512..]);
    let data = vec![0x5a; 8192];
    driver.write_sectors(100, &data);
    assert_eq!(driver.read_sectors(99, 18)[512..512 + 8192], data);
    driver.flush();
    let (status, id) = driver.request(GET_ID, 0, &[], 20);
    assert_eq!((status, &id[..4]), (OK, &b"abc\0"[..]));
    drop(driver);
    device.end_well();
    contents[51200..51200 + 8192].copy_from_slice(&data);
    assert!(std::fs::read(lab.path("disk")).unwrap() == contents);
}

#[test]
fn what_was_submitted_is_done_before_the_end() {
    for by_signal in [false, true] {
        let lab = Lab::new();
        lab.raw("disk", MEGABYTE);
        let (device, mut driver) = lab.drive("disk", "--image disk");
        for number in 0..30u64 {
            let at = BUFFERS + number * 0x9000;
            let buffers = driver.place(at, OUT, number * 64, &[number as u8; 32768], 0);
            let head = driver.make_chain(0, &buffers);
            driver.offer(0, head);
        }
        driver.kick(0);
        driver.wait_for(0, 1);
        if by_signal {
            device.signal(Signal::SIGTERM);
        } else {
            drop(driver);
        }
        device.end_well();
        let contents = std::fs::read(lab.path("disk")).unwrap();
        for (number, part) in contents.chunks(32768).take(30).enumerate() {
            assert!(part.iter().all(|&byte| usize::from(byte) == number), "{number}");
        }
        assert_eq!(contents[30 * 32768..], pattern(MEGABYTE)[30 * 32768..]);
    }
}

#[test]
fn discarded_and_zeroed_ranges() {
    for (options, discarded_is_zero) in [("--discard=unmap", true), ("", false)] {
        let lab = Lab::new();
        let mut expected = lab.raw("disk", MEGABYTE);
        let (device, mut driver) = lab.drive("disk", &format!("--image disk {options}"));
        // Not aligned to anything but sectors.
        let ranges = [range(3, 5, 0), range(1000, 500, 0)].concat();
        assert_eq!(driver.request(DISCARD, 0, &ranges, 0).0, OK);
        if discarded_is_zero {
            expected[3 * 512..8 * 512].fill(0);
            expected[1000 * 512..1500 * 512].fill(0);
        }
        assert!(driver.read_sectors(0, 2048) == expected);
        let ranges = [range(9, 1, 0), range(200, 300, 1), range(2047, 1, 1)].concat();
        assert_eq!(driver.request(WRITE_ZEROES, 0, &ranges, 0).0, OK);
        for (sector, count) in [(9, 1), (200, 300), (2047, 1)] {
            expected[sector * 512..(sector + count) * 512].fill(0);
        }
        assert!(driver.read_sectors(0, 2048) == expected);
        drop(driver);
        device.end_well();
        assert!(std::fs::read(lab.path("disk")).unwrap() == expected);
    }
}

#[test]
fn disks_on_no_file() {
    let lab = Lab::new();
    let (memory, mut driver) = lab.drive("memory", "--driver memory --size 1048576 --discard unmap");
    assert_eq!(driver.read_sectors(7, 9), [0; 9 * 512]);
    driver.write_sectors(7, &pattern(5 * 512));
    assert_eq!(driver.request(DISCARD, 0, &range(8, 1, 0), 0).0, OK);
    let mut expected = pattern(5 * 512);
    expected[512..1024].fill(0);
    assert_eq!(driver.read_sectors(7, 5), expected);
    drop(driver);
    memory.end_well();

    let (null, mut driver) = lab.drive("null", "--driver=null-co");
    assert_eq!(driver.config(8), (1u64 << 21).to_le_bytes(), "a gigabyte");
    driver.write_sectors(7, &pattern(512));
    driver.flush();
    assert_eq!(driver.read_sectors(7, 1), [0; 512]);
    drop(driver);
    null.end_well();

    let (snapshot, mut driver) = lab.drive("snapshot", "--driver null-co --size 1048576 --snapshot");
    driver.write_sectors(7, &pattern(512));
    assert_eq!(driver.read_sectors(7, 1), pattern(512), "as in QEMU, a layer keeps what is written");
    drop(driver);
    snapshot.end_well();
}

#[test]
fn what_the_driver_is_told() {
    let lab = Lab::new();
    lab.raw("disk", MEGABYTE);
    let (device, mut driver) = lab.drive("disk", "--image disk --logical-block-size 4096 --num-queues 3");
    let config = driver.config(60);
    assert_eq!(config[..8], 2048u64.to_le_bytes());
    assert_eq!(config[20..24], 4096u32.to_le_bytes());
    assert_eq!(config[34..36], 3u16.to_le_bytes());
    assert_eq!(driver.config(256)[60..], [0; 196], "fields of later versions");
    assert_ne!(driver.features & 1 << 12, 0, "several queues");
    // Requests are whole blocks.
    assert_eq!(driver.request(IN, 8, &[], 4096).0, OK);
    assert_eq!(driver.request(IN, 1, &[], 4096).0, IOERR);
    assert_eq!(driver.request(IN, 8, &[], 512).0, IOERR);
    // The cache mode is the driver's to choose.
    assert_eq!(config[32], 1);
    let flags = vhost::vhost_user::message::VhostUserConfigFlags::WRITABLE;
    vhost::vhost_user::VhostUserFrontend::set_config(&mut driver.front_end, 32, flags, &[0]).unwrap();
    assert_eq!(driver.config(60)[32], 0);
    driver.write_sectors(8, &pattern(4096));
    drop(driver);
    device.end_well();
}

#[test]
fn a_read_only_disk() {
    let lab = Lab::new();
    let contents = lab.raw("disk", MEGABYTE);
    let (device, mut driver) = lab.drive("disk", "--image disk --read-only");
    assert_ne!(driver.features & 1 << 5, 0);
    assert_eq!(driver.features & (1 << 13 | 1 << 14), 0);
    assert_eq!(driver.request(OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(driver.request(DISCARD, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(driver.request(WRITE_ZEROES, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(driver.request(FLUSH, 0, &[], 0).0, OK);
    assert_eq!(driver.read_sectors(0, 1), contents[..512]);
    drop(driver);
    device.end_well();
    assert!(std::fs::read(lab.path("disk")).unwrap() == contents);
}

#[test]
fn an_image_that_ends_within_a_sector() {
    let lab = Lab::new();
    let contents = lab.raw("disk", 1300);
    for (options, grows) in [("--snapshot", false), ("--read-only", false), ("", true)] {
        let (device, mut driver) = lab.drive("disk", &format!("--image disk {options}"));
        assert_eq!(driver.config(8), 3u64.to_le_bytes());
        let last = driver.read_sectors(2, 1);
        assert_eq!((&last[..276], &last[276..]), (&contents[1024..], &[0; 236][..]), "{options}");
        if options != "--read-only" {
            driver.write_sectors(2, &[7; 512]);
            assert_eq!(driver.read_sectors(2, 1), [7; 512]);
        }
        drop(driver);
        device.end_well();
        let length = std::fs::metadata(lab.path("disk")).unwrap().len();
        assert_eq!(length, if grows { 1536 } else { 1300 }, "{options}");
    }
}

#[test]
fn every_layout_of_buffers() {
    let lab = Lab::new();
    let contents = lab.raw("disk", MEGABYTE);
    let (device, mut driver) = lab.drive("disk", "--image disk");
    // Header in three parts, data in 100 uneven ones, empty ones between, status with the end of the data.
    driver.write(BUFFERS, &header(IN, 10));
    let part = |at, length, writable| Buffer { at: BUFFERS + at, length, writable };
    let mut buffers = vec![part(0, 1, false), part(1, 7, false), part(8, 0, false), part(8, 8, false)];
    let (mut at, total) = (0x1000u32, 64 * 512);
    for number in 0..100 {
        let length = if number == 99 { total + 0x1000 - at } else { number * 5 };
        buffers.push(part(u64::from(at), length, true));
        at += length;
    }
    buffers.last_mut().unwrap().length += 1;
    buffers.push(part(0, 0, true));
    for indirect in [false, true] {
        driver.write(BUFFERS + 0x1000, &vec![0xee; total as usize + 1]);
        let head = match indirect {
            false => driver.make_chain(0, &buffers),
            true => driver.make_indirect(0, BUFFERS + 0x40000, &buffers),
        };
        driver.offer(0, head);
        driver.kick(0);
        assert_eq!(driver.wait_for(0, 1), [(head, total + 1)]);
        assert!(driver.read(BUFFERS + 0x1000, total as usize) == contents[5120..5120 + total as usize]);
        assert_eq!(driver.read(BUFFERS + 0x1000 + u64::from(total), 1), [OK]);
    }
    drop(driver);
    device.end_well();
}

#[test]
fn requests_are_given_back_in_order_and_signals_are_few() {
    for event_index in [false, true] {
        let lab = Lab::new();
        lab.raw("disk", MEGABYTE);
        let device = lab.start("disk", "--image disk");
        let mut driver = device.connect(1, if event_index { u64::MAX } else { !(1 << 29) });
        let mut heads = vec![];
        for number in 0..40u64 {
            let (kind, room) = [(IN, 512), (OUT, 0), (FLUSH, 0), (GET_ID, 20)][number as usize % 4];
            let out = if kind == OUT { vec![1; 512] } else { vec![] };
            let buffers = driver.place(BUFFERS + number * 0x800, kind, number, &out, room);
            let head = driver.make_chain(0, &buffers);
            driver.offer(0, head);
            heads.push(head);
        }
        driver.kick(0);
        let used = driver.wait_for(0, 40);
        assert_eq!(used.iter().map(|used| used.0).collect::<Vec<_>>(), heads, "{event_index}");
        while driver.wait_for_call(0, std::time::Duration::from_millis(20)) {}
        // A driver that does not want signals gets none.
        driver.write(driver.table(0) + 0x1000, &1u16.to_le_bytes());
        driver.write(driver.table(0) + 0x1004 + 256, &0x4000u16.to_le_bytes());
        let buffers = driver.place(BUFFERS, FLUSH, 0, &[], 0);
        let head = driver.make_chain(0, &buffers);
        driver.offer(0, head);
        driver.kick(0);
        assert!(!driver.wait_for_call(0, std::time::Duration::from_millis(200)), "{event_index}");
        assert_eq!(driver.used(0), [(head, 1)]);
        drop(driver);
        device.end_well();
    }
}

#[test]
fn queues_share_one_disk() {
    let lab = Lab::new();
    lab.raw("disk", MEGABYTE);
    let device = lab.start("disk", "--image disk --num-queues 4");
    let mut driver = device.connect(4, u64::MAX);
    for round in 0..20u8 {
        for queue in 0..4 {
            let other = (queue + 1) % 4;
            let data = [round * 4 + queue as u8; 1024];
            assert_eq!(driver.request_on(queue, OUT, 77, &data, 0).0, OK);
            assert_eq!(driver.request_on(other, IN, 77, &[], 1024), (OK, data.to_vec()));
        }
    }
    drop(driver);
    device.end_well();
}

#[test]
fn a_ring_may_stop_and_start_again() {
    let lab = Lab::new();
    let contents = lab.raw("disk", MEGABYTE);
    let (device, mut driver) = lab.drive("disk", "--image disk");
    for round in 0..5 {
        for sector in 0..3 {
            assert_eq!(driver.read_sectors(sector, 1), contents[sector as usize * 512..][..512]);
        }
        assert_eq!(driver.restart(0), 3, "position in round {round}");
    }
    drop(driver);
    device.end_well();
}
