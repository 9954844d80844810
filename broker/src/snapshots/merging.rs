//! Chains of layers are made shorter beside the run, so that there may be any number of saves.
//!
//! Every save of a recording puts a layer over those before. When a disk has many, a process makes one of the upper ones; it takes
//! the place of the topmost of them and holds the same. Small layers are merged often and large ones seldom, so that what the guest
//! writes is copied a few times only, however long the recording is.

use super::disks::Disks;
use super::kept_file;
use crate::launch::host;
use crate::launch::spawn::Spawn;
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;

/// From this number of layers on some are merged.
const BEGIN: usize = 48;
/// At least this many become one.
const LEAST: usize = 32;
/// After a failure, this many layers must be added before it is tried once more.
const PATIENCE: usize = 16;

/// What is merged beside the run.
#[derive(Debug, Default)]
pub struct Merging {
    running: Option<Running>,
    /// How many layers there were when it failed, and why.
    failed: Option<(usize, String)>,
}

/// A process that merges.
#[derive(Debug)]
struct Running {
    device: u16,
    /// The layers that become one, from the top down.
    layers: Vec<PathBuf>,
    child: Child,
}

impl Merging {
    /// Goes on: takes what is done, begins what is to be done. `settled`: no process of a disk is opening layers. When the process
    /// that merges ends, the broker gets a SIGCHLD, and looks.
    pub fn attend(&mut self, disks: &mut Disks, settled: bool) {
        if !settled {
            return;
        }
        match self.running.as_mut().and_then(Running::poll) {
            None => {}
            Some(Ok(())) => {
                if let Some(running) = self.running.take() {
                    disks.were_merged(running.device, &running.layers);
                }
                self.failed = None;
            }
            Some(Err(why)) => {
                self.running = None;
                self.fail(disks, why);
            }
        }
        if self.running.is_none() && self.failed.as_ref().is_none_or(|(at, _)| disks.depth() >= at + PATIENCE)
        {
            self.begin(disks);
        }
    }

    fn begin(&mut self, disks: &Disks) {
        let Some((device, frozen)) = disks.longest() else { return };
        if frozen.len() < BEGIN {
            return;
        }
        let sizes: Vec<u64> = frozen.iter().map(|layer| bytes_of(layer)).collect();
        let Some(layers) = how_many(&sizes).and_then(|count| frozen.get(..count)) else { return };
        match start(layers) {
            Ok(child) => self.running = Some(Running { device, layers: layers.to_vec(), child }),
            Err(why) => self.fail(disks, why),
        }
    }

    fn fail(&mut self, disks: &Disks, why: String) {
        eprintln!("reprise: {why}; the layers of the disk stay as they are");
        self.failed = Some((disks.depth(), why));
    }

    /// Whether merging is going to make room.
    pub fn is_hopeful(&self) -> bool {
        self.running.is_some() || self.failed.is_none()
    }

    /// Why there is no room; from here on it is tried once more.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failed.take().map(|(_, why)| why)
    }
}

impl Running {
    /// How it ended, if it did.
    fn poll(&mut self) -> Option<Result<(), String>> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) if status.success() => Some(Ok(())),
            Ok(Some(status)) => {
                let mut said = String::new();
                // It has ended, so nothing is waited for.
                let _ = self.child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut said));
                let said = said.trim().trim_start_matches("reprise device: ").to_owned();
                Some(Err(if said.is_empty() {
                    format!("the process that merges layers: {status}")
                } else {
                    said
                }))
            }
            Err(error) => Some(Err(format!("cannot wait for the process that merges layers: {error}"))),
        }
    }
}

impl Drop for Running {
    /// Ends what is not done, and removes its unfinished file.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let directory = self.layers.first().and_then(|layer| layer.parent());
        for entry in directory.and_then(|directory| directory.read_dir().ok()).into_iter().flatten().flatten()
        {
            if kept_file::is_part(&entry.file_name().to_string_lossy()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// How many of some layers become one, from the top down, by their sizes; none: the chain is short.
fn how_many(sizes: &[u64]) -> Option<usize> {
    if sizes.len() < BEGIN {
        return None;
    }
    let mut sum: u64 = sizes[..LEAST].iter().sum();
    let mut count = LEAST;
    // One that is larger than all above it together is left for later.
    while let Some(size) = sizes.get(count).filter(|size| **size <= sum) {
        sum += size;
        count += 1;
    }
    Some(count)
}

/// Bytes on the host's disk.
fn bytes_of(layer: &Path) -> u64 {
    std::fs::metadata(layer).map_or(0, |data| data.blocks() * 512)
}

/// Starts the process that does it.
fn start(layers: &[PathBuf]) -> Result<Child, String> {
    let name = |layer: Option<&PathBuf>| layer.map(|layer| layer.display().to_string()).unwrap_or_default();
    let ends = [name(layers.first()), name(layers.last())];
    let words = ["device", "block", "--merge"].map(str::to_owned).into_iter().chain(ends);
    let spawn = Spawn::tool(words.collect(), Signal::SIGKILL);
    host("start the block program", spawn.start_piped(Path::new("."))).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_are_merged_often_and_large_ones_seldom() {
        assert_eq!(how_many(&[1; BEGIN - 1]), None);
        assert_eq!(how_many(&[1; BEGIN]), Some(BEGIN));
        let mut sizes = vec![1; BEGIN];
        sizes[40] = 41;
        assert_eq!(how_many(&sizes), Some(40));
        sizes[40] = 40;
        assert_eq!(how_many(&sizes), Some(BEGIN));
        // Always of the same size: chains stay short, and little is copied.
        let (mut chain, mut copied, mut saved): (Vec<u64>, u64, u64) = (vec![], 0, 0);
        for _ in 0..100_000 {
            chain.insert(0, 10);
            saved += 10;
            if let Some(count) = how_many(&chain) {
                let sum: u64 = chain.drain(..count).sum();
                copied += sum;
                chain.insert(0, sum);
            }
            assert!(chain.len() <= BEGIN + 20, "{}", chain.len());
        }
        assert!(copied < saved * 14, "{copied} of {saved}");
    }

    /// The program that tests run in knows nothing of layers.
    #[test]
    fn a_failure_is_told_and_it_is_tried_again_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut disks =
            Disks::with_layers("d0", (0..60).map(|n| directory.path().join(format!("{n}"))).collect());
        let mut merging = Merging::default();
        merging.attend(&mut disks, true);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while merging.is_hopeful() {
            assert!(std::time::Instant::now() < deadline);
            merging.attend(&mut disks, true);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(disks.depth(), 60);
        merging.attend(&mut disks, true);
        assert!(merging.running.is_none(), "not at once");
        assert!(merging.take_failure().is_some_and(|why| !why.is_empty()));
        merging.attend(&mut disks, true);
        assert!(merging.running.is_some());
    }
}
