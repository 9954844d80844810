//! Files of kept disks: where they are, who may remove them, and what can be wrong with them.

use crate::commit::check_base as check_identity;
use crate::disk_images;
use crate::launch::plan::{Plan, Task, Upkeep};
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use replay::device::{DeviceKind, Disk, Image};
use replay::recording::Recording;
use replay::setup::Mode;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where images of disks are in a store.
pub const DIRECTORY: &str = "disks";
/// End of the name of a mark: an image is half one thing and half another.
pub const MARK: &str = "restoring";
/// A longer answer of a process is cut off.
const ANSWER_BYTES_MAX: usize = 4096;

/// While it is held, nobody removes images of disks: shared by those who make them, exclusive for who removes some.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

impl Lock {
    /// For who makes images; makes the directory. Waits for one who removes some.
    pub fn shared(directory: &Path) -> Result<Lock, String> {
        let cannot = |error: &dyn std::fmt::Display| {
            format!("cannot keep what disks hold in '{}': {error}", directory.display())
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| cannot(&error))?;
        let file = File::open(directory).map_err(|error| cannot(&error))?;
        let held = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| cannot(&errno.desc()))?;
        Ok(Lock { _held: held })
    }

    /// For who removes images; none: somebody makes one.
    pub fn exclusive(directory: &Path) -> Option<Lock> {
        let file = File::open(directory).ok()?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Lock { _held: held })
    }
}

/// A pipe on which the process of a disk says how a copy ended; our end does not wait.
pub fn pipe() -> Result<(File, OwnedFd), String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot make a pipe: {error}");
    let (ours, theirs) = std::io::pipe().map_err(|error| cannot(&error))?;
    let ours = File::from(OwnedFd::from(ours));
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| cannot(&error.desc()))?;
    Ok((ours, theirs.into()))
}

/// What a process has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has not ended.
    Nothing,
    /// All of it is here.
    Ended,
}

/// Reads what is there.
pub fn read_answer(mut pipe: &File, said: &mut Vec<u8>) -> Answer {
    let mut bytes = [0; 512];
    loop {
        match pipe.read(&mut bytes) {
            Ok(0) => return Answer::Ended,
            Ok(count) => {
                let room = ANSWER_BYTES_MAX.saturating_sub(said.len());
                said.extend(&bytes[..count.min(room)]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Answer::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Answer::Ended,
        }
    }
}

/// Bytes of a disk.
pub fn size_of(id: &str, image: &Path, format: &str) -> Result<u64, String> {
    let format = Some(format).filter(|format| !format.is_empty());
    disk_images::identify(id, image, format).map(|found| found.bytes).map_err(|error| error.0)
}

/// Fails unless kept contents have the size of the disk, if that is known.
pub fn check_size(id: &str, top: &Path, size: Option<u64>) -> Result<(), String> {
    let kept = size_of(id, top, "qcow2")?;
    match size.filter(|size| size.next_multiple_of(512) != kept.next_multiple_of(512)) {
        Some(size) => Err(format!("the snapshot is of a disk of {kept} bytes, this one has {size}")),
        None => Ok(()),
    }
}

/// The image that lies below these, given from the top down.
pub fn below(id: &str, layers: &[PathBuf]) -> Result<Option<PathBuf>, String> {
    let Some(bottom) = layers.last() else { return Ok(None) };
    let found = disk_images::identify(id, bottom, Some("qcow2")).map_err(|error| error.0)?;
    Ok(found.backing.first().map(|name| disk_images::beside(bottom, name)))
}

/// Fails unless the image below a recording's layers is as it was when they were made.
pub fn check_base(id: &str, root: &Path, base: &Path) -> Result<(), String> {
    let needs = format!("the snapshot's disk needs '{}' below it", base.display());
    let recording = Recording::open(root).map_err(|error| format!("{needs}, and {error}"))?;
    let disks = &recording.manifest().disks;
    let recorded = disks
        .iter()
        .find(|disk| disk.id == id)
        .ok_or_else(|| format!("{needs}, and the recording '{}' does not know this disk", root.display()))?;
    check_identity(recorded).map_err(|error| format!("{needs}: {error}"))
}

/// The mark of an image, in a directory of kept ones.
pub fn mark_of(directory: &Path, image: &Path) -> Result<PathBuf, String> {
    let place =
        fs::canonicalize(image).map_err(|error| format!("cannot find '{}': {error}", image.display()))?;
    let hash = Sha256::digest(place.as_os_str().as_encoded_bytes());
    let name: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(directory.join(format!("{name}.{MARK}")))
}

/// What disks get from the start.
#[derive(Debug, Default)]
pub struct Begun {
    /// Files for contents that outlive a process, and the rest of loads that were cut short.
    pub upkeep: BTreeMap<u16, Upkeep>,
    /// Lines for the user.
    pub notes: Vec<String>,
}

/// Makes what disks get from the start; `store`: where a load may have left a mark.
pub fn begin(plan: &Plan, store: &Path) -> Result<Begun, String> {
    let mut begun = Begun::default();
    for (index, device) in plan.machine.devices.iter().enumerate() {
        let DeviceKind::Block(disk) = &device.kind else { continue };
        let upkeep = begin_disk(disk, plan.mode, store, &mut begun.notes);
        let upkeep = upkeep.map_err(|why| format!("drive '{}': {why}", device.id))?;
        begun.upkeep.extend(upkeep.map(|upkeep| (index as u16, upkeep)));
    }
    Ok(begun)
}

fn begin_disk(
    disk: &Disk,
    mode: Mode,
    store: &Path,
    notes: &mut Vec<String>,
) -> Result<Option<Upkeep>, String> {
    let path = match &disk.image {
        Image::Null { .. } => return Ok(None),
        Image::Memory { .. } if mode == Mode::Replay || disk.read_only => return Ok(None),
        Image::Memory { .. } => {
            let file = memory_file(c"reprise-disk")?;
            return Ok(Some(Upkeep { contents: Some(file.into()), ..Upkeep::default() }));
        }
        Image::File { path, .. } => path,
    };
    let writes = mode == Mode::Plain && !disk.read_only;
    if let Some((mark, from)) = cut_short(path, store)? {
        let (path, from_name) = (path.display(), from.display());
        let what = format!("'{path}' is only in part what '{from_name}' holds, because a load was cut short");
        if !writes || disk.snapshot {
            return Err(format!("{what}; a run that writes to it completes that first"));
        }
        if !from.exists() {
            let mark = mark.display();
            return Err(format!("{what}, and that is gone; to use the image as it is, remove '{mark}'"));
        }
        notes.push(format!("{what}; it is completed now"));
        let task = Task::Restore { from, mark: Some(mark), known: None };
        return Ok(Some(Upkeep { task: Some(task), ..Upkeep::default() }));
    }
    if !writes || !disk.snapshot {
        return Ok(None);
    }
    let file = temporary_file()?;
    Ok(Some(Upkeep { contents: Some(file.into()), ..Upkeep::default() }))
}

/// A file in memory.
pub fn memory_file(name: &CStr) -> Result<File, String> {
    let made = memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from);
    made.map_err(|error| format!("cannot make a memory file: {}", error.desc()))
}

/// A file that has no name, for what is written under `-snapshot`.
fn temporary_file() -> Result<File, String> {
    let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let path = directory.join(format!("reprise-{}", uuid::Uuid::new_v4().simple()));
    let mut options = File::options();
    let made = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
    made.and_then(|file| fs::remove_file(&path).map(|()| file))
        .map_err(|error| format!("cannot make a temporary layer in '{}': {error}", directory.display()))
}

/// The mark that a load into this image has left in a store, and the contents it was to get.
fn cut_short(image: &Path, store: &Path) -> Result<Option<(PathBuf, PathBuf)>, String> {
    let mark = mark_of(&store.join(DIRECTORY), image)?;
    let text = match fs::read(&mark) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(format!("cannot read '{}': {error}", mark.display())),
    };
    let value: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    let from = value.as_ref().and_then(|value| value.get("from")?.as_str());
    let from = from.ok_or_else(|| format!("'{}' is damaged", mark.display()))?;
    Ok(Some((mark, PathBuf::from(from))))
}

/// Removes images of disks that nobody needs: those in `directory` that are not in `needed`. `ours`: all there are of this run; else
/// only those that runs without a recording have kept.
pub fn remove_unneeded(_held: &Lock, directory: &Path, needed: &[PathBuf], ours: bool) -> Result<(), String> {
    let (mut unneeded, mut directories) = (vec![], vec![]);
    let list = |directory: &Path| -> Result<Vec<PathBuf>, String> {
        let cannot = |error: std::io::Error| format!("cannot list '{}': {error}", directory.display());
        let entries = fs::read_dir(directory).map_err(cannot)?;
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(cannot)).collect()
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for path in list(directory)? {
        if name(&path).ends_with(&format!(".{MARK}")) {
            // The image that it speaks of needs what is here.
            return Ok(());
        }
        if path.is_dir() && ours {
            unneeded.extend(list(&path)?);
            directories.push(path);
        } else {
            unneeded.push(path);
        }
    }
    unneeded.retain(|path| {
        let name = name(path);
        is_part(&name) || (is_image(&name, ours) && !needed.contains(path))
    });
    for path in unneeded {
        fs::remove_file(&path).map_err(|error| format!("cannot remove '{}': {error}", path.display()))?;
    }
    for directory in directories {
        // Only if nothing else is in it.
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// Whether this is the name of an image that is not finished.
pub fn is_part(name: &str) -> bool {
    name.starts_with(".kept-") && name.ends_with(".part")
}

/// Whether this is the name of an image: `ID.RUN.N.qcow2` where others may be.
fn is_image(name: &str, ours: bool) -> bool {
    let mut parts = name.rsplit('.');
    let (Some("qcow2"), Some(number), Some(run)) = (parts.next(), parts.next(), parts.next()) else {
        return ours && name.ends_with(".qcow2");
    };
    let is_kept = run.len() == 8
        && run.bytes().all(|byte| byte.is_ascii_hexdigit())
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && parts.next().is_some();
    is_kept || ours
}

/// Takes images of a snapshot into another store, in a directory of their own, where they keep their names.
pub fn bring(from: &Path, layers: &[String], to: &Path) -> Result<Vec<String>, String> {
    let directory = to.join(DIRECTORY);
    let free = |number: &u32| !directory.join(format!("start.{number}")).exists();
    let place = (1..).find(free).map(|number| format!("{DIRECTORY}/start.{number}")).unwrap_or_default();
    let target = to.join(&place);
    let cannot = |what: &Path, error: std::io::Error| format!("cannot copy '{}': {error}", what.display());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&target);
    made.map_err(|error| cannot(&target, error))?;
    let mut names = vec![];
    for layer in layers {
        let source = from.join(layer);
        // Names of what is below are relative.
        let inside = Path::new(layer).strip_prefix(DIRECTORY).ok();
        let inside = inside.or(source.file_name().map(Path::new)).unwrap_or(Path::new(""));
        let to = target.join(inside);
        let parent = to.parent().unwrap_or(&target);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|error| cannot(parent, error))?;
        // They are never changed again: one file serves both.
        if fs::hard_link(&source, &to).is_err() {
            let copied = fs::copy(&source, &to).and_then(|_| File::open(&to)?.sync_all());
            copied.map_err(|error| cannot(&source, error))?;
        }
        names.push(format!("{place}/{}", inside.display()));
    }
    let synced = File::open(&target).and_then(|directory| directory.sync_all());
    synced.map_err(|error| cannot(&target, error))?;
    Ok(names)
}

#[cfg(test)]
#[path = "kept_file_tests.rs"]
mod tests;
