//! Block nodes: what `-blockdev` describes, and `-drive` in its own way ([`super::drive`]).
//!
//! A node is an image, or stands over another node: a format over a file, blkreplay over anything. blkreplay adds
//! nothing, as every disk of a recorded machine is recorded.

use super::id;
use super::tree::{NameOrTree, Tree};
use replay::device::Image;

/// Size of a `null-co` image of which nothing else was said, as QEMU's.
const NULL_BYTES_DEFAULT: u64 = 1 << 30;
/// Largest image.
const IMAGE_BYTES_MAX: u64 = 1 << 62;

/// One block node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its names: `id=`, `node-name=`; none for one inside another.
    pub names: Vec<String>,
    /// Where its blocks come from.
    pub source: Source,
    /// `raw` or `qcow2`, if said here.
    pub format: Option<&'static str>,
    /// It may not be written.
    pub read_only: bool,
    /// Discards go down.
    pub discard: bool,
    /// Flushes need not.
    pub cache_unsafe: bool,
    /// Writes are thrown away at the end.
    pub snapshot: bool,
    /// Serial number that an old `-drive` gives its disk.
    pub serial: Option<String>,
}

/// Where a node's blocks come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An image; paths as they were given.
    Image(Image),
    /// Another node, by name.
    Named(String),
    /// Another node, described here.
    Inside(Box<Node>),
}

/// Drivers that are accepted, for the help and for messages.
pub const DRIVERS: &str = "file, host_device, raw, qcow2, null-co, null-aio, memory, blkreplay";

impl Node {
    /// A node over a source, with nothing else said.
    pub fn over(source: Source) -> Node {
        Node {
            names: Vec::new(),
            source,
            format: None,
            read_only: false,
            discard: false,
            cache_unsafe: false,
            snapshot: false,
            serial: None,
        }
    }
}

/// Reads the value of `-blockdev`; the second result are lines for the user.
pub fn parse_blockdev(text: &str) -> Result<(Node, Vec<String>), String> {
    let mut tree = Tree::parse(text)?;
    let mut warnings = Vec::new();
    let node = parse_node(&mut tree, &mut warnings)?;
    tree.finish()?;
    if node.names.is_empty() {
        return Err("'node-name' must be specified for the root node".to_owned());
    }
    Ok((node, warnings))
}

/// Takes a node's options out of `tree`.
fn parse_node(tree: &mut Tree, warnings: &mut Vec<String>) -> Result<Node, String> {
    let driver = tree.take("driver")?.ok_or("Parameter 'driver' is missing")?;
    let mut node = take_driver(&driver, tree, warnings)?;
    take_common(&mut node, tree, warnings)?;
    Ok(node)
}

/// Takes what belongs to a driver.
pub(super) fn take_driver(driver: &str, tree: &mut Tree, warnings: &mut Vec<String>) -> Result<Node, String> {
    let source = match driver {
        "file" | "host_device" => {
            let path = tree.take("filename")?.ok_or("Parameter 'filename' is missing")?;
            match tree.take("locking")?.as_deref() {
                None | Some("auto" | "on") => {}
                Some(other) => {
                    return Err(format!("locking={other} is not supported: images are always locked"));
                }
            }
            let mut node = Node::over(Source::Image(file_image(&path)?));
            // A protocol node is the file's bytes.
            node.format = Some("raw");
            return Ok(node);
        }
        "null-co" | "null-aio" => {
            if tree.take_number("latency-ns")?.is_some_and(|ns| ns != 0) {
                return Err("latency-ns is not supported".to_owned());
            }
            // They read as zeros in either case.
            tree.take_bool("read-zeroes")?;
            Source::Image(Image::Null { bytes: size(tree)?.unwrap_or(NULL_BYTES_DEFAULT) })
        }
        "memory" => {
            let bytes = size(tree)?.ok_or("Parameter 'size' is missing")?;
            Source::Image(Image::Memory { bytes })
        }
        "raw" => return over(tree, "file", Some("raw"), warnings),
        "qcow2" => return over(tree, "file", Some("qcow2"), warnings),
        "blkreplay" => return over(tree, "image", None, warnings),
        other => {
            return Err(format!("block driver '{other}' is not supported; there are: {DRIVERS}"));
        }
    };
    Ok(Node::over(source))
}

fn size(tree: &mut Tree) -> Result<Option<u64>, String> {
    match tree.take_size("size")? {
        Some(bytes) if bytes > IMAGE_BYTES_MAX => Err(format!("size={bytes}: too large")),
        Some(0) => Err("size=0: at least 512".to_owned()),
        Some(bytes) if !bytes.is_multiple_of(512) => Err(format!("size={bytes}: not a multiple of 512")),
        other => Ok(other),
    }
}

/// A node over another, which `key` names or describes.
fn over(
    tree: &mut Tree,
    key: &str,
    format: Option<&'static str>,
    warnings: &mut Vec<String>,
) -> Result<Node, String> {
    let source = match tree.take_name_or_tree(key)? {
        None => return Err(format!("A block device must be specified for \"{key}\"")),
        Some(NameOrTree::Name(name)) => Source::Named(name),
        Some(NameOrTree::Tree(mut inside)) => {
            let node = parse_node(&mut inside, warnings)?;
            inside.finish()?;
            Source::Inside(Box::new(node))
        }
    };
    Ok(Node { format, ..Node::over(source) })
}

/// Takes what all drivers have in common.
pub(super) fn take_common(
    node: &mut Node,
    tree: &mut Tree,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    if let Some(name) = tree.take("node-name")? {
        id::check("node-name", &name)?;
        node.names.push(name);
    }
    node.read_only = tree.take_bool("read-only")?.unwrap_or(false);
    // Whether a file that cannot be written is opened to be read only; here that is an error.
    if tree.take_bool("auto-read-only")? == Some(true) {
        warnings.push("auto-read-only=on: say read-only=on for an image that cannot be written".to_owned());
    }
    node.discard = match tree.take("discard")?.as_deref() {
        None | Some("ignore" | "off") => false,
        Some("unmap" | "on") => true,
        Some(other) => return Err(format!("Invalid discard option '{other}'")),
    };
    match tree.take("detect-zeroes")?.as_deref() {
        None | Some("off") => {}
        Some(other) => return Err(format!("detect-zeroes={other} is not supported; only off")),
    }
    if tree.take_bool("force-share")? == Some(true) {
        return Err("force-share=on is not supported".to_owned());
    }
    match tree.take("aio")?.as_deref() {
        None | Some("threads") => {}
        Some(how @ ("native" | "io_uring")) => {
            warnings.push(format!("aio={how}: the block process has one way of its own to reach images"));
        }
        Some(other) => return Err(format!("invalid aio option '{other}'")),
    }
    let mut cache = tree.take_tree("cache")?;
    let direct = cache.take_bool("direct")?.unwrap_or(false);
    node.cache_unsafe = cache.take_bool("no-flush")?.unwrap_or(false);
    if cache.take_bool("writeback")? == Some(false) {
        return Err("cache.writeback=off is not supported".to_owned());
    }
    cache.finish()?;
    if direct {
        warnings.push("cache.direct=on: the block process uses the host's page cache".to_owned());
    }
    Ok(())
}

/// An image in a file: a path, `file:PATH` or `null-co://`.
pub(super) fn file_image(name: &str) -> Result<Image, String> {
    if name.is_empty() {
        return Err("the file name is empty".to_owned());
    }
    if name == "null-co://" || name == "null-aio://" {
        return Ok(Image::Null { bytes: NULL_BYTES_DEFAULT });
    }
    let path = name.strip_prefix("file:").unwrap_or(name);
    // As QEMU: a word before the first colon that comes before any slash is a protocol.
    let head = path.split('/').next().unwrap_or(path);
    if path == name
        && let Some((protocol, _)) = head.split_once(':')
    {
        return Err(format!("Unknown protocol '{protocol}'; images are files (./{name} if this is one)"));
    }
    Ok(Image::File { path: path.into(), format: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Result<Node, String> {
        parse_blockdev(text).map(|(node, _)| node)
    }

    #[test]
    fn nodes_are_read_in_both_forms() {
        for text in [
            "driver=qcow2,node-name=d,file.driver=file,file.filename=d.qcow2,discard=unmap",
            r#"{"driver":"qcow2","node-name":"d","discard":"unmap",
                "file":{"driver":"file","filename":"d.qcow2"}}"#,
        ] {
            let node = node(text).unwrap();
            assert_eq!(
                (&node.names[..], node.format, node.discard),
                (&["d".to_owned()][..], Some("qcow2"), true)
            );
            let Source::Inside(file) = node.source else { panic!("{:?}", node.source) };
            let image = Image::File { path: "d.qcow2".into(), format: None };
            assert_eq!((file.source, file.format), (Source::Image(image), Some("raw")));
        }
        let over = node("driver=blkreplay,node-name=r,image=d").unwrap();
        assert_eq!((over.source, over.format), (Source::Named("d".to_owned()), None));
        let null = node("driver=null-co,node-name=n,size=64M,read-zeroes=on").unwrap();
        assert_eq!(null.source, Source::Image(Image::Null { bytes: 64 << 20 }));
        let memory = node("driver=memory,node-name=n,size=64M,cache.no-flush=on,read-only=on").unwrap();
        assert_eq!(memory.source, Source::Image(Image::Memory { bytes: 64 << 20 }));
        assert!(memory.cache_unsafe && memory.read_only);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, message) in [
            ("driver=file,filename=x", "'node-name' must be specified for the root node"),
            ("node-name=x", "Parameter 'driver' is missing"),
            ("driver=file,node-name=x", "Parameter 'filename' is missing"),
            ("driver=qcow2,node-name=x", "A block device must be specified for \"file\""),
            (
                "driver=nbd,node-name=x",
                "block driver 'nbd' is not supported; there are: file, host_device, raw, qcow2, null-co, null-aio, memory, blkreplay",
            ),
            ("driver=null-co,node-name=x,size=7", "size=7: not a multiple of 512"),
            ("driver=raw,file=f,node-name=x,offset=5", "Invalid parameter 'offset'"),
            (
                "driver=raw,file.driver=file,file.filename=f,file.x=1,node-name=x",
                "Invalid parameter 'file.x'",
            ),
            (
                "driver=file,filename=f,node-name=x,cache.direct=maybe",
                "Parameter 'cache.direct' expects 'on' or 'off'",
            ),
            (
                "driver=file,filename=nbd:host:1,node-name=x",
                "Unknown protocol 'nbd'; images are files (./nbd:host:1 if this is one)",
            ),
            ("driver=file,filename=f,node-name=0", "Parameter 'node-name' expects an identifier, not '0'"),
        ] {
            assert_eq!(node(text).unwrap_err(), message, "{text}");
        }
        let (_, warnings) =
            parse_blockdev("driver=file,filename=f,node-name=x,cache.direct=on,aio=native").unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
}
