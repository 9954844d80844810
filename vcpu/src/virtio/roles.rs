//! Who serves which virtqueue of a function.

use replay::device::VirtioKind;
use replay::event::DeviceIndex;

/// Control queue of a network function with one queue pair (virtio 1.2, 5.1.2).
const NET_TRANSMIT: u16 = 1;
const NET_CONTROL: u16 = 2;
/// Control queues of a console (virtio 1.2, 5.3.2).
const CONSOLE_TO_GUEST: u16 = 2;
const CONSOLE_FROM_GUEST: u16 = 3;

/// Who serves a virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A back-end, in its time: an event brings the answer.
    BackEnd {
        /// Which.
        device: DeviceIndex,
        /// Queue of its window.
        queue: u16,
    },
    /// A back-end that only takes: the request is complete when it was copied.
    Outward {
        /// Which.
        device: DeviceIndex,
        /// Queue of its window.
        queue: u16,
    },
    /// This process: commands to a network function.
    NetControl,
    /// This process: messages to the guest of a console.
    ConsoleToGuest,
    /// This process: messages of the guest to a console.
    ConsoleFromGuest,
    /// Nobody: there is no such port.
    Nobody,
}

/// Who serves `queue` of a function.
pub fn role(kind: &VirtioKind, queue: u16) -> Role {
    match kind {
        // All queues of a disk go through one, so that its requests have one order.
        VirtioKind::Block { device, .. } => Role::BackEnd { device: *device, queue: 0 },
        VirtioKind::Entropy { device } | VirtioKind::Other { device, .. } => {
            Role::BackEnd { device: *device, queue }
        }
        VirtioKind::Net { device, .. } => match queue {
            NET_TRANSMIT => Role::Outward { device: *device, queue },
            NET_CONTROL => Role::NetControl,
            _ => Role::BackEnd { device: *device, queue },
        },
        VirtioKind::Console { ports } => {
            let number = match queue {
                CONSOLE_TO_GUEST => return Role::ConsoleToGuest,
                CONSOLE_FROM_GUEST => return Role::ConsoleFromGuest,
                0 | 1 => 0,
                _ => queue / 2 - 1,
            };
            match ports.iter().find(|port| port.number == number) {
                Some(port) if queue.is_multiple_of(2) => Role::BackEnd { device: port.device, queue: 0 },
                Some(port) => Role::Outward { device: port.device, queue: 1 },
                None => Role::Nobody,
            }
        }
    }
}

/// The queue of a back-end which serves `queue` of a function itself, and whether it only takes.
pub fn shared_queue(kind: &VirtioKind, queue: u16) -> Option<(DeviceIndex, u16, bool)> {
    match (kind, role(kind, queue)) {
        // The guest's queues are those of the disk: nothing asks for one order in a run that is not recorded.
        (VirtioKind::Block { .. }, Role::BackEnd { device, .. }) => Some((device, queue, false)),
        (_, Role::BackEnd { device, queue }) => Some((device, queue, false)),
        (_, Role::Outward { device, queue }) => Some((device, queue, true)),
        (_, Role::NetControl | Role::ConsoleToGuest | Role::ConsoleFromGuest | Role::Nobody) => None,
    }
}

/// Queues of the window of `device`: number, and whether it only takes.
pub fn window_queues(kind: &VirtioKind, device: DeviceIndex) -> Vec<(u16, bool)> {
    let count = kind.back_ends().iter().find(|(index, _)| *index == device).map_or(0, |(_, count)| *count);
    let outward = |queue| match kind {
        VirtioKind::Net { .. } | VirtioKind::Console { .. } => queue == 1,
        VirtioKind::Block { .. } | VirtioKind::Entropy { .. } | VirtioKind::Other { .. } => false,
    };
    (0..count).map(|queue| (queue, outward(queue))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use replay::device::ConsolePort;

    #[test]
    fn console_ports_have_the_queues_of_the_specification() {
        let port = |number, device| ConsolePort { number, device, name: None, console: false };
        let kind = VirtioKind::Console { ports: vec![port(0, 7), port(2, 9)] };
        let roles: Vec<Role> = (0..8).map(|queue| role(&kind, queue)).collect();
        let (to, from) =
            (|device| Role::BackEnd { device, queue: 0 }, |device| Role::Outward { device, queue: 1 });
        let expected = [
            to(7),
            from(7),
            Role::ConsoleToGuest,
            Role::ConsoleFromGuest,
            Role::Nobody,
            Role::Nobody,
            to(9),
            from(9),
        ];
        assert_eq!(roles, expected);
        assert_eq!(kind.queue_count(), 8);
    }

    #[test]
    fn a_disk_has_one_order() {
        let kind = VirtioKind::Block { device: 3, queues: 4 };
        assert!((0..4).all(|queue| role(&kind, queue) == Role::BackEnd { device: 3, queue: 0 }));
        assert_eq!(window_queues(&kind, 3), [(0, false)]);
    }
}
