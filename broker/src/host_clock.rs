//! The one place of the broker that reads the host's real-time clock.
//!
//! What is read here reaches the guest only through the manifest (`rtc_base`, `host_offset_s`): once, at the start of
//! a run. Events of QMP carry the time too; they go to the user.

use nix::time::{ClockId, clock_gettime};

/// The host's time now: seconds since 1970-01-01, in UTC and as its local clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTime {
    /// UTC.
    pub utc: i64,
    /// UTC plus the offset of the local time zone.
    pub local: i64,
}

/// Microseconds since 1970-01-01 UTC, for those who watch a run.
pub fn now_us() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| {
        let (seconds, ns) = (time.tv_sec().max(0) as u64, time.tv_nsec().max(0) as u64);
        seconds * 1_000_000 + ns / 1000
    })
}

/// Reads the clock.
pub fn now() -> HostTime {
    let utc = clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec());
    HostTime { utc, local: utc + local_offset(utc) }
}

/// Seconds that local time is ahead of UTC, from the host's time zone file (RFC 8536, version 1 data).
fn local_offset(utc: i64) -> i64 {
    let path = match std::env::var("TZ") {
        Ok(name) if name.trim_start_matches(':').is_empty() => return 0,
        Ok(name) => {
            let name = name.trim_start_matches(':').to_owned();
            if name.starts_with('/') { name } else { format!("/usr/share/zoneinfo/{name}") }
        }
        Err(_) => "/etc/localtime".to_owned(),
    };
    std::fs::read(path).ok().and_then(|file| offset_at(&file, utc)).unwrap_or(0)
}

/// Looks `utc` up in a time zone file.
fn offset_at(file: &[u8], utc: i64) -> Option<i64> {
    let header = file.get(..44)?;
    if &header[..4] != b"TZif" {
        return None;
    }
    let count = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?) as usize);
    let (times, types) = (count(32)?, count(36)?);
    let transitions = file.get(44..44usize.checked_add(times.checked_mul(4)?)?)?;
    let indexes = file.get(44 + times * 4..44 + times * 5)?;
    let records = file.get(44 + times * 5..(44 + times * 5).checked_add(types.checked_mul(6)?)?)?;
    let before = transitions
        .chunks_exact(4)
        .take_while(|chunk| i64::from(i32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])) <= utc)
        .count();
    let index = if before == 0 { 0 } else { usize::from(indexes[before - 1]) };
    let record = records.get(index * 6..index * 6 + 4)?;
    Some(i64::from(i32::from_be_bytes(record.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_zone_file_is_looked_up() {
        // Two types, +3600 and +7200 s; the second begins at 1000.
        let mut file = b"TZif1".to_vec();
        file.resize(20, 0);
        for count in [0u32, 0, 0, 1, 2, 8] {
            file.extend(count.to_be_bytes());
        }
        file.extend(1000i32.to_be_bytes());
        file.push(1);
        for offset in [3600i32, 7200] {
            file.extend(offset.to_be_bytes());
            file.extend([0, 0]);
        }
        assert_eq!(offset_at(&file, 999), Some(3600));
        assert_eq!(offset_at(&file, 1000), Some(7200));
        assert_eq!(offset_at(&file[..50], 1000), None);
        assert_eq!(offset_at(b"", 0), None);
    }
}
