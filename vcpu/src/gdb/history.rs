//! What can take a machine back in time.

/// Goes backwards on behalf of a debugger.
///
/// A request only begins it. When the machine has come to a stop in the past, the run loop pauses it as after a step or a
/// breakpoint, and that is what the debugger is told.
pub trait History {
    /// Begins to go back by one instruction; an error is one line for the user.
    fn reverse_step(&mut self) -> Result<(), String>;

    /// Begins to go back to the last stop before this one; an error is one line for the user.
    fn reverse_continue(&mut self) -> Result<(), String>;
}

/// A machine that cannot go back.
#[derive(Debug)]
pub struct NoHistory {
    /// Why it cannot: one line.
    pub why: &'static str,
}

impl History for NoHistory {
    fn reverse_step(&mut self) -> Result<(), String> {
        Err(self.why.to_owned())
    }

    fn reverse_continue(&mut self) -> Result<(), String> {
        Err(self.why.to_owned())
    }
}
