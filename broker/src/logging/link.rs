//! Tells the processes of a running tree what to log from now on.
//!
//! Each child has one end of a pair of sockets and a thread that waits on it: a process that only serves its rings need not look
//! for messages, and none is disturbed. A message is the settings as JSON; the answer is its number.

use super::{LogSettings, apply};
use crate::launch::{HostError, host};
use nix::sys::signal::SigSet;
use replay::inherit;
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::thread;

/// Environment variable with the number of a child's descriptor.
pub const VARIABLE: &str = "REPRISE_LOG_LINK";
/// More than any message.
const MESSAGE_BYTES_MAX: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
struct Message {
    number: u64,
    settings: LogSettings,
}

/// The broker's end.
#[derive(Debug)]
pub struct Link {
    socket: UnixDatagram,
    told: u64,
    heard: u64,
}

impl Link {
    /// Both ends; the second is the child's.
    pub fn pair() -> Result<(Link, UnixDatagram), HostError> {
        let (ours, theirs) = host("make a socket pair", UnixDatagram::pair())?;
        host("set up a socket pair", ours.set_nonblocking(true))?;
        Ok((Link { socket: ours, told: 0, heard: 0 }, theirs))
    }

    /// Sends settings. One that takes none any more is at its end, or is stopped and gets the next ones.
    pub fn tell(&mut self, settings: &LogSettings) {
        self.told += 1;
        let message = Message { number: self.told, settings: settings.clone() };
        let sent = serde_json::to_vec(&message).map(|bytes| self.socket.send(&bytes));
        if let Ok(Err(error)) = sent {
            tracing::debug!("a process is not told what to log: {error}");
        }
    }

    /// Whether all that was sent is in effect.
    pub fn has_heard(&mut self) -> bool {
        let mut number = [0; 8];
        while let Ok(8) = self.socket.recv(&mut number) {
            self.heard = self.heard.max(u64::from_le_bytes(number));
        }
        self.heard >= self.told
    }
}

/// In a child: waits for settings from here on, if the broker has given it an end.
pub fn listen() {
    let number = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<RawFd>().ok());
    let Some(socket) = number.and_then(|number| inherit::take(number).ok()) else { return };
    // The process's signals are not this thread's: it has them blocked from its first moment on.
    let Ok(mask) = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK) else { return };
    let started = thread::Builder::new().name("log".into()).spawn(move || hear(&UnixDatagram::from(socket)));
    if let Err(error) = started {
        eprintln!("reprise: cannot start a thread for the log: {error}");
    }
    let _ = mask.thread_set_mask();
}

fn hear(socket: &UnixDatagram) {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    while let Ok(count) = socket.recv(&mut bytes) {
        let Ok(message) = serde_json::from_slice::<Message>(&bytes[..count]) else { return };
        if let Err(why) = apply(&message.settings) {
            eprintln!("reprise: {why}");
        }
        if socket.send(&message.number.to_le_bytes()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_all_before_it() {
        let (mut link, theirs) = Link::pair().unwrap();
        assert!(link.has_heard());
        link.tell(&LogSettings::default());
        link.tell(&LogSettings { filter: Some("info".to_owned()), file: None });
        assert!(!link.has_heard());
        for number in [1, 2] {
            let mut bytes = vec![0; MESSAGE_BYTES_MAX];
            let count = theirs.recv(&mut bytes).unwrap();
            let message: Message = serde_json::from_slice(&bytes[..count]).unwrap();
            assert_eq!(message.number, number);
            theirs.send(&message.number.to_le_bytes()).unwrap();
            assert_eq!(link.has_heard(), number == 2);
        }
        drop(theirs);
        link.tell(&LogSettings::default());
        assert!(!link.has_heard());
    }
}
