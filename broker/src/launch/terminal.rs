//! The terminal as it was when we started: given back whatever happened to the process that used it.

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, stdin};

/// Settings of the terminal on stdin, if it is one.
#[derive(Debug)]
pub struct Terminal {
    settings: Option<Termios>,
}

impl Terminal {
    /// Remembers the settings.
    pub fn save() -> Terminal {
        Terminal { settings: if stdin().is_terminal() { tcgetattr(stdin()).ok() } else { None } }
    }

    /// Puts them back.
    pub fn restore(&self) {
        if let Some(settings) = &self.settings {
            // In the background the call would stop us; then the terminal is not ours to change either.
            let foreground =
                nix::unistd::tcgetpgrp(stdin()).is_ok_and(|group| group == nix::unistd::getpgrp());
            if foreground {
                let _ = tcsetattr(stdin(), SetArg::TCSANOW, settings);
            }
        }
    }
}
