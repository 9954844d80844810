//! What a disk held at one moment, kept while it goes on being written to: copy before write.
//!
//! Clusters are copied to a new image, in order, between requests; one that is about to be changed is copied before. The new image
//! appears in its place when it is whole and safe on the host's disk. A failure ends the copying and is reported; the disk
//! itself notices nothing of it.

use super::image::Image;
use super::layer::{self, BaseName};
use super::lock::Use;
use super::open::{self, Format};
use replay::clusters::{CLUSTER, ClusterSet, KEPT};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use tempfile::TempPath;

/// Looks at places without data in one step.
const LOOKS_MAX: u32 = 64;

/// Tells who asked how it ended.
#[derive(Debug)]
pub struct Report(Option<File>);

impl Report {
    /// To a pipe.
    pub fn new(pipe: File) -> Report {
        Report(Some(pipe))
    }

    fn say(&mut self, text: &str) {
        if let Some(mut pipe) = self.0.take() {
            // Whoever asked may be gone.
            let _ = pipe.write_all(text.as_bytes());
        }
    }

    /// It was not kept.
    pub fn fail(&mut self, why: &str) {
        self.say(&format!("{why}\n"));
    }
}

/// What is to be kept.
#[derive(Debug)]
pub struct Wanted {
    /// Where the new image is to appear.
    pub place: PathBuf,
    /// The image that holds what is not copied.
    pub over: Option<PathBuf>,
    /// The clusters that are not as in that one; without it all are copied.
    pub due: Option<ClusterSet>,
}

/// A copy that is being made.
pub struct Keep {
    copy: Image,
    temporary: TempPath,
    place: PathBuf,
    is_over: bool,
    due: Option<ClusterSet>,
    /// All before this cluster are done.
    next: u64,
    /// Done behind it, because they were about to be changed.
    ahead: ClusterSet,
    buffer: Vec<u8>,
    report: Report,
}

impl Keep {
    /// Makes an empty image for a disk of `size` bytes. If that fails, it is reported, too.
    pub fn begin(wanted: Wanted, size: u64, mut report: Report) -> Option<Keep> {
        match make(&wanted, size) {
            Ok((copy, temporary)) => Some(Keep {
                copy,
                temporary,
                is_over: wanted.over.is_some(),
                place: wanted.place,
                due: wanted.due,
                next: 0,
                ahead: ClusterSet::default(),
                buffer: vec![0; CLUSTER as usize],
                report,
            }),
            Err(why) => {
                report.fail(&why);
                None
            }
        }
    }

    /// Copies what is about to be changed.
    pub fn before_change(&mut self, image: &mut Image, clusters: std::ops::Range<u64>) -> io::Result<()> {
        let mut at = clusters.start.max(self.next);
        while let Some(cluster) = self.due_from(at).filter(|cluster| *cluster < clusters.end) {
            at = self.pass_zeros(image, cluster)?.min(clusters.end);
            for done in cluster..at {
                self.ahead.insert(done);
            }
            if at == cluster {
                self.copy(image, cluster)?;
                self.ahead.insert(cluster);
                at += 1;
            }
        }
        Ok(())
    }

    /// Copies one cluster with data, or passes places without; true: all is copied.
    pub fn step(&mut self, image: &mut Image) -> io::Result<bool> {
        for _ in 0..LOOKS_MAX {
            let clusters = self.copy.size().div_ceil(CLUSTER);
            let Some(cluster) = self.due_from(self.next).filter(|cluster| *cluster < clusters) else {
                return Ok(true);
            };
            self.next = self.pass_zeros(image, cluster)?;
            if self.next == cluster {
                self.copy(image, cluster)?;
                self.next += 1;
                self.ahead.forget_before(self.next);
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// The first cluster from `from` on that is still to be copied.
    fn due_from(&self, from: u64) -> Option<u64> {
        let mut at = from;
        loop {
            at = match &self.due {
                Some(due) => due.next(at)?,
                None => at,
            };
            if !self.ahead.contains(at) {
                return Some(at);
            }
            at += 1;
        }
    }

    /// The first cluster from `cluster` on that must be copied, as far as this can be told without reading. Zeros are those of a new
    /// image, unless another one lies below it.
    fn pass_zeros(&self, image: &Image, cluster: u64) -> io::Result<u64> {
        let offset = cluster * CLUSTER;
        let rest = self.copy.size() - offset;
        if self.is_over {
            return Ok(cluster);
        }
        match image.zeros_at(offset, rest)? {
            zeros if zeros == rest => Ok(self.copy.size().div_ceil(CLUSTER)),
            zeros => Ok(cluster + zeros / CLUSTER),
        }
    }

    fn copy(&mut self, image: &mut Image, cluster: u64) -> io::Result<()> {
        let offset = cluster * CLUSTER;
        let length = CLUSTER.min(self.copy.size() - offset);
        let bytes = &mut self.buffer[..length as usize];
        if image.zeros_at(offset, length)? < length {
            image.read_bytes(bytes, offset)?;
        } else {
            bytes.fill(0);
        }
        match bytes.iter().any(|byte| *byte != 0) {
            true => self.copy.write_bytes(bytes, offset),
            false if self.is_over => self.copy.write_zeroes(offset, length, true),
            false => Ok(()),
        }
    }

    /// All is copied: makes it safe and puts it in its place, in a thread, because a host's disk may take long.
    pub fn complete(self) {
        let Keep { copy, temporary, place, mut report, .. } = self;
        let work = move || match put_in_place(copy, temporary, &place) {
            Ok(()) => report.say(KEPT),
            Err(error) => report.fail(&format!("cannot write '{}': {error}", place.display())),
        };
        // Without a thread the report ends without a word, which is a failure, too.
        let _ = thread::Builder::new().name("keep".into()).spawn(work);
    }

    /// Gives up.
    pub fn fail(mut self, why: &str) {
        self.report.fail(&format!("cannot write '{}': {why}", self.place.display()));
    }
}

fn put_in_place(mut copy: Image, temporary: TempPath, place: &Path) -> io::Result<()> {
    copy.flush(true)?;
    // Nobody writes to it from here on: others may lock it.
    drop(copy);
    temporary.persist_noclobber(place).map_err(|error| error.error)?;
    layer::sync_directory(place)
}

fn make(wanted: &Wanted, size: u64) -> Result<(Image, TempPath), String> {
    let below = match &wanted.over {
        None => None,
        Some(path) => {
            let image = open::open(path, Some(Format::Qcow2), Use::Read)?;
            if image.size() != size {
                return Err(format!("'{}' is of a disk of another size", path.display()));
            }
            let name = BaseName::of_file(path, Format::Qcow2)?.seen_from(&wanted.place);
            Some((image, name))
        }
    };
    layer::create_part(&wanted.place, size, below)
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
