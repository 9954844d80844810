//! Commands to a network function (virtio 1.2, 5.1.6.5).

use super::ring::{self, RingFault};
use super::service::{pop, put};
use crate::core::Core;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI,
    VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

/// Answers all commands that wait in a function's control queue.
pub fn serve(core: &mut Core, index: usize, queue: u16) -> Result<(), RingFault> {
    while let Some(chain) = pop(core, index, queue)? {
        let answer = [answer(&ring::gather(&core.mem.ram, &chain.readable))];
        ring::scatter(&mut core.mem.ram, &chain.writable, &answer);
        let length = ring::length(&chain.writable).min(answer.len() as u32);
        put(core, index, queue, chain.head, length)?;
    }
    Ok(())
}

/// The acknowledgement of a command.
///
/// Filters are accepted and not applied: a device may always pass more than it was asked for (virtio 1.2, 5.1.6.5.1).
pub fn answer(command: &[u8]) -> u8 {
    let &[class, code, ref data @ ..] = command else { return VIRTIO_NET_ERR as u8 };
    let (class, code) = (u32::from(class), u32::from(code));
    let known = match class {
        VIRTIO_NET_CTRL_RX => {
            matches!(code, VIRTIO_NET_CTRL_RX_PROMISC | VIRTIO_NET_CTRL_RX_ALLMULTI)
                && matches!(data, [0 | 1])
        }
        VIRTIO_NET_CTRL_MAC => code == VIRTIO_NET_CTRL_MAC_TABLE_SET && is_table(data),
        _ => false,
    };
    if known { VIRTIO_NET_OK as u8 } else { VIRTIO_NET_ERR as u8 }
}

/// Two tables, unicast and multicast, each a count and as many addresses.
fn is_table(data: &[u8]) -> bool {
    let rest = |data: &[u8]| -> Option<Vec<u8>> {
        let count = u32::from_le_bytes(data.get(..4)?.try_into().ok()?) as usize;
        Some(data.get(4 + count.checked_mul(6)?..)?.to_vec())
    };
    rest(data).and_then(|multicast| rest(&multicast)).is_some_and(|rest| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_offered_is_refused() {
        assert_eq!(answer(&[0, 0, 1]), 0, "promiscuous on");
        assert_eq!(answer(&[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6]), 0, "one multicast address");
        for bad in [
            &[][..],
            &[0],
            &[0, 0],
            &[0, 0, 2],
            &[0, 5, 1],
            &[1, 0, 255, 255, 255, 255],
            &[1, 1, 1, 2, 3, 4, 5, 6],
            &[4, 0, 1, 0],
        ] {
            assert_eq!(answer(bad), 1, "{bad:?}");
        }
    }
}
