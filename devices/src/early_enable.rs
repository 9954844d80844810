//! QEMU enables the rings of a network device before it has set features.
//!
//! virtio-net does so when the machine is made and at each reset, the protocol allows SET_VRING_ENABLE only once
//! VHOST_USER_F_PROTOCOL_FEATURES was acknowledged, and vhost-user-backend hangs up on whoever does not wait. Acknowledging that one bit
//! on QEMU's behalf says nothing about the device: the real SET_FEATURES follows before any ring is used.

use vhost::vhost_user::message::{FrontendReq, MAX_MSG_SIZE, VhostUserVirtioFeatures};

/// Bytes of the header of a message: request, flags, size of the rest; each 32 bits.
pub const HEADER_SIZE: usize = 12;
/// `flags` of a request without any: the version of the protocol.
const VERSION: u32 = 1;
/// Bytes of SET_FEATURES.
const SET_FEATURES_SIZE: usize = HEADER_SIZE + 8;

/// What has been said so far.
#[derive(Default)]
pub struct Dialogue {
    features_set: bool,
    insertion: [u8; SET_FEATURES_SIZE],
}

impl Dialogue {
    /// A request starts with `header`: what is to be said before it, and how many bytes follow the header. `None`: more than any
    /// request has.
    pub fn next(&mut self, header: &[u8]) -> Option<(&[u8], usize)> {
        let field = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (request, size) = (field(0), field(8) as usize);
        if size > MAX_MSG_SIZE {
            return None;
        }
        let is = |code: FrontendReq| request == u32::from(code);
        let needed = is(FrontendReq::SET_VRING_ENABLE) && !self.features_set;
        self.features_set |= is(FrontendReq::SET_FEATURES) || needed;
        if !needed {
            return Some((&[], size));
        }
        let bits = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.insertion[..4].copy_from_slice(&u32::from(FrontendReq::SET_FEATURES).to_ne_bytes());
        self.insertion[4..8].copy_from_slice(&VERSION.to_ne_bytes());
        self.insertion[8..HEADER_SIZE].copy_from_slice(&8u32.to_ne_bytes());
        self.insertion[HEADER_SIZE..].copy_from_slice(&bits.to_ne_bytes());
        Some((&self.insertion, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(request: FrontendReq, size: u32) -> Vec<u8> {
        [u32::from(request), VERSION, size].iter().flat_map(|field| field.to_ne_bytes()).collect()
    }

    #[test]
    fn features_come_before_the_first_ring() {
        let mut dialogue = Dialogue::default();
        assert_eq!(dialogue.next(&header(FrontendReq::GET_FEATURES, 0)), Some((&[][..], 0)));
        let mut wanted = header(FrontendReq::SET_FEATURES, 8);
        wanted.extend(0x4000_0000u64.to_ne_bytes());
        assert_eq!(dialogue.next(&header(FrontendReq::SET_VRING_ENABLE, 8)), Some((&wanted[..], 8)));
        assert_eq!(dialogue.next(&header(FrontendReq::SET_VRING_ENABLE, 8)), Some((&[][..], 8)));
    }

    #[test]
    fn who_keeps_the_order_is_left_alone() {
        let mut dialogue = Dialogue::default();
        for request in [FrontendReq::SET_FEATURES, FrontendReq::SET_VRING_ENABLE] {
            assert_eq!(dialogue.next(&header(request, 8)), Some((&[][..], 8)));
        }
        assert_eq!(dialogue.next(&header(FrontendReq::SET_FEATURES, 0x10_0000)), None);
    }
}
