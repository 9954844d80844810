//! Conversations in HMP, compared with QEMU's.

use super::super::host::{ReplayStatus, RunStatus};
use super::super::inquiry::{Begin, Inquired, Inquiries};
use super::*;
use crate::cli::chardev::Chardev;
use crate::cli::gdb::GdbDevice;
use crate::logging::Change;
use crate::qmp::jobs::Jobs;
use crate::sequence::notices::Notices;
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
    pub jobs: Jobs,
    pub notices: Notices,
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
            jobs: Jobs::default(),
            notices: Notices::default(),
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
            Request::Save(_) | Request::Create(_) | Request::Delete(_) => Ok(self.slow.then_some(7)),
        }
    }
    fn jobs(&self) -> &Jobs {
        &self.jobs
    }
    fn jobs_and_notices(&mut self) -> (&mut Jobs, &mut Notices) {
        (&mut self.jobs, &mut self.notices)
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
    fn change_log(&mut self, change: Change) -> Result<Option<Ticket>, String> {
        self.swaps.push(format!("{change:?}"));
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
        ("help replay_break", "replay_break icount -- set breakpoint at the specified instruction count\n"),
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
fn what_is_logged_can_be_changed() {
    let mut host = Fake::new(Mode::Plain);
    assert!(ask(&mut host, "log help").starts_with("Log items (comma separated):\nnone "));
    assert!(
        ask(&mut host, "help log")
            .starts_with("log item1[,...] -- activate logging of the specified items\n")
    );
    for (line, answer) in [
        ("log", "log: string expected\nTry \"help log\" for more information\n"),
        ("log in_asm", "Error: unknown log item 'in_asm'; log help lists them\n"),
        ("log info,in_asm", "Error: unknown log item 'in_asm'; log help lists them\n"),
        ("log info,vcpu=trace", ""),
        ("log none", ""),
        ("logfile \"a b\"", ""),
        ("logfile", ""),
    ] {
        assert_eq!(ask(&mut host, line), answer, "{line}");
    }
    let found = ["Filter(Some(\"info,vcpu=trace\"))", "Filter(None)", "File(Some(\"a b\"))", "File(None)"];
    assert_eq!(host.swaps, found);
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
        let shown =
            if terminal { "\rat instruction 5 of 10; ^C stops here\x1b[K".repeat(2) } else { String::new() };
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
    assert!(text.starts_with("system_\r\nsystem_powerdown system_reset\r\n\r(reprise) system_"), "{text:?}");
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
