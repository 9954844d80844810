//! `reprise device block --merge TOP BOTTOM`: makes one layer of those from TOP down to BOTTOM.
//!
//! The new one takes the place of the topmost, which it equals: who opens that name finds the same contents over a shorter chain.
//! The others stay, because other layers may lie over them. If the process dies half way, nothing has changed.

use super::commit::{self, CHAIN_MAX, Committed, Piece};
use super::header::Backing;
use super::image::Image;
use super::layer::{self, BaseName};
use super::lock::Use;
use super::open::{self, Format};
use replay::clusters::{CLUSTER, ClusterSet, touched};
use std::io;
use std::path::{Path, PathBuf};

/// Merges `top` and those below it, down to `bottom`.
pub fn merge(top: &Path, bottom: &Path) -> Result<Committed, String> {
    let cannot = |error: io::Error| format!("cannot merge layers below '{}': {error}", top.display());
    let (layers, below) = open_layers(top, bottom)?;
    let size = layers.first().map_or(0, Image::size);
    let below = match below {
        None => None,
        Some((backing, above)) => {
            let (path, format) = open::resolve(&backing, &above)?;
            let format = format.map_or_else(|| open::probe(&path), Ok)?;
            let name = BaseName::of_file(&path, format)?.seen_from(top);
            Some((open::open(&path, Some(format), Use::Read)?, name))
        }
    };
    if let Some((base, _)) = &below
        && base.size() != size
    {
        return Err(format!("'{}' has {size} bytes, what is below it has {}", top.display(), base.size()));
    }
    let (mut merged, temporary) = layer::create_part(top, size, below)?;
    let mut done = Committed { base: top.into(), copied: 0, zeroed: 0 };
    let mut covered = ClusterSet::default();
    for mut layer in layers {
        take_over(&mut layer, &mut merged, &mut covered, &mut done).map_err(cannot)?;
    }
    merged.flush(true).map_err(cannot)?;
    drop(merged);
    temporary.persist(top).map_err(|error| cannot(error.error))?;
    layer::sync_directory(top).map_err(cannot)?;
    Ok(done)
}

/// What the lowest of some layers lies on, and its place, to which the name is relative.
type Below = Option<(Backing, PathBuf)>;

/// Opens layers from the top down, each alone.
fn open_layers(top: &Path, bottom: &Path) -> Result<(Vec<Image>, Below), String> {
    let wanted = commit::identity(bottom)?;
    let (image, mut backing) = open::open_alone(top)?;
    let (mut layers, mut path) = (vec![image], top.to_path_buf());
    while commit::identity(&path)? != wanted {
        let not_below = || format!("'{}' is not below '{}'", bottom.display(), top.display());
        let name = backing.ok_or_else(not_below)?;
        let (next, format) = open::resolve(&name, &path)?;
        if format.is_some_and(|format| format != Format::Qcow2) || layers.len() == CHAIN_MAX {
            return Err(not_below());
        }
        let (image, below) = open::open_alone(&next)?;
        layers.push(image);
        (path, backing) = (next, below);
    }
    Ok((layers, backing.map(|backing| (backing, path))))
}

/// Adds what a layer holds where none above it does.
fn take_over(
    layer: &mut Image,
    merged: &mut Image,
    covered: &mut ClusterSet,
    done: &mut Committed,
) -> io::Result<()> {
    let mut buffer = vec![0; CLUSTER as usize];
    let size = layer.size().min(merged.size());
    let mut offset = 0;
    while offset < size {
        let (piece, length) = commit::piece_at(layer, offset)?;
        let end = size.min(offset + length);
        if matches!(piece, Piece::Nothing) {
            offset = end;
            continue;
        }
        for cluster in touched(offset, end - offset) {
            let start = cluster * CLUSTER;
            let length = CLUSTER.min(size - start);
            if start < offset || start + length > end {
                return Err(io::Error::other(format!("its clusters are not of {CLUSTER} bytes")));
            }
            if !covered.insert(cluster) {
                continue;
            }
            if matches!(piece, Piece::Zeros) {
                merged.write_zeroes(start, length, true)?;
                done.zeroed += length;
            } else {
                let bytes = &mut buffer[..length as usize];
                layer.read_bytes(bytes, start)?;
                merged.write_bytes(bytes, start)?;
                done.copied += length;
            }
        }
        offset = end;
    }
    Ok(())
}
