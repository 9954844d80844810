//! The guest that uses a disk, and what it says.

pub use crate::debian::guests;
use crate::debian::{CLOUD, IO_INITRD};
use crate::lab::Lab;
use crate::process::{Child, Done};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// After this a run counts as hung: it takes some seconds on an idle CPU.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Where the job writes, and how much.
const WRITTEN_AT: usize = 16 << 16;
const WRITTEN: usize = 256 << 16;
const IMAGE_BYTES: u64 = 64 << 20;

/// Makes an empty raw image.
pub fn make_raw(lab: &Lab, name: &str) {
    std::fs::File::create(lab.path(name)).unwrap().set_len(IMAGE_BYTES).unwrap();
}

/// Makes an empty qcow2 image.
pub fn make_qcow2(lab: &Lab, name: &str) {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", name, "64M"]).current_dir(lab.path(""));
    let made = command.status().expect("qemu-img (package qemu-utils)");
    assert!(made.success());
}

/// Starts the guest with a job and more options; a reset ends it.
pub fn start(lab: &Lab, guests: &Path, job: &str, more: &str) -> Child {
    start_rebooting(lab, guests, job, &format!("-no-reboot {more}"))
}

/// The same, but a reset is one.
pub fn start_rebooting(lab: &Lab, guests: &Path, job: &str, more: &str) -> Child {
    let (kernel, initrd) = (guests.join(CLOUD), guests.join(IO_INITRD));
    let append = format!("console=ttyS0 quiet panic=-1 job={job}");
    let mut words = vec!["-kernel", kernel.to_str().unwrap(), "-initrd", initrd.to_str().unwrap()];
    words.extend(["-append", &append, "-m", "256", "-display", "none", "-serial", "stdio"]);
    words.extend(more.split_whitespace());
    lab.start_words(&words)
}

/// Fails unless the guest's disk did what it was asked; `content`: all bytes of the disk afterwards, if they can be had.
pub fn check(done: &Done, content: Option<&[u8]>) {
    check_text(&done.text(), &done.err, content);
}

/// The same for a part of what it said.
pub fn check_text(text: &str, err: &str, content: Option<&[u8]>) {
    let mut lines = text.lines().map(str::trim);
    assert!(lines.any(|line| line == "written"), "{text}; {err}");
    let sum = lines.next().and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned();
    assert!(lines.any(|line| line == "direct reads 200"), "{text}; {err}");
    assert!(text.contains("GUEST-DONE"), "{text}; {err}");
    if let Some(content) = content {
        assert_eq!(
            sum,
            md5(&content[WRITTEN_AT..WRITTEN_AT + WRITTEN]),
            "what the guest read is what is on its disk"
        );
    }
}

/// The MD5 sum of bytes, by the host's program.
fn md5(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child =
        Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("md5sum");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    String::from_utf8(out).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// All bytes of an image of any format.
pub fn content(lab: &Lab, image: &str) -> Vec<u8> {
    let raw = lab.path("content.raw");
    let _ = std::fs::remove_file(&raw);
    let status = Command::new("qemu-img")
        .args(["convert", "-O", "raw", image, "content.raw"])
        .current_dir(lab.path(""))
        .status();
    assert!(status.expect("qemu-img (package qemu-utils)").success());
    std::fs::read(raw).unwrap()
}

/// qemu-storage-daemon with `image` on the socket `S`; ends with the value.
pub struct StorageDaemon(pub std::process::Child);

impl StorageDaemon {
    pub fn start(lab: &Lab, image: &str) -> StorageDaemon {
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &format!("driver=file,node-name=file,filename={image}")])
            .args(["--blockdev", "driver=raw,node-name=disk,file=file"])
            .args([
                "--export",
                "type=vhost-user-blk,id=e,addr.type=unix,addr.path=S,node-name=disk,writable=on",
            ])
            .current_dir(lab.path(""))
            .spawn()
            .expect("qemu-storage-daemon (package qemu-utils)");
        wait_for(&lab.path("S"));
        StorageDaemon(child)
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a path is there.
pub fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
