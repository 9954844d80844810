//! The run as its monitors see it.

use super::{Core, RELEASES_MAX, Release};
use crate::cli::chardev::Chardev;
use crate::cli::gdb::GdbDevice;
use crate::debugger;
use crate::hmp::host::{Host, ReplayStatus, RunStatus, Ticket};
use crate::hmp::inquiry::{Begin, Inquired};
use crate::logging::Change;
use crate::qmp::jobs::Jobs;
use crate::sequence::notices::{Notices, What};
use crate::sequence::swap;
use crate::snapshots::Places;
use crate::snapshots::desk::Request;
use replay::event::Input;
use replay::machine::Machine;
use replay::message::{Control, Offer};
use replay::store::Info;
use replay::time::{Icount, Vtime};
use std::time::{Duration, Instant};

impl Host for Core {
    fn run_status(&self) -> RunStatus {
        self.status
    }

    fn replay_status(&self) -> ReplayStatus {
        // The lane's word is newer than the last tick.
        let now = self.lane.status().map_or(0, |status| status.icount.0);
        let (mode, file) = (self.journal.mode(), self.facts.recording.clone());
        ReplayStatus { mode, file, icount: self.icount.max(now) }
    }

    fn name(&self) -> Option<&str> {
        self.facts.name.as_deref()
    }

    fn uuid(&self) -> Option<&str> {
        self.facts.uuid.as_deref()
    }

    fn start_snapshot(&self) -> Option<(&str, i64)> {
        self.facts.start_snapshot.as_ref().map(|(tag, unix_s)| (tag.as_str(), *unix_s))
    }

    fn snapshots(&self) -> (Vec<Info>, Vec<String>) {
        self.desk.places.as_ref().map_or_else(Default::default, Places::list)
    }

    fn request_snapshot(&mut self, request: Request) -> Result<Option<Ticket>, String> {
        if self.desk.places.is_none() {
            return Err("this run has no snapshots".to_owned());
        }
        let ticket = self.new_ticket();
        self.desk.requests.push_back((ticket, request));
        Ok(Some(ticket))
    }

    fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    fn jobs_and_notices(&mut self) -> (&mut Jobs, &mut Notices) {
        (&mut self.jobs, &mut self.notices)
    }

    fn chardevs(&self) -> Vec<(String, String)> {
        self.facts.chardevs.clone()
    }

    fn vcpu_pid(&self) -> i32 {
        self.facts.vcpu_pid
    }

    fn machine(&self) -> Option<&Machine> {
        self.facts.machine.as_ref()
    }

    fn waiting_for(&self) -> Option<&str> {
        self.device_id(self.waiting_for?)
    }

    fn restart_device(&mut self, id: &str) -> Result<Option<Ticket>, String> {
        self.ask_for_swap(swap::Request::Restart(id.to_owned()))
    }

    fn change_chardev(&mut self, chardev: Chardev) -> Result<Option<Ticket>, String> {
        self.ask_for_swap(swap::Request::Change(chardev))
    }

    fn gdb_server(&mut self, device: Option<GdbDevice>) -> Result<Option<Ticket>, String> {
        let listener = device.as_ref().map(debugger::listen).transpose()?;
        let listens = listener.is_some();
        self.debugger.replace(listener)?;
        self.control(Control::Debugger { listens })
    }

    fn take_failure(&mut self, ticket: Ticket) -> Option<String> {
        let at = self.failures.iter().position(|(known, _)| *known == ticket)?;
        Some(self.failures.remove(at).1)
    }

    fn stop(&mut self) -> Result<Option<Ticket>, String> {
        match self.status {
            RunStatus::Running => {
                self.runs_on = None;
                self.set_status(RunStatus::Paused);
                self.control(Control::Stop)
            }
            RunStatus::Paused
            | RunStatus::Debug
            | RunStatus::Prelaunch
            | RunStatus::Shutdown
            | RunStatus::Panicked
            | RunStatus::IoError
            | RunStatus::InternalError => Ok(None),
        }
    }

    fn cont(&mut self) -> Result<Option<Ticket>, String> {
        if let Some(device) = self.lost.first() {
            let id = self.device_id(*device).unwrap_or_default();
            return Err(format!("device \"{id}\" has no back-end: device_restart {id}"));
        }
        match self.status {
            RunStatus::Paused
            | RunStatus::Debug
            | RunStatus::Prelaunch
            | RunStatus::Panicked
            | RunStatus::IoError => {
                self.set_status(RunStatus::Running);
                self.control(Control::Continue)
            }
            RunStatus::Running => Ok(None),
            RunStatus::Shutdown => Err("Resetting the Virtual Machine is required".to_owned()),
            RunStatus::InternalError => Err("the machine cannot go on".to_owned()),
        }
    }

    fn seek(&mut self, icount: u64) -> Result<Option<Ticket>, String> {
        self.begin_seek(Control::Seek { icount: Icount(icount), events: 0 })
    }

    fn seek_progress(&self) -> Option<(Ticket, u64, Option<u64>)> {
        self.way_to_goal()
    }

    fn seek_time(&mut self, vtime: Vtime) -> Result<Option<Ticket>, String> {
        self.begin_seek(Control::SeekTime { vtime })
    }

    fn set_break_time(&mut self, vtime: Vtime) -> Result<Option<Ticket>, String> {
        self.control(Control::BreakTime { vtime })
    }

    fn log_end(&self) -> Option<u64> {
        self.journal.log_end().map(|icount| icount.0)
    }

    fn inquire(&mut self, begin: Begin) -> Result<Inquired, String> {
        self.begin_inquiry(begin)
    }

    fn take_text(&mut self, ticket: Ticket) -> Option<String> {
        self.inquiries.take_text(ticket)
    }

    fn set_break(&mut self, icount: u64) -> Result<Option<Ticket>, String> {
        self.control(Control::Break { icount: Icount(icount) })
    }

    fn delete_break(&mut self, icount: Option<u64>) -> Result<Option<Ticket>, String> {
        self.control(Control::DeleteBreak { icount: icount.map(Icount) })
    }

    fn change_log(&mut self, change: Change) -> Result<Option<Ticket>, String> {
        let ticket = self.new_ticket();
        self.log_changes.push_back((ticket, change));
        Ok(Some(ticket))
    }

    fn quit(&mut self) {
        self.quit_requested = true;
    }

    fn offer(&mut self, offer: Offer) -> Result<(), String> {
        let (resets, pressed) = (offer == Offer::Reset, offer == Offer::PowerButton);
        self.try_offer(offer)?;
        if resets && matches!(self.status, RunStatus::Shutdown | RunStatus::Panicked) {
            // It happens when the machine goes on, which it now can.
            self.set_status(RunStatus::Paused);
        }
        if pressed {
            self.notices.add(What::Powerdown);
        }
        Ok(())
    }

    fn release_keys_later(&mut self, scancodes: Vec<u16>, hold_ms: u64) {
        if self.releases.len() == RELEASES_MAX {
            self.releases.remove(0).scancodes.into_iter().for_each(|scancode| {
                self.offer_from_host(Offer::Input(Input::Key { scancode, down: false }));
            });
        }
        self.releases.push(Release { at: Instant::now() + Duration::from_millis(hold_ms), scancodes });
    }
}
