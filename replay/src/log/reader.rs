//! Reads a log.

use super::format::{BLOCK_HEADER_BYTES, BlockHeader, FILE_HEADER_BYTES, FileHeader, check_cut_header};
use super::{Damage, Ending, LogError};
use crate::codec;
use crate::event::{Event, Stamped};
use crate::time::Icount;
use std::collections::VecDeque;
use std::io::{self, Read};

/// An event of the log and its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The event.
    pub stamped: Stamped,
    /// Number of its block, from 0.
    pub block: u32,
    /// File offset of its block.
    pub offset: u64,
}

/// What a reader finds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An event.
    Event(Entry),
    /// There are no more; asked again, the answer is the same.
    Ended(Ending),
}

/// Reads a log from start to end.
pub struct Reader<R: Read> {
    source: R,
    header: FileHeader,
    sequence: u32,
    chain: u32,
    offset: u64,
    progress: Icount,
    entries: VecDeque<Entry>,
    ending: Option<Ending>,
}

/// What a log holds, found without decoding its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Number of whole, undamaged blocks.
    pub blocks: u32,
    /// Events in them.
    pub events: u64,
    /// Bytes of events before compression.
    pub raw_bytes: u64,
    /// Bytes of the file up to the end.
    pub bytes: u64,
    /// The run is known to have come this far.
    pub progress: Icount,
    /// How it ends.
    pub ending: Ending,
}

/// A block as it is in the file, its checksums verified.
struct Block {
    header: BlockHeader,
    offset: u64,
    payload: Vec<u8>,
}

/// What lies at the reader's position.
enum Found {
    Block(Block),
    Ending(Ending),
}

impl<R: Read> Reader<R> {
    /// Reads and checks the file header.
    pub fn new(mut source: R) -> Result<Reader<R>, LogError> {
        let header = FileHeader::decode(&read_up_to(&mut source, FILE_HEADER_BYTES)?)?;
        Ok(Reader {
            source,
            header,
            sequence: 0,
            chain: header.crc,
            offset: FILE_HEADER_BYTES as u64,
            progress: Icount(0),
            entries: VecDeque::new(),
            ending: None,
        })
    }

    /// Uuid of the recording that the log belongs to.
    pub fn uuid(&self) -> [u8; 16] {
        self.header.uuid
    }

    /// The next event, or how the log ends. All of an event's block was checked before.
    ///
    /// # Errors
    /// Only when the host cannot read the file.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator would end silently where the ending matters"
    )]
    pub fn next(&mut self) -> Result<Step, LogError> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Step::Event(entry));
            }
            if let Some(ending) = &self.ending {
                return Ok(Step::Ended(ending.clone()));
            }
            match self.next_block()? {
                Found::Ending(ending) => self.ending = Some(ending),
                Found::Block(block) => match block.decode() {
                    Ok(entries) => {
                        self.entries = entries;
                        self.advance(&block);
                    }
                    Err(what) => {
                        self.ending = Some(self.damage(block.offset, Some(block.header.last), what));
                    }
                },
            }
        }
    }

    /// Reads one block and verifies its checksums.
    fn next_block(&mut self) -> Result<Found, LogError> {
        let cut = Ending::Cut { at_offset: self.offset, last_icount: self.progress };
        let bytes = read_up_to(&mut self.source, BLOCK_HEADER_BYTES)?;
        let Some(bytes) = bytes.first_chunk::<BLOCK_HEADER_BYTES>() else {
            return Ok(Found::Ending(match check_cut_header(&bytes, self.sequence) {
                Ok(()) => cut,
                Err(what) => self.damage(self.offset, None, what),
            }));
        };
        let decoded = BlockHeader::decode(bytes, self.chain);
        let header = match decoded.and_then(|h| h.check(self.sequence, self.progress).map(|()| h)) {
            Ok(header) => header,
            Err(what) => return Ok(Found::Ending(self.damage(self.offset, None, what))),
        };
        let payload = read_up_to(&mut self.source, header.payload_bytes as usize)?;
        if payload.len() < header.payload_bytes as usize {
            return Ok(Found::Ending(cut));
        }
        let crc = crc32fast::hash(&payload);
        if crc != header.payload_crc {
            let what = format!("payload checksum {crc:#010x}, not {:#010x}", header.payload_crc);
            return Ok(Found::Ending(self.damage(self.offset, Some(header.last), what)));
        }
        if header.is_final && !read_up_to(&mut self.source, 1)?.is_empty() {
            let behind = self.offset + (BLOCK_HEADER_BYTES + payload.len()) as u64;
            let what = format!("data behind the final block, at offset {behind}");
            return Ok(Found::Ending(self.damage(self.offset, Some(header.last), what)));
        }
        Ok(Found::Block(Block { header, offset: self.offset, payload }))
    }

    fn advance(&mut self, block: &Block) {
        self.sequence = self.sequence.wrapping_add(1);
        self.chain = block.header.crc;
        self.offset += (BLOCK_HEADER_BYTES + block.payload.len()) as u64;
        self.progress = block.header.last;
        if block.header.is_final {
            self.ending = Some(Ending::Finished { icount: self.progress });
        }
    }

    fn damage(&self, offset: u64, to: Option<Icount>, what: String) -> Ending {
        Ending::Damaged(Damage { offset, block: self.sequence, from: self.progress, to, what })
    }
}

impl Block {
    /// Decompresses and decodes the events; says what is wrong.
    fn decode(&self) -> Result<VecDeque<Entry>, String> {
        let header = &self.header;
        let unpacked;
        let mut rest: &[u8] = if header.payload_bytes == header.raw_bytes {
            &self.payload
        } else {
            unpacked = zstd::bulk::decompress(&self.payload, header.raw_bytes as usize)
                .map_err(|error| format!("payload does not decompress: {error}"))?;
            if unpacked.len() != header.raw_bytes as usize {
                return Err(format!(
                    "payload decompresses to {} bytes, not {}",
                    unpacked.len(),
                    header.raw_bytes
                ));
            }
            &unpacked
        };
        let mut entries = VecDeque::new();
        let mut icount = header.first;
        for number in 1..=header.event_count {
            let ((delta, event), used) =
                codec::decode::<(u64, Event)>(rest).map_err(|error| format!("event {number}: {error}"))?;
            rest = &rest[used..];
            icount = match icount.0.checked_add(delta) {
                Some(sum) if sum <= header.last.0 => Icount(sum),
                Some(_) | None => return Err(format!("event {number} lies behind the end of its block")),
            };
            let is_last = header.is_final && number == header.event_count;
            if (event == Event::End) != is_last {
                return Err(format!(
                    "event {number}: End is the last event of the final block, and only that"
                ));
            }
            let stamped = Stamped { icount, event };
            entries.push_back(Entry { stamped, block: header.sequence, offset: self.offset });
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes behind the last event", rest.len()));
        }
        Ok(entries)
    }
}

/// Verifies the checksums of a whole log without decoding events.
pub fn survey(source: impl Read) -> Result<Survey, LogError> {
    let mut reader = Reader::new(source)?;
    let (mut events, mut raw_bytes) = (0, 0);
    let ending = loop {
        if let Some(ending) = reader.ending.clone() {
            break ending;
        }
        match reader.next_block()? {
            Found::Ending(ending) => reader.ending = Some(ending),
            Found::Block(block) => {
                events += u64::from(block.header.event_count);
                raw_bytes += u64::from(block.header.raw_bytes);
                reader.advance(&block);
            }
        }
    };
    let (blocks, bytes, progress) = (reader.sequence, reader.offset, reader.progress);
    Ok(Survey { blocks, events, raw_bytes, bytes, progress, ending })
}

/// Reads `count` bytes, fewer only at the end of the file. Memory grows with what is there, not with what is claimed.
fn read_up_to(source: &mut impl Read, count: usize) -> Result<Vec<u8>, LogError> {
    let mut bytes = Vec::new();
    let taken: io::Result<usize> = source.take(count as u64).read_to_end(&mut bytes);
    taken.map_err(LogError::Read)?;
    Ok(bytes)
}
