//! Writes a log.

use super::LogError;
use super::format::{BLOCK_RAW_TARGET, BlockHeader, FILE_HEADER_BYTES, FileHeader};
use crate::codec;
use crate::event::{Event, Stamped};
use crate::time::Icount;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// zstd's default: blocks are small, and the log is written ten times a second at most.
const ZSTD_LEVEL: i32 = 3;
/// Below this, compression gains nothing.
const COMPRESS_BYTES_MIN: usize = 64;

/// Where a log is kept.
pub trait Storage {
    /// Writes all bytes at the end, in one piece where the host allows it.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes all bytes from `offset` on, over what is there; the length stays.
    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts back to `length` bytes after a failed append.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Returns when everything is on stable storage.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is not opened to append: what is written at an offset would go to its end as well (pwrite(2)).
impl Storage for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Storage for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        self[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        Vec::truncate(self, length as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a log, block by block.
///
/// What [`Writer::flush`] wrote survives the death of any process; [`Writer::finish`] survives that of the host.
pub struct Writer<S: Storage> {
    storage: S,
    compressor: zstd::bulk::Compressor<'static>,
    open: bool,
    /// Bytes of whole blocks in the storage.
    length: u64,
    /// Progress in the storage.
    written: Icount,
    sequence: u32,
    chain: u32,
    /// The last block, if it tells progress alone: the next such block takes its place.
    progress_only: Option<ProgressBlock>,
    /// Icount of the last event, or the last progress if that is later.
    last: Icount,
    /// First icount of the block being collected, its events and their number.
    first: Icount,
    raw: Vec<u8>,
    event_count: u16,
}

/// Where a block without events stands, and the checksum it is chained to.
#[derive(Clone, Copy)]
struct ProgressBlock {
    offset: u64,
    chain: u32,
}

impl<S: Storage> Writer<S> {
    /// Begins a log in empty storage.
    pub fn create(mut storage: S, uuid: [u8; 16]) -> Result<Writer<S>, LogError> {
        let start = Icount(0);
        let header = FileHeader::encode(uuid);
        let chain = FileHeader::decode(&header).expect("just encoded").crc;
        let failed = |source| LogError::Write { source, icount: start };
        storage.append(&header).map_err(failed)?;
        Ok(Writer {
            storage,
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?,
            open: true,
            length: FILE_HEADER_BYTES as u64,
            written: start,
            sequence: 0,
            chain,
            progress_only: None,
            last: start,
            first: start,
            raw: Vec::new(),
            event_count: 0,
        })
    }

    /// Adds an event. A block that is full is written at once.
    ///
    /// # Errors
    /// [`LogError::Order`] for an event before the last one or before a flushed progress, and for End, which only
    /// [`Writer::finish`] writes.
    pub fn append(&mut self, stamped: &Stamped) -> Result<(), LogError> {
        if stamped.event == Event::End {
            return Err(LogError::Order { icount: stamped.icount, why: "End comes with the finish".into() });
        }
        self.collect(stamped)?;
        if self.raw.len() >= BLOCK_RAW_TARGET || self.event_count == u16::MAX - 1 {
            self.write_block(false)?;
        }
        Ok(())
    }

    /// Writes what was appended, and that the run has come to `progress` without any further event.
    pub fn flush(&mut self, progress: Icount) -> Result<(), LogError> {
        self.check_open()?;
        self.last = self.last.max(progress);
        if self.event_count == 0 && self.last == self.written {
            return Ok(());
        }
        self.write_block(false)
    }

    /// Writes the End event at `icount` and waits until everything is on stable storage.
    pub fn finish(mut self, icount: Icount) -> Result<S, LogError> {
        self.collect(&Stamped { icount, event: Event::End })?;
        self.write_block(true)?;
        let icount = self.written;
        self.storage.sync().map_err(|source| LogError::Write { source, icount })?;
        Ok(self.storage)
    }

    /// Length of the log on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.length
    }

    /// The run had come this far when the last block was written.
    pub fn progress(&self) -> Icount {
        self.written
    }

    /// No event before this is taken any more.
    pub fn last(&self) -> Icount {
        self.last
    }

    fn collect(&mut self, stamped: &Stamped) -> Result<(), LogError> {
        self.check_open()?;
        let Some(delta) = stamped.icount.0.checked_sub(self.last.0) else {
            let why = format!("the log has come to {} already", self.last);
            return Err(LogError::Order { icount: stamped.icount, why });
        };
        let before = self.raw.len();
        let delta = if self.event_count == 0 { 0 } else { delta };
        codec::encode_into(&(delta, &stamped.event), &mut self.raw);
        if self.raw.len() - before > codec::ENCODED_BYTES_MAX {
            self.raw.truncate(before);
            return Err(LogError::Order { icount: stamped.icount, why: "it is too long".into() });
        }
        if self.event_count == 0 {
            self.first = stamped.icount;
        }
        self.last = stamped.icount;
        self.event_count += 1;
        Ok(())
    }

    /// Writes over a block that told progress alone: a long run without events does not make the log grow. The
    /// header is written in one piece, so the death of a process leaves the old or the new one.
    fn replace_progress(&mut self, old: ProgressBlock) -> Result<(), LogError> {
        let header = BlockHeader {
            is_final: false,
            event_count: 0,
            sequence: self.sequence.wrapping_sub(1),
            payload_bytes: 0,
            raw_bytes: 0,
            first: self.last,
            last: self.last,
            payload_crc: crc32fast::hash(&[]),
            crc: 0,
        };
        let bytes = header.encode(old.chain);
        self.storage.overwrite(old.offset, &bytes).map_err(|source| {
            self.open = false;
            LogError::Write { source, icount: self.written }
        })?;
        self.chain = u32::from_le_bytes(*bytes.last_chunk().expect("a header has a checksum"));
        self.written = self.last;
        Ok(())
    }

    fn write_block(&mut self, is_final: bool) -> Result<(), LogError> {
        if let (Some(old), 0) = (self.progress_only, self.event_count) {
            return self.replace_progress(old);
        }
        let packed = match self.raw.len() {
            0..COMPRESS_BYTES_MIN => None,
            _ => self.compressor.compress(&self.raw).ok().filter(|packed| packed.len() < self.raw.len()),
        };
        let payload = packed.as_ref().unwrap_or(&self.raw);
        let header = BlockHeader {
            is_final,
            event_count: self.event_count,
            sequence: self.sequence,
            payload_bytes: length32(payload),
            raw_bytes: length32(&self.raw),
            first: if self.event_count == 0 { self.last } else { self.first },
            last: self.last,
            payload_crc: crc32fast::hash(payload),
            crc: 0,
        };
        let mut bytes = header.encode(self.chain).to_vec();
        let chain = u32::from_le_bytes(*bytes.last_chunk().expect("a header has a checksum"));
        bytes.extend_from_slice(payload);
        if let Err(source) = self.storage.append(&bytes) {
            self.open = false;
            // If cutting back fails too, the log ends in a cut block, which a reader recognises as such.
            let _ = self.storage.truncate(self.length);
            return Err(LogError::Write { source, icount: self.written });
        }
        let place = ProgressBlock { offset: self.length, chain: self.chain };
        self.progress_only = (self.event_count == 0).then_some(place);
        self.length += bytes.len() as u64;
        self.chain = chain;
        self.sequence = self.sequence.wrapping_add(1);
        self.written = self.last;
        self.raw.clear();
        self.event_count = 0;
        Ok(())
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.open { Ok(()) } else { Err(LogError::Closed) }
    }
}

fn length32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a block is at most BLOCK_RAW_MAX long")
}
