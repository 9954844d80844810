//! What is done beside the requests of a disk so that its contents can be kept and had again.

use super::image::Image;
use super::keep::Keep;
use replay::clusters::{Changes, touched};

/// Nothing, unless a disk is told otherwise.
#[derive(Default)]
pub struct Upkeep {
    /// Notes what changes.
    pub changes: Option<Changes>,
    /// A copy that is being made.
    pub keep: Option<Keep>,
}

impl Upkeep {
    /// Comes before a change of the disk.
    pub fn before_change(&mut self, image: &mut Image, offset: u64, length: u64) {
        let clusters = touched(offset, length);
        if let Some(changes) = &mut self.changes {
            changes.note(clusters.clone());
        }
        let failed = self.keep.as_mut().and_then(|keep| keep.before_change(image, clusters).err());
        self.give_up(failed);
    }

    /// Whether there is something to do between requests.
    pub fn is_busy(&self) -> bool {
        self.keep.is_some()
    }

    /// Does a little of it.
    pub fn step(&mut self, image: &mut Image) {
        match self.keep.as_mut().map(|keep| keep.step(image)) {
            Some(Ok(true)) => {
                if let Some(keep) = self.keep.take() {
                    keep.complete();
                }
            }
            Some(Err(error)) => self.give_up(Some(error)),
            Some(Ok(false)) | None => {}
        }
    }

    fn give_up(&mut self, failed: Option<std::io::Error>) {
        if let Some(error) = failed
            && let Some(keep) = self.keep.take()
        {
            keep.fail(&error.to_string());
        }
    }

    /// The disk is closed.
    pub fn close(&mut self) {
        if let Some(keep) = self.keep.take() {
            keep.fail("the disk was closed before all was copied");
        }
    }
}
