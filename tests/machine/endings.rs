//! How machines end: each way with its own cause, in the status, on stderr and in the recording.

use crate::guests;
use crate::lab::{Lab, PATIENCE};
use crate::process::{Child, assert_gone};
use nix::sys::signal::Signal;

/// Records a guest that ends by itself; replays and verifies it.
fn ends(guest: Vec<u8>, options: &str, status: i32, cause: &str) {
    let lab = Lab::new();
    lab.write("k", guest);
    let recorded = lab.run(&format!("record -o rec -kernel k -serial stdio {options}")).with_status(status);
    assert_eq!(recorded.out, b"B");
    assert_eq!(lab.cause("rec"), cause);
    assert!(recorded.err.lines().count() <= 1, "{}", recorded.err);
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
}

/// What QEMU's monitor says: a machine that has powered off must be reset first.
#[test]
fn a_machine_that_powered_off_can_be_reset() {
    let lab = Lab::new();
    lab.write("k", guests::power_off());
    let mut child = lab.start("record -o rec -kernel k -serial file:out -monitor stdio -no-shutdown");
    status_becomes(&mut child, "paused (shutdown)");
    child.type_bytes(b"cont\n");
    child.until_text("Resetting the Virtual Machine is required", PATIENCE);
    child.type_bytes(b"system_reset\n");
    status_becomes(&mut child, "paused\r\n");
    child.type_bytes(b"cont\n");
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::fs::read(lab.path("out")).unwrap() != b"BB" {
        assert!(std::time::Instant::now() < deadline, "the guest does not start again");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.type_bytes(b"quit\n");
    child.end(PATIENCE).well();
    assert_eq!(lab.run("replay rec -serial stdio").well().out, b"BB");
    lab.run("verify rec").well();
}

#[test]
fn power_off() {
    ends(guests::power_off(), "", 0, "guest-shutdown");
}

#[test]
fn triple_fault() {
    ends(guests::triple_fault(), "-no-reboot", 1, "triple-fault");
}

#[test]
fn a_jump_into_nowhere() {
    ends(guests::nowhere(), "-no-reboot", 1, "triple-fault");
}

#[test]
fn reset() {
    ends(guests::reset(), "-no-reboot", 0, "guest-reset");
}

#[test]
fn debug_exit() {
    ends(guests::debug_exit(), "-device isa-debug-exit,iobase=0xf4,iosize=0x04", 0x21, "debug-exit 0x10");
}

/// A reset after a panic is the panic's.
#[test]
fn panic_and_reset() {
    ends(guests::panic_and_reset(), "-no-reboot", 1, "guest-panic");
    ends(guests::panic_and_reset(), "-action panic=none,reboot=shutdown -device pvpanic", 1, "guest-panic");
}

#[test]
fn a_panic_that_is_only_remembered() {
    ends(guests::panic_and_power_off(), "", 0, "guest-shutdown");
}

#[test]
fn a_panic_ends_the_run() {
    ends(guests::panic_and_power_off(), "-device pvpanic,ioport=0x505", 0, "guest-panic");
    ends(guests::panic_and_power_off(), "-action panic=shutdown", 0, "guest-panic");
    ends(guests::panic_and_power_off(), "-action panic=exit-failure -no-shutdown", 1, "guest-panic");
}

/// Runs a guest that panics; `answer` is given to the monitor once it stands still.
fn pauses_at_panic(options: &str, answer: &[u8], cause: &str) {
    let lab = Lab::new();
    lab.write("k", guests::panic_and_power_off());
    let words = format!("record -o rec -kernel k -serial file:out -monitor stdio {options}");
    let mut child = lab.start(&words);
    status_becomes(&mut child, "paused (guest-panicked)");
    child.type_bytes(answer);
    child.end(PATIENCE).well();
    assert_eq!(std::fs::read(lab.path("out")).unwrap(), b"B");
    assert_eq!(lab.cause("rec"), cause);
    lab.run("verify rec").well();
}

#[test]
fn a_panic_pauses_until_cont_or_quit() {
    pauses_at_panic("-action panic=pause", b"cont\n", "guest-shutdown");
    pauses_at_panic("-action panic=pause", b"quit\n", "host-qmp-quit");
    pauses_at_panic("-device pvpanic -no-shutdown", b"quit\n", "host-qmp-quit");
}

/// Without -no-reboot a reset starts the guest again, until a signal ends the run.
fn reboots(guest: Vec<u8>) {
    let lab = Lab::new();
    lab.write("k", guest);
    let mut child = lab.start("record -o rec -kernel k -serial stdio");
    child.until("three boots", PATIENCE, |out| out.len() >= 3);
    let tree = child.tree();
    child.signal(Signal::SIGTERM);
    let recorded = child.end(PATIENCE).with_status(128 + 15);
    assert_gone(&tree);
    assert_eq!(lab.cause("rec"), "host-signal 15");
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
}

#[test]
fn a_reset_starts_again() {
    reboots(guests::reset());
}

/// The new start knows nothing of the panic.
#[test]
fn a_reset_after_a_panic_starts_again() {
    reboots(guests::panic_and_reset());
}

#[test]
fn a_triple_fault_starts_again() {
    reboots(guests::triple_fault());
}

#[test]
fn signals_end_a_machine_that_waits_for_ever() {
    for (signal, number) in [(Signal::SIGINT, 2), (Signal::SIGHUP, 1), (Signal::SIGQUIT, 3)] {
        let lab = Lab::new();
        lab.write("k", guests::halted());
        let mut child = lab.start("record -o rec -kernel k -serial stdio");
        child.until_text("B", PATIENCE);
        let tree = child.tree();
        child.signal(signal);
        let recorded = child.end(PATIENCE).with_status(128 + number);
        assert!(recorded.err.starts_with("reprise: terminating on signal"), "{}", recorded.err);
        assert_gone(&tree);
        assert_eq!(lab.cause("rec"), format!("host-signal {number}"));
        lab.run("replay rec").well().same_output(&recorded);
    }
}

/// Asks the monitor on stdio until the machine has this status.
fn status_becomes(child: &mut Child, status: &str) {
    child.until_text("(reprise) ", PATIENCE);
    for _ in 0..200 {
        child.type_bytes(b"info status\n");
        std::thread::sleep(std::time::Duration::from_millis(20));
        if String::from_utf8_lossy(&child.out()).contains(status) {
            break;
        }
    }
    child.until_text(&format!("VM status: {status}"), PATIENCE);
}

#[test]
fn no_shutdown_pauses_until_quit() {
    let lab = Lab::new();
    lab.write("k", guests::power_off());
    let mut child = lab.start("record -o rec -kernel k -serial file:out -monitor stdio -no-shutdown");
    status_becomes(&mut child, "paused (shutdown)");
    child.type_bytes(b"quit\n");
    child.end(PATIENCE).well();
    assert_eq!(std::fs::read(lab.path("out")).unwrap(), b"B");
    lab.run("verify rec").well();
}
