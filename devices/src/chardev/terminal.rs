//! Raw mode of the user's terminal, and the way back from it.
//!
//! The state is global because every way out of the process must restore it, whichever thread takes it.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr,
    tcsetattr,
};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

struct Saved {
    terminal: OwnedFd,
    original: Termios,
    raw: Termios,
}

static SAVED: Mutex<Vec<Saved>> = Mutex::new(Vec::new());

/// Makes `terminal` raw. `signals`: ^C, ^\ and ^Z keep their meaning for the host.
///
/// Output processing stays on: the monitor and messages of other processes write plain newlines.
pub fn make_raw(terminal: impl AsFd, signals: bool) -> nix::Result<()> {
    let original = tcgetattr(&terminal)?;
    let mut raw = original.clone();
    raw.input_flags.remove(
        InputFlags::IGNBRK
            | InputFlags::BRKINT
            | InputFlags::PARMRK
            | InputFlags::ISTRIP
            | InputFlags::INLCR
            | InputFlags::IGNCR
            | InputFlags::ICRNL
            | InputFlags::IXON,
    );
    raw.output_flags.insert(OutputFlags::OPOST);
    let line_editing = LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::IEXTEN;
    raw.local_flags.remove(line_editing);
    if !signals {
        raw.local_flags.remove(LocalFlags::ISIG);
    }
    raw.control_flags.remove(ControlFlags::CSIZE | ControlFlags::PARENB);
    raw.control_flags.insert(ControlFlags::CS8);
    raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    let owned = terminal.as_fd().try_clone_to_owned().map_err(|_| nix::errno::Errno::EMFILE)?;
    // Saved before it is changed, so that a signal in between finds it.
    let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
    // As the terminal has it: it may not support every flag, and `restore` compares.
    let raw = tcgetattr(&terminal)?;
    saved.push(Saved { terminal: owned, original, raw });
    Ok(())
}

/// Puts terminals back as they were, unless someone else has set them since.
pub fn restore() {
    // From the background a change of the terminal would stop us here, on the way out.
    let mut background_write = SigSet::empty();
    background_write.add(Signal::SIGTTOU);
    let _ = background_write.thread_block();
    for saved in SAVED.lock().unwrap_or_else(PoisonError::into_inner).drain(..).rev() {
        if tcgetattr(&saved.terminal).is_ok_and(|now| now == saved.raw) {
            // A terminal that has gone away needs no restoring.
            let _ = tcsetattr(&saved.terminal, SetArg::TCSANOW, &saved.original);
        }
    }
}

/// After `fg`: the shell has set its own modes while we were stopped.
pub fn make_raw_again() {
    for saved in SAVED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = tcsetattr(&saved.terminal, SetArg::TCSANOW, &saved.raw);
    }
}
