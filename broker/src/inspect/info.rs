//! `reprise info DIR`: what a recording is and whether it is whole.

use super::describe::describe;
use super::{Form, InspectError, ending_json};
use replay::device::{DeviceKind, VirtioKind};
use replay::log::{Ending, Step, Survey};
use replay::manifest::{FileIdentity, Manifest};
use replay::recording::Recording;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Number of events by kind.
pub type Counts = BTreeMap<&'static str, u64>;

/// A log in numbers.
#[derive(Debug)]
pub struct Summary {
    /// Sizes and length.
    pub survey: Survey,
    /// Events by kind, as far as the log can be read.
    pub counts: Counts,
    /// How the log ends.
    pub ending: Ending,
}

/// Reads a whole log.
pub fn summarize(recording: &Recording) -> Result<Summary, InspectError> {
    let survey = recording.survey_log()?;
    let mut reader = recording.open_log()?;
    let mut counts = Counts::new();
    let ending = loop {
        match reader.next()? {
            Step::Event(entry) => *counts.entry(describe(&entry.stamped.event).kind).or_default() += 1,
            Step::Ended(ending) => break ending,
        }
    };
    Ok(Summary { survey, counts, ending })
}

/// Writes a summary. The ending of the log is returned, for the exit status.
pub fn info(recording: &Recording, form: Form, out: &mut dyn Write) -> Result<Ending, InspectError> {
    let Summary { survey, counts, ending } = summarize(recording)?;
    match form {
        Form::Text => write_text(recording, &survey, &counts, &ending, out)?,
        Form::Json => writeln!(out, "{:#}", as_json(recording, &survey, &counts, &ending))?,
    }
    Ok(ending)
}

fn write_text(
    recording: &Recording,
    survey: &Survey,
    counts: &Counts,
    ending: &Ending,
    out: &mut dyn Write,
) -> io::Result<()> {
    let manifest = recording.manifest();
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let log = format!(
        "{} bytes, {} blocks, {} events ({} bytes before compression)",
        survey.bytes, survey.blocks, survey.events, survey.raw_bytes
    );
    let rows = [
        ("recording", recording.path().display().to_string()),
        ("format", format!("{}, made by reprise {}", manifest.format, manifest.build)),
        ("created", utc(manifest.created_unix_s)),
        ("uuid", manifest.uuid.clone()),
        ("machine", machine_text(manifest)),
        ("kernel", image_text(manifest.kernel.as_ref())),
        ("initrd", image_text(manifest.initrd.as_ref())),
        ("append", manifest.machine.boot.cmdline.clone()),
        ("devices", device_text(manifest)),
        ("disks", disk_text(manifest)),
        ("networks", network_text(manifest)),
        ("command line", manifest.command_line.join(" ")),
        ("host CPU", manifest.host_cpu_vendor.clone()),
        ("rrsnapshot", manifest.snapshot_tag.clone().unwrap_or("none".into())),
        ("start", start_text(manifest)),
        ("cut off", cut_text(recording)),
        ("log", log),
        ("events", counts.join(", ")),
        ("length", format!("{} instructions", survey.progress)),
        ("state", ending.to_string()),
    ];
    for (name, value) in rows {
        // Values come from a file that anyone may have made: nothing in them may move the cursor.
        let value: String = value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        writeln!(out, "{}", format!("{name:<14}{value}").trim_end())?;
    }
    Ok(())
}

fn as_json(recording: &Recording, survey: &Survey, counts: &Counts, ending: &Ending) -> Value {
    json!({
        "path": recording.path().display().to_string(),
        "manifest": recording.manifest(),
        "cut_logs": recording.cut_logs().len(),
        "log": {
            "bytes": survey.bytes,
            "blocks": survey.blocks,
            "events": survey.events,
            "raw_bytes": survey.raw_bytes,
            "instructions": survey.progress,
            "kinds": counts,
            "ending": ending_json(ending),
        },
    })
}

fn start_text(manifest: &Manifest) -> String {
    manifest.start_snapshot.as_ref().map_or("power-on".into(), |tag| format!("snapshot {tag}"))
}

/// What came after places to which a snapshot took the machine back.
fn cut_text(recording: &Recording) -> String {
    match recording.cut_logs().len() {
        0 => "nothing".into(),
        1 => "1 log".into(),
        count => format!("{count} logs"),
    }
}

fn machine_text(manifest: &Manifest) -> String {
    let machine = &manifest.machine;
    let features =
        machine.cpu.features.iter().map(|(name, on)| format!(",{}{name}", if *on { '+' } else { '-' }));
    let rate = if machine.clock.auto { "auto".into() } else { machine.clock.shift.to_string() };
    format!(
        "{} MiB RAM, {} CPU {}{}, icount shift={rate}, RTC from {}",
        machine.ram_bytes >> 20,
        machine.cpu_count,
        machine.cpu.model,
        features.collect::<String>(),
        utc(machine.clock.rtc_base)
            + if machine.clock.host_offset_s.is_some() { ", on the host's clock" } else { "" }
    )
}

fn device_text(manifest: &Manifest) -> String {
    let kind = |kind: &DeviceKind| match kind {
        DeviceKind::Chardev => "Chardev",
        DeviceKind::Block(_) => "disk",
        DeviceKind::Net { .. } => "network",
        DeviceKind::Entropy { .. } => "entropy",
        DeviceKind::Foreign { .. } => "vhost-user",
    };
    let devices = manifest.machine.devices.iter();
    list(devices.map(|device| format!("{} ({})", device.id, kind(&device.kind))))
}

fn disk_text(manifest: &Manifest) -> String {
    list(manifest.disks.iter().map(|disk| {
        let below = disk.backing.iter().map(|name| format!(", over {name}")).collect::<String>();
        format!("{}: {} ({}, {} bytes{below})", disk.id, disk.path, disk.format, disk.bytes)
    }))
}

fn network_text(manifest: &Manifest) -> String {
    let machine = &manifest.machine;
    list(machine.functions.iter().filter_map(|function| {
        let VirtioKind::Net { device, mac } = &function.kind else { return None };
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let behind = match &machine.devices.get(usize::from(*device))?.kind {
            DeviceKind::Net { netdev } => netdev.clone(),
            DeviceKind::Foreign { socket } => format!("vhost-user,path={}", socket.display()),
            DeviceKind::Chardev | DeviceKind::Block(_) | DeviceKind::Entropy { .. } => return None,
        };
        Some(format!("{}: {behind} (mac {mac})", function.id))
    }))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

fn image_text(image: Option<&FileIdentity>) -> String {
    image.map_or("none".into(), |image| {
        format!("{} ({} bytes, sha256 {})", image.path, image.bytes, image.sha256)
    })
}

/// A time as `YYYY-MM-DD hh:mm:ss UTC`, in the Gregorian calendar.
fn utc(unix_s: i64) -> String {
    let (mut days, second) = (i128::from(unix_s.div_euclid(86_400)), unix_s.rem_euclid(86_400));
    // Count in 400-year cycles of 146 097 days from 1970, then year by year and month by month.
    let mut year = 1970 + 400 * days.div_euclid(146_097);
    days = days.rem_euclid(146_097);
    let is_leap = |year: i128| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while days >= 365 + i128::from(is_leap(year)) {
        days -= 365 + i128::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i128::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{:02}-{:02} {hour:02}:{minute:02}:{:02} UTC", month + 1, days + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_those_of_date_1() {
        // `date -u -d @N`.
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_700_000_001), "2023-11-14 22:13:21 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(utc(-1), "1969-12-31 23:59:59 UTC");
        assert!(utc(i64::MIN).ends_with("UTC") && utc(i64::MAX).ends_with("UTC"));
    }
}
