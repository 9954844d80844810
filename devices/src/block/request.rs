//! What a driver asks for: a descriptor chain read as a block request (virtio 1.2, 5.2.6).
//!
//! The driver is not believed: everything it says is checked here, and a request that breaks the rules gets its status
//! without reaching an image.

use crate::rings::{Chain, Segment};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

/// Unit of sector numbers and lengths, whatever the block size.
pub const SECTOR: u64 = 512;
/// Bytes of the header: type, a reserved word, sector.
const HEADER: usize = 16;
/// Bytes that describe one range of DISCARD and WRITE_ZEROES.
const RANGE: usize = 16;
/// Most ranges in one request.
pub const RANGES_MAX: usize = 16;
/// Most sectors of one range: 1 GiB.
pub const RANGE_SECTORS_MAX: u32 = 1 << 21;
/// Most bytes of one request: SIZE_MAX times SEG_MAX of the configuration space.
pub const DATA_MAX: usize = SEGMENT_BYTES_MAX as usize * SEGMENTS_MAX as usize;
/// Most bytes of one segment that the driver is asked to make.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 20;
/// Most segments of one request that the driver is asked to make; with header and status they fit a ring of 128.
pub const SEGMENTS_MAX: u32 = 126;

static ZEROS: [u8; 4096] = [0; 4096];

/// Status of a request that failed or breaks the rules.
pub const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
/// Status of a request that this device does not know.
pub const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// What the checks need to know of the device.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the disk.
    pub sectors: u64,
    /// Requests must be multiples of this.
    pub block_sectors: u64,
    /// Nothing may be changed.
    pub read_only: bool,
}

/// Bytes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Whether its storage may be given up (WRITE_ZEROES).
    pub unmap: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Disk to memory.
    Read {
        /// Byte on the disk.
        offset: u64,
        /// Where it goes.
        into: Vec<Segment>,
    },
    /// Memory to disk.
    Write {
        /// Byte on the disk.
        offset: u64,
        /// Where it comes from.
        from: Vec<Segment>,
    },
    /// What was completed before must survive.
    Flush,
    /// The serial number.
    GetId {
        /// Where it goes.
        into: Vec<Segment>,
    },
    /// The contents of ranges are not needed any more.
    Discard(Vec<Range>),
    /// Ranges become zero.
    WriteZeroes(Vec<Range>),
}

/// A request, or what it gets for an answer at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do; otherwise the status that says what is wrong.
    pub operation: Result<Operation, u8>,
    /// Where the status goes. `None`: there is no place for an answer.
    pub status_at: Option<GuestAddress>,
    /// Writable buffers before the status.
    pub room: Vec<Segment>,
}

impl Request {
    /// Reads a chain.
    pub fn parse(chain: &Chain, memory: &GuestMemoryMmap, limits: &Limits) -> Request {
        let mut room = chain.writable.clone();
        let status_at = take_last_byte(&mut room);
        let operation = operation(chain, &room, memory, limits);
        Request { operation, status_at, room }
    }

    /// Bytes of the answer: the room and the status.
    pub fn answer_length(&self) -> usize {
        length(&self.room).saturating_add(usize::from(self.status_at.is_some()))
    }

    /// Zeros the room, so that a request without data never shows what was there before. What no disk could fill,
    /// or is not in memory, stays.
    pub fn clear_room(&self, memory: &GuestMemoryMmap) {
        if length(&self.room) > DATA_MAX {
            return;
        }
        for &(address, length) in &self.room {
            let mut at = 0;
            while at < length {
                let part = ZEROS.len().min(length - at);
                let Some(address) = address.checked_add(at as u64) else { break };
                if memory.write_slice(&ZEROS[..part], address).is_err() {
                    break;
                }
                at += part;
            }
        }
    }
}

/// Bytes of all segments.
pub fn length(segments: &[Segment]) -> usize {
    segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.1))
}

/// Takes the last byte off, and says where it is.
fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    while let Some((address, length)) = segments.pop() {
        if length > 0 {
            if length > 1 {
                segments.push((address, length - 1));
            }
            return address.checked_add(length as u64 - 1);
        }
    }
    None
}

/// Takes the first `count` bytes off; `None`: there are not as many, or they are not in memory.
fn take_first(segments: &mut Vec<Segment>, count: usize, memory: &GuestMemoryMmap) -> Option<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    let mut rest = Vec::with_capacity(segments.len());
    for &(address, length) in segments.iter() {
        let part = length.min(count - filled);
        memory.read_slice(&mut bytes[filled..filled + part], address).ok()?;
        filled += part;
        if part < length {
            rest.push((address.checked_add(part as u64)?, length - part));
        }
    }
    *segments = rest;
    (filled == count).then_some(bytes)
}

fn operation(
    chain: &Chain,
    room: &[Segment],
    memory: &GuestMemoryMmap,
    limits: &Limits,
) -> Result<Operation, u8> {
    let mut data = chain.readable.clone();
    let header = take_first(&mut data, HEADER, memory).ok_or(IOERR)?;
    if !chain.sound {
        return Err(IOERR);
    }
    let (kind, sector) = (word(&header, 0), double_word(&header, 8));
    let changes = matches!(kind, VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES);
    if changes && limits.read_only {
        return Err(IOERR);
    }
    match kind {
        VIRTIO_BLK_T_IN if data.is_empty() => {
            let offset = limits.check_data(sector, length(room))?;
            Ok(Operation::Read { offset, into: room.to_vec() })
        }
        VIRTIO_BLK_T_OUT if length(room) == 0 => {
            let offset = limits.check_data(sector, length(&data))?;
            Ok(Operation::Write { offset, from: data })
        }
        VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => Err(IOERR),
        VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
        VIRTIO_BLK_T_GET_ID => Ok(Operation::GetId { into: room.to_vec() }),
        VIRTIO_BLK_T_DISCARD => Ok(Operation::Discard(ranges(data, memory, limits, 0)?)),
        VIRTIO_BLK_T_WRITE_ZEROES => {
            let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            Ok(Operation::WriteZeroes(ranges(data, memory, limits, flags)?))
        }
        _ => Err(UNSUPP),
    }
}

/// The ranges of DISCARD and WRITE_ZEROES; flags beyond `known` are not supported.
fn ranges(
    mut data: Vec<Segment>,
    memory: &GuestMemoryMmap,
    limits: &Limits,
    known: u32,
) -> Result<Vec<Range>, u8> {
    let bytes = length(&data);
    if bytes == 0 || !bytes.is_multiple_of(RANGE) || bytes > RANGES_MAX * RANGE {
        return Err(IOERR);
    }
    let table = take_first(&mut data, bytes, memory).ok_or(IOERR)?;
    let mut ranges = Vec::with_capacity(bytes / RANGE);
    for entry in table.chunks_exact(RANGE) {
        let (sector, sectors, flags) = (double_word(entry, 0), word(entry, 8), word(entry, 12));
        if flags & !known != 0 {
            return Err(UNSUPP);
        }
        if sectors > RANGE_SECTORS_MAX {
            return Err(IOERR);
        }
        let offset = limits.check(sector, u64::from(sectors))?;
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        ranges.push(Range { offset, length: u64::from(sectors) * SECTOR, unmap });
    }
    Ok(ranges)
}

impl Limits {
    /// The byte at which `sector` starts, if `sectors` from there are on the disk and whole blocks.
    fn check(&self, sector: u64, sectors: u64) -> Result<u64, u8> {
        let end = sector.checked_add(sectors).ok_or(IOERR)?;
        let aligned = (sector | sectors).is_multiple_of(self.block_sectors);
        if end > self.sectors || !aligned {
            return Err(IOERR);
        }
        Ok(sector * SECTOR)
    }

    fn check_data(&self, sector: u64, bytes: usize) -> Result<u64, u8> {
        if bytes > DATA_MAX || !(bytes as u64).is_multiple_of(SECTOR) {
            return Err(IOERR);
        }
        self.check(sector, bytes as u64 / SECTOR)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn double_word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
