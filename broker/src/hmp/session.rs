//! One conversation with a monitor: greeting, prompt, lines, answers.

use super::commands::{Context, execute};
use super::host::{Host, Ticket};
use super::line::{LineReader, Step};
use super::table::{COMMANDS, INFO, Row};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is shown when the monitor waits for a command.
pub const PROMPT: &str = "(reprise) ";

/// One conversation.
#[derive(Debug)]
pub struct Session {
    reader: LineReader,
    /// Bytes not looked at yet, because an answer is still to come.
    unread: VecDeque<u8>,
    waiting: Option<Ticket>,
    ended: bool,
    out: Vec<u8>,
    terminal: bool,
    /// When the way to a place was shown last, and whether it stands on the line.
    shown: Option<Instant>,
}

/// Input that is kept while an answer is outstanding.
const UNREAD_BYTES_MAX: usize = 1 << 16;
/// ^C on a terminal.
const INTERRUPT: u8 = 3;
/// Time between two looks at the way to a place; shorter ways are not shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(400);

impl Session {
    /// A conversation with a terminal (echo, editing) or a script (plain lines).
    pub fn new(terminal: bool) -> Session {
        Session {
            reader: LineReader::new(terminal, PROMPT),
            unread: VecDeque::new(),
            waiting: None,
            ended: false,
            out: Vec::new(),
            terminal,
            shown: None,
        }
    }

    /// The banner and the first prompt.
    pub fn greet(&mut self) {
        self.put(concat!(
            "reprise ",
            env!("CARGO_PKG_VERSION"),
            " monitor - type 'help' for more information\n"
        ));
        self.put(PROMPT);
    }

    /// Takes what is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// More input can be taken: no answer is outstanding.
    pub fn wants_input(&self) -> bool {
        self.waiting.is_none() && !self.ended
    }

    /// There is room for more input, which may wait for an answer that is outstanding.
    pub fn has_room(&self) -> bool {
        !self.ended && self.unread.len() < UNREAD_BYTES_MAX
    }

    /// Takes input and carries out the lines in it. On a terminal, ^C while an answer is outstanding stops the machine, and
    /// with it the way to a place.
    pub fn input(&mut self, bytes: &[u8], host: &mut dyn Host) {
        let interrupt = bytes.iter().rposition(|byte| *byte == INTERRUPT);
        match interrupt.filter(|_| self.terminal && self.waiting.is_some()) {
            Some(at) => {
                self.unread.clear();
                self.unread.extend(&bytes[at + 1..]);
                if let Err(why) = host.stop() {
                    self.put(&format!("Error: {why}\n"));
                }
            }
            None => self.unread.extend(bytes),
        }
        self.proceed(host);
    }

    /// Shows on a terminal how far the machine is on its way to the place that this conversation waits for.
    pub fn tick(&mut self, host: &dyn Host, now: Instant) {
        let progress = host.seek_progress().filter(|(ticket, ..)| self.waiting == Some(*ticket));
        let Some((_, icount, goal)) = progress.filter(|_| self.terminal) else { return };
        if *self.shown.get_or_insert(now) + PROGRESS_INTERVAL > now {
            return;
        }
        self.shown = Some(now);
        let of = goal.map(|goal| format!(" of {goal}")).unwrap_or_default();
        self.put(&format!("\rat instruction {icount}{of}; ^C stops here\x1b[K"));
    }

    /// A request is done: its answer ends here, and the next line is read.
    pub fn ticket_done(&mut self, ticket: Ticket, host: &mut dyn Host) {
        if self.waiting == Some(ticket) {
            self.waiting = None;
            if self.shown.take().is_some() {
                self.put("\r\x1b[K");
            }
            if let Some(text) = host.take_text(ticket) {
                self.put(&text);
            }
            if let Some(why) = host.take_failure(ticket) {
                self.put(&format!("Error: {why}\n"));
            }
            self.put(PROMPT);
            self.proceed(host);
        }
    }

    fn proceed(&mut self, host: &mut dyn Host) {
        while self.wants_input() {
            let Some(byte) = self.unread.pop_front() else { return };
            let step = self.reader.feed(byte);
            let echo = self.reader.take_echo();
            self.out.extend(echo);
            match step {
                Step::None => {}
                Step::Line(line) => self.run(&line, host),
                Step::Complete(text) => self.complete(&text),
            }
        }
    }

    fn run(&mut self, line: &str, host: &mut dyn Host) {
        let mut context =
            Context { host, history: self.reader.history(), out: String::new(), wait: None, ended: false };
        execute(&mut context, line);
        let Context { out, wait, ended, .. } = context;
        self.put(&out);
        self.waiting = wait;
        self.ended = ended;
        if self.wants_input() {
            self.put(PROMPT);
        }
    }

    /// Offers the names that begin with the word before the cursor.
    fn complete(&mut self, before: &str) {
        let (rows, word) = match before.trim_start().split_once(' ') {
            None => (COMMANDS, before.trim_start()),
            Some(("help" | "?", word)) => (COMMANDS, word),
            Some(("info", word)) => (INFO, word),
            Some(_) => return,
        };
        let names = names_with(rows, word);
        let Some(shared) = shared_beginning(&names) else { return };
        match names.len() {
            1 => self.reader.insert(&format!("{} ", &shared[word.len()..])),
            _ if shared.len() > word.len() => self.reader.insert(&shared[word.len()..]),
            _ => {
                self.put("\n");
                self.put(&format!("{}\n", names.join(" ")));
                self.reader.redraw();
            }
        }
        let echo = self.reader.take_echo();
        self.out.extend(echo);
    }

    /// Lines end with CR LF, as QEMU's do.
    fn put(&mut self, text: &str) {
        self.out.extend(text.replace('\n', "\r\n").into_bytes());
    }
}

fn names_with(rows: &'static [Row], word: &str) -> Vec<&'static str> {
    rows.iter().flat_map(|row| row.names).copied().filter(|name| name.starts_with(word)).collect()
}

fn shared_beginning<'a>(names: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = names.split_first()?;
    let length = rest.iter().fold(first.len(), |length, name| {
        first.bytes().zip(name.bytes()).take(length).take_while(|(a, b)| a == b).count()
    });
    Some(&first[..length])
}

/// `2026-11-20 21:33:54`, in UTC.
pub fn date_text(unix_s: i64) -> String {
    let (mut days, second) = (unix_s.div_euclid(86400), unix_s.rem_euclid(86400));
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // Whole periods of 400 years first, so that no date loops long.
    let mut year = 1970 + days.div_euclid(146_097) * 400;
    days = days.rem_euclid(146_097);
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        month += 1;
        if days < length {
            break;
        }
        days -= length;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{:02}", days + 1, second % 60)
}

/// `20261120213354`, in UTC.
pub fn date_digits(unix_s: i64) -> String {
    date_text(unix_s).chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(crate) mod tests;
