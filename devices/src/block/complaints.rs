//! Lines on stderr about what went wrong while serving, so few that a failing disk does not flood anything.

use std::time::{Duration, Instant};

/// Shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Says what failed, at most once a `PAUSE`.
pub struct Complaints {
    label: String,
    last: Option<Instant>,
    held_back: u64,
}

impl Complaints {
    /// Complaints of the device `label`.
    pub fn new(label: &str) -> Complaints {
        Complaints { label: label.to_string(), last: None, held_back: 0 }
    }

    /// Prints `text`, or counts it.
    pub fn say(&mut self, text: &str) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            self.held_back += 1;
            return;
        }
        self.last = Some(now);
        self.say_held_back();
        eprintln!("reprise device: {}: {text}", self.label);
    }

    /// Says how many were only counted.
    pub fn say_held_back(&mut self) {
        match std::mem::take(&mut self.held_back) {
            0 => {}
            count => eprintln!("reprise device: {}: {count} more requests failed", self.label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_while_one_was_just_said() {
        let mut complaints = Complaints::new("test");
        for _ in 0..5 {
            complaints.say("something failed");
        }
        assert_eq!(complaints.held_back, 4);
        complaints.say_held_back();
        assert_eq!(complaints.held_back, 0);
    }
}
