//! What a replay's command line may say of disks and networks.

use crate::cli::{Command, parse};
use crate::machine::{check_against, over_recorded, tests::machine};
use crate::wiring::Wiring;
use replay::device::{DeviceKind, Image};
use replay::machine::Machine;

fn over(recorded: &Machine, line: &str) -> Result<Machine, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Ok(Command::Run(options)) = parse(&words) else { panic!("{line}") };
    let wiring = Wiring::of_replay(&options, recorded, false).map_err(|error| error.0)?;
    let machine = over_recorded(&options, &wiring, recorded).map_err(|error| error.0)?;
    check_against(recorded, &machine).map_err(|error| error.0)?;
    Ok(machine)
}

const RECORDED: &str = "-drive file=/a,if=virtio -drive file=/b,if=none,id=b,format=raw \
                        -device virtio-blk-pci,drive=b,num-queues=2,serial=S \
                        -netdev user,id=n -device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01 \
                        -object rng-random,filename=/dev/hwrng,id=o -device virtio-rng-pci,rng=o \
                        -chardev null,id=c -device virtio-serial -device virtconsole,chardev=c";

#[test]
fn what_is_said_again_agrees() {
    let recorded = machine(RECORDED);
    for line in [
        "",
        RECORDED,
        // Only some of it, and without what was recorded.
        "-drive file=/b,if=none,id=b -device virtio-blk-pci,drive=b",
        "-netdev tap,id=n -device virtio-net-pci,netdev=n",
        // Nothing of the outside is opened.
        "-device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01",
        "-device virtio-rng-pci",
        "-device virtio-rng-pci,rng=gone",
        "-drive file=/x,if=none,id=unused -net none -snapshot",
    ] {
        assert_eq!(over(&recorded, line).unwrap().functions, recorded.functions, "{line}");
    }
}

#[test]
fn an_image_may_lie_elsewhere() {
    let recorded = machine(RECORDED);
    let path = |line: &str, device: usize| match &over(&recorded, line).unwrap().devices[device].kind {
        DeviceKind::Block(disk) => disk.image.clone(),
        other => panic!("{other:?}"),
    };
    let file = |path: &str, format: Option<&str>| Image::File {
        path: path.into(),
        format: format.map(str::to_owned),
    };
    assert_eq!(path("-drive file=/else,if=virtio", 1), file("/else", None));
    assert_eq!(path("-drive file=/else,if=virtio", 2), file("/b", Some("raw")));
    let second = "-drive file=/else,if=none,id=b -device virtio-blk-pci,drive=b";
    assert_eq!(path(second, 2), file("/else", None));
    assert_eq!(path(second, 1), file("/a", None));
    assert_eq!(path("-drive file=/b,if=none,id=b -device virtio-blk,drive=b", 2), file("/b", Some("raw")));
}

#[test]
fn what_contradicts_is_named_with_both_values() {
    let recorded = machine(RECORDED);
    for (line, words) in [
        (
            "-drive file=/b,if=none,id=b -device virtio-blk,drive=b,num-queues=4",
            ["num-queues=2", "num-queues=4"],
        ),
        ("-drive file=/b,if=none,id=b -device virtio-blk,drive=b,serial=T", ["serial=S", "serial=T"]),
        (
            "-drive file=/b,if=none,id=b -device virtio-blk,drive=b,addr=9",
            ["virtio-disk1 at 03", "virtio-disk1 at 09"],
        ),
        ("-device virtio-net-pci,netdev=n,mac=52:54:00:00:00:02", ["00:01", "00:02"]),
        ("-drive file=null-co://,if=virtio", ["virtio0 (disk)", "null disk of 1 GiB"]),
        (
            "-drive file=/z,if=none,id=z -device virtio-blk,drive=z",
            ["'z'", "virtio-disk0 (virtio0), virtio-disk1 (b)"],
        ),
        ("-device virtio-rng-pci,id=other", ["'other'", "recorded virtio-disk0"]),
        ("-device virtio-serial", ["console 0", "virtio-serial queue-size"]),
        ("-drive file=/a,if=virtio,readonly=on", ["virtio0 (disk)", "virtio0 (disk read-only)"]),
    ] {
        let message = over(&recorded, line).unwrap_err();
        assert!(message.starts_with("the recording is of another machine: "), "{line}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{line}: {message}");
    }
}

#[test]
fn any_stream_may_stand_for_a_recorded_console() {
    let recorded = machine(RECORDED);
    let line = "-chardev file,path=/tmp/x,id=f -device virtio-serial -device virtconsole,chardev=f";
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Ok(Command::Run(options)) = parse(&words) else { panic!() };
    let wiring = Wiring::of_replay(&options, &recorded, false).unwrap();
    let stream = wiring.streams.iter().find(|stream| stream.chardev.id == "f").unwrap();
    let device = usize::from(stream.device.unwrap());
    assert_eq!(recorded.devices[device].id, "virtconsole0");
}

#[test]
fn a_foreign_back_end_need_not_be_there() {
    let recorded = machine("-chardev socket,id=c,path=/s -device vhost-user-blk-pci,chardev=c");
    for line in [
        "-chardev socket,id=c,path=/gone -device vhost-user-blk-pci,chardev=c",
        "-device vhost-user-blk-pci,chardev=c",
        "",
    ] {
        assert_eq!(over(&recorded, line).unwrap(), recorded, "{line}");
    }
    let message = over(&recorded, "-drive file=/d,if=none,id=c -device virtio-blk,drive=c").unwrap_err();
    assert!(message.contains("c (vhost-user)") && message.contains("c (disk)"), "{message}");
}
