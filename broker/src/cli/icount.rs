//! `-icount`: the rate of guest time, and recording and replaying. Errors in QEMU's words.

use super::keyval::KeyValues;
use crate::snapshots::places::Periodic;
use std::path::PathBuf;
use std::time::Duration;

/// Seconds between two snapshots that are made from time to time, unless `rrsnaptime=` says otherwise.
const PERIODIC_SECONDS: u64 = 60;
/// How many of them are kept, unless `rrsnapcount=` says otherwise.
const PERIODIC_COUNT: u64 = 10;
/// Largest `shift`.
pub const SHIFT_MAX: u8 = 10;

/// What `-icount` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IcountOption {
    /// Rate of guest time, if given.
    pub shift: Option<Shift>,
    /// `sleep=`, if given.
    pub sleep: Option<bool>,
    /// `rr=`: record or replay.
    pub record_replay: Option<RecordReplay>,
}

/// Nanoseconds an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Follow the host's speed.
    Auto,
    /// 2^N.
    Fixed(u8),
}

/// `rr=`, `rrfile=` and `rrsnapshot=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordReplay {
    /// Record; otherwise replay.
    pub record: bool,
    /// Directory of the recording.
    pub file: PathBuf,
    /// Name of the state at the start.
    pub snapshot: Option<String>,
    /// `rrsnapmode=periodic`: snapshots from time to time.
    pub periodic: Option<Periodic>,
}

/// Reads the value of `-icount`.
pub fn parse(text: &str) -> Result<IcountOption, String> {
    let mut list = KeyValues::parse(text, Some("shift"))?;
    let shift_text = list.take("shift")?;
    let align = list.take_bool("align")?.unwrap_or(false);
    let sleep = list.take_bool("sleep")?;
    let rr = list.take("rr")?;
    let file = list.take("rrfile")?;
    let snapshot = list.take("rrsnapshot")?;
    let mode = list.take("rrsnapmode")?;
    let interval = take_count(&mut list, "rrsnaptime")?;
    let count = take_count(&mut list, "rrsnapcount")?;
    list.finish()?;
    if align && shift_text.is_none() {
        return Err("Please specify shift option when using align".to_owned());
    }
    if align && sleep == Some(false) {
        return Err("align=on and sleep=off are incompatible".to_owned());
    }
    let shift = shift_text.as_deref().map(parse_shift).transpose()?;
    if align && shift == Some(Shift::Auto) {
        return Err("shift=auto and align=on are incompatible".to_owned());
    }
    if align {
        return Err("align=on is not supported yet".to_owned());
    }
    let record = match rr.as_deref() {
        None => {
            if file.is_some() || snapshot.is_some() {
                return Err("rrfile= and rrsnapshot= need rr=record or rr=replay".to_owned());
            }
            if mode.is_some() {
                return Err("rrsnapmode= needs rr=record or rr=replay".to_owned());
            }
            return Ok(IcountOption { shift, sleep, record_replay: None });
        }
        Some("record") => true,
        Some("replay") => false,
        Some(other) => return Err(format!("Invalid icount rr option: {other}")),
    };
    let file = file.filter(|name| !name.is_empty()).ok_or("File name not specified for replay")?;
    let periodic = match mode.as_deref() {
        None | Some("none") if interval.is_some() || count.is_some() => {
            return Err("rrsnaptime= and rrsnapcount= need rrsnapmode=periodic".to_owned());
        }
        None | Some("none") => None,
        Some("periodic") => Some(Periodic {
            interval: Duration::from_secs(interval.unwrap_or(PERIODIC_SECONDS)),
            count: count.unwrap_or(PERIODIC_COUNT) as usize,
        }),
        Some(other) => return Err(format!("Invalid rrsnapmode option: {other}")),
    };
    let record_replay = Some(RecordReplay { record, file: PathBuf::from(file), snapshot, periodic });
    Ok(IcountOption { shift, sleep, record_replay })
}

/// A number of at least one.
fn take_count(list: &mut KeyValues, name: &str) -> Result<Option<u64>, String> {
    match list.take_number(name)? {
        Some(0) => Err(format!("{name}= is at least 1")),
        number => Ok(number),
    }
}

fn parse_shift(text: &str) -> Result<Shift, String> {
    match text {
        "auto" => Ok(Shift::Auto),
        _ => match super::size::parse_number(text) {
            Some(shift) if shift <= u64::from(SHIFT_MAX) => Ok(Shift::Fixed(shift as u8)),
            _ => Err("icount: Invalid shift value".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_with_all() {
        let option = parse("shift=auto,rrfile=rr,rr=record,rrsnapshot=init").unwrap();
        assert_eq!(option.shift, Some(Shift::Auto));
        let rr = option.record_replay.unwrap();
        assert!(rr.record);
        assert_eq!((rr.file, rr.snapshot.as_deref()), (PathBuf::from("rr"), Some("init")));
    }

    #[test]
    fn bare_shift_and_sleep() {
        let option = parse("7,sleep=off").unwrap();
        assert_eq!((option.shift, option.sleep), (Some(Shift::Fixed(7)), Some(false)));
    }

    #[test]
    fn errors_in_the_words_of_qemu() {
        for (text, message) in [
            ("shift=11", "icount: Invalid shift value"),
            ("shift=-1", "icount: Invalid shift value"),
            ("x", "icount: Invalid shift value"),
            ("align=on", "Please specify shift option when using align"),
            ("shift=1,align=on,sleep=off", "align=on and sleep=off are incompatible"),
            ("shift=auto,align=on", "shift=auto and align=on are incompatible"),
            ("shift=auto,rr=foo,rrfile=x", "Invalid icount rr option: foo"),
            ("shift=auto,rr=record", "File name not specified for replay"),
            ("shift=auto,rrr=record", "Invalid parameter 'rrr'"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message, "{text}");
        }
    }
}
