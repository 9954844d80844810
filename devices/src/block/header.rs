//! The header of a qcow2 image (QEMU, `docs/interop/qcow2.txt`), as far as we must know it ourselves.
//!
//! imago opens encrypted images as if they were not, opens backing files by itself, and believes tables that lie
//! outside of a truncated file. So every image of a chain is looked at here first.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// First bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Header of version 2; version 3 is longer.
const LENGTH_V2: usize = 72;
/// What is read of every header; version 3 has 104 bytes at least.
const LENGTH: usize = 112;
/// Names can be no longer (and QEMU makes none longer).
pub const NAME_MAX: usize = 1023;
/// Bytes of an entry of a table.
const POINTER: u64 = 8;
/// Extension: format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Largest first-level and reference tables, as in QEMU.
const L1_BYTES_MAX: u64 = 32 << 20;
const REFERENCE_TABLE_BYTES_MAX: u64 = 8 << 20;

/// Incompatible features (bit numbers) and what they mean for us.
const INCOMPATIBLE: [(u32, &str); 5] = [
    (0, "it was not closed cleanly; 'qemu-img check -r all' repairs it"),
    (1, "it is marked as corrupt; 'qemu-img check -r all' repairs it"),
    (2, "its data is in another file, which is not supported"),
    (3, "it is compressed with zstd, which is not supported"),
    (4, "it has extended L2 entries, which are not supported"),
];

/// The image below another one, as its header names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Name, relative to the image that names it.
    pub name: String,
    /// Format, if the header says.
    pub format: Option<String>,
}

/// What is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The image below.
    pub backing: Option<Backing>,
    cluster_bits: u32,
    tables: [(&'static str, u64, u64); 2],
}

/// Whether a file starts as a qcow2 image.
pub fn is_qcow2(file: &File) -> io::Result<bool> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Ok(magic == MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads and checks the header; `length` is that of the file. The error says what is wrong with the image.
pub fn read(file: &File, length: u64) -> Result<Header, String> {
    let mut bytes = [0; LENGTH];
    let count = read_up_to(file, &mut bytes, 0)?;
    if count < LENGTH_V2 {
        return Err(format!("the file has only {count} bytes, less than a qcow2 header"));
    }
    if bytes[..4] != MAGIC {
        return Err("it is not a qcow2 image".into());
    }
    let version = word(&bytes, 4);
    if !matches!(version, 2 | 3) {
        return Err(format!("it is a qcow2 image of version {version}, which is not supported"));
    }
    match word(&bytes, 32) {
        0 => {}
        1 => return Err("it is encrypted (AES), which is not supported".into()),
        2 => return Err("it is encrypted (LUKS), which is not supported".into()),
        other => return Err(format!("it is encrypted by the unknown method {other}")),
    }
    if version == 3 {
        check_features(double_word(&bytes, 72))?;
    }
    let cluster_bits = word(&bytes, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!("its clusters of 2^{cluster_bits} bytes are not supported"));
    }
    let l1_bytes = u64::from(word(&bytes, 36)) * 8;
    let reference_bytes = u64::from(word(&bytes, 56)) << cluster_bits;
    if l1_bytes > L1_BYTES_MAX || reference_bytes > REFERENCE_TABLE_BYTES_MAX {
        return Err("its tables are too large".into());
    }
    let tables = [
        ("first-level table", double_word(&bytes, 40), l1_bytes),
        ("reference table", double_word(&bytes, 48), reference_bytes),
    ];
    for (name, at, size) in tables {
        if at.checked_add(size).is_none_or(|end| end > length) {
            return Err(format!("it is truncated: its {name} lies beyond the end of the file"));
        }
    }
    let first_extension = if version == 3 { u64::from(word(&bytes, 100)) } else { LENGTH_V2 as u64 };
    let backing = read_backing(file, &bytes, first_extension, 1 << cluster_bits)?;
    Ok(Header { backing, cluster_bits, tables })
}

fn check_features(features: u64) -> Result<(), String> {
    if let Some((_, meaning)) = INCOMPATIBLE.iter().find(|(bit, _)| features & 1 << bit != 0) {
        return Err((*meaning).to_string());
    }
    match features {
        0 => Ok(()),
        unknown => Err(format!("it has unknown incompatible features ({unknown:#x})")),
    }
}

fn read_backing(
    file: &File,
    header: &[u8],
    first_extension: u64,
    cluster: u64,
) -> Result<Option<Backing>, String> {
    let (at, length) = (double_word(header, 8), word(header, 16) as usize);
    if at == 0 {
        return Ok(None);
    }
    if length > NAME_MAX || at.checked_add(length as u64).is_none_or(|end| end > cluster) {
        return Err("the name of its backing file is not in its header".into());
    }
    let name = read_text(file, at, length)?;
    let mut extension = first_extension;
    let mut format = None;
    while extension + 8 <= cluster.min(at) {
        let mut head = [0; 8];
        if read_up_to(file, &mut head, extension)? < head.len() {
            break;
        }
        let (kind, length) = (word(&head, 0), u64::from(word(&head, 4)));
        let end = extension + 8 + length.next_multiple_of(8);
        if kind == 0 || end > cluster {
            break;
        }
        if kind == BACKING_FORMAT {
            format = Some(read_text(file, extension + 8, length as usize)?);
        }
        extension = end;
    }
    Ok(Some(Backing { name, format }))
}

fn read_text(file: &File, at: u64, length: usize) -> Result<String, String> {
    let mut bytes = vec![0; length];
    if read_up_to(file, &mut bytes, at)? < length {
        return Err("it is truncated within its header".into());
    }
    String::from_utf8(bytes).map_err(|_| "the name of its backing file is not UTF-8".into())
}

fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> Result<usize, String> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], at + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("it cannot be read: {error}")),
        }
    }
    Ok(count)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn double_word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

/// Offset bits of table entries.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// A second-level entry: compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// A second-level entry: reads as zeros, whatever the offset.
const ZERO: u64 = 1;

impl Header {
    /// Looks for clusters that the tables promise beyond the end of a file of `length` bytes: a copy that broke off.
    pub fn check_complete(&self, file: &File, length: u64) -> Result<(), String> {
        let (_, at, size) = self.tables[0];
        let truncated = || "it is truncated: it refers to data beyond the end of the file".to_string();
        let mut entries = vec![0; size as usize];
        if read_up_to(file, &mut entries, at)? < entries.len() {
            return Err(truncated());
        }
        let mut table = vec![0; 1 << self.cluster_bits];
        for entry in entries.chunks_exact(8).map(|entry| double_word(entry, 0) & OFFSET) {
            if entry == 0 {
                continue;
            }
            if read_up_to(file, &mut table, entry)? < table.len() {
                return Err(truncated());
            }
            let mut entries = table.chunks_exact(8).map(|entry| double_word(entry, 0));
            if entries.any(|entry| self.data_at(entry).is_some_and(|offset| offset >= length)) {
                return Err(truncated());
            }
        }
        Ok(())
    }

    /// Where the data of a second-level entry starts, if it has any.
    fn data_at(&self, entry: u64) -> Option<u64> {
        if entry & COMPRESSED != 0 {
            // The upper bits hold a length; its place depends on the cluster size.
            return Some(entry & ((1 << (62 - (self.cluster_bits - 8))) - 1));
        }
        let offset = entry & OFFSET;
        (offset != 0 && entry & ZERO == 0).then_some(offset)
    }
}

/// Where the tables of an image are, and its reference blocks.
#[derive(Clone, Debug)]
pub struct Layout {
    cluster_bits: u32,
    /// Clusters that one reference block counts, as a power of two.
    block_bits: u32,
    first_level: Range<u64>,
    references: Range<u64>,
    /// Places of the reference blocks, by index; 0: there is none.
    blocks: Vec<u64>,
}

impl Layout {
    /// Bytes of the header that say where the tables are.
    pub const HEADER_BYTES: u64 = LENGTH_V2 as u64;

    /// Reads it from an image whose header was checked.
    pub fn read(file: &File) -> Result<Layout, String> {
        let mut header = [0; LENGTH];
        if read_up_to(file, &mut header, 0)? < LENGTH_V2 {
            return Err("its header is gone".into());
        }
        // Version 2 has counts of 16 bits.
        let count_bits = if word(&header, 4) == 3 { word(&header, 96) } else { 4 };
        let cluster_bits = word(&header, 20);
        if !(9..=21).contains(&cluster_bits) || count_bits > 6 {
            return Err("its header is damaged".into());
        }
        let table = |at: usize, size: u64| {
            let start = double_word(&header, at);
            start..start.saturating_add(size)
        };
        let first_level = table(40, u64::from(word(&header, 36)) * POINTER);
        let references = table(48, u64::from(word(&header, 56)) << cluster_bits);
        let size = references.end - references.start;
        if size > REFERENCE_TABLE_BYTES_MAX {
            return Err("its tables are too large".into());
        }
        let mut bytes = vec![0; size as usize];
        read_up_to(file, &mut bytes, references.start)?;
        let blocks =
            bytes.chunks_exact(POINTER as usize).map(|entry| double_word(entry, 0) & OFFSET).collect();
        Ok(Layout {
            cluster_bits,
            block_bits: cluster_bits + 3 - count_bits,
            first_level,
            references,
            blocks,
        })
    }

    /// Whether a range touches one of the two tables of pointers.
    pub fn is_in_tables(&self, at: u64, length: u64) -> bool {
        let end = at.saturating_add(length);
        [&self.first_level, &self.references].iter().any(|table| at < table.end && end > table.start)
    }

    /// Enters a pointer that is written to one of the tables. The answer is the place of the reference block that
    /// counts what it points to, if there is one.
    pub fn enter(&mut self, at: u64, pointer: u64) -> Option<u64> {
        let target = pointer & OFFSET;
        if self.references.contains(&at) {
            let index = (at - self.references.start) / POINTER;
            *self.blocks.get_mut(usize::try_from(index).ok()?)? = target;
        }
        let index = usize::try_from(target >> self.cluster_bits >> self.block_bits).ok()?;
        self.blocks.get(index).copied().filter(|&block| target != 0 && block != 0)
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
