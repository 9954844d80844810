//! The CMOS clock: an MC146818 with 128 bytes of RAM behind ports 0x70 and 0x71.
//!
//! Time of day is not kept but computed: a count of seconds through an anchor in guest time, written over
//! the registers when the guest reads them. Flags of register C are brought up to date lazily, by looking
//! at which boundaries lie between the last look and now; `deadline` is exact for the next one that
//! raises the line. Register semantics follow the MC146818A data sheet. Daylight saving (DSE) is
//! not implemented, as in every PC chipset since.
//!
//! A clock that follows the host's runs on guest time too; now and then it is told the host's time and moves its
//! anchor (decision 0005). Periodic interrupts come from the divider, which such a move leaves alone.

use super::bytewise;
use super::rtc_calendar::{self as calendar, DateTime};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// First I/O port: index; the second is data.
pub const PORT: u16 = 0x70;
/// ISA interrupt.
pub const IRQ: u8 = 8;
/// CMOS index of the century, for the FADT.
pub const CENTURY_INDEX: u8 = 0x32;

const CMOS_SIZE: usize = 128;
const SECOND_NS: i128 = 1_000_000_000;
/// UIP is high for eight cycles of 32768 Hz before an update (t_BUC, 244 us).
const UPDATE_NOTICE_NS: i128 = 244_140;
const CRYSTAL_HZ: i128 = 32_768;

mod index {
    pub const SECONDS: usize = 0;
    pub const SECONDS_ALARM: usize = 1;
    pub const MINUTES: usize = 2;
    pub const MINUTES_ALARM: usize = 3;
    pub const HOURS: usize = 4;
    pub const HOURS_ALARM: usize = 5;
    pub const WEEKDAY: usize = 6;
    pub const DAY: usize = 7;
    pub const MONTH: usize = 8;
    pub const YEAR: usize = 9;
    pub const A: usize = 0x0a;
    pub const B: usize = 0x0b;
    pub const C: usize = 0x0c;
    pub const D: usize = 0x0d;
    pub const CENTURY: usize = super::CENTURY_INDEX as usize;
    /// Registers that hold the time; alarm registers are plain RAM.
    pub const TIME: [usize; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];
}

mod a {
    pub const UPDATE_IN_PROGRESS: u8 = 0x80;
    pub const DIVIDER: u8 = 0x70;
    pub const DIVIDER_RUNS: u8 = 0x20;
    pub const RATE: u8 = 0x0f;
}

mod b {
    pub const SET: u8 = 0x80;
    pub const PERIODIC: u8 = 0x40;
    pub const ALARM: u8 = 0x20;
    pub const UPDATE: u8 = 0x10;
    pub const BINARY: u8 = 0x04;
    pub const HOURS_24: u8 = 0x02;
}

mod c {
    pub const IRQ: u8 = 0x80;
    pub const PERIODIC: u8 = 0x40;
    pub const ALARM: u8 = 0x20;
    pub const UPDATE: u8 = 0x10;
}

/// Valid RAM and time: the battery is good.
const D_VALID: u8 = 0x80;
/// Alarm bytes from here on match every value.
const DONT_CARE: u8 = 0xc0;

/// Size of RAM as CMOS tells firmware and old loaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSize {
    /// Bytes from address zero up to the hole below 4 GiB.
    pub below_4g: u64,
    /// Bytes from 4 GiB on.
    pub above_4g: u64,
}

/// What a guest is about to read, by the index it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Look {
    /// Register A, where a careful reader begins: is an update near?
    Update,
    /// A register of the time.
    Time,
}

/// How a clock follows the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Following {
    /// Seconds that it is to show ahead of the host.
    offset_s: i64,
    /// What it was to show when it was last told, minus guest time then, in nanoseconds.
    ahead_ns: i64,
}

/// The clock and its RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtc {
    index: u8,
    nmi_masked: bool,
    /// RAM, control registers, and the time while it stands still.
    cmos: Vec<u8>,
    /// Seconds since 1970 that the clock shows from the anchor on, for one second.
    anchor_seconds: i64,
    /// Guest time of an update, in nanoseconds; may be before power-on.
    anchor_ns: i64,
    /// Guest time at which a period of every rate began, in nanoseconds.
    divider_ns: i64,
    following: Option<Following>,
    look: Option<Look>,
    /// Weekday register minus the calendar's weekday, modulo 7.
    weekday_shift: u8,
    /// Flags of register C are right up to here.
    last: Vtime,
}

impl Rtc {
    /// A clock that shows `base_seconds` (since 1970) at power-on; with an offset one that follows the host's.
    pub fn new(base_seconds: i64, host_offset_s: Option<i64>, ram: RamSize) -> Rtc {
        let ahead_ns = to_i64(i128::from(base_seconds) * SECOND_NS);
        let mut rtc = Rtc {
            index: 0,
            nmi_masked: false,
            cmos: vec![0; CMOS_SIZE],
            anchor_seconds: base_seconds.clamp(calendar::SECONDS_MIN, calendar::SECONDS_MAX),
            anchor_ns: 0,
            divider_ns: 0,
            following: host_offset_s.map(|offset_s| Following { offset_s, ahead_ns }),
            look: None,
            weekday_shift: 0,
            last: Vtime(0),
        };
        rtc.cmos[index::A] = a::DIVIDER_RUNS | 6;
        rtc.cmos[index::B] = b::HOURS_24;
        rtc.cmos[index::D] = D_VALID;
        rtc.fill_equipment(ram);
        rtc
    }

    /// Machine reset: interrupts off and flags cleared (data sheet, RESET pin); time and RAM stay.
    pub fn reset(&mut self, now: Vtime) {
        self.advance(now);
        self.index = 0;
        self.nmi_masked = false;
        self.look = None;
        self.cmos[index::B] &= !(b::PERIODIC | b::ALARM | b::UPDATE);
        self.cmos[index::C] = 0;
    }

    /// Reads port 0x70 (write-only: all ones) or 0x71.
    pub fn read(&mut self, offset: u64, size: u8, now: Vtime) -> u64 {
        bytewise::read(offset, size, |port| if port == 1 { self.read_cmos(now) } else { 0xff })
    }

    /// Writes port 0x70 (index and NMI mask) or 0x71.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        bytewise::write(offset, size, value, |port, byte| match port {
            0 => {
                self.index = byte & 0x7f;
                self.nmi_masked = byte & 0x80 != 0;
                self.look = self.looks_at(usize::from(self.index));
            }
            1 => self.write_cmos(byte, now),
            _ => {}
        });
    }

    /// What the guest has just chosen to read, if the clock follows the host's.
    pub fn take_look(&mut self) -> Option<Look> {
        self.look.take()
    }

    fn looks_at(&self, register: usize) -> Option<Look> {
        self.following?;
        match register {
            index::A => Some(Look::Update),
            other => index::TIME.contains(&other).then_some(Look::Time),
        }
    }

    /// Moves the time as far as the host's clock, which shows `unix_ns`, and guest time have parted since the last call.
    /// So a time that the guest set keeps its distance. What a move forward passes over happens at once.
    pub fn follow_host(&mut self, unix_ns: u64, now: Vtime) {
        let Some(following) = self.following else { return };
        self.advance(now);
        let shown = i128::from(unix_ns) + i128::from(following.offset_s) * SECOND_NS;
        let ahead_ns = to_i64(shown - i128::from(now.0));
        self.following = Some(Following { ahead_ns, ..following });
        let jump = i128::from(ahead_ns) - i128::from(following.ahead_ns);
        let before = self.seconds_at(now);
        let alarm_passed = self.next_alarm().is_some_and(|at| at <= i128::from(now.0) + jump);
        let seconds = to_i64(jump.div_euclid(SECOND_NS));
        self.anchor_seconds = self.anchor_seconds.saturating_add(seconds);
        self.anchor_ns = self.anchor_ns.saturating_sub(jump.rem_euclid(SECOND_NS) as i64);
        if self.updates() && self.seconds_at(now) != before {
            self.cmos[index::C] |= c::UPDATE | if alarm_passed { c::ALARM } else { 0 };
            self.update_line();
        }
    }

    /// Bit 7 of port 0x70: NMIs do not reach the CPU.
    pub fn nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    /// A byte of CMOS as the guest would see it, without the effects of a read.
    pub fn peek(&self, index: u8, now: Vtime) -> u8 {
        let mut copy = self.clone();
        copy.advance(now);
        copy.show_time(now);
        copy.cmos[usize::from(index & 0x7f)]
    }

    /// Sets a byte of RAM; control and time registers are not for this.
    pub fn set_ram(&mut self, index: u8, value: u8) {
        let index = usize::from(index & 0x7f);
        assert!(index > index::D && index != index::CENTURY, "CMOS index {index:#x} is a register");
        self.cmos[index] = value;
        self.update_checksum();
    }

    /// Level of the interrupt output (IRQ 8).
    pub fn line(&self) -> bool {
        self.cmos[index::C] & c::IRQ != 0
    }

    /// When the line next rises.
    pub fn deadline(&self) -> Option<Vtime> {
        if self.line() {
            return None;
        }
        let enabled = self.cmos[index::B];
        let sources = [
            (b::PERIODIC, self.next_periodic()),
            (b::ALARM, self.next_alarm()),
            (b::UPDATE, self.next_update()),
        ];
        let next = sources.iter().filter(|(bit, _)| enabled & bit != 0).filter_map(|(_, at)| *at).min()?;
        u64::try_from(next).ok().map(Vtime)
    }

    /// Brings the flags of register C up to `now`.
    pub fn advance(&mut self, now: Vtime) {
        if now <= self.last {
            return;
        }
        let now_ns = i128::from(now.0);
        for (flag, at) in [
            (c::PERIODIC, self.next_periodic()),
            (c::ALARM, self.next_alarm()),
            (c::UPDATE, self.next_update()),
        ] {
            if at.is_some_and(|at| at <= now_ns) {
                self.cmos[index::C] |= flag;
            }
        }
        self.last = now;
        self.update_line();
    }

    fn read_cmos(&mut self, now: Vtime) -> u8 {
        self.advance(now);
        match usize::from(self.index) {
            index::A => {
                self.cmos[index::A] | if self.update_in_progress(now) { a::UPDATE_IN_PROGRESS } else { 0 }
            }
            index::C => std::mem::take(&mut self.cmos[index::C]),
            other => {
                self.show_time(now);
                self.cmos[other]
            }
        }
    }

    fn write_cmos(&mut self, value: u8, now: Vtime) {
        self.advance(now);
        match usize::from(self.index) {
            index::A => self.write_a(value & !a::UPDATE_IN_PROGRESS, now),
            index::B => self.write_b(value, now),
            index::C | index::D => {}
            other if index::TIME.contains(&other) => {
                self.show_time(now);
                self.cmos[other] = value;
                self.take_time(now);
            }
            other => self.cmos[other] = value,
        }
    }

    /// Leaving divider reset, the first update comes half a second later (data sheet, register A).
    fn write_a(&mut self, value: u8, now: Vtime) {
        self.show_time(now);
        let (oscillated, updated) = (self.oscillates(), self.updates());
        self.cmos[index::A] = value;
        if !oscillated && self.oscillates() {
            let phase = i128::from(now.0) - SECOND_NS / 2;
            self.anchor_ns = to_i64(phase);
            self.divider_ns = self.anchor_ns;
        }
        if !updated {
            self.take_time(now);
        }
    }

    /// SET freezes the time, clears UIE (data sheet, register B), and starts the clock with what was written.
    fn write_b(&mut self, mut value: u8, now: Vtime) {
        self.show_time(now);
        let updated = self.updates();
        if value & b::SET != 0 {
            value &= !b::UPDATE;
        }
        self.cmos[index::B] = value;
        // Enabling the source of a set flag raises the line at once.
        self.cmos[index::C] &= !c::IRQ;
        self.update_line();
        if !updated {
            self.take_time(now);
        }
    }

    fn update_line(&mut self) {
        // Enables and flags have the same bit positions.
        if self.cmos[index::B] & self.cmos[index::C] & (c::PERIODIC | c::ALARM | c::UPDATE) != 0 {
            self.cmos[index::C] |= c::IRQ;
        }
    }

    fn oscillates(&self) -> bool {
        self.cmos[index::A] & a::DIVIDER == a::DIVIDER_RUNS
    }

    fn updates(&self) -> bool {
        self.oscillates() && self.cmos[index::B] & b::SET == 0
    }

    fn binary(&self) -> bool {
        self.cmos[index::B] & b::BINARY != 0
    }

    fn hours_24(&self) -> bool {
        self.cmos[index::B] & b::HOURS_24 != 0
    }

    fn since_anchor_ns(&self, at: Vtime) -> i128 {
        i128::from(at.0) - i128::from(self.anchor_ns)
    }

    /// Seconds since 1970 that the clock shows at `at`, if it runs.
    fn seconds_at(&self, at: Vtime) -> i64 {
        let passed = self.since_anchor_ns(at).div_euclid(SECOND_NS);
        self.anchor_seconds.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    fn update_in_progress(&self, now: Vtime) -> bool {
        let phase = self.since_anchor_ns(now).rem_euclid(SECOND_NS);
        self.updates() && phase >= SECOND_NS - UPDATE_NOTICE_NS
    }

    fn next_update(&self) -> Option<i128> {
        let passed = self.since_anchor_ns(self.last).div_euclid(SECOND_NS);
        self.updates().then(|| i128::from(self.anchor_ns) + (passed + 1) * SECOND_NS)
    }

    fn next_periodic(&self) -> Option<i128> {
        let cycles = match self.cmos[index::A] & a::RATE {
            0 => return None,
            // The two fastest taps of other time bases give 256 and 128 Hz here (table 5).
            rate @ 1..=2 => 64 << rate,
            rate => 1i128 << (rate - 1),
        };
        let passed = i128::from(self.last.0) - i128::from(self.divider_ns);
        let periods = (passed * CRYSTAL_HZ).div_euclid(SECOND_NS * cycles);
        let next = ((periods + 1) * cycles * SECOND_NS + CRYSTAL_HZ - 1).div_euclid(CRYSTAL_HZ);
        self.oscillates().then(|| i128::from(self.divider_ns) + next)
    }

    fn next_alarm(&self) -> Option<i128> {
        if !self.updates() {
            return None;
        }
        let field = |register: usize| AlarmField::decode(self.cmos[register], |raw| self.decode(raw));
        let hours = AlarmField::decode(self.cmos[index::HOURS_ALARM], |raw| self.decode_hours(raw));
        let fields = [hours, field(index::MINUTES_ALARM), field(index::SECONDS_ALARM)];
        let from = self.seconds_at(self.last).saturating_add(1);
        let of_day = from.rem_euclid(86_400);
        let ahead = match alarm_in_day(fields, of_day) {
            Some(hit) => hit - of_day,
            None => alarm_in_day(fields, 0)? + 86_400 - of_day,
        };
        let seconds = i128::from(from) + i128::from(ahead) - i128::from(self.anchor_seconds);
        Some(i128::from(self.anchor_ns) + seconds * SECOND_NS)
    }

    /// Writes the running time into the registers.
    fn show_time(&mut self, now: Vtime) {
        if !self.updates() {
            return;
        }
        let time = calendar::from_seconds(self.seconds_at(now));
        let hours = if self.hours_24() {
            self.encode(time.hour)
        } else {
            self.encode((time.hour + 11) % 12 + 1) | if time.hour >= 12 { 0x80 } else { 0 }
        };
        let weekday = self.encode((time.weekday + self.weekday_shift) % 7 + 1);
        let values = [
            self.encode(time.second),
            self.encode(time.minute),
            hours,
            weekday,
            self.encode(time.day),
            self.encode(time.month),
            self.encode((time.year % 100) as u8),
            self.encode((time.year / 100 % 100) as u8),
        ];
        for (register, value) in index::TIME.into_iter().zip(values) {
            self.cmos[register] = value;
        }
    }

    /// Makes the registers the running time; the phase within the second stays. While the clock stands
    /// still nothing happens: the registers are the time.
    fn take_time(&mut self, now: Vtime) {
        if !self.updates() {
            return;
        }
        let time = DateTime {
            year: 100 * u16::from(self.decode(self.cmos[index::CENTURY]))
                + u16::from(self.decode(self.cmos[index::YEAR])),
            month: self.decode(self.cmos[index::MONTH]),
            day: self.decode(self.cmos[index::DAY]),
            hour: self.decode_hours(self.cmos[index::HOURS]),
            minute: self.decode(self.cmos[index::MINUTES]),
            second: self.decode(self.cmos[index::SECONDS]),
            weekday: 0,
        };
        let seconds = calendar::to_seconds(&time);
        let drift = seconds.saturating_sub(self.seconds_at(now));
        self.anchor_seconds = self.anchor_seconds.saturating_add(drift);
        let weekday = u16::from(self.decode(self.cmos[index::WEEKDAY])) + 6;
        let computed = u16::from(calendar::from_seconds(seconds).weekday);
        self.weekday_shift = ((weekday + 7 - computed) % 7) as u8;
    }

    fn encode(&self, value: u8) -> u8 {
        if self.binary() { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, raw: u8) -> u8 {
        if self.binary() { raw } else { (raw >> 4) * 10 + (raw & 15) }
    }

    fn decode_hours(&self, raw: u8) -> u8 {
        if self.hours_24() {
            return self.decode(raw);
        }
        let hour = self.decode(raw & 0x7f) % 12;
        if raw & 0x80 != 0 { hour + 12 } else { hour }
    }

    /// What a PC's firmware leaves in CMOS: equipment, memory sizes, checksum.
    fn fill_equipment(&mut self, ram: RamSize) {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let extended = ram.below_4g.saturating_sub(MIB) / KIB;
        let above_16m = ram.below_4g.saturating_sub(16 * MIB) / (64 * KIB);
        // Coprocessor and PS/2 mouse; no floppy.
        self.cmos[0x14] = 0x06;
        self.set_word(0x15, 640.min(ram.below_4g / KIB));
        self.set_word(0x17, extended);
        self.set_word(0x30, extended);
        self.set_word(0x34, above_16m);
        let high = (ram.above_4g / (64 * KIB)).min(0xff_ffff);
        self.cmos[0x5b..0x5e].copy_from_slice(&(high as u32).to_le_bytes()[..3]);
        self.update_checksum();
    }

    fn set_word(&mut self, index: usize, value: u64) {
        let word = u16::try_from(value).unwrap_or(u16::MAX);
        self.cmos[index..index + 2].copy_from_slice(&word.to_le_bytes());
    }

    /// Sum of the configuration bytes, high byte first, where the AT's firmware keeps it.
    fn update_checksum(&mut self) {
        let sum = self.cmos[0x10..=0x2d].iter().fold(0u16, |sum, &byte| sum.wrapping_add(u16::from(byte)));
        self.cmos[0x2e..0x30].copy_from_slice(&sum.to_be_bytes());
    }
}

/// As far as 64 bits go.
fn to_i64(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// One alarm register: a value or don't-care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AlarmField(Option<i64>);

impl AlarmField {
    fn decode(raw: u8, decode: impl Fn(u8) -> u8) -> AlarmField {
        AlarmField((raw < DONT_CARE).then(|| i64::from(decode(raw))))
    }

    /// Smallest matching value from `from` up to below `limit`.
    fn first(self, from: i64, limit: i64) -> Option<i64> {
        let value = self.0.unwrap_or(from);
        (value >= from && value < limit).then_some(value)
    }
}

/// First second of the day, from `from` on, that matches hours, minutes and seconds.
fn alarm_in_day([hours, minutes, seconds]: [AlarmField; 3], from: i64) -> Option<i64> {
    let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
    let same_minute = || {
        let fits = hours.first(hour, 24)? == hour && minutes.first(minute, 60)? == minute;
        fits.then(|| seconds.first(second, 60))?.map(|s| (hour, minute, s))
    };
    let same_hour = || {
        let fits = hours.first(hour, 24)? == hour;
        let m = fits.then(|| minutes.first(minute + 1, 60))??;
        Some((hour, m, seconds.first(0, 60)?))
    };
    let later = || Some((hours.first(hour + 1, 24)?, minutes.first(0, 60)?, seconds.first(0, 60)?));
    let (h, m, s) = same_minute().or_else(same_hour).or_else(later)?;
    Some(h * 3600 + m * 60 + s)
}

#[cfg(test)]
#[path = "rtc_tests.rs"]
mod tests;
