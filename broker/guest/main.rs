//! The demo guest: a freestanding program that uses each kind of input a recording must keep.
//!
//! It counts timer interrupts, reads the clock and the random number generator, takes a typed line by
//! interrupt, prints a checksum over all of it, and powers the machine off. Two runs print the same checksum
//! only if every input was the same.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

global_asm!(include_str!("boot.s"));

mod console;
mod machine;

use console::{print, print_hex, print_number};
use machine::{interrupts_off, interrupts_on_and_halt};

/// Timer interrupts so far; the handler in boot.s counts.
#[unsafe(no_mangle)]
static TICKS: AtomicU64 = AtomicU64::new(0);
/// Bytes received so far; byte n is at n modulo 256 of the ring. The handler in boot.s fills it.
#[unsafe(no_mangle)]
static RECEIVED: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static RECEIVE_RING: [AtomicU8; 256] = [const { AtomicU8::new(0) }; 256];

const TICKS_TO_COUNT: u64 = 25;
const LINE_BYTES_MAX: usize = 80;

/// A running FNV-1a hash of everything that came from outside.
struct Checksum(u64);

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Called by boot.s in 64-bit mode with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    let mut checksum = Checksum(0xcbf2_9ce4_8422_2325);
    machine::set_up();
    print("reprise demo guest\r\n");
    count_ticks(&mut checksum);
    read_clock(&mut checksum);
    read_entropy(&mut checksum);
    read_line(&mut checksum);
    print("checksum ");
    print_hex(checksum.0);
    print("\r\n");
    machine::power_off()
}

/// Waits for timer interrupts and notes between which instructions they landed, by the spins between two.
fn count_ticks(checksum: &mut Checksum) {
    let mut spins = 0u64;
    while TICKS.load(Relaxed) < TICKS_TO_COUNT / 2 {
        // With interrupts on throughout, the count at which the last tick lands is part of the result.
        spins += 1;
        machine::interrupts_on();
    }
    interrupts_off();
    while TICKS.load(Relaxed) < TICKS_TO_COUNT {
        interrupts_on_and_halt();
        interrupts_off();
    }
    print("timer: ");
    print_number(TICKS.load(Relaxed));
    print(" ticks, ");
    print_number(spins);
    print(" turns of a loop during the first half\r\n");
    checksum.add(&spins.to_le_bytes());
}

fn read_clock(checksum: &mut Checksum) {
    let clock = machine::read_rtc();
    print("clock: ");
    for (value, separator) in clock.into_iter().zip(["", "-", "-", " ", ":", ":", "\r\n"]) {
        if value < 10 {
            print("0");
        }
        print_number(u64::from(value));
        print(separator);
    }
    checksum.add(&clock);
}

fn read_entropy(checksum: &mut Checksum) {
    print("random:");
    for _ in 0..3 {
        let Some(value) = machine::random() else {
            print(" this CPU has no RDRAND");
            break;
        };
        print(" ");
        print_hex(value);
        checksum.add(&value.to_le_bytes());
    }
    print("\r\n");
}

/// Takes a typed line, echoes it, and prints it backwards.
fn read_line(checksum: &mut Checksum) {
    print("type a line: ");
    let mut line = [0u8; LINE_BYTES_MAX];
    let (mut length, mut taken) = (0, 0);
    loop {
        interrupts_off();
        while RECEIVED.load(Relaxed) == taken {
            interrupts_on_and_halt();
            interrupts_off();
        }
        let byte = RECEIVE_RING[(taken % 256) as usize].load(Relaxed);
        taken += 1;
        match byte {
            b'\r' | b'\n' => break,
            8 | 127 if length > 0 => {
                length -= 1;
                print("\x08 \x08");
            }
            b' '..=b'~' if length < LINE_BYTES_MAX => {
                line[length] = byte;
                length += 1;
                console::put(byte);
            }
            _ => {}
        }
    }
    let typed = &line[..length];
    print("\r\nbackwards: ");
    typed.iter().rev().copied().for_each(console::put);
    print("\r\n");
    checksum.add(typed);
    // When the line was typed, in timer interrupts, is an input too.
    checksum.add(&TICKS.load(Relaxed).to_le_bytes());
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    print("\r\nthe demo guest failed\r\n");
    machine::power_off()
}

/// Stops the CPU for good.
fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off nothing runs after this.
        unsafe { asm!("cli", "hlt") }
    }
}
