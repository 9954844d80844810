//! Arguments of monitor commands: words, quoted strings and integer expressions, with QEMU's error lines.

/// The kinds of argument in a command's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word or a quoted string.
    Text,
    /// An integer expression.
    Integer,
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
}

impl Args {
    /// Reads `line` by a command's grammar.
    pub fn read(command: &str, grammar: &[Argument], line: &str) -> Result<Args, String> {
        let mut args = Args::default();
        let mut rest = line.trim_start();
        for argument in grammar {
            if rest.is_empty() && argument.optional {
                break;
            }
            match argument.kind {
                Kind::Text => {
                    let (text, after) = word(rest).ok_or_else(|| format!("{command}: string expected"))?;
                    args.texts.push((argument.name, text));
                    rest = after.trim_start();
                }
                Kind::Integer => {
                    let mut expression = Expression { rest, depth: 0 };
                    let value = expression.sum()?;
                    args.integers.push((argument.name, value));
                    rest = expression.rest.trim_start();
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

/// Deepest nesting of parentheses and signs.
const DEPTH_MAX: u32 = 32;

/// An integer expression as QEMU's monitor knows it: + - * / % & | ^ ~ and parentheses, C's number forms.
struct Expression<'a> {
    rest: &'a str,
    depth: u32,
}

impl Expression<'_> {
    fn sum(&mut self) -> Result<i64, String> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator("+-") {
            let right = self.logic()?;
            value = if operator == '+' { value.wrapping_add(right) } else { value.wrapping_sub(right) };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator("&|^") {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut value = self.unary()?;
        while let Some(operator) = self.operator("*/%") {
            let right = self.unary()?;
            value = match operator {
                '*' => value.wrapping_mul(right),
                _ if right == 0 => return Err("division by zero".to_owned()),
                '/' => value.wrapping_div(right),
                _ => value.wrapping_rem(right),
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("expression is too deep".to_owned());
        }
        let value = match self.operator("+-~(") {
            Some('+') => self.unary()?,
            Some('-') => self.unary()?.wrapping_neg(),
            Some('~') => !self.unary()?,
            Some(_) => {
                let value = self.sum()?;
                self.operator(")").ok_or("')' expected")?;
                value
            }
            None => self.number()?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn number(&mut self) -> Result<i64, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        if digits.is_empty() {
            return Err(match self.rest.chars().next() {
                None => "unexpected end of expression".to_owned(),
                Some('$') => "unknown register".to_owned(),
                Some(_) => "invalid char in expression".to_owned(),
            });
        }
        self.rest = rest;
        let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8),
            None => digits.parse(),
        };
        value.map(|value| value as i64).map_err(|error| match error.kind() {
            std::num::IntErrorKind::PosOverflow => "number too large".to_owned(),
            _ => "invalid char in expression".to_owned(),
        })
    }

    /// Takes the next character if it is one of `operators`.
    fn operator(&mut self, operators: &str) -> Option<char> {
        let rest = self.rest.trim_start();
        let operator = rest.chars().next().filter(|char| operators.contains(*char))?;
        self.rest = &rest[operator.len_utf8()..];
        Some(operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<i64, String> {
        Args::read("c", &[needs("n", Kind::Integer)], text).map(|args| args.integer("n").unwrap())
    }

    #[test]
    fn expressions() {
        for (text, wanted) in [
            ("1+2*3", Ok(7)),
            ("(1 + 2) * 3", Ok(9)),
            ("-1", Ok(-1)),
            ("0x10|1", Ok(17)),
            ("~0", Ok(-1)),
            ("010", Ok(8)),
            ("18446744073709551615", Ok(-1)),
            ("", Err("unexpected end of expression")),
            ("1+", Err("unexpected end of expression")),
            ("1/0", Err("division by zero")),
            ("$eip", Err("unknown register")),
            ("(1", Err("')' expected")),
            ("99999999999999999999", Err("number too large")),
            ("zz", Err("invalid char in expression")),
            ("é", Err("invalid char in expression")),
            ("1 2", Err("c: extraneous characters at the end of line")),
        ] {
            assert_eq!(value(text), wanted.map_err(str::to_owned), "{text}");
        }
        assert!(value(&"(".repeat(100_000)).is_err());
        assert!(value(&"~-".repeat(100_000)).is_err());
        assert_eq!(value(&["1"; 1000].join("+")), Ok(1000));
    }

    #[test]
    fn words_and_rests() {
        let grammar = [needs("a", Kind::Text), may("b", Kind::Rest)];
        let args = Args::read("c", &grammar, " \"x \\\" y\"  and more ").unwrap();
        assert_eq!((args.text("a"), args.text("b")), (Some("x \" y"), Some("and more")));
        let args = Args::read("c", &grammar, "one").unwrap();
        assert_eq!((args.text("a"), args.text("b")), (Some("one"), None));
        assert_eq!(Args::read("c", &grammar, ""), Err("c: string expected".to_owned()));
        assert_eq!(Args::read("c", &grammar, "\"open"), Err("c: string expected".to_owned()));
        assert!(Args::read("c", &[], "x").unwrap_err().contains("extraneous"));
    }
}
