//! Expected values from the IBM reference and from what the Linux i8042 driver tests for.

use super::*;

/// A host that polls, as drivers do: it waits in guest time for the output buffer.
struct Host {
    device: I8042,
    now: u64,
}

impl Host {
    fn new() -> Host {
        Host { device: I8042::new(), now: 0 }
    }

    fn status(&mut self) -> u8 {
        self.device.read(4, 1, Vtime(self.now)) as u8
    }

    fn command(&mut self, byte: u8) {
        self.device.write(4, 1, u64::from(byte), Vtime(self.now));
    }

    fn data(&mut self, byte: u8) {
        self.device.write(0, 1, u64::from(byte), Vtime(self.now));
    }

    /// Reads port 0x60 when something is there, within a millisecond.
    fn read(&mut self) -> Option<u8> {
        for _ in 0..20 {
            if self.status() & 1 != 0 {
                return Some(self.device.read(0, 1, Vtime(self.now)) as u8);
            }
            self.now += 50_000;
        }
        None
    }

    fn read_all(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.read()).collect()
    }

    fn mode(&mut self) -> u8 {
        self.command(0x20);
        self.read().unwrap()
    }

    fn set_mode(&mut self, mode: u8) {
        self.command(0x60);
        self.data(mode);
    }
}

#[test]
fn driver_probe() {
    let mut host = Host::new();
    assert_eq!(host.status(), 0x14, "buffer empty, key lock open, self-test passed");
    host.command(0xaa);
    assert_eq!(host.read(), Some(0x55));
    assert_eq!(host.mode(), 0x47);
    host.set_mode(0x74);
    assert_eq!(host.mode(), 0x74);
    // Loop through the auxiliary buffer; the answer is marked as the mouse's.
    host.command(0xd3);
    host.data(0x5a);
    assert_eq!(host.status() & 0x21, 0x21);
    assert_eq!(host.read(), Some(0x5a));
    host.command(0xa9);
    assert_eq!(host.read(), Some(0x00));
    host.command(0xab);
    assert_eq!(host.read(), Some(0x00));
    host.command(0xa7);
    assert_eq!(host.mode() & 0x20, 0x20);
    host.command(0xa8);
    assert_eq!(host.mode() & 0x20, 0);
    // A controller with multiplexed mice would not return these.
    for byte in [0xf0, 0x56, 0xa4] {
        host.command(0xd3);
        host.data(byte);
        assert_eq!(host.read(), Some(byte));
    }
    // Delivery of IRQ 12.
    host.set_mode(0x46);
    host.command(0xd3);
    host.data(0xa5);
    assert!(host.device.mouse_line() && !host.device.line());
    assert_eq!(host.read(), Some(0xa5));
    assert!(!host.device.mouse_line());
}

#[test]
fn keyboard_and_mouse_answer() {
    let mut host = Host::new();
    host.data(0xf2);
    assert_eq!(host.read_all(), [0xfa, 0xab, 0x41], "translated");
    host.set_mode(0x07);
    host.data(0xf2);
    assert_eq!(host.read_all(), [0xfa, 0xab, 0x83]);
    host.command(0xd4);
    host.data(0xff);
    host.now += 100_000;
    assert_eq!(host.status() & 0x21, 0x21);
    assert_eq!(host.read_all(), [0xfa, 0xaa, 0x00]);
    host.data(0xff);
    assert_eq!(host.read_all(), [0xfa, 0xaa]);
}

#[test]
fn line_falls_between_bytes() {
    let mut host = Host::new();
    host.device.key(0xe048, true, Vtime(0));
    let mut codes = Vec::new();
    for _ in 0..2 {
        let at = host.device.deadline().unwrap_or(Vtime(host.now));
        host.device.advance(at);
        host.now = at.0;
        assert!(host.device.line());
        codes.push(host.device.read(0, 1, at) as u8);
        assert!(!host.device.line());
    }
    assert_eq!(codes, [0xe0, 0x48]);
}

#[test]
fn typed_keys_arrive_in_set_1() {
    let mut host = Host::new();
    for (code, down) in [(0x1e, true), (0x1e, false), (0xe01d, true), (0xe01d, false)] {
        host.device.key(code, down, Vtime(host.now));
    }
    assert_eq!(host.read_all(), [0x1e, 0x9e, 0xe0, 0x1d, 0xe0, 0x9d]);
    assert_eq!(host.device.read(0, 1, Vtime(host.now)), 0x9d, "an empty buffer repeats");
}

#[test]
fn disabled_interfaces_hold_their_bytes() {
    let mut host = Host::new();
    host.command(0xad);
    host.device.key(0x1e, true, Vtime(0));
    host.device.key(0x1e, false, Vtime(0));
    assert_eq!(host.read(), None);
    assert_eq!(host.device.deadline(), None);
    host.command(0xae);
    assert_eq!(host.read_all(), [0x1e, 0x9e]);
    host.command(0xad);
    host.data(0xf4);
    assert_eq!(host.mode() & 0x10, 0, "sending to the keyboard enables it");
}

#[test]
fn mouse_packets_raise_irq_12() {
    let mut host = Host::new();
    host.command(0xd4);
    host.data(0xf4);
    assert_eq!(host.read(), Some(0xfa));
    host.device.mouse_move(2, -3, 0, Vtime(host.now));
    host.device.mouse_buttons(2, Vtime(host.now));
    let at = host.device.deadline().unwrap();
    host.device.advance(at);
    assert!(host.device.mouse_line());
    host.now = at.0;
    assert_eq!(host.read_all()[..3], [0x08, 2, 3]);
}

#[test]
fn output_port_resets_and_gates_a20() {
    let mut host = Host::new();
    host.command(0xd0);
    assert_eq!(host.read(), Some(0x03));
    host.command(0xd1);
    host.data(0x01);
    assert!(!host.device.a20());
    host.command(0xdf);
    assert!(host.device.a20());
    assert!(!host.device.take_reset());
    host.command(0xff);
    assert!(!host.device.take_reset());
    host.command(0xfe);
    assert!(host.device.take_reset());
    assert!(!host.device.take_reset());
    host.command(0xd1);
    host.data(0x02);
    assert!(host.device.take_reset());
}

#[test]
fn every_command_is_survived() {
    for first in 0..=255u8 {
        let mut host = Host::new();
        for second in 0..=255u8 {
            host.command(first);
            host.data(second);
            host.data(first);
        }
        // Time goes on: what is due at a deadline happens then, not for ever.
        for _ in 0..100 {
            host.now += 1_000_000;
            host.device.advance(Vtime(host.now));
            assert!(host.device.deadline().is_none_or(|at| at.0 > host.now));
            host.read();
        }
    }
}

#[test]
fn a_controller_answer_loses_no_key() {
    let mut host = Host::new();
    host.device.key(0x1e, true, Vtime(0));
    host.device.key(0x1e, false, Vtime(0));
    host.command(0x20);
    assert_eq!(host.read_all(), [0x1e, 0x47, 0x9e]);
}
