//! Chunks: files with up to 256 pages, compressed together, each page known by its hash.
//!
//! A chunk's name is the hash of its pages' hashes, so that whatever is changed in it is found: in the list by the name, in the
//! contents by the list.

use super::StoreError;
use crate::digest::PAGE_BYTES;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most pages in a chunk.
pub const CHUNK_PAGES: usize = 256;
/// Half of a SHA-256.
pub type Hash = [u8; 16];

const MAGIC: &[u8; 8] = b"RPRSPAG1";
/// Fast: the machine runs meanwhile, and the next save waits.
const ZSTD_LEVEL: i32 = 1;

/// Hash of a page, or of a chunk's list.
pub fn hash(bytes: &[u8]) -> Hash {
    let full = Sha256::digest(bytes);
    let mut half = Hash::default();
    half.copy_from_slice(&full[..size_of::<Hash>()]);
    half
}

/// A hash as it stands in names of files.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(hash)
}

fn path(pages: &Path, name: &Hash) -> PathBuf {
    let text = hex(name);
    pages.join(&text[..2]).join(text)
}

/// Writes pages, at most [`CHUNK_PAGES`], as a chunk; its name and how many bytes the file has.
pub fn write(pages: &Path, hashes: &[Hash], contents: &[u8]) -> Result<(Hash, u64), StoreError> {
    assert_eq!(contents.len(), hashes.len() * PAGE_BYTES, "a hash for each page");
    let list = hashes.concat();
    let name = hash(&list);
    let place = path(pages, &name);
    let host = |source| StoreError::host("write", &place, source);
    let packed = zstd::bulk::compress(contents, ZSTD_LEVEL).map_err(host)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend((hashes.len() as u32).to_le_bytes());
    bytes.extend(&list);
    bytes.extend(&packed);
    let directory = place.parent().unwrap_or(pages);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(host)?;
    let temporary = place.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(host)?;
    file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(host)?;
    fs::rename(&temporary, &place).map_err(host)?;
    Ok((name, bytes.len() as u64))
}

/// The list of a chunk's pages.
pub fn read_list(pages: &Path, name: &Hash) -> Result<Vec<Hash>, StoreError> {
    let place = path(pages, name);
    let mut file = File::open(&place).map_err(|source| StoreError::host("open", &place, source))?;
    list_of(&mut file, &place, name)
}

fn list_of(file: &mut File, place: &Path, name: &Hash) -> Result<Vec<Hash>, StoreError> {
    let damaged = |what: &str| StoreError::Damaged { path: place.into(), what: what.into() };
    let mut head = [0; 12];
    file.read_exact(&mut head).map_err(|_| damaged("it is cut short"))?;
    let count = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    if &head[..8] != MAGIC || count == 0 || count > CHUNK_PAGES {
        return Err(damaged("it does not begin like a chunk of pages"));
    }
    let mut list = vec![0; count * size_of::<Hash>()];
    file.read_exact(&mut list).map_err(|_| damaged("it is cut short"))?;
    if hash(&list) != *name {
        return Err(damaged("its list of pages is not the one that it is named after"));
    }
    let hash_at = |bytes: &[u8]| Hash::try_from(bytes).expect("pieces of this size");
    Ok(list.chunks_exact(size_of::<Hash>()).map(hash_at).collect())
}

/// The contents of all pages of a chunk, checked.
pub fn read(pages: &Path, name: &Hash) -> Result<Vec<u8>, StoreError> {
    let place = path(pages, name);
    let host = |source| StoreError::host("read", &place, source);
    let damaged = |what: String| StoreError::Damaged { path: place.clone(), what };
    let mut file = File::open(&place).map_err(host)?;
    let list = list_of(&mut file, &place, name)?;
    let mut packed = Vec::new();
    file.read_to_end(&mut packed).map_err(host)?;
    let size = list.len() * PAGE_BYTES;
    let contents = zstd::bulk::decompress(&packed, size).map_err(|error| damaged(error.to_string()))?;
    if contents.len() != size {
        return Err(damaged(format!("it has {} bytes of pages instead of {size}", contents.len())));
    }
    for (slot, (page, wanted)) in contents.chunks_exact(PAGE_BYTES).zip(&list).enumerate() {
        if hash(page) != *wanted {
            return Err(damaged(format!("page {slot} of {} is not the one that was written", list.len())));
        }
    }
    Ok(contents)
}

/// Names of all chunks in a store.
pub fn names(pages: &Path) -> Result<Vec<Hash>, StoreError> {
    let mut found = Vec::new();
    let Some(outer) = super::entries(pages)? else { return Ok(found) };
    for directory in outer.iter().filter(|path| path.is_dir()) {
        for file in super::entries(directory)?.unwrap_or_default() {
            found.extend(file.file_name().and_then(|name| name.to_str()).and_then(from_hex));
        }
    }
    Ok(found)
}

/// Removes a chunk.
pub fn remove(pages: &Path, name: &Hash) -> Result<(), StoreError> {
    let place = path(pages, name);
    fs::remove_file(&place).map_err(|source| StoreError::host("remove", &place, source))
}
