//! Expected values from the MC146818A data sheet.

use super::*;

const SECOND: u64 = 1_000_000_000;
/// 2024-02-29 23:59:58, a Thursday.
const LEAP_DAY_END: i64 = 1_709_251_198;

const RAM: RamSize = RamSize { below_4g: 1 << 31, above_4g: 1 << 32 };

fn clock(base: i64) -> Rtc {
    Rtc::new(base, None, RAM)
}

fn get(rtc: &mut Rtc, index: u8, at: u64) -> u8 {
    rtc.write(0, 1, u64::from(index), Vtime(at));
    rtc.read(1, 1, Vtime(at)) as u8
}

fn set(rtc: &mut Rtc, index: u8, value: u8, at: u64) {
    rtc.write(0, 1, u64::from(index), Vtime(at));
    rtc.write(1, 1, u64::from(value), Vtime(at));
}

/// Century, year, month, day, weekday, hour, minute, second.
fn time(rtc: &mut Rtc, at: u64) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| get(rtc, index, at))
}

#[test]
fn bcd_wraps_at_the_end_of_a_leap_february() {
    let mut rtc = clock(LEAP_DAY_END);
    assert_eq!(time(&mut rtc, 0), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
    assert_eq!(time(&mut rtc, 2 * SECOND - 1)[7], 0x59);
    assert_eq!(time(&mut rtc, 2 * SECOND), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
}

#[test]
fn bcd_wraps_at_the_end_of_a_century() {
    let mut rtc = clock(946_684_799);
    assert_eq!(time(&mut rtc, 0), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59]);
    assert_eq!(time(&mut rtc, SECOND), [0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0]);
}

#[test]
fn binary_and_12_hours() {
    let mut rtc = clock(LEAP_DAY_END);
    set(&mut rtc, 0x0b, 0x06, 0);
    assert_eq!(time(&mut rtc, 0), [20, 24, 2, 29, 5, 23, 59, 58]);
    set(&mut rtc, 0x0b, 0x00, 0);
    assert_eq!(get(&mut rtc, 4, 0), 0x91, "11 PM in BCD");
    assert_eq!(get(&mut rtc, 4, 2 * SECOND), 0x12, "midnight is 12 AM");
    assert_eq!(get(&mut rtc, 4, (2 + 12 * 3600) * SECOND), 0x92, "noon is 12 PM");
    assert_eq!(get(&mut rtc, 4, (2 + 13 * 3600) * SECOND), 0x81);
}

#[test]
fn update_in_progress_for_244_us_before_the_update() {
    let mut rtc = clock(0);
    assert_eq!(get(&mut rtc, 0x0a, 0), 0x26);
    assert_eq!(get(&mut rtc, 0x0a, SECOND - 244_141), 0x26);
    assert_eq!(get(&mut rtc, 0x0a, SECOND - 244_140), 0xa6);
    assert_eq!(get(&mut rtc, 0x0a, SECOND - 1), 0xa6);
    assert_eq!(get(&mut rtc, 0x0a, SECOND), 0x26);
    set(&mut rtc, 0x0b, 0x82, SECOND);
    assert_eq!(get(&mut rtc, 0x0a, 2 * SECOND - 1), 0x26, "SET stops updates");
}

#[test]
fn setting_the_time() {
    let mut rtc = clock(0);
    let at = SECOND / 4;
    set(&mut rtc, 0x0b, 0x82, at);
    for (index, value) in
        [(0x32, 0x20), (9, 0x23), (8, 0x12), (7, 0x31), (6, 1), (4, 0x23), (2, 0x59), (0, 0x59)]
    {
        set(&mut rtc, index, value, at);
    }
    assert_eq!(time(&mut rtc, 10 * SECOND)[7], 0x59, "the clock stands still");
    let start = 10 * SECOND + SECOND / 2;
    set(&mut rtc, 0x0b, 0x02, start);
    assert_eq!(time(&mut rtc, start), [0x20, 0x23, 0x12, 0x31, 1, 0x23, 0x59, 0x59]);
    // SET leaves the divider chain alone: the second ends where it always did.
    assert_eq!(time(&mut rtc, 11 * SECOND - 1)[7], 0x59);
    assert_eq!(time(&mut rtc, 11 * SECOND), [0x20, 0x24, 0x01, 0x01, 2, 0, 0, 0]);
}

#[test]
fn divider_reset_starts_half_a_second_before_an_update() {
    let mut rtc = clock(0);
    let at = 300_000_000;
    set(&mut rtc, 0x0a, 0x66, at);
    assert_eq!(time(&mut rtc, 5 * SECOND)[7], 0);
    set(&mut rtc, 0x0a, 0x26, 5 * SECOND);
    assert_eq!(time(&mut rtc, 5 * SECOND + SECOND / 2 - 1)[7], 0);
    assert_eq!(time(&mut rtc, 5 * SECOND + SECOND / 2)[7], 1);
}

#[test]
fn update_ended_interrupt() {
    let mut rtc = clock(0);
    assert_eq!(rtc.deadline(), None);
    set(&mut rtc, 0x0b, 0x12, 10);
    assert_eq!(rtc.deadline(), Some(Vtime(SECOND)));
    rtc.advance(Vtime(SECOND - 1));
    assert!(!rtc.line());
    rtc.advance(Vtime(SECOND));
    assert!(rtc.line());
    assert_eq!(rtc.deadline(), None);
    // 1024 Hz periods have passed too.
    assert_eq!(get(&mut rtc, 0x0c, SECOND), 0xd0);
    assert!(!rtc.line());
    assert_eq!(get(&mut rtc, 0x0c, SECOND), 0);
    assert_eq!(rtc.deadline(), Some(Vtime(2 * SECOND)));
    set(&mut rtc, 0x0b, 0x92, SECOND);
    assert_eq!(get(&mut rtc, 0x0b, SECOND), 0x82, "SET clears UIE");
}

#[test]
fn enabling_a_flag_that_is_set_raises_the_line() {
    let mut rtc = clock(0);
    rtc.advance(Vtime(SECOND));
    assert!(!rtc.line());
    set(&mut rtc, 0x0b, 0x12, SECOND);
    assert!(rtc.line());
}

#[test]
fn periodic_rates() {
    // Register A rate and its frequency in Hz with a 32768 Hz crystal (table 5).
    let table = [(1, 256), (2, 128), (3, 8192), (4, 4096), (6, 1024), (9, 128), (14, 4), (15, 2)];
    for (rate, hz) in table {
        let mut rtc = clock(0);
        set(&mut rtc, 0x0a, 0x20 | rate, 0);
        set(&mut rtc, 0x0b, 0x42, 0);
        for count in 1..=20u64 {
            let at = rtc.deadline().unwrap();
            assert_eq!(at.0, (count * SECOND).div_ceil(hz), "rate {rate}");
            rtc.advance(Vtime(at.0 - 1));
            assert!(!rtc.line());
            assert_eq!(get(&mut rtc, 0x0c, at.0) & 0xc0, 0xc0);
        }
    }
    let mut rtc = clock(0);
    set(&mut rtc, 0x0a, 0x20, 0);
    set(&mut rtc, 0x0b, 0x42, 0);
    assert_eq!(rtc.deadline(), None);
}

/// Seconds from midnight to the first alarm with hours, minutes, seconds of the alarm registers.
fn alarm_after(midnight_offset: i64, alarm: [u8; 3]) -> Option<u64> {
    let mut rtc = clock(86_400 * 365 + midnight_offset);
    for (index, value) in [5, 3, 1].into_iter().zip(alarm) {
        set(&mut rtc, index, value, 0);
    }
    set(&mut rtc, 0x0b, 0x22, 0);
    let at = rtc.deadline()?;
    assert_eq!(at.0 % SECOND, 0);
    rtc.advance(Vtime(at.0 - 1));
    assert!(!rtc.line());
    assert_eq!(get(&mut rtc, 0x0c, at.0) & 0xa0, 0xa0);
    Some(at.0 / SECOND)
}

#[test]
fn alarms() {
    let nine = 9 * 3600;
    assert_eq!(alarm_after(nine, [0x09, 0x30, 0x15]), Some(30 * 60 + 15));
    assert_eq!(alarm_after(nine, [0x09, 0x00, 0x00]), Some(86_400), "now does not count");
    assert_eq!(alarm_after(nine, [0x08, 0x59, 0x59]), Some(86_399));
    assert_eq!(alarm_after(nine, [0xff, 0xff, 0xff]), Some(1), "every second");
    assert_eq!(alarm_after(nine, [0xc0, 0xc0, 0x30]), Some(30), "every minute");
    assert_eq!(alarm_after(nine + 31, [0xff, 0xff, 0x30]), Some(59));
    assert_eq!(alarm_after(nine + 59 * 60 + 31, [0xff, 0x59, 0x30]), Some(3599));
    assert_eq!(alarm_after(86_399, [0xff, 0x00, 0x00]), Some(1));
    assert_eq!(alarm_after(nine, [0x24, 0x00, 0x00]), None, "there is no such hour");
    assert_eq!(alarm_after(nine, [0xff, 0x60, 0xff]), None);
}

#[test]
fn control_registers() {
    let mut rtc = clock(0);
    set(&mut rtc, 0x0d, 0, 0);
    assert_eq!(get(&mut rtc, 0x0d, 0), 0x80);
    set(&mut rtc, 0x0c, 0xff, 0);
    assert_eq!(get(&mut rtc, 0x0c, 0), 0);
    rtc.write(0, 1, 0x8f, Vtime(0));
    assert!(rtc.nmi_masked());
    rtc.write(1, 1, 0x5a, Vtime(0));
    assert_eq!(get(&mut rtc, 0x0f, 0), 0x5a);
    assert!(!rtc.nmi_masked());
    assert_eq!(rtc.read(0, 1, Vtime(0)), 0xff);
}

#[test]
fn memory_sizes() {
    let mut rtc = clock(0);
    let mut word = |low: u8| u16::from_le_bytes([get(&mut rtc, low, 0), get(&mut rtc, low + 1, 0)]);
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(word(0x34), 2032 * 16, "64 KiB units above 16 MiB");
    assert_eq!(word(0x5b), 0, "4 GiB are 0x10000 units of 64 KiB");
    assert_eq!(word(0x5d) & 0xff, 1);
    let sum: u16 = (0x10..=0x2d).map(|index| u16::from(rtc.peek(index, Vtime(0)))).sum();
    assert_eq!([rtc.peek(0x2e, Vtime(0)), rtc.peek(0x2f, Vtime(0))], sum.to_be_bytes());
}

#[test]
fn any_value_anywhere_is_survived() {
    for value in 0..=255u8 {
        let mut rtc = clock(i64::MAX);
        for index in 0..128 {
            set(&mut rtc, index, value, u64::from(index));
        }
        set(&mut rtc, 0x0a, 0x2f, 200);
        set(&mut rtc, 0x0b, value & 0x7f, 200);
        rtc.advance(Vtime(u64::MAX));
        time(&mut rtc, u64::MAX);
        rtc.deadline();
    }
}

/// A clock one hour ahead of a host at 1970-01-01 00:00:00 when guest time was zero.
fn following() -> Rtc {
    let mut rtc = Rtc::new(3600, Some(3600), RAM);
    set(&mut rtc, 0x0b, 0x06, 0);
    rtc
}

#[test]
fn the_hosts_clock_is_followed() {
    let mut rtc = following();
    rtc.follow_host(10 * SECOND + 400_000_000, Vtime(SECOND));
    assert_eq!(time(&mut rtc, SECOND)[5..], [1, 0, 10]);
    assert_eq!(time(&mut rtc, SECOND + 599_999_999)[7], 10);
    assert_eq!(time(&mut rtc, SECOND + 600_000_000)[7], 11, "in the host's phase");
    rtc.follow_host(9 * SECOND, Vtime(2 * SECOND));
    assert_eq!(time(&mut rtc, 2 * SECOND)[5..], [1, 0, 9], "a host may turn its clock back");
    // A time that the guest has set goes on with the host's clock.
    set(&mut rtc, 4, 20, 2 * SECOND);
    rtc.follow_host(69 * SECOND, Vtime(3 * SECOND));
    assert_eq!(time(&mut rtc, 3 * SECOND)[5..], [20, 1, 9]);
    // A clock on guest time does not listen.
    let mut other = clock(0);
    let before = other.clone();
    other.follow_host(99 * SECOND, Vtime(0));
    assert_eq!(other, before);
}

#[test]
fn a_jump_keeps_interrupts_sane() {
    let mut rtc = following();
    // Alarm at 01:00:05, periodic at 2 Hz.
    for (register, value) in [(5, 1), (3, 0), (1, 5), (0x0a, 0x2f), (0x0b, 0x66)] {
        set(&mut rtc, register, value, 0);
    }
    assert_eq!(rtc.deadline(), Some(Vtime(SECOND / 2)));
    rtc.follow_host(4 * SECOND + 300_000_000, Vtime(1000));
    assert!(!rtc.line());
    assert_eq!(rtc.deadline(), Some(Vtime(SECOND / 2)), "the divider is the guest's");
    rtc.follow_host(6 * SECOND, Vtime(2000));
    assert!(rtc.line(), "the alarm was passed over");
    assert_eq!(get(&mut rtc, 0x0c, 2000), 0xb0);
    rtc.follow_host(1 << 62, Vtime(3000));
    rtc.follow_host(0, Vtime(4000));
    rtc.follow_host(u64::MAX, Vtime(5000));
    assert!(rtc.deadline().is_none_or(|at| at > Vtime(5000)));
}

#[test]
fn only_a_follower_says_what_is_looked_at() {
    let mut rtc = following();
    for (index, look) in
        [(0x8a, Some(Look::Update)), (0, Some(Look::Time)), (0x32, Some(Look::Time)), (1, None)]
    {
        rtc.write(0, 1, index, Vtime(0));
        assert_eq!(rtc.take_look(), look, "{index:#x}");
        assert_eq!(rtc.take_look(), None);
    }
    let mut other = clock(0);
    other.write(0, 1, 0x0a, Vtime(0));
    assert_eq!(other.take_look(), None);
}
