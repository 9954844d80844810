//! Expected values from the PC16550D data sheet and from what the Linux 8250 driver tests for.

use super::*;

const RBR: u64 = 0;
const THR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;
const T0: Vtime = Vtime(1000);

struct Port(Uart16550);

impl Port {
    fn new() -> Port {
        Port(Uart16550::new())
    }

    /// 115200 8N1, FIFOs on with trigger level 8, all interrupts that `ier` names, OUT2 on.
    fn with_fifos(ier: u8) -> Port {
        let mut port = Port::new();
        for (register, value) in [(LCR, 0x83), (0, 1), (1, 0), (LCR, 3), (FCR, 0x87), (MCR, 0x0b), (IER, ier)]
        {
            port.set(register, value);
        }
        port
    }

    fn get(&mut self, register: u64) -> u8 {
        self.0.read(register, 1, T0) as u8
    }

    fn set(&mut self, register: u64, value: u8) {
        self.0.write(register, 1, u64::from(value), T0);
    }
}

#[test]
fn reset_values() {
    let mut port = Port::new();
    assert_eq!(port.get(IER), 0);
    assert_eq!(port.get(IIR), 1);
    assert_eq!(port.get(LCR), 0);
    assert_eq!(port.get(MCR), 0);
    assert_eq!(port.get(LSR), 0x60);
    assert_eq!(port.get(MSR), 0xb0);
    assert!(!port.0.line());
}

#[test]
fn driver_detects_a_16550a() {
    let mut port = Port::new();
    // IER keeps four bits.
    port.set(IER, 0xff);
    assert_eq!(port.get(IER), 0x0f);
    port.set(IER, 0);
    assert_eq!(port.get(IER), 0);
    // Loopback wires RTS to CTS and OUT2 to DCD.
    port.set(MCR, 0x1a);
    assert_eq!(port.get(MSR) & 0xf0, 0x90);
    port.set(MCR, 0);
    // FIFO bits of IIR, without the 64-byte bit of a 16750.
    port.set(FCR, 0x01);
    assert_eq!(port.get(IIR) >> 6, 3);
    port.set(LCR, 0x80);
    port.set(FCR, 0x21);
    assert_eq!(port.get(IIR) & 0xe0, 0xc0);
    port.set(LCR, 0);
    // EFR of a 16650 would read as zero here.
    port.set(LCR, 0xbf);
    assert_ne!(port.get(2), 0);
    port.set(LCR, 0);
    port.set(SCR, 0x5a);
    assert_eq!(port.get(SCR), 0x5a);
}

#[test]
fn enabling_thre_interrupt_raises_it_every_time() {
    let mut port = Port::with_fifos(0);
    for _ in 0..2 {
        port.set(IER, 0x02);
        assert!(port.0.line());
        assert_eq!(port.get(IIR), 0xc2);
        assert_eq!(port.get(IIR), 0xc1, "reading IIR clears THRE");
        assert!(!port.0.line());
        port.set(IER, 0);
    }
}

#[test]
fn writing_ier_again_does_not_raise_thre() {
    let mut port = Port::with_fifos(0x02);
    assert_eq!(port.get(IIR), 0xc2);
    port.set(IER, 0x03);
    assert_eq!(port.get(IIR), 0xc1);
}

#[test]
fn transmitting_raises_thre_again() {
    let mut port = Port::with_fifos(0x02);
    assert_eq!(port.get(IIR), 0xc2);
    port.set(THR, b'h');
    port.set(THR, b'i');
    assert!(port.0.line());
    assert_eq!(port.get(LSR), 0x60);
    assert_eq!(port.get(IIR), 0xc2);
    assert_eq!(port.0.take_output(), b"hi");
    assert!(!port.0.has_output());
}

#[test]
fn reading_iir_for_a_higher_cause_keeps_thre() {
    let mut port = Port::with_fifos(0x03);
    port.0.receive(b"12345678", T0);
    assert_eq!(port.get(IIR), 0xc4);
    for _ in 0..8 {
        port.get(RBR);
    }
    assert_eq!(port.get(IIR), 0xc2);
    assert_eq!(port.get(IIR), 0xc1);
}

#[test]
fn priorities() {
    let mut port = Port::with_fifos(0x0f);
    port.0.receive_break(T0);
    port.0.receive(b"1234567", T0);
    port.set(MCR, 0x1b); // loopback: DSR, CTS, DCD stay as they were
    port.set(MCR, 0x18); // DSR and CTS drop
    assert_eq!(port.get(IIR), 0xc6);
    assert_eq!(port.get(LSR), 0x60 | 0x10 | 0x01 | 0x80);
    assert_eq!(port.get(LSR), 0x61, "reading LSR clears the errors");
    assert_eq!(port.get(IIR), 0xc4);
    assert_eq!(port.get(RBR), 0);
    assert_eq!(port.get(IIR), 0xc2);
    assert_eq!(port.get(IIR), 0xc0);
    assert_eq!(port.get(MSR), 0x80 | 0x03);
    assert_eq!(port.get(IIR), 0xc1);
}

#[test]
fn below_trigger_level_the_timeout_tells() {
    let mut port = Port::with_fifos(0x01);
    port.0.receive(b"ab", T0);
    assert_eq!(port.get(IIR), 0xc1);
    assert_eq!(port.get(LSR) & 1, 1);
    // 10 bits at 115200 baud are 86805 ns; four characters.
    let at = port.0.deadline().unwrap();
    assert_eq!(at, Vtime(T0.0 + 4 * 86_805));
    port.0.advance(Vtime(at.0 - 1));
    assert!(!port.0.line());
    port.0.advance(at);
    assert!(port.0.line());
    assert_eq!(port.0.deadline(), None);
    assert_eq!(port.0.read(IIR, 1, at), 0xcc);
    assert_eq!(port.0.read(RBR, 1, at), u64::from(b'a'));
    assert_eq!(port.0.read(IIR, 1, at), 0xc1);
    assert_eq!(port.0.deadline(), Some(Vtime(at.0 + 4 * 86_805)), "a character is left");
    assert_eq!(port.0.read(RBR, 1, at), u64::from(b'b'));
    assert_eq!(port.0.deadline(), None);
}

#[test]
fn trigger_levels() {
    for (bits, level) in [(0x00, 1), (0x40, 4), (0x80, 8), (0xc0, 14)] {
        let mut port = Port::with_fifos(0x01);
        port.set(FCR, bits | 1);
        for count in 1..=level {
            assert!(!port.0.line());
            port.0.receive(b"x", T0);
            assert_eq!(port.0.line(), count == level, "{count} of {level}");
        }
    }
}

#[test]
fn fifo_is_refilled_from_the_host() {
    let mut port = Port::with_fifos(0x01);
    let text: Vec<u8> = (0..100).collect();
    assert_eq!(port.0.receive(&text, T0), 100);
    let mut seen = Vec::new();
    while port.get(LSR) & 1 != 0 {
        seen.push(port.get(RBR));
    }
    assert_eq!(seen, text);
    assert_eq!(port.get(IIR), 0xc1);
}

#[test]
fn host_queue_is_bounded() {
    let mut port = Port::new();
    assert_eq!(port.0.room(), PENDING_MAX);
    // One byte moves on into RBR.
    assert_eq!(port.0.receive(&vec![0; PENDING_MAX + 9], T0), PENDING_MAX);
    assert_eq!(port.0.room(), 1);
}

#[test]
fn loopback_overruns_and_breaks() {
    let mut port = Port::with_fifos(0);
    port.set(MCR, 0x18);
    for byte in 0..17 {
        port.set(THR, byte);
    }
    assert!(!port.0.has_output());
    assert_eq!(port.get(LSR), 0x63);
    assert_eq!(port.get(LSR), 0x61);
    for byte in 0..16 {
        assert_eq!(port.get(RBR), byte);
    }
    port.set(LCR, 0x43);
    assert_eq!(port.get(LSR), 0xf1);
    assert_eq!(port.get(RBR), 0);
    assert_eq!(port.get(LSR), 0x60);
    // Without FIFOs the newer character stays.
    port.set(FCR, 0);
    port.set(THR, 1);
    port.set(THR, 2);
    assert_eq!(port.get(LSR), 0x63);
    assert_eq!(port.get(RBR), 2);
}

#[test]
fn modem_deltas() {
    let mut port = Port::new();
    port.set(MCR, 0x14); // loopback with OUT1: RI rises, the others fall
    assert_eq!(port.get(MSR), 0x40 | 0x0b);
    port.set(MCR, 0x10); // RI falls: trailing edge
    assert_eq!(port.get(MSR), 0x04);
    assert_eq!(port.get(MSR), 0);
}

#[test]
fn out2_and_loopback_gate_the_line() {
    let mut port = Port::with_fifos(0x02);
    assert!(port.0.line());
    port.set(MCR, 0x03);
    assert!(!port.0.line());
    port.set(MCR, 0x1b);
    assert!(!port.0.line());
    port.set(MCR, 0x0b);
    assert!(port.0.line());
}

#[test]
fn divisor_latch() {
    let mut port = Port::new();
    port.set(LCR, 0x80);
    port.0.write(0, 2, 0x0180, T0);
    assert_eq!(port.0.read(0, 2, T0), 0x0180);
    assert_eq!(port.0.baud(), 300);
    port.set(0, 0);
    port.set(1, 0);
    assert_eq!(port.0.divisor_value(), 65536);
    port.set(LCR, 0x07); // 8N2
    port.set(FCR, 1);
    assert_eq!(port.0.character_ns(), 11 * 16 * 65536 * 1_000_000_000 / 1_843_200);
}
