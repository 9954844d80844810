//! How `x`, `xp`, `print` and `i` show values: `/COUNT FORMAT SIZE`, as QEMU's monitor has it.

/// A way to show a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// `o`.
    Octal,
    /// `d`.
    Signed,
    /// `u`.
    Unsigned,
    /// `x`.
    Hex,
    /// `i`: instructions.
    Instructions,
    /// `c`.
    Character,
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// How many.
    pub count: u64,
    /// In which way.
    pub show: Show,
    /// Bytes of one value.
    pub size: u8,
}

impl Default for Format {
    fn default() -> Format {
        Format { count: 1, show: Show::Hex, size: 4 }
    }
}

impl Format {
    /// Reads a format off the front of a text; `self` was used before, and is used for what is not said.
    pub fn read(self, text: &str) -> Result<(Format, &str), String> {
        let last = Format { count: 1, ..self };
        let Some(after) = text.strip_prefix('/') else { return Ok((last, text)) };
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (word, rest) = after.split_at(end);
        let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        let mut format = last;
        let mut sized = false;
        if digits > 0 {
            format.count = word[..digits].parse().map_err(|_| "number too large".to_owned())?;
        }
        for letter in word[digits..].chars() {
            match letter {
                'o' => format.show = Show::Octal,
                'd' => format.show = Show::Signed,
                'u' => format.show = Show::Unsigned,
                'x' => format.show = Show::Hex,
                'i' => format.show = Show::Instructions,
                'c' => format.show = Show::Character,
                'b' => (format.size, sized) = (1, true),
                'h' => (format.size, sized) = (2, true),
                'w' => (format.size, sized) = (4, true),
                'g' | 'L' => (format.size, sized) = (8, true),
                other => return Err(format!("invalid char in format: '{other}'")),
            }
        }
        if format.show == Show::Character && !sized {
            format.size = 1;
        }
        Ok((format, rest))
    }

    /// What is kept for the next command that does not say it.
    pub fn kept(self, before: Format) -> Format {
        match self.show {
            // A character is a byte, and instructions have no size.
            Show::Character | Show::Instructions => Format { size: before.size, ..self },
            Show::Octal | Show::Signed | Show::Unsigned | Show::Hex => self,
        }
    }

    /// One value of memory, right-aligned in the width that the largest has.
    pub fn value(self, value: u64) -> String {
        let bits = usize::from(self.size) * 8;
        match self.show {
            Show::Octal => format!("{:>width$}", octal(value), width = bits.div_ceil(3)),
            Show::Hex => format!("0x{value:0width$x}", width = bits / 4),
            Show::Unsigned => format!("{value:>width$}", width = (bits * 10).div_ceil(33)),
            Show::Signed if self.size == 8 => {
                format!("{:>width$}", value as i64, width = (bits * 10).div_ceil(33))
            }
            // As QEMU: only whole words have a sign.
            Show::Signed => format!("{value:>width$}", width = (bits * 10).div_ceil(33)),
            Show::Character | Show::Instructions => character(value as u8),
        }
    }

    /// The value of an expression.
    pub fn number(self, value: i64) -> String {
        match self.show {
            Show::Octal => octal(value as u64),
            Show::Hex if value == 0 => "0".to_owned(),
            Show::Hex => format!("{value:#x}"),
            Show::Unsigned => (value as u64).to_string(),
            Show::Signed | Show::Instructions => value.to_string(),
            Show::Character => character(value as u8),
        }
    }
}

/// As C's `%#o`.
fn octal(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("0{value:o}") }
}

fn character(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        32..=126 => format!("'{}'", byte as char),
        _ => format!("'\\x{byte:02x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_qemu_does() {
        let read = |text| Format::default().read(text);
        let format = |count, show, size| Format { count, show, size };
        assert_eq!(read("/4xb $pc"), Ok((format(4, Show::Hex, 1), " $pc")));
        assert_eq!(read("/i 5"), Ok((format(1, Show::Instructions, 4), " 5")));
        assert_eq!(read("$pc"), Ok((format(1, Show::Hex, 4), "$pc")));
        assert_eq!(read("/3c 0"), Ok((format(3, Show::Character, 1), " 0")));
        assert_eq!(read("/-1xw 0"), Err("invalid char in format: '-'".to_owned()));
        assert_eq!(read("/4z 0"), Err("invalid char in format: 'z'".to_owned()));
        assert_eq!(read("/xw$pc"), Err("invalid char in format: '$'".to_owned()));
        assert_eq!(read("/99999999999999999999x 0"), Err("number too large".to_owned()));
        let last = format(7, Show::Octal, 2);
        assert_eq!(last.read("/x 0"), Ok((format(1, Show::Hex, 2), " 0")));
        assert_eq!(format(1, Show::Character, 1).kept(last), format(1, Show::Character, 2));
    }

    #[test]
    fn values_have_the_widths_of_qemu() {
        for (text, size, value, shown) in [
            ("/o", 4, 0x00e0_5bea, "  070055752"),
            ("/o", 1, 0, "  0"),
            ("/o", 8, 0x00fc_0039_392f_3332, "  03740003447113631462"),
            ("/d", 4, 14_703_594, "  14703594"),
            ("/d", 2, 224, "  224"),
            ("/u", 1, 91, " 91"),
            ("/d", 8, 3_401_960_375_889_976_298, " 3401960375889976298"),
            ("/d", 8, u64::MAX, "                  -1"),
            ("/x", 2, 0xe0, "0x00e0"),
            ("/c", 1, 0xea, "'\\xea'"),
            ("/c", 1, u64::from(b'['), "'['"),
        ] {
            let before = Format { size, ..Format::default() };
            let (format, _) = before.read(text).unwrap();
            assert_eq!(format.value(value), shown, "{text} {size} {value}");
        }
    }

    #[test]
    fn expressions_are_shown_as_by_print() {
        let shown = |text: &str, value| Format::default().read(text).unwrap().0.number(value);
        assert_eq!(shown("/d", -1), "-1");
        assert_eq!(shown("/x", -1), "0xffffffffffffffff");
        assert_eq!(shown("/u", -1), "18446744073709551615");
        assert_eq!(shown("/o", 8), "010");
        assert_eq!(shown("/c", 65), "'A'");
        assert_eq!(shown("/c", 10), "'\\n'");
        assert_eq!(shown("/i", 10), "10");
    }
}
