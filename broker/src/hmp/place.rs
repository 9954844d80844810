//! Places on the time line of a replay, as the monitor names them: a number of instructions, `50%`, `start`, `end`, `12.5s`.

use super::expression;
use replay::inspect::Registers;
use replay::time::Vtime;

/// A place that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Instructions retired.
    Icount(u64),
    /// Millionths of the way from the start to the end.
    Part(u32),
    /// Guest time in nanoseconds.
    Time(u64),
    /// The first instruction.
    Start,
    /// The end of the log.
    End,
}

/// The same, in a log whose end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Instructions retired.
    Icount(u64),
    /// The first place at which guest time is this or later.
    Time(Vtime),
}

/// Millionths in one percent.
const PERCENT: u64 = 10_000;
const NS_PER_S: u64 = 1_000_000_000;

impl Place {
    /// Reads a place off the front of a text.
    pub fn read<'a>(text: &'a str, registers: Option<&Registers>) -> Result<(Place, &'a str), String> {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if let Some(place) = Place::of_word(word)? {
            return Ok((place, rest));
        }
        let (value, rest) = expression::read(text, registers)?;
        Ok((Place::Icount(value as u64), rest))
    }

    /// A word that is no expression.
    fn of_word(word: &str) -> Result<Option<Place>, String> {
        if word == "start" || word == "end" {
            return Ok(Some(if word == "start" { Place::Start } else { Place::End }));
        }
        let number = |digits: &str, scale: u64| {
            let decimal = digits.starts_with(|c: char| c.is_ascii_digit())
                && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
            if decimal { Some(decimal_times(digits, scale)) } else { None }
        };
        if let Some(part) = word.strip_suffix('%').and_then(|digits| number(digits, PERCENT)) {
            return match part? {
                part @ ..=1_000_000 => Ok(Some(Place::Part(part as u32))),
                _ => Err(format!("'{word}' is beyond the end: 0% to 100%")),
            };
        }
        if let Some(time) = word.strip_suffix('s').and_then(|digits| number(digits, NS_PER_S)) {
            return Ok(Some(Place::Time(time?)));
        }
        Ok(None)
    }

    /// The position in a log that ends after `last` instructions.
    pub fn position(self, last: u64) -> Position {
        match self {
            Place::Icount(icount) => Position::Icount(icount),
            Place::Part(part) => Position::Icount((u128::from(last) * u128::from(part) / 1_000_000) as u64),
            Place::Time(ns) => Position::Time(Vtime(ns)),
            Place::Start => Position::Icount(0),
            Place::End => Position::Icount(last),
        }
    }
}

/// A decimal number times a power of ten; digits that are too small for it are cut off.
fn decimal_times(digits: &str, scale: u64) -> Result<u64, String> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let wrong = || format!("'{digits}' is not a number");
    let mut value = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(scale)).ok_or_else(wrong)?;
    let mut unit = scale;
    for digit in fraction.chars() {
        unit /= 10;
        let digit = digit.to_digit(10).ok_or_else(wrong)?;
        value = value.checked_add(unit * u64::from(digit)).ok_or_else(wrong)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let read = |text: &str| Place::read(text, None).map(|(place, rest)| (place, rest.to_owned()));
        let ok = |place, rest: &str| Ok((place, rest.to_owned()));
        assert_eq!(read("1000"), ok(Place::Icount(1000), ""));
        assert_eq!(read("10*10 x"), ok(Place::Icount(100), " x"));
        assert_eq!(read("7 % 4"), ok(Place::Icount(3), ""));
        assert_eq!(read("50%"), ok(Place::Part(500_000), ""));
        assert_eq!(read("12.345678%"), ok(Place::Part(123_456), ""));
        assert_eq!(read("start"), ok(Place::Start, ""));
        assert_eq!(read("end x"), ok(Place::End, " x"));
        assert_eq!(read("12.5s"), ok(Place::Time(12_500_000_000), ""));
        assert_eq!(read("0.000000001s"), ok(Place::Time(1), ""));
        assert!(read("101%").unwrap_err().contains("beyond the end"));
        for wrong in ["", "1.2.3s", "99999999999999999999s", "99999999999999999999%", "half", "s", "%"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_log() {
        let position = |place: Place| place.position(1001);
        assert_eq!(position(Place::Part(500_000)), Position::Icount(500));
        assert_eq!(position(Place::Part(1_000_000)), position(Place::End));
        assert_eq!(Place::Part(1_000_000).position(u64::MAX), Position::Icount(u64::MAX));
        assert_eq!(position(Place::Time(5)), Position::Time(Vtime(5)));
    }
}
