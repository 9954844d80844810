//! From block nodes to the disk that a device process serves.

use crate::cli::CliError;
use crate::cli::block::{Node, Source};
use crate::cli::options::Options;
use replay::device::{Disk, Image};
use std::path::PathBuf;

/// Most nodes over one another.
const NODES_MAX: usize = 16;

/// What a chain of nodes comes to.
#[derive(Debug, Default)]
struct Chain {
    format: Option<&'static str>,
    read_only: bool,
    discard: bool,
    cache_unsafe: bool,
    snapshot: bool,
    serial: Option<String>,
    /// Every named node of it.
    names: Vec<String>,
}

/// The disk over the node `name`, and the names of all nodes in it.
pub fn disk(options: &Options, name: &str) -> Result<(Disk, Vec<String>), CliError> {
    let mut chain = Chain::default();
    let mut node = find(options, name)?;
    let mut depth = 0;
    let image = loop {
        chain.take(name, node)?;
        depth += 1;
        if depth > NODES_MAX {
            return Err(CliError(format!("drive '{name}': more than {NODES_MAX} nodes over one another")));
        }
        match &node.source {
            Source::Image(image) => break image,
            Source::Inside(inside) => node = inside,
            Source::Named(below) => node = find(options, below)?,
        }
    };
    let image = match image {
        Image::File { path, .. } => {
            Image::File { path: absolute(name, path)?, format: chain.format.map(str::to_owned) }
        }
        Image::Null { .. } | Image::Memory { .. } => image.clone(),
    };
    let disk = Disk {
        image,
        read_only: chain.read_only,
        serial: chain.serial,
        discard: chain.discard,
        cache_unsafe: chain.cache_unsafe,
        snapshot: chain.snapshot || options.snapshot,
        logical_block_size: None,
    };
    Ok((disk, chain.names))
}

fn find<'a>(options: &'a Options, name: &str) -> Result<&'a Node, CliError> {
    let node = options.nodes.iter().find(|node| node.names.iter().any(|known| known == name));
    node.ok_or_else(|| CliError(format!("Cannot find device='{name}' nor node-name='{name}'")))
}

impl Chain {
    /// Takes one node of the chain, from the top down.
    fn take(&mut self, name: &str, node: &Node) -> Result<(), CliError> {
        self.format = match (self.format, node.format) {
            (Some("qcow2"), Some("qcow2")) => {
                return Err(CliError(format!("drive '{name}': qcow2 inside qcow2 is not supported")));
            }
            // raw adds nothing to what is above or below it.
            (Some("qcow2"), _) => Some("qcow2"),
            (above, below) => below.or(above),
        };
        self.read_only |= node.read_only;
        self.discard |= node.discard;
        self.cache_unsafe |= node.cache_unsafe;
        self.snapshot |= node.snapshot;
        self.serial = self.serial.take().or_else(|| node.serial.clone());
        self.names.extend(node.names.iter().cloned());
        Ok(())
    }
}

fn absolute(name: &str, path: &std::path::Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path)
        .map_err(|error| CliError(format!("drive '{name}': {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn disk_of(line: &str, name: &str) -> Result<Disk, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Ok(Command::Run(options)) = parse(&words) else { panic!("{line}") };
        disk(&options, name).map(|(disk, _)| disk).map_err(|error| error.0)
    }

    fn format(line: &str, name: &str) -> Option<String> {
        match disk_of(line, name).unwrap().image {
            Image::File { path, format } => {
                assert!(path.is_absolute() && path.ends_with("d"), "{path:?}");
                format
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_documented_form_of_blkreplay() {
        let line = "-drive file=d,if=none,id=img-direct,discard=unmap \
                    -drive driver=blkreplay,if=none,image=img-direct,id=img-blkreplay";
        let disk = disk_of(line, "img-blkreplay").unwrap();
        assert!(disk.discard && !disk.read_only && !disk.snapshot);
        assert_eq!(format(line, "img-blkreplay"), None);
    }

    #[test]
    fn formats_of_chains() {
        let file = "-blockdev driver=file,filename=d,node-name=f";
        for (line, name, wanted) in [
            ("", "f", Some("raw")),
            ("-blockdev driver=qcow2,file=f,node-name=q", "q", Some("qcow2")),
            (
                "-blockdev driver=qcow2,file=f,node-name=q -blockdev driver=raw,file=q,node-name=r",
                "r",
                Some("qcow2"),
            ),
            (
                "-blockdev driver=raw,file=f,node-name=r -blockdev driver=qcow2,file=r,node-name=q",
                "q",
                Some("qcow2"),
            ),
            ("-blockdev driver=blkreplay,image=f,node-name=b", "b", Some("raw")),
            ("-drive file=d,if=none,id=x", "x", None),
            ("-drive file=d,if=none,id=x,format=qcow2", "x", Some("qcow2")),
            ("-drive file.filename=d,if=none,id=x", "x", None),
        ] {
            assert_eq!(format(&format!("{file} {line}"), name).as_deref(), wanted, "{line}");
        }
    }

    #[test]
    fn what_does_not_resolve_is_named() {
        assert_eq!(disk_of("", "x").unwrap_err(), "Cannot find device='x' nor node-name='x'");
        let circle = "-blockdev driver=raw,file=b,node-name=a -blockdev driver=raw,file=a,node-name=b";
        assert_eq!(disk_of(circle, "a").unwrap_err(), "drive 'a': more than 16 nodes over one another");
        let twice =
            "-blockdev driver=qcow2,node-name=a,file.driver=qcow2,file.file.driver=file,file.file.filename=d";
        assert_eq!(disk_of(twice, "a").unwrap_err(), "drive 'a': qcow2 inside qcow2 is not supported");
    }

    #[test]
    fn snapshot_is_for_all() {
        assert!(disk_of("-drive file=d,if=none,id=x -snapshot", "x").unwrap().snapshot);
    }
}
