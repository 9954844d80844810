//! Where the Debian kernels are that tests boot, and their initial RAM disks.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Debian's kernel for virtual machines.
pub const CLOUD: &str = "vmlinuz-cloud";
/// Debian's kernel for everything.
pub const GENERIC: &str = "vmlinuz-generic";
/// A busybox and `tests/guests/init`.
pub const INITRD: &str = "initrd.gz";
/// The same with the cloud kernel's drivers of virtio devices and the jobs that use them.
pub const IO_INITRD: &str = "initrd-io.gz";

/// Where the guests are; `None` if the user does not want these tests.
pub fn guests() -> Option<PathBuf> {
    if std::env::var("REPRISE_NO_GUESTS").is_ok_and(|value| value == "1") {
        println!("REPRISE_NO_GUESTS=1: no Debian kernel is booted");
        return None;
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let given = std::env::var_os("REPRISE_GUESTS").map(PathBuf::from);
    let is_ours = given.is_none();
    let directory = given.unwrap_or_else(|| top.join("target/guests"));
    for name in [CLOUD, GENERIC, INITRD, IO_INITRD, "recipe"] {
        let path = directory.join(name);
        assert!(
            path.is_file(),
            "{} is missing: run tests/guests/fetch.sh, or set REPRISE_NO_GUESTS=1 to go without",
            path.display()
        );
    }
    for source in ["init", "jobs", "fetch.sh"].map(|name| top.join("tests/guests").join(name)) {
        let is_new = !is_ours || modified(&source) <= modified(&directory.join("recipe"));
        assert!(is_new, "the guests are older than {}: run tests/guests/fetch.sh", source.display());
    }
    Some(directory.canonicalize().unwrap())
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|metadata| metadata.modified()).unwrap()
}
