//! `window=off`: back-ends that have guest RAM itself.

use crate::disk::{PATIENCE, StorageDaemon, check, check_text, content, guests, make_raw, start};
use crate::lab::Lab;
use crate::monitor_client::Monitor;

const DRIVE: &str = "-drive file=d.raw,format=raw,if=none,id=d";

#[test]
fn our_own_disk_without_a_window() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    make_raw(&lab, "d.raw");
    let more = format!("{DRIVE} -device virtio-blk-pci,drive=d,num-queues=2,window=off");
    let done = start(&lab, &guests, "sectors", &more).end(PATIENCE).well();
    check(&done, Some(&content(&lab, "d.raw")));
}

#[test]
fn a_foreign_disk_without_a_window() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    make_raw(&lab, "d.raw");
    let daemon = StorageDaemon::start(&lab, "d.raw");
    let more = "-chardev socket,id=c,path=S -device vhost-user-blk-pci,chardev=c,window=off";
    let done = start(&lab, &guests, "sectors", more).end(PATIENCE).well();
    drop(daemon);
    check(&done, Some(&content(&lab, "d.raw")));
}

/// Saved in the middle of its work, and taken back there when more of it was done: the guest does that once more.
#[test]
fn saves_and_loads_without_a_window() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    make_raw(&lab, "d.raw");
    let more = format!(
        "{DRIVE} -device virtio-blk-pci,drive=d,num-queues=2,window=off -device virtio-rng-pci,window=off \
         -netdev user,id=n -device virtio-net-pci,netdev=n,window=off \
         -monitor unix:m,server=on,wait=off -snapdir snaps"
    );
    let mut child = start(&lab, &guests, "sectors", &more);
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until_text("GUEST-UP", PATIENCE);
    for tag in ["a", "b", "c"] {
        assert_eq!(monitor.ask(&format!("savevm {tag}")), "");
    }
    assert_eq!(monitor.ask("loadvm a"), "");
    child.until_text("written", PATIENCE);
    assert_eq!(monitor.ask("savevm d"), "");
    assert_eq!(monitor.ask("loadvm b"), "");
    let done = child.end(PATIENCE).well();
    let text = done.text();
    check_text(&text[text.rfind("written").unwrap()..], &done.err, Some(&content(&lab, "d.raw")));
    // Another run goes on from there.
    let again = start(&lab, &guests, "sectors", &format!("{more} -loadvm c")).end(PATIENCE).well();
    check(&again, Some(&content(&lab, "d.raw")));
}

/// Entropy, a network and a console beside it: what is not a ring of the back-end is still served.
#[test]
fn every_kind_of_device_without_a_window() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let more = "-device virtio-rng-pci,window=off -device virtio-serial-pci,window=off -chardev file,id=f,path=out \
                -device virtconsole,chardev=f -netdev user,id=n -device virtio-net-pci,netdev=n,window=off";
    let done = start(&lab, &guests, "peers", more).end(PATIENCE).well();
    let text = done.text();
    assert!(text.contains("3 packets transmitted, 3 packets received"), "{text}; {}", done.err);
    // Sixteen bytes of /dev/hwrng, which only the device fills.
    let random = text.lines().find_map(|line| line.trim().strip_prefix("random "));
    assert!(random.is_some_and(|digits| digits.len() == 32), "{text}; {}", done.err);
    assert_eq!(std::fs::read_to_string(lab.path("out")).unwrap(), "to the console\r\n");
}

#[test]
fn a_recording_refuses_it_by_name() {
    let lab = Lab::new();
    make_raw(&lab, "d.raw");
    lab.write("k", "");
    let line = format!("record -o rec -kernel k {DRIVE} -device virtio-blk-pci,drive=d,window=off,id=fast");
    let done = lab.run(&line).with_status(1);
    assert!(
        done.err.contains("device 'fast': window=off gives its back-end guest RAM itself"),
        "{}",
        done.err
    );
    assert!(!lab.path("rec").exists());
}
