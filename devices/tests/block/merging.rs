//! `--commit`: what a layer holds goes into the image below it.

use crate::device::{Lab, pattern};
use crate::driver::*;

const SIZE: usize = 4 << 20;

#[test]
fn a_layer_is_merged_into_its_base() {
    for format in ["raw", "qcow2"] {
        let lab = Lab::new();
        let mut contents = lab.raw("disk", SIZE);
        if format == "qcow2" {
            lab.tool("qemu-img convert -c -f raw -O qcow2 disk disk.qcow2");
            std::fs::rename(lab.path("disk.qcow2"), lab.path("disk")).unwrap();
        }
        let (device, mut driver) = lab.drive("disk", "--image disk --layer layer --discard unmap");
        driver.write_sectors(1001, &pattern(5 * 512));
        assert_eq!(driver.request(DISCARD, 0, &range(2048, 2048, 0), 0).0, OK);
        contents[1001 * 512..1006 * 512].copy_from_slice(&pattern(5 * 512));
        contents[2048 * 512..4096 * 512].fill(0);
        let refused = lab.run("--commit layer").unwrap_err();
        assert!(refused.contains("'layer' is locked"), "{refused}");
        drop(driver);
        device.end_well();
        let layer = std::fs::read(lab.path("layer")).unwrap();
        // The write takes one cluster or two, the discard sixteen.
        for _ in 0..2 {
            let report = lab.run("--commit layer").unwrap();
            assert!(
                report.contains("\"copied-bytes\":65536,") || report.contains("\"copied-bytes\":131072,"),
                "{report}"
            );
            assert!(report.contains("\"zeroed-bytes\":1048576}"), "{report}");
            assert!(lab.contents("disk", format) == contents, "{format}");
        }
        assert!(std::fs::read(lab.path("layer")).unwrap() == layer, "the layer stays");
        if format == "qcow2" {
            lab.tool("qemu-img check -q disk");
        }
    }
}

#[test]
fn a_compressed_layer_and_a_larger_one() {
    let lab = Lab::new();
    let mut contents = lab.raw("disk", SIZE);
    lab.tool("qemu-img create -q -f qcow2 -b disk -F raw layer 6M");
    lab.tool("qemu-io -f qcow2 -c 'write -c -P 3 1M 64k' -c 'write -P 4 5M 64k' layer");
    contents.resize(6 << 20, 0);
    contents[1 << 20..(1 << 20) + 65536].fill(3);
    contents[5 << 20..(5 << 20) + 65536].fill(4);
    lab.run("--commit layer").unwrap();
    assert!(std::fs::read(lab.path("disk")).unwrap() == contents);
}

#[test]
fn what_cannot_be_merged_says_why() {
    let lab = Lab::new();
    lab.raw("disk", SIZE);
    lab.tool("qemu-img create -q -f qcow2 alone 1M");
    lab.tool("qemu-img create -q -f qcow2 -b gone -F raw -u orphan 1M");
    lab.tool("qemu-img create -q -f qcow2 -b disk -F raw layer");
    for (line, message) in [
        ("--commit nowhere", "cannot open 'nowhere'"),
        ("--commit disk", "it is not a qcow2 image"),
        ("--commit alone", "'alone' has no image below it"),
        ("--commit orphan", "cannot open 'gone'"),
        ("--commit layer --image disk", "--commit"),
    ] {
        let text = lab.run(line).unwrap_err();
        assert!(text.contains(message), "{line}: {text}");
    }
    let (device, driver) = lab.drive("user", "--image disk --snapshot");
    let text = lab.run("--commit layer").unwrap_err();
    assert!(text.contains("'disk' is locked: it may not be written to"), "{text}");
    drop(driver);
    device.end_well();
}
