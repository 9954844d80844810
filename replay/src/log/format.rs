//! Byte layout of the log's two headers. All integers are little-endian.

use super::LogError;
use crate::codec::ENCODED_BYTES_MAX;
use crate::time::Icount;

/// Version that this release writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Length of the file header.
pub const FILE_HEADER_BYTES: usize = 36;
/// Length of a block header.
pub const BLOCK_HEADER_BYTES: usize = 40;
/// A block is closed when its events take this much.
pub const BLOCK_RAW_TARGET: usize = 256 << 10;
/// No block's events take more: the target, and one event of the greatest length behind it.
pub const BLOCK_RAW_MAX: usize = BLOCK_RAW_TARGET + ENCODED_BYTES_MAX + 16;

const FILE_MAGIC: [u8; 8] = *b"RPRSLOG\n";
const BLOCK_MAGIC: [u8; 2] = *b"RB";
const FINAL_MAGIC: [u8; 2] = *b"RE";

/// The file header: 0 magic, 8 version, 12 zero, 16 uuid of the recording, 32 CRC32 of bytes 0..32.
///
/// This layout is the same in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Identifies the recording; its manifest names the same.
    pub uuid: [u8; 16],
    /// Seed of the first block's checksum.
    pub crc: u32,
}

impl FileHeader {
    /// The header's bytes.
    pub fn encode(uuid: [u8; 16]) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&FILE_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&uuid);
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, checked.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader, LogError> {
        let Some(bytes) = bytes.first_chunk::<FILE_HEADER_BYTES>() else {
            let begins_like_a_log = FILE_MAGIC.iter().zip(bytes).all(|(magic, byte)| magic == byte);
            return Err(if begins_like_a_log {
                LogError::NoHeader { bytes: bytes.len() }
            } else {
                LogError::NotALog
            });
        };
        let (found, version) = (word(bytes, 32), word(bytes, 8));
        let mut with_magic = *bytes;
        with_magic[..8].copy_from_slice(&FILE_MAGIC);
        let expected = crc32fast::hash(&with_magic[..32]);
        if bytes[..8] != FILE_MAGIC {
            // Damage inside the magic leaves the rest consistent with the true magic.
            return Err(if found == expected {
                LogError::HeaderDamaged { found, expected: crc32fast::hash(&bytes[..32]) }
            } else {
                LogError::NotALog
            });
        }
        if found != expected {
            return Err(LogError::HeaderDamaged { found, expected });
        }
        if version > VERSION {
            return Err(LogError::Newer { found: version });
        }
        Ok(FileHeader { uuid: bytes[16..32].try_into().expect("16 bytes"), crc: found })
    }
}

/// A block header: 0 magic (`RB`, the final block `RE`), 2 event count, 4 sequence, 8 payload length, 12 raw length,
/// 16 first icount, 24 last icount, 32 CRC32 of the payload, 36 CRC32 of bytes 0..36 seeded with the CRC32 at the end
/// of the header before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// The last event is End.
    pub is_final: bool,
    /// Events in the block.
    pub event_count: u16,
    /// Number of the block, from 0.
    pub sequence: u32,
    /// Length of the payload as it lies in the file.
    pub payload_bytes: u32,
    /// Length of the payload after decompression; equal to `payload_bytes` if it is not compressed.
    pub raw_bytes: u32,
    /// Icount of the first event; without events, as `last`.
    pub first: Icount,
    /// The run had come this far: at least the icount of the last event.
    pub last: Icount,
    /// CRC32 of the payload as it lies in the file.
    pub payload_crc: u32,
    /// Seed of the next block's checksum.
    pub crc: u32,
}

impl BlockHeader {
    /// Encodes the header; the value of `crc` is computed from `seed`, the one in `self` is not used.
    pub fn encode(&self, seed: u32) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..2].copy_from_slice(if self.is_final { &FINAL_MAGIC } else { &BLOCK_MAGIC });
        bytes[2..4].copy_from_slice(&self.event_count.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = seeded_crc(seed, &bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header whose checksum fits `seed`; otherwise says what is wrong.
    pub fn decode(bytes: &[u8; BLOCK_HEADER_BYTES], seed: u32) -> Result<BlockHeader, String> {
        let (found, expected) = (word(bytes, 36), seeded_crc(seed, &bytes[..36]));
        if found != expected {
            return Err(format!("block header checksum {found:#010x}, not {expected:#010x}"));
        }
        let magic = [bytes[0], bytes[1]];
        if magic != BLOCK_MAGIC && magic != FINAL_MAGIC {
            return Err(format!("block magic {magic:02x?}"));
        }
        Ok(BlockHeader {
            is_final: magic == FINAL_MAGIC,
            event_count: u16::from_le_bytes([bytes[2], bytes[3]]),
            sequence: word(bytes, 4),
            payload_bytes: word(bytes, 8),
            raw_bytes: word(bytes, 12),
            first: Icount(long(bytes, 16)),
            last: Icount(long(bytes, 24)),
            payload_crc: word(bytes, 32),
            crc: found,
        })
    }

    /// Checks the header against its place in the log: number and icount that come next.
    pub fn check(&self, sequence: u32, progress: Icount) -> Result<(), String> {
        if self.sequence != sequence {
            return Err(format!("block number {}, not {sequence}", self.sequence));
        }
        if self.first < progress || self.last < self.first {
            return Err(format!("block of instructions {} to {} behind {progress}", self.first, self.last));
        }
        if self.raw_bytes as usize > BLOCK_RAW_MAX || self.payload_bytes > self.raw_bytes {
            return Err(format!("block lengths {} and {}", self.payload_bytes, self.raw_bytes));
        }
        if self.is_final && self.event_count == 0 {
            return Err("a final block without an event".into());
        }
        Ok(())
    }
}

/// Says what contradicts the start of the next block header in a header that is cut, if anything does.
pub fn check_cut_header(bytes: &[u8], sequence: u32) -> Result<(), String> {
    let begins = |magic: [u8; 2]| magic.iter().zip(bytes).all(|(wanted, found)| wanted == found);
    let number = sequence.to_le_bytes();
    if !(begins(BLOCK_MAGIC) || begins(FINAL_MAGIC))
        || bytes.iter().skip(4).zip(number).any(|(found, wanted)| *found != wanted)
    {
        return Err(format!("{} bytes that do not begin a block", bytes.len()));
    }
    Ok(())
}

fn seeded_crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
