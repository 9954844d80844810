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

/// Reads the value of `-rtc`.
pub fn parse(text: &str) -> Result<RtcBase, String> {
    let mut list = KeyValues::parse(text, None)?;
    let base = list.take("base")?;
    match list.take("clock")?.as_deref() {
        None | Some("vm") => {}
        // Before a guest sets its RTC, both clocks show the base and run on; the difference is only what a
        // host that changes its own clock does to the guest.
        Some("host") => return Err("clock=host is not supported yet; clock=vm is".to_owned()),
        Some("rt") => return Err("clock=rt is not supported; clock=vm is".to_owned()),
        Some(other) => return Err(format!("invalid option value '{other}'")),
    }
    match list.take("driftfix")?.as_deref() {
        None | Some("none") => {}
        Some(other) => return Err(format!("driftfix={other} is not supported")),
    }
    list.finish()?;
    match base.as_deref() {
        None | Some("utc") => Ok(RtcBase::Utc),
        Some("localtime") => Ok(RtcBase::LocalTime),
        Some(date) => parse_date(date).map(RtcBase::Date).ok_or_else(|| {
            "invalid datetime format; valid formats: '2006-06-17T16:01:21' or '2006-06-17'".to_owned()
        }),
    }
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
        assert_eq!(parse("base=2006-06-17T16:01:21"), Ok(RtcBase::Date(1_150_560_081)));
        assert_eq!(parse("base=2006-06-17"), Ok(RtcBase::Date(1_150_502_400)));
        assert_eq!(parse("base=2024-02-29,clock=vm"), Ok(RtcBase::Date(1_709_164_800)));
        assert_eq!(parse("base=utc"), Ok(RtcBase::Utc));
        assert_eq!(parse("base=localtime"), Ok(RtcBase::LocalTime));
        for wrong in ["base=2023-02-29", "base=2023-1", "base=x", "base=2023-01-01T25:00:00", "basis=utc"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
