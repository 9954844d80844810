//! What the broker asks of a replay beside playing.

use super::error::RunError;
use super::inputs::Flow;
use super::machine::Machine;
use super::playback::Playback;
use super::seek::Goal;
use crate::gdb;
use crate::snapshot::history::Place;
use replay::lane::RunState;
use replay::message::{Control, Outbound};

impl Playback {
    /// Does what is asked, and says so when it is done.
    pub(super) fn control(
        &mut self,
        machine: &mut Machine,
        sequence: u64,
        control: Control,
    ) -> Result<Flow, RunError> {
        match control {
            Control::Seek { icount, events } => {
                let place = Place { icount: icount.0, events };
                return self.wish(machine, Goal::of_monitor(place, sequence));
            }
            Control::SeekTime { vtime } => return self.wish(machine, Goal::of_time(vtime, sequence)),
            Control::Save { full, held } => {
                self.saves.ask_to_save(sequence, full, held);
                return Ok(Flow::Go);
            }
            Control::Load { held } => {
                self.saves.ask_to_load(machine, sequence, held)?;
                return Ok(Flow::Go);
            }
            Control::Inspect { query } => {
                let answer = crate::inspect::answer(&machine.core, query);
                self.lane.send(&Outbound::Inspected { sequence, answer })?;
                self.lane.ring_doorbell()?;
                return Ok(Flow::Go);
            }
            Control::Stop => {
                self.paused = true;
                gdb::overruled(machine);
                self.forget_goal()?;
            }
            Control::Continue => {
                self.paused = false;
                gdb::overruled(machine);
            }
            Control::Debugger { listens } => machine.debugger_listens(listens, self.lane.waker())?,
            Control::Break { icount } => drop(self.seek.breaks.insert(icount.0)),
            Control::BreakTime { vtime } => drop(self.seek.time_breaks.insert(vtime)),
            Control::DeleteBreak { icount: None } => self.seek.forget_breaks(),
            Control::DeleteBreak { icount: Some(icount) } => drop(self.seek.breaks.remove(&icount.0)),
            Control::LoadStart { held } => {
                self.start_asked = Some((sequence, held));
                return Ok(Flow::Go);
            }
            Control::Known { icount, events, vtime } => {
                self.seek.stored.insert(Place { icount: icount.0, events }, vtime);
            }
            Control::Quit => return Ok(Flow::Leave),
            Control::Reconnect { device, goes_on } => {
                if let Err(why) = machine.reconnect(device, goes_on) {
                    let why = why.to_string();
                    self.lane.send(&Outbound::NotConnected { sequence, device, why })?;
                    self.lane.ring_doorbell()?;
                    return Ok(Flow::Go);
                }
            }
        }
        if self.paused {
            self.publish(machine, RunState::Paused);
        }
        self.lane.send(&Outbound::Ack { sequence })?;
        self.lane.ring_doorbell()?;
        Ok(Flow::Go)
    }

    /// Another place is asked for, instead of what was.
    fn wish(&mut self, machine: &mut Machine, goal: Goal) -> Result<Flow, RunError> {
        self.forget_goal()?;
        gdb::overruled(machine);
        self.seek.wish = Some(goal);
        Ok(Flow::Go)
    }
}
