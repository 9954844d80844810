//! What a monitor may ask of the run it watches.

use super::inquiry::{Begin, Inquired};
use crate::cli::chardev::Chardev;
use crate::cli::gdb::GdbDevice;
use crate::logging::Change;
use crate::qmp::jobs::{Jobs, Kind, Verb};
use crate::sequence::notices::Notices;
use crate::snapshots::desk::Request;
use replay::machine::Machine;
use replay::message::Offer;
use replay::setup::Mode;
use replay::store::Info;
use replay::time::Vtime;

/// What `info status` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    /// Instructions are executed, or the guest waits for an interrupt.
    Running,
    /// `-S`, and no `cont` yet.
    Prelaunch,
    /// `stop`, or the end of a replay.
    Paused,
    /// A debugger stopped it.
    Debug,
    /// The guest powered off under `-no-shutdown`.
    Shutdown,
    /// The guest panicked and `-action panic=` wants it to stand still.
    Panicked,
    /// A device has lost its back-end, and the machine stands still until it has another.
    IoError,
    /// Something went wrong and the machine stands still.
    InternalError,
}

/// What `info replay` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayStatus {
    /// Record, replay or neither.
    pub mode: Mode,
    /// The recording, as the user named it.
    pub file: String,
    /// Instructions so far.
    pub icount: u64,
}

/// A request whose answer comes later; the monitor reads no further command before.
pub type Ticket = u64;

/// The run, as a monitor sees it.
pub trait Host {
    /// Where the run stands.
    fn run_status(&self) -> RunStatus;
    /// Record and replay.
    fn replay_status(&self) -> ReplayStatus;
    /// `-name`.
    fn name(&self) -> Option<&str>;
    /// UUID of the machine.
    fn uuid(&self) -> Option<&str>;
    /// `rrsnapshot=`: the name of the state at the start and when it was made (seconds since 1970).
    fn start_snapshot(&self) -> Option<(&str, i64)>;
    /// All snapshots, and lines about what cannot be read.
    fn snapshots(&self) -> (Vec<Info>, Vec<String>);
    /// Saves, loads or deletes a snapshot.
    fn request_snapshot(&mut self, request: Request) -> Result<Option<Ticket>, String>;
    /// Background jobs.
    fn jobs(&self) -> &Jobs;
    /// The same to change them, and who is told of it.
    fn jobs_and_notices(&mut self) -> (&mut Jobs, &mut Notices);
    /// Begins a job whose name was checked; `request` may say why it must fail.
    fn begin_job(&mut self, id: &str, kind: Kind, request: Result<Request, String>) {
        let begun = request.and_then(|request| self.request_snapshot(request));
        let (jobs, notices) = self.jobs_and_notices();
        jobs.begin(id, kind, begun, notices);
    }
    /// Does something to a job.
    fn apply_to_job(&mut self, id: &str, verb: Verb) -> Result<(), String> {
        let (jobs, notices) = self.jobs_and_notices();
        jobs.apply(id, verb, notices)
    }
    /// All streams: id and file name.
    fn chardevs(&self) -> Vec<(String, String)>;
    /// The machine, once there is one.
    fn machine(&self) -> Option<&Machine>;
    /// The device for whose back-end the machine waits.
    fn waiting_for(&self) -> Option<&str>;
    /// Process id of the vCPU process.
    fn vcpu_pid(&self) -> i32;
    /// Pauses the machine.
    fn stop(&mut self) -> Result<Option<Ticket>, String>;
    /// Lets it run.
    fn cont(&mut self) -> Result<Option<Ticket>, String>;
    /// In a replay: goes to a place, back or forward, and pauses there; done on arrival.
    fn seek(&mut self, icount: u64) -> Result<Option<Ticket>, String>;
    /// In a replay on its way to a place: the request, instructions so far, and those at the place if that is known.
    fn seek_progress(&self) -> Option<(Ticket, u64, Option<u64>)>;
    /// In a replay: goes to the first place at which guest time is this or later; done on arrival.
    fn seek_time(&mut self, vtime: Vtime) -> Result<Option<Ticket>, String>;
    /// In a replay: the number of instructions at the end of the log, as far as it is known.
    fn log_end(&self) -> Option<u64>;
    /// In a replay: pauses when it comes to a place.
    fn set_break(&mut self, icount: u64) -> Result<Option<Ticket>, String>;
    /// In a replay: pauses when guest time comes to this.
    fn set_break_time(&mut self, vtime: Vtime) -> Result<Option<Ticket>, String>;
    /// In a replay: forgets such a place, or all.
    fn delete_break(&mut self, icount: Option<u64>) -> Result<Option<Ticket>, String>;
    /// Changes what all processes log.
    fn change_log(&mut self, change: Change) -> Result<Option<Ticket>, String>;
    /// Ends the run.
    fn quit(&mut self);
    /// Starts the back-end of a device again.
    fn restart_device(&mut self, id: &str) -> Result<Option<Ticket>, String>;
    /// Puts another stream in the place of one.
    fn change_chardev(&mut self, chardev: Chardev) -> Result<Option<Ticket>, String>;
    /// Begins a command that asks the vCPU process.
    fn inquire(&mut self, begin: Begin) -> Result<Inquired, String>;
    /// The text of such a command that is done.
    fn take_text(&mut self, ticket: Ticket) -> Option<String>;
    /// Why a request failed that is done.
    fn take_failure(&mut self, ticket: Ticket) -> Option<String>;
    /// Expects debuggers on another device, or on none.
    fn gdb_server(&mut self, device: Option<GdbDevice>) -> Result<Option<Ticket>, String>;
    /// Gives the guest an input. A replay takes none.
    fn offer(&mut self, offer: Offer) -> Result<(), String>;
    /// Releases keys (by scan code, in this order) after a while of host time.
    fn release_keys_later(&mut self, scancodes: Vec<u16>, hold_ms: u64);
}
