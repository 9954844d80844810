//! The directory of a recording: made, replaced, opened.
//!
//! A recording holds keystrokes and memory contents, so its directory has mode 0700 and its files 0600. What is not
//! known to be part of a recording is never deleted. A recorder holds a lock on the directory; replays only read.

use crate::log::{self, LogError, Reader, Survey, Writer};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::store;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

const MANIFEST: &str = "manifest.json";
const MANIFEST_NEW: &str = "manifest.json.new";
const LOG: &str = "events.log";
/// A log that is about to take the place of another.
pub(crate) const LOG_NEW: &str = "events.log.new";
/// Logs that were cut when a snapshot was loaded, with their manifests.
pub(crate) const CUT: &str = "cut";
const DISKS: &str = "disks";
const DISKS_NEW: &str = "disks.new";
/// Everything a recording may consist of. The manifest goes first: without it the rest is no recording.
const PARTS: [&str; 8] = [MANIFEST, MANIFEST_NEW, LOG, LOG_NEW, DISKS, store::SNAPSHOTS, store::PAGES, CUT];

/// What to do with a recording that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Delete it.
    Yes,
    /// Refuse.
    No,
}

/// A place for a recording, locked. What was recorded there before is still there.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    lock: Option<Flock<File>>,
    /// The directory was made for it.
    is_new: bool,
}

/// A recording's directory and manifest.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    manifest: Manifest,
    /// Held while recording.
    _lock: Option<Flock<File>>,
}

/// A recording that cannot be made or used; each prints as one line.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The host refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Host {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// There is a recording, and it shall stay.
    #[error("{} holds a recording already; give another name, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The directory is not empty and no recording.
    #[error("{} is a directory with other files in it, not a recording", .0.display())]
    OtherDirectory(PathBuf),
    /// A plain file is in the way.
    #[error("{} is a file, not the directory of a recording", .0.display())]
    IsFile(PathBuf),
    /// There is nothing.
    #[error("there is no recording {}", .0.display())]
    Missing(PathBuf),
    /// The directory has no manifest.
    #[error("{} is not a recording: it has no manifest.json", .0.display())]
    NoManifest(PathBuf),
    /// The directory has a manifest but no log.
    #[error("the recording {} is incomplete: events.log is missing", .0.display())]
    NoLog(PathBuf),
    /// Another process records into it.
    #[error("the recording {} is being written by another process", .0.display())]
    Busy(PathBuf),
    /// Its manifest is not usable.
    #[error("the recording {} cannot be used: {source}", path.display())]
    Manifest {
        /// The recording.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// Its log is not usable.
    #[error("{}: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: LogError,
    },
    /// The log was made with another manifest.
    #[error("{} belongs to another recording than its manifest.json", .0.display())]
    ForeignLog(PathBuf),
}

/// Where the layers of a recording's disks are.
pub fn disks_path(recording: &Path) -> PathBuf {
    recording.join(DISKS)
}

impl Recording {
    /// Makes the directory and writes the manifest to stable storage.
    ///
    /// An empty directory is taken as it is. Any other thing than a recording in its place is refused.
    pub fn create(path: &Path, replace: Replace, manifest: Manifest) -> Result<Recording, RecordingError> {
        Prepared::new(path, replace)?.create(manifest)
    }

    /// Opens a recording to read it.
    pub fn open(path: &Path) -> Result<Recording, RecordingError> {
        let host = |action, source| RecordingError::Host { action, path: path.into(), source };
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(RecordingError::Missing(path.into()));
            }
            Err(error) => return Err(host("look at", error)),
            Ok(metadata) if !metadata.is_dir() => return Err(RecordingError::IsFile(path.into())),
            Ok(_) => {}
        }
        let mut text = Vec::new();
        match File::open(path.join(MANIFEST)) {
            Ok(file) => {
                let read = file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text);
                read.map_err(|error| host("read manifest.json of", error))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(RecordingError::NoManifest(path.into()));
            }
            Err(error) => return Err(host("read manifest.json of", error)),
        }
        let manifest = Manifest::from_text(&text)
            .map_err(|source| RecordingError::Manifest { path: path.into(), source })?;
        let recording = Recording { path: path.into(), manifest, _lock: None };
        if !recording.log_path().exists() {
            return Err(RecordingError::NoLog(path.into()));
        }
        Ok(recording)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the recording says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// It is called otherwise from here on.
    pub(crate) fn rename(&mut self, manifest: Manifest) {
        self.manifest = manifest;
    }

    /// Where the layers of disks are: what the guest wrote.
    pub fn disks_path(&self) -> PathBuf {
        disks_path(&self.path)
    }

    /// Keeps recorders away while what is returned lives; fails when there is one.
    pub fn lock(&self) -> Result<Flock<File>, RecordingError> {
        lock(&self.path)
    }

    /// Where the log is.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Begins the log of a new recording.
    pub fn create_log(&self) -> Result<Writer<File>, RecordingError> {
        let uuid = self.manifest.uuid_bytes();
        let uuid = uuid.map_err(|source| RecordingError::Manifest { path: self.path.clone(), source })?;
        let file = create_file(&self.log_path()).and_then(|file| {
            File::open(&self.path)?.sync_all()?;
            Ok(file)
        });
        let file =
            file.map_err(|source| self.log_error(LogError::Write { source, icount: Default::default() }))?;
        Writer::create(file, uuid).map_err(|source| self.log_error(source))
    }

    /// Opens the log from its start.
    pub fn open_log(&self) -> Result<Reader<BufReader<File>>, RecordingError> {
        let reader = Reader::new(self.log_source()?).map_err(|source| self.log_error(source))?;
        if Ok(reader.uuid()) != self.manifest.uuid_bytes() {
            return Err(RecordingError::ForeignLog(self.log_path()));
        }
        Ok(reader)
    }

    /// Verifies the whole log's checksums.
    pub fn survey_log(&self) -> Result<Survey, RecordingError> {
        log::survey(self.log_source()?).map_err(|source| self.log_error(source))
    }

    fn log_source(&self) -> Result<BufReader<File>, RecordingError> {
        let file = File::open(self.log_path()).map_err(|source| self.log_error(LogError::Read(source)))?;
        Ok(BufReader::new(file))
    }

    fn log_error(&self, source: LogError) -> RecordingError {
        RecordingError::Log { path: self.log_path(), source }
    }
}

impl Prepared {
    /// Finds out whether a recording can be made here, and makes its directory if there is none.
    pub fn new(path: &Path, replace: Replace) -> Result<Prepared, RecordingError> {
        let host = |action, source| RecordingError::Host { action, path: path.into(), source };
        let is_new = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = DirBuilder::new().mode(0o700).create(path);
                made.map_err(|error| host("create the recording", error))?;
                true
            }
            Err(error) => return Err(host("look at", error)),
            Ok(metadata) if !metadata.is_dir() => return Err(RecordingError::IsFile(path.into())),
            Ok(_) => {
                check_replaceable(path, replace)?;
                false
            }
        };
        let lock = lock(path)?;
        Ok(Prepared { path: path.into(), lock: Some(lock), is_new })
    }

    /// Makes an empty directory for the layers of the new recording's disks. Files in it may stay open when the
    /// recording is created.
    pub fn make_disks(&self) -> Result<PathBuf, RecordingError> {
        let path = self.path.join(DISKS_NEW);
        remove(&path)?;
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| RecordingError::Host { action: "create", path: path.clone(), source })?;
        Ok(path)
    }

    /// Replaces what is there by a new recording.
    pub fn create(mut self, manifest: Manifest) -> Result<Recording, RecordingError> {
        let path = self.path.clone();
        let host = |action, source| RecordingError::Host { action, path: path.clone(), source };
        PARTS.iter().try_for_each(|part| remove(&path.join(part)))?;
        let set = fs::set_permissions(&path, Permissions::from_mode(0o700));
        set.map_err(|error| host("protect the recording", error))?;
        match fs::rename(path.join(DISKS_NEW), path.join(DISKS)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(host("put the disks into the recording", error));
            }
            Ok(()) | Err(_) => {}
        }
        write_manifest(&path, &manifest)?;
        Ok(Recording { path, manifest, _lock: self.lock.take() })
    }
}

impl Drop for Prepared {
    /// A recording that did not come to be leaves nothing behind.
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = remove(&self.path.join(DISKS_NEW));
            if self.is_new {
                // Only if nothing else is in it.
                let _ = fs::remove_dir(&self.path);
            }
        }
    }
}

fn lock(path: &Path) -> Result<Flock<File>, RecordingError> {
    let host = |action, source| RecordingError::Host { action, path: path.into(), source };
    let directory = File::open(path).map_err(|error| host("open the recording", error))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RecordingError::Busy(path.into())),
        Err((_, errno)) => Err(host("lock the recording", errno.into())),
    }
}

fn check_replaceable(path: &Path, replace: Replace) -> Result<(), RecordingError> {
    let names = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
        .map_err(|source| RecordingError::Host { action: "list", path: path.into(), source })?;
    let is_part = |name: &std::ffi::OsString| name == DISKS_NEW || PARTS.iter().any(|part| name == part);
    if !names.iter().any(|name| name == MANIFEST) && !names.iter().all(is_part) {
        return Err(RecordingError::OtherDirectory(path.into()));
    }
    // What a start that was killed left behind is no recording.
    if names.iter().any(|name| name != DISKS_NEW) && replace == Replace::No {
        return Err(RecordingError::Exists(path.into()));
    }
    Ok(())
}

/// Removes a file or a directory with all that is in it. A link is removed, never followed.
fn remove(part: &Path) -> Result<(), RecordingError> {
    let removed = match fs::symlink_metadata(part) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(part),
        Ok(_) => fs::remove_file(part),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|source| RecordingError::Host { action: "replace", path: part.into(), source })
}

pub(crate) fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), RecordingError> {
    let (new, path) = (directory.join(MANIFEST_NEW), directory.join(MANIFEST));
    let text = manifest.to_text();
    let text = text.map_err(|source| RecordingError::Manifest { path: directory.into(), source })?;
    let written = create_file(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(directory)?.sync_all()
    });
    written.map_err(|source| RecordingError::Host { action: "write", path, source })
}

pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Ending, Step};
    use crate::manifest::example;
    use crate::time::Icount;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        (directory, path)
    }

    fn make(path: &Path, replace: Replace) -> Result<Recording, RecordingError> {
        let recording = Recording::create(path, replace, example())?;
        recording.create_log()?.finish(Icount(5)).unwrap();
        Ok(recording)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_recording_is_made_private_and_opens() {
        let (_guard, path) = place();
        make(&path, Replace::No).unwrap();
        assert_eq!((mode(&path), mode(&path.join(MANIFEST)), mode(&path.join(LOG))), (0o700, 0o600, 0o600));
        assert!(!path.join(MANIFEST_NEW).exists());
        let recording = Recording::open(&path).unwrap();
        assert_eq!(recording.manifest(), &example());
        let step = recording.open_log().unwrap().next().unwrap();
        assert!(matches!(step, Step::Event(entry) if entry.stamped.icount == Icount(5)));
        assert_eq!(recording.survey_log().unwrap().ending, Ending::Finished { icount: Icount(5) });
    }

    #[test]
    fn progress_is_written_over_progress_in_the_file_too() {
        let (_guard, path) = place();
        let recording = Recording::create(&path, Replace::No, example()).unwrap();
        let mut writer = recording.create_log().unwrap();
        let mut lengths = vec![];
        for icount in [10, 20, 30] {
            writer.flush(Icount(icount)).unwrap();
            lengths.push(fs::metadata(recording.log_path()).unwrap().len());
        }
        assert_eq!(lengths[0], lengths[2]);
        writer.finish(Icount(40)).unwrap();
        assert_eq!(recording.survey_log().unwrap().ending, Ending::Finished { icount: Icount(40) });
    }

    #[test]
    fn an_existing_recording_is_replaced_only_when_asked() {
        let (_guard, path) = place();
        drop(make(&path, Replace::No).unwrap());
        fs::create_dir(path.join("disks")).unwrap();
        fs::write(path.join("notes"), "mine").unwrap();
        assert!(matches!(make(&path, Replace::No), Err(RecordingError::Exists(_))));
        drop(make(&path, Replace::Yes).unwrap());
        assert!(!path.join("disks").exists());
        assert!(path.join("notes").exists(), "what is not ours stays");
    }

    #[test]
    fn what_is_no_recording_is_never_deleted() {
        let (guard, path) = place();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(make(&path, Replace::Yes), Err(RecordingError::IsFile(_))));
        assert!(matches!(Recording::open(&path), Err(RecordingError::IsFile(_))));
        assert!(matches!(make(guard.path(), Replace::Yes), Err(RecordingError::OtherDirectory(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let empty = guard.path().join("empty");
        fs::create_dir(&empty).unwrap();
        make(&empty, Replace::No).unwrap();
        assert_eq!(mode(&empty), 0o700);
    }

    #[test]
    fn what_was_recorded_stays_until_a_new_one_is_made() {
        let (_guard, path) = place();
        drop(make(&path, Replace::No).unwrap());
        let prepared = Prepared::new(&path, Replace::Yes).unwrap();
        let disks = prepared.make_disks().unwrap();
        assert_eq!(mode(&disks), 0o700);
        fs::write(disks.join("d.qcow2"), "new").unwrap();
        assert!(matches!(Prepared::new(&path, Replace::Yes), Err(RecordingError::Busy(_))));
        drop(prepared);
        assert!(!disks.exists() && Recording::open(&path).is_ok());
        let prepared = Prepared::new(&path, Replace::Yes).unwrap();
        fs::write(prepared.make_disks().unwrap().join("d.qcow2"), "new").unwrap();
        let recording = prepared.create(example()).unwrap();
        assert_eq!(fs::read(recording.disks_path().join("d.qcow2")).unwrap(), b"new");
        assert!(!disks.exists());
        let other = path.join("other");
        drop(Prepared::new(&other, Replace::No).unwrap());
        assert!(!other.exists());
    }

    #[test]
    fn two_recorders_do_not_share_a_directory() {
        let (_guard, path) = place();
        let first = make(&path, Replace::No).unwrap();
        assert!(matches!(make(&path, Replace::Yes), Err(RecordingError::Busy(_))));
        assert!(Recording::open(&path).is_ok(), "a replay may look on");
        drop(first);
        make(&path, Replace::Yes).unwrap();
    }

    #[test]
    fn each_failure_is_one_clear_line() {
        let (guard, path) = place();
        let line = |result: Result<Recording, RecordingError>| {
            let text = result.unwrap_err().to_string().replace(&guard.path().display().to_string(), "DIR");
            assert!(!text.contains('\n'));
            text
        };
        assert_eq!(line(Recording::open(&path)), "there is no recording DIR/run");
        let deep = path.join("deeper");
        assert!(
            line(make(&deep, Replace::No))
                .starts_with("cannot create the recording DIR/run/deeper: No such file")
        );
        drop(make(&path, Replace::No).unwrap());
        assert!(line(make(&path, Replace::No)).contains("holds a recording already"));
        fs::remove_file(path.join(LOG)).unwrap();
        assert_eq!(
            line(Recording::open(&path)),
            "the recording DIR/run is incomplete: events.log is missing"
        );
        fs::write(path.join(LOG), "something else").unwrap();
        let recording = Recording::open(&path).unwrap();
        let error = recording.open_log().err().unwrap().to_string();
        assert!(error.ends_with("run/events.log: this is not an event log of reprise"), "{error}");
        let other = Writer::create(Vec::new(), [9; 16]).unwrap().finish(Icount(1)).unwrap();
        fs::write(path.join(LOG), other).unwrap();
        assert!(matches!(recording.open_log(), Err(RecordingError::ForeignLog(_))));
        fs::write(path.join(MANIFEST), "{}").unwrap();
        assert!(line(Recording::open(&path)).contains("manifest.json is damaged"));
        fs::remove_file(path.join(MANIFEST)).unwrap();
        assert_eq!(line(Recording::open(&path)), "DIR/run is not a recording: it has no manifest.json");
    }
}
