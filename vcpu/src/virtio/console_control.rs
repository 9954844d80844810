//! Messages between a console with several ports and its driver (virtio 1.2, 5.3.6.2).

use super::ring::{self, RingFault};
use super::service::{pop, put};
use crate::core::Core;
use replay::device::ConsolePort;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Events (virtio 1.2, 5.3.6.2).
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Most messages that wait for buffers; a driver that asks for more gets no answer.
const WAITING_MAX: usize = 1024;
/// Port number, event, value.
const MESSAGE_SIZE: usize = 8;

/// Messages to the driver that wait for its buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleControl {
    /// In order.
    pub waiting: VecDeque<Vec<u8>>,
}

impl ConsoleControl {
    /// Takes a message of the driver.
    pub fn take(&mut self, ports: &[ConsolePort], message: &[u8]) {
        let Some(&[a, b, c, d, e, f, g, h]) = message.first_chunk::<MESSAGE_SIZE>() else { return };
        let (id, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        let value = u16::from_le_bytes([g, h]);
        match event {
            DEVICE_READY if value == 1 => {
                ports.iter().for_each(|port| self.say(port, PORT_ADD, 1, &[]));
            }
            PORT_READY if value == 1 => {
                if let Some(port) = ports.iter().find(|port| u32::from(port.number) == id) {
                    self.introduce(port);
                }
            }
            // Opened and closed ports are served alike; the rest is for the device to say.
            _ => {}
        }
    }

    fn introduce(&mut self, port: &ConsolePort) {
        if port.console {
            self.say(port, CONSOLE_PORT, 1, &[]);
        }
        if let Some(name) = &port.name {
            self.say(port, PORT_NAME, 1, name.as_bytes());
        }
        self.say(port, PORT_OPEN, 1, &[]);
    }

    fn say(&mut self, port: &ConsolePort, event: u16, value: u16, rest: &[u8]) {
        if self.waiting.len() == WAITING_MAX {
            return;
        }
        let mut message = u32::from(port.number).to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(rest);
        self.waiting.push_back(message);
    }
}

/// Gives the driver of a console its messages while it has buffers for them.
pub fn talk_to_guest(core: &mut Core, index: usize, queue: u16) -> Result<(), RingFault> {
    while !core.virtio.functions[index].console.waiting.is_empty() {
        let Some(chain) = pop(core, index, queue)? else { break };
        let message = core.virtio.functions[index].console.waiting.pop_front().unwrap_or_default();
        ring::scatter(&mut core.mem.ram, &chain.writable, &message);
        let length = ring::length(&chain.writable).min(message.len() as u32);
        put(core, index, queue, chain.head, length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u32, event: u16, value: u16) -> Vec<u8> {
        [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat()
    }

    #[test]
    fn ports_are_added_and_introduced() {
        let ports = [
            ConsolePort { number: 0, device: 0, name: None, console: true },
            ConsolePort { number: 1, device: 1, name: Some("org.example.0".into()), console: false },
        ];
        let mut control = ConsoleControl::default();
        control.take(&ports, &message(0xffff_ffff, DEVICE_READY, 1));
        assert_eq!(control.waiting.drain(..).collect::<Vec<_>>(), [message(0, 1, 1), message(1, 1, 1)]);
        control.take(&ports, &message(0, PORT_READY, 1));
        control.take(&ports, &message(1, PORT_READY, 1));
        let mut name = message(1, 7, 1);
        name.extend(b"org.example.0");
        let expected = [message(0, 4, 1), message(0, 6, 1), name, message(1, 6, 1)];
        assert_eq!(control.waiting.drain(..).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_driver_that_talks_too_much_is_not_answered() {
        let ports = [ConsolePort { number: 0, device: 0, name: None, console: true }];
        let mut control = ConsoleControl::default();
        for _ in 0..5000 {
            control.take(&ports, &message(0, PORT_READY, 1));
            control.take(&ports, b"short");
            control.take(&ports, &message(9, PORT_READY, 1));
        }
        assert_eq!(control.waiting.len(), WAITING_MAX);
    }
}
