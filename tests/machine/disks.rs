//! Saves and loads of machines that write to their images in place. What the guest would have done to them the tests do, between
//! runs; guests that write are in `tests/debian/kept.rs`.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::Child;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const OPTIONS: &str =
    "-kernel k -m 16 -icount shift=3 -serial stdio -monitor unix:m,server=on,wait=off -snapdir snaps";
/// Bytes of an image: not whole clusters, and enough to be busy with for a while.
const IMAGE_BYTES: usize = (96 << 20) + 1024;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    lab
}

fn start(lab: &Lab, line: &str) -> (Child, Monitor) {
    start_line(lab, &format!("{OPTIONS} {line}"))
}

/// Options of a run that is recorded.
fn recording() -> String {
    OPTIONS.replace("shift=3", "shift=3,rr=record,rrfile=rec")
}

fn start_line(lab: &Lab, line: &str) -> (Child, Monitor) {
    let _ = std::fs::remove_file(lab.path("m"));
    let child = lab.start(line);
    let monitor = Monitor::connect(&lab.path("m"));
    (child, monitor)
}

/// Contents that have no zeros but in each third mebibyte.
fn contents(seed: u8) -> Vec<u8> {
    let byte = |at: usize| if at >> 20 & 3 == 2 { 0 } else { 1 + ((at >> 9) as u8 ^ seed) % 255 };
    (0..IMAGE_BYTES).map(byte).collect()
}

fn qemu_img(lab: &Lab, line: &str) {
    let mut command = Command::new("qemu-img");
    let done = command.args(line.split_whitespace()).current_dir(lab.path("")).output();
    let done = done.expect("qemu-img (package qemu-utils)");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Puts contents into the image `d`.
fn make(lab: &Lab, format: &str, bytes: &[u8]) {
    lab.write("raw", bytes);
    qemu_img(lab, &format!("convert -f raw -O {format} raw d"));
}

/// All bytes of an image.
fn content(lab: &Lab, format: &str, name: &str) -> Vec<u8> {
    qemu_img(lab, &format!("convert -f {format} -O raw {name} raw"));
    std::fs::read(lab.path("raw")).unwrap()
}

/// Files in the directory of kept images.
fn kept(lab: &Lab) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(lab.path("snaps/disks")) else { return vec![] };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn ends(lab: &Lab, ending: &str) -> bool {
    kept(lab).iter().any(|path| path.to_string_lossy().ends_with(ending))
}

/// Waits until there is such a file with so many bytes, or until something else `is_over`.
fn wait_for_file(lab: &Lab, ending: &str, bytes: u64, mut is_over: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let is_it = |path: &PathBuf| {
        let length = std::fs::metadata(path).map_or(0, |data| data.len());
        path.to_string_lossy().ends_with(ending) && length >= bytes
    };
    while !kept(lab).iter().any(is_it) && !is_over() {
        assert!(Instant::now() < deadline, "no {ending} in {:?}", kept(lab));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn more_lines(child: &mut Child, count: usize) {
    let wanted = lines(&child.out()) + count;
    child.until("more lines", PATIENCE, |out| lines(out) >= wanted);
}

fn quit(child: Child, monitor: &mut Monitor) -> String {
    monitor.send("quit");
    child.end(PATIENCE).well().err
}

#[test]
fn an_image_is_kept_and_had_again_in_another_run() {
    for format in ["raw", "qcow2"] {
        let lab = lab();
        let drive = format!("-drive file=d,format={format},if=virtio,id=d0");
        let (first, second) = (contents(1), contents(2));
        make(&lab, format, &first);
        let (mut child, mut monitor) = start(&lab, &drive);
        assert_eq!(monitor.ask("savevm a"), "");
        assert_eq!(monitor.ask("savevm a2"), "");
        more_lines(&mut child, 5);
        assert_eq!(kept(&lab).len(), 2);
        quit(child, &mut monitor);
        assert!(content(&lab, format, "d") == first, "a save leaves the image as it is");

        make(&lab, format, &second);
        let (mut child, mut monitor) = start(&lab, &drive);
        assert_eq!(monitor.ask("savevm b"), "");
        for tag in ["a2", "b", "a"] {
            assert_eq!(monitor.ask(&format!("loadvm {tag}")), "");
            more_lines(&mut child, 5);
        }
        quit(child, &mut monitor);
        assert!(content(&lab, format, "d") == first);

        let (child, mut monitor) = start(&lab, &format!("{drive} -loadvm b -S"));
        assert_eq!(monitor.ask("info status"), "VM status: paused (prelaunch)\n");
        assert_eq!(monitor.ask("savevm c"), "");
        assert_eq!(monitor.ask("delvm a"), "");
        assert_eq!(kept(&lab).len(), 4, "a2 is over a");
        assert_eq!(monitor.ask("delvm a2"), "");
        assert_eq!(kept(&lab).len(), 2);
        assert_eq!(monitor.ask("savevm c"), "");
        assert_eq!(monitor.ask("delvm b"), "");
        assert_eq!(monitor.ask("delvm c"), "");
        assert_eq!(kept(&lab), Vec::<PathBuf>::new());
        assert_eq!(monitor.ask("savevm d"), "", "what it could build on is gone");
        quit(child, &mut monitor);
        assert!(content(&lab, format, "d") == second);
        qemu_img(&lab, &format!("check -f qcow2 {}", kept(&lab)[0].display()));
        assert!(content(&lab, "qcow2", &kept(&lab)[0].display().to_string()) == second);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let lab = lab();
    make(&lab, "raw", &contents(1));
    let drive = "-drive file=d,format=raw,if=virtio,id=d0";
    let (child, mut monitor) = start(&lab, drive);
    assert_eq!(monitor.ask("savevm a"), "");
    quit(child, &mut monitor);
    let longer = [contents(3), vec![7; 512]].concat();
    lab.write("d", &longer);
    let (mut child, mut monitor) = start(&lab, drive);
    let answer = monitor.ask("loadvm a");
    assert!(answer.contains("drive 'd0': the snapshot is of a disk of"), "{answer}");
    more_lines(&mut child, 5);
    std::fs::remove_file(&kept(&lab)[0]).unwrap();
    let answer = monitor.ask("loadvm a");
    assert!(answer.contains("drive 'd0': '") && answer.contains("is gone"), "{answer}");
    more_lines(&mut child, 5);
    quit(child, &mut monitor);
    assert!(std::fs::read(lab.path("d")).unwrap() == longer);
}

#[test]
fn a_copy_that_is_killed_fails_and_nothing_is_left_of_it() {
    let lab = lab();
    let bytes = contents(1);
    make(&lab, "raw", &bytes);
    let line = "-drive file=d,format=raw,if=virtio,id=d0 -action device-exit=pause";
    let (mut child, mut monitor) = start(&lab, line);
    monitor.send("savevm a");
    wait_for_file(&lab, ".part", 4 << 20, || ends(&lab, ".qcow2"));
    child.member("device block").signal(Signal::SIGKILL);
    let answer = monitor.answer();
    if answer.is_empty() {
        // It was fast.
        assert!(ends(&lab, ".qcow2"));
    } else {
        // It may have died before the machine was connected to it.
        assert!(answer.starts_with("Error: ") && answer.contains("d0"), "{answer}");
        assert_eq!(monitor.ask("info snapshots"), "There is no snapshot available.\n");
    }
    let deadline = Instant::now() + PATIENCE;
    while !monitor.ask("info status").contains("io-error") {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(monitor.ask("device_restart d0"), "");
    assert_eq!(monitor.ask("cont"), "");
    more_lines(&mut child, 5);
    assert_eq!(monitor.ask("savevm b"), "");
    assert_eq!(monitor.ask("delvm a"), "");
    assert_eq!(monitor.ask("delvm b"), "");
    assert_eq!(kept(&lab), Vec::<PathBuf>::new());
    quit(child, &mut monitor);
    assert!(std::fs::read(lab.path("d")).unwrap() == bytes);
}

#[test]
fn a_load_that_is_killed_is_completed_by_the_next_run() {
    let lab = lab();
    let first = contents(1);
    make(&lab, "raw", &first);
    let drive = "-drive file=d,format=raw,if=virtio,id=d0";
    let (child, mut monitor) = start(&lab, drive);
    assert_eq!(monitor.ask("savevm a"), "");
    quit(child, &mut monitor);
    let mut seen = 0;
    for round in 0..5 {
        make(&lab, "raw", &contents(2 + round));
        let mut child = lab.start(&format!("{OPTIONS} {drive} -loadvm a"));
        wait_for_file(&lab, ".restoring", 1, || lines(&child.out()) > 0);
        let tree = child.tree();
        tree.iter().for_each(|process| process.signal(Signal::SIGKILL));
        crate::process::assert_gone(&tree);
        assert!(!child.is_alive());
        let cut_short = ends(&lab, ".restoring");
        seen += u32::from(cut_short);
        if cut_short {
            let refused = lab.run(&format!("record -o rec {OPTIONS} {drive}"));
            assert!(refused.code() != 0 && refused.err.contains("a load was cut short"), "{}", refused.err);
        }
        let (child, mut monitor) = start(&lab, drive);
        let err = quit(child, &mut monitor);
        assert_eq!(err.contains("a load was cut short; it is completed now"), cut_short, "{err}");
        assert!(!ends(&lab, ".restoring"));
        assert!(std::fs::read(lab.path("d")).unwrap() == first, "round {round}");
    }
    println!("{seen} of 5 loads were cut short");
}

#[test]
fn a_full_host_disk_fails_the_save_only() {
    let lab = lab();
    let bytes = contents(1);
    make(&lab, "raw", &bytes);
    let (mut child, mut monitor) = start(&lab, "-drive file=d,format=raw,if=virtio,id=d0");
    more_lines(&mut child, 5);
    // The processes that are started from here on cannot make longer files.
    let broker = child.tree()[0].pid.to_string();
    let limited = Command::new("prlimit").args(["--fsize=30000000", "--pid", &broker]).status();
    assert!(limited.expect("prlimit (package util-linux)").success());
    for _ in 0..2 {
        let answer = monitor.ask("savevm a");
        assert!(
            answer.contains("drive 'd0': cannot write '") && answer.contains("File too large"),
            "{answer}"
        );
        more_lines(&mut child, 5);
    }
    assert_eq!(monitor.ask("info snapshots"), "There is no snapshot available.\n");
    assert_eq!(kept(&lab), Vec::<PathBuf>::new());
    quit(child, &mut monitor);
    assert!(std::fs::read(lab.path("d")).unwrap() == bytes);
}

#[test]
fn layers_of_a_recording_go_into_the_image_that_they_lie_over() {
    let lab = lab();
    let bytes = contents(1);
    make(&lab, "raw", &bytes);
    let drive = "-drive file=d,format=raw,if=virtio,id=d0";
    let (child, mut monitor) = start_line(&lab, &format!("{} {drive}", recording()));
    assert_eq!(monitor.ask("savevm r"), "");
    assert_eq!(monitor.ask("savevm s"), "");
    let layers = || std::fs::read_dir(lab.path("rec/disks")).unwrap().count();
    // Three layers, and which is the last.
    assert_eq!(layers(), 4);
    assert_eq!(monitor.ask("loadvm r"), "");
    assert_eq!(monitor.ask("delvm s"), "");
    assert_eq!(layers(), 3, "the one that was frozen by s is needed by nobody");
    quit(child, &mut monitor);
    lab.run("verify rec").well();

    // As if the guest had written it.
    let frozen = lab.path("rec/disks/d0.qcow2").display().to_string();
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2", "-c", "write -P 0x55 65536 1024", &frozen]).current_dir(lab.path(""));
    assert!(command.output().expect("qemu-io (package qemu-utils)").status.success());
    let plain = OPTIONS.replace("-snapdir snaps", "-snapdir rec");
    let line = format!("{plain} {drive} -loadvm r");
    let (mut child, mut monitor) = start_line(&lab, &line);
    more_lines(&mut child, 5);
    assert_eq!(monitor.ask("savevm own"), "");
    assert_eq!(monitor.ask("delvm own"), "");
    assert_eq!(layers(), 3, "a plain run removes what it kept itself");
    quit(child, &mut monitor);
    // The recording lies over another image now.
    let refused = lab.run(&line);
    assert!(refused.code() != 0 && refused.err.contains("another time of change"), "{}", refused.err);
    let mut wanted = bytes;
    wanted[65536..65536 + 1024].fill(0x55);
    assert!(std::fs::read(lab.path("d")).unwrap() == wanted);
}

/// Images below one another, from the present layer of a recording on.
fn images_of(lab: &Lab) -> usize {
    let chains: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.path("rec/disks/chains.json")).unwrap()).unwrap();
    let present = format!("rec/disks/{}", chains["d0"].as_str().unwrap());
    let words = ["info", "-U", "--output=json", "--backing-chain", &present];
    let output = Command::new("qemu-img").args(words).current_dir(lab.path("")).output().unwrap();
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap().as_array().unwrap().len()
}

#[test]
fn many_saves_do_not_make_long_chains() {
    let lab = lab();
    let bytes = contents(1);
    make(&lab, "raw", &bytes);
    let drive = "-drive file=d,format=raw,if=virtio,id=d0";
    let (mut child, mut monitor) = start_line(&lab, &format!("{} {drive}", recording()));
    for save in 0..150 {
        assert_eq!(monitor.ask(&format!("savevm s{save}")), "");
    }
    // The last layers may still be on their way to be one.
    let deadline = Instant::now() + PATIENCE;
    while images_of(&lab) > 60 {
        assert!(Instant::now() < deadline, "{} images", images_of(&lab));
        std::thread::sleep(Duration::from_millis(20));
    }
    for tag in ["s0", "s149", "s70"] {
        assert_eq!(monitor.ask(&format!("loadvm {tag}")), "");
        more_lines(&mut child, 5);
    }
    assert_eq!(monitor.ask("savevm last"), "");
    let layers = || std::fs::read_dir(lab.path("rec/disks")).unwrap().count();
    assert!(layers() > 150, "{}: snapshots need them", layers());
    for save in 0..150 {
        assert_eq!(monitor.ask(&format!("delvm s{save}")), "");
    }
    assert!(layers() < 80, "{}: what was merged is needed by nobody", layers());
    assert_eq!(monitor.ask("loadvm last"), "");
    more_lines(&mut child, 5);
    quit(child, &mut monitor);
    lab.run("verify rec").well();
    assert!(content(&lab, "raw", "d") == bytes);
    let parts = std::fs::read_dir(lab.path("rec/disks")).unwrap();
    let is_part = |name: &str| name.ends_with(".part");
    assert!(!parts.flatten().any(|entry| is_part(&entry.file_name().to_string_lossy())));
    lab.run("commit rec").well();
    assert!(content(&lab, "raw", "d") == bytes, "the guest has written nothing");
}

/// Two monitors at once: one saves and loads, the other starts the disk's process again and again.
#[test]
fn a_disk_may_be_started_again_at_any_moment_of_a_save() {
    for recorded in [true, false] {
        let lab = lab();
        make(&lab, "raw", &contents(1)[..1 << 20]);
        let drive = "-drive file=d,format=raw,if=virtio,id=d0 -monitor unix:m2,server=on,wait=off";
        let options = if recorded { recording() } else { OPTIONS.to_owned() };
        let (mut child, mut monitor) = start_line(&lab, &format!("{options} {drive}"));
        let mut other = Monitor::connect(&lab.path("m2"));
        let saves = std::thread::spawn(move || {
            for round in 0..30 {
                let answer = monitor.ask("savevm a");
                // Where a process copies what its disk holds, its end is that of the copy.
                let is_cut_off = answer == "Error: drive 'd0': its process ended before all was copied\n";
                assert!(answer.is_empty() || is_cut_off && !recorded, "round {round}: {answer}");
                if round % 2 == 1 && answer.is_empty() {
                    assert_eq!(monitor.ask("loadvm a"), "", "round {round}");
                }
            }
            monitor
        });
        let (mut done, mut refused) = (0, 0);
        while !saves.is_finished() {
            match &other.ask("device_restart d0")[..] {
                "" => done += 1,
                "Error: another back-end is being started for this device\n" => refused += 1,
                answer => panic!("{answer}"),
            }
        }
        println!("{done} done, {refused} refused");
        assert!(done > 0);
        let mut monitor = saves.join().unwrap();
        assert_eq!(monitor.ask("device_restart d0"), "");
        assert_eq!(monitor.ask("info status"), "VM status: running\n");
        more_lines(&mut child, 5);
        quit(child, &mut monitor);
        if recorded {
            lab.run("verify rec").well();
            lab.run("commit rec").well();
        }
        assert!(content(&lab, "raw", "d") == contents(1)[..1 << 20]);
    }
}

#[test]
fn a_load_that_fails_leaves_a_machine_that_can_have_its_disk_again() {
    let lab = lab();
    let first = contents(1);
    make(&lab, "raw", &first);
    let drive = "-drive file=d,format=raw,if=virtio,id=d0";
    let (child, mut monitor) = start(&lab, drive);
    assert_eq!(monitor.ask("savevm a"), "");
    quit(child, &mut monitor);
    make(&lab, "raw", &contents(2));
    let whole = std::fs::read(&kept(&lab)[0]).unwrap();
    std::fs::write(&kept(&lab)[0], &whole[..whole.len() / 2]).unwrap();
    let (mut child, mut monitor) = start(&lab, drive);
    let answer = monitor.ask("loadvm a");
    assert!(answer.contains("device process block \"d0\" could not start"), "{answer}");
    // What the process says comes by another way than the answer.
    let deadline = Instant::now() + PATIENCE;
    while !child.err().contains("truncated") {
        assert!(Instant::now() < deadline, "{}", child.err());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(monitor.ask("info status").contains("io-error"));
    let refused = monitor.ask("cont");
    assert!(refused.contains("has no back-end: device_restart d0"), "{refused}");
    std::fs::write(&kept(&lab)[0], &whole).unwrap();
    assert_eq!(monitor.ask("device_restart d0"), "");
    assert_eq!(monitor.ask("cont"), "");
    more_lines(&mut child, 5);
    quit(child, &mut monitor);
    assert!(std::fs::read(lab.path("d")).unwrap() == first);
}
