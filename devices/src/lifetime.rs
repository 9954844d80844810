//! How a device program ends: signals, and what must be undone on every way out.
//!
//! Terminals are set back and socket files removed by `clean_up`, which every way out calls: return from the
//! main function, a signal, a panic. Signals are taken by one thread with sigwait, so no handler runs anywhere.

use nix::sys::signal::{SigSet, Signal};
use std::panic;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use vhost_user_backend::ShutdownHandle;

use crate::chardev::terminal;

static SOCKET_FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Notes a socket file that must not outlive the process.
pub fn remove_at_end(path: PathBuf) {
    SOCKET_FILES.lock().unwrap_or_else(PoisonError::into_inner).push(path);
}

/// Undoes what other processes would see after our end. May be called more than once.
pub fn clean_up() {
    terminal::restore();
    for path in SOCKET_FILES.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // The file may be gone already; there is nobody left to tell.
        let _ = std::fs::remove_file(path);
    }
}

/// Lets a signal end a server, from before it has a front-end until it has none.
#[derive(Clone, Default)]
pub struct Stop {
    state: Arc<StopState>,
}

#[derive(Default)]
struct StopState {
    serving: Mutex<Option<ShutdownHandle>>,
    requested: AtomicBool,
}

impl Stop {
    /// The server has a front-end; from here on a stop goes through `handle`.
    pub fn serving(&self, handle: Option<ShutdownHandle>) {
        *self.state.serving.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    /// Ends the server. Before it serves, or at the second request, there is nothing to finish: the
    /// process ends here.
    pub fn request(&self) {
        let again = self.state.requested.swap(true, Ordering::SeqCst);
        let serving = self.state.serving.lock().unwrap_or_else(PoisonError::into_inner);
        match serving.as_ref() {
            Some(handle) if !again => handle.shutdown(),
            _ => {
                clean_up();
                process::exit(0);
            }
        }
    }

    /// Hangs up on the front-end because the device failed.
    pub fn abandon(&self) {
        let serving = self.state.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = serving.as_ref() {
            handle.shutdown();
        }
    }
}

/// Takes over the signals of the process. Must run before other threads start: they inherit the mask.
///
/// A supervised device leaves the terminal's signals to the broker, which gets the same ones.
pub fn handle_signals(stop: Stop, supervised: bool) -> Result<(), String> {
    let mut taken = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCONT] {
        taken.add(signal);
    }
    let mut blocked = taken;
    // A file that may not grow is an error of the write, and no more.
    blocked.add(Signal::SIGXFSZ);
    blocked.thread_block().map_err(|error| format!("cannot block signals: {}", error.desc()))?;
    exit_on_panic();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            loop {
                match taken.wait() {
                    Ok(Signal::SIGTERM) => stop.request(),
                    Ok(Signal::SIGCONT) => terminal::make_raw_again(),
                    Ok(_) if supervised => {}
                    Ok(_) => stop.request(),
                    Err(_) => {}
                }
            }
        })
        .map(drop)
        .map_err(|error| format!("cannot start the signal thread: {error}"))
}

/// A panic in any thread ends the process, after the terminal was set back so that the message is readable.
fn exit_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        clean_up();
        print(info);
        process::exit(101);
    }));
}
