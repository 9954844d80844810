//! The proleptic Gregorian calendar, for the CMOS clock: seconds since 1970 to date and back.

/// 0000-01-01 00:00:00, in seconds since 1970.
pub const SECONDS_MIN: i64 = -62_167_219_200;
/// 9999-12-31 23:59:59, in seconds since 1970.
pub const SECONDS_MAX: i64 = 253_402_300_799;

const DAYS_PER_400_YEARS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// 0..=9999.
    pub year: u16,
    /// 1..=12.
    pub month: u8,
    /// 1..=31.
    pub day: u8,
    /// 0..=23.
    pub hour: u8,
    /// 0..=59.
    pub minute: u8,
    /// 0..=59.
    pub second: u8,
    /// 0 is Sunday.
    pub weekday: u8,
}

/// The date at `seconds` since 1970; times past the year 9999 begin again at year 0.
pub fn from_seconds(seconds: i64) -> DateTime {
    let span = SECONDS_MAX - SECONDS_MIN + 1;
    // The calendar repeats after 400 years, so the weekday survives this too.
    let seconds = if (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        seconds
    } else {
        (i128::from(seconds) - i128::from(SECONDS_MIN)).rem_euclid(i128::from(span)) as i64 + SECONDS_MIN
    };
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400);
    let (year, month, day) = date_of(days);
    DateTime {
        year: year as u16,
        month: month as u8,
        day: day as u8,
        hour: (of_day / 3600) as u8,
        minute: (of_day / 60 % 60) as u8,
        second: (of_day % 60) as u8,
        // 1970-01-01 was a Thursday.
        weekday: (days + 4).rem_euclid(7) as u8,
    }
}

/// Seconds since 1970 of a date; fields out of range carry into the next larger one.
pub fn to_seconds(time: &DateTime) -> i64 {
    let months = i64::from(time.year) * 12 + i64::from(time.month) - 1;
    let days = days_of(months.div_euclid(12), months.rem_euclid(12) + 1) + i64::from(time.day) - 1;
    days * 86_400 + i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second)
}

/// Year, month and day of a day since 1970. Years begin in March, so that the leap day comes last.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_PER_400_YEARS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - days_before_year(year_of_era);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - days_before_month(month_from_march) + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// Days from 1970-01-01 to the first of a month.
fn days_of(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let before = days_before_year(year.rem_euclid(400)) + days_before_month((month + 9) % 12);
    era * DAYS_PER_400_YEARS + before - EPOCH_DAYS
}

fn days_before_year(year_of_era: i64) -> i64 {
    365 * year_of_era + year_of_era / 4 - year_of_era / 100
}

/// Months from March on have 31, 30, 31, 30, 31 days, repeating: 153 days in five months.
fn days_before_month(month_from_march: i64) -> i64 {
    (153 * month_from_march + 2) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(seconds: i64) -> (u16, u8, u8, u8) {
        let time = from_seconds(seconds);
        (time.year, time.month, time.day, time.weekday)
    }

    #[test]
    fn known_days() {
        assert_eq!(date(0), (1970, 1, 1, 4));
        assert_eq!(date(951_782_400), (2000, 2, 29, 2));
        assert_eq!(date(1_709_164_800), (2024, 2, 29, 4));
        assert_eq!(date(-1), (1969, 12, 31, 3));
        assert_eq!(date(SECONDS_MIN), (0, 1, 1, 6));
        assert_eq!(date(SECONDS_MAX), (9999, 12, 31, 5));
        assert_eq!(date(SECONDS_MAX + 1), (0, 1, 1, 6));
        date(i64::MAX);
        date(i64::MIN);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let lengths = |year: u16| {
            let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let mut seconds = to_seconds(&DateTime { year: 1899, ..from_seconds(0) });
        for year in 1899..=2105 {
            for (month, length) in (1..).zip(lengths(year)) {
                for day in 1..=length {
                    let time = from_seconds(seconds);
                    assert_eq!((time.year, time.month, time.day), (year, month, day));
                    assert_eq!(to_seconds(&time), seconds);
                    seconds += 86_400;
                }
            }
        }
    }
}
