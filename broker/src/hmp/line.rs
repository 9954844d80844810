//! Reading command lines: plain lines for scripts, an editor with history and completion for terminals.
//!
//! A plain reader sends nothing back. The editor echoes; only moving inside a line needs escape codes.

/// Longest line.
pub const LINE_BYTES_MAX: usize = 4096;
/// Lines kept.
pub const HISTORY_LINES_MAX: usize = 64;

/// What came of a byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do.
    None,
    /// A line is complete.
    Line(String),
    /// TAB: the caller may offer ways to go on with what stands before the cursor.
    Complete(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// ESC was read.
    Start,
    /// ESC [ or ESC O was read, and perhaps digits.
    Sequence(u8),
}

/// Reads lines from bytes.
#[derive(Clone, Debug)]
pub struct LineReader {
    terminal: bool,
    prompt: String,
    line: Vec<u8>,
    cursor: usize,
    escape: Escape,
    after_return: bool,
    too_long: bool,
    history: Vec<String>,
    history_at: usize,
    /// What is to be sent back.
    echo: Vec<u8>,
}

impl LineReader {
    /// A reader; `terminal` makes it echo and edit.
    pub fn new(terminal: bool, prompt: &str) -> LineReader {
        LineReader {
            terminal,
            prompt: prompt.to_owned(),
            line: Vec::new(),
            cursor: 0,
            escape: Escape::None,
            after_return: false,
            too_long: false,
            history: Vec::new(),
            history_at: 0,
            echo: Vec::new(),
        }
    }

    /// Lines entered before, the oldest first.
    pub fn history(&self) -> &[String] {
        &self.history
    }

    /// Takes what has to be sent back.
    pub fn take_echo(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.echo)
    }

    /// Takes one byte of input.
    pub fn feed(&mut self, byte: u8) -> Step {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            // The rest of a telnet or terminal end of line.
            b'\n' | 0 if after_return => Step::None,
            b'\r' | b'\n' => self.finish(),
            _ if self.terminal => self.edit(byte),
            _ => {
                self.push_plain(byte);
                Step::None
            }
        }
    }

    /// Puts `text` in at the cursor, as if it was typed.
    pub fn insert(&mut self, text: &str) {
        for byte in text.bytes() {
            self.insert_byte(byte);
        }
    }

    /// Shows the prompt and what has been typed again.
    pub fn redraw(&mut self) {
        self.echo.extend(b"\r");
        self.echo.extend(self.prompt.as_bytes());
        self.echo.extend(&self.line);
        self.echo.extend(b"\x1b[K");
        self.move_left(self.line.len() - self.cursor);
    }

    fn push_plain(&mut self, byte: u8) {
        if self.line.len() < LINE_BYTES_MAX {
            self.line.push(byte);
        } else {
            self.too_long = true;
        }
    }

    fn finish(&mut self) -> Step {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        self.cursor = 0;
        self.escape = Escape::None;
        if self.terminal {
            self.echo.extend(b"\r\n");
        }
        if std::mem::take(&mut self.too_long) {
            self.echo.extend(b"line too long\r\n");
            return Step::Line(String::new());
        }
        if !line.trim().is_empty() {
            self.history.retain(|old| *old != line);
            self.history.push(line.clone());
            if self.history.len() > HISTORY_LINES_MAX {
                self.history.remove(0);
            }
        }
        self.history_at = self.history.len();
        Step::Line(line)
    }

    fn edit(&mut self, byte: u8) -> Step {
        match std::mem::replace(&mut self.escape, Escape::None) {
            Escape::None => {}
            Escape::Start => {
                match byte {
                    b'[' | b'O' => self.escape = Escape::Sequence(0),
                    b'b' => self.move_to(self.word_start()),
                    _ => {}
                }
                return Step::None;
            }
            Escape::Sequence(number) => {
                match byte {
                    b'0'..=b'9' => {
                        let digit = byte - b'0';
                        self.escape = Escape::Sequence(number.saturating_mul(10).saturating_add(digit));
                    }
                    b';' => self.escape = Escape::Sequence(0),
                    _ => self.escape_key(number, byte),
                }
                return Step::None;
            }
        }
        match byte {
            0x1b => self.escape = Escape::Start,
            0x01 => self.move_to(0),
            0x02 => self.move_to(self.cursor.saturating_sub(1)),
            0x04 if self.cursor < self.line.len() => self.remove(self.cursor, self.cursor + 1),
            0x05 => self.move_to(self.line.len()),
            0x06 => self.move_to((self.cursor + 1).min(self.line.len())),
            b'\t' => return Step::Complete(String::from_utf8_lossy(&self.line[..self.cursor]).into_owned()),
            0x08 | 0x7f if self.cursor > 0 => self.remove(self.cursor - 1, self.cursor),
            0x0b => self.remove(self.cursor, self.line.len()),
            0x0c => self.redraw(),
            0x0e => self.recall(self.history_at.saturating_add(1)),
            0x10 if self.history_at > 0 => self.recall(self.history_at - 1),
            0x15 => self.remove(0, self.cursor),
            0x17 => self.remove(self.word_start(), self.cursor),
            0x20..=0x7e | 0x80.. => self.insert_byte(byte),
            _ => {}
        }
        Step::None
    }

    fn escape_key(&mut self, number: u8, byte: u8) {
        match (byte, number) {
            (b'A', _) if self.history_at > 0 => self.recall(self.history_at - 1),
            (b'B', _) => self.recall(self.history_at.saturating_add(1)),
            (b'C', _) => self.move_to((self.cursor + 1).min(self.line.len())),
            (b'D', _) => self.move_to(self.cursor.saturating_sub(1)),
            (b'H', _) | (b'~', 1 | 7) => self.move_to(0),
            (b'F', _) | (b'~', 4 | 8) => self.move_to(self.line.len()),
            (b'~', 3) if self.cursor < self.line.len() => self.remove(self.cursor, self.cursor + 1),
            _ => {}
        }
    }

    fn word_start(&self) -> usize {
        let before = &self.line[..self.cursor];
        let end = before.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
        before[..end].iter().rposition(|byte| *byte == b' ').map_or(0, |at| at + 1)
    }

    fn insert_byte(&mut self, byte: u8) {
        if self.line.len() == LINE_BYTES_MAX {
            self.echo.push(0x07);
            return;
        }
        self.line.insert(self.cursor, byte);
        self.cursor += 1;
        self.echo.push(byte);
        if self.cursor < self.line.len() {
            self.redraw_tail();
        }
    }

    fn remove(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let at_end = to == self.line.len() && self.cursor == to;
        self.move_to(from);
        self.line.drain(from..to);
        if at_end && to - from == 1 {
            self.echo.extend(b" \x08");
        } else {
            self.redraw_tail();
        }
    }

    /// Shows the line from the cursor on, and clears what stood behind it.
    fn redraw_tail(&mut self) {
        self.echo.extend(&self.line[self.cursor..]);
        self.echo.extend(b"\x1b[K");
        self.move_left(self.line.len() - self.cursor);
    }

    fn move_to(&mut self, cursor: usize) {
        if cursor <= self.cursor {
            self.move_left(self.cursor - cursor);
        } else {
            let bytes = self.line[self.cursor..cursor].to_vec();
            self.echo.extend(bytes);
        }
        self.cursor = cursor;
    }

    fn move_left(&mut self, columns: usize) {
        self.echo.extend(std::iter::repeat_n(0x08, columns));
    }

    /// Puts a line of the history, or at its end an empty one, in place of the line.
    fn recall(&mut self, at: usize) {
        self.history_at = at.min(self.history.len());
        self.line =
            self.history.get(self.history_at).map(|line| line.as_bytes().to_vec()).unwrap_or_default();
        self.cursor = self.line.len();
        self.redraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(reader: &mut LineReader, bytes: &[u8]) -> Vec<String> {
        let steps = bytes.iter().map(|byte| reader.feed(*byte)).collect::<Vec<_>>();
        steps
            .into_iter()
            .filter_map(|step| if let Step::Line(line) = step { Some(line) } else { None })
            .collect()
    }

    #[test]
    fn plain_lines_are_not_echoed() {
        let mut reader = LineReader::new(false, "> ");
        assert_eq!(lines(&mut reader, b"a b\r\nc\nd\r\0e\r"), ["a b", "c", "d", "e"]);
        assert_eq!(reader.take_echo(), b"");
        let long = [&[b'x'; LINE_BYTES_MAX + 1][..], b"\n"].concat();
        assert_eq!(lines(&mut reader, &long), [""]);
        assert_eq!(reader.take_echo(), b"line too long\r\n");
    }

    #[test]
    fn a_terminal_gets_an_echo_without_escape_codes() {
        let mut reader = LineReader::new(true, "> ");
        assert_eq!(lines(&mut reader, b"infp\x7fo\r"), ["info"]);
        assert_eq!(reader.take_echo(), b"infp\x08 \x08o\r\n");
    }

    #[test]
    fn editing_inside_a_line() {
        for (typed, line) in [
            (&b"stap\x1b[D\x1b[D\x7fto\x05\x7f\r"[..], "stoa"),
            (b"abc\x01X\x05Y\r", "XabcY"),
            (b"one two \x17three\r", "one three"),
            (b"one two\x15three\r", "three"),
            (b"abc\x1b[H\x1b[3~\r", "bc"),
            (b"abc\x02\x02\x0b\r", "a"),
            (b"\x7f\x04\x1b[A\x1b[B\x10x\r", "x"),
        ] {
            assert_eq!(lines(&mut LineReader::new(true, "> "), typed), [line]);
        }
    }

    #[test]
    fn history_is_recalled() {
        let mut reader = LineReader::new(true, "> ");
        let typed = b"one\rtwo\r\x1b[A\x1b[A\r\x10\x0e\x10\r";
        assert_eq!(lines(&mut reader, typed), ["one", "two", "one", "one"]);
        assert_eq!(reader.history(), ["two", "one"]);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut reader = LineReader::new(true, "> ");
        let mut state = 1u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            reader.feed((state >> 24) as u8);
            reader.take_echo();
        }
    }
}
