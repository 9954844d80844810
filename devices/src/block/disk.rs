//! The disk that the driver sees: carries operations out on an image.
//!
//! What a request does is a function of the image and of the requests before it: a range is zero after
//! DISCARD (or untouched, with `Discard::Ignore`), and a read that failed returns zeros, never half of something.
//! Only whether the host's I/O fails comes from outside; it is reported in the status, as QEMU's `werror=report`.

use super::complaints::Complaints;
use super::image::Image;
use super::request::{IOERR, Operation, Range};
use super::upkeep::Upkeep;
use crate::rings::Segment;
use std::io;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// Status of a request that was carried out.
pub const OK: u8 = 0;
/// Bytes of a serial number (virtio 1.2, 5.2.6).
pub const ID_BYTES: usize = 20;

/// What DISCARD does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Discard {
    /// Nothing; the contents stay.
    Ignore,
    /// Gives storage back; the range reads as zeros.
    Unmap,
}

/// How a disk behaves, apart from its image.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Answer to GET_ID.
    pub serial: [u8; ID_BYTES],
    /// What DISCARD does.
    pub discard: Discard,
    /// Whether FLUSH waits for the host's disk.
    pub flush_to_disk: bool,
    /// What a request changed is the host's before the request is complete: it survives the death of this process.
    pub restartable: bool,
}

/// An image and how it is to behave.
pub struct Disk {
    image: Image,
    behaviour: Behaviour,
    /// Every write is flushed at once: the driver cannot or does not flush by itself.
    pub write_through: bool,
    complaints: Complaints,
    upkeep: Upkeep,
}

impl Disk {
    /// A disk with the contents of `image`.
    pub fn new(image: Image, behaviour: Behaviour, complaints: Complaints) -> Disk {
        Disk { image, behaviour, write_through: false, complaints, upkeep: Upkeep::default() }
    }

    /// The same with more to do beside its requests.
    pub fn with_upkeep(self, upkeep: Upkeep) -> Disk {
        Disk { upkeep, ..self }
    }

    /// Whether there is something to do between requests.
    pub fn is_busy(&self) -> bool {
        self.upkeep.is_busy()
    }

    /// Does a little of it.
    pub fn step(&mut self) {
        self.upkeep.step(&mut self.image);
    }

    /// Carries out one operation, to its end; the answer is its status.
    pub fn perform(&mut self, operation: &Operation, memory: &GuestMemoryMmap) -> u8 {
        match operation {
            Operation::Read { offset, into } => self.read(*offset, into, memory),
            Operation::Write { offset, from } => self.write(*offset, from, memory),
            Operation::Flush => self.flush(),
            Operation::GetId { into } => self.get_id(into, memory),
            Operation::Discard(ranges) if self.behaviour.discard == Discard::Unmap => {
                self.zero("discard", ranges, |_| true)
            }
            Operation::Discard(_) => OK,
            Operation::WriteZeroes(ranges) => {
                let may_unmap = self.behaviour.discard == Discard::Unmap;
                self.zero("write zeroes", ranges, |range| range.unmap && may_unmap)
            }
        }
    }

    fn flush(&mut self) -> u8 {
        let result = self.image.flush(self.behaviour.flush_to_disk);
        self.status(result, || "flush".to_string())
    }

    /// The last flush, and the last complaints.
    pub fn close(&mut self) -> Result<(), String> {
        self.complaints.say_held_back();
        self.upkeep.close();
        let result = self.image.flush(self.behaviour.flush_to_disk);
        result.map_err(|error| format!("cannot write the last changes to the image: {error}"))
    }

    fn read(&mut self, offset: u64, into: &[Segment], memory: &GuestMemoryMmap) -> u8 {
        let Some(buffers) = buffers(into, memory) else { return IOERR };
        let result = self.image.read(&buffers, offset);
        self.status(result, || format!("read of {} bytes at byte {offset}", length(&buffers)))
    }

    fn write(&mut self, offset: u64, from: &[Segment], memory: &GuestMemoryMmap) -> u8 {
        let Some(buffers) = buffers(from, memory) else { return IOERR };
        self.upkeep.before_change(&mut self.image, offset, length(&buffers) as u64);
        let result = self.image.write(&buffers, offset).and_then(|()| self.settle());
        self.status(result, || format!("write of {} bytes at byte {offset}", length(&buffers)))
    }

    /// After a change: what must be so before the request is complete.
    fn settle(&mut self) -> io::Result<()> {
        if self.write_through {
            self.image.flush(self.behaviour.flush_to_disk)
        } else if self.behaviour.restartable {
            self.image.flush(false)
        } else {
            Ok(())
        }
    }

    /// Whether the device may be asked again for what it did and gave back no answer to.
    pub fn is_restartable(&self) -> bool {
        self.behaviour.restartable
    }

    fn get_id(&mut self, into: &[Segment], memory: &GuestMemoryMmap) -> u8 {
        let mut rest = &self.behaviour.serial[..];
        for &(address, length) in into {
            let (now, later) = rest.split_at(length.min(rest.len()));
            if memory.write_slice(now, address).is_err() {
                return IOERR;
            }
            rest = later;
        }
        OK
    }

    fn zero(&mut self, what: &str, ranges: &[Range], unmap: impl Fn(&Range) -> bool) -> u8 {
        for range in ranges {
            self.upkeep.before_change(&mut self.image, range.offset, range.length);
            let result = self.image.write_zeroes(range.offset, range.length, unmap(range));
            let result = result.and_then(|()| self.settle());
            let status =
                self.status(result, || format!("{what} of {} bytes at byte {}", range.length, range.offset));
            if status != OK {
                return status;
            }
        }
        OK
    }

    fn status(&mut self, result: io::Result<()>, what: impl Fn() -> String) -> u8 {
        match result {
            Ok(()) => OK,
            Err(error) => {
                self.complaints.say(&format!("{} failed: {error}", what()));
                IOERR
            }
        }
    }
}

/// The memory of `segments`; `None`: some of it is not there.
fn buffers<'a>(segments: &[Segment], memory: &'a GuestMemoryMmap) -> Option<Vec<VolatileSlice<'a>>> {
    let mut buffers = Vec::with_capacity(segments.len());
    for &(address, length) in segments {
        for buffer in GuestMemoryBackend::get_slices(memory, address, length) {
            buffers.push(buffer.ok()?);
        }
    }
    Some(buffers)
}

fn length(buffers: &[VolatileSlice<'_>]) -> usize {
    buffers.iter().map(VolatileSlice::len).sum()
}
