//! Sets of clusters of a disk: which were changed, which are still to be copied.
//!
//! Sparse, because a disk may be large and mostly empty. A set passes between the broker and the process of a disk in a memory file, so
//! that it outlives the process: one bit for each cluster, behind a page with a mark that says whether it is complete.

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What the process of a disk answers when it has kept what the disk held.
pub const KEPT: &str = "kept\n";
/// Bytes of a cluster.
pub const CLUSTER: u64 = 1 << 16;
/// Clusters in one piece of a set: a page of bits.
const PIECE: u64 = 1 << 15;
const WORDS: usize = PIECE as usize / 64;
/// Bytes before the bits in a file.
pub const HEAD_BYTES: u64 = 4096;
/// First byte of a file in which nothing is missing.
pub const COMPLETE: u8 = b'+';
/// First byte of a file that could not be written to.
pub const INCOMPLETE: u8 = b'-';

/// The clusters that a range of bytes touches.
pub fn touched(offset: u64, length: u64) -> Range<u64> {
    if length == 0 {
        return 0..0;
    }
    offset / CLUSTER..offset.saturating_add(length).div_ceil(CLUSTER)
}

/// A set of clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSet {
    pieces: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl ClusterSet {
    /// Adds a cluster; false: it is in the set already.
    pub fn insert(&mut self, cluster: u64) -> bool {
        let piece = self.pieces.entry(cluster / PIECE).or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = place(cluster);
        let is_new = piece[word] & bit == 0;
        piece[word] |= bit;
        is_new
    }

    /// Whether a cluster is in the set.
    pub fn contains(&self, cluster: u64) -> bool {
        let (word, bit) = place(cluster);
        self.pieces.get(&(cluster / PIECE)).is_some_and(|piece| piece[word] & bit != 0)
    }

    /// The first cluster of the set from `from` on.
    pub fn next(&self, from: u64) -> Option<u64> {
        for (number, piece) in self.pieces.range(from / PIECE..) {
            let first = number * PIECE;
            let mut at = from.saturating_sub(first);
            while at < PIECE {
                let (word, _) = place(at);
                match piece[word] & u64::MAX << (at % 64) {
                    0 => at = (at / 64 + 1) * 64,
                    rest => return Some(first + at / 64 * 64 + u64::from(rest.trailing_zeros())),
                }
            }
        }
        None
    }

    /// Forgets all clusters before `end`, as far as that gives memory back.
    pub fn forget_before(&mut self, end: u64) {
        self.pieces = self.pieces.split_off(&(end / PIECE));
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &ClusterSet) {
        for (number, theirs) in &other.pieces {
            let ours = self.pieces.entry(*number).or_insert_with(|| Box::new([0; WORDS]));
            ours.iter_mut().zip(theirs.iter()).for_each(|(ours, theirs)| *ours |= theirs);
        }
    }

    /// Reads the set in a file; none: it is not complete.
    pub fn read(file: &File) -> io::Result<Option<ClusterSet>> {
        let mut mark = [0];
        file.read_exact_at(&mut mark, 0)?;
        if mark[0] != COMPLETE {
            return Ok(None);
        }
        let (mut set, length) = (ClusterSet::default(), file.metadata()?.len());
        let mut at = HEAD_BYTES;
        while let Some(data) = next_data(file, at)?.filter(|data| *data < length) {
            let number = data.saturating_sub(HEAD_BYTES) / (PIECE / 8);
            let start = HEAD_BYTES + number * (PIECE / 8);
            let mut bytes = [0; WORDS * 8];
            let count = (length - start).min(bytes.len() as u64) as usize;
            file.read_exact_at(&mut bytes[..count], start)?;
            let mut piece = Box::new([0; WORDS]);
            for (word, bytes) in piece.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            }
            if *piece != [0; WORDS] {
                set.pieces.insert(number, piece);
            }
            at = start + PIECE / 8;
        }
        Ok(Some(set))
    }

    /// Writes the set to an empty file.
    pub fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&[COMPLETE], 0)?;
        for (number, piece) in &self.pieces {
            let bytes: Vec<u8> = piece.iter().flat_map(|word| word.to_le_bytes()).collect();
            file.write_all_at(&bytes, HEAD_BYTES + number * (PIECE / 8))?;
        }
        Ok(())
    }
}

/// From here on not all changes are in the file.
pub fn give_up(file: &File) {
    // This page is there: writing to it needs no memory, and cannot fail.
    let _ = file.write_all_at(&[INCOMPLETE], 0);
}

/// Where the file has data next, from `at` on; none: nothing but a hole comes.
pub fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match lseek64(file, at as i64, Whence::SeekData) {
        Ok(data) => Ok(Some(data as u64)),
        Err(Errno::ENXIO) => Ok(None),
        // A block device knows no holes.
        Err(Errno::EINVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

/// Word and bit of a cluster in its piece.
fn place(cluster: u64) -> (usize, u64) {
    ((cluster % PIECE / 64) as usize, 1 << (cluster % 64))
}

/// The clusters that were changed: here, and in a file that outlives this process.
#[derive(Debug)]
pub struct Changes {
    set: ClusterSet,
    file: File,
}

impl Changes {
    /// Goes on with the changes that are noted in a file.
    pub fn new(file: File) -> io::Result<Changes> {
        let set = ClusterSet::read(&file)?.unwrap_or_default();
        Ok(Changes { set, file })
    }

    /// Notes that clusters are about to be changed. If that cannot be, the file says that it is not complete.
    pub fn note(&mut self, clusters: Range<u64>) {
        let mut is_new = false;
        for cluster in clusters.clone() {
            is_new |= self.set.insert(cluster);
        }
        if is_new && self.write(clusters).is_err() {
            give_up(&self.file);
        }
    }

    fn write(&self, clusters: Range<u64>) -> io::Result<()> {
        let byte = |number: u64| {
            let piece = self.set.pieces.get(&(number * 8 / PIECE));
            let word = piece.map_or(0, |piece| piece[place(number * 8).0]);
            (word >> (number % 8 * 8)) as u8
        };
        let bytes: Vec<u8> = (clusters.start / 8..clusters.end.div_ceil(8)).map(byte).collect();
        self.file.write_all_at(&bytes, HEAD_BYTES + clusters.start / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[COMPLETE], 0).unwrap();
        file
    }

    #[test]
    fn ranges_of_bytes() {
        assert_eq!(touched(0, 1), 0..1);
        assert_eq!(touched(CLUSTER - 1, 2), 0..2);
        assert_eq!(touched(CLUSTER, CLUSTER), 1..2);
        assert!(touched(7 * CLUSTER, 0).is_empty());
    }

    #[test]
    fn members_in_order() {
        let members = [0, 1, 63, 64, PIECE - 1, PIECE, 5 * PIECE + 700, 1 << 40];
        let mut set = ClusterSet::default();
        for member in members {
            assert!(set.insert(member) && !set.insert(member) && set.contains(member));
        }
        let mut found = vec![];
        let mut from = 0;
        while let Some(member) = set.next(from) {
            found.push(member);
            from = member + 1;
        }
        assert_eq!(found, members);
        assert!(!set.contains(2) && set.next(2) == Some(63));
        set.forget_before(PIECE + 1);
        assert_eq!(set.next(0), Some(PIECE));
    }

    #[test]
    fn a_file_has_what_was_noted() {
        let file = file();
        let mut changes = Changes::new(file.try_clone().unwrap()).unwrap();
        for range in [3..4, 5..6, 60..70, PIECE - 2..PIECE + 3, 1 << 30..(1 << 30) + 20_000] {
            changes.note(range);
        }
        assert_eq!(ClusterSet::read(&file).unwrap(), Some(changes.set.clone()));
        let mut more = Changes::new(file.try_clone().unwrap()).unwrap();
        more.note(4..5);
        let read = ClusterSet::read(&file).unwrap().unwrap();
        assert!((3..6).all(|cluster| read.contains(cluster)) && !read.contains(2) && !read.contains(6));
        let mut both = changes.set.clone();
        both.extend(&read);
        assert_eq!(both, read);
        let copy = tempfile::tempfile().unwrap();
        both.write(&copy).unwrap();
        assert_eq!(ClusterSet::read(&copy).unwrap(), Some(both));
        copy.write_all_at(&[INCOMPLETE], 0).unwrap();
        assert_eq!(ClusterSet::read(&copy).unwrap(), None);
    }
}
