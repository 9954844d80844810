//! Images under disks: looked at before anything starts, and known by their sizes and headers.
//!
//! Only the first bytes of an image are read here, to tell its format, size and backing chain. Everything else about it is
//! the block process's business; what it reads is checked by digest in a replay.

use crate::cli::CliError;
use crate::cli::size::display_size;
use replay::device::{DeviceKind, IMAGES_MAX, Image};
use replay::machine::Machine;
use replay::manifest::DiskIdentity;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest name of a backing image (qcow2 specification, `backing_file_size`).
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// Bytes of a qcow2 header that are looked at: up to the size of the disk.
const HEADER_BYTES: usize = 32;
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

/// What an image's first bytes say.
#[derive(Debug)]
struct Header {
    /// Bytes of the disk; `None` for raw.
    qcow2_bytes: Option<u64>,
    /// Name of the image below.
    backing: Option<String>,
}

/// Looks at every image of a new machine and writes down its format; the second result are lines for the user.
pub fn identify_all(machine: &mut Machine) -> Result<(Vec<DiskIdentity>, Vec<String>), CliError> {
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for device in &mut machine.devices {
        let DeviceKind::Block(disk) = &mut device.kind else { continue };
        let Image::File { path, format } = &mut disk.image else { continue };
        let identity = identify(&device.id, path, format.as_deref())?;
        if format.is_none() && identity.format == "raw" && !disk.read_only {
            // A guest could write a header of another format there, and the next run would believe it.
            warnings.push(format!(
                "drive '{}': format= was not given and '{}' is taken as raw",
                device.id,
                path.display()
            ));
        }
        *format = Some(identity.format.clone());
        found.push(identity);
    }
    Ok((found, warnings))
}

/// Looks at every image of a replayed machine: it must be there and have the recorded size.
pub fn check_all(machine: &mut Machine, recorded: &[DiskIdentity]) -> Result<(), CliError> {
    let (found, _) = identify_all(machine)?;
    for given in found {
        let Some(recorded) = recorded.iter().find(|recorded| recorded.id == given.id) else { continue };
        if recorded.bytes != given.bytes {
            return Err(CliError(format!(
                "the recording is of another machine: drive '{}' (size): recorded {} ({}), given {} ({})",
                given.id,
                display_size(recorded.bytes),
                recorded.path,
                display_size(given.bytes),
                given.path
            )));
        }
    }
    Ok(())
}

/// What an image is; the content decides about the format if none is said.
pub fn identify(id: &str, path: &Path, format: Option<&str>) -> Result<DiskIdentity, CliError> {
    let refused = |path: &Path, error: &io::Error| {
        CliError(format!("drive '{id}': could not open '{}': {error}", path.display()))
    };
    let (mut file, header) = open(path, format).map_err(|error| refused(path, &error))?;
    let metadata = file.metadata().map_err(|error| refused(path, &error))?;
    // A block device tells its size only this way.
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(|error| refused(path, &error))?;
    let mut identity = DiskIdentity {
        id: id.to_owned(),
        path: path.display().to_string(),
        format: if header.qcow2_bytes.is_some() { "qcow2" } else { "raw" }.to_owned(),
        bytes: header.qcow2_bytes.unwrap_or(file_bytes),
        file_bytes,
        modified_unix_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        backing: Vec::new(),
    };
    let (mut below, mut path) = (header.backing, path.to_owned());
    while let Some(name) = below {
        if identity.backing.len() == IMAGES_MAX {
            return Err(CliError(format!("drive '{id}': more than {IMAGES_MAX} images below one another")));
        }
        identity.backing.push(name.clone());
        path = beside(&path, &name);
        // What is not a file the block process knows better.
        below = match open(&path, None) {
            Ok((_, header)) => header.backing,
            Err(_) if name.contains(':') => None,
            Err(error) => return Err(refused(&path, &error)),
        };
    }
    Ok(identity)
}

/// A name in an image's header is relative to the image.
pub(crate) fn beside(image: &Path, name: &str) -> PathBuf {
    let name = name.strip_prefix("file:").unwrap_or(name);
    image.parent().unwrap_or(Path::new("")).join(name)
}

fn open(path: &Path, format: Option<&str>) -> io::Result<(File, Header)> {
    // Not to wait for the writer of a FIFO.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("neither a file nor a block device"));
    }
    let raw = Header { qcow2_bytes: None, backing: None };
    if format == Some("raw") {
        return Ok((file, raw));
    }
    let mut bytes = Vec::new();
    (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
    if !bytes.starts_with(QCOW2_MAGIC) {
        return if format == Some("qcow2") {
            Err(io::Error::other("Image is not in qcow2 format"))
        } else {
            Ok((file, raw))
        };
    }
    let header = read_header(&mut file, &bytes)?;
    Ok((file, header))
}

/// Reads the fields of a qcow2 header (qcow2 specification, "Header"); all are big-endian.
fn read_header(file: &mut File, bytes: &[u8]) -> io::Result<Header> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    let (Some(offset), Some(length), Some(size)) = (long(8), word(16), long(24)) else {
        return Err(io::Error::other("the qcow2 header is cut short"));
    };
    if length > BACKING_NAME_BYTES_MAX {
        return Err(io::Error::other(
            "the qcow2 header is damaged: the name of its backing image is too long",
        ));
    }
    let mut backing = None;
    if offset != 0 {
        let mut name = vec![0; length as usize];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut name)?;
        let name = String::from_utf8(name);
        backing = Some(name.map_err(|_| io::Error::other("the name of its backing image is not UTF-8"))?);
    }
    Ok(Header { qcow2_bytes: Some(size), backing })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A qcow2 header, as much of it as is looked at, with the name of a backing image behind.
    fn header(size: u64, backing: &str) -> Vec<u8> {
        let mut bytes = QCOW2_MAGIC.to_vec();
        bytes.extend(3u32.to_be_bytes());
        bytes.extend(if backing.is_empty() { 0u64 } else { 32 }.to_be_bytes());
        bytes.extend((backing.len() as u32).to_be_bytes());
        bytes.extend(16u32.to_be_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(backing.as_bytes());
        bytes
    }

    #[test]
    fn images_are_known_by_their_headers() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("base"), vec![0; 4096]).unwrap();
        std::fs::write(place("middle"), header(1 << 30, "base")).unwrap();
        std::fs::write(place("top"), header(2 << 30, "middle")).unwrap();
        let top = identify("x", &place("top"), None).unwrap();
        assert_eq!((top.format.as_str(), top.bytes), ("qcow2", 2 << 30));
        assert_eq!(top.backing, ["middle", "base"]);
        assert!(top.modified_unix_ns > 0);
        let raw = identify("x", &place("top"), Some("raw")).unwrap();
        assert_eq!((raw.format.as_str(), raw.bytes, raw.backing.len()), ("raw", raw.file_bytes, 0));
        assert_eq!(identify("x", &place("base"), None).unwrap().bytes, 4096);
    }

    #[test]
    fn bad_images_are_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("circle"), header(512, "circle")).unwrap();
        std::fs::write(place("lonely"), header(512, "nobody")).unwrap();
        std::fs::write(place("cut"), &header(512, "")[..20]).unwrap();
        std::fs::write(place("raw"), vec![0; 512]).unwrap();
        let mut long = header(512, "");
        long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        std::fs::write(place("long"), long).unwrap();
        for (name, format, what) in [
            ("none", None, "No such file"),
            (".", None, "neither a file nor a block device"),
            ("circle", None, "more than 512 images below one another"),
            ("lonely", None, "nobody': No such file"),
            ("cut", None, "cut short"),
            ("long", None, "too long"),
            ("raw", Some("qcow2"), "Image is not in qcow2 format"),
        ] {
            let error = identify("x", &place(name), format).unwrap_err().0;
            assert!(error.starts_with("drive 'x': ") && error.contains(what), "{name}: {error}");
        }
    }

    #[test]
    fn a_replay_refuses_an_image_of_another_size() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("d");
        std::fs::write(&image, vec![0; 4096]).unwrap();
        let line = format!("-drive file={},if=virtio", image.display());
        let mut machine = crate::machine::tests::machine(&line);
        let (disks, warnings) = identify_all(&mut machine).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let DeviceKind::Block(disk) = &machine.devices[1].kind else { panic!() };
        assert!(matches!(&disk.image, Image::File { format: Some(raw), .. } if raw == "raw"));
        assert_eq!(check_all(&mut machine, &disks), Ok(()));
        std::fs::write(&image, vec![0; 8192]).unwrap();
        let message = check_all(&mut machine, &disks).unwrap_err().0;
        assert!(
            message.contains("'virtio0' (size): recorded 4 KiB (") && message.contains("given 8 KiB ("),
            "{message}"
        );
        std::fs::remove_file(&image).unwrap();
        assert!(check_all(&mut machine, &disks).unwrap_err().0.contains("could not open"));
    }
}
