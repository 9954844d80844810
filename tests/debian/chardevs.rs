//! Entropy, console ports, keyboard and mouse: recorded with a monitor and a client, replayed with neither.

use crate::lab::Lab;
use crate::process::Child;
use crate::{BOOT_PATIENCE, guests, replay_and_verify, start_io, value};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

const OPTIONS: &str = "-object rng-random,id=r0,filename=/dev/urandom -device virtio-rng-pci,rng=r0 \
    -device virtio-serial-pci -chardev file,id=c0,path=console.txt -device virtconsole,chardev=c0 \
    -chardev socket,id=c1,path=port.sock,server=on,wait=off -device virtserialport,chardev=c1,name=org.test.port \
    -monitor unix:monitor.sock,server=on,wait=off";

/// A client of a socket of the machine, which is there since the machine's start.
fn connect(lab: &Lab, name: &str) -> UnixStream {
    let stream = UnixStream::connect(lab.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    stream.set_read_timeout(Some(BOOT_PATIENCE)).unwrap();
    stream
}

/// Asks through the port, presses a key, moves and clicks, each when the guest is ready for it.
fn talk(lab: &Lab, child: &mut Child) {
    child.until_text("port open", BOOT_PATIENCE);
    let mut port = connect(lab, "port.sock");
    port.write_all(b"how are you?\n").unwrap();
    let mut answer = String::new();
    BufReader::new(port).read_line(&mut answer).unwrap();
    assert_eq!(answer, "answer to how are you?\n");

    let mut monitor = connect(lab, "monitor.sock");
    for (ready, command) in [("press", "sendkey a"), ("move", "mouse_move 5 7"), ("click", "mouse_button 1")]
    {
        child.until_text(ready, BOOT_PATIENCE);
        writeln!(monitor, "{command}").unwrap();
    }
}

/// Type, code and value of each event that was printed (struct input_event), without its time.
fn keys(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("key ")).map(|line| &line[32..]).collect()
}

#[test]
fn talk_is_replayed() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let options: Vec<&str> = OPTIONS.split_whitespace().collect();
    let mut child = start_io(&lab, &guests, "job=devices", &options);
    talk(&lab, &mut child);
    let recorded = child.end(BOOT_PATIENCE).well();
    let text = recorded.text();
    assert!(value(&text, "source").starts_with("virtio_rng"), "{text}");
    let random = value(&text, "random");
    assert!(random.len() == 48 && random != "0".repeat(48), "{text}");
    assert_eq!(value(&text, "question"), "how are you?");
    // linux/input-event-codes.h: EV_MSC MSC_SCAN 1e, EV_KEY KEY_A pressed, EV_SYN; the same for its release.
    let event = ["040004001e000000", "01001e0001000000", "0000000000000000"];
    let released = ["040004001e000000", "01001e0000000000", "0000000000000000"];
    assert_eq!(keys(&text), [event, released].concat(), "{text}");
    // A packet of a PS/2 mouse: bit 3 is set, bit 5 is the sign of y, which goes up, bit 0 is the left button.
    assert_eq!(value(&text, "acknowledged"), "fa");
    let mouse: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("mouse ")).collect();
    assert_eq!(mouse, ["2805f9", "090000"], "{text}");
    let console = std::fs::read_to_string(lab.path("console.txt")).unwrap();
    assert_eq!(console.trim_end(), "to the console");

    for name in ["port.sock", "monitor.sock"] {
        assert!(!lab.path(name).exists(), "{name} is gone");
    }
    replay_and_verify(&lab, &recorded);
}
