//! A disk that may be full: what it holds when the machine stops is what was written, torn where it broke.

use replay::log::Storage;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    room: Option<usize>,
    cuts_back: bool,
    is_full: bool,
}

/// Storage of one log; clones show the same bytes.
#[derive(Clone, Default)]
pub struct Disk(Rc<RefCell<State>>);

impl Disk {
    /// A disk that takes `room` bytes; `cuts_back`: a failed write can be undone.
    pub fn new(room: Option<usize>, cuts_back: bool) -> Disk {
        Disk(Rc::new(RefCell::new(State { room, cuts_back, ..State::default() })))
    }

    /// A write has failed.
    pub fn is_full(&self) -> bool {
        self.0.borrow().is_full
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.borrow().bytes.clone()
    }
}

impl Storage for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let left = state.room.map_or(usize::MAX, |room| room - state.bytes.len());
        let fits = bytes.len().min(left);
        state.bytes.extend_from_slice(&bytes[..fits]);
        state.is_full |= fits < bytes.len();
        if state.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        self.0.borrow_mut().bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if !state.cuts_back {
            return Err(io::ErrorKind::Other.into());
        }
        state.bytes.truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
