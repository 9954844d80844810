//! `-drive`, and its short forms `-hda`, `-cdrom` and a bare image: a block node and, but for `if=none`, its disk.

use super::block::{self, Node, Source};
use super::device::{DeviceOption, Model};
use super::id;
use super::tree::{NameOrTree, Tree};
use replay::device::Image;

/// `if=`: how the disk is attached; here always as virtio-blk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// Only a node; a `-device` uses it.
    None,
    /// virtio-blk.
    Virtio,
    /// IDE in QEMU, and without `if=`.
    Ide,
    /// SCSI in QEMU.
    Scsi,
}

impl Interface {
    fn name(self) -> &'static str {
        match self {
            Interface::None => "none",
            Interface::Virtio => "virtio",
            Interface::Ide => "ide",
            Interface::Scsi => "scsi",
        }
    }

    /// Disks on one bus; 0: there are no buses.
    fn units(self) -> u16 {
        match self {
            Interface::None | Interface::Virtio => 0,
            Interface::Ide => 2,
            Interface::Scsi => 7,
        }
    }
}

/// Interface and index of a drive: which come first in the guest.
pub type Place = (Interface, u16);

/// What one `-drive` comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its block node.
    pub node: Node,
    /// Its interface and index.
    pub place: Place,
    /// Its disk, if it has one of its own.
    pub device: Option<DeviceOption>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// Reads the value of `-drive`; `used` are the places of the drives before it.
pub fn parse(text: &str, used: &[Place]) -> Result<Drive, String> {
    let mut tree = Tree::parse(text)?;
    let drive = take_drive(&mut tree, used)?;
    tree.finish()?;
    Ok(drive)
}

/// A drive of which only the file is said: `-hda`, `-cdrom`, a bare image.
pub fn of_file(path: &str, index: u16, cdrom: bool, used: &[Place]) -> Result<Drive, String> {
    let mut tree = Tree::default();
    tree.set("file", path)?;
    tree.set("index", &index.to_string())?;
    if cdrom {
        tree.set("media", "cdrom")?;
    }
    take_drive(&mut tree, used)
}

fn take_drive(tree: &mut Tree, used: &[Place]) -> Result<Drive, String> {
    let mut warnings = Vec::new();
    let interface = match tree.take("if")?.as_deref() {
        Some("none") => Interface::None,
        Some("virtio") => Interface::Virtio,
        None | Some("ide") => Interface::Ide,
        Some("scsi") => Interface::Scsi,
        Some(other) => {
            return Err(format!("unsupported bus type '{other}'; there are: none, virtio, ide, scsi"));
        }
    };
    let cdrom = match tree.take("media")?.as_deref() {
        None | Some("disk") => false,
        Some("cdrom") => true,
        Some(other) => return Err(format!("'{other}' invalid media")),
    };
    let place = (interface, take_index(tree, interface, used)?);
    take_cache(tree, &mut warnings)?;
    take_error_actions(tree)?;
    let read_only = tree.take_bool("readonly")?;
    let snapshot = tree.take_bool("snapshot")?.unwrap_or(false);
    let serial = tree.take("serial")?;
    let named = tree.take("id")?;
    if let Some(name) = &named {
        id::check("id", name)?;
    }
    if tree.take_bool("copy-on-read")? == Some(true) {
        return Err("copy-on-read=on is not supported".to_owned());
    }
    let mut node = take_node(tree, &mut warnings)?;
    block::take_common(&mut node, tree, &mut warnings)?;
    node.read_only |= read_only.unwrap_or(false) || cdrom;
    node.snapshot = snapshot;
    node.serial = serial;
    let name = named.unwrap_or_else(|| default_id(place, cdrom));
    node.names.insert(0, name.clone());
    let device = (interface != Interface::None).then(|| DeviceOption::disk(&name, place));
    if matches!(interface, Interface::Ide | Interface::Scsi) {
        let kind = if cdrom { "CD-ROM" } else { "disk" };
        let given = interface.name();
        warnings.push(format!("drive '{name}': the {given} {kind} is attached as virtio-blk"));
    }
    Ok(Drive { node, place, device, warnings })
}

/// QEMU's name of a drive that was given none.
fn default_id((interface, index): Place, cdrom: bool) -> String {
    let media = if cdrom { "cd" } else { "hd" };
    match interface.units() {
        0 => format!("{}{index}", interface.name()),
        units => format!("{}{}-{media}{}", interface.name(), index / units, index % units),
    }
}

fn take_index(tree: &mut Tree, interface: Interface, used: &[Place]) -> Result<u16, String> {
    let (index, bus, unit) =
        (tree.take_number("index")?, tree.take_number("bus")?, tree.take_number("unit")?);
    let units = u64::from(interface.units());
    let asked = match (index, bus, unit) {
        (None, None, None) => None,
        (Some(index), None, None) => Some(index),
        (Some(_), _, _) => return Err("index cannot be used with bus and unit".to_owned()),
        (None, _, Some(unit)) if units != 0 && unit >= units => {
            return Err(format!("unit {unit} too big (max is {})", units - 1));
        }
        (None, Some(bus), _) if units == 0 && bus != 0 => {
            return Err(format!("bus={bus}: there is only bus 0"));
        }
        (None, bus, Some(unit)) => {
            bus.unwrap_or(0).checked_mul(units).and_then(|first| first.checked_add(unit))
        }
        (None, Some(_), None) => return Err("bus= needs unit=".to_owned()),
    };
    let is_free = |index: u16| !used.contains(&(interface, index));
    match asked.map(u16::try_from) {
        None => (0..=u16::MAX).find(|index| is_free(*index)).ok_or("too many drives".to_owned()),
        Some(Ok(index)) if is_free(index) => Ok(index),
        Some(Ok(index)) => Err(format!("drive with if={} and index={index} exists", interface.name())),
        Some(Err(_)) => Err("index is too big".to_owned()),
    }
}

/// `cache=MODE` becomes the switches of a block node.
fn take_cache(tree: &mut Tree, warnings: &mut Vec<String>) -> Result<(), String> {
    // `cache.direct=` and its like stay for the node.
    let mode = match tree.take_name_or_tree("cache")? {
        None => return Ok(()),
        Some(NameOrTree::Tree(group)) => {
            tree.put("cache", group);
            return Ok(());
        }
        Some(NameOrTree::Name(mode)) => mode,
    };
    match mode.as_str() {
        "writeback" => Ok(()),
        "unsafe" => tree.set("cache.no-flush", "on"),
        "none" => {
            warnings.push("cache=none: the block process uses the host's page cache".to_owned());
            Ok(())
        }
        "writethrough" | "directsync" => {
            Err(format!("cache={mode} is not supported; there are: writeback, none, unsafe"))
        }
        _ => Err("invalid cache option".to_owned()),
    }
}

/// What a failed request does: it is reported to the guest.
fn take_error_actions(tree: &mut Tree) -> Result<(), String> {
    for key in ["werror", "rerror"] {
        match tree.take(key)?.as_deref() {
            None | Some("report") => {}
            Some(other @ ("ignore" | "stop" | "enospc")) => {
                return Err(format!("{key}={other} is not supported: errors are reported to the guest"));
            }
            Some(other) => return Err(format!("'{other}' invalid {key} error action")),
        }
    }
    Ok(())
}

/// The image, with the driver or format that is said beside.
fn take_node(tree: &mut Tree, warnings: &mut Vec<String>) -> Result<Node, String> {
    let driver = match (tree.take("driver")?, tree.take("format")?) {
        (Some(_), Some(_)) => return Err("Cannot specify both 'driver' and 'format'".to_owned()),
        (driver, format) => driver.or(format),
    };
    let file = match (driver.as_deref(), tree.take_name_or_tree("file")?) {
        (Some("null-co" | "null-aio" | "memory" | "blkreplay"), Some(_)) => {
            return Err(format!("driver={} takes no file=", driver.unwrap_or_default()));
        }
        (Some("file" | "host_device"), Some(NameOrTree::Name(path))) => {
            tree.set("filename", &path)?;
            None
        }
        (_, file) => file,
    };
    let (source, format) = match (driver.as_deref(), file) {
        (None | Some("raw" | "qcow2"), None) => return Err("no image: file= is missing".to_owned()),
        (None | Some("raw" | "qcow2"), Some(file)) => {
            let format = driver.as_deref().map(|name| if name == "raw" { "raw" } else { "qcow2" });
            (file_source(file, format, warnings)?, format)
        }
        (Some(driver), _) => return block::take_driver(driver, tree, warnings),
    };
    Ok(Node { format, ..Node::over(source) })
}

fn file_source(
    file: NameOrTree,
    format: Option<&'static str>,
    warnings: &mut Vec<String>,
) -> Result<Source, String> {
    match file {
        NameOrTree::Name(path) => Ok(Source::Image(block::file_image(&path)?)),
        NameOrTree::Tree(mut inside) => {
            let driver = inside.take("driver")?.unwrap_or_else(|| "file".to_owned());
            let mut node = block::take_driver(&driver, &mut inside, warnings)?;
            block::take_common(&mut node, &mut inside, warnings)?;
            inside.finish()?;
            if format.is_none() && matches!(node.source, Source::Image(Image::File { .. })) {
                // Nothing was said about what is in the file.
                node.format = None;
            }
            Ok(Source::Inside(Box::new(node)))
        }
    }
}

impl DeviceOption {
    /// The disk that a `-drive` brings with it.
    fn disk(drive: &str, place: Place) -> DeviceOption {
        let model = Model::Block {
            drive: drive.to_owned(),
            serial: None,
            queues: None,
            logical_block_size: None,
            place: Some(place),
        };
        DeviceOption::new("virtio-blk-pci", model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(text: &str) -> Result<Drive, String> {
        parse(text, &[])
    }

    fn path(node: &Node) -> &str {
        match &node.source {
            Source::Image(Image::File { path, .. }) => path.to_str().unwrap(),
            Source::Inside(node) => path(node),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_those_of_qemu() {
        for (text, name, warned, has_disk) in [
            ("file=d", "ide0-hd0", true, true),
            ("file=d,index=3", "ide1-hd1", true, true),
            ("file=d,media=cdrom,index=2", "ide1-cd0", true, true),
            ("file=d,if=ide,bus=1,unit=1", "ide1-hd1", true, true),
            ("file=d,if=scsi,index=8", "scsi1-hd1", true, true),
            ("file=d,if=virtio", "virtio0", false, true),
            ("file=d,if=none", "none0", false, false),
            ("file=d,if=none,id=x", "x", false, false),
        ] {
            let drive = drive(text).unwrap();
            assert_eq!(drive.node.names, [name], "{text}");
            assert_eq!((!drive.warnings.is_empty(), drive.device.is_some()), (warned, has_disk), "{text}");
        }
        let second = parse("file=e", &[(Interface::Ide, 0)]).unwrap();
        assert_eq!(second.place, (Interface::Ide, 1));
        assert_eq!(of_file("a,b=c", 0, false, &[]).unwrap().node.names, ["ide0-hd0"]);
        assert_eq!(path(&of_file("a,b=c", 0, false, &[]).unwrap().node), "a,b=c");
        assert!(of_file("a", 2, true, &[]).unwrap().node.read_only);
    }

    #[test]
    fn formats_and_switches() {
        let node = |text: &str| drive(text).unwrap().node;
        assert_eq!(node("file=d").format, None);
        assert_eq!(node("file=d,format=raw").format, Some("raw"));
        assert_eq!(node("file=d,driver=qcow2").format, Some("qcow2"));
        assert_eq!(path(&node("file=a,,b")), "a,b");
        assert_eq!(path(&node("file.driver=file,file.filename=x,format=qcow2")), "x");
        assert_eq!(path(&node("file.filename=x")), "x");
        assert_eq!(node("driver=blkreplay,if=none,image=i,id=r").source, Source::Named("i".to_owned()));
        assert_eq!(node("file=null-co://").source, Source::Image(Image::Null { bytes: 1 << 30 }));
        assert!(node("file=d,snapshot=on").snapshot && node("file=d,snapshot").snapshot);
        assert!(node("file=d,readonly=on").read_only && node("file=d,read-only=on").read_only);
        assert!(node("file=d,cache=unsafe").cache_unsafe && node("file=d,cache.no-flush=on").cache_unsafe);
        assert!(node("file=d,discard=unmap").discard);
        assert_eq!(node("file=d,serial=S1,werror=report").serial.as_deref(), Some("S1"));
        assert_eq!(node("file=d,id=a,node-name=b").names, ["a", "b"]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, message) in [
            ("if=virtio", "no image: file= is missing"),
            ("file=d,if=sd", "unsupported bus type 'sd'; there are: none, virtio, ide, scsi"),
            (
                "file=d,format=vmdk",
                "block driver 'vmdk' is not supported; there are: file, host_device, raw, qcow2, null-co, null-aio, memory, blkreplay",
            ),
            ("file=d,format=raw,driver=raw", "Cannot specify both 'driver' and 'format'"),
            (
                "file=d,cache=writethrough",
                "cache=writethrough is not supported; there are: writeback, none, unsafe",
            ),
            ("file=d,werror=stop", "werror=stop is not supported: errors are reported to the guest"),
            ("file=d,frob=1", "Invalid parameter 'frob'"),
            ("file=nbd://h/x", "Unknown protocol 'nbd'; images are files (./nbd://h/x if this is one)"),
            ("file=d,id=../x", "Parameter 'id' expects an identifier, not '../x'"),
            ("file=d,if=ide,unit=2", "unit 2 too big (max is 1)"),
            ("file=d,index=1,bus=0", "index cannot be used with bus and unit"),
            ("file=d,throttling.iops-total=5", "Invalid parameter 'throttling.iops-total'"),
            ("driver=blkreplay,file=x,image=y", "driver=blkreplay takes no file="),
            ("file=d,media=tape", "'tape' invalid media"),
        ] {
            assert_eq!(drive(text).unwrap_err(), message, "{text}");
        }
        let error = parse("file=d,index=0", &[(Interface::Ide, 0)]).unwrap_err();
        assert_eq!(error, "drive with if=ide and index=0 exists");
    }
}
