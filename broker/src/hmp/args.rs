//! Arguments of monitor commands: words, quoted strings, integer expressions, formats, with QEMU's error lines.

use super::expression;
use super::format::Format;
use super::place::Place;
use replay::inspect::Registers;

/// The kinds of argument in a command's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word or a quoted string.
    Text,
    /// An integer expression.
    Integer,
    /// `/COUNT FORMAT SIZE`; it may always be left out.
    Format,
    /// A letter behind a dash; it may always be left out.
    Switch,
    /// A place on the time line of a replay.
    Place,
    /// What is left of the line.
    Rest,
}

/// One argument in a command's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// It may be left out; then all after it are left out.
    pub optional: bool,
}

/// A needed argument.
pub const fn needs(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, optional: false }
}

/// An argument that may be left out.
pub const fn may(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, optional: true }
}

/// Arguments read from a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    texts: Vec<(&'static str, String)>,
    integers: Vec<(&'static str, i64)>,
    format: Option<Format>,
    place: Option<Place>,
}

/// What arguments may refer to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Registers of the CPU.
    pub registers: Option<&'a Registers>,
    /// The format that was used last.
    pub format: Format,
}

impl Args {
    /// Reads `line` by a command's grammar; `command` is its name and its other names.
    pub fn read(command: &str, grammar: &[Argument], line: &str, known: Known<'_>) -> Result<Args, String> {
        let mut args = Args::default();
        let mut rest = line.trim_start();
        for argument in grammar {
            if rest.is_empty() && argument.optional {
                break;
            }
            match argument.kind {
                Kind::Format => {
                    let (format, after) = known.format.read(rest)?;
                    args.format = Some(format);
                    rest = after.trim_start();
                }
                Kind::Switch => {
                    let Some((letter, after)) = switch(rest) else { continue };
                    if argument.name != letter {
                        return Err(format!("{command}: unsupported option -{letter}"));
                    }
                    args.texts.push((argument.name, String::new()));
                    rest = after.trim_start();
                }
                Kind::Place => {
                    let (place, after) = Place::read(rest, known.registers)?;
                    args.place = Some(place);
                    rest = after.trim_start();
                }
                Kind::Text => {
                    let (text, after) = word(rest).ok_or_else(|| format!("{command}: string expected"))?;
                    args.texts.push((argument.name, text));
                    rest = after.trim_start();
                }
                Kind::Integer => {
                    let (value, after) = expression::read(rest, known.registers)?;
                    args.integers.push((argument.name, value));
                    rest = after.trim_start();
                }
                Kind::Rest => {
                    args.texts.push((argument.name, rest.trim_end().to_owned()));
                    rest = "";
                }
            }
        }
        if rest.is_empty() {
            Ok(args)
        } else {
            Err(format!("{command}: extraneous characters at the end of line"))
        }
    }

    /// A text argument; `None` when it was left out.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str())
    }

    /// An integer argument; `None` when it was left out.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.integers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Whether a switch was given.
    pub fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format.unwrap_or_default()
    }

    /// The place.
    pub fn place(&self) -> Option<Place> {
        self.place
    }
}

/// Takes a letter behind a dash.
fn switch(text: &str) -> Option<(&str, &str)> {
    let after = text.strip_prefix('-')?;
    let end = after.chars().next().filter(char::is_ascii_alphabetic)?.len_utf8();
    Some(after.split_at(end))
}

/// Takes a word or a double-quoted string with backslash escapes.
fn word(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut word = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((word, &quoted[at + 1..])),
            '\\' => word.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                other => other,
            }),
            other => word.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: &str, grammar: &[Argument], line: &str) -> Result<Args, String> {
        Args::read(command, grammar, line, Known::default())
    }

    #[test]
    fn words_and_rests() {
        let grammar = [needs("a", Kind::Text), may("b", Kind::Rest)];
        let args = read("c", &grammar, " \"x \\\" y\"  and more ").unwrap();
        assert_eq!((args.text("a"), args.text("b")), (Some("x \" y"), Some("and more")));
        let args = read("c", &grammar, "one").unwrap();
        assert_eq!((args.text("a"), args.text("b")), (Some("one"), None));
        assert_eq!(read("c", &grammar, ""), Err("c: string expected".to_owned()));
        assert_eq!(read("c", &grammar, "\"open"), Err("c: string expected".to_owned()));
        assert!(read("c", &[], "x").unwrap_err().contains("extraneous"));
        assert_eq!(
            read("c", &[needs("n", Kind::Integer)], "1 2"),
            Err("c: extraneous characters at the end of line".to_owned())
        );
    }

    #[test]
    fn switches() {
        let grammar = [needs("f", Kind::Switch), may("n", Kind::Integer)];
        assert!(read("c", &grammar, "-f").unwrap().has("f"));
        assert!(!read("c", &grammar, "").unwrap().has("f"));
        assert_eq!(read("c", &grammar, "-1").unwrap().integer("n"), Some(-1));
        assert_eq!(read("c", &grammar, "-z"), Err("c: unsupported option -z".to_owned()));
    }
}
