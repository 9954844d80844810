//! `savevm`, `loadvm`, `delvm`, `info snapshots`.

use super::args::Args;
use super::commands::Context;
use super::session::date_text;
use crate::snapshots::desk::Request;
use std::fmt::Write as _;

fn tag_of(args: &Args) -> String {
    args.text("name").unwrap_or_default().trim().to_owned()
}

fn request(context: &mut Context<'_>, request: Request) {
    match context.host.request_snapshot(request) {
        Ok(ticket) => context.wait = ticket,
        Err(why) => context.error(&why),
    }
}

pub(super) fn savevm(context: &mut Context<'_>, args: &Args) {
    let tag = tag_of(args);
    request(context, Request::Save((!tag.is_empty()).then_some(tag)));
}

pub(super) fn loadvm(context: &mut Context<'_>, args: &Args) {
    match tag_of(args) {
        tag if tag.is_empty() => context.line("loadvm: string expected"),
        tag => request(context, Request::Load(tag)),
    }
}

pub(super) fn delvm(context: &mut Context<'_>, args: &Args) {
    match tag_of(args) {
        tag if tag.is_empty() => context.line("delvm: string expected"),
        // As QEMU: nothing to delete is no error.
        tag => request(context, Request::Delete(tag)),
    }
}

/// `%0.3g` and a unit, as QEMU writes sizes.
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let mut text = format!("{value:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text} {}B", UNITS[unit])
}

/// Hours, minutes, seconds, milliseconds.
fn clock_text(ns: u64) -> String {
    let ms = ns / 1_000_000;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", ms % 1000)
}

pub(super) fn info_snapshots(context: &mut Context<'_>, _: &Args) {
    let (infos, errors) = context.host.snapshots();
    let start = context.host.start_snapshot().map(|(tag, unix_s)| (tag.to_owned(), unix_s));
    let row = |tag: &str, size: &str, date: &str, clock: &str, icount: &str| {
        format!("{:<9} {tag:<16} {size:>8}{date:>20}{clock:>13}{icount:>11}\n", "--")
    };
    let mut rows = String::new();
    // The start of a recording without a snapshot is made anew from the manifest, so it takes no room.
    if let Some((tag, unix_s)) = start.filter(|(tag, _)| !infos.iter().any(|info| info.tag == *tag)) {
        rows.push_str(&row(&tag, "0 KiB", &date_text(unix_s), "00:00:00.000", "0"));
    }
    for info in &infos {
        let (size, date) = (size_text(info.vm_bytes), date_text(info.created_unix_s));
        rows.push_str(&row(&info.tag, &size, &date, &clock_text(info.vtime_ns), &info.icount.to_string()));
    }
    if rows.is_empty() {
        context.line("There is no snapshot available.");
    } else {
        let _ = write!(
            context.out,
            "List of snapshots present on all disks:\n{:<9} {:<16} {:>8}{:>20}{:>13}{:>11}\n{rows}",
            "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"
        );
    }
    for error in errors {
        context.error(&error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_as_qemu_writes_them() {
        for (bytes, text) in
            [(0, "0 B"), (462_848, "452 KiB"), (999, "999 B"), (1000, "0.98 KiB"), (101 << 20, "101 MiB")]
        {
            assert_eq!(size_text(bytes), text);
        }
        assert_eq!(size_text(1_536 << 20), "1.5 GiB");
        assert_eq!(clock_text(3_723_004_999_999), "01:02:03.004");
    }
}
