//! `log` and `logfile`.

use super::args::Args;
use super::commands::Context;
use crate::logging::{Change, LEVELS, check_filter};
use std::fmt::Write as _;

/// The items, as QEMU lists its own.
pub(super) fn items() -> String {
    let mut text = "Log items (comma separated):\n".to_owned();
    let _ = writeln!(text, "{:<15} as at the start without -d", "none");
    for (name, help) in LEVELS {
        let _ = writeln!(text, "{name:<15} {help}");
    }
    let _ = writeln!(text, "{:<15} the same for one part: broker, vcpu, devices, or a module", "TARGET=ITEM");
    text
}

pub(super) fn log(context: &mut Context<'_>, args: &Args) {
    let filter = args.text("items").unwrap_or_default().to_owned();
    let change = match filter.as_str() {
        "help" => return context.out.push_str(&items()),
        "none" => Change::Filter(None),
        _ => match check_filter(&filter) {
            Ok(()) => Change::Filter(Some(filter)),
            Err(why) => return context.error(&why.replace("-d help", "log help")),
        },
    };
    change_log(context, change);
}

pub(super) fn logfile(context: &mut Context<'_>, args: &Args) {
    let file = args.text("filename").map(Into::into);
    change_log(context, Change::File(file));
}

fn change_log(context: &mut Context<'_>, change: Change) {
    match context.host.change_log(change) {
        Ok(ticket) => context.wait = ticket,
        Err(why) => context.error(&why),
    }
}
