//! Disks that are written in place, and images of what they held at saves.
//!
//! A save lets another process of the disk copy its contents to a new image while the guest runs on. The first one copies all; later
//! ones copy what changed since, over the image before: so images form chains that need nothing below them. What changed is noted
//! by the process, in memory files of ours, which outlive it: one from each save or load to the next.

use super::kept_file::{self, Answer};
use crate::launch::plan::{Known, Plan, Task};
use replay::clusters::{ClusterSet, KEPT};
use replay::device::{DeviceKind, Image};
use replay::setup::Mode;
use replay::store::DiskState;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Most images below one another; then all is copied once more.
const CHAIN_MAX: usize = 24;

/// What the next process of a disk does: where it notes changes, and its task.
pub type Work = (u16, (OwnedFd, Option<Task>));

/// Contents that a disk is to get.
#[derive(Clone, Debug)]
pub struct Target {
    /// Images, from the top down.
    layers: Vec<PathBuf>,
    /// Nothing below them is needed.
    is_whole: bool,
}

/// What is being done with a disk.
#[derive(Debug)]
enum Doing {
    /// Its contents are copied.
    Keeping { chain: Vec<PathBuf>, pipe: Option<File>, said: Vec<u8> },
    /// It gets others.
    Restoring(Target),
}

/// One disk.
#[derive(Debug)]
struct Kept {
    id: String,
    /// Its image, if it is written to in place and stays.
    image: Option<PathBuf>,
    format: String,
    /// Bytes, if it is in memory.
    bytes: Option<u64>,
    /// Images with what it held when `changes` begin, from the top down. None: that is in no image.
    chain: Option<Vec<PathBuf>>,
    /// Sets of clusters that changed since, one for each process.
    changes: Vec<File>,
    doing: Option<Doing>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct KeptDisks {
    disks: BTreeMap<u16, Kept>,
    /// The store, to which names of images are relative.
    root: PathBuf,
    /// In names of images: no other run has it.
    run: String,
    next_number: u32,
    /// Keeps others from removing images that no snapshot names yet.
    lock: Option<kept_file::Lock>,
}

impl KeptDisks {
    /// The disks of a run whose snapshots are in `root`.
    pub fn of(plan: &Plan, root: &Path) -> KeptDisks {
        let mut disks = BTreeMap::new();
        for (index, device) in plan.machine.devices.iter().enumerate() {
            let DeviceKind::Block(disk) = &device.kind else { continue };
            if disk.read_only {
                continue;
            }
            let (image, format, bytes) = match (&disk.image, plan.mode) {
                (_, Mode::Replay) | (Image::Null { .. }, _) => continue,
                (Image::File { .. }, Mode::Record) => continue,
                (Image::File { path, format }, Mode::Plain) => {
                    (Some(path.clone()), format.clone().unwrap_or_default(), None)
                }
                (Image::Memory { bytes }, _) => (None, String::new(), Some(*bytes)),
            };
            // What is written under -snapshot goes at the end, half restored or not.
            let image = image.filter(|_| !disk.snapshot);
            let id = device.id.clone();
            let new = Kept { id, image, format, bytes, chain: None, changes: vec![], doing: None };
            disks.insert(index as u16, new);
        }
        let run = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        KeptDisks { disks, root: root.into(), run, next_number: 1, lock: None }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    /// The devices.
    pub fn devices(&self) -> Vec<u16> {
        self.disks.keys().copied().collect()
    }

    fn directory(&self) -> PathBuf {
        self.root.join(kept_file::DIRECTORY)
    }

    /// Makes the directory for images, and keeps others from removing some, until `release`.
    pub fn prepare(&mut self) -> Result<(), String> {
        if !self.is_empty() {
            self.lock = Some(kept_file::Lock::shared(&self.directory())?);
        }
        Ok(())
    }

    /// Nothing is being done any more.
    pub fn release(&mut self) {
        self.lock = None;
    }

    /// Begins to keep what each disk holds. With an error something is not kept; the disks go on all the same.
    pub fn begin_keeping(&mut self) -> (Vec<Work>, Result<(), String>) {
        let (mut all, mut result) = (vec![], Ok(()));
        let directory = self.directory();
        for (device, disk) in &mut self.disks {
            let place = loop {
                let name = format!("{}.{}.{}.qcow2", disk.id, self.run, self.next_number);
                self.next_number += 1;
                let place = directory.join(name);
                if !place.exists() {
                    break place;
                }
            };
            match disk.begin_keeping(place) {
                Ok(work) => all.push((*device, work)),
                Err(why) => result = Err(format!("drive '{}': {why}", disk.id)),
            }
        }
        (all, result)
    }

    /// What the disks hold at the save that was begun, as a snapshot says it.
    pub fn states(&self) -> Vec<DiskState> {
        let name = |path: &PathBuf| path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let state = |disk: &Kept| match &disk.doing {
            Some(Doing::Keeping { chain, .. }) => Some(chain.iter().map(name).collect()),
            Some(Doing::Restoring(_)) | None => None,
        };
        let states = self.disks.values();
        states.map(|disk| DiskState { id: disk.id.clone(), layers: state(disk), replayed: None }).collect()
    }

    /// Whether all is kept that was begun to be kept; none: not yet. The error is a line for the user.
    pub fn poll(&mut self) -> Option<Result<(), String>> {
        let mut result = Some(Ok(()));
        for disk in self.disks.values_mut() {
            match disk.poll() {
                Some(Ok(())) => {}
                Some(Err(why)) => result = result.map(|_| Err(format!("drive '{}': {why}", disk.id))),
                None => return None,
            }
        }
        if let Some(Err(_)) = result {
            // Told once.
            self.disks.values_mut().for_each(Kept::forget_failure);
        }
        result
    }

    /// Finds the contents that a snapshot in the store at `root` has for the disks; nothing is changed.
    pub fn find(&self, states: &[DiskState], root: &Path) -> Result<BTreeMap<u16, Target>, String> {
        let target = |(device, disk): (&u16, &Kept)| {
            let found = disk.find(states, root).map_err(|why| format!("drive '{}': {why}", disk.id))?;
            Ok((*device, found))
        };
        self.disks.iter().map(target).collect()
    }

    /// Begins to give the disks other contents.
    pub fn begin_restoring(
        &mut self,
        targets: BTreeMap<u16, Target>,
        root: &Path,
    ) -> (Vec<Work>, Result<(), String>) {
        let (mut all, mut result) = (vec![], Ok(()));
        for (device, target) in targets {
            let Some(disk) = self.disks.get_mut(&device) else { continue };
            match disk.begin_restoring(target, &root.join(kept_file::DIRECTORY)) {
                Ok(work) => all.push((device, work)),
                Err(why) => result = Err(format!("drive '{}': {why}", disk.id)),
            }
        }
        (all, result)
    }

    /// A disk has another process, or none.
    pub fn swapped(&mut self, device: u16, well: bool) {
        let Some(disk) = self.disks.get_mut(&device) else { return };
        match disk.doing.take() {
            Some(Doing::Restoring(target)) => disk.chain = (well && target.is_whole).then_some(target.layers),
            // How that ends the process says.
            other => disk.doing = other,
        }
    }
}

fn memory_file() -> Result<File, String> {
    kept_file::memory_file(c"reprise-changes")
}

impl Kept {
    /// A new set for changes; one is for the process.
    fn new_changes(&mut self) -> Result<OwnedFd, String> {
        let host = |error: std::io::Error| format!("cannot make a set of changes: {error}");
        let file = memory_file()?;
        ClusterSet::default().write(&file).map_err(host)?;
        let theirs = file.try_clone().map_err(host)?;
        self.changes.push(file);
        Ok(theirs.into())
    }

    /// The newest image with what the disk held once, and what changed since. None: there is none, or not all changes are known.
    fn known(&self) -> Result<Option<Known>, String> {
        let Some(chain) = self.chain.as_ref().filter(|chain| chain.iter().all(|image| image.exists())) else {
            return Ok(None);
        };
        let host = |error: std::io::Error| format!("cannot read a set of changes: {error}");
        let mut all = ClusterSet::default();
        for file in &self.changes {
            match ClusterSet::read(file).map_err(host)? {
                Some(set) => all.extend(&set),
                None => return Ok(None),
            }
        }
        let due = memory_file()?;
        all.write(&due).map_err(host)?;
        Ok(chain.first().map(|image| Known { image: image.clone(), due: due.into() }))
    }

    fn begin_keeping(&mut self, place: PathBuf) -> Result<(OwnedFd, Option<Task>), String> {
        let known =
            self.known()?.filter(|_| self.chain.as_ref().is_some_and(|chain| chain.len() < CHAIN_MAX));
        let (pipe, report) = kept_file::pipe()?;
        let mut chain = vec![place.clone()];
        if known.is_some() {
            chain.extend(self.chain.iter().flatten().cloned());
        }
        let changed = self.new_changes()?;
        self.doing = Some(Doing::Keeping { chain, pipe: Some(pipe), said: vec![] });
        Ok((changed, Some(Task::Keep { place, report, known })))
    }

    fn poll(&mut self) -> Option<Result<(), String>> {
        let Some(Doing::Keeping { chain, pipe, said }) = &mut self.doing else { return Some(Ok(())) };
        let answer = match pipe {
            Some(open) => kept_file::read_answer(open, said),
            None => Answer::Ended,
        };
        match answer {
            Answer::Nothing => return None,
            Answer::Ended => *pipe = None,
        }
        let text = String::from_utf8_lossy(said).into_owned();
        if text == KEPT {
            self.chain = Some(std::mem::take(chain));
            // What changed before is in the image.
            self.changes.drain(..self.changes.len() - 1);
            self.doing = None;
            return Some(Ok(()));
        }
        Some(Err(match text.trim() {
            "" => "its process ended before all was copied".to_owned(),
            why => why.to_owned(),
        }))
    }

    /// What was kept before is still right, with all changes since.
    fn forget_failure(&mut self) {
        if let Some(Doing::Keeping { pipe: None, .. }) = &self.doing {
            self.doing = None;
        }
        if self.chain.is_none() {
            self.changes.clear();
        }
    }

    fn find(&self, states: &[DiskState], root: &Path) -> Result<Target, String> {
        let state = states.iter().find(|state| state.id == self.id);
        let state = state.ok_or("the snapshot has no such disk")?;
        let layers =
            state.layers.as_ref().ok_or("the snapshot was made in a replay, which keeps no disks")?;
        let layers: Vec<PathBuf> = layers.iter().map(|layer| root.join(layer)).collect();
        if let Some(missing) = layers.iter().find(|layer| !layer.exists()) {
            return Err(format!("'{}', which the snapshot needs, is gone", missing.display()));
        }
        let top = layers.first().ok_or("the snapshot names no image of it")?;
        let size = match &self.image {
            Some(image) => Some(kept_file::size_of(&self.id, image, &self.format)?),
            None => self.bytes,
        };
        kept_file::check_size(&self.id, top, size)?;
        if let Some(base) = kept_file::below(&self.id, &layers)? {
            kept_file::check_base(&self.id, root, &base)?;
            return Ok(Target { layers, is_whole: false });
        }
        Ok(Target { layers, is_whole: true })
    }

    fn begin_restoring(
        &mut self,
        target: Target,
        directory: &Path,
    ) -> Result<(OwnedFd, Option<Task>), String> {
        let known = self.known()?;
        (self.chain, self.changes) = (None, vec![]);
        let changed = self.new_changes()?;
        let from = target.layers[0].clone();
        let mark = self.image.as_deref().map(|image| kept_file::mark_of(directory, image)).transpose()?;
        self.doing = Some(Doing::Restoring(target));
        Ok((changed, Some(Task::Restore { from, mark, known })))
    }
}
