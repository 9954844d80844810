//! Output on the first 16550.

use crate::machine::{inb, outb};

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// 115200 baud, 8 data bits, FIFOs on, interrupt when data arrives.
pub fn set_up() {
    for (register, value) in [(3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 0x0b), (1, 1)] {
        outb(PORT + register, value);
    }
}

/// Sends a byte.
pub fn put(byte: u8) {
    while inb(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
    outb(PORT, byte);
}

/// Sends a text.
pub fn print(text: &str) {
    text.bytes().for_each(put);
}

/// Sends a number in decimal.
pub fn print_number(value: u64) {
    if value >= 10 {
        print_number(value / 10);
    }
    put(b'0' + (value % 10) as u8);
}

/// Sends 16 hexadecimal digits.
pub fn print_hex(value: u64) {
    for shift in (0..16).rev() {
        let digit = (value >> (4 * shift) & 15) as u8;
        put(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}
