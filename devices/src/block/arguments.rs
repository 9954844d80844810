//! Options that let what a disk holds be kept and had again. Only the broker uses them.

use super::image::Image;
use super::keep::{Keep, Report, Wanted};
use super::restore::{self, Source};
use super::upkeep::Upkeep;
use clap::Args;
use replay::clusters::{self, Changes, ClusterSet};
use replay::inherit;
use std::fs::File;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

/// Largest disk whose contents are kept: sets of its clusters must fit into memory.
const SIZE_MAX: u64 = 64 << 40;

/// The options.
#[derive(Args, Debug, Default)]
pub struct Keeping {
    /// File for the contents of a disk in memory, or for what is written under --snapshot; it outlives this process.
    #[arg(long, value_name = "N", hide = true)]
    contents_fd: Option<RawFd>,
    /// Set of clusters to which every change is added.
    #[arg(long, value_name = "N", hide = true)]
    changed_fd: Option<RawFd>,
    /// Keep what the disk holds now in a new qcow2 image there.
    #[arg(long, value_name = "PATH", hide = true, requires = "report_fd")]
    keep: Option<PathBuf>,
    /// Pipe that is told how that ended.
    #[arg(long, value_name = "N", hide = true)]
    report_fd: Option<RawFd>,
    /// Give the disk the contents of this qcow2 image first.
    #[arg(long, value_name = "PATH", hide = true, conflicts_with = "keep")]
    restore: Option<PathBuf>,
    /// File that is there while the image is half one thing and half another.
    #[arg(long, value_name = "PATH", hide = true, requires = "restore")]
    mark: Option<PathBuf>,
    /// qcow2 image that the disk is equal to, but for the clusters in --due-fd.
    #[arg(long, value_name = "PATH", hide = true, requires = "due_fd")]
    known: Option<PathBuf>,
    /// Set of clusters that are not as in --known.
    #[arg(long, value_name = "N", hide = true, requires = "known")]
    due_fd: Option<RawFd>,
}

fn taken(number: Option<RawFd>) -> Result<Option<File>, String> {
    Ok(number.map(inherit::take).transpose()?.map(File::from))
}

impl Keeping {
    /// The file for contents that outlive this process.
    pub fn contents(&self) -> Result<Option<File>, String> {
        taken(self.contents_fd)
    }

    /// Restores what is to be restored, and begins with the rest. `path`: the image, if it is written to in place.
    pub fn begin(&self, image: &mut Image, path: Option<&Path>) -> Result<Upkeep, String> {
        let unreadable = |error: std::io::Error| format!("cannot read a set of clusters: {error}");
        let due = match taken(self.due_fd)? {
            Some(file) => ClusterSet::read(&file).map_err(unreadable)?,
            None => None,
        };
        if let Some(from) = &self.restore {
            let known = self.known.clone().zip(due.clone());
            let source = Source { from: from.clone(), mark: self.mark.clone(), known };
            restore::restore(image, path, &source)?;
        }
        let (changed, report) = (taken(self.changed_fd)?, taken(self.report_fd)?.map(Report::new));
        if image.size() > SIZE_MAX {
            changed.iter().for_each(clusters::give_up);
            report.into_iter().for_each(|mut report| report.fail("disks of more than 64 TiB are not kept"));
            return Ok(Upkeep::default());
        }
        let changes = changed.map(Changes::new).transpose().map_err(unreadable)?;
        let keep = self.keep.clone().zip(report).and_then(|(place, report)| {
            let over = self.known.clone().filter(|_| due.is_some());
            Keep::begin(Wanted { place, due: due.filter(|_| over.is_some()), over }, image.size(), report)
        });
        Ok(Upkeep { changes, keep })
    }
}
