//! What each monitor command does. Answers are QEMU's, word for word where it has them.

use super::args::{Args, Known};
use super::host::{Host, RunStatus, Ticket};
use super::inquiry::{Begin, Inquired};
use super::keys;
use super::place::{Place, Position};
use super::table::{COMMANDS, INFO, Question, Row, Run, find, help_line};
use crate::cli::gdb;
use replay::event::Input;
use replay::message::Offer;
use replay::setup::Mode;
use std::fmt::Write as _;

/// What a command works on.
pub struct Context<'a> {
    /// The run.
    pub host: &'a mut dyn Host,
    /// Lines entered before.
    pub history: &'a [String],
    /// The answer so far.
    pub out: String,
    /// The answer is complete only when this is done.
    pub wait: Option<Ticket>,
    /// The monitor ends with this command.
    pub ended: bool,
}

impl Context<'_> {
    pub(super) fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    pub(super) fn error(&mut self, why: &str) {
        let _ = writeln!(self.out, "Error: {why}");
    }

    fn offer(&mut self, offer: Offer) {
        if let Err(why) = self.host.offer(offer) {
            self.error(&why);
        }
    }
}

/// Carries out one line.
pub fn execute(context: &mut Context<'_>, line: &str) {
    let line = line.trim();
    if line.is_empty() {
        return;
    }
    run_row(context, COMMANDS, "", line);
}

fn run_row(context: &mut Context<'_>, rows: &'static [Row], prefix: &str, line: &str) {
    // A format may follow the name at once: x/4xb.
    let end = line.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let Some(row) = find(rows, name) else {
        context.line(&format!("unknown command: '{prefix}{name}'"));
        return;
    };
    let full_name = format!("{prefix}{name}");
    match row.run {
        Run::Now(run) => match Args::read(&row.names.join("|"), row.grammar, rest, Known::default()) {
            Ok(args) => run(context, &args),
            Err(why) => context.line(&refusal(&why, &full_name)),
        },
        Run::Asks(question) => match context.host.inquire(ask_row(row, &full_name, rest, question)) {
            Ok(Inquired::Text(text)) => context.out.push_str(&text),
            Ok(Inquired::Later(ticket)) => context.wait = Some(ticket),
            Err(why) => context.error(&why),
        },
    }
}

fn refusal(why: &str, name: &str) -> String {
    format!("{why}\nTry \"help {name}\" for more information")
}

/// A command that asks the vCPU process: first for registers, if the arguments name some.
pub(super) fn ask_row(row: &'static Row, name: &str, rest: &str, question: Question) -> Begin {
    let (name, rest) = (name.to_owned(), rest.to_owned());
    Box::new(move |asker| {
        Box::pin(async move {
            let registers = if rest.contains('$') { Some(asker.registers().await?) } else { None };
            let known = Known { registers: registers.as_ref(), format: asker.format() };
            let args = Args::read(&row.names.join("|"), row.grammar, &rest, known);
            let args = args.map_err(|why| refusal(&why, &name))?;
            question(asker, args).await
        })
    })
}

pub(super) fn help(context: &mut Context<'_>, args: &Args) {
    let topic = args.text("name").unwrap_or_default();
    let (rows, prefix, name) = match topic.split_once(char::is_whitespace) {
        Some(("info", item)) => (INFO, "info ", item.trim()),
        _ if topic == "info" => (INFO, "info ", ""),
        _ => (COMMANDS, "", topic),
    };
    let mut lines = String::new();
    for row in rows.iter().filter(|row| name.is_empty() || row.names.contains(&name)) {
        lines.push_str(&help_line(row, prefix));
    }
    if lines.is_empty() {
        lines = format!("unknown command: '{prefix}{name}'\n");
    }
    if name == "log" {
        lines.push_str(&super::logging::items());
    }
    context.out.push_str(&lines);
}

pub(super) fn info(context: &mut Context<'_>, args: &Args) {
    match args.text("item") {
        None | Some("") => INFO.iter().for_each(|row| context.out.push_str(&help_line(row, "info "))),
        Some(line) => {
            let line = line.to_owned();
            run_row(context, INFO, "info ", &line);
        }
    }
}

pub(super) fn stop(context: &mut Context<'_>, _: &Args) {
    match context.host.stop() {
        Ok(ticket) => context.wait = ticket,
        Err(why) => context.error(&why),
    }
}

impl Context<'_> {
    /// Waits for a request to be done, or says why it is not.
    fn wait_for(&mut self, requested: Result<Option<Ticket>, String>) {
        match requested {
            Ok(ticket) => self.wait = ticket,
            Err(why) => self.error(&why),
        }
    }
}

pub(super) fn cont(context: &mut Context<'_>, _: &Args) {
    match context.host.cont() {
        Ok(ticket) => context.wait = ticket,
        Err(why) => context.error(&why),
    }
}

pub(super) fn gdbserver(context: &mut Context<'_>, args: &Args) {
    let text = args.text("device").filter(|text| !text.is_empty()).unwrap_or(gdb::DEFAULT).to_owned();
    let device = match gdb::parse(&text) {
        Ok(device) => device,
        Err(why) => return context.error(&why),
    };
    let answer = match device {
        Some(_) => format!("Waiting for gdb connection on device '{text}'"),
        None => "Disabled gdbserver".to_owned(),
    };
    match context.host.gdb_server(device) {
        Ok(ticket) => {
            context.wait = ticket;
            context.line(&answer);
        }
        Err(why) => context.error(&why),
    }
}

pub(super) fn quit(context: &mut Context<'_>, _: &Args) {
    context.host.quit();
    context.ended = true;
}

pub(super) fn system_reset(context: &mut Context<'_>, _: &Args) {
    context.offer(Offer::Reset);
}

pub(super) fn system_powerdown(context: &mut Context<'_>, _: &Args) {
    context.offer(Offer::PowerButton);
}

pub(super) fn nmi(context: &mut Context<'_>, _: &Args) {
    context.offer(Offer::Nmi);
}

pub(super) fn port_write(context: &mut Context<'_>, args: &Args) {
    let integer = |name| args.integer(name).unwrap_or(0);
    let size = args.format().size.min(4);
    context.offer(Offer::PortWrite { port: integer("addr") as u16, size, value: integer("val") as u32 });
}

/// Longest time for which `sendkey` holds keys.
const HOLD_MS_MAX: i64 = 60_000;

pub(super) fn sendkey(context: &mut Context<'_>, args: &Args) {
    let hold_ms = args.integer("hold-time").unwrap_or(100).clamp(0, HOLD_MS_MAX) as u64;
    let mut codes = match keys::parse(args.text("keys").unwrap_or_default()) {
        Ok(codes) => codes,
        Err(why) => return context.line(&why),
    };
    for code in &codes {
        if let Err(why) = context.host.offer(Offer::Input(Input::Key { scancode: *code, down: true })) {
            return context.error(&why);
        }
    }
    codes.reverse();
    context.host.release_keys_later(codes, hold_ms);
}

pub(super) fn mouse_move(context: &mut Context<'_>, args: &Args) {
    // C's strtol: as many digits as there are, else 0.
    let number = |name: &str| args.text(name).and_then(|text| text.parse::<i32>().ok()).unwrap_or(0);
    let (dx, dy, dz) = (number("dx_str"), number("dy_str"), number("dz_str"));
    context.offer(Offer::Input(Input::MouseMove { dx, dy, dz }));
}

pub(super) fn mouse_button(context: &mut Context<'_>, args: &Args) {
    // The monitor counts left, middle, right; the mouse itself left, right, middle.
    let state = args.integer("button_state").unwrap_or(0);
    let buttons = (state & 1) | (state >> 1 & 2) | (state << 1 & 4);
    context.offer(Offer::Input(Input::MouseButtons { buttons: buttons as u8 }));
}

pub(super) fn replay_break(context: &mut Context<'_>, args: &Args) {
    let Some(place) = args.place() else { return };
    let status = context.host.replay_status();
    if status.mode != Mode::Replay {
        return context.line("setting the breakpoint is allowed only in play mode");
    }
    let set = match position(context, place) {
        Position::Icount(icount) if icount < status.icount => {
            return context.line("cannot set breakpoint at the instruction in the past");
        }
        Position::Icount(icount) => context.host.set_break(icount),
        Position::Time(vtime) => context.host.set_break_time(vtime),
    };
    context.wait_for(set);
}

/// Where a place is in the log that is replayed.
fn position(context: &Context<'_>, place: Place) -> Position {
    place.position(context.host.log_end().unwrap_or(0))
}

pub(super) fn replay_delete_break(context: &mut Context<'_>, _: &Args) {
    match context.host.replay_status().mode {
        Mode::Replay => {
            let deleted = context.host.delete_break(None);
            context.wait_for(deleted);
        }
        Mode::Plain | Mode::Record => context.line("replay breakpoints are allowed only in play mode"),
    }
}

pub(super) fn replay_seek(context: &mut Context<'_>, args: &Args) {
    let Some(place) = args.place() else { return };
    if context.host.replay_status().mode != Mode::Replay {
        return context.line("replay must be enabled to seek");
    }
    let went = match position(context, place) {
        Position::Icount(icount) => context.host.seek(icount),
        Position::Time(vtime) => context.host.seek_time(vtime),
    };
    context.wait_for(went);
}

pub(super) fn info_status(context: &mut Context<'_>, _: &Args) {
    if let (RunStatus::Running, Some(device)) = (context.host.run_status(), context.host.waiting_for()) {
        let line = format!("VM status: running (waiting for device \"{device}\")");
        return context.line(&line);
    }
    context.line(match context.host.run_status() {
        RunStatus::Running => "VM status: running",
        RunStatus::Paused => "VM status: paused",
        RunStatus::Debug => "VM status: paused (debug)",
        RunStatus::Prelaunch => "VM status: paused (prelaunch)",
        RunStatus::Shutdown => "VM status: paused (shutdown)",
        RunStatus::Panicked => "VM status: paused (guest-panicked)",
        RunStatus::IoError => "VM status: paused (io-error)",
        RunStatus::InternalError => "VM status: paused (internal-error)",
    });
}

pub(super) fn info_replay(context: &mut Context<'_>, _: &Args) {
    let status = context.host.replay_status();
    let verb = match status.mode {
        Mode::Plain => return context.line("Record/replay is not active"),
        Mode::Record => "Recording",
        Mode::Replay => "Replaying",
    };
    context.line(&format!("{verb} execution '{}': instruction count = {}", status.file, status.icount));
}

pub(super) fn info_version(context: &mut Context<'_>, _: &Args) {
    context.line(env!("CARGO_PKG_VERSION"));
}

pub(super) fn info_name(context: &mut Context<'_>, _: &Args) {
    if let Some(name) = context.host.name().map(str::to_owned) {
        context.line(&name);
    }
}

pub(super) fn info_uuid(context: &mut Context<'_>, _: &Args) {
    let uuid = context.host.uuid().unwrap_or("00000000-0000-0000-0000-000000000000").to_owned();
    context.line(&uuid);
}

pub(super) fn info_history(context: &mut Context<'_>, _: &Args) {
    for (number, line) in context.history.iter().enumerate() {
        let _ = writeln!(context.out, "{number}: '{line}'");
    }
}

pub(super) fn info_chardev(context: &mut Context<'_>, _: &Args) {
    for (id, filename) in context.host.chardevs() {
        let _ = writeln!(context.out, "{id}: filename={filename}");
    }
}

pub(super) fn info_kvm(context: &mut Context<'_>, _: &Args) {
    context.line("kvm support: disabled");
}

pub(super) fn info_cpus(context: &mut Context<'_>, _: &Args) {
    let pid = context.host.vcpu_pid();
    context.line(&format!("* CPU #0: thread_id={pid}"));
}
