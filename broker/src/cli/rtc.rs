//! `-rtc base=utc|localtime|DATE,clock=vm|host`.

use super::keyval::KeyValues;

/// What the RTC shows at power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time in UTC.
    Utc,
    /// The host's local time.
    LocalTime,
    /// Seconds since 1970-01-01 UTC.
    Date(i64),
}

/// What `-rtc` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcOption {
    /// `base=`; what is not said is UTC.
    pub base: RtcBase,
    /// `clock=`, if given: it follows the host's clock, or runs on guest time.
    pub host: Option<bool>,
}

/// Reads the value of `-rtc`.
pub fn parse(text: &str) -> Result<RtcOption, String> {
    let mut list = KeyValues::parse(text, None)?;
    let base = list.take("base")?;
    let host = match list.take("clock")?.as_deref() {
        None => None,
        Some("vm") => Some(false),
        Some("host") => Some(true),
        Some("rt") => return Err("clock=rt is not supported; clock=vm and clock=host are".to_owned()),
        Some(other) => return Err(format!("invalid option value '{other}'")),
    };
    match list.take("driftfix")?.as_deref() {
        None | Some("none") => {}
        Some(other) => return Err(format!("driftfix={other} is not supported")),
    }
    list.finish()?;
    let base = match base.as_deref() {
        None | Some("utc") => RtcBase::Utc,
        Some("localtime") => RtcBase::LocalTime,
        Some(date) => parse_date(date).map(RtcBase::Date).ok_or_else(|| {
            "invalid datetime format; valid formats: '2006-06-17T16:01:21' or '2006-06-17'".to_owned()
        })?,
    };
    Ok(RtcOption { base, host })
}

/// `2006-06-17T16:01:21` or `2006-06-17`, as seconds since 1970-01-01 UTC.
fn parse_date(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = three_numbers(date, '-')?;
    let [hour, minute, second] = three_numbers(time, ':')?;
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    valid.then(|| days_since_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second)
}

fn three_numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits = !part.is_empty() && part.len() <= 4 && part.chars().all(|c| c.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum();
    let months: i64 = (1..month).map(|m| days_in_month(year, m)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // Values from `date -u -d … +%s`.
        for (text, base, host) in [
            ("base=2006-06-17T16:01:21", RtcBase::Date(1_150_560_081), None),
            ("base=2006-06-17", RtcBase::Date(1_150_502_400), None),
            ("base=2024-02-29,clock=vm", RtcBase::Date(1_709_164_800), Some(false)),
            ("base=utc", RtcBase::Utc, None),
            ("base=localtime", RtcBase::LocalTime, None),
            ("clock=host", RtcBase::Utc, Some(true)),
        ] {
            assert_eq!(parse(text), Ok(RtcOption { base, host }), "{text}");
        }
        for wrong in ["base=2023-02-29", "base=2023-1", "base=x", "base=2023-01-01T25:00:00", "basis=utc"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
