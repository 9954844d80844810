//! Opening images: a file with its locks, its format, and the chain of images below it.
//!
//! imago opens nothing by itself here: each file is opened, checked and locked in this module, then given to imago.

use super::header::{self, Backing};
use super::image::{Image, Storage};
use super::lock::{self, Use};
use super::ordered::OrderedFile;
use imago::file::File as FileStorage;
use imago::format::drivers::FormatDriverInstance;
use imago::null::Null;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use nix::libc::O_NONBLOCK;
use nix::sys::memfd::{MFdFlags, memfd_create};
use replay::device::IMAGES_MAX;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Formats of image files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The bytes of the disk, as they are.
    Raw,
    /// QEMU's format.
    Qcow2,
}

impl Format {
    /// Its name on the command line and in headers.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// Opens the image at `path`, and all below it to read. Without a format it is found out.
pub fn open(path: &Path, format: Option<Format>, use_: Use) -> Result<Image, String> {
    open_in_chain(path, format, use_, 0)
}

/// A disk of zeros that forgets what is written.
pub fn open_null(size: u64) -> Result<Image, String> {
    raw(Box::new(Null::new(size)), true).map(Image::new)
}

/// A disk in memory, zeros at first. `contents`: the file with its bytes, if there is one.
pub fn open_memory(size: u64, contents: Option<File>) -> Result<Image, String> {
    let make = || memfd_create(c"reprise-disk", MFdFlags::MFD_CLOEXEC).map(File::from);
    let file = match contents {
        Some(file) => file,
        None => make().map_err(|error| format!("cannot make a memory file: {}", error.desc()))?,
    };
    file.set_len(size).map_err(|error| format!("cannot make a disk of {size} bytes in memory: {error}"))?;
    raw_file(file, true)
}

/// Gives an open file to imago.
pub fn storage(file: File) -> Result<Storage, String> {
    let storage = FileStorage::try_from(file).map_err(|error| format!("cannot use the file: {error}"))?;
    Ok(Box::new(storage))
}

/// The format of the image at `path`, as far as its first bytes tell.
pub fn probe(path: &Path) -> Result<Format, String> {
    let (file, _) = open_file(path, Use::Read)?;
    probe_file(&file, path)
}

fn open_in_chain(path: &Path, format: Option<Format>, use_: Use, depth: usize) -> Result<Image, String> {
    if depth > IMAGES_MAX {
        return Err(format!(
            "'{}' has more than {IMAGES_MAX} images below it; is it a loop?",
            path.display()
        ));
    }
    let (file, length) = open_file(path, use_)?;
    lock::lock(&file, path, use_)?;
    let format = match format {
        Some(format) => format,
        None => probe_file(&file, path)?,
    };
    match format {
        Format::Raw => raw_file(file, use_ == Use::Write),
        Format::Qcow2 => open_qcow2(file, length, path, use_, depth).map(Image::new),
    }
}

fn open_qcow2(
    file: File,
    length: u64,
    path: &Path,
    use_: Use,
    depth: usize,
) -> Result<FormatAccess<Storage>, String> {
    let cannot = |why: &str| format!("cannot use the image '{}': {why}", path.display());
    let header = header::read(&file, length).map_err(|why| cannot(&why))?;
    header.check_complete(&file, length).map_err(|why| cannot(&why))?;
    let below = match &header.backing {
        Some(backing) => Some(open_backing(backing, path, depth)?),
        None => None,
    };
    qcow2(file, below, use_).map_err(|why| cannot(&why))
}

/// Opens a qcow2 image whose header was checked, over what is below it.
pub fn qcow2(
    file: File,
    below: Option<FormatAccess<Storage>>,
    use_: Use,
) -> Result<FormatAccess<Storage>, String> {
    let storage: Storage = match use_ {
        Use::Read => storage(file)?,
        Use::Write => Box::new(OrderedFile::new(file)?),
    };
    let image = Qcow2::<Storage>::builder(storage)
        .write(use_ == Use::Write)
        .backing(below)
        .data_file(None)
        .open(DenyImplicitOpenGate::default());
    image.map(FormatAccess::new).map_err(|error| error.to_string())
}

fn open_backing(backing: &Backing, above: &Path, depth: usize) -> Result<FormatAccess<Storage>, String> {
    let (path, format) = resolve(backing, above)?;
    let image = open_in_chain(&path, format, Use::Read, depth + 1).map_err(|why| below(above, &why))?;
    Ok(image.into_access())
}

fn below(above: &Path, why: &str) -> String {
    format!("backing file of '{}': {why}", above.display())
}

/// Where the image below `above` is, and its format, if that is said.
pub fn resolve(backing: &Backing, above: &Path) -> Result<(PathBuf, Option<Format>), String> {
    let path = backing_path(&backing.name, above).map_err(|why| below(above, &why))?;
    let format = match backing.format.as_deref() {
        None => None,
        // "file" is what old programs wrote for a raw file.
        Some("raw" | "file" | "host_device") => Some(Format::Raw),
        Some("qcow2") => Some(Format::Qcow2),
        Some(other) => return Err(below(above, &format!("its format '{other}' is not supported"))),
    };
    Ok((path, format))
}

/// Opens a qcow2 image to read what it holds itself, and says what is below it.
pub fn open_alone(path: &Path) -> Result<(Image, Option<Backing>), String> {
    let cannot = |why: String| format!("cannot use the image '{}': {why}", path.display());
    let (file, length) = open_file(path, Use::Read)?;
    lock::lock(&file, path, Use::Read)?;
    let header = header::read(&file, length).map_err(cannot)?;
    header.check_complete(&file, length).map_err(cannot)?;
    let image = qcow2(file, None, Use::Read).map_err(cannot)?;
    Ok((Image::new(image), header.backing))
}

/// A name in a header is relative to the image that names it. What has a colon before the first slash names a
/// protocol of QEMU.
pub fn backing_path(name: &str, above: &Path) -> Result<PathBuf, String> {
    let first = name.split('/').next().unwrap_or_default();
    let path = match first.split_once(':') {
        Some(("file", _)) => name.strip_prefix("file:").unwrap_or(name),
        Some(_) => return Err(format!("'{name}' is not a file, and only files are supported")),
        None => name,
    };
    Ok(above.parent().unwrap_or(Path::new("")).join(path))
}

/// Opens a file that may be an image, and says how long it is.
fn open_file(path: &Path, use_: Use) -> Result<(File, u64), String> {
    let name = path.display();
    let cannot = |error: io::Error| format!("cannot open '{name}': {error}{}", hint(error.kind(), use_));
    // Whatever it is: opening it must not wait for anybody.
    let mut options = OpenOptions::new();
    options.read(true).write(use_ == Use::Write).custom_flags(O_NONBLOCK);
    if std::fs::metadata(path).is_ok_and(|status| status.is_dir()) {
        return Err(format!("cannot use '{name}' as an image: it is a directory"));
    }
    let mut file = options.open(path).map_err(cannot)?;
    let kind = file.metadata().map_err(cannot)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(format!("cannot use '{name}' as an image: it is not a file"));
    }
    let length = file.seek(SeekFrom::End(0)).map_err(cannot)?;
    if length == 0 {
        return Err(format!("cannot use '{name}' as an image: it is empty"));
    }
    Ok((file, length))
}

/// What helps against an error at opening.
fn hint(error: io::ErrorKind, use_: Use) -> &'static str {
    match error {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if use_ == Use::Write => {
            " (--read-only, --snapshot and --layer need no right to write)"
        }
        _ => "",
    }
}

fn probe_file(file: &File, path: &Path) -> Result<Format, String> {
    match header::is_qcow2(file) {
        Ok(true) => Ok(Format::Qcow2),
        Ok(false) => Ok(Format::Raw),
        Err(error) => Err(format!("cannot read '{}': {error}", path.display())),
    }
}

fn raw_file(file: File, writable: bool) -> Result<Image, String> {
    let same = file.try_clone().map_err(|error| format!("cannot use the file: {error}"))?;
    Ok(Image::of_raw_file(raw(storage(file)?, writable)?, same))
}

fn raw(storage: Storage, writable: bool) -> Result<FormatAccess<Storage>, String> {
    let image =
        Raw::open_image(storage, writable).map_err(|error| format!("cannot use the file: {error}"))?;
    debug_assert_eq!(image.writable(), writable);
    Ok(FormatAccess::new(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backing_files() {
        let above = Path::new("/images/top.qcow2");
        for (name, path) in [
            ("base", "/images/base"),
            ("sub/base:1", "/images/sub/base:1"),
            ("/elsewhere/base", "/elsewhere/base"),
            ("file:base", "/images/base"),
            ("./a:b", "/images/./a:b"),
        ] {
            assert_eq!(backing_path(name, above), Ok(PathBuf::from(path)), "{name}");
        }
        for name in ["nbd://host/disk", "json:{\"driver\":\"raw\"}", "http://host/file"] {
            assert!(backing_path(name, above).unwrap_err().contains("is not a file"), "{name}");
        }
        assert_eq!(backing_path("base", Path::new("top")), Ok(PathBuf::from("base")));
    }

    #[test]
    fn who_lacks_the_right_to_write_learns_what_needs_none() {
        assert!(hint(io::ErrorKind::PermissionDenied, Use::Write).contains("--snapshot"));
        assert_eq!(hint(io::ErrorKind::PermissionDenied, Use::Read), "");
        assert_eq!(hint(io::ErrorKind::NotFound, Use::Write), "");
    }

    #[test]
    fn disks_on_no_file() {
        let mut memory = open_memory(4096, None).unwrap();
        memory.write_bytes(&[7; 512], 1024).unwrap();
        memory.write_zeroes(1030, 4, true).unwrap();
        let mut bytes = [0xee; 16];
        memory.read_bytes(&mut bytes, 1024).unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7]);
        let mut null = open_null(4096).unwrap();
        null.write_bytes(&[7; 512], 1024).unwrap();
        null.read_bytes(&mut bytes, 1024).unwrap();
        assert_eq!(bytes, [0; 16]);
    }
}
