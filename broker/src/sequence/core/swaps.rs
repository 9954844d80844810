//! Other back-ends, as the machine's side of a run sees them: it stands still while one is replaced, or until one is there again.

use super::super::swap;
use super::Core;
use crate::hmp::host::{RunStatus, Ticket};
use replay::event::DeviceIndex;
use replay::message::Control;

impl Core {
    /// Asks for another back-end. The machine stands still meanwhile, so that it does not meet one that is ending.
    pub(super) fn ask_for_swap(&mut self, request: swap::Request) -> Result<Option<Ticket>, String> {
        let ticket = self.new_ticket();
        self.unanswered_swaps.insert(ticket);
        if matches!(self.status, RunStatus::Running | RunStatus::Debug) {
            let stop = self.new_ticket();
            self.stopping.push((stop, ticket, request));
            self.send_control(stop, Control::Stop)?;
        } else {
            self.swaps.push((ticket, request));
        }
        Ok(Some(ticket))
    }

    /// What monitors asked for, to begin with.
    pub fn take_swaps(&mut self) -> Vec<(Ticket, swap::Request)> {
        std::mem::take(&mut self.swaps)
    }

    /// Tells the vCPU process of a back-end that is on its way to it, or the monitor why there is none.
    pub fn swapped(&mut self, outcome: swap::Outcome) -> Result<(), String> {
        let swap::Outcome { ticket, device, result } = outcome;
        match result {
            Ok(swap::Connection::OfAnother) => {
                self.done_tickets.push(ticket);
                self.swap_is_over(ticket)
            }
            Ok(connection) => {
                self.lost.remove(&device);
                let goes_on = connection == swap::Connection::GoesOn;
                self.send_control(ticket, Control::Reconnect { device, goes_on })
            }
            Err(swap::Failure { why, lost }) => {
                if lost {
                    self.lost_back_end(device)?;
                }
                self.failures.push((ticket, why));
                self.done_tickets.push(ticket);
                self.swap_is_over(ticket)
            }
        }
    }

    /// Lets the machine run on after the last of what was asked for.
    pub(super) fn swap_is_over(&mut self, ticket: Ticket) -> Result<(), String> {
        let was_one = self.unanswered_swaps.remove(&ticket);
        if was_one && self.unanswered_swaps.is_empty() && self.status == RunStatus::Running {
            self.control(Control::Continue)?;
        }
        Ok(())
    }

    /// Whether a request has failed, and nobody was told yet.
    pub fn has_failed(&self, ticket: Ticket) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == ticket)
    }

    /// The streams as they are now.
    pub fn set_chardevs(&mut self, chardevs: Vec<(String, String)>) {
        self.facts.chardevs = chardevs;
    }

    /// A device has lost its back-end: the machine stands still until it has another.
    pub fn lost_back_end(&mut self, device: DeviceIndex) -> Result<(), String> {
        self.lost.insert(device);
        match self.status {
            // A debugger might let it run.
            RunStatus::Running | RunStatus::Debug => self.control(Control::Stop).map(drop)?,
            RunStatus::Prelaunch
            | RunStatus::Paused
            | RunStatus::Panicked
            | RunStatus::IoError
            | RunStatus::Shutdown
            | RunStatus::InternalError => {}
        }
        if !matches!(self.status, RunStatus::Shutdown | RunStatus::InternalError) {
            self.set_status(RunStatus::IoError);
        }
        Ok(())
    }
}
