//! `reprise commit`: what the guest wrote to the disks of a recording goes into their base images.
//!
//! The merging is done by the block program. Here it is made sure that the base is still what the layer lies over.

use crate::cli::{CliError, id};
use crate::disk_images;
use crate::launch::host;
use crate::launch::spawn::Spawn;
use crate::run::RunError;
use crate::snapshots::disks::present_layer;
use nix::sys::signal::Signal;
use replay::manifest::DiskIdentity;
use replay::recording::Recording;
use std::path::{Path, PathBuf};

/// Merges the layers of a recording, or that of one disk.
pub fn commit(path: &Path, only: Option<&str>) -> Result<(), RunError> {
    let recording = Recording::open(path)?;
    // Nobody records while we read, and nobody merges the same layer.
    let _lock = recording.lock()?;
    let layers = layers(&recording, only)?;
    for (disk, _) in &layers {
        check_base(disk)?;
    }
    for (disk, layer) in &layers {
        let (copied, zeroed) = merge(disk, layer)?;
        println!(
            "{}: {copied} bytes written and {zeroed} bytes made zero in '{}'; a replay of {} would see the changed \
             image: keep one from before, and give it with -drive",
            disk.id,
            disk.path,
            path.display()
        );
    }
    Ok(())
}

/// The disks that were written to, and their layers.
fn layers<'a>(
    recording: &'a Recording,
    only: Option<&str>,
) -> Result<Vec<(&'a DiskIdentity, PathBuf)>, CliError> {
    let disks = &recording.manifest().disks;
    if let Some(id) = only
        && !disks.iter().any(|disk| disk.id == id)
    {
        let names: Vec<&str> = disks.iter().map(|disk| disk.id.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(CliError(format!("--disk {id}: the recording has no such disk; it has: {names}")));
    }
    let wanted = disks.iter().filter(|disk| only.is_none_or(|id| disk.id == id));
    for disk in disks {
        // It becomes the name of a file.
        id::check("disk", &disk.id).map_err(CliError)?;
    }
    let directory = recording.disks_path();
    let layer = |disk: &'a DiskIdentity| Ok((disk, present_layer(&directory, &disk.id).map_err(CliError)?));
    let found: Vec<_> = wanted.map(layer).collect::<Result<_, CliError>>()?;
    let found: Vec<_> = found.into_iter().filter(|(_, layer)| layer.exists()).collect();
    if found.is_empty() {
        let path = recording.path().display();
        return Err(CliError(format!(
            "{path}: no layer of a disk to commit: the guest could not write to any"
        )));
    }
    Ok(found)
}

/// Fails when the base is not what the guest saw.
pub(crate) fn check_base(recorded: &DiskIdentity) -> Result<(), CliError> {
    let found = disk_images::identify(&recorded.id, Path::new(&recorded.path), Some(&recorded.format))?;
    let changed = [
        ("size", recorded.file_bytes != found.file_bytes || recorded.bytes != found.bytes),
        ("time of change", recorded.modified_unix_ns != found.modified_unix_ns),
        ("backing image", recorded.backing != found.backing),
    ];
    match changed.iter().find(|(_, changed)| *changed) {
        None => Ok(()),
        Some((what, _)) => Err(CliError(format!(
            "disk '{}': '{}' has another {what} than when the recording began; what was written over it then is not \
             committed to it",
            recorded.id, recorded.path
        ))),
    }
}

/// Lets the block program merge; returns the bytes it has copied and those it has made zero.
fn merge(disk: &DiskIdentity, layer: &Path) -> Result<(u64, u64), RunError> {
    let id = &disk.id;
    let words = ["device", "block", "--commit-chain"].map(str::to_owned).into_iter();
    let words = words.chain([layer.display().to_string(), disk.path.clone(), disk.format.clone()]);
    let spawn = Spawn::tool(words.collect(), Signal::SIGTERM);
    let child = host("start the block program", spawn.start_piped(Path::new(".")))?;
    let output = host("wait for the block program", child.wait_with_output())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let why = said.trim().trim_start_matches("reprise device: ");
        return Err(RunError::Tool(format!("disk '{id}': {why}")));
    }
    read_report(&output.stdout)
        .ok_or_else(|| RunError::Tool(format!("disk '{id}': the block program did not say what it did")))
}

fn read_report(text: &[u8]) -> Option<(u64, u64)> {
    let report: serde_json::Value = serde_json::from_slice(text).ok()?;
    Some((report.get("copied-bytes")?.as_u64()?, report.get("zeroed-bytes")?.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use replay::manifest::{Manifest, example};
    use replay::recording::Replace;

    /// A recording with one disk over `base`.
    fn recording(place: &Path, base: &Path) -> Recording {
        let disks = vec![disk_images::identify("x", base, None).unwrap()];
        let recording = Recording::create(place, Replace::Yes, Manifest { disks, ..example() }).unwrap();
        recording.create_log().unwrap();
        drop(recording);
        Recording::open(place).unwrap()
    }

    #[test]
    fn only_what_still_fits_is_committed() {
        let directory = tempfile::tempdir().unwrap();
        let (base, place) = (directory.path().join("base"), directory.path().join("r"));
        std::fs::write(&base, vec![0; 4096]).unwrap();
        let recording = recording(&place, &base);
        let line = |only: Option<&str>| commit(&place, only).unwrap_err().to_string();
        assert!(line(None).ends_with("no layer of a disk to commit: the guest could not write to any"));
        assert_eq!(line(Some("y")), "--disk y: the recording has no such disk; it has: x");
        std::fs::create_dir(recording.disks_path()).unwrap();
        std::fs::write(recording.disks_path().join("x.qcow2"), "").unwrap();
        assert_eq!(check_base(&recording.manifest().disks[0]), Ok(()));
        let lock = recording.lock().unwrap();
        assert!(line(None).contains("being written by another process"));
        drop(lock);
        std::fs::write(&base, vec![0; 8192]).unwrap();
        assert!(line(None).contains("another size than when the recording began"), "{}", line(None));
        std::fs::write(&base, vec![0; 4096]).unwrap();
        let message = line(Some("x"));
        assert!(message.contains("another time of change"), "{message}");
    }

    #[test]
    fn what_the_block_program_says() {
        let text = br#"{"base":"/d","copied-bytes":4096,"zeroed-bytes":512}"#;
        assert_eq!(read_report(text), Some((4096, 512)));
        assert_eq!(read_report(b"merged"), None);
    }
}
