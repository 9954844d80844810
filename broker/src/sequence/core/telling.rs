//! What monitors are told: answers of the vCPU process, the way to a place, and what has happened.

use super::Core;
use crate::hmp::host::{Host as _, RunStatus, Ticket};
use crate::hmp::inquiry::{Begin, Inquired};
use crate::logging::Change;
use crate::sequence::ending::End;
use crate::sequence::notices::{self, Notice, What};
use replay::message::{Control, Inbound};

impl Core {
    /// The machine runs now, or stands still.
    pub(crate) fn set_status(&mut self, status: RunStatus) {
        let ran = self.status == RunStatus::Running;
        let runs = status == RunStatus::Running;
        self.status = status;
        if ran != runs {
            self.notices.add(if runs { What::Resume } else { What::Stop });
        }
    }

    /// What has happened since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.notices.take()
    }

    /// The run has ended.
    pub fn note_end(&mut self, end: &End) {
        self.notices.add(notices::end(end));
    }

    /// The next change of what is logged, to begin with.
    pub fn next_log_change(&mut self) -> Option<(Ticket, Change)> {
        self.log_changes.pop_front()
    }

    /// A request is done: it may have been a job's.
    pub fn job_ticket_done(&mut self, ticket: Ticket) {
        if self.jobs.waits_for(ticket) {
            let failure = self.take_failure(ticket);
            self.jobs.done(ticket, failure, &mut self.notices);
        }
    }

    /// All monitors have been told that this is done.
    pub fn forget(&mut self, ticket: Ticket) {
        self.inquiries.forget(ticket);
    }

    /// Sends a replay to another place.
    pub(super) fn begin_seek(&mut self, control: Control) -> Result<Option<Ticket>, String> {
        self.leave_for_a_place()?;
        let goal = match control {
            Control::Seek { icount, .. } => Some(icount.0),
            _ => None,
        };
        let ticket = self.control(control)?;
        self.seeking = ticket.map(|ticket| (ticket, goal));
        Ok(ticket)
    }

    /// A replay is about to go to another place: also from where it is at its end, or differs.
    pub(crate) fn leave_for_a_place(&mut self) -> Result<(), String> {
        match self.status {
            RunStatus::Running
            | RunStatus::Paused
            | RunStatus::Debug
            | RunStatus::InternalError
            | RunStatus::Prelaunch => {
                self.set_status(RunStatus::Running);
                Ok(())
            }
            RunStatus::Shutdown | RunStatus::Panicked | RunStatus::IoError => {
                Err("the machine cannot go on".to_owned())
            }
        }
    }

    /// The way to a place: its request, instructions so far, and those at the place if that is known.
    pub(super) fn way_to_goal(&self) -> Option<(Ticket, u64, Option<u64>)> {
        let (ticket, goal) = self.seeking?;
        Some((ticket, self.lane.status().ok()?.icount.0, goal))
    }

    /// Begins a command that asks the vCPU process.
    pub(super) fn begin_inquiry(&mut self, begin: Begin) -> Result<Inquired, String> {
        let (ticket, machine) = (self.new_ticket(), self.facts.machine.clone());
        let Core { inquiries, lane, .. } = self;
        inquiries.begin(ticket, machine, begin, |query| {
            let control = Control::Inspect { query };
            lane.send(&Inbound::Control { sequence: ticket, control }).map_err(|error| error.to_string())?;
            lane.raise_attention();
            Ok(())
        })
    }
}
