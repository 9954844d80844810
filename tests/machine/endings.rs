//! How machines end: each way with its own cause, in the status, on stderr and in the recording.

use crate::guests;
use crate::lab::{Lab, PATIENCE};
use crate::process::assert_gone;
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

#[test]
fn no_shutdown_pauses_until_quit() {
    let lab = Lab::new();
    lab.write("k", guests::power_off());
    let mut child = lab.start("record -o rec -kernel k -serial file:out -monitor stdio -no-shutdown");
    child.until_text("(reprise) ", PATIENCE);
    for _ in 0..200 {
        child.type_bytes(b"info status\n");
        std::thread::sleep(std::time::Duration::from_millis(20));
        if String::from_utf8_lossy(&child.out()).contains("paused (shutdown)") {
            break;
        }
    }
    child.until_text("VM status: paused (shutdown)", PATIENCE);
    child.type_bytes(b"quit\n");
    child.end(PATIENCE).well();
    assert_eq!(std::fs::read(lab.path("out")).unwrap(), b"B");
    lab.run("verify rec").well();
}
