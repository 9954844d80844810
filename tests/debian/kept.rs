//! Disks that are written in place: a guest works on a file system, is saved, goes on, and is taken back and forth.

use crate::debian::{CLOUD, IO_INITRD};
use crate::images::tool;
use crate::lab::Lab;
use crate::monitor_client::Monitor;
use crate::process::Child;
use crate::{BOOT_PATIENCE, guests};
use std::path::Path;

const MONITOR: &str = "-monitor unix:m,server=on,wait=off -snapdir snaps";

/// A guest with a shell on its console, in which the drivers are loaded.
struct Shell {
    child: Child,
    monitor: Monitor,
    asked: u32,
}

impl Shell {
    fn start(lab: &Lab, guests: &Path, options: &str) -> Shell {
        let _ = std::fs::remove_file(lab.path("m"));
        let (kernel, initrd) = (guests.join(CLOUD), guests.join(IO_INITRD));
        let append = "console=ttyS0 quiet panic=-1 rdinit=/bin/sh";
        let mut words = vec!["-kernel", kernel.to_str().unwrap(), "-initrd", initrd.to_str().unwrap()];
        words.extend(["-append", append, "-m", "256", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        words.extend(options.split_whitespace().chain(MONITOR.split_whitespace()));
        let child = lab.start_words(&words);
        let monitor = Monitor::connect(&lab.path("m"));
        Shell { child, monitor, asked: 0 }
    }

    /// The same, up to a prompt and with devices.
    fn boot(lab: &Lab, guests: &Path, options: &str) -> Shell {
        let mut shell = Shell::start(lab, guests, options);
        shell.child.until_text("# ", BOOT_PATIENCE);
        shell.run("/bin/busybox --install -s /bin; export PATH=/bin:/sbin; mkdir /mnt");
        shell.run("mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev");
        shell.run("for module in /lib/modules/$(uname -r)/io/*.ko; do insmod $module; done");
        shell
    }

    /// What a line of commands prints.
    fn run(&mut self, line: &str) -> String {
        self.asked += 1;
        let (from, number) = (self.child.out().len(), self.asked);
        // What is typed is echoed: it must not look like the answer.
        self.child.type_bytes(format!("echo be''gin-{number}; {line}; echo en''d-{number}\n").as_bytes());
        let (begin, end) = (format!("begin-{number}\r\n"), format!("end-{number}\r\n"));
        let text = |out: &[u8]| String::from_utf8_lossy(&out[from..]).into_owned();
        self.child.until(line, BOOT_PATIENCE, |out| text(out).contains(&end));
        let text = text(&self.child.out());
        let (_, text) = text.split_once(&begin).unwrap_or_else(|| panic!("{text}"));
        text.split_once(&end).unwrap().0.replace('\r', "")
    }

    fn ask(&mut self, line: &str) {
        let answer = self.monitor.ask(line);
        assert_eq!(answer, "", "{line}: {}", self.child.err());
    }

    /// Files on the disk and their sums, past the guest's caches.
    fn files(&mut self) -> String {
        self.run("sync; echo 3 > /proc/sys/vm/drop_caches; cd /mnt; md5sum *; cd /")
    }

    fn quit(mut self) {
        self.monitor.send("quit");
        self.child.end(BOOT_PATIENCE).well();
    }
}

/// Makes a file system with a file, and another file after a save; then takes the guest there and back. It ends with a file system
/// that nobody uses.
fn back_and_forth(shell: &mut Shell) {
    shell.run("mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt");
    shell.run("head -c 6000000 /dev/urandom > /mnt/one");
    let one = shell.files();
    assert!(one.contains("  one\n"), "{one}");
    // In the midst of writing.
    shell.run("(while :; do head -c 700000 /dev/urandom > /mnt/churn; sync; done) & churn=$!");
    shell.ask("savevm a");
    shell
        .run("kill $churn; wait $churn; rm /mnt/churn; rm /mnt/one; head -c 3000000 /dev/urandom > /mnt/two");
    let two = shell.files();
    assert!(two.contains("  two\n") && !two.contains("  one\n"), "{two}");
    shell.ask("savevm b");
    shell.run("head -c 2000000 /dev/urandom > /mnt/two; mkdir /mnt/three");
    for tag in ["a", "b", "a", "b", "b"] {
        shell.ask(&format!("loadvm {tag}"));
        if tag == "a" {
            shell.run("kill $churn; wait $churn; rm /mnt/churn");
        }
        assert_eq!(shell.files(), if tag == "a" { &one[..] } else { &two[..] }, "{tag}");
    }
    let errors = shell.run("dmesg | grep -i -e 'I/O error' -e EXT4-fs.error");
    assert_eq!(errors, "");
    shell.run("umount /mnt");
}

fn kept(lab: &Lab) -> usize {
    std::fs::read_dir(lab.path("snaps/disks")).map_or(0, Iterator::count)
}

fn check_image(lab: &Lab, image: &str) {
    tool(lab, &format!("qemu-img check {image}"));
    tool(lab, &format!("qemu-img convert -O raw {image} raw"));
    tool(lab, "e2fsck -fn raw");
}

#[test]
fn an_image_in_place() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    tool(&lab, "qemu-img create -q -f qcow2 d.qcow2 64M");
    lab.write("other", vec![b'x'; 1 << 20]);
    let options = "-drive file=d.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0 \
                   -drive file=other,format=raw,readonly=on,if=none,id=d1 -device virtio-blk-pci,drive=d1";
    let mut shell = Shell::boot(&lab, &guests, options);
    back_and_forth(&mut shell);
    // A disk that cannot change still answers.
    assert_eq!(shell.run("dd if=/dev/vdb bs=1M iflag=direct 2>/dev/null | tr -d x | wc -c").trim(), "0");
    shell.ask("savevm c");
    shell.quit();
    check_image(&lab, "d.qcow2");

    // In another run; the shell and its loop are still there.
    let mut shell = Shell::start(&lab, &guests, &format!("{options} -loadvm b"));
    shell.asked = 100;
    let two = shell.files();
    assert!(two.contains("  two\n") && !two.contains("  one\n"), "{two}");
    shell.ask("loadvm c");
    shell.ask("delvm b");
    shell.ask("delvm a");
    assert!(kept(&lab) >= 1);
    shell.ask("delvm c");
    assert_eq!(kept(&lab), 0);
    shell.quit();
    check_image(&lab, "d.qcow2");
}

#[test]
fn what_goes_with_the_run() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    tool(&lab, "qemu-img create -q -f qcow2 d.qcow2 64M");
    let before = std::fs::read(lab.path("d.qcow2")).unwrap();
    for drive in [
        "-drive file=d.qcow2,if=none,id=d0,snapshot=on -device virtio-blk-pci,drive=d0",
        "-blockdev driver=memory,node-name=d0,size=64M -device virtio-blk-pci,drive=d0",
    ] {
        let mut shell = Shell::boot(&lab, &guests, drive);
        back_and_forth(&mut shell);
        shell.ask("device_restart d0");
        assert_eq!(shell.run("mount -t ext4 /dev/vda /mnt; ls /mnt | grep two").trim(), "two");
        shell.quit();
    }
    assert!(std::fs::read(lab.path("d.qcow2")).unwrap() == before);
}

#[test]
fn a_recording_of_a_disk_in_memory() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let drive = "-blockdev driver=memory,node-name=d0,size=64M -device virtio-blk-pci,drive=d0 \
                 -icount shift=auto,rr=record,rrfile=rec";
    let mut shell = Shell::boot(&lab, &guests, drive);
    back_and_forth(&mut shell);
    shell.quit();
    let report = lab.start("verify rec --json").end(BOOT_PATIENCE).well().json();
    assert_eq!(report["ok"], true, "{report}");
}

/// A recording that starts where a plain run was saved; then a plain run that goes on where the recording was saved.
#[test]
fn from_a_plain_run_to_a_recording_and_back() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    tool(&lab, "qemu-img create -q -f qcow2 d.qcow2 64M");
    let drive = "-drive file=d.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0";
    let mut shell = Shell::boot(&lab, &guests, drive);
    shell.run(
        "mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt; head -c 3000000 /dev/urandom > /mnt/one",
    );
    let one = shell.files();
    shell.ask("savevm plain");
    shell.run("rm /mnt/one; head -c 2000000 /dev/urandom > /mnt/two; umount /mnt");
    shell.quit();

    let recorded = format!("{drive} -loadvm plain -icount shift=auto,rr=record,rrfile=rec");
    let mut shell = Shell::start(&lab, &guests, &recorded);
    shell.asked = 200;
    assert_eq!(shell.files(), one);
    shell.run("head -c 1000000 /dev/urandom > /mnt/three");
    let three = shell.files();
    shell.ask("savevm recorded");
    shell.run("rm /mnt/one; umount /mnt");
    shell.quit();
    // It has what it starts from.
    std::fs::remove_dir_all(lab.path("snaps")).unwrap();
    std::fs::rename(lab.path("rec"), lab.path("moved")).unwrap();
    let report = lab.start("verify moved --json").end(BOOT_PATIENCE).well().json();
    assert_eq!(report["ok"], true, "{report}");

    // What the guest saw last is all in the layers; the image under them is another one's.
    tool(&lab, "cp d.qcow2 before.qcow2");
    lab.run("commit moved").well();
    check_image(&lab, "d.qcow2");
    lab.write("commands", "dump /three three\nls -l /\n");
    assert!(tool(&lab, "debugfs -f commands raw").contains("three"));
    tool(&lab, "cp before.qcow2 d.qcow2");

    let options = format!("{drive} -loadvm recorded");
    std::fs::rename(lab.path("moved"), lab.path("snaps")).unwrap();
    let mut shell = Shell::start(&lab, &guests, &options);
    shell.asked = 300;
    assert_eq!(shell.files(), three);
    shell.run("umount /mnt");
    shell.quit();
    check_image(&lab, "d.qcow2");
}
