//! The UARTs as drivers of console back-ends.

use super::error::RunError;
use crate::chipset::Chipset;
use crate::window::session::Session;
use crate::window::{Console, WindowError};
use replay::event::{DeviceIndex, Payload, UsedEntry};
use replay::time::Vtime;
use std::time::Duration;

/// How long the end of a run waits for output to be taken.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Room a UART must have before input is taken from its back-end: all that a window can hold.
const INPUT_ROOM_MIN: usize = 32 << 10;

/// What serves a console: a device process behind its window, or a stand-in inside a test.
pub trait BackEnd {
    /// Takes output. Complete for the guest when it returns; host time may pass meanwhile.
    fn transmit(&mut self, bytes: &[u8]) -> Result<(), WindowError>;

    /// Input since the last call, in order. An entry of length 0 is a break condition.
    fn receive(&mut self) -> Result<Vec<UsedEntry>, WindowError>;

    /// Waits until the host has taken all output; false: not within `timeout`.
    fn drain(&mut self, timeout: Duration) -> Result<bool, WindowError>;

    /// Lets input of the host come from here on.
    fn start_receiving(&mut self) -> Result<(), WindowError>;

    /// Takes another process in its place.
    fn reconnect(&mut self, session: Session) -> Result<(), WindowError>;
}

impl BackEnd for Console {
    fn transmit(&mut self, bytes: &[u8]) -> Result<(), WindowError> {
        Console::transmit(self, bytes)
    }

    fn receive(&mut self) -> Result<Vec<UsedEntry>, WindowError> {
        Console::receive(self)
    }

    fn drain(&mut self, timeout: Duration) -> Result<bool, WindowError> {
        Console::drain(self, timeout)
    }

    fn start_receiving(&mut self) -> Result<(), WindowError> {
        Console::start_receiving(self)
    }

    fn reconnect(&mut self, session: Session) -> Result<(), WindowError> {
        self.window().reconnect(session)
    }
}

/// One device process that serves consoles.
struct Port {
    device: DeviceIndex,
    back_end: Option<Box<dyn BackEnd>>,
}

/// Console back-ends by UART number; the debug console comes after them.
#[derive(Default)]
pub struct Consoles {
    ports: Vec<Option<Port>>,
    debug: Option<Port>,
    /// What the guest writes is not shown.
    hidden: bool,
}

impl Consoles {
    /// Connects UARTs and debug console to the back-ends; `open` gives each back-end away once.
    pub fn new(
        uarts: &[Option<DeviceIndex>],
        debug: Option<DeviceIndex>,
        mut open: impl FnMut(DeviceIndex) -> Option<Box<dyn BackEnd>>,
    ) -> Consoles {
        let mut port = |device: DeviceIndex| Port { device, back_end: open(device) };
        Consoles {
            ports: uarts.iter().map(|uart| uart.map(&mut port)).collect(),
            debug: debug.map(&mut port),
            hidden: false,
        }
    }

    /// The back-end of a device.
    pub fn back_end(&mut self, device: DeviceIndex) -> Option<&mut Box<dyn BackEnd>> {
        let mut ports = self.ports.iter_mut().chain([&mut self.debug]).flatten();
        ports.find(|port| port.device == device)?.back_end.as_mut()
    }

    /// Gives received bytes to the UART behind `device`; none of them is a break condition.
    pub fn input(&self, chipset: &mut Chipset, device: DeviceIndex, bytes: &[u8], now: Vtime) {
        let uart = self.ports.iter().position(|port| port.as_ref().is_some_and(|port| port.device == device));
        if let Some(uart) = uart {
            // `take_input` made sure of the room; what a foreign log brings beyond it is lost, the same in every replay.
            if bytes.is_empty() {
                chipset.uart_receive_break(uart as u8, now);
            } else {
                chipset.uart_receive(uart as u8, bytes, now);
            }
        }
    }

    /// Lets the back-ends take input: not called in a replay.
    pub fn start_receiving(&mut self) -> Result<(), RunError> {
        for port in self.ports.iter_mut().flatten() {
            if let Some(back_end) = &mut port.back_end {
                back_end.start_receiving()?;
            }
        }
        Ok(())
    }

    /// Input that the back-end of `device` has put in its window, as far as the UART has room.
    pub fn take_input(&mut self, chipset: &Chipset, device: DeviceIndex) -> Result<Vec<UsedEntry>, RunError> {
        for (uart, port) in self.ports.iter_mut().enumerate() {
            match port {
                Some(Port { device: d, back_end: Some(back_end) })
                    if *d == device && chipset.uart_room(uart as u8) >= INPUT_ROOM_MIN =>
                {
                    return Ok(back_end.receive()?);
                }
                _ => {}
            }
        }
        Ok(vec![])
    }

    /// Hides what the guest writes from here on, or shows it.
    pub fn hide(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    /// Sends what the guest wrote.
    pub fn flush(&mut self, chipset: &mut Chipset) -> Result<(), RunError> {
        let hidden = self.hidden;
        for (uart, port) in self.ports.iter_mut().enumerate() {
            let bytes = chipset.take_uart_output(uart as u8);
            if let (Some(Port { back_end: Some(back_end), .. }), false) = (port, hidden || bytes.is_empty()) {
                back_end.transmit(&bytes)?;
            }
        }
        let bytes = chipset.take_debug_output();
        if let (Some(Port { back_end: Some(back_end), .. }), false) =
            (&mut self.debug, hidden || bytes.is_empty())
        {
            back_end.transmit(&bytes)?;
        }
        Ok(())
    }

    /// Waits until the back-ends have taken all output.
    pub fn drain(&mut self) -> Result<(), RunError> {
        for port in self.ports.iter_mut().chain([&mut self.debug]).flatten() {
            if let Some(back_end) = &mut port.back_end {
                back_end.drain(DRAIN_TIMEOUT)?;
            }
        }
        Ok(())
    }
}

/// The bytes of a console's receive completion. Consoles have the data policy; a digest would be a foreign log.
pub fn received(entries: &[UsedEntry]) -> impl Iterator<Item = &[u8]> {
    entries.iter().filter_map(|entry| match &entry.payload {
        Payload::Data(bytes) => Some(bytes.as_slice()),
        Payload::Digest(_) => None,
    })
}
