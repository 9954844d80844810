//! What the demo shows: a heading and a ticked line a step, the guest's console between, a spinner on a terminal.

use crate::launch::{HostError, host};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

/// How often the spinner turns.
const SPINNER_STEP: Duration = Duration::from_millis(80);

/// The terminal or file on stdout.
pub struct Screen {
    terminal: bool,
    spinner: ProgressBar,
}

impl Screen {
    /// Nothing is shown yet. Colours and movement only on a terminal.
    pub fn new() -> Screen {
        let terminal = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Screen { terminal, spinner: ProgressBar::hidden() }
    }

    /// Announces a step.
    pub fn begin(&mut self, name: &str, what: &str) -> Result<(), HostError> {
        let heading = if self.terminal { format!("\x1b[1m{name}\x1b[0m") } else { name.to_owned() };
        self.line(&format!("{heading}: {what}"))?;
        if self.terminal && std::io::stderr().is_terminal() {
            // The template is ours; one that indicatif does not take would only look plainer.
            let style = ProgressStyle::with_template("  {spinner} {elapsed_precise}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            self.spinner = ProgressBar::new_spinner().with_style(style);
            self.spinner.enable_steady_tick(SPINNER_STEP);
        }
        Ok(())
    }

    /// A line of text.
    pub fn line(&mut self, text: &str) -> Result<(), HostError> {
        self.spinner.suspend(|| host("write to the terminal", writeln!(stdout(), "{text}")))
    }

    /// Lines of a guest's console.
    pub fn console(&mut self, text: &[u8]) -> Result<(), HostError> {
        for line in String::from_utf8_lossy(text).lines() {
            // The guest is our own, but its memory may be damaged: nothing in it may move the cursor.
            let line: String = line.trim_end().chars().filter(|c| !c.is_control()).collect();
            self.line(&format!("  | {line}"))?;
        }
        Ok(())
    }

    /// A step has held.
    pub fn done(&mut self, what: &str, time: Duration) -> Result<(), HostError> {
        self.spinner.finish_and_clear();
        let tick = if self.terminal { "\x1b[32m✓\x1b[0m" } else { "✓" };
        self.line(&format!("  {tick} {what} ({})\n", seconds(time)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}

/// `0.42 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A number with its digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (12_009_971, "12 009 971")] {
            assert_eq!(grouped(number), text);
        }
    }
}
