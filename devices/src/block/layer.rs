//! Copy-on-write layers: new qcow2 images over a base that is never changed.

use super::header::{self, NAME_MAX};
use super::image::{Image, Storage};
use super::lock::{self, Use};
use super::open::{self, Format};
use imago::FormatCreateBuilder;
use imago::qcow2::Qcow2;
use std::fs::File;
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// How a layer names what is below it.
pub struct BaseName {
    name: String,
    format: Format,
}

impl BaseName {
    /// The name of a file: absolute, so that the layer may be moved.
    pub fn of_file(path: &Path, format: Format) -> Result<BaseName, String> {
        let absolute = std::fs::canonicalize(path);
        let absolute = absolute.map_err(|error| format!("cannot find '{}': {error}", path.display()))?;
        match absolute.to_str() {
            Some(name) if name.len() <= NAME_MAX => Ok(BaseName { name: name.to_string(), format }),
            _ => {
                Err(format!("the path '{}' is too long or not UTF-8: a layer cannot name it", path.display()))
            }
        }
    }

    /// The same for a layer at `path`: a base beside it, or in a directory there, gets a relative name, so that both may be moved.
    pub fn seen_from(self, layer: &Path) -> BaseName {
        let directory = directory_of(layer);
        let base = PathBuf::from(&self.name);
        let directory = std::fs::canonicalize(directory).unwrap_or_default();
        match base.strip_prefix(&directory).ok().and_then(|name| name.to_str()) {
            // A colon would make it the name of a protocol.
            Some(name) if !name.contains(':') => BaseName { name: name.into(), ..self },
            _ => self,
        }
    }

    /// The name of something that is no file; for layers that nobody opens again.
    pub fn of_driver(driver: &str) -> BaseName {
        BaseName { name: format!("{driver}:"), format: Format::Raw }
    }
}

/// Makes a layer at `path`, where nothing may be yet. It appears there when it is whole.
pub fn create(path: &Path, base: Image, name: &BaseName) -> Result<Image, String> {
    let cannot =
        |error: &dyn std::fmt::Display| format!("cannot make the layer '{}': {error}", path.display());
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(format!("cannot make the layer '{}': it exists already", path.display()));
    }
    let file = tempfile::Builder::new().prefix(".layer-").tempfile_in(directory_of(path));
    let (file, temporary) = file.map_err(|error| cannot(&error))?.into_parts();
    lock::lock(&file, path, Use::Write)?;
    let image = format(file, base, name).map_err(|why| cannot(&why))?;
    temporary.persist_noclobber(path).map_err(|error| cannot(&error.error))?;
    Ok(image)
}

/// Makes an empty image that is to appear at `place` later, over another one if there is one.
pub fn create_part(
    place: &Path,
    size: u64,
    below: Option<(Image, BaseName)>,
) -> Result<(Image, TempPath), String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot make '{}': {error}", place.display());
    let file = tempfile::Builder::new().prefix(".kept-").suffix(".part").tempfile_in(directory_of(place));
    let (file, temporary) = file.map_err(|error| cannot(&error))?.into_parts();
    let image = match below {
        Some((base, name)) => format(file, base, &name).map_err(|why| cannot(&why))?,
        None => format_alone(file, size).map_err(|why| cannot(&why))?,
    };
    Ok((image, temporary))
}

/// Goes on with a layer in a file that has no name and outlives the process, or makes it there.
pub fn open_contents(file: File, base: Image, name: &BaseName) -> Result<Image, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot use the temporary layer: {error}");
    let length = file.metadata().map_err(|error| cannot(&error))?.len();
    if length == 0 {
        return format(file, base, name).map_err(|why| cannot(&why));
    }
    let header = header::read(&file, length).map_err(|why| cannot(&why))?;
    header.check_complete(&file, length).map_err(|why| cannot(&why))?;
    let image = open::qcow2(file, Some(base.into_access()), Use::Write).map_err(|why| cannot(&why))?;
    Ok(Image::new(image))
}

/// Makes a layer that has no name and goes with the process.
pub fn create_anonymous(base: Image, name: &BaseName) -> Result<Image, String> {
    let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let cannot = |error: &dyn std::fmt::Display| {
        format!("cannot make a temporary layer in '{}': {error}", directory.display())
    };
    let file = tempfile::tempfile_in(&directory).map_err(|error| cannot(&error))?;
    format(file, base, name).map_err(|why| cannot(&why))
}

fn format(file: File, base: Image, name: &BaseName) -> Result<Image, String> {
    let error_text = |error: std::io::Error| error.to_string();
    let storage = open::storage(file.try_clone().map_err(error_text)?)?;
    let layer = Qcow2::<Storage>::create_builder(storage)
        .size(base.size())
        .backing(name.name.clone(), name.format.name().to_string());
    layer.create().map_err(error_text)?;
    Ok(Image::new(open::qcow2(file, Some(base.into_access()), Use::Write)?))
}

fn format_alone(file: File, size: u64) -> Result<Image, String> {
    let error_text = |error: std::io::Error| error.to_string();
    let storage = open::storage(file.try_clone().map_err(error_text)?)?;
    Qcow2::<Storage>::create_builder(storage).size(size).create().map_err(error_text)?;
    Ok(Image::new(open::qcow2(file, None, Use::Write)?))
}
/// Where a file is.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// Makes sure that the name of a file is on disk.
pub fn sync_directory(file: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory_of(file))?.sync_all()
}
