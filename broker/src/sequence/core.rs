//! The machine's side of a run: lane, journal, state; what monitors act on.

mod debugging;
mod host;
mod swaps;
mod telling;

use super::ending::{Divergence, End};
use super::notices::{Notices, What, shutdown};
use super::swap;
use crate::debugger::Debugger;
use crate::hmp::host::{RunStatus, Ticket};
use crate::hmp::inquiry::Inquiries;
use crate::journal::{JOURNAL_SEQUENCE, Journal, JournalError};
use crate::logging::Change;
use crate::qmp::jobs::Jobs;
use crate::snapshots::Desk;
use crate::snapshots::desk::News;
use replay::event::{DeviceIndex, Input, ShutdownCause};
use replay::lane::{BrokerEnd, RunState};
use replay::machine::Machine;
use replay::message::{Control, Inbound, Offer, Outbound, PauseReason};
use replay::setup::Mode;
use replay::time::Icount;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// What monitors tell of a run and what does not change.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `-name`.
    pub name: Option<String>,
    /// UUID of the machine.
    pub uuid: Option<String>,
    /// The recording, as the user named it.
    pub recording: String,
    /// `rrsnapshot=` and when the recording began.
    pub start_snapshot: Option<(String, i64)>,
    /// Where a replay is at its end, or differs, the machine stands still for a monitor or a debugger.
    pub pauses_at_end: bool,
    /// All streams: id and file name.
    pub chardevs: Vec<(String, String)>,
    /// The machine.
    pub machine: Option<Machine>,
    /// The vCPU process.
    pub vcpu_pid: i32,
}

/// Keys that are to be released.
#[derive(Debug)]
struct Release {
    at: Instant,
    scancodes: Vec<u16>,
}

/// How much of a recording may be lost with the broker. Each flush makes a block of the log, with its header.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);
/// Most combinations of keys held at once.
const RELEASES_MAX: usize = 64;

/// The machine's side of a run.
pub struct Core {
    lane: BrokerEnd,
    pub(crate) journal: Box<dyn Journal>,
    pub(crate) facts: Facts,
    debugger: Debugger,
    last_ticket: Ticket,
    pub(crate) done_tickets: Vec<Ticket>,
    pub(crate) status: RunStatus,
    releases: Vec<Release>,
    divergence: Option<Divergence>,
    /// The vCPU is at another place than it was.
    rewound: bool,
    /// The machine was put into another state since the status was read.
    pub(crate) reloaded: bool,
    /// Requests for snapshots, and news of them.
    pub desk: Desk,
    /// The back-end for which the machine stands still.
    waiting_for: Option<DeviceIndex>,
    /// Devices without a back-end.
    lost: BTreeSet<DeviceIndex>,
    /// What monitors asked for and the loop has not begun with.
    swaps: Vec<(Ticket, swap::Request)>,
    /// The same, while the machine is being stopped for it; first the ticket of that.
    stopping: Vec<(Ticket, Ticket, swap::Request)>,
    /// All that monitors asked for and have no answer to.
    unanswered_swaps: BTreeSet<Ticket>,
    /// Why requests failed of which monitors are told next.
    pub(crate) failures: Vec<(Ticket, String)>,
    /// Monitor commands that wait for answers of the vCPU process.
    inquiries: Inquiries,
    /// The way to a place: its request, and instructions at the place if that is known.
    seeking: Option<(Ticket, Option<u64>)>,
    /// The way to a snapshot, by its request, from which the machine runs on at once.
    pub(crate) runs_on: Option<Ticket>,
    /// What those are told who do not ask.
    notices: Notices,
    /// What monitors want to be logged and nobody has begun with.
    log_changes: VecDeque<(Ticket, Change)>,
    /// Background jobs of QMP.
    jobs: Jobs,
    /// Instructions so far: of the last status or the last event.
    pub(crate) icount: u64,
    /// When the journal was last made safe.
    flushed: Instant,
    starting: bool,
    quit_requested: bool,
    asked_to_end: Option<(ShutdownCause, Instant)>,
    error: Option<String>,
    closed: bool,
}

impl Core {
    /// The side of a machine behind `lane`.
    pub fn new(lane: BrokerEnd, journal: Box<dyn Journal>, facts: Facts, start_paused: bool) -> Core {
        Core {
            lane,
            journal,
            facts,
            debugger: Debugger::default(),
            last_ticket: JOURNAL_SEQUENCE,
            done_tickets: Vec::new(),
            status: if start_paused { RunStatus::Prelaunch } else { RunStatus::Running },
            releases: Vec::new(),
            divergence: None,
            rewound: false,
            reloaded: false,
            desk: Desk::default(),
            waiting_for: None,
            lost: BTreeSet::new(),
            swaps: Vec::new(),
            stopping: Vec::new(),
            unanswered_swaps: BTreeSet::new(),
            failures: Vec::new(),
            inquiries: Inquiries::default(),
            seeking: None,
            runs_on: None,
            notices: Notices::default(),
            log_changes: VecDeque::new(),
            jobs: Jobs::default(),
            icount: 0,
            flushed: Instant::now(),
            starting: true,
            quit_requested: false,
            asked_to_end: None,
            error: None,
            closed: false,
        }
    }

    /// The same with what is known of debuggers.
    pub fn with_debugger(self, debugger: Debugger) -> Core {
        Core { debugger, ..self }
    }

    /// Instructions so far.
    pub fn icount(&self) -> u64 {
        self.icount
    }

    /// The vCPU process has not begun to run.
    pub fn is_starting(&self) -> bool {
        self.starting
    }

    /// Sends what the vCPU may use from here on, and warnings to the user.
    pub fn pump(&mut self) -> Result<(), String> {
        self.journal.pump(&mut self.lane).map_err(|error| error.to_string())?;
        while let Some(warning) = self.journal.take_warning() {
            eprintln!("reprise: warning: {warning}");
        }
        Ok(())
    }

    /// Takes everything the vCPU has said, and makes it safe now and then. Errors are lines for the user.
    pub fn receive(&mut self) -> Result<Option<End>, String> {
        let status = self.lane.status().map_err(|error| error.to_string())?;
        self.starting &= status.state == RunState::Starting;
        let mut end = None;
        while let Some(message) = self.lane.receive().map_err(|error| error.to_string())? {
            end = self.take(message)?.or(end);
        }
        if std::mem::take(&mut self.reloaded) {
            // The status may be from before; the log and the messages after it are right.
        } else if std::mem::take(&mut self.rewound) {
            self.icount = self.lane.status().map_err(|error| error.to_string())?.icount.0;
        } else {
            self.icount = self.icount.max(status.icount.0);
        }
        if !self.closed && (end.is_some() || self.flushed.elapsed() >= FLUSH_INTERVAL) {
            self.flushed = Instant::now();
            self.journal.flush(Icount(self.icount)).map_err(|error| error.to_string())?;
        }
        Ok(end)
    }

    fn take(&mut self, message: Outbound) -> Result<Option<End>, String> {
        match message {
            Outbound::Journal(stamped) => {
                self.icount = self.icount.max(stamped.icount.0);
                if !self.closed {
                    self.journal.on_event(&stamped).map_err(|error| error.to_string())?;
                }
            }
            Outbound::Ack { sequence } => self.acknowledged(sequence)?,
            Outbound::Inspected { sequence, answer } => match self.inquiries.answered(sequence, answer) {
                Some(query) => self.send_control(sequence, Control::Inspect { query })?,
                None => self.done_tickets.push(sequence),
            },
            Outbound::Paused { icount, reason } => {
                self.icount = self.icount.max(icount.0);
                return Ok(self.paused(reason));
            }
            Outbound::NotConnected { sequence, device, why } => {
                let failure = swap::Failure { why, lost: true };
                self.swapped(swap::Outcome { ticket: sequence, device, result: Err(failure) })?;
            }
            Outbound::Divergence { icount, field, expected, found } => {
                self.divergence.get_or_insert(Divergence { icount: icount.0, field, expected, found });
            }
            Outbound::Ended { cause, icount } => {
                self.icount = self.icount.max(icount.0);
                // Who ends a replay that stands where it differs is still told that it does.
                let differs = self.divergence.take().filter(|_| self.status == RunStatus::InternalError);
                return Ok(Some(differs.map_or(End::Shutdown(cause), End::Diverged)));
            }
            Outbound::WasReset { guest } => self.notices.add(What::Reset { guest }),
            Outbound::Note { text } => eprintln!("reprise: {text}"),
            Outbound::Debugger(what) => return self.debugger_says(what),
            Outbound::Waiting { device } => self.waiting_for = device,
            Outbound::Saved { sequence, with_disks } => {
                let place = self.journal.place();
                self.desk.news.push_back(News::Saved { sequence, place, with_disks });
            }
            Outbound::Copied { sequence, error } => {
                self.desk.news.push_back(News::Copied { sequence, error });
            }
            Outbound::Fetch { icount, events } => {
                self.desk.news.push_back(News::Fetch { icount: icount.0, events });
            }
            Outbound::FetchStart => self.desk.news.push_back(News::FetchStart),
            Outbound::Loaded { sequence, error } => self.loaded(sequence, error)?,
            Outbound::Rewind { events } => {
                self.journal.rewind(&mut self.lane, events).map_err(|error| error.to_string())?;
                self.rewound = true;
                self.debugger.left_end();
                self.divergence = None;
            }
        }
        Ok(None)
    }

    fn paused(&mut self, reason: PauseReason) -> Option<End> {
        match reason {
            // Who asked knows it: a monitor, or a back-end that is being replaced.
            PauseReason::Stopped => None,
            PauseReason::Debugger => {
                if self.status == RunStatus::Running {
                    self.set_status(RunStatus::Debug);
                }
                None
            }
            PauseReason::Place => {
                if self.status == RunStatus::Running {
                    self.set_status(RunStatus::Paused);
                }
                None
            }
            PauseReason::Shutdown(cause) => {
                let panicked = cause == ShutdownCause::GuestPanic;
                self.notices.add(shutdown(cause));
                self.set_status(if panicked { RunStatus::Panicked } else { RunStatus::Shutdown });
                None
            }
            PauseReason::EndOfLog => {
                let attached = self.debugger.is_attached();
                self.set_status(if attached { RunStatus::Debug } else { RunStatus::Paused });
                self.replay_ends(End::Replayed)
            }
            PauseReason::Divergence => {
                self.set_status(RunStatus::InternalError);
                let unnamed = || Divergence {
                    icount: self.icount,
                    field: "the vcpu process".to_owned(),
                    expected: "no difference".to_owned(),
                    found: "a difference it did not name".to_owned(),
                };
                let divergence = self.divergence.clone().unwrap_or_else(unnamed);
                let end = self.replay_ends(End::Diverged(divergence.clone()));
                if end.is_none() {
                    // Who looks at it hears of it now; the end comes when nobody looks any more.
                    eprintln!("reprise: {divergence}");
                }
                end
            }
        }
    }

    /// The end of a replay, unless it stands still there, for a user who wants that or for a debugger as long as it looks.
    fn replay_ends(&mut self, end: End) -> Option<End> {
        let stays = self.facts.pauses_at_end || self.debugger.keeps(&end);
        (!stays).then_some(end)
    }

    /// Requests of monitors that are done.
    pub fn take_done_tickets(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.done_tickets)
    }

    /// A monitor said quit.
    pub fn take_quit_request(&mut self) -> bool {
        std::mem::take(&mut self.quit_requested)
    }

    /// A failure that happened on behalf of a monitor or a back-end.
    pub fn take_error(&mut self) -> Option<String> {
        self.error.take()
    }

    /// Passes something on that the user did not ask for; in a replay there is nothing of the kind.
    pub fn offer_from_host(&mut self, offer: Offer) {
        if let Err(why) = self.try_offer(offer) {
            tracing::debug!("not offered: {why}");
        }
    }

    fn try_offer(&mut self, offer: Offer) -> Result<(), String> {
        match self.journal.offer(&mut self.lane, offer) {
            Ok(()) => Ok(()),
            Err(refused @ JournalError::Refused { .. }) => Err(refused.to_string()),
            Err(error) => {
                self.error.get_or_insert(error.to_string());
                Err(error.to_string())
            }
        }
    }

    /// Asks the machine to end; what it was asked first counts.
    pub fn ask_to_end(&mut self, cause: ShutdownCause, deadline: Instant) {
        if self.asked_to_end.is_none() {
            self.asked_to_end = Some((cause, deadline));
            self.offer_from_host(Offer::Quit { cause });
        }
    }

    /// The cause with which the machine was asked to end.
    pub fn asked_to_end(&self) -> Option<ShutdownCause> {
        self.asked_to_end.map(|(cause, _)| cause)
    }

    /// It was asked to end and has not.
    pub fn overdue(&self, now: Instant) -> bool {
        self.asked_to_end.is_some_and(|(_, deadline)| now >= deadline)
    }

    /// The next moment at which something is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let records = self.journal.mode() == Mode::Record && !self.closed;
        let flush = records.then(|| self.flushed + FLUSH_INTERVAL);
        self.releases.iter().map(|release| release.at).chain(flush).min()
    }

    /// Releases keys that were held long enough.
    pub fn release_due_keys(&mut self, now: Instant) {
        let (due, held) =
            std::mem::take(&mut self.releases).into_iter().partition(|release| release.at <= now);
        self.releases = held;
        let due: Vec<Release> = due;
        for scancode in due.into_iter().flat_map(|release| release.scancodes) {
            self.offer_from_host(Offer::Input(Input::Key { scancode, down: false }));
        }
    }

    /// Closes the journal. What is wrong with it takes the place of a good end.
    pub fn close(&mut self, end: End) -> End {
        if std::mem::replace(&mut self.closed, true) {
            return end;
        }
        match self.journal.finish(Icount(self.icount), end.cause()) {
            Ok(()) => end,
            Err(error) if end.status() == 0 || end.message().is_none() => End::Failed(error.to_string()),
            Err(error) => {
                eprintln!("reprise: {error}");
                end
            }
        }
    }

    /// Lets a vCPU process that stands still leave.
    pub fn release_vcpu(&mut self) {
        let quit = Inbound::Control { sequence: JOURNAL_SEQUENCE, control: Control::Quit };
        // One that has left already does not take it.
        let _ = self.lane.send(&quit);
        self.lane.raise_attention();
    }

    fn control(&mut self, control: Control) -> Result<Option<Ticket>, String> {
        let ticket = self.new_ticket();
        self.send_control(ticket, control)?;
        Ok(Some(ticket))
    }

    pub(crate) fn new_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(crate) fn send_control(&mut self, sequence: Ticket, control: Control) -> Result<(), String> {
        self.lane.send(&Inbound::Control { sequence, control }).map_err(|error| error.to_string())?;
        self.lane.raise_attention();
        Ok(())
    }

    fn acknowledged(&mut self, ticket: Ticket) -> Result<(), String> {
        if let Some(at) = self.stopping.iter().position(|(stop, ..)| *stop == ticket) {
            let (_, ticket, request) = self.stopping.remove(at);
            self.swaps.push((ticket, request));
            return Ok(());
        }
        self.seeking.take_if(|(seek, _)| *seek == ticket);
        if self.runs_on.take_if(|load| *load == ticket).is_some() {
            self.set_status(RunStatus::Running);
            self.control(Control::Continue)?;
        }
        if ticket != JOURNAL_SEQUENCE {
            self.done_tickets.push(ticket);
        }
        self.swap_is_over(ticket)
    }

    /// Name of a device.
    pub fn device_id(&self, device: DeviceIndex) -> Option<&str> {
        let machine = self.facts.machine.as_ref()?;
        machine.devices.get(usize::from(device)).map(|device| device.id.as_str())
    }
}
