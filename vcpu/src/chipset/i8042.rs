//! The keyboard controller: ports 0x60 and 0x64, keyboard and mouse behind them.
//!
//! One output buffer serves controller answers, keyboard and mouse, in this order. A byte from a device
//! takes the time of a (quick) serial link, so that the interrupt line falls between two bytes, as an
//! edge-triggered interrupt needs. IBM PS/2 Hardware Interface Technical Reference, Keyboard and
//! Auxiliary Device Controller, 1990.

use super::bytewise;
use super::keyboard::Keyboard;
use super::mouse::Mouse;
use super::scancodes::{self, RELEASE};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Data port; reads take the output buffer, writes go to the keyboard or are a command's argument.
pub const DATA_PORT: u16 = 0x60;
/// Status port (reads) and command port (writes).
pub const COMMAND_PORT: u16 = 0x64;
/// ISA interrupt of the keyboard.
pub const KEYBOARD_IRQ: u8 = 1;
/// ISA interrupt of the mouse.
pub const MOUSE_IRQ: u8 = 12;

/// Time from one byte of a device to the next. A real link takes about a millisecond; software depends on
/// the order of things, not on that, and boots are shorter this way.
const BYTE_NS: u64 = 100_000;
/// Bytes of the controller's RAM; the first is the command byte.
const RAM_SIZE: usize = 32;

mod status {
    pub const OUTPUT_FULL: u8 = 1 << 0;
    pub const SYSTEM: u8 = 1 << 2;
    pub const LAST_WAS_COMMAND: u8 = 1 << 3;
    /// The key lock is open.
    pub const UNLOCKED: u8 = 1 << 4;
    pub const FROM_MOUSE: u8 = 1 << 5;
}

mod mode {
    pub const KEYBOARD_INTERRUPT: u8 = 1 << 0;
    pub const MOUSE_INTERRUPT: u8 = 1 << 1;
    pub const SYSTEM: u8 = 1 << 2;
    pub const KEYBOARD_DISABLED: u8 = 1 << 4;
    pub const MOUSE_DISABLED: u8 = 1 << 5;
    pub const TRANSLATE: u8 = 1 << 6;
}

mod command {
    pub const DISABLE_MOUSE: u8 = 0xa7;
    pub const ENABLE_MOUSE: u8 = 0xa8;
    pub const TEST_MOUSE: u8 = 0xa9;
    pub const SELF_TEST: u8 = 0xaa;
    pub const TEST_KEYBOARD: u8 = 0xab;
    pub const DISABLE_KEYBOARD: u8 = 0xad;
    pub const ENABLE_KEYBOARD: u8 = 0xae;
    pub const READ_INPUT_PORT: u8 = 0xc0;
    pub const READ_OUTPUT_PORT: u8 = 0xd0;
    pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
    pub const WRITE_MOUSE_BUFFER: u8 = 0xd3;
    pub const WRITE_MOUSE: u8 = 0xd4;
    pub const DISABLE_A20: u8 = 0xdd;
    pub const ENABLE_A20: u8 = 0xdf;
    pub const READ_TEST_INPUTS: u8 = 0xe0;
}

mod output_port {
    /// Low resets the CPU.
    pub const RESET: u8 = 1 << 0;
    pub const A20: u8 = 1 << 1;
    pub const KEYBOARD_FULL: u8 = 1 << 4;
    pub const MOUSE_FULL: u8 = 1 << 5;
}

const SELF_TEST_PASSED: u8 = 0x55;
const INTERFACE_GOOD: u8 = 0x00;
/// Input port: key lock open, no manufacturing jumper.
const INPUT_PORT: u8 = 0xa0;

/// Where a byte in the output buffer came from; decides the interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Keyboard,
    Mouse,
}

/// The controller and its two devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042 {
    keyboard: Keyboard,
    mouse: Mouse,
    /// Controller RAM; byte 0 is the command byte.
    ram: Vec<u8>,
    /// The output buffer.
    output: Option<(u8, Source)>,
    /// The controller's answer that found the buffer full.
    late_answer: Option<(u8, Source)>,
    /// What a read of port 0x60 gives when the buffer is empty.
    last_output: u8,
    /// The controller command whose argument comes next at port 0x60.
    awaits: Option<u8>,
    last_was_command: bool,
    self_tested: bool,
    a20: bool,
    /// A release prefix was translated away; it marks the next byte.
    release: bool,
    /// No byte from a device before this.
    link_free: Vtime,
    reset_request: bool,
}

impl Default for I8042 {
    fn default() -> I8042 {
        I8042::new()
    }
}

impl I8042 {
    /// A controller as a PC's firmware leaves it: tested, translating, both devices enabled.
    pub fn new() -> I8042 {
        let mut ram = vec![0; RAM_SIZE];
        ram[0] = mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT | mode::SYSTEM | mode::TRANSLATE;
        I8042 {
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            ram,
            output: None,
            late_answer: None,
            last_output: 0,
            awaits: None,
            last_was_command: false,
            self_tested: true,
            a20: true,
            release: false,
            link_free: Vtime(0),
            reset_request: false,
        }
    }

    /// Machine reset.
    pub fn reset(&mut self) {
        *self = I8042::new();
    }

    /// Reads offset 0 (port 0x60) or 4 (port 0x64).
    pub fn read(&mut self, offset: u64, size: u8, now: Vtime) -> u64 {
        self.advance(now);
        bytewise::read(offset, size, |port| match port {
            0 => self.read_data(now),
            4 => self.status(),
            _ => 0xff,
        })
    }

    /// Writes offset 0 (port 0x60) or 4 (port 0x64).
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        self.advance(now);
        bytewise::write(offset, size, value, |port, byte| match port {
            0 => self.write_data(byte, now),
            4 => self.write_command(byte),
            _ => {}
        });
        self.advance(now);
    }

    /// When the output buffer fills or a device has something new.
    pub fn deadline(&self) -> Option<Vtime> {
        let byte_waits = self.late_answer.is_some() || self.keyboard_ready() || self.mouse_ready();
        let load = (self.output.is_none() && byte_waits).then_some(self.link_free);
        [load, self.keyboard.deadline(), self.mouse.deadline()].into_iter().flatten().min()
    }

    /// Lets the devices go on and fills the output buffer.
    pub fn advance(&mut self, now: Vtime) {
        self.keyboard.advance(now);
        self.mouse.advance(now);
        if self.output.is_some() || now < self.link_free {
            return;
        }
        if self.late_answer.is_some() {
            self.output = self.late_answer.take();
        } else if self.keyboard_ready() {
            self.load_from_keyboard();
        } else if self.mouse_ready() {
            self.output = self.mouse.pop().map(|byte| (byte, Source::Mouse));
        }
    }

    /// Level of IRQ 1.
    pub fn line(&self) -> bool {
        matches!(self.output, Some((_, Source::Keyboard))) && self.mode() & mode::KEYBOARD_INTERRUPT != 0
    }

    /// Level of IRQ 12.
    pub fn mouse_line(&self) -> bool {
        matches!(self.output, Some((_, Source::Mouse))) && self.mode() & mode::MOUSE_INTERRUPT != 0
    }

    /// A key by its set 1 code (0xe0xx: extended) goes down or up.
    pub fn key(&mut self, scancode: u16, down: bool, now: Vtime) {
        self.keyboard.key(scancode, down, now);
        self.advance(now);
    }

    /// The mouse moves: right, down, wheel away from the user.
    pub fn mouse_move(&mut self, dx: i32, dy: i32, dz: i32, now: Vtime) {
        self.mouse.move_by(dx, dy, dz);
        self.advance(now);
    }

    /// State of all mouse buttons: bit 0 left, bit 1 right, bit 2 middle.
    pub fn mouse_buttons(&mut self, buttons: u8, now: Vtime) {
        self.mouse.set_buttons(buttons);
        self.advance(now);
    }

    /// Whether the guest has pulsed the reset line since the last call.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset_request)
    }

    /// Whether the output port lets A20 through.
    pub fn a20(&self) -> bool {
        self.a20
    }

    /// Key events that the keyboard takes before new ones are lost.
    pub fn keyboard_room(&self) -> usize {
        self.keyboard.room()
    }

    /// Scroll lock, num lock, caps lock from bit 0 on.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    fn mode(&self) -> u8 {
        self.ram[0]
    }

    fn keyboard_ready(&self) -> bool {
        self.mode() & mode::KEYBOARD_DISABLED == 0 && self.keyboard.has_byte()
    }

    fn mouse_ready(&self) -> bool {
        self.mode() & mode::MOUSE_DISABLED == 0 && self.mouse.has_byte()
    }

    /// With translation on, the release prefix becomes the top bit of the next byte.
    fn load_from_keyboard(&mut self) {
        while let Some(byte) = self.keyboard.pop() {
            if self.mode() & mode::TRANSLATE == 0 {
                self.output = Some((byte, Source::Keyboard));
                return;
            }
            if byte == RELEASE {
                self.release = true;
                continue;
            }
            let release = if std::mem::take(&mut self.release) { 0x80 } else { 0 };
            self.output = Some((scancodes::translate(byte) | release, Source::Keyboard));
            return;
        }
    }

    fn read_data(&mut self, now: Vtime) -> u8 {
        if let Some((byte, _)) = self.output.take() {
            self.last_output = byte;
            self.occupy_link(now);
        }
        self.last_output
    }

    fn occupy_link(&mut self, now: Vtime) {
        self.link_free = Vtime(now.0.saturating_add(BYTE_NS));
    }

    fn status(&self) -> u8 {
        let full = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => status::OUTPUT_FULL,
            Some((_, Source::Mouse)) => status::OUTPUT_FULL | status::FROM_MOUSE,
        };
        let system = if self.self_tested { status::SYSTEM } else { 0 };
        let command = if self.last_was_command { status::LAST_WAS_COMMAND } else { 0 };
        full | system | command | status::UNLOCKED
    }

    /// The controller's own answer comes before bytes of the devices, but takes nothing from the buffer.
    fn answer(&mut self, byte: u8) {
        self.put(byte, Source::Keyboard);
    }

    fn put(&mut self, byte: u8, source: Source) {
        let place = if self.output.is_none() { &mut self.output } else { &mut self.late_answer };
        *place = Some((byte, source));
    }

    fn write_command(&mut self, byte: u8) {
        self.last_was_command = true;
        self.awaits = None;
        match byte {
            0x20..=0x3f => self.answer(self.ram[usize::from(byte & 0x1f)]),
            0x60..=0x7f => self.awaits = Some(byte),
            command::DISABLE_MOUSE => self.ram[0] |= mode::MOUSE_DISABLED,
            command::ENABLE_MOUSE => self.ram[0] &= !mode::MOUSE_DISABLED,
            command::TEST_MOUSE | command::TEST_KEYBOARD => self.answer(INTERFACE_GOOD),
            command::SELF_TEST => {
                self.self_tested = true;
                self.answer(SELF_TEST_PASSED);
            }
            command::DISABLE_KEYBOARD => self.ram[0] |= mode::KEYBOARD_DISABLED,
            command::ENABLE_KEYBOARD => self.ram[0] &= !mode::KEYBOARD_DISABLED,
            command::READ_INPUT_PORT => self.answer(INPUT_PORT),
            command::READ_OUTPUT_PORT => self.answer(self.output_port()),
            command::WRITE_OUTPUT_PORT
            | command::WRITE_KEYBOARD_BUFFER
            | command::WRITE_MOUSE_BUFFER
            | command::WRITE_MOUSE => self.awaits = Some(byte),
            command::DISABLE_A20 => self.a20 = false,
            command::ENABLE_A20 => self.a20 = true,
            // Test inputs: both clocks high unless held.
            command::READ_TEST_INPUTS => self.answer(!(self.mode() >> 4) & 3),
            // Pulses the output port's low bits that are zero.
            0xf0..=0xff => self.reset_request |= byte & output_port::RESET == 0,
            // The reference leaves the rest reserved; controllers ignore it.
            _ => {}
        }
    }

    fn write_data(&mut self, byte: u8, now: Vtime) {
        self.last_was_command = false;
        match self.awaits.take() {
            None => {
                // Sending to a device switches its interface on.
                self.ram[0] &= !mode::KEYBOARD_DISABLED;
                self.keyboard.command(byte);
                self.occupy_link(now);
            }
            Some(command::WRITE_MOUSE) => {
                self.ram[0] &= !mode::MOUSE_DISABLED;
                self.mouse.command(byte);
                self.occupy_link(now);
            }
            Some(command::WRITE_OUTPUT_PORT) => {
                self.a20 = byte & output_port::A20 != 0;
                self.reset_request |= byte & output_port::RESET == 0;
            }
            Some(command::WRITE_KEYBOARD_BUFFER) => self.put(byte, Source::Keyboard),
            Some(command::WRITE_MOUSE_BUFFER) => self.put(byte, Source::Mouse),
            Some(write_ram) => self.write_ram(write_ram & 0x1f, byte),
        }
    }

    fn write_ram(&mut self, index: u8, byte: u8) {
        self.ram[usize::from(index)] = byte;
        if index == 0 {
            self.self_tested = byte & mode::SYSTEM != 0;
            self.release &= byte & mode::TRANSLATE != 0;
        }
    }

    fn output_port(&self) -> u8 {
        let full = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => output_port::KEYBOARD_FULL,
            Some((_, Source::Mouse)) => output_port::MOUSE_FULL,
        };
        output_port::RESET | if self.a20 { output_port::A20 } else { 0 } | full
    }
}

#[cfg(test)]
#[path = "i8042_tests.rs"]
mod tests;
