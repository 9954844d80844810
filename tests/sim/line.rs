//! A console back-end without a process: what the host sees of one serial line.

use replay::event::{Payload, UsedEntry};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use vcpu::run::consoles::BackEnd;
use vcpu::window::WindowError;
use vcpu::window::session::Session;

/// Used entries that one call to `receive` gives: a window's ring holds no more.
const ENTRIES_MAX: usize = 32;
/// Bytes of one receive buffer.
const ENTRY_BYTES: usize = 256;

/// The state of a line.
#[derive(Default)]
pub struct State {
    /// What the guest has sent.
    pub output: Vec<u8>,
    /// What the host has sent and the vCPU has not taken.
    incoming: VecDeque<UsedEntry>,
    /// A receive left something: the buffers it freed are filled and signalled at once.
    pub signals: bool,
    /// The vCPU has asked for input.
    pub receives: bool,
    /// The back-end is gone once it has taken this many bytes.
    pub dies_after: Option<usize>,
}

/// One end of a line; both ends are in this thread.
#[derive(Clone, Default)]
pub struct Line(pub Rc<RefCell<State>>);

impl Line {
    /// The host types; no bytes are a break condition.
    pub fn type_in(&self, bytes: &[u8]) {
        let incoming = &mut self.0.borrow_mut().incoming;
        if bytes.is_empty() {
            incoming.push_back(UsedEntry { id: 0, len: 0, payload: Payload::Data(vec![]) });
        }
        incoming.extend(bytes.chunks(ENTRY_BYTES).map(|part| UsedEntry {
            id: 0,
            len: part.len() as u32,
            payload: Payload::Data(part.to_vec()),
        }));
    }

    /// Nothing typed waits for the vCPU.
    pub fn is_taken(&self) -> bool {
        self.0.borrow().incoming.is_empty()
    }
}

impl BackEnd for Line {
    fn transmit(&mut self, bytes: &[u8]) -> Result<usize, WindowError> {
        let mut state = self.0.borrow_mut();
        if state.dies_after.is_some_and(|count| state.output.len() >= count) {
            return Err(WindowError::Gone { device: "serial".to_owned() });
        }
        state.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn receive(&mut self) -> Result<Vec<UsedEntry>, WindowError> {
        let mut state = self.0.borrow_mut();
        let count = state.incoming.len().min(ENTRIES_MAX);
        state.signals = state.incoming.len() > count;
        Ok(state.incoming.drain(..count).collect())
    }

    fn drain(&mut self, _timeout: Duration) -> Result<bool, WindowError> {
        Ok(true)
    }

    fn reconnect(&mut self, _session: Session) -> Result<(), WindowError> {
        Ok(())
    }

    fn start_receiving(&mut self) -> Result<(), WindowError> {
        self.0.borrow_mut().receives = true;
        Ok(())
    }
}
