//! Launch arguments, for each mode and kind of device.

use super::*;
use crate::cli::{Command, parse};
use crate::logging::LogSettings;
use crate::wiring::Wiring;

fn plan(line: &str, mode: Mode) -> Plan {
    let words: Vec<String> = format!("-kernel /k {line}").split_whitespace().map(str::to_owned).collect();
    let Ok(Command::Run(options)) = parse(&words) else { panic!("{line}") };
    let machine = crate::machine::tests::machine(line);
    let Wiring { streams, limits, servers, .. } = Wiring::of_new(&options).unwrap();
    Plan {
        machine,
        streams,
        mode,
        start_paused: false,
        digest_interval: 0,
        log: LogSettings::default(),
        layers: (mode == Mode::Record).then(|| "/r/disks.new".into()),
        replayed: None,
        tops: std::collections::BTreeMap::new(),
        upkeep: std::collections::BTreeMap::new(),
        saves_first: false,
        awaits_state: false,
        seeks: false,
        restarts_disks: options.on_device_exit == crate::cli::options::DeviceExit::Pause,
        running: false,
        limits,
        servers,
        debugger: None,
        captures: vec![],
    }
}

/// The back-end of the device after the serial port, in words.
fn back_end(line: &str, mode: Mode) -> String {
    match BackEnd::of(&plan(line, mode), 1) {
        BackEnd::Process(program) => format!("{} {}", program.kind, program.arguments.join(" ")),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_disk_in_each_mode() {
    let line = "-drive file=/d,format=qcow2,if=virtio,id=x";
    let rest = "--num-queues=1 --discard=ignore --cache=writeback";
    for (line, mode, wanted) in [
        (line, Mode::Plain, format!("--image=/d --format=qcow2 {rest}")),
        (
            line,
            Mode::Record,
            format!("--image=/d --format=qcow2 --layer=/r/disks.new/x.qcow2 --restartable {rest}"),
        ),
        (line, Mode::Replay, format!("--image=/d --format=qcow2 --snapshot {rest}")),
        ("-drive file=/d,if=virtio,snapshot=on", Mode::Plain, format!("--image=/d --snapshot {rest}")),
        ("-drive file=/d,if=virtio,readonly=on", Mode::Record, format!("--image=/d --read-only {rest}")),
        ("-drive file=/d,if=virtio,readonly=on", Mode::Replay, format!("--image=/d --read-only {rest}")),
        (
            "-blockdev driver=null-co,node-name=n,size=1M -device virtio-blk,drive=n",
            Mode::Record,
            format!("--driver=null-co --size=1048576 {rest}"),
        ),
        (
            "-blockdev driver=memory,node-name=n,size=1M -device virtio-blk,drive=n",
            Mode::Replay,
            format!("--driver=memory --size=1048576 {rest}"),
        ),
        (
            "-drive file=/d,if=none,id=n,discard=unmap,cache=unsafe \
             -device virtio-blk-pci,drive=n,serial=S,num-queues=4,logical_block_size=4096",
            Mode::Plain,
            "--image=/d --serial=S --num-queues=1 --discard=unmap --cache=unsafe --logical-block-size=4096"
                .to_owned(),
        ),
    ] {
        assert_eq!(back_end(line, mode), format!("block {wanted}"), "{line} {mode:?}");
    }
}

#[test]
fn a_disk_that_is_started_again_has_its_layer() {
    let plan = plan("-drive file=/d,format=raw,if=virtio,id=x", Mode::Record);
    let plan = Plan { running: true, layers: Some("/r/disks".into()), ..plan };
    let BackEnd::Process(program) = BackEnd::of(&plan, 1) else { panic!() };
    assert_eq!(program.arguments[..2], ["--image=/r/disks/x.qcow2", "--format=qcow2"]);
    assert!(!program.arguments.iter().any(|word| word.starts_with("--layer")));
}

#[test]
fn a_disk_that_may_die_can_be_started_again() {
    let line = "-action device-exit=pause -drive file=/d,format=raw,if=virtio,id=x";
    for (more, mode, wanted) in [
        ("", Mode::Plain, true),
        ("", Mode::Record, true),
        ("", Mode::Replay, false),
        (",readonly=on", Mode::Plain, false),
    ] {
        let text = back_end(&format!("{line}{more}"), mode);
        assert_eq!(text.contains("--restartable"), wanted, "{text}");
    }
}

#[test]
fn a_replay_starts_disks_only() {
    for (line, live) in [
        (
            "-netdev user,id=n,hostfwd=tcp::1-:2 -device virtio-net-pci,netdev=n",
            "net --netdev=user,id=n,hostfwd=tcp::1-:2",
        ),
        ("-device virtio-net-pci", "net --netdev=none,id=virtio-net0"),
        ("-device virtio-rng-pci", "rng --filename=/dev/urandom"),
        (
            "-object rng-random,filename=/dev/hwrng,id=o -device virtio-rng-pci,rng=o,max-bytes=9,period=7",
            "rng --filename=/dev/hwrng --max-bytes=9 --period=7",
        ),
        ("-chardev socket,path=/s,id=c -device vhost-user-blk-pci,chardev=c", "Connect(\"/s\")"),
        ("-chardev socket,path=/s,id=c,server=on -device vhost-user-rng-pci,chardev=c", "Accept(\"/s\")"),
        (
            "-chardev socket,path=/s,id=c -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n",
            "Connect(\"/s\")",
        ),
    ] {
        for mode in [Mode::Plain, Mode::Record] {
            assert_eq!(back_end(line, mode), live, "{line}");
        }
        assert_eq!(back_end(line, Mode::Replay), "None", "{line}");
    }
    let console = "-chardev null,id=c -device virtio-serial -device virtconsole,chardev=c";
    assert_eq!(back_end(console, Mode::Replay), "Stream");
}

#[test]
fn descriptors_of_a_netdev_are_handed_on() {
    let plan = plan("-netdev tap,id=n,fd=7 -device virtio-net-pci,netdev=n", Mode::Plain);
    let BackEnd::Process(program) = BackEnd::of(&plan, 1) else { panic!() };
    assert_eq!(program.inherited, [7]);
}

#[test]
fn queues_that_only_go_out_are_not_listened_to() {
    use crate::launch::tree::is_listened_to;
    let line = "-drive file=/d,if=none,id=d -device virtio-blk,drive=d,num-queues=2 -device virtio-net \
                -chardev null,id=c -device virtio-serial -device virtconsole,chardev=c -device virtio-rng";
    let plan = plan(line, Mode::Record);
    let heard: Vec<(u16, u16)> = (0..5)
        .flat_map(|device| (0..plan.machine.queue_count(device)).map(move |queue| (device, queue)))
        .filter(|(device, queue)| is_listened_to(&plan, *device, *queue))
        .collect();
    assert_eq!(heard, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
    assert!(!is_listened_to(&Plan { mode: Mode::Replay, ..plan }, 1, 0));
}

#[test]
fn what_is_done_beside_requests_has_its_descriptors() {
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    let known = || Some(Known { image: "/s/disks/a.qcow2".into(), due: file() });
    let keep = Task::Keep { place: "/s/disks/b.qcow2".into(), report: file(), known: known() };
    let restore = Task::Restore { from: "/s/disks/b.qcow2".into(), mark: Some("/m".into()), known: known() };
    for (task, words, descriptors) in [
        (None, vec!["--contents-fd=", "--changed-fd="], 2),
        (
            Some(keep),
            vec![
                "--contents-fd=",
                "--changed-fd=",
                "--keep=/s/disks/b.qcow2",
                "--report-fd=",
                "--known=/s/disks/a.qcow2",
                "--due-fd=",
            ],
            4,
        ),
        (
            Some(restore),
            vec![
                "--contents-fd=",
                "--changed-fd=",
                "--restore=/s/disks/b.qcow2",
                "--mark=/m",
                "--known=/s/disks/a.qcow2",
                "--due-fd=",
            ],
            3,
        ),
    ] {
        let line = "-blockdev driver=memory,node-name=n,size=1M -device virtio-blk,drive=n";
        let mut plan = plan(line, Mode::Plain);
        plan.upkeep.insert(1, Upkeep { contents: Some(file()), changed: Some(file()), task });
        let BackEnd::Process(program) = BackEnd::of(&plan, 1) else { panic!() };
        let found = &program.arguments[program.arguments.len() - words.len()..];
        let mut numbers = vec![];
        for (found, word) in found.iter().zip(words) {
            let rest = found.strip_prefix(word).unwrap_or_else(|| panic!("{found} {word}"));
            numbers.extend(rest.parse::<RawFd>().ok());
        }
        assert_eq!(numbers, program.inherited);
        assert_eq!(numbers.len(), descriptors);
    }
}
