//! A disk back-end that lies in its used ring, written by hand: refused by name, and the recording is kept.

use crate::disk::{PATIENCE, guests, start};
use crate::lab::Lab;
use devices::lifetime::Stop;
use devices::rings::{self, Used};
use devices::serve::{self, Backend, Queues};
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;
use vhost_user_backend::VringT;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

#[derive(Clone, Copy)]
enum Lie {
    /// The used index jumps.
    Index,
    /// A descriptor that is not outstanding.
    Id,
    /// More bytes than the buffer has.
    Length,
}

struct Liar(Lie);

impl Backend for Liar {
    fn queues(&self) -> usize {
        1
    }
    fn config(&self) -> Vec<u8> {
        // 64 MiB.
        let mut config = (64u64 << 11).to_le_bytes().to_vec();
        config.resize(60, 0);
        config
    }
    fn poll_fd(&self) -> Option<RawFd> {
        None
    }
    fn kicked(&mut self, _queue: usize, queues: &Queues) -> Result<(), String> {
        let ring = &queues.rings[0];
        let Some(chain) = rings::pop_chain(queues, ring)? else { return Ok(()) };
        match self.0 {
            Lie::Id => rings::publish(queues, ring, &[Used { head: chain.head ^ 1, length: 1 }]),
            Lie::Length => rings::publish(queues, ring, &[Used { head: chain.head, length: 0x7fff_ffff }]),
            Lie::Index => {
                let used = ring.get_ref().get_queue().used_ring();
                queues.memory.memory().write_obj(500u16, GuestAddress(used + 2)).unwrap();
                ring.signal_used_queue().map_err(|error| error.to_string())
            }
        }
    }
    fn woken(&mut self, _queues: &Queues) -> Result<(), String> {
        Ok(())
    }
    fn finish(&mut self, _queues: &Queues, _deadline: Instant) -> Result<(), String> {
        Ok(())
    }
}

fn refused(lie: Lie, line: &str) {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.path("S")).unwrap();
    let liar = std::thread::spawn(move || serve::serve(listener, Liar(lie), "liar", &Stop::default()));
    let more = "-chardev socket,id=c,path=S -device vhost-user-blk-pci,chardev=c -icount shift=auto,rr=record,rrfile=rec";
    let done = start(&lab, &guests, "nothing", more).end(PATIENCE).with_status(1);
    assert!(done.err.contains(line), "{}", done.err);
    liar.join().unwrap().unwrap();
    lab.start("replay rec").end(PATIENCE).well().same_output(&done);
}

#[test]
fn a_used_index_that_jumps() {
    refused(Lie::Index, "c: queue 0: used index 500 from the back-end, but only ");
}

#[test]
fn a_descriptor_that_is_not_outstanding() {
    refused(Lie::Id, "c: queue 0: used element 0 from the back-end names descriptor ");
}

#[test]
fn a_length_beyond_the_buffer() {
    refused(Lie::Length, "c: queue 0: used element 0 from the back-end has 2147483647 bytes, the buffer ");
}
