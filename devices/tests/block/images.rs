//! Images made by QEMU's tools: formats, chains, what is refused, locks.

use crate::device::{Device, Lab, pattern};
use crate::driver::*;
use std::os::unix::fs::FileExt;

const SIZE: usize = 4 << 20;

/// Changes bytes of a file.
fn patch(lab: &Lab, name: &str, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(lab.path(name)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn read_all(driver: &mut Driver) -> Vec<u8> {
    (0..SIZE as u64 / 512).step_by(4096).flat_map(|sector| driver.read_sectors(sector, 4096)).collect()
}

fn end(device: Device, driver: Driver) {
    drop(driver);
    device.end_well();
}

#[test]
fn chains_of_images() {
    let lab = Lab::new();
    let mut contents = lab.raw("base", SIZE);
    lab.tool("qemu-img create -q -f qcow2 -b base -F raw middle");
    lab.tool("qemu-io -f qcow2 -c 'write -P 1 1M 100k' middle");
    lab.tool("qemu-img create -q -f qcow2 -b middle -F qcow2 -o cluster_size=4k top");
    lab.tool("qemu-io -f qcow2 -c 'write -P 2 1050k 3k' -c 'write -z 3M 200k' top");
    contents[1 << 20..(1 << 20) + 102_400].fill(1);
    contents[1050 << 10..1053 << 10].fill(2);
    contents[3 << 20..(3 << 20) + 204_800].fill(0);
    let (device, mut driver) = lab.drive("top", "--image top");
    assert!(read_all(&mut driver) == contents);
    driver.write_sectors(2047, &pattern(2048));
    contents[2047 * 512..2051 * 512].copy_from_slice(&pattern(2048));
    assert!(read_all(&mut driver) == contents);
    end(device, driver);
    assert!(lab.contents("top", "qcow2") == contents);
    lab.tool("qemu-img check -q top");
    assert!(std::fs::read(lab.path("base")).unwrap() == pattern(SIZE), "what is below is not written to");
}

#[test]
fn compressed_and_small_clusters() {
    for options in
        ["-c", "-o cluster_size=512", "-c -o cluster_size=2M", "-o lazy_refcounts=on,preallocation=metadata"]
    {
        let lab = Lab::new();
        let contents = [pattern(SIZE / 4), vec![7; SIZE / 4], pattern(SIZE / 2)].concat();
        std::fs::write(lab.path("disk"), &contents).unwrap();
        lab.tool(&format!("qemu-img convert -f raw -O qcow2 {options} disk disk.qcow2"));
        let (device, mut driver) = lab.drive("disk", "--image disk.qcow2 --format qcow2 --read-only");
        assert!(read_all(&mut driver) == contents, "{options}");
        end(device, driver);
    }
}

#[test]
fn the_format_is_found_out() {
    let lab = Lab::new();
    lab.raw("disk", SIZE);
    lab.tool("qemu-img convert -f raw -O qcow2 disk disk.qcow2");
    let (device, mut driver) = lab.drive("probed", "--image disk.qcow2 --read-only");
    assert_eq!(driver.read_sectors(1, 1), pattern(1024)[512..]);
    end(device, driver);
    let (device, mut driver) = lab.drive("raw", "--image disk.qcow2 --format raw --read-only");
    assert_eq!(driver.read_sectors(0, 1)[..4], *b"QFI\xfb");
    end(device, driver);
}

#[test]
fn images_that_cannot_be_used_are_refused_with_one_line() {
    let lab = Lab::new();
    lab.raw("raw", SIZE);
    std::fs::write(lab.path("empty"), []).unwrap();
    std::fs::create_dir(lab.path("directory")).unwrap();
    lab.tool("mkfifo fifo");
    lab.tool("qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks 1M");
    lab.tool("qemu-img create -q -f qcow2 -b luks -F qcow2 -u over-luks 1M");
    lab.tool("qemu-img create -q -f qcow2 -o compression_type=zstd zstd 1M");
    lab.tool("qemu-img create -q -f qcow2 -o extended_l2=on extended 1M");
    lab.tool("qemu-img create -q -f qcow2 -o data_file=data external 1M");
    lab.tool("qemu-img create -q -f qcow2 -b gone -F raw -u orphan 1M");
    lab.tool("qemu-img create -q -f qcow2 -b nbd://host/disk -F raw -u remote 1M");
    lab.tool("qemu-img create -q -f qcow2 -b raw -F vmdk -u vmdk 1M");
    lab.tool("qemu-img create -q -f qcow2 -b loop -F qcow2 -u circle 1M");
    lab.tool("qemu-img create -q -f qcow2 -b circle -F qcow2 -u loop 1M");
    for name in ["dirty", "corrupt", "unknown", "version", "method"] {
        lab.tool(&format!("qemu-img create -q -f qcow2 {name} 1M"));
    }
    patch(&lab, "dirty", 79, &[1]);
    patch(&lab, "corrupt", 79, &[2]);
    patch(&lab, "unknown", 72, &[0x80]);
    patch(&lab, "version", 7, &[4]);
    patch(&lab, "method", 35, &[9]);
    lab.tool("qemu-img convert -f raw -O qcow2 raw truncated");
    let cut = |name: &str, length| {
        std::fs::copy(lab.path("truncated"), lab.path(name)).unwrap();
        std::fs::File::options().write(true).open(lab.path(name)).unwrap().set_len(length).unwrap();
    };
    cut("cut-data", 3 << 20);
    cut("cut-tables", 0x30000);
    cut("cut-header", 60);
    for (options, message) in [
        ("--image nowhere", "cannot open 'nowhere': No such file"),
        ("--image directory", "it is a directory"),
        ("--image empty", "it is empty"),
        ("--image fifo", "it is not a file"),
        ("--image /dev/null", "it is not a file"),
        ("--image luks", "'luks': it is encrypted (LUKS)"),
        ("--image luks --snapshot", "encrypted (LUKS)"),
        (
            "--image over-luks",
            "backing file of 'over-luks': cannot use the image 'luks': it is encrypted (LUKS)",
        ),
        ("--image method", "encrypted by the unknown method 9"),
        ("--image zstd", "zstd"),
        ("--image extended", "extended L2"),
        ("--image external", "its data is in another file"),
        ("--image orphan", "backing file of 'orphan': cannot open 'gone': No such file"),
        ("--image remote", "'nbd://host/disk' is not a file"),
        ("--image vmdk", "its format 'vmdk' is not supported"),
        ("--image loop --read-only", "is it a loop?"),
        ("--image dirty", "was not closed cleanly"),
        ("--image dirty --read-only", "was not closed cleanly"),
        ("--image corrupt", "is marked as corrupt"),
        ("--image unknown", "unknown incompatible features"),
        ("--image version", "version 4"),
        ("--image raw --format qcow2", "it is not a qcow2 image"),
        ("--image cut-data", "it is truncated"),
        ("--image cut-tables", "it is truncated"),
        ("--image cut-header --format qcow2", "less than a qcow2 header"),
        ("--image raw --layer raw", "it exists already"),
        ("--image raw --layer no/where", "cannot make the layer 'no/where'"),
        ("--image raw --layer a --snapshot", "--snapshot"),
        ("--image raw --size 512", "--size is for"),
        ("--image raw --serial 123456789012345678901", "--serial has 21 bytes"),
        ("--image raw --logical-block-size 513", "--logical-block-size is"),
        ("--image raw --num-queues 0", "0 is not in 1..=64"),
        ("--image raw --discard maybe", "invalid value 'maybe'"),
        ("--driver memory", "--size is missing"),
        ("--driver memory --size 513", "multiple of 512"),
        ("--driver memory --size 18446744073709551104", "multiple of 512"),
        ("--driver null-co --image raw", "lie on a file"),
        ("--driver null-co --layer a", "lie on a file"),
        ("--driver memory --size 512 --logical-block-size 4096", "not whole blocks of 4096"),
        ("", "--image"),
    ] {
        let text = lab.refused(options);
        assert!(text.contains(message), "{options}: {text}");
    }
}

#[test]
fn locks_keep_others_out_and_others_keep_us_out() {
    let lab = Lab::new();
    lab.raw("disk", SIZE);
    let refused = |line: &str, message: &str| {
        let output = lab.try_tool(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(message), "{line}: {text}");
    };
    let (device, driver) = lab.drive("writer", "--image disk");
    refused("qemu-img resize -f raw disk 8M", "Failed to get \"write\" lock");
    refused("qemu-io -f raw -c 'write 0 512' disk", "lock");
    for options in
        ["--image disk", "--image disk --read-only", "--image disk --snapshot", "--image disk --layer l"]
    {
        let text = lab.refused(options);
        assert!(text.contains("'disk' is locked: it is written to by device (process "), "{text}");
    }
    assert!(!lab.path("l").exists());
    end(device, driver);

    let (device, driver) = lab.drive("base", "--image disk --layer layer");
    refused("qemu-io -f raw -c 'write 0 512' disk", "Failed to get \"write\" lock");
    refused("qemu-io -f qcow2 -c 'write 0 512' layer", "lock");
    refused("qemu-img info layer", "Failed to get shared \"write\" lock");
    lab.tool("qemu-img info disk");
    let second = lab.drive("second", "--image disk --snapshot");
    end(second.0, second.1);
    let text = lab.refused("--image disk");
    assert!(text.contains("may not be written to, it is in use by"), "{text}");
    end(device, driver);
    lab.tool("qemu-io -f raw -c 'write 0 512' disk");

    // A writer of QEMU's, in the time in which it sleeps.
    let mut words = std::process::Command::new("qemu-io");
    words.args(["-f", "qcow2", "-c", "sleep 20000", "layer"]).current_dir(lab.path(""));
    words.stdout(std::process::Stdio::null());
    let mut holder = words.spawn().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let text = loop {
        // It is open as soon as the locks are there.
        let output = lab.try_tool("qemu-img info layer");
        if !output.status.success() {
            break lab.refused("--image layer");
        }
        // The look itself has the image open for a moment, and may have been in its way.
        if holder.try_wait().unwrap().is_some() {
            holder = words.spawn().unwrap();
        }
        assert!(std::time::Instant::now() < deadline);
    };
    assert!(text.contains("'layer' is locked: it is written to by qemu-io (process "), "{text}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_layer_takes_what_is_written_and_the_base_stays() {
    for format in ["raw", "qcow2"] {
        let lab = Lab::new();
        let mut contents = lab.raw("disk", SIZE);
        if format == "qcow2" {
            lab.tool("qemu-img convert -c -f raw -O qcow2 disk disk.qcow2");
            std::fs::rename(lab.path("disk.qcow2"), lab.path("disk")).unwrap();
        }
        let base = std::fs::read(lab.path("disk")).unwrap();
        let (device, mut driver) = lab.drive("disk", "--image disk --layer layer --discard unmap");
        let info = lab.tool("qemu-img info -U --output=json layer");
        // Beside each other, so that both can be moved.
        assert!(info.contains("\"backing-filename\": \"disk\""), "{info}");
        assert!(info.contains(&format!("\"backing-filename-format\": \"{format}\"")), "{info}");
        driver.write_sectors(1001, &[9; 5 * 512]);
        assert_eq!(driver.request(DISCARD, 0, &range(2000, 3000, 0), 0).0, OK);
        contents[1001 * 512..1006 * 512].fill(9);
        contents[2000 * 512..5000 * 512].fill(0);
        assert!(read_all(&mut driver) == contents);
        end(device, driver);
        assert!(std::fs::read(lab.path("disk")).unwrap() == base);
        lab.tool("qemu-img check -q layer");
        assert!(lab.contents("layer", "qcow2") == contents);
        // A layer is an image like others.
        let (device, mut driver) = lab.drive("again", "--image layer --snapshot");
        assert!(read_all(&mut driver) == contents);
        driver.write_sectors(0, &[1; 512]);
        end(device, driver);
        assert!(lab.contents("layer", "qcow2") == contents, "a snapshot leaves nothing behind");
    }
}

#[test]
fn a_device_that_cannot_start_leaves_no_layer() {
    let lab = Lab::new();
    lab.raw("disk", 1536);
    lab.refused("--image disk --layer layer --logical-block-size 4096");
    lab.refused("--image nowhere --layer layer");
    let names: Vec<_> =
        std::fs::read_dir(lab.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk"]);
}
