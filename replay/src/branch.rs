//! A recording that goes on in another way from a place in its log: what came after that place is cut off and kept aside.
//!
//! The log from the start to the place is written anew, under a new uuid; the manifest names the old one as an ancestor. The cut log
//! and its manifest go to `cut/N.log` and `cut/N.json`, so that a snapshot of that future can be loaded, too: then the log
//! is made from that one's beginning. Each step leaves a recording that replays.

use crate::log::{LogError, Reader, Step, Writer};
use crate::manifest::{LogPlace, MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::recording::{CUT, LOG_NEW, Recording, RecordingError, create_file, write_manifest};
use crate::time::Icount;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where a recording goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Instructions retired there.
    pub icount: Icount,
    /// What the log keeps.
    pub keeps: Keeps,
    /// The new recording's uuid, hyphenated.
    pub uuid: String,
}

/// What a log keeps when it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All up to a place that this recording, or one that was cut off it, passes.
    Until(LogPlace),
    /// Nothing: the recording starts from this snapshot in it.
    Start(String),
}

/// A log that was cut, and its manifest.
#[derive(Debug)]
pub struct CutLog {
    /// The log.
    pub log: PathBuf,
    /// What it was called.
    pub manifest: Manifest,
}

impl Recording {
    /// The logs that were cut off, oldest first. Those that cannot be read are left out.
    pub fn cut_logs(&self) -> Vec<CutLog> {
        let directory = self.path().join(CUT);
        let read = |number: u32| -> Option<CutLog> {
            let mut text = Vec::new();
            let file = File::open(directory.join(format!("{number}.json"))).ok()?;
            file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).ok()?;
            let log = directory.join(format!("{number}.log"));
            Some(CutLog { log, manifest: Manifest::from_text(&text).ok()? })
        };
        (1..self.next_number()).filter_map(read).collect()
    }

    fn next_number(&self) -> u32 {
        let directory = self.path().join(CUT);
        (1..).find(|number| !directory.join(format!("{number}.log")).exists()).unwrap_or(u32::MAX)
    }

    /// Whether the recording can go on from a place: its log, or one that was cut off, passes it.
    pub fn knows(&self, place: &LogPlace) -> bool {
        self.manifest().passes(place) || self.cut_logs().iter().any(|cut| cut.manifest.passes(place))
    }

    /// Puts what was recorded after a place aside and begins a log that goes on from there; the log must be complete on disk.
    pub fn branch_off(&mut self, cut: &Cut) -> Result<Writer<File>, RecordingError> {
        let (source, manifest, events) = match &cut.keeps {
            Keeps::Start(tag) => {
                let manifest = Manifest {
                    uuid: cut.uuid.clone(),
                    ancestors: vec![],
                    start_snapshot: Some(tag.clone()),
                    ..self.manifest().clone()
                };
                (self.log_path(), manifest, 0)
            }
            Keeps::Until(place) if self.manifest().passes(place) => {
                let manifest = self.manifest().branch(place.events, cut.uuid.clone());
                (self.log_path(), manifest, place.events)
            }
            Keeps::Until(place) => {
                let from = self.cut_logs().into_iter().find(|cut| cut.manifest.passes(place));
                let from = from.ok_or_else(|| RecordingError::ForeignLog(self.log_path()))?;
                (from.log, from.manifest.branch(place.events, cut.uuid.clone()), place.events)
            }
        };
        let writer = self.copy_log(&source, &manifest, events, cut.icount)?;
        self.put_aside()?;
        let (new, path) = (self.path().join(LOG_NEW), self.log_path());
        // Between these two steps the log is not the manifest's; a replay says so.
        fs::rename(&new, &path).map_err(|source| self.host("put in place", &path, source))?;
        write_manifest(self.path(), &manifest)?;
        self.rename(manifest);
        Ok(writer)
    }

    fn host(&self, action: &'static str, path: &Path, source: io::Error) -> RecordingError {
        RecordingError::Host { action, path: path.into(), source }
    }

    /// Writes the first events of a log into a new one.
    fn copy_log(
        &self,
        source: &Path,
        manifest: &Manifest,
        events: u64,
        icount: Icount,
    ) -> Result<Writer<File>, RecordingError> {
        let path = self.path().join(LOG_NEW);
        let log_error = |source| RecordingError::Log { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(self.host("remove", &path, error));
            }
            Ok(()) | Err(_) => {}
        }
        let uuid = manifest.uuid_bytes();
        let uuid = uuid.map_err(|source| RecordingError::Manifest { path: self.path().into(), source })?;
        let file = create_file(&path).map_err(|error| self.host("create", &path, error))?;
        let mut writer = Writer::create(file, uuid).map_err(log_error)?;
        let from = File::open(source).map_err(|error| self.host("open", source, error))?;
        let mut reader = Reader::new(BufReader::new(from)).map_err(log_error)?;
        for _ in 0..events {
            match reader.next().map_err(log_error)? {
                Step::Event(entry) => writer.append(&entry.stamped).map_err(log_error)?,
                Step::Ended(ending) => {
                    let why =
                        format!("{} has fewer events than the snapshot says: {ending}", source.display());
                    return Err(log_error(LogError::Order { icount, why }));
                }
            }
        }
        writer.flush(icount).map_err(log_error)?;
        Ok(writer)
    }

    /// Keeps log and manifest as they are under a number.
    fn put_aside(&self) -> Result<(), RecordingError> {
        let (directory, number) = (self.path().join(CUT), self.next_number());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| self.host("create", &directory, error))?;
        let place = directory.join(format!("{number}.json"));
        let text = self.manifest().to_text();
        let text = text
            .map_err(|source: ManifestError| RecordingError::Manifest { path: self.path().into(), source })?;
        let written = fs::remove_file(&place).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        let written = written.and_then(|()| create_file(&place)).and_then(|mut file| {
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| self.host("write", &place, error))?;
        let log = directory.join(format!("{number}.log"));
        fs::hard_link(self.log_path(), &log).map_err(|error| self.host("keep", &log, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Stamped};
    use crate::manifest::example;
    use crate::recording::Replace;

    fn uuid(number: u8) -> String {
        format!("00000000-0000-4000-8000-0000000000{number:02}")
    }

    fn append(writer: &mut Writer<File>, icounts: &[u64]) {
        for &icount in icounts {
            writer.append(&Stamped { icount: Icount(icount), event: Event::PowerButton }).unwrap();
        }
    }

    fn icounts(path: &Path) -> Vec<u64> {
        let recording = Recording::open(path).unwrap();
        let mut reader = recording.open_log().unwrap();
        let mut found = vec![];
        while let Step::Event(entry) = reader.next().unwrap() {
            if entry.stamped.event == Event::PowerButton {
                found.push(entry.stamped.icount.0);
            }
        }
        found
    }

    #[test]
    fn a_recording_goes_on_from_any_place_of_any_of_its_futures() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        let mut recording = Recording::create(&path, Replace::No, example()).unwrap();
        let first = example().uuid;
        let mut writer = recording.create_log().unwrap();
        append(&mut writer, &[10, 20, 30, 40]);
        writer.finish(Icount(45)).unwrap();
        let place = |uuid: &str, events| LogPlace { uuid: uuid.into(), events };
        let cut = |recording: &mut Recording, place: LogPlace, icount, number| {
            let keeps = Keeps::Until(place);
            recording.branch_off(&Cut { icount: Icount(icount), keeps, uuid: uuid(number) }).unwrap()
        };
        let mut writer = cut(&mut recording, place(&first, 2), 25, 1);
        append(&mut writer, &[27, 28]);
        writer.finish(Icount(29)).unwrap();
        assert_eq!(icounts(&path), [10, 20, 27, 28]);
        let manifest = recording.manifest().clone();
        assert!(manifest.passes(&place(&first, 2)) && !manifest.passes(&place(&first, 3)));
        assert!(recording.knows(&place(&first, 3)) && !recording.knows(&place(&uuid(9), 0)));
        // Back to the future that was cut off, and from there once more.
        let mut writer = cut(&mut recording, place(&first, 3), 35, 2);
        append(&mut writer, &[36]);
        writer.finish(Icount(37)).unwrap();
        assert_eq!(icounts(&path), [10, 20, 30, 36]);
        let writer = cut(&mut recording, place(&uuid(1), 3), 27, 3);
        writer.finish(Icount(29)).unwrap();
        assert_eq!(icounts(&path), [10, 20, 27]);
        assert_eq!(recording.cut_logs().len(), 3);
        let start = Cut { icount: Icount(7), keeps: Keeps::Start("s".into()), uuid: uuid(4) };
        recording.branch_off(&start).unwrap().finish(Icount(8)).unwrap();
        assert_eq!((icounts(&path), recording.cut_logs().len()), (vec![], 4));
        let reopened = Recording::open(&path);
        assert_eq!(reopened.unwrap().manifest().start_snapshot.as_deref(), Some("s"));
    }
}
