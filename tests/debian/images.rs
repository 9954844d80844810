//! Images of disks for the tests: made and looked into with qemu-img and qemu-io, so that others judge what was written.

use crate::lab::Lab;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of a test's disk.
pub const IMAGE_BYTES: usize = 32 << 20;

/// What is on the disk before the guest writes: sectors that say which they are.
pub fn contents() -> Vec<u8> {
    let sector = |number: usize| {
        let mut sector = format!("sector {number:08} ").repeat(32).into_bytes();
        sector.resize(512, b'.');
        sector
    };
    (0..IMAGE_BYTES / 512).flat_map(sector).collect()
}

/// Makes `base.qcow2`.
pub fn make_base(lab: &Lab) {
    lab.write("contents", contents());
    tool(lab, "qemu-img convert -f raw -O qcow2 contents base.qcow2");
    std::fs::remove_file(lab.path("contents")).unwrap();
}

/// Runs a program of the host; fails unless it does well.
pub fn tool(lab: &Lab, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    // Where Debian has e2fsck, which is not in every user's path.
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command.args(words).current_dir(lab.path(""));
    let done = command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{line}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// The one layer of a recording with one disk.
pub fn layer(lab: &Lab) -> PathBuf {
    let mut files = std::fs::read_dir(lab.path("rec/disks")).unwrap().map(|entry| entry.unwrap().path());
    let layer = files.next().expect("a layer");
    assert_eq!(files.next(), None);
    layer
}

/// Fails unless qemu-img finds nothing wrong with the layer: no error and no lost cluster.
pub fn check_layer(lab: &Lab) {
    tool(lab, &format!("qemu-img check -f qcow2 {}", layer(lab).display()));
}

/// SHA-256 as sha256sum prints it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256_of(path: &Path) -> String {
    sha256(&std::fs::read(path).unwrap())
}
