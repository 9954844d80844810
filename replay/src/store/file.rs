//! The file of one snapshot: what it is of, where its pages are, the machine's state.
//!
//! Bytes: magic and version, then the compressed sections (description as JSON, table of pages, state), then the SHA-256 of all
//! before it.

use super::StoreError;
use super::chunk::Hash;
use super::sections;
use crate::codec;
use crate::machine::Machine;
use crate::manifest::LogPlace;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RPRSSNP1";
const CHECKSUM: usize = 32;
const ZSTD_LEVEL: i32 = 3;
/// A longer file is refused unread, and so is what unpacks to more.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name.
    pub tag: String,
    /// When it was made: seconds since 1970-01-01 UTC.
    pub created_unix_s: i64,
    /// Instructions retired.
    pub icount: u64,
    /// Guest time, nanoseconds.
    pub vtime_ns: u64,
    /// Where it is in a recording; none: it was made in a run that was not recorded.
    pub place: Option<LogPlace>,
    /// The reprise that made it; the state is of no use to another.
    pub build: String,
    /// The machine.
    pub machine: Machine,
    /// The disks that the guest could write to.
    pub disks: Vec<DiskState>,
    /// Bytes of RAM that are not zero, and of all other state.
    pub vm_bytes: u64,
}

/// What was on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// The device.
    pub id: String,
    /// Frozen layers from the top down, relative to the store; then comes the image. None: nothing was kept, because a replay
    /// made the snapshot.
    pub layers: Option<Vec<String>>,
    /// The same of a snapshot that a replay made, if it keeps layers: of use to replays of its recording. Those of the recording
    /// have their whole path.
    #[serde(default)]
    pub replayed: Option<Vec<String>>,
}

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The chunk.
    pub chunk: Hash,
    /// Its place in it.
    pub slot: u16,
}

/// Pages that are not zero, by number.
pub type PageTable = BTreeMap<u64, Location>;

/// A snapshot as it is in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is of.
    pub info: Info,
    /// Its pages.
    pub table: PageTable,
    /// The machine's state; only a vCPU process understands it.
    pub state: Vec<Vec<u8>>,
}

/// The table in its file: names of chunks, then page, index of its chunk, slot.
#[derive(Serialize, Deserialize)]
struct SavedTable {
    chunks: Vec<Hash>,
    pages: Vec<(u64, u32, u16)>,
}

impl SavedTable {
    fn of(table: &PageTable) -> SavedTable {
        let mut indexes = BTreeMap::new();
        let mut chunks = Vec::new();
        let mut pages = Vec::with_capacity(table.len());
        for (number, Location { chunk, slot }) in table {
            let index = *indexes.entry(*chunk).or_insert_with(|| {
                chunks.push(*chunk);
                chunks.len() as u32 - 1
            });
            pages.push((*number, index, *slot));
        }
        SavedTable { chunks, pages }
    }

    fn table(&self) -> Option<PageTable> {
        let mut table = PageTable::new();
        for &(number, index, slot) in &self.pages {
            let chunk = *self.chunks.get(index as usize)?;
            table.insert(number, Location { chunk, slot });
        }
        Some(table)
    }
}

/// Bytes of a snapshot's file.
pub fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, StoreError> {
    let tag = &snapshot.info.tag;
    let unwritable = |what: String| StoreError::Unwritable { tag: tag.clone(), what };
    let info = serde_json::to_vec(&snapshot.info).map_err(|error| unwritable(error.to_string()))?;
    let mut parts = vec![info, codec::encode(&SavedTable::of(&snapshot.table))];
    parts.extend(snapshot.state.iter().cloned());
    let plain = sections::join(&parts);
    let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(|error| unwritable(error.to_string()))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend((plain.len() as u64).to_le_bytes());
    bytes.extend(packed);
    if bytes.len() as u64 > FILE_BYTES_MAX || plain.len() as u64 > FILE_BYTES_MAX {
        return Err(unwritable(format!("its state has {} bytes", plain.len())));
    }
    let checksum = Sha256::digest(&bytes);
    bytes.extend(checksum);
    Ok(bytes)
}

/// Reads a snapshot's file.
pub fn read(path: &Path) -> Result<Snapshot, StoreError> {
    let host = |source| StoreError::host("read", path, source);
    if fs::metadata(path).map_err(host)?.len() > FILE_BYTES_MAX {
        return Err(StoreError::Damaged { path: path.into(), what: "it is too long".into() });
    }
    let bytes = fs::read(path).map_err(host)?;
    decode(&bytes).map_err(|what| StoreError::Damaged { path: path.into(), what })
}

fn decode(bytes: &[u8]) -> Result<Snapshot, String> {
    let Some(end) = bytes.len().checked_sub(CHECKSUM).filter(|end| *end >= 16) else {
        return Err("it is cut short".into());
    };
    let (body, checksum) = bytes.split_at(end);
    if &body[..8] != MAGIC {
        return Err("it does not begin like a snapshot of this release".into());
    }
    if Sha256::digest(body)[..] != *checksum {
        return Err("its checksum is wrong".into());
    }
    let length = u64::from_le_bytes(body[8..16].try_into().expect("eight bytes"));
    if length > FILE_BYTES_MAX {
        return Err("it is too long".into());
    }
    let plain = zstd::bulk::decompress(&body[16..], length as usize).map_err(|error| error.to_string())?;
    let mut parts = sections::split(&plain).ok_or("its sections do not fit")?.into_iter();
    let (Some(info), Some(table)) = (parts.next(), parts.next()) else {
        return Err("it has no description".into());
    };
    let info = serde_json::from_slice(&info).map_err(|error| format!("its description: {error}"))?;
    let table = codec::decode_all::<SavedTable>(&table).map_err(|error| error.to_string())?;
    let table = table.table().ok_or("its table of pages names a chunk that it does not list")?;
    Ok(Snapshot { info, table, state: parts.collect() })
}

/// The name of the file for a tag: what a path must not have is written as `%XX`. None: it is too long or empty.
pub fn name_of(tag: &str) -> Option<String> {
    let mut name = String::new();
    for (index, byte) in tag.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            b'.' if index > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    (!name.is_empty() && name.len() <= 200).then(|| format!("{name}.snapshot"))
}
