//! Drivers that break the rules: every request gets its answer, and the device goes on or ends with one line.

use crate::device::{Lab, pattern};
use crate::driver::*;
use crate::random::Random;

const SECTORS: u64 = 2048;

/// Asks for something, and whether the device still works after it.
fn check(driver: &mut Driver, what: &str, wanted: u8, kind: u32, sector: u64, out: &[u8], room: u32) {
    let (status, data) = driver.request(kind, sector, out, room);
    assert_eq!(status, wanted, "{what}");
    if wanted != OK {
        assert!(data.iter().all(|&byte| byte == 0), "{what}: no data of others");
    }
}

#[test]
fn requests_that_break_the_rules() {
    let lab = Lab::new();
    let contents = lab.raw("disk", SECTORS as usize * 512);
    let (device, mut driver) = lab.drive("disk", "--image disk --discard unmap");
    let many: Vec<u8> = (0..17).flat_map(|sector| range(sector, 1, 0)).collect();
    let some = [7; 512];
    for (what, wanted, kind, sector, out, room) in [
        ("read beyond the end", IOERR, IN, SECTORS, &[][..], 512),
        ("read across the end", IOERR, IN, SECTORS - 1, &[], 1024),
        ("read at the largest sector", IOERR, IN, u64::MAX, &[], 512),
        ("read that wraps around", IOERR, IN, u64::MAX / 512, &[], 1024),
        ("read of half a sector", IOERR, IN, 0, &[], 100),
        ("read of nothing", OK, IN, 0, &[], 0),
        ("read with data to the device", IOERR, IN, 0, &some, 512),
        ("write beyond the end", IOERR, OUT, SECTORS, &some, 0),
        ("write of half a sector", IOERR, OUT, 0, &some[..77], 0),
        ("write with data from the device", IOERR, OUT, 0, &some, 512),
        ("unknown", UNSUPP, 3, 0, &[], 0),
        ("SCSI", UNSUPP, 2, 0, &some, 96),
        ("secure erase", UNSUPP, 14, 0, &range(0, 1, 0), 0),
        ("unknown, large number", UNSUPP, u32::MAX, 0, &[], 8),
        ("discard of nothing", IOERR, DISCARD, 0, &[], 0),
        ("discard of half a range", IOERR, DISCARD, 0, &range(0, 1, 0)[..15], 0),
        ("discard with too many ranges", IOERR, DISCARD, 0, &many, 0),
        ("discard beyond the end", IOERR, DISCARD, 0, &range(SECTORS, 1, 0), 0),
        ("discard that wraps around", IOERR, DISCARD, 0, &range(u64::MAX, 2, 0), 0),
        ("discard of too much", IOERR, DISCARD, 0, &range(0, u32::MAX, 0), 0),
        ("discard with a flag", UNSUPP, DISCARD, 0, &range(0, 1, 1), 0),
        ("zeroes with unknown flags", UNSUPP, WRITE_ZEROES, 0, &range(0, 1, 2), 0),
        ("zeroes beyond the end", IOERR, WRITE_ZEROES, 0, &range(1, SECTORS as u32, 0), 0),
        (
            "a good range and a bad one",
            IOERR,
            DISCARD,
            0,
            &[range(0, 1, 0), range(SECTORS, 1, 0)].concat(),
            0,
        ),
        ("flush with odd buffers", OK, FLUSH, 99, &some[..5], 3),
    ] {
        check(&mut driver, what, wanted, kind, sector, out, room);
    }
    assert!(driver.read_sectors(0, SECTORS as u32) == contents, "none of them changed anything");
    drop(driver);
    device.end_well();
}

#[test]
fn chains_that_break_the_rules() {
    let lab = Lab::new();
    let contents = lab.raw("disk", SECTORS as usize * 512);
    let (device, mut driver) = lab.drive("disk", "--image disk");
    let (header_at, data, status, outside) = (BUFFERS, BUFFERS + 0x1000, BUFFERS + 0x2000, MEMORY - 256);
    let readable = |at, length| Buffer { at, length, writable: false };
    let writable = |at, length| Buffer { at, length, writable: true };
    let header_buffer = readable(header_at, 16);
    for (what, wanted, used, chain) in [
        ("no place for a status", None, 0, vec![header_buffer]),
        ("nothing at all", None, 0, vec![readable(data, 0)]),
        ("a short header", Some(IOERR), 1, vec![readable(header_at, 15), writable(status, 1)]),
        ("no header", Some(IOERR), 1, vec![writable(status, 1)]),
        (
            "readable after writable",
            Some(IOERR),
            513,
            vec![header_buffer, writable(data, 512), readable(data, 512), writable(status, 1)],
        ),
        (
            "data outside of memory",
            Some(IOERR),
            513,
            vec![header_buffer, writable(outside, 512), writable(status, 1)],
        ),
        (
            "data at the end of addresses",
            Some(IOERR),
            513,
            vec![header_buffer, writable(u64::MAX - 9, 512), writable(status, 1)],
        ),
        ("status outside of memory", None, 0, vec![header_buffer, writable(data, 512), writable(MEMORY, 1)]),
        (
            "status at the end of addresses",
            None,
            0,
            vec![header_buffer, writable(data, 512), writable(u64::MAX, 1)],
        ),
        (
            "header outside of memory",
            Some(IOERR),
            513,
            vec![readable(MEMORY - 8, 16), writable(data, 512), writable(status, 1)],
        ),
        (
            "more than a disk can give",
            Some(IOERR),
            0x7fff_fe01,
            vec![header_buffer, writable(data, 0x7fff_fe00), writable(status, 1)],
        ),
    ] {
        driver.write(header_at, &header(IN, 4));
        driver.write(status, &[0xff]);
        let head = driver.make_chain(0, &chain);
        driver.offer(0, head);
        driver.kick(0);
        assert_eq!(driver.wait_for(0, 1), [(head, used)], "{what}");
        assert_eq!(driver.read(status, 1)[0], wanted.unwrap_or(0xff), "{what}");
    }
    assert_eq!(driver.read_sectors(4, 1), contents[2048..2560]);
    drop(driver);
    device.end_well();
}

#[test]
fn descriptor_tables_that_break_the_rules() {
    let lab = Lab::new();
    let contents = lab.raw("disk", SECTORS as usize * 512);
    let (device, mut driver) = lab.drive("disk", "--image disk");
    let table = driver.table(0);
    let (write, next) = (2, 1);
    let mut offer = |what: &str, descriptors: &[(u64, u32, u16, u16)], wanted: Option<u8>| {
        driver.write(BUFFERS, &header(IN, 4));
        driver.write(BUFFERS + 0x2000, &[0xff]);
        for (number, &(at, length, flags, next)) in (0u16..).zip(descriptors) {
            driver.set_descriptor(table, number, at, length, flags, next);
        }
        driver.offer(0, 0);
        driver.kick(0);
        let used = driver.wait_for(0, 1);
        assert_eq!(used.len(), 1, "{what}");
        assert_eq!(driver.read(BUFFERS + 0x2000, 1)[0], wanted.unwrap_or(0xff), "{what}");
    };
    let header_descriptor = (BUFFERS, 16, next, 1);
    offer("a loop", &[header_descriptor, (BUFFERS + 0x2000, 1, next | write, 1)], Some(IOERR));
    offer("a loop of readable ones", &[(BUFFERS, 16, next, 0)], None);
    offer("no end", &[header_descriptor, (BUFFERS + 0x2000, 1, next | write, RING)], Some(IOERR));
    offer("an indirect table outside of memory", &[(MEMORY - 16, 32, INDIRECT, 0)], None);
    offer("an indirect table of odd size", &[(BUFFERS + 0x4000, 33, INDIRECT, 0)], None);
    offer("an indirect table that is huge", &[(BUFFERS + 0x4000, 0xffff_fff0, INDIRECT, 0)], None);
    offer("an empty indirect table", &[(BUFFERS + 0x4000, 0, INDIRECT, 0)], None);
    let nested = [(BUFFERS + 0x4000, 16, INDIRECT, 0)];
    driver.set_descriptor(BUFFERS + 0x4000, 0, BUFFERS + 0x4000, 16, INDIRECT, 0);
    let mut offer = |what: &str, wanted: u8| {
        driver.set_descriptor(table, 0, nested[0].0, nested[0].1, INDIRECT, 0);
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(driver.wait_for(0, 1), [(0, u32::from(wanted))], "{what}");
    };
    offer("a table that names itself", 0);
    assert_eq!(driver.read_sectors(4, 1), contents[2048..2560]);
    drop(driver);
    device.end_well();
}

#[test]
fn too_many_buffers_are_refused_and_a_long_chain_is_not() {
    let lab = Lab::new();
    let contents = lab.raw("disk", SECTORS as usize * 512);
    let (device, mut driver) = lab.drive("disk", "--image disk");
    for (sectors, wanted) in [(1000u32, OK), (2000, IOERR)] {
        driver.write(BUFFERS, &header(IN, 0));
        let (data, status, table) = (BUFFERS + 0x1000, BUFFERS + 0x200000, BUFFERS + 0x300000);
        driver.write(status, &[0xff]);
        let mut buffers = vec![Buffer { at: BUFFERS, length: 16, writable: false }];
        let sector = |number| Buffer { at: data + 512 * u64::from(number), length: 512, writable: true };
        buffers.extend((0..sectors).map(sector));
        buffers.push(Buffer { at: status, length: 1, writable: true });
        let head = driver.make_indirect(0, table, &buffers);
        driver.offer(0, head);
        driver.kick(0);
        assert_eq!(driver.wait_for(0, 1)[0].0, head);
        assert_eq!(driver.read(status, 1)[0], wanted, "{sectors} buffers");
        if wanted == OK {
            assert!(driver.read(data, sectors as usize * 512) == contents[..sectors as usize * 512]);
        }
    }
    drop(driver);
    device.end_well();
}

#[test]
fn a_broken_ring_ends_the_device_with_one_line() {
    for (index, first, message) in
        [(500, 0, "index"), (1, 200u16, "the driver's ring of 128 descriptors offers number 200")]
    {
        let lab = Lab::new();
        lab.raw("disk", SECTORS as usize * 512);
        let (device, mut driver) = lab.drive("disk", "--image disk");
        driver.write(driver.table(0) + 0x1004, &first.to_le_bytes());
        driver.set_available(0, index);
        driver.kick(0);
        let (status, text) = device.end();
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(message) && text.lines().count() == 1, "{text}");
    }
}

/// Random good and bad requests against a plain array.
fn compare_with_memory(options: &str, prepare: impl Fn(&Lab)) {
    let mut random = Random::new(options);
    let mut below = |limit: u64| random.below(limit);
    let lab = Lab::new();
    lab.raw("disk", SECTORS as usize * 512);
    prepare(&lab);
    let mut model = pattern(SECTORS as usize * 512);
    let (device, mut driver) = lab.drive("disk", options);
    for step in 0..1500 {
        let count_max = if below(8) == 0 { 300 } else { 16 };
        let count = 1 + below(count_max);
        let sector = below(SECTORS + 8);
        let fits = sector + count <= SECTORS;
        let bytes = sector as usize * 512..(sector + count) as usize * 512;
        let wanted = if fits { OK } else { IOERR };
        match below(10) {
            0..4 => {
                let (status, data) = driver.request(IN, sector, &[], count as u32 * 512);
                assert_eq!(status, wanted, "step {step}");
                assert!(!fits || data == model[bytes], "step {step}: read of {count} at {sector}");
            }
            4..7 => {
                let data = vec![below(255) as u8 + 1; count as usize * 512];
                assert_eq!(driver.request(OUT, sector, &data, 0).0, wanted, "step {step}");
                if fits {
                    model[bytes].copy_from_slice(&data);
                }
            }
            kind @ (7 | 8) => {
                let (kind, flags) = if kind == 7 { (DISCARD, 0) } else { (WRITE_ZEROES, below(2) as u32) };
                let range = range(sector, count as u32, flags);
                assert_eq!(driver.request(kind, 0, &range, 0).0, wanted, "step {step}");
                if fits {
                    model[bytes].fill(0);
                }
            }
            _ => driver.flush(),
        }
    }
    assert!(driver.read_sectors(0, SECTORS as u32) == model);
    drop(driver);
    device.end_well();
}

#[test]
fn random_requests_on_a_raw_image() {
    compare_with_memory("--image disk --discard unmap", |_| {});
}

#[test]
fn random_requests_on_a_qcow2_image() {
    compare_with_memory("--image disk.qcow2 --discard unmap", |lab| {
        lab.tool("qemu-img convert -f raw -O qcow2 disk disk.qcow2");
    });
}

#[test]
fn random_requests_on_a_compressed_image_with_small_clusters() {
    compare_with_memory("--image disk.qcow2 --discard unmap", |lab| {
        lab.tool("qemu-img convert -c -f raw -O qcow2 -o cluster_size=4096 disk disk.qcow2");
    });
}

#[test]
fn random_requests_on_an_image_of_version_2() {
    compare_with_memory("--image disk.qcow2 --discard unmap", |lab| {
        lab.tool("qemu-img convert -f raw -O qcow2 -o compat=0.10 disk disk.qcow2");
    });
}

#[test]
fn random_requests_on_a_layer() {
    compare_with_memory("--image disk --discard unmap --layer layer", |_| {});
}

#[test]
fn random_requests_on_a_snapshot() {
    compare_with_memory("--image disk --discard unmap --snapshot --num-queues 2", |_| {});
}

/// Rings full of chance: the device answers or ends with a line, and never hangs or dies.
#[test]
fn random_rings() {
    let mut random = Random::new("random rings");
    for _ in 0..20 {
        let lab = Lab::new();
        lab.raw("disk", SECTORS as usize * 512);
        let (mut device, mut driver) = lab.drive("disk", "--image disk --snapshot");
        let table = driver.table(0);
        for _ in 0..50 {
            for index in 0..RING {
                let at = match random.below(8) {
                    0 => random.next(),
                    _ => random.below(MEMORY + 100),
                };
                let length = random.below(1 << 32) >> random.below(32);
                let (flags, next) = (random.below(8) as u16, random.below(u64::from(RING) + 2) as u16);
                driver.set_descriptor(table, index, at, length as u32, flags, next);
            }
            // Some headers that make sense, wherever they are.
            for _ in 0..64 {
                let at = random.below(MEMORY - 16 - BUFFERS) + BUFFERS;
                driver.write(at, &header(random.below(16) as u32, random.below(3000)));
            }
            let count = random.below(64);
            for _ in 0..count {
                driver.offer(0, random.below(u64::from(RING)) as u16);
            }
            driver.kick(0);
            let mut answered = 0;
            let deadline = std::time::Instant::now() + PATIENCE;
            while answered < count as usize && device.is_running() {
                assert!(std::time::Instant::now() < deadline, "{answered} of {count} are answered");
                driver.wait_for_call(0, std::time::Duration::from_millis(1));
                answered += driver.used(0).len();
            }
        }
        drop(driver);
        let (status, text) = device.end();
        assert!(
            matches!((status, text.lines().count()), (Some(0), _) | (Some(1), 1..)),
            "{status:?}: {text}"
        );
    }
}
