//! Values out of a stream of bytes: one at a time, bounded in length and depth, whatever comes.
//!
//! A value ends where its last bracket closes; no line end is needed. After something that is no JSON the rest of its line is
//! passed over.

use serde_json::Value;

/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of brackets.
const DEPTH_MAX: u32 = 100;

/// What was read.
pub type Read = Result<Value, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between values.
    Outside,
    /// In an object or array.
    Inside,
    /// In a string of one.
    Text,
    /// Behind a backslash in a string.
    Escape,
    /// In something that is neither object nor array; the end of the line ends it.
    Word,
    /// In the rest of a line that is passed over.
    Rubbish,
}

/// Reads values.
#[derive(Debug)]
pub struct Reader {
    state: State,
    depth: u32,
    bytes: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader { state: State::Outside, depth: 0, bytes: Vec::new() }
    }
}

impl Reader {
    /// Takes a byte; a value, or what is wrong, if it is complete with it.
    pub fn feed(&mut self, byte: u8) -> Option<Read> {
        match self.state {
            State::Outside if byte.is_ascii_whitespace() => return None,
            State::Rubbish => {
                if byte == b'\n' {
                    self.state = State::Outside;
                }
                return None;
            }
            State::Word if byte == b'\n' => return Some(self.finish()),
            State::Outside | State::Inside | State::Text | State::Escape | State::Word => {}
        }
        if self.bytes.len() == VALUE_BYTES_MAX {
            return Some(self.give_up(byte, "JSON token size limit exceeded"));
        }
        self.bytes.push(byte);
        self.state = match (self.state, byte) {
            (State::Outside | State::Inside, b'{' | b'[') => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Some(self.give_up(byte, "JSON nesting depth limit exceeded"));
                }
                State::Inside
            }
            (State::Inside, b'}' | b']') => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Some(self.finish());
                }
                State::Inside
            }
            (State::Inside, b'"') => State::Text,
            (State::Text, b'"') | (State::Inside, _) => State::Inside,
            (State::Text, b'\\') => State::Escape,
            (State::Text | State::Escape, _) => State::Text,
            (State::Outside | State::Word | State::Rubbish, _) => State::Word,
        };
        None
    }

    fn finish(&mut self) -> Read {
        let was_word = self.state == State::Word;
        (self.state, self.depth) = (State::Outside, 0);
        let bytes = std::mem::take(&mut self.bytes);
        serde_json::from_slice(&bytes).map_err(|error| {
            // The end of a word's line has been seen already.
            self.state = if was_word { State::Outside } else { State::Rubbish };
            format!("JSON parse error, {error}")
        })
    }

    fn give_up(&mut self, byte: u8, why: &str) -> Read {
        self.state = if byte == b'\n' { State::Outside } else { State::Rubbish };
        self.depth = 0;
        self.bytes = Vec::new();
        Err(why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(bytes: &[u8]) -> Vec<Read> {
        let mut reader = Reader::default();
        bytes.iter().filter_map(|byte| reader.feed(*byte)).collect()
    }

    #[test]
    fn values_end_where_they_end() {
        let found = read(b" {\"a\": \"}\\\"\"} {\"b\":\n[1,{}]}\r\n[]\n5\n\"x\"\n");
        let wanted = [json!({"a": "}\""}), json!({"b": [1, {}]}), json!([]), json!(5), json!("x")];
        assert_eq!(found, wanted.map(Ok));
        assert_eq!(read(b"{\"execute\": "), []);
    }

    #[test]
    fn rubbish_is_one_error_a_line() {
        for rubbish in
            ["nonsense", "]", "{\"a\" 1}", "{a}", "{\"a\":1]", "\u{e9}", "{'a': 1}", "{\"a\":\x01}"]
        {
            let found = read(format!("{rubbish} {{}} more\n{{\"b\":1}}\n").as_bytes());
            assert_eq!(found.len(), 2, "{rubbish}: {found:?}");
            assert!(found[0].as_ref().is_err_and(|why| why.starts_with("JSON parse error")), "{found:?}");
            assert_eq!(found[1], Ok(json!({"b": 1})));
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let mut reader = Reader::default();
        let mut errors = vec![];
        for _ in 0..3 * VALUE_BYTES_MAX {
            errors.extend(reader.feed(b'x'));
            assert!(reader.bytes.capacity() <= 2 * VALUE_BYTES_MAX);
        }
        assert_eq!(errors, [Err("JSON token size limit exceeded".to_owned())]);
        let deep = [vec![b'['; 1_000_000], b"\n{}\n".to_vec()].concat();
        assert_eq!(read(&deep), [Err("JSON nesting depth limit exceeded".to_owned()), Ok(json!({}))]);
        let text = [b"{\"a\":\"".to_vec(), vec![b'"'; 5], vec![b'z'; VALUE_BYTES_MAX]].concat();
        assert_eq!(read(&text).len(), 1);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut reader = Reader::default();
        let mut state = 1u32;
        for _ in 0..300_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (state >> 24) as u8;
            reader.feed(if byte < 200 { b"{}[]\":,\\ \n1a"[usize::from(byte) % 12] } else { byte });
        }
        assert!(reader.feed(b'\n').is_none_or(|read| read.is_err()));
    }
}
