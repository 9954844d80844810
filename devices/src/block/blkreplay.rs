//! The ordering discipline over any disk, without which a re-executed request could have another result.
//!
//! - Requests of a queue take effect in the order in which the driver submitted them: the order of the available ring.
//!   One is carried out to its end before the next one is looked at; nothing overlaps.
//! - They are given back in the same order, whatever they were.
//! - So contents and results are functions of the image and of what was submitted, not of how fast a host disk is, and
//!   a recording needs a digest of the results only.
//! - Several queues share the disk and the one thread, request by request. Which of two queues is looked at first
//!   depends on when their kicks arrive: the device knows no order between them. A front-end that wants one
//!   submits to the next queue after the answer of the one before. The front-end in the vCPU process does that.
//!
//! Not here: digests and the journal. They are made where the results enter the machine.

use super::disk::Disk;
use super::request::Request;
use crate::rings::{Chain, Used};
use vm_memory::{Bytes, GuestMemoryMmap};

/// Carries out requests in order.
pub struct Blkreplay {
    disk: Disk,
    /// Position of the next request of each queue; `None`: the queue starts anew.
    next: Vec<Option<u16>>,
}

impl Blkreplay {
    /// Order over `disk` for a number of queues.
    pub fn new(disk: Disk, queues: usize) -> Blkreplay {
        Blkreplay { disk, next: vec![None; queues] }
    }

    /// The disk, for what is not a request.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// `queue` is stopped; wherever it starts again is right.
    pub fn forget(&mut self, queue: usize) {
        if let Some(next) = self.next.get_mut(queue) {
            *next = None;
        }
    }

    /// Carries out one request of `queue`, with all it writes to memory, and says how to give it back.
    ///
    /// # Errors
    /// It is not this request's turn.
    pub fn perform(
        &mut self,
        queue: usize,
        chain: &Chain,
        request: &Request,
        memory: &GuestMemoryMmap,
    ) -> Result<Used, String> {
        self.take_turn(queue, chain.position)?;
        let status = match &request.operation {
            Ok(operation) => self.disk.perform(operation, memory),
            Err(status) => *status,
        };
        Ok(Used { head: chain.head, length: request.answer(status, memory) })
    }

    fn take_turn(&mut self, queue: usize, position: u16) -> Result<(), String> {
        let next = self.next.get_mut(queue).ok_or_else(|| format!("there is no queue {queue}"))?;
        match next.replace(position.wrapping_add(1)) {
            Some(expected) if expected != position => {
                Err(format!("request {position} of queue {queue} came when it was the turn of {expected}"))
            }
            _ => Ok(()),
        }
    }
}

impl Request {
    /// Writes the status, and zeros where a failed request has no data; the answer is the number of bytes written.
    fn answer(&self, status: u8, memory: &GuestMemoryMmap) -> u32 {
        let Some(status_at) = self.status_at else { return 0 };
        if status != super::disk::OK {
            self.clear_room(memory);
        }
        // A status that has no memory to go to: the driver learns nothing but that the request is over.
        match memory.write_obj(status, status_at) {
            Ok(()) => u32::try_from(self.answer_length()).unwrap_or(u32::MAX),
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::complaints::Complaints;
    use super::super::disk::{Behaviour, Discard, ID_BYTES, OK};
    use super::super::open;
    use super::super::request::{IOERR, Operation};
    use super::*;
    use vm_memory::GuestAddress;

    fn order() -> (Blkreplay, GuestMemoryMmap) {
        let behaviour = Behaviour {
            serial: [0; ID_BYTES],
            discard: Discard::Unmap,
            flush_to_disk: true,
            restartable: false,
        };
        let disk = Disk::new(open::open_memory(8192, None).unwrap(), behaviour, Complaints::new("test"));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        (Blkreplay::new(disk, 2), memory)
    }

    fn request(operation: Result<Operation, u8>) -> Request {
        Request { operation, status_at: Some(GuestAddress(0x100)), room: vec![(GuestAddress(0x200), 512)] }
    }

    fn chain(position: u16) -> Chain {
        Chain { position, head: 7, sound: true, ..Chain::default() }
    }

    #[test]
    fn each_queue_has_its_own_order_and_nobody_overtakes() {
        let (mut order, memory) = order();
        let flush = request(Ok(Operation::Flush));
        let mut perform = |queue, position| order.perform(queue, &chain(position), &flush, &memory);
        assert_eq!(perform(0, 65534), Ok(Used { head: 7, length: 513 }));
        assert!(perform(1, 3).is_ok() && perform(0, 65535).is_ok() && perform(0, 0).is_ok());
        let message = perform(0, 2).unwrap_err();
        assert_eq!(message, "request 2 of queue 0 came when it was the turn of 1");
        assert!(perform(1, 4).is_ok());
        assert!(perform(2, 0).unwrap_err().contains("no queue 2"));
        order.forget(1);
        assert!(order.perform(1, &chain(0), &flush, &memory).is_ok(), "a queue that starts anew");
    }

    #[test]
    fn requests_see_those_before_them() {
        let (mut order, memory) = order();
        let data = vec![(GuestAddress(0x1000), 512)];
        memory.write_slice(&[5; 512], GuestAddress(0x1000)).unwrap();
        let write = request(Ok(Operation::Write { offset: 1024, from: data }));
        let read = request(Ok(Operation::Read { offset: 1024, into: vec![(GuestAddress(0x200), 512)] }));
        let status = |memory: &GuestMemoryMmap| memory.read_obj::<u8>(GuestAddress(0x100)).unwrap();
        for (position, request, wanted) in [(0, &read, 0), (1, &write, 0), (2, &read, 5)] {
            order.perform(0, &chain(position), request, &memory).unwrap();
            let mut found = [0xee; 512];
            memory.read_slice(&mut found, GuestAddress(0x200)).unwrap();
            assert_eq!((status(&memory), found), (OK, [wanted; 512]));
        }
        order.perform(0, &chain(3), &request(Err(IOERR)), &memory).unwrap();
        assert_eq!(status(&memory), IOERR);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x200)).unwrap(), 0, "old data is not shown");
        let nowhere = Request { status_at: None, ..request(Ok(Operation::Flush)) };
        assert_eq!(order.perform(0, &chain(4), &nowhere, &memory), Ok(Used { head: 7, length: 0 }));
    }
}
