//! `reprise device block --commit LAYER`: writes what a layer holds into the image below it.
//!
//! The layer stays as it is: it can be removed after it, and committing it again changes nothing. If the process
//! dies half way, the base holds a mixture, and committing again completes it.

use super::image::Image;
use super::lock::Use;
use super::open::{self, Format};
use super::restore::{self, Restored, Source};
use imago::ShallowMapping;
use std::path::{Path, PathBuf};

/// Bytes copied at once.
const CHUNK: u64 = 1 << 20;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The image that was written to.
    pub base: PathBuf,
    /// Bytes of data copied to it.
    pub copied: u64,
    /// Bytes of it made zero.
    pub zeroed: u64,
}

/// What the layer has at some place.
pub(super) enum Piece {
    /// Data.
    Data,
    /// Zeros.
    Zeros,
    /// Nothing: what is below shows.
    Nothing,
}

/// Most layers below one another; more is a loop.
pub(super) const CHAIN_MAX: usize = 1024;

/// Merges the qcow2 image at `layer` into the image below it, and waits until that is on the host's disk.
pub fn commit(layer: &Path) -> Result<Committed, String> {
    let (path, format) = below(layer)?;
    merge(layer, &path, format)
}

/// Merges all layers from `top` down to `base` into it, the lowest first. They stay as they are. Below layers of a recording that
/// starts from a snapshot there may be no image: then they hold all of the disk, and the base becomes equal to them.
pub fn commit_chain(top: &Path, base: &Path, format: Format) -> Result<Committed, String> {
    let wanted = identity(base)?;
    let (mut layers, mut layer) = (vec![], top.to_path_buf());
    loop {
        let (_, backing) = open::open_alone(&layer)?;
        let Some(backing) = backing else { return commit_whole(top, base, format) };
        let (path, _) = open::resolve(&backing, &layer)?;
        layers.push(std::mem::replace(&mut layer, path));
        if identity(&layer)? == wanted {
            break;
        }
        if layers.len() == CHAIN_MAX {
            return Err(format!("'{}' is not below '{}'", base.display(), top.display()));
        }
    }
    let mut all = Committed { base: base.into(), copied: 0, zeroed: 0 };
    for layer in layers.iter().rev() {
        let done = merge(layer, base, Some(format))?;
        (all.copied, all.zeroed) = (all.copied + done.copied, all.zeroed + done.zeroed);
    }
    Ok(all)
}

/// What a file is, whatever it is called.
pub(super) fn identity(path: &Path) -> Result<PathBuf, String> {
    std::fs::canonicalize(path).map_err(|error| format!("cannot find '{}': {error}", path.display()))
}

/// Writes what `top` and those below it hold into an image that is not below them.
fn commit_whole(top: &Path, base: &Path, format: Format) -> Result<Committed, String> {
    let mut image = open::open(base, Some(format), Use::Write)?;
    let source = Source { from: top.into(), mark: None, known: None };
    let Restored { copied, zeroed } = restore::restore(&mut image, Some(base), &source)?;
    Ok(Committed { base: base.into(), copied, zeroed })
}

/// The image below a layer, and its format, if that is said.
fn below(layer: &Path) -> Result<(PathBuf, Option<Format>), String> {
    let (_, backing) = open::open_alone(layer)?;
    let backing = backing.ok_or_else(|| format!("'{}' has no image below it", layer.display()))?;
    open::resolve(&backing, layer)
}

fn merge(layer: &Path, path: &Path, format: Option<Format>) -> Result<Committed, String> {
    let mut base = open::open(path, format, Use::Write)?;
    merge_into(layer, &mut base, path)
}

/// Writes what a layer holds into an image that is open.
pub(super) fn merge_into(layer: &Path, base: &mut Image, path: &Path) -> Result<Committed, String> {
    let (mut top, _) = open::open_alone(layer)?;
    let cannot = |error: std::io::Error| {
        format!("cannot commit '{}' to '{}': {error}", layer.display(), path.display())
    };
    base.grow(top.size()).map_err(cannot)?;
    let mut done = Committed { base: path.into(), copied: 0, zeroed: 0 };
    let mut buffer = vec![0; CHUNK as usize];
    let mut offset = 0;
    while offset < top.size() {
        let (piece, length) = piece_at(&top, offset).map_err(cannot)?;
        match piece {
            Piece::Nothing => {}
            Piece::Zeros => {
                base.write_zeroes(offset, length, true).map_err(cannot)?;
                done.zeroed += length;
            }
            Piece::Data => {
                let bytes = &mut buffer[..length as usize];
                top.read_bytes(bytes, offset).map_err(cannot)?;
                base.write_bytes(bytes, offset).map_err(cannot)?;
                done.copied += length;
            }
        }
        offset += length;
    }
    base.flush(true).map_err(cannot)?;
    Ok(done)
}

/// What is at `offset` of a layer that was opened without what is below it, and for how long, at most `CHUNK`.
pub(super) fn piece_at(layer: &Image, offset: u64) -> std::io::Result<(Piece, u64)> {
    let rest = (layer.size() - offset).min(CHUNK);
    let (mapping, length) = layer.access().get_shallow_mapping(offset, rest)?;
    let piece = match mapping {
        ShallowMapping::Raw { .. } | ShallowMapping::Special { .. } => Piece::Data,
        ShallowMapping::Zero { explicit: true, .. } => Piece::Zeros,
        ShallowMapping::Zero { explicit: false, .. }
        | ShallowMapping::Indirect { .. }
        | ShallowMapping::Eof { .. } => Piece::Nothing,
        // imago may learn of other things; then the data are the safe answer.
        _ => Piece::Data,
    };
    // At the end imago answers with no length at all.
    Ok((piece, if length == 0 { rest } else { length.min(rest) }))
}

/// The line that the program prints.
pub fn report(done: &Committed) -> String {
    serde_json::json!({
        "base": done.base.to_string_lossy(),
        "copied-bytes": done.copied,
        "zeroed-bytes": done.zeroed,
    })
    .to_string()
}
