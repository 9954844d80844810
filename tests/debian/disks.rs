//! A file system on a qcow2 disk: recorded, replayed, verified, committed; a changed image is noticed.

use crate::images::{self, check_layer, contents, layer, sha256, sha256_of, tool};
use crate::lab::Lab;
use crate::process::{Done, contains};
use crate::{BOOT_PATIENCE, guests, replay_and_verify, start_io, value};

/// Options of the disk over an image.
fn disk(image: &str) -> String {
    format!("-drive file={image},if=none,id=d0 -device virtio-blk-pci,drive=d0,serial=reprise")
}

/// The file of text that the guest writes.
fn lines() -> String {
    (1..=4000).map(|number| format!("line {number} of a file that the guest wrote\n")).collect()
}

/// The guest read what is in the image, and what it had written itself.
fn check_guest(text: &str) {
    assert!(text.contains("GUEST-DONE"), "{text}");
    assert_eq!(value(text, "serial"), "reprise");
    let first = 1024 * 512;
    assert!(value(text, "image").starts_with(&sha256(&contents()[first..first + 64 * 512])), "{text}");
    assert_eq!(value(text, "/dev/vda").split_whitespace().nth(1), Some("ext4"), "{text}");
    assert!(value(text, "lines").starts_with(&sha256(lines().as_bytes())), "{text}");
    assert_eq!(value(text, "written"), value(text, "read"));
    let requests: u32 = value(text, "requests").parse().unwrap();
    assert!(requests >= 4, "the files came out of the guest's cache: {requests} requests");
}

#[test]
fn a_file_system() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    images::make_base(&lab);
    let base = sha256_of(&lab.path("base.qcow2"));
    let options = disk("base.qcow2");
    let options: Vec<&str> = options.split(' ').collect();
    let recorded = start_io(&lab, &guests, "job=disk", &options).end(BOOT_PATIENCE).well();
    check_guest(&recorded.text());
    assert_eq!(sha256_of(&lab.path("base.qcow2")), base, "recording changed the base");
    check_layer(&lab);

    let written = sha256_of(&layer(&lab));
    replay_and_verify(&lab, &recorded);
    assert_eq!(sha256_of(&lab.path("base.qcow2")), base, "replaying changed the base");
    assert_eq!(sha256_of(&layer(&lab)), written, "replaying changed the layer");

    notices_a_changed_image(&lab, &recorded);
    commits(&lab);
}

/// The first sector that the guest printed a digest of is another one now.
fn notices_a_changed_image(lab: &Lab, recorded: &Done) {
    std::fs::copy(lab.path("base.qcow2"), lab.path("changed.qcow2")).unwrap();
    let offset = 1024 * 512;
    let mut words = vec!["qemu-io", "-f", "qcow2", "-c"];
    let write = format!("write -P 0x55 {offset} 512");
    words.extend([write.as_str(), "changed.qcow2"]);
    let status = std::process::Command::new(words[0]).args(&words[1..]).current_dir(lab.path("")).output();
    assert!(status.unwrap().status.success());

    let replayed = lab.start(&format!("replay rec {}", disk("changed.qcow2"))).end(BOOT_PATIENCE);
    assert_ne!(replayed.code(), 0);
    let line = replayed.err.lines().find(|line| line.contains("differs")).unwrap_or_default();
    let digests = |line: &str| line.matches(" with digest ").count();
    assert!(line.contains("d0") || line.contains("virtio0"), "no device: {}", replayed.err);
    assert!(line.contains("sectors 1024 to ") && digests(line) == 2, "{}", replayed.err);
    assert!(contains(&recorded.out, b"image ") && !contains(&replayed.out, b"image "), "{}", replayed.text());
    assert!(recorded.out.starts_with(&replayed.out), "{}", replayed.text());
}

/// Afterwards the base holds what was seen through the layer, and a file system without a fault.
fn commits(lab: &Lab) {
    tool(lab, &format!("qemu-img convert -O raw {} seen", layer(lab).display()));
    lab.run("commit rec").well();
    tool(lab, "qemu-img check -f qcow2 base.qcow2");
    tool(lab, "qemu-img convert -f qcow2 -O raw base.qcow2 committed");
    let (seen, committed) =
        (std::fs::read(lab.path("seen")).unwrap(), std::fs::read(lab.path("committed")).unwrap());
    assert!(seen == committed, "the base is not what the guest saw");
    tool(lab, "e2fsck -fn committed");
    lab.write("commands", "dump /lines lines\n");
    tool(lab, "debugfs -f commands committed");
    assert_eq!(std::fs::read_to_string(lab.path("lines")).unwrap(), lines());
}
