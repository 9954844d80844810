//! Snapshots on disk: `snapshots/` with one small file each, `pages/` with the contents of RAM, shared by all of them.
//!
//! A page that is stored already is not stored again, and pages of zeros are not stored at all, so a snapshot costs what changed
//! since any other. Everything is written beside its place and renamed, so a process that dies leaves whole snapshots. Who
//! writes holds a lock; readers need none. Damage is found by checksums and hashes, and named by file.

pub mod chunk;
pub mod file;
pub mod sections;

use crate::digest::PAGE_BYTES;
use chunk::{CHUNK_PAGES, Hash};
use file::Location;
pub use file::{DiskState, Info, PageTable, Snapshot};
use nix::fcntl::{Flock, FlockArg};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where snapshots' files are in a store.
pub const SNAPSHOTS: &str = "snapshots";
/// Where pages are in a store.
pub const PAGES: &str = "pages";

/// Why a store cannot be used; each prints as one line.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The host refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Host {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// A file is not as it was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A snapshot cannot be written down.
    #[error("snapshot '{tag}' cannot be written: {what}")]
    Unwritable {
        /// Its name.
        tag: String,
        /// Why.
        what: String,
    },
    /// Pages of the snapshot on which a new one builds are gone.
    #[error("pages of the snapshot before it are gone from {}", .0.display())]
    BaseGone(PathBuf),
    /// A page of a snapshot is not to be had.
    #[error("snapshot '{tag}', page {page:#x} of RAM: {source}")]
    Page {
        /// The snapshot.
        tag: String,
        /// Number of the page.
        page: u64,
        /// Why.
        source: Box<StoreError>,
    },
}

impl StoreError {
    fn host(action: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Host { action, path: path.into(), source }
    }
}

/// A directory with snapshots. It is made by the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// Pages of RAM to be stored: their numbers, and a file with their contents in this order.
#[derive(Debug)]
pub struct NewPages<'a> {
    /// What the others are as in; empty: zeros.
    pub base: PageTable,
    /// Numbers of the pages in `contents`.
    pub numbers: &'a [u64],
    /// The contents, one page after the other.
    pub contents: &'a File,
}

/// Paths in a directory; none: there is no such directory.
pub(super) fn entries(directory: &Path) -> Result<Option<Vec<PathBuf>>, StoreError> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::host("list", directory, source)),
        Ok(listed) => listed,
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.map_err(|source| StoreError::host("list", directory, source))?.path());
    }
    paths.sort();
    Ok(Some(paths))
}

impl Store {
    /// The store in a directory, which need not be there.
    pub fn new(root: &Path) -> Store {
        Store { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn pages(&self) -> PathBuf {
        self.root.join(PAGES)
    }

    /// Where the snapshot with this name is, or would be.
    fn place(&self, tag: &str) -> Option<PathBuf> {
        Some(self.root.join(SNAPSHOTS).join(file::name_of(tag)?))
    }

    /// Whether there is a snapshot with this name.
    pub fn holds(&self, tag: &str) -> bool {
        self.place(tag).is_some_and(|place| place.exists())
    }

    /// All snapshots in the order of their making, and the files that are none.
    pub fn list(&self) -> Result<(Vec<Info>, Vec<StoreError>), StoreError> {
        let (mut found, mut bad) = (Vec::new(), Vec::new());
        for path in self.files()? {
            match file::read(&path) {
                Ok(snapshot) => found.push(snapshot.info),
                Err(error) => bad.push(error),
            }
        }
        found.sort_by(|a, b| (a.created_unix_s, a.icount, &a.tag).cmp(&(b.created_unix_s, b.icount, &b.tag)));
        Ok((found, bad))
    }

    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let files = entries(&self.root.join(SNAPSHOTS))?.unwrap_or_default();
        Ok(files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "snapshot")).collect())
    }

    /// Reads a snapshot; none: there is none with this name.
    pub fn read(&self, tag: &str) -> Result<Option<Snapshot>, StoreError> {
        match self.place(tag) {
            Some(place) if place.exists() => file::read(&place).map(Some),
            _ => Ok(None),
        }
    }

    /// Makes the directories and keeps other writers away.
    fn lock(&self) -> Result<Flock<File>, StoreError> {
        for part in [self.root.join(SNAPSHOTS), self.pages()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&part);
            made.map_err(|source| StoreError::host("create", &part, source))?;
        }
        let pages = self.pages();
        let directory = File::open(&pages).map_err(|source| StoreError::host("open", &pages, source))?;
        Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| StoreError::host("lock", &pages, errno.into()))
    }

    /// Stores a snapshot, in the place of one with the same name. The table of its pages is returned.
    pub fn save(&self, info: Info, state: Vec<Vec<u8>>, pages: NewPages<'_>) -> Result<Snapshot, StoreError> {
        let tag = info.tag.clone();
        let place = self.place(&tag).ok_or_else(|| StoreError::Unwritable {
            tag: tag.clone(),
            what: "a name has 1 to 200 bytes; other than letters, digits, '_', '-' and '.' count three"
                .into(),
        })?;
        let _lock = self.lock()?;
        let table = self.store_pages(pages)?;
        let state_bytes = state.iter().map(Vec::len).sum::<usize>() as u64;
        let vm_bytes = state_bytes + (table.len() * PAGE_BYTES) as u64;
        let snapshot = Snapshot { info: Info { vm_bytes, ..info }, table, state };
        let bytes = file::encode(&snapshot)?;
        let replaces = place.exists();
        self.write_file(&place, &bytes)?;
        if replaces {
            self.collect_garbage()?;
        }
        Ok(snapshot)
    }

    fn write_file(&self, place: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let host = |source| StoreError::host("write", place, source);
        let temporary = place.with_extension("new");
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(host)?;
        io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_all()).map_err(host)?;
        fs::rename(&temporary, place).map_err(host)?;
        let directory = self.root.join(SNAPSHOTS);
        File::open(&directory).and_then(|directory| directory.sync_all()).map_err(host)
    }

    /// Where every stored page is, by its hash, and all chunks.
    fn index(&self) -> Result<(BTreeMap<Hash, Location>, BTreeSet<Hash>), StoreError> {
        let pages = self.pages();
        let (mut index, mut chunks) = (BTreeMap::new(), BTreeSet::new());
        for name in chunk::names(&pages)? {
            // A damaged one is no place for anything new; who needs it is told when it is loaded.
            let Ok(list) = chunk::read_list(&pages, &name) else { continue };
            chunks.insert(name);
            for (slot, hash) in list.into_iter().enumerate() {
                index.insert(hash, Location { chunk: name, slot: slot as u16 });
            }
        }
        Ok((index, chunks))
    }

    fn store_pages(&self, new: NewPages<'_>) -> Result<PageTable, StoreError> {
        let NewPages { base: mut table, numbers, contents } = new;
        let (mut index, chunks) = self.index()?;
        if table.values().any(|location| !chunks.contains(&location.chunk)) {
            return Err(StoreError::BaseGone(self.root.clone()));
        }
        let mut fresh =
            Fresh { pages: self.pages(), hashes: Vec::new(), numbers: Vec::new(), bytes: Vec::new() };
        let mut page = [0; PAGE_BYTES];
        for (at, number) in numbers.iter().enumerate() {
            let read = contents.read_exact_at(&mut page, (at * PAGE_BYTES) as u64);
            read.map_err(|source| StoreError::host("read", Path::new("the pages of the machine"), source))?;
            if page == [0; PAGE_BYTES] {
                table.remove(number);
                continue;
            }
            let hash = chunk::hash(&page);
            match index.get(&hash) {
                Some(location) => {
                    table.insert(*number, *location);
                }
                None => {
                    fresh.add(*number, hash, &page);
                    if fresh.hashes.len() == CHUNK_PAGES {
                        fresh.write(&mut table, &mut index)?;
                    }
                }
            }
        }
        fresh.write(&mut table, &mut index)?;
        Ok(table)
    }

    /// Gives the contents of a snapshot's pages to `take`, with their numbers, chunk by chunk.
    pub fn read_pages(
        &self,
        snapshot: &Snapshot,
        take: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let mut by_chunk: BTreeMap<Hash, Vec<(u64, u16)>> = BTreeMap::new();
        for (number, location) in &snapshot.table {
            by_chunk.entry(location.chunk).or_default().push((*number, location.slot));
        }
        let pages = self.pages();
        for (name, wanted) in by_chunk {
            let of_page = |source: StoreError, page: u64| StoreError::Page {
                tag: snapshot.info.tag.clone(),
                page,
                source: Box::new(source),
            };
            let contents = chunk::read(&pages, &name).map_err(|source| of_page(source, wanted[0].0))?;
            for (number, slot) in wanted {
                let at = usize::from(slot) * PAGE_BYTES;
                let page = contents.get(at..at + PAGE_BYTES).ok_or_else(|| {
                    let what = format!("it has no page {slot}");
                    of_page(StoreError::Damaged { path: pages.join(chunk::hex(&name)), what }, number)
                })?;
                take(number, page).map_err(|source| {
                    StoreError::host("use", Path::new("the pages of a snapshot"), source)
                })?;
            }
        }
        Ok(())
    }

    /// Deletes a snapshot and what only it needed; false: there is none with this name.
    pub fn delete(&self, tag: &str) -> Result<bool, StoreError> {
        let Some(place) = self.place(tag).filter(|place| place.exists()) else { return Ok(false) };
        let _lock = self.lock()?;
        fs::remove_file(&place).map_err(|source| StoreError::host("remove", &place, source))?;
        self.collect_garbage()?;
        Ok(true)
    }

    /// Removes chunks that no snapshot needs; none of them, if a snapshot cannot be read.
    fn collect_garbage(&self) -> Result<(), StoreError> {
        let mut needed = BTreeSet::new();
        for path in self.files()? {
            let Ok(snapshot) = file::read(&path) else { return Ok(()) };
            needed.extend(snapshot.table.values().map(|location| location.chunk));
        }
        let pages = self.pages();
        let unneeded = chunk::names(&pages)?.into_iter().filter(|name| !needed.contains(name));
        unneeded.into_iter().try_for_each(|name| chunk::remove(&pages, &name))
    }
}

/// Pages that are not stored yet.
struct Fresh {
    pages: PathBuf,
    hashes: Vec<Hash>,
    /// Numbers of the pages with each of the hashes.
    numbers: Vec<Vec<u64>>,
    bytes: Vec<u8>,
}

impl Fresh {
    fn add(&mut self, number: u64, hash: Hash, page: &[u8]) {
        match self.hashes.iter().position(|known| *known == hash) {
            Some(at) => self.numbers[at].push(number),
            None => {
                self.hashes.push(hash);
                self.numbers.push(vec![number]);
                self.bytes.extend(page);
            }
        }
    }

    fn write(
        &mut self,
        table: &mut PageTable,
        index: &mut BTreeMap<Hash, Location>,
    ) -> Result<(), StoreError> {
        if self.hashes.is_empty() {
            return Ok(());
        }
        let (chunk, _) = chunk::write(&self.pages, &self.hashes, &self.bytes)?;
        for (slot, (hash, numbers)) in self.hashes.drain(..).zip(self.numbers.drain(..)).enumerate() {
            let location = Location { chunk, slot: slot as u16 };
            index.insert(hash, location);
            table.extend(numbers.into_iter().map(|number| (number, location)));
        }
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
