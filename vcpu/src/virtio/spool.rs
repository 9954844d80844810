//! Answers of a device that runs its requests again in a replay, kept for when the guest is taken back.

use super::back_end::Tag;
use crate::window::WindowError;
use crate::window::requests::Done;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where one answer is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    bytes: u32,
    length: u32,
}

/// All answers so far, in a file without a name.
#[derive(Debug)]
pub struct Spool {
    file: File,
    end: u64,
    /// By number of the request.
    entries: Vec<Option<Entry>>,
    /// Requests that were handed to the device.
    frontier: u64,
}

fn failed(source: io::Error) -> WindowError {
    WindowError::Host { device: "replay".into(), what: "keep a device's answers", source }
}

impl Spool {
    /// An empty one.
    pub fn new() -> io::Result<Spool> {
        Ok(Spool { file: tempfile::tempfile()?, end: 0, entries: Vec::new(), frontier: 0 })
    }

    /// Whether the device has not had this request yet; it is about to get it.
    pub fn is_new(&mut self, number: u64) -> bool {
        let new = number >= self.frontier;
        self.frontier = self.frontier.max(number + 1);
        new
    }

    /// Whether the device has had as many requests as a guest that has made this many.
    pub fn is_at(&self, submitted: u64) -> bool {
        self.frontier == submitted
    }

    /// The guest, and the device with it, was put to where it has made this many requests.
    pub fn begin_at(&mut self, frontier: u64) {
        // What comes after is answered once more, and what was before is out of the device's reach.
        self.entries.clear();
        (self.end, self.frontier) = (0, frontier);
    }

    /// Keeps an answer.
    pub fn put(&mut self, done: Done<Tag>) -> Result<(), WindowError> {
        let index = usize::try_from(done.tag.number).expect("fewer requests than bytes of address space");
        if self.entries.len() <= index {
            self.entries.resize(index + 1, None);
        }
        self.file.write_all_at(&done.bytes, self.end).map_err(failed)?;
        let bytes = done.bytes.len() as u32;
        self.entries[index] = Some(Entry { at: self.end, bytes, length: done.length });
        self.end += u64::from(bytes);
        Ok(())
    }

    /// The answer to a request, if it is there yet.
    pub fn get(&mut self, tag: Tag) -> Result<Option<Done<Tag>>, WindowError> {
        let entry = usize::try_from(tag.number).ok().and_then(|index| *self.entries.get(index)?);
        let Some(Entry { at, bytes, length }) = entry else { return Ok(None) };
        let mut content = vec![0; bytes as usize];
        self.file.read_exact_at(&mut content, at).map_err(failed)?;
        Ok(Some(Done { tag, length, bytes: content }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_often_as_asked_for() {
        let mut spool = Spool::new().unwrap();
        let tag = |number| Tag { queue: 0, head: 3, life: 0, number };
        assert!(spool.is_new(0) && spool.is_new(1) && !spool.is_new(0));
        spool.put(Done { tag: tag(1), length: 2, bytes: b"abc".to_vec() }).unwrap();
        assert_eq!(spool.get(tag(0)).unwrap(), None);
        for _ in 0..2 {
            let done = spool.get(tag(1)).unwrap().unwrap();
            assert_eq!((done.length, &done.bytes[..]), (2, &b"abc"[..]));
        }
    }
}
