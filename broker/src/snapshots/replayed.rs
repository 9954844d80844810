//! Layers of a replay that is asked to keep snapshots for the next one.
//!
//! They are beside its snapshots, never in the recording. A save freezes them, as in a recording. What no snapshot names is removed at
//! the end of the run, or by the next one.

use super::kept_file::{self, Lock};
use super::work;
use crate::launch::plan::{Plan, Replayed, Top};
use nix::unistd::{AccessFlags, access};
use replay::device::{DeviceKind, Image};
use replay::store::Store;

/// Gives every disk that the guest writes to a first layer; none: there is none, or one is in memory and has no layers. The error is a
/// line for the user.
pub fn begin(plan: &mut Plan, own: &Store) -> Result<Option<Replayed>, String> {
    let run = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    let directory = own.root().join(kept_file::DIRECTORY);
    let mut tops = plan.tops.clone();
    for (index, device) in plan.machine.devices.iter().enumerate() {
        let DeviceKind::Block(disk) = &device.kind else { continue };
        let (path, format) = match &disk.image {
            Image::File { path, format } if !disk.read_only => (path, format),
            Image::Memory { .. } if !disk.read_only => return Ok(None),
            Image::File { .. } | Image::Memory { .. } | Image::Null { .. } => continue,
        };
        let image = || Top { image: path.clone(), format: format.clone().unwrap_or_default(), layer: None };
        let top = tops.entry(index as u16).or_insert_with(image);
        top.layer = Some(directory.join(format!("{}.{run}.1.qcow2", device.id)));
    }
    if tops.values().all(|top| top.layer.is_none()) {
        return Ok(None);
    }
    work::remove_unneeded_images(own, vec![], false)?;
    let lock = Lock::shared(&directory)?;
    let writable = access(&directory, AccessFlags::W_OK);
    writable.map_err(|errno| format!("cannot write to '{}': {}", directory.display(), errno.desc()))?;
    plan.tops = tops;
    Ok(Some(Replayed { directory, run, lock }))
}
