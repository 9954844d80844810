//! What a replay compares with the log, and what it says when the two differ.

use super::error::RunError;
use super::inputs::Flow;
use super::machine::Machine;
use super::playback::{Next, Playback};
use replay::message::{Outbound, PauseReason};
use replay::time::Icount;

impl Playback {
    pub(super) fn diverged(
        &mut self,
        machine: &mut Machine,
        field: &str,
        expected: String,
        found: String,
    ) -> Result<Flow, RunError> {
        let icount = Icount(machine.icount());
        let field = field.to_string();
        self.lane.send(&Outbound::Divergence { icount, field, expected, found })?;
        self.pause(machine, PauseReason::Divergence)
    }

    /// Compares what the guest has sent with the log.
    pub(super) fn compare_sent(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        for note in machine.take_sent() {
            if self.look_ahead(machine)? == Flow::Leave {
                return Ok(Flow::Leave);
            }
            let icount = Icount(machine.icount());
            let expected = match self.ahead.front() {
                Some(Next::Event(next)) if next.icount == icount && next.event == note => {
                    self.ahead.pop_front();
                    self.seek.events += 1;
                    continue;
                }
                Some(Next::Event(next)) => format!("{:?} at icount {}", next.event, next.icount),
                // A log that was cut may end before the note.
                Some(Next::End(_)) | None => return Ok(Flow::Go),
            };
            return self.diverged(machine, "what the guest sends", expected, format!("{note:?}"));
        }
        Ok(Flow::Go)
    }

    pub(super) fn compare(
        &mut self,
        machine: &mut Machine,
        registers: u64,
        memory: u64,
    ) -> Result<Flow, RunError> {
        let found = machine.digests()?;
        if found.0 != registers {
            return self.diverged(
                machine,
                "digest of registers",
                format!("{registers:016x}"),
                format!("{:016x}", found.0),
            );
        }
        if found.1 != memory {
            return self.diverged(
                machine,
                "digest of memory",
                format!("{memory:016x}"),
                format!("{:016x}", found.1),
            );
        }
        Ok(Flow::Go)
    }

    /// A halted CPU without a timer: only the log's next event can go on, and it must be here.
    pub(super) fn nothing_left(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        match self.ahead.front() {
            Some(_) if self.next_icount() > machine.icount() || self.must_end_here(machine) => {
                self.no_progress(machine, "the CPU is halted for ever".into())
            }
            _ => Ok(Flow::Again),
        }
    }

    /// The log goes on behind this icount and the guest does not.
    pub(super) fn no_progress(&mut self, machine: &mut Machine, found: String) -> Result<Flow, RunError> {
        let expected = match self.ahead.front() {
            Some(Next::Event(stamped)) => format!("{:?} at icount {}", stamped.event, stamped.icount),
            Some(Next::End(icount)) => format!("the end of the log at icount {icount}"),
            None => "an instruction".into(),
        };
        self.diverged(machine, "progress", expected, found)
    }
}
