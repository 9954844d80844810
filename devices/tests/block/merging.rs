//! `--commit`: what a layer holds goes into the image below it. `--merge`: one layer of several.

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
fn one_layer_of_several_holds_the_same() {
    for base in ["raw", "qcow2", "none"] {
        let lab = Lab::new();
        lab.raw("disk", SIZE + 512);
        match base {
            "raw" => drop(lab.tool("qemu-img create -q -f qcow2 -b disk -F raw a")),
            "qcow2" => {
                lab.tool("qemu-img convert -f raw -O qcow2 disk disk.qcow2");
                lab.tool("qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 a");
            }
            _ => drop(lab.tool("qemu-img convert -f raw -O qcow2 disk a")),
        }
        for (above, below) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")] {
            lab.tool(&format!("qemu-img create -q -f qcow2 -b {below} -F qcow2 {above}"));
        }
        lab.tool("qemu-io -f qcow2 -c 'write -P 1 0 256k' -c 'write -P 1 1M 64k' -c 'write -z 3M 64k' a");
        lab.tool("qemu-io -f qcow2 -c 'write -P 2 64k 100k' -c 'write -z 2M 128k' b");
        // Partial clusters, data over zeros and zeros over data, and the last, short cluster.
        lab.tool("qemu-io -f qcow2 -c 'write -z 0 64k' -c 'write -P 3 2M 512' -c 'write -P 3 4M 512' c");
        lab.tool("qemu-io -f qcow2 -c 'write -P 4 1000k 4k' -c 'write -z 64k 64k' d");
        lab.tool("qemu-io -f qcow2 -c 'write -P 5 128k 64k' e");
        let names = ["e", "d", "b", "a"];
        let before = names.map(|name| lab.contents(name, "qcow2"));
        let below: Vec<_> = ["a", "b", "c"].map(|name| std::fs::read(lab.path(name)).unwrap()).into();
        // b, c and d become one, which still lies over a.
        lab.run("--merge d b").unwrap();
        lab.tool("qemu-img check -q d");
        assert!(names.map(|name| lab.contents(name, "qcow2")) == before, "{base}");
        let chain = lab.tool("qemu-img info -f qcow2 --backing-chain e");
        let images = 3 + usize::from(base != "none");
        assert_eq!(chain.matches("image: ").count(), images, "{chain}");
        // All that is left, down to the image or to nothing.
        lab.run("--merge e a").unwrap();
        lab.tool("qemu-img check -q e");
        assert!(names.map(|name| lab.contents(name, "qcow2")) == before, "{base}");
        let chain = lab.tool("qemu-img info -f qcow2 --backing-chain e");
        assert_eq!(chain.matches("image: ").count(), images - 2, "{chain}");
        let after: Vec<_> = ["a", "b", "c"].map(|name| std::fs::read(lab.path(name)).unwrap()).into();
        assert!(after == below, "the others stay");
    }
}

#[test]
fn what_cannot_be_merged_says_why() {
    let lab = Lab::new();
    lab.raw("disk", SIZE);
    lab.tool("qemu-img create -q -f qcow2 alone 1M");
    lab.tool("qemu-img create -q -f qcow2 -b gone -F raw -u orphan 1M");
    lab.tool("qemu-img create -q -f qcow2 -b disk -F raw layer");
    lab.tool("qemu-img create -q -f qcow2 -o cluster_size=4k -b layer -F qcow2 small");
    lab.tool("qemu-io -f qcow2 -c 'write -P 1 4k 4k' small");
    for (line, message) in [
        ("--commit nowhere", "cannot open 'nowhere'"),
        ("--commit disk", "it is not a qcow2 image"),
        ("--commit alone", "'alone' has no image below it"),
        ("--commit orphan", "cannot open 'gone'"),
        ("--commit layer --image disk", "--commit"),
        ("--merge alone layer", "'layer' is not below 'alone'"),
        ("--merge layer disk", "'disk' is not below 'layer'"),
        ("--merge layer nowhere", "cannot find 'nowhere'"),
        ("--merge small layer", "its clusters are not of 65536 bytes"),
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
