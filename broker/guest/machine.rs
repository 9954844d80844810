//! What the demo guest knows of the PC: ports, interrupt controller, timer, clock, power.

use crate::console;
use core::arch::{asm, x86_64};
use core::cell::UnsafeCell;

unsafe extern "C" {
    fn timer_interrupt();
    fn uart_interrupt();
}

const VECTOR_BASE: usize = 0x20;
const TIMER_IRQ: usize = 0;
const UART_IRQ: usize = 4;
/// 8254 input clock and interrupts a second.
const TIMER_HZ: u32 = 1_193_182;
const TICK_HZ: u32 = 1000;

/// Interrupt gates (SDM 3A 6.14.1), two words each.
struct Gates(UnsafeCell<[[u64; 2]; VECTOR_BASE + 16]>);

// SAFETY: one CPU; written once, before interrupts are turned on.
unsafe impl Sync for Gates {}

static GATES: Gates = Gates(UnsafeCell::new([[0; 2]; VECTOR_BASE + 16]));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: port I/O touches no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

fn outw(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Lets interrupts in.
pub fn interrupts_on() {
    // SAFETY: handlers are installed by `set_up` and keep all registers.
    unsafe { asm!("sti") }
}

/// Holds interrupts off.
pub fn interrupts_off() {
    // SAFETY: changes RFLAGS.IF alone.
    unsafe { asm!("cli") }
}

/// Waits for the next interrupt; none can slip in between, for STI takes effect after the next instruction.
pub fn interrupts_on_and_halt() {
    // SAFETY: as for `interrupts_on`.
    unsafe { asm!("sti", "hlt") }
}

/// Makes console, interrupts and timer ready; interrupts stay off.
pub fn set_up() {
    console::set_up();
    install(VECTOR_BASE + TIMER_IRQ, timer_interrupt);
    install(VECTOR_BASE + UART_IRQ, uart_interrupt);
    let pointer = TablePointer { limit: size_of::<Gates>() as u16 - 1, base: GATES.0.get() as u64 };
    // SAFETY: the table is static and its gates are valid or not present.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack)) }
    // 8259 pair: vectors from 0x20, slave on line 2, all but timer and UART masked.
    let masked = !(1u8 << TIMER_IRQ | 1 << UART_IRQ);
    let words = [(0x20, 0x11), (0xa0, 0x11), (0x21, VECTOR_BASE as u8), (0xa1, VECTOR_BASE as u8 + 8)];
    let more = [(0x21, 4), (0xa1, 2), (0x21, 1), (0xa1, 1), (0x21, masked), (0xa1, 0xff)];
    words.into_iter().chain(more).for_each(|(port, value)| outb(port, value));
    let [low, high, ..] = (TIMER_HZ / TICK_HZ).to_le_bytes();
    [(0x43, 0x34), (0x40, low), (0x40, high)].into_iter().for_each(|(port, value)| outb(port, value));
}

fn install(vector: usize, handler: unsafe extern "C" fn()) {
    const CODE_SELECTOR: u64 = 8;
    const INTERRUPT_GATE: u64 = 0x8e;
    let address = handler as usize as u64;
    let low = address & 0xffff | CODE_SELECTOR << 16 | INTERRUPT_GATE << 40 | (address >> 16 & 0xffff) << 48;
    // SAFETY: one CPU, interrupts off, and the index is checked.
    unsafe { (*GATES.0.get())[vector] = [low, address >> 32] }
}

/// Century, year, month, day, hour, minute, second from the CMOS clock, in BCD turned to binary.
pub fn read_rtc() -> [u8; 7] {
    const REGISTERS: [u8; 7] = [0x32, 9, 8, 7, 4, 2, 0];
    const STATUS_A: u8 = 0x0a;
    const UPDATE_IN_PROGRESS: u8 = 1 << 7;
    const STATUS_B: u8 = 0x0b;
    const BINARY: u8 = 1 << 2;
    let read = |register| {
        outb(0x70, register);
        inb(0x71)
    };
    let binary = read(STATUS_B) & BINARY != 0;
    let snapshot = || {
        while read(STATUS_A) & UPDATE_IN_PROGRESS != 0 {}
        REGISTERS.map(read)
    };
    // Two equal readings mean that no update came between.
    let mut values = snapshot();
    loop {
        let again = snapshot();
        if again == values {
            break;
        }
        values = again;
    }
    values.map(|value| if binary { value } else { (value >> 4) * 10 + (value & 15) })
}

/// A number from RDRAND, if the CPU has it.
pub fn random() -> Option<u64> {
    const RDRAND: u32 = 1 << 30;
    if x86_64::__cpuid(1).ecx & RDRAND == 0 {
        return None;
    }
    for _ in 0..10 {
        let (value, ready): (u64, u8);
        // SAFETY: CPUID said that the instruction exists.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ready, options(nomem, nostack)) }
        if ready != 0 {
            return Some(value);
        }
    }
    None
}

/// Turns the machine off through PM1a_CNT (ACPI 6.5, 4.8.3.2.1): SLP_EN with the machine's SLP_TYP for S5.
pub fn power_off() -> ! {
    const PM1A_CONTROL: u16 = 0x604;
    const SLEEP_ENABLE: u16 = 1 << 13;
    // 5 here; 0 on QEMU's PC, so that the guest can be tried there.
    for sleep_type in [5, 0] {
        outw(PM1A_CONTROL, SLEEP_ENABLE | sleep_type << 10);
    }
    crate::stop()
}
