//! One conversation with a monitor: greeting, prompt, lines, answers.

use super::commands::{Context, execute};
use super::host::{Host, Ticket};
use super::line::{LineReader, Step};
use super::table::{COMMANDS, INFO, Row};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is shown when the monitor waits for a command.
pub const PROMPT: &str = "(reprise) ";

/// One conversation.
#[derive(Debug)]
pub struct Session {
    reader: LineReader,
    /// Bytes not looked at yet, because an answer is still to come.
    unread: VecDeque<u8>,
    waiting: Option<Ticket>,
    ended: bool,
    out: Vec<u8>,
    terminal: bool,
    /// When the way to a place was shown last, and whether it stands on the line.
    shown: Option<Instant>,
}

/// Input that is kept while an answer is outstanding.
const UNREAD_BYTES_MAX: usize = 1 << 16;
/// ^C on a terminal.
const INTERRUPT: u8 = 3;
/// Time between two looks at the way to a place; shorter ways are not shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(400);

impl Session {
    /// A conversation with a terminal (echo, editing) or a script (plain lines).
    pub fn new(terminal: bool) -> Session {
        Session {
            reader: LineReader::new(terminal, PROMPT),
            unread: VecDeque::new(),
            waiting: None,
            ended: false,
            out: Vec::new(),
            terminal,
            shown: None,
        }
    }

    /// The banner and the first prompt.
    pub fn greet(&mut self) {
        self.put(concat!(
            "reprise ",
            env!("CARGO_PKG_VERSION"),
            " monitor - type 'help' for more information\n"
        ));
        self.put(PROMPT);
    }

    /// Takes what is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// More input can be taken: no answer is outstanding.
    pub fn wants_input(&self) -> bool {
        self.waiting.is_none() && !self.ended
    }

    /// There is room for more input, which may wait for an answer that is outstanding.
    pub fn has_room(&self) -> bool {
        !self.ended && self.unread.len() < UNREAD_BYTES_MAX
    }

    /// Takes input and carries out the lines in it. On a terminal, ^C while an answer is outstanding stops the machine, and
    /// with it the way to a place.
    pub fn input(&mut self, bytes: &[u8], host: &mut dyn Host) {
        let interrupt = bytes.iter().rposition(|byte| *byte == INTERRUPT);
        match interrupt.filter(|_| self.terminal && self.waiting.is_some()) {
            Some(at) => {
                self.unread.clear();
                self.unread.extend(&bytes[at + 1..]);
                if let Err(why) = host.stop() {
                    self.put(&format!("Error: {why}\n"));
                }
            }
            None => self.unread.extend(bytes),
        }
        self.proceed(host);
    }

    /// Shows on a terminal how far the machine is on its way to the place that this conversation waits for.
    pub fn tick(&mut self, host: &dyn Host, now: Instant) {
        let progress = host.seek_progress().filter(|(ticket, ..)| self.waiting == Some(*ticket));
        let Some((_, icount, goal)) = progress.filter(|_| self.terminal) else { return };
        if *self.shown.get_or_insert(now) + PROGRESS_INTERVAL > now {
            return;
        }
        self.shown = Some(now);
        let of = goal.map(|goal| format!(" of {goal}")).unwrap_or_default();
        self.put(&format!("\rat instruction {icount}{of}; ^C stops here\x1b[K"));
    }

    /// A request is done: its answer ends here, and the next line is read.
    pub fn ticket_done(&mut self, ticket: Ticket, host: &mut dyn Host) {
        if self.waiting == Some(ticket) {
            self.waiting = None;
            if self.shown.take().is_some() {
                self.put("\r\x1b[K");
            }
            if let Some(text) = host.take_text(ticket) {
                self.put(&text);
            }
            if let Some(why) = host.take_failure(ticket) {
                self.put(&format!("Error: {why}\n"));
            }
            self.put(PROMPT);
            self.proceed(host);
        }
    }

    fn proceed(&mut self, host: &mut dyn Host) {
        while self.wants_input() {
            let Some(byte) = self.unread.pop_front() else { return };
            let step = self.reader.feed(byte);
            let echo = self.reader.take_echo();
            self.out.extend(echo);
            match step {
                Step::None => {}
                Step::Line(line) => self.run(&line, host),
                Step::Complete(text) => self.complete(&text),
            }
        }
    }

    fn run(&mut self, line: &str, host: &mut dyn Host) {
        let mut context =
            Context { host, history: self.reader.history(), out: String::new(), wait: None, ended: false };
        execute(&mut context, line);
        let Context { out, wait, ended, .. } = context;
        self.put(&out);
        self.waiting = wait;
        self.ended = ended;
        if self.wants_input() {
            self.put(PROMPT);
        }
    }

    /// Offers the names that begin with the word before the cursor.
    fn complete(&mut self, before: &str) {
        let (rows, word) = match before.trim_start().split_once(' ') {
            None => (COMMANDS, before.trim_start()),
            Some(("help" | "?", word)) => (COMMANDS, word),
            Some(("info", word)) => (INFO, word),
            Some(_) => return,
        };
        let names = names_with(rows, word);
        let Some(shared) = shared_beginning(&names) else { return };
        match names.len() {
            1 => self.reader.insert(&format!("{} ", &shared[word.len()..])),
            _ if shared.len() > word.len() => self.reader.insert(&shared[word.len()..]),
            _ => {
                self.put("\n");
                self.put(&format!("{}\n", names.join(" ")));
                self.reader.redraw();
            }
        }
        let echo = self.reader.take_echo();
        self.out.extend(echo);
    }

    /// Lines end with CR LF, as QEMU's do.
    fn put(&mut self, text: &str) {
        self.out.extend(text.replace('\n', "\r\n").into_bytes());
    }
}

fn names_with(rows: &'static [Row], word: &str) -> Vec<&'static str> {
    rows.iter().flat_map(|row| row.names).copied().filter(|name| name.starts_with(word)).collect()
}

fn shared_beginning<'a>(names: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = names.split_first()?;
    let length = rest.iter().fold(first.len(), |length, name| {
        first.bytes().zip(name.bytes()).take(length).take_while(|(a, b)| a == b).count()
    });
    Some(&first[..length])
}

/// `2026-11-20 21:33:54`, in UTC.
pub fn date_text(unix_s: i64) -> String {
    let (mut days, second) = (unix_s.div_euclid(86400), unix_s.rem_euclid(86400));
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // Whole periods of 400 years first, so that no date loops long.
    let mut year = 1970 + days.div_euclid(146_097) * 400;
    days = days.rem_euclid(146_097);
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        month += 1;
        if days < length {
            break;
        }
        days -= length;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{:02}", days + 1, second % 60)
}

/// `20261120213354`, in UTC.
pub fn date_digits(unix_s: i64) -> String {
    date_text(unix_s).chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::host::{ReplayStatus, RunStatus};
    use super::super::inquiry::{Begin, Inquired, Inquiries};
    use super::*;
    use crate::cli::chardev::Chardev;
    use crate::cli::gdb::GdbDevice;
    use crate::snapshots::desk::Request;
    use replay::event::Input;
    use replay::inspect::Query;
    use replay::machine::Machine;
    use replay::message::Offer;
    use replay::setup::Mode;
    use replay::store::Info;
    use replay::time::Vtime;

    /// A run that remembers what it was asked.
    pub(crate) struct Fake {
        pub mode: Mode,
        pub status: RunStatus,
        pub offers: Vec<Offer>,
        pub released: Vec<u16>,
        pub quit: bool,
        pub slow: bool,
        pub machine: Option<Machine>,
        pub waiting_for: Option<&'static str>,
        pub swaps: Vec<String>,
        pub failure: Option<String>,
        pub asked: Vec<Query>,
        pub inquiries: Inquiries,
    }

    impl Fake {
        pub(crate) fn new(mode: Mode) -> Fake {
            let status = RunStatus::Running;
            Fake {
                mode,
                status,
                offers: vec![],
                released: vec![],
                quit: false,
                slow: false,
                machine: None,
                waiting_for: None,
                swaps: vec![],
                failure: None,
                asked: vec![],
                inquiries: Inquiries::default(),
            }
        }
    }

    impl Host for Fake {
        fn run_status(&self) -> RunStatus {
            self.status
        }
        fn replay_status(&self) -> ReplayStatus {
            ReplayStatus { mode: self.mode, file: "r.bin".to_owned(), icount: 6_199_081 }
        }
        fn name(&self) -> Option<&str> {
            None
        }
        fn uuid(&self) -> Option<&str> {
            None
        }
        fn start_snapshot(&self) -> Option<(&str, i64)> {
            (self.mode != Mode::Plain).then_some(("init", 1_795_210_434))
        }
        fn snapshots(&self) -> (Vec<Info>, Vec<String>) {
            (vec![], vec![])
        }
        fn request_snapshot(&mut self, request: Request) -> Result<Option<Ticket>, String> {
            match request {
                Request::Load(tag) => Err(format!("Snapshot '{tag}' does not exist in one or more devices")),
                Request::Save(_) | Request::Delete(_) => Ok(None),
            }
        }
        fn chardevs(&self) -> Vec<(String, String)> {
            vec![("serial0".to_owned(), "stdio".to_owned())]
        }
        fn vcpu_pid(&self) -> i32 {
            6790
        }
        fn machine(&self) -> Option<&Machine> {
            self.machine.as_ref()
        }
        fn waiting_for(&self) -> Option<&str> {
            self.waiting_for
        }
        fn restart_device(&mut self, id: &str) -> Result<Option<Ticket>, String> {
            self.swaps.push(id.to_owned());
            self.slow.then_some(7).map(Some).ok_or_else(|| format!("Device '{id}' not found"))
        }
        fn change_chardev(&mut self, chardev: Chardev) -> Result<Option<Ticket>, String> {
            self.swaps.push(chardev.spec());
            Ok(None)
        }
        fn gdb_server(&mut self, device: Option<GdbDevice>) -> Result<Option<Ticket>, String> {
            self.swaps.extend(device.map(|device| device.to_string()));
            Ok(None)
        }
        fn take_failure(&mut self, _: Ticket) -> Option<String> {
            self.failure.take()
        }
        fn stop(&mut self) -> Result<Option<Ticket>, String> {
            self.status = RunStatus::Paused;
            Ok(self.slow.then_some(7))
        }
        fn cont(&mut self) -> Result<Option<Ticket>, String> {
            self.status = RunStatus::Running;
            Ok(None)
        }
        fn seek(&mut self, _icount: u64) -> Result<Option<Ticket>, String> {
            Ok(self.slow.then_some(7))
        }
        fn set_break(&mut self, _icount: u64) -> Result<Option<Ticket>, String> {
            Ok(None)
        }
        fn seek_progress(&self) -> Option<(Ticket, u64, Option<u64>)> {
            self.slow.then_some((7, 5, Some(10)))
        }
        fn seek_time(&mut self, vtime: Vtime) -> Result<Option<Ticket>, String> {
            self.swaps.push(format!("seek {vtime}"));
            Ok(None)
        }
        fn set_break_time(&mut self, vtime: Vtime) -> Result<Option<Ticket>, String> {
            self.swaps.push(format!("break {vtime}"));
            Ok(None)
        }
        fn log_end(&self) -> Option<u64> {
            Some(10_000_000)
        }
        fn inquire(&mut self, begin: Begin) -> Result<Inquired, String> {
            let Fake { inquiries, asked, .. } = self;
            inquiries.begin(9, None, begin, |query| {
                asked.push(query);
                Ok(())
            })
        }
        fn take_text(&mut self, ticket: Ticket) -> Option<String> {
            self.inquiries.take_text(ticket)
        }
        fn delete_break(&mut self, _icount: Option<u64>) -> Result<Option<Ticket>, String> {
            Ok(None)
        }
        fn quit(&mut self) {
            self.quit = true;
        }
        fn offer(&mut self, offer: Offer) -> Result<(), String> {
            self.offers.push(offer);
            Ok(())
        }
        fn release_keys_later(&mut self, scancodes: Vec<u16>, hold_ms: u64) {
            assert_eq!(hold_ms, 100);
            self.released = scancodes;
        }
    }

    fn ask(host: &mut Fake, line: &str) -> String {
        let mut session = Session::new(false);
        session.input(format!("{line}\n").as_bytes(), host);
        let text = String::from_utf8(session.take_output()).unwrap();
        text.strip_suffix(PROMPT).unwrap_or_else(|| panic!("{text:?}")).replace("\r\n", "\n")
    }

    #[test]
    fn answers_are_those_of_qemu() {
        let mut host = Fake::new(Mode::Record);
        for (line, answer) in [
            ("info status", "VM status: running\n"),
            ("info replay", "Recording execution 'r.bin': instruction count = 6199081\n"),
            ("info version", "0.1.0\n"),
            (
                "help replay_break",
                "replay_break icount -- set breakpoint at the specified instruction count\n",
            ),
            ("help info replay", "info replay  -- show record/replay information\n"),
            ("replay_break 1", "setting the breakpoint is allowed only in play mode\n"),
            ("replay_delete_break", "replay breakpoints are allowed only in play mode\n"),
            ("replay_seek 1", "replay must be enabled to seek\n"),
            ("replay_seek", "unexpected end of expression\nTry \"help replay_seek\" for more information\n"),
            ("nosuch", "unknown command: 'nosuch'\n"),
            ("info nosuch", "unknown command: 'info nosuch'\n"),
            ("info kvm", "kvm support: disabled\n"),
            ("info uuid", "00000000-0000-0000-0000-000000000000\n"),
            ("info name", ""),
            ("info cpus", "* CPU #0: thread_id=6790\n"),
            ("info chardev", "serial0: filename=stdio\n"),
            ("loadvm nosuch", "Error: Snapshot 'nosuch' does not exist in one or more devices\n"),
            ("delvm nosuch", ""),
            ("gdbserver", "Waiting for gdb connection on device 'tcp::1234'\n"),
            ("gdbserver tcp::0", "Waiting for gdb connection on device 'tcp::0'\n"),
            ("gdbserver none", "Disabled gdbserver\n"),
            (
                "gdbserver stdio",
                "Error: 'stdio' is not supported for gdb; use tcp:[HOST]:PORT, unix:PATH or none\n",
            ),
            ("sendkey nosuch", "invalid parameter: nosuch\n"),
            ("stop", ""),
            ("info status", "VM status: paused\n"),
            ("c", ""),
            ("", ""),
            ("  ", ""),
        ] {
            assert_eq!(ask(&mut host, line), answer, "{line}");
        }
        host.status = RunStatus::IoError;
        assert_eq!(ask(&mut host, "info status"), "VM status: paused (io-error)\n");
        (host.status, host.waiting_for) = (RunStatus::Running, Some("x"));
        assert_eq!(ask(&mut host, "info status"), "VM status: running (waiting for device \"x\")\n");
        host.status = RunStatus::Prelaunch;
        assert_eq!(ask(&mut host, "info status"), "VM status: paused (prelaunch)\n");
        assert_eq!(ask(&mut Fake::new(Mode::Plain), "info replay"), "Record/replay is not active\n");
        assert_eq!(ask(&mut Fake::new(Mode::Plain), "info snapshots"), "There is no snapshot available.\n");
        let mut replay = Fake::new(Mode::Replay);
        let past = "cannot set breakpoint at the instruction in the past\n";
        assert_eq!(ask(&mut replay, "replay_break 1"), past);
    }

    #[test]
    fn the_table_of_snapshots_has_the_columns_of_qemu() {
        // Compared with the sample of QEMU 7.2 in its own widths.
        assert_eq!(
            ask(&mut Fake::new(Mode::Record), "info snapshots"),
            "List of snapshots present on all disks:\n\
             ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n\
             --        init                0 KiB 2026-11-20 21:33:54 00:00:00.000          0\n"
        );
    }

    #[test]
    fn a_script_gets_banner_prompt_and_no_echo() {
        let mut session = Session::new(false);
        session.greet();
        let banner = "reprise 0.1.0 monitor - type 'help' for more information\r\n(reprise) ";
        assert_eq!(session.take_output(), banner.as_bytes());
        session.input(b"info status\r\n", &mut Fake::new(Mode::Plain));
        assert_eq!(session.take_output(), b"VM status: running\r\n(reprise) ");
    }

    #[test]
    fn another_back_end_is_asked_for_and_awaited() {
        let mut host = Fake::new(Mode::Record);
        for (line, answer) in [
            ("device_restart x", "Error: Device 'x' not found\n"),
            (
                "device_restart",
                "device_restart: string expected\nTry \"help device_restart\" for more information\n",
            ),
            ("chardev-change serial0 file,path=a", ""),
            ("chardev-change serial0 frob", "Error: chardev: backend 'frob' is not supported\n"),
            ("info block", ""),
        ] {
            assert_eq!(ask(&mut host, line), answer, "{line}");
        }
        assert_eq!(host.swaps, ["x", "file,path=a,append=off,id=serial0"]);
        (host.slow, host.failure) = (true, Some("it could not start".to_owned()));
        let mut session = Session::new(false);
        session.input(b"device_restart x\ninfo name\n", &mut host);
        assert_eq!(session.take_output(), b"");
        session.ticket_done(7, &mut host);
        assert_eq!(session.take_output(), b"Error: it could not start\r\n(reprise) (reprise) ");
    }

    #[test]
    fn inputs_become_offers() {
        let mut host = Fake::new(Mode::Plain);
        for line in
            ["sendkey ctrl-a", "system_powerdown", "nmi", "system_reset", "mouse_move 1 -2", "mouse_button 4"]
        {
            assert_eq!(ask(&mut host, line), "", "{line}");
        }
        let key = |scancode| Offer::Input(Input::Key { scancode, down: true });
        assert_eq!(
            host.offers,
            [
                key(0x1d),
                key(0x1e),
                Offer::PowerButton,
                Offer::Nmi,
                Offer::Reset,
                Offer::Input(Input::MouseMove { dx: 1, dy: -2, dz: 0 }),
                Offer::Input(Input::MouseButtons { buttons: 2 }),
            ]
        );
        assert_eq!(host.released, [0x1e, 0x1d]);
    }

    #[test]
    fn the_next_line_waits_for_a_late_answer() {
        let mut host = Fake::new(Mode::Plain);
        host.slow = true;
        let mut session = Session::new(false);
        session.input(b"stop\ninfo status\n", &mut host);
        assert_eq!(session.take_output(), b"");
        assert!(!session.wants_input());
        session.ticket_done(6, &mut host);
        assert!(!session.wants_input());
        session.ticket_done(7, &mut host);
        assert_eq!(session.take_output(), b"(reprise) VM status: paused\r\n(reprise) ");
    }

    #[test]
    fn a_long_way_is_shown_on_a_terminal_and_stopped_by_interrupt() {
        let mut host = Fake::new(Mode::Replay);
        host.slow = true;
        let begin = Instant::now();
        for terminal in [true, false] {
            host.status = RunStatus::Running;
            let mut session = Session::new(terminal);
            session.input(b"replay_seek 10\ninfo na", &mut host);
            session.take_output();
            for ms in [0, 100, 500, 600, 1000] {
                session.tick(&host, begin + Duration::from_millis(ms));
            }
            let text = String::from_utf8(session.take_output()).unwrap();
            let shown = if terminal {
                "\rat instruction 5 of 10; ^C stops here\x1b[K".repeat(2)
            } else {
                String::new()
            };
            assert_eq!(text, shown);
            session.input(b"xyz\x03info name\n", &mut host);
            assert_eq!(host.status == RunStatus::Paused, terminal);
            session.ticket_done(7, &mut host);
            let text = String::from_utf8(session.take_output()).unwrap();
            let echoed = "\r\x1b[K(reprise) info name\r\n(reprise) ";
            assert!(!terminal || text == echoed, "{text:?}");
        }
        let mut session = Session::new(true);
        session.input(b"replay_seek 10\n", &mut host);
        session.input(&[b'x'; UNREAD_BYTES_MAX], &mut host);
        assert!(!session.has_room());
    }

    #[test]
    fn quit_ends_the_conversation() {
        let mut host = Fake::new(Mode::Plain);
        let mut session = Session::new(false);
        session.input(b"q\ninfo status\n", &mut host);
        assert!(host.quit);
        assert_eq!(session.take_output(), b"");
    }

    #[test]
    fn names_are_completed() {
        let mut host = Fake::new(Mode::Plain);
        let mut session = Session::new(true);
        session.input(b"replay_s\t", &mut host);
        assert_eq!(session.take_output(), b"replay_seek ");
        session.input(b"\x15\x0binfo st\t", &mut host);
        assert!(session.take_output().ends_with(b"info status "));
        let mut session = Session::new(true);
        session.input(b"sys\t\t", &mut host);
        let text = String::from_utf8(session.take_output()).unwrap();
        assert!(
            text.starts_with("system_\r\nsystem_powerdown system_reset\r\n\r(reprise) system_"),
            "{text:?}"
        );
    }

    #[test]
    fn dates() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_150_560_081, "2006-06-17 16:01:21"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(date_text(unix_s), text);
        }
    }
}
