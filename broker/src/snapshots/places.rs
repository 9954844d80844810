//! Where a run's snapshots are.
//!
//! A recording keeps its own. A replay never writes to it: what it saves goes beside it. A run that is not recorded has a
//! directory of the user's. `-snapdir` names another one; tags are looked for in all of them.

use crate::cli::CliError;
use replay::machine::Machine;
use replay::setup::Mode;
use replay::store::{Info, Snapshot, Store, StoreError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `-loadvm`, `rrsnapshot=` and `rrsnapmode=` ask for, and where snapshots are.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where snapshots are.
    pub places: Places,
    /// What the run is.
    pub mode: Mode,
    /// The machine.
    pub machine: Machine,
    /// A state to load before the first instruction.
    pub load: Option<String>,
    /// In a replay: a snapshot to go to, and whether to run on from there.
    pub go_to: Option<(String, bool)>,
    /// A state to save before the first instruction.
    pub save: Option<String>,
    /// Snapshots from time to time.
    pub periodic: Option<Periodic>,
}

/// `rrsnapmode=periodic,rrsnaptime=S,rrsnapcount=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periodic {
    /// Host time between two.
    pub interval: Duration,
    /// How many are kept.
    pub count: usize,
}

/// The stores of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where new snapshots go.
    pub own: Store,
    /// Where others may be, too.
    pub others: Vec<Store>,
}

/// The directory that is used when nothing else is said.
fn default_directory() -> Result<PathBuf, CliError> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    let state = state.or_else(home).unwrap_or_else(|| PathBuf::from("."));
    let directory = std::path::absolute(state.join("reprise/snapshots"));
    directory.map_err(|error| CliError(format!("cannot tell where snapshots are: {error}")))
}

/// `NAME.snapshots` beside a recording.
fn beside(recording: &Path) -> PathBuf {
    let mut name = recording.as_os_str().to_owned();
    name.push(".snapshots");
    PathBuf::from(name)
}

impl Places {
    /// The stores of a run; `given`: `-snapdir`.
    pub fn of(mode: Mode, recording: Option<&Path>, given: Option<&Path>) -> Result<Places, CliError> {
        let absolute = |path: &Path| {
            let absolute = std::path::absolute(path);
            absolute.map_err(|error| CliError(format!("'{}': {error}", path.display())))
        };
        let given = given.map(absolute).transpose()?.map(|path| Store::new(&path));
        let recording = recording.map(absolute).transpose()?;
        Ok(match (mode, recording) {
            (Mode::Record, Some(path)) => {
                let other = match given {
                    Some(given) => given,
                    None => Store::new(&default_directory()?),
                };
                Places { own: Store::new(&path), others: vec![other] }
            }
            (Mode::Replay, Some(path)) => {
                let own = given.unwrap_or_else(|| Store::new(&beside(&path)));
                Places { own, others: vec![Store::new(&path)] }
            }
            (_, _) => match given {
                Some(own) => Places { own, others: vec![] },
                None => Places { own: Store::new(&default_directory()?), others: vec![] },
            },
        })
    }

    /// The stores in which a new run looks for the snapshot from which it starts.
    pub fn of_start(given: Option<&Path>) -> Result<Places, CliError> {
        Places::of(Mode::Plain, None, given)
    }

    /// All of them, the own one first.
    pub fn all(&self) -> impl Iterator<Item = &Store> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// Finds a snapshot and where it is.
    pub fn find(&self, tag: &str) -> Result<Option<(Store, Snapshot)>, StoreError> {
        for store in self.all() {
            if let Some(snapshot) = store.read(tag)? {
                return Ok(Some((store.clone(), snapshot)));
            }
        }
        Ok(None)
    }

    /// All snapshots, and lines about what cannot be read.
    pub fn list(&self) -> (Vec<Info>, Vec<String>) {
        let (found, bad) = self.list_with_stores();
        (found.into_iter().map(|(info, _)| info).collect(), bad)
    }

    /// The same, each with where it is.
    pub fn list_with_stores(&self) -> (Vec<(Info, &Store)>, Vec<String>) {
        let (mut found, mut bad): (Vec<(Info, &Store)>, Vec<String>) = (vec![], vec![]);
        for store in self.all() {
            match store.list() {
                Ok((infos, errors)) => {
                    let is_new = |info: &Info| !found.iter().any(|(known, _)| known.tag == info.tag);
                    let new: Vec<Info> = infos.into_iter().filter(is_new).collect();
                    found.extend(new.into_iter().map(|info| (info, store)));
                    bad.extend(errors.iter().map(ToString::to_string));
                }
                Err(error) => bad.push(error.to_string()),
            }
        }
        (found, bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_keeps_its_own_and_a_replay_writes_beside_it() {
        let of = |mode, recording: Option<&str>, given: Option<&str>| {
            let places = Places::of(mode, recording.map(Path::new), given.map(Path::new)).unwrap();
            let name = |store: &Store| store.root().display().to_string();
            (name(&places.own), places.others.iter().map(name).collect::<Vec<_>>())
        };
        let (own, others) = of(Mode::Record, Some("/r"), Some("/s"));
        assert_eq!((own.as_str(), others), ("/r", vec!["/s".to_owned()]));
        let (own, others) = of(Mode::Replay, Some("/r"), None);
        assert_eq!((own.as_str(), others), ("/r.snapshots", vec!["/r".to_owned()]));
        let (own, others) = of(Mode::Replay, Some("/r"), Some("/s"));
        assert_eq!((own.as_str(), others), ("/s", vec!["/r".to_owned()]));
        assert_eq!(of(Mode::Plain, None, Some("/s")), ("/s".to_owned(), vec![]));
        assert!(of(Mode::Plain, None, None).0.ends_with("reprise/snapshots"));
    }
}
