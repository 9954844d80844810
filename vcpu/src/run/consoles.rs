//! The UARTs as drivers of console back-ends.

use super::error::RunError;
use crate::chipset::Chipset;
use crate::window::session::Session;
use crate::window::{Console, WindowError};
use replay::event::{DeviceIndex, Payload, UsedEntry};
use replay::time::Vtime;
use std::time::Duration;

/// How long a replay that stands still, or the end of a run that the guest brought about, waits for output to be taken.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where somebody waits for the end.
pub const QUIT_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks for room while the machine stands still.
const BACKLOG_NAP: Duration = Duration::from_millis(10);

/// Room a UART must have before input is taken from its back-end: all that a window can hold.
const INPUT_ROOM_MIN: usize = 32 << 10;

/// What serves a console: a device process behind its window, or a stand-in inside a test.
pub trait BackEnd {
    /// Takes output, as much as there is room for: the number of bytes.
    fn transmit(&mut self, bytes: &[u8]) -> Result<usize, WindowError>;

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
    fn transmit(&mut self, bytes: &[u8]) -> Result<usize, WindowError> {
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
    /// What the guest wrote and the back-end had no room for.
    backlog: Vec<u8>,
}

impl Port {
    /// Sends what the guest wrote, after what it wrote before.
    fn send(&mut self, bytes: &[u8]) -> Result<(), WindowError> {
        let Some(back_end) = &mut self.back_end else { return Ok(()) };
        if self.backlog.is_empty() {
            let taken = if bytes.is_empty() { 0 } else { back_end.transmit(bytes)? };
            self.backlog.extend_from_slice(&bytes[taken..]);
        } else {
            self.backlog.extend_from_slice(bytes);
            let taken = back_end.transmit(&self.backlog)?;
            self.backlog.drain(..taken);
        }
        Ok(())
    }

    /// Waits until the back-end has taken everything; false: it did not even take a window full in time.
    fn drain(&mut self, timeout: Duration) -> Result<bool, WindowError> {
        loop {
            self.send(&[])?;
            let Some(back_end) = &mut self.back_end else { return Ok(true) };
            if !back_end.drain(timeout)? {
                return Ok(false);
            }
            if self.backlog.is_empty() {
                return Ok(true);
            }
        }
    }
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
        let mut port = |device: DeviceIndex| Port { device, back_end: open(device), backlog: Vec::new() };
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
                Some(Port { device: d, back_end: Some(back_end), .. })
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
        let shown = |bytes: Vec<u8>| if hidden { Vec::new() } else { bytes };
        for (uart, port) in self.ports.iter_mut().enumerate() {
            let bytes = shown(chipset.take_uart_output(uart as u8));
            if let Some(port) = port {
                port.send(&bytes)?;
            }
        }
        let bytes = shown(chipset.take_debug_output());
        if let Some(port) = &mut self.debug {
            port.send(&bytes)?;
        }
        Ok(())
    }

    /// A back-end that has no room for what the guest wrote. The guest stands still until it has.
    pub fn backlogged(&self) -> Option<DeviceIndex> {
        let mut ports = self.ports.iter().chain([&self.debug]).flatten();
        ports.find(|port| !port.backlog.is_empty()).map(|port| port.device)
    }

    /// How long a machine that stands still may sleep: what has had no room is to be sent all the same.
    pub fn nap(&self) -> Option<Duration> {
        self.backlogged().map(|_| BACKLOG_NAP)
    }

    /// Waits until the back-ends have taken all output, or one of them takes none for this long.
    pub fn drain(&mut self, mut timeout: Duration) -> Result<(), RunError> {
        for port in self.ports.iter_mut().chain([&mut self.debug]).flatten() {
            if !port.drain(timeout)? {
                timeout = Duration::ZERO;
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
