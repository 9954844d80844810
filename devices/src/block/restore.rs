//! A disk gets contents again that were kept.
//!
//! Only what differs is written. A disk in a file is half one thing and half another meanwhile: a mark beside the kept images says so
//! until all is safe on the host's disk, so that whoever opens the disk next can complete it.

use super::commit::{self, CHAIN_MAX, Piece};
use super::image::Image;
use super::layer::sync_directory;
use super::lock::Use;
use super::open::{self, Format};
use replay::clusters::{CLUSTER, ClusterSet, touched};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes at which is looked at once.
const LOOK: u64 = 1 << 30;

/// Where contents are.
#[derive(Debug)]
pub struct Source {
    /// The image that holds them, with those below it.
    pub from: PathBuf,
    /// The mark.
    pub mark: Option<PathBuf>,
    /// The disk is as in this image but for `changed`.
    pub known: Option<(PathBuf, ClusterSet)>,
}

/// An image and those below it.
struct Chain {
    /// From the top down.
    layers: Vec<PathBuf>,
    /// Below them is the very image that is to be written to.
    ends_in_itself: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bytes of data.
    pub copied: u64,
    /// Bytes made zero.
    pub zeroed: u64,
}

/// Gives `image` the contents of `source`; `path`: its file, if it is written to in place.
pub fn restore(image: &mut Image, path: Option<&Path>, source: &Source) -> Result<Restored, String> {
    let mut done = Restored::default();
    let mut mark = Mark { place: source.mark.as_deref(), image: path, from: &source.from, is_set: false };
    let chain = chain_of(&source.from, path)?;
    let cannot = |error: io::Error| format!("cannot restore '{}': {error}", source.from.display());
    match path.filter(|_| chain.ends_in_itself) {
        Some(path) => {
            mark.set()?;
            for layer in chain.layers.iter().rev() {
                let merged = commit::merge_into(layer, image, path)?;
                (done.copied, done.zeroed) = (done.copied + merged.copied, done.zeroed + merged.zeroed);
            }
        }
        None => {
            let mut wanted = open::open(&source.from, Some(Format::Qcow2), Use::Read)?;
            if wanted.size() != image.size() {
                let (found, size) = (wanted.size(), image.size());
                return Err(format!(
                    "'{}' is of a disk of {found} bytes, this one has {size}",
                    source.from.display()
                ));
            }
            let suspects = match &source.known {
                Some((known, changed)) => Some(suspects(known, &chain, changed)?),
                None => None,
            };
            done = make_equal(image, &mut wanted, suspects.as_ref(), &mut mark)?;
        }
    }
    image.flush(true).map_err(cannot)?;
    mark.clear()?;
    Ok(done)
}

fn chain_of(top: &Path, image: Option<&Path>) -> Result<Chain, String> {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let own = image.and_then(identity);
    let (mut layers, mut layer) = (vec![], top.to_path_buf());
    loop {
        let (_, backing) = open::open_alone(&layer)?;
        let below = backing.map(|backing| open::resolve(&backing, &layer)).transpose()?;
        layers.push(layer);
        let Some((path, format)) = below else { return Ok(Chain { layers, ends_in_itself: false }) };
        if own.is_some() && identity(&path) == own {
            return Ok(Chain { layers, ends_in_itself: true });
        }
        let format = format.map_or_else(|| open::probe(&path), Ok)?;
        if format == Format::Raw {
            return Ok(Chain { layers, ends_in_itself: false });
        }
        if layers.len() == CHAIN_MAX {
            return Err(format!("'{}' has too many images below it; is it a loop?", top.display()));
        }
        layer = path;
    }
}

/// The clusters that may differ between a disk and a chain of images: those that were changed, and those in images that only one of
/// the two chains has.
fn suspects(known: &Path, chain: &Chain, changed: &ClusterSet) -> Result<ClusterSet, String> {
    let mut found = changed.clone();
    let theirs = chain_of(known, None)?.layers;
    let only_in = |these: &[PathBuf], those: &[PathBuf]| -> Vec<PathBuf> {
        these.iter().filter(|layer| !those.contains(layer)).cloned().collect()
    };
    let mut layers = only_in(&theirs, &chain.layers);
    layers.extend(only_in(&chain.layers, &theirs));
    for layer in layers {
        let (image, _) = open::open_alone(&layer)?;
        let mut offset = 0;
        while offset < image.size() {
            let looked = commit::piece_at(&image, offset);
            let (piece, length) =
                looked.map_err(|error| format!("cannot read '{}': {error}", layer.display()))?;
            if !matches!(piece, Piece::Nothing) {
                touched(offset, length).for_each(|cluster| {
                    found.insert(cluster);
                });
            }
            offset += length;
        }
    }
    Ok(found)
}

/// Writes to `image` where it differs from `wanted`.
fn make_equal(
    image: &mut Image,
    wanted: &mut Image,
    suspects: Option<&ClusterSet>,
    mark: &mut Mark<'_>,
) -> Result<Restored, String> {
    let (size, mut done) = (image.size(), Restored::default());
    let mut buffers = (vec![0; CLUSTER as usize], vec![0; CLUSTER as usize]);
    let mut cluster = 0;
    loop {
        cluster = match suspects {
            None => cluster,
            Some(suspects) => suspects.next(cluster).unwrap_or(u64::MAX),
        };
        let Some(offset) = cluster.checked_mul(CLUSTER).filter(|offset| *offset < size) else {
            return Ok(done);
        };
        let cannot = |error: io::Error| format!("cannot restore byte {offset} and what follows: {error}");
        let look = LOOK.min(size - offset);
        let zeros = image.zeros_at(offset, look).map_err(cannot)?;
        let zeros = if zeros == 0 { 0 } else { wanted.zeros_at(offset, zeros).map_err(cannot)? };
        if zeros == look || zeros >= CLUSTER {
            cluster += (zeros / CLUSTER).max(1);
            continue;
        }
        let length = CLUSTER.min(size - offset) as usize;
        let (is, shall) = (&mut buffers.0[..length], &mut buffers.1[..length]);
        image.read_bytes(is, offset).map_err(cannot)?;
        wanted.read_bytes(shall, offset).map_err(cannot)?;
        if is != shall {
            mark.set()?;
            if shall.iter().all(|byte| *byte == 0) {
                image.write_zeroes(offset, length as u64, true).map_err(cannot)?;
                done.zeroed += length as u64;
            } else {
                image.write_bytes(shall, offset).map_err(cannot)?;
                done.copied += length as u64;
            }
        }
        cluster += 1;
    }
}

/// Says that an image is not whole.
struct Mark<'a> {
    place: Option<&'a Path>,
    image: Option<&'a Path>,
    from: &'a Path,
    is_set: bool,
}

impl Mark<'_> {
    /// Comes before the first change.
    fn set(&mut self) -> Result<(), String> {
        let (Some(place), Some(image), false) = (self.place, self.image, self.is_set) else { return Ok(()) };
        let text =
            serde_json::json!({ "image": image.to_string_lossy(), "from": self.from.to_string_lossy() });
        let new = place.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, place)?;
            sync_directory(place)
        });
        written.map_err(|error| format!("cannot write '{}': {error}", place.display()))?;
        self.is_set = true;
        Ok(())
    }

    /// All is there. One that another process left is not true any more, either.
    fn clear(&mut self) -> Result<(), String> {
        let Some(place) = self.place else { return Ok(()) };
        match fs::remove_file(place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("cannot remove '{}': {error}", place.display())),
        }
        sync_directory(place).map_err(|error| format!("cannot remove '{}': {error}", place.display()))
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
