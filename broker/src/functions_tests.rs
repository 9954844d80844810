//! Command lines and the machines they describe.

use crate::cli::{Command, parse};
use crate::wiring::Wiring;

/// Functions and back-ends of a command line, one a line.
fn described(line: &str) -> Result<Vec<String>, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Ok(Command::Run(options)) = parse(&words) else { panic!("{line}") };
    let wiring = Wiring::of_new(&options).map_err(|error| error.0)?;
    let machine = crate::machine::tests::machine(line);
    assert_eq!((&wiring.functions, &wiring.devices), (&machine.functions, &machine.devices));
    let functions = wiring.functions.iter().map(|function| {
        let place = format!("{:x}.{}", function.address.device, function.address.function);
        let kind = format!("{:?}", function.kind);
        format!("{place} {} {kind} q{} v{}", function.id, function.queue_size_max, function.vectors)
    });
    let devices = wiring.devices.iter().map(|device| format!("{} {:?}", device.id, device.kind));
    Ok(functions.chain(devices).collect())
}

const DISK: &str = "-drive file=/d.qcow2,if=none,id=img-direct \
                    -drive driver=blkreplay,if=none,image=img-direct,id=img-blkreplay \
                    -device virtio-blk-pci,drive=img-blkreplay";
const NET: &str = "-netdev user,id=net1 -device virtio-net-pci,netdev=net1 \
                   -object filter-replay,id=replay,netdev=net1";
const DISK_DEVICE: &str = "img-blkreplay Block(Disk { image: File { path: \"/d.qcow2\", format: None }, \
                           read_only: false, serial: None, discard: false, cache_unsafe: false, snapshot: false, \
                           logical_block_size: None })";
const NET_DEVICE: &str = "net1 Net { netdev: \"user,id=net1\" }";

#[test]
fn the_documented_disk_and_network() {
    let disk = "2.0 virtio-disk0 Block { device: 1, queues: 1 } q256 v2";
    let net = |slot: u8, device: u16| {
        format!("{slot:x}.0 virtio-net0 Net {{ device: {device}, mac: [82, 84, 0, 18, 52, 86] }} q256 v3")
    };
    assert_eq!(described(DISK).unwrap(), [disk, "serial0 Chardev", DISK_DEVICE]);
    assert_eq!(described(NET).unwrap(), [&net(2, 1), "serial0 Chardev", NET_DEVICE]);
    let both = [disk, &net(3, 2), "serial0 Chardev", DISK_DEVICE, NET_DEVICE];
    assert_eq!(described(&format!("{DISK} {NET}")).unwrap(), both);
}

#[test]
fn a_foreign_disk() {
    let wanted = [
        "2.0 virtio-disk0 Block { device: 1, queues: 1 } q128 v2",
        "serial0 Chardev",
        "c0 Foreign { socket: \"/blk.sock\" }",
    ];
    let line = "-chardev socket,id=c0,path=/blk.sock -device vhost-user-blk-pci,chardev=c0";
    assert_eq!(described(line).unwrap(), wanted);
}

#[test]
fn disks_of_other_interfaces_come_in_their_order() {
    let names = |line: &str| {
        let described = described(line).unwrap();
        let devices = described.iter().filter_map(|text| text.split_once(" Block(Disk"));
        devices.map(|(id, _)| id.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("-hdb /b -drive file=/v,if=virtio /a"), ["ide0-hd0", "virtio0", "ide0-hd1"]);
    assert_eq!(names("-cdrom /c -drive file=/d"), ["ide0-hd0", "ide1-cd0"]);
}

#[test]
fn other_functions() {
    for (line, wanted) in [
        (
            "-device virtio-rng-pci,id=r,addr=1e",
            vec![
                "1e.0 r Entropy { device: 1 } q8 v2",
                "serial0 Chardev",
                "r Entropy { filename: \"/dev/urandom\" }",
            ],
        ),
        (
            "-chardev null,id=c -device virtio-serial-pci -device virtconsole,chardev=c \
             -device virtserialport,name=org.x -device virtserialport,nr=5",
            vec![
                "2.0 virtio-serial0 Console { ports: [\
                 ConsolePort { number: 0, device: 1, name: None, console: true }, \
                 ConsolePort { number: 1, device: 2, name: Some(\"org.x\"), console: false }, \
                 ConsolePort { number: 5, device: 3, name: None, console: false }] } q128 v32",
                "serial0 Chardev",
                "virtconsole0 Chardev",
                "virtserialport0 Chardev",
                "virtserialport1 Chardev",
            ],
        ),
        (
            "-chardev socket,id=c,path=/s -device vhost-user-device-pci,chardev=c,virtio-id=26,num_vqs=2",
            vec![
                "2.0 vhost-user0 Other { device: 1, device_type: 26, queues: 2 } q64 v3",
                "serial0 Chardev",
                "c Foreign { socket: \"/s\" }",
            ],
        ),
        (
            "-nic user,mac=52:54:00:12:34:56 -nic user -net none",
            vec![
                "2.0 virtio-net0 Net { device: 1, mac: [82, 84, 0, 18, 52, 86] } q256 v3",
                "3.0 virtio-net1 Net { device: 2, mac: [82, 84, 0, 18, 52, 87] } q256 v3",
                "serial0 Chardev",
                "nic0 Net { netdev: \"user,id=nic0\" }",
                "nic1 Net { netdev: \"user,id=nic1\" }",
            ],
        ),
        (
            "-net nic,model=virtio -net user,id=u",
            vec![
                "2.0 virtio-net0 Net { device: 1, mac: [82, 84, 0, 18, 52, 86] } q256 v3",
                "serial0 Chardev",
                "u Net { netdev: \"user,id=u\" }",
            ],
        ),
    ] {
        assert_eq!(described(line).unwrap(), wanted, "{line}");
    }
}

#[test]
fn without_a_word_there_is_neither_disk_nor_network() {
    assert_eq!(described("").unwrap(), ["serial0 Chardev"]);
    assert_eq!(described("-net none").unwrap(), ["serial0 Chardev"]);
}

#[test]
fn what_does_not_fit_together_is_named() {
    for (line, message) in [
        ("-device virtio-blk-pci,drive=x", "Cannot find device='x' nor node-name='x'"),
        ("-device virtio-net-pci,netdev=x", "Property 'netdev' can't find value 'x'"),
        ("-device virtio-rng-pci,rng=x", "Property 'rng': there is no such source as 'x'"),
        ("-device vhost-user-blk-pci,chardev=x", "Chardev 'x' does not exist"),
        (
            "-chardev null,id=x -device vhost-user-blk-pci,chardev=x",
            "chardev 'x': a vhost-user device needs a socket: -chardev socket,path=",
        ),
        (
            "-chardev socket,id=x,port=1 -device vhost-user-blk-pci,chardev=x",
            "chardev 'x': a vhost-user device needs a UNIX socket with a path",
        ),
        (
            "-chardev socket,id=x,path=/s -device vhost-user-blk-pci,chardev=x -serial chardev:x",
            "Device 'x' is in use",
        ),
        (
            "-device virtconsole",
            "No 'virtio-serial-bus' bus found for device 'virtconsole'; -device virtio-serial-pci comes first",
        ),
        ("-device virtio-serial -device virtconsole,bus=y.0", "virtconsole: Bus 'y.0' not found"),
        (
            "-device virtio-serial -device virtconsole -device virtconsole,nr=0",
            "virtconsole: a port with number 0 exists on virtio-serial0",
        ),
        (
            "-device virtio-serial,max_ports=1 -device virtserialport",
            "virtserialport: virtio-serial0 has no free port",
        ),
        (
            "-drive file=/d,if=none,id=d -device virtio-blk,drive=d -device virtio-blk,drive=d",
            "Drive 'd' is already in use by another device",
        ),
        (
            "-drive file=/d,if=virtio,id=d -blockdev driver=blkreplay,image=d,node-name=r -device virtio-blk,drive=r",
            "Drive 'r' is already in use by another device",
        ),
        (
            "-netdev user,id=n -device virtio-net,netdev=n -device virtio-net,netdev=n",
            "netdev 'n' is already in use by another device",
        ),
        ("-drive file=/d,if=virtio,id=serial0", "two back-ends are called 'serial0'; give one another name"),
        (
            "-device virtio-rng,id=a,addr=4 -device virtio-rng,addr=4",
            "PCI: slot 4 function 0 not available for virtio-rng0, in use by a",
        ),
        ("-object filter-replay,id=f,netdev=n", "-object filter-replay,id=f: there is no netdev 'n'"),
        (
            "-net nic -net nic -net user",
            "-net: one card and one host side can be joined this way; use -netdev and -device",
        ),
    ] {
        assert_eq!(described(line).unwrap_err(), message, "{line}");
    }
}

#[test]
fn what_nothing_uses_is_said() {
    let words = ["-drive", "file=/d,if=none,id=d", "-netdev", "user,id=n"].map(str::to_owned);
    let Ok(Command::Run(options)) = parse(&words) else { panic!() };
    let warnings = Wiring::of_new(&options).unwrap().warnings;
    let wanted =
        ["drive 'd': nothing uses it; it is not opened", "netdev 'n': nothing uses it; it is not opened"];
    assert_eq!(warnings, wanted);
}

#[test]
fn shared_ram_cannot_be_recorded() {
    let machine = crate::machine::tests::machine("-device virtio-rng,window=off,id=r");
    let error = crate::machine::check_recordable(&machine).unwrap_err().0;
    assert_eq!(
        error,
        "device 'r': window=off gives its back-end guest RAM itself; such a machine cannot be recorded"
    );
    assert_eq!(
        crate::machine::check_recordable(&crate::machine::tests::machine("-device virtio-rng")),
        Ok(())
    );
}
