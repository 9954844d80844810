//! The host's side of the UARTs, the debug console, keyboard, mouse and the RTC.

use super::Chipset;
use replay::event::Input;
use replay::time::Vtime;

impl Chipset {
    /// Takes what the guest has sent on UART `number`.
    pub fn take_uart_output(&mut self, number: u8) -> Vec<u8> {
        self.uarts.get_mut(usize::from(number)).map(|uart| uart.take_output()).unwrap_or_default()
    }

    /// How many bytes UART `number` takes from the host now.
    pub fn uart_room(&self, number: u8) -> usize {
        self.uarts.get(usize::from(number)).map_or(0, |uart| uart.room())
    }

    /// Gives bytes from the host to UART `number`; returns how many fitted.
    pub fn uart_receive(&mut self, number: u8, bytes: &[u8], now: Vtime) -> usize {
        self.catch_up(now);
        let Some(uart) = self.uarts.get_mut(usize::from(number)) else { return 0 };
        let taken = uart.receive(bytes, now);
        self.settle();
        taken
    }

    /// Gives a break condition to UART `number`; false when there is no room.
    pub fn uart_receive_break(&mut self, number: u8, now: Vtime) -> bool {
        self.catch_up(now);
        let Some(uart) = self.uarts.get_mut(usize::from(number)) else { return false };
        let taken = uart.receive_break(now);
        self.settle();
        taken
    }

    /// Takes what the guest has written to the debug console.
    pub fn take_debug_output(&mut self) -> Vec<u8> {
        self.debug_console.take_output()
    }

    /// Gives keyboard or mouse input to the guest.
    pub fn input(&mut self, input: &Input, now: Vtime) {
        self.catch_up(now);
        match *input {
            Input::Key { scancode, down } => self.i8042.key(scancode, down, now),
            Input::MouseMove { dx, dy, dz } => self.i8042.mouse_move(dx, dy, dz, now),
            Input::MouseButtons { buttons } => self.i8042.mouse_buttons(buttons, now),
        }
        self.settle();
    }

    /// Tells the RTC what the host's clock shows, in nanoseconds since 1970. One on guest time does not listen.
    pub fn follow_host_clock(&mut self, unix_ns: u64, now: Vtime) {
        self.catch_up(now);
        self.rtc.follow_host(unix_ns, now);
        self.settle();
    }

    /// Key events that the keyboard takes before new ones are lost.
    pub fn keyboard_room(&self) -> usize {
        self.i8042.keyboard_room()
    }

    /// The keyboard's LEDs: scroll lock, num lock, caps lock from bit 0 on.
    pub fn keyboard_leds(&self) -> u8 {
        self.i8042.leds()
    }
}
