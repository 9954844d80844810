//! What a debugger wants of monitor and machine.

use super::Core;
use crate::debugger;
use crate::hmp::host::{Host, RunStatus, Ticket};
use crate::sequence::ending::End;
use replay::message::{Control, FromDebugger, Inbound, ToDebugger};

impl Core {
    /// What a debugger does or asks for.
    pub(super) fn debugger_says(&mut self, what: FromDebugger) -> Result<Option<End>, String> {
        match what {
            FromDebugger::Attached => return Ok(self.debugger.set_attached(true)),
            FromDebugger::Detached => return Ok(self.debugger.set_attached(false)),
            FromDebugger::Resumed => {
                if matches!(self.status, RunStatus::Debug | RunStatus::InternalError) {
                    self.set_status(RunStatus::Running);
                }
            }
            FromDebugger::Continue => match self.cont() {
                Ok(ticket) => {
                    if ticket.is_none() {
                        // It may have begun to run meanwhile.
                        self.control(Control::Continue)?;
                    }
                    self.tell_debugger(ToDebugger::Granted)?;
                }
                Err(why) => self.tell_debugger(ToDebugger::Refused { why })?,
            },
            FromDebugger::Command { number, line } => self.debugger.put_line(number, line),
            FromDebugger::Quit => self.quit_requested = true,
        }
        Ok(None)
    }

    fn tell_debugger(&mut self, message: ToDebugger) -> Result<(), String> {
        self.lane.send(&Inbound::Debugger(message)).map_err(|error| error.to_string())?;
        self.lane.raise_attention();
        Ok(())
    }

    /// Carries out the monitor's commands that came from a debugger.
    pub fn attend_debugger(&mut self) -> Result<(), String> {
        while let Some((number, line)) = self.debugger.next_line() {
            match debugger::command(&line, self) {
                (text, None) => self.tell_debugger(ToDebugger::Answer { number, text })?,
                (text, Some(ticket)) => self.debugger.wait_for(ticket, number, text),
            }
        }
        Ok(())
    }

    /// A request is done: it may have been a debugger's.
    pub fn debugger_ticket_done(&mut self, ticket: Ticket) -> Result<(), String> {
        let Some((number, mut text)) = self.debugger.ticket_done(ticket) else { return Ok(()) };
        text.extend(self.take_text(ticket));
        if let Some(why) = self.take_failure(ticket) {
            text.push_str(&format!("Error: {why}\n"));
        }
        self.tell_debugger(ToDebugger::Answer { number, text })
    }
}
