//! The ways of a replay to other places, forward and back, for a monitor and for a debugger.
//!
//! Backwards is forward from a snapshot. A step back goes to the icount before. What would have stopped the machine last is
//! found by running the segments between snapshots again, the latest first: the probe remembers what it met last and stops
//! nowhere, so a segment costs the same however often something is met in it.

use super::error::RunError;
use super::inputs::{Flow, Inputs};
use super::machine::Machine;
use super::playback::Playback;
use super::seek::{Goal, Purpose, Source};
use crate::gdb::{Back, Told};
use crate::probe::Quest;
use crate::snapshot::history::{Moment, Place};
use replay::lane::RunState;
use replay::message::{Outbound, PauseReason};
use replay::time::Icount;

impl Playback {
    /// The way is given up, or at its end.
    pub(super) fn forget_goal(&mut self) -> Result<(), RunError> {
        let goals = [self.seek.goal.take(), self.seek.wish.take()];
        for goal in goals.into_iter().flatten() {
            if let Purpose::Monitor(ticket) = goal.purpose {
                self.lane.send(&Outbound::Ack { sequence: ticket })?;
                self.lane.ring_doorbell()?;
            }
        }
        Ok(())
    }

    /// What the guest writes is shown again, and a debugger's points stop the machine.
    pub(super) fn leave_way(&mut self, machine: &mut Machine) -> Result<(), RunError> {
        machine.flush_consoles()?;
        machine.consoles.hide(false);
        machine.core.probe.begin(Quest::Stop, None);
        Ok(())
    }

    /// Begins the way to a goal.
    fn begin_way(&mut self, machine: &mut Machine, goal: Goal) -> Result<Flow, RunError> {
        if let Some(device) = machine.unanswered()? {
            self.seek.wish = Some(goal);
            return self.stalled(machine, device);
        }
        machine.flush_consoles()?;
        machine.consoles.hide(true);
        (self.paused, self.over) = (false, None);
        self.seek.goal = Some(goal);
        machine.reached(self.seek.events);
        if let Some(source) = self.seek.source_for(machine, &goal) {
            tracing::debug!(?source, target = goal.icount(machine), "a replay fetches a state");
            (self.awaits_state, self.fetching) = (true, true);
            self.lane.send(&match source {
                Source::Stored(Place { icount, events }) => {
                    Outbound::Fetch { icount: Icount(icount), events }
                }
                Source::Start => Outbound::FetchStart,
            })?;
            self.lane.ring_doorbell()?;
        } else if let Some(place) = self.seek.start_for(machine, &goal) {
            tracing::debug!(
                from = place.icount,
                target = goal.icount(machine),
                "a replay jumps to a snapshot"
            );
            machine.restore_snapshot(place)?;
            self.jumped(machine, place.events)?;
        }
        let quest = match goal.purpose {
            Purpose::Scan(_) => Quest::Note,
            Purpose::Monitor(_) | Purpose::Land(_) => Quest::Pass,
        };
        machine.core.probe.begin(quest, goal.turn());
        self.publish(machine, RunState::Running);
        Ok(Flow::Again)
    }

    /// How to find what a debugger waits for before a moment.
    fn look_before(&self, machine: &Machine, end: Moment) -> Goal {
        match self.seek.last_before(machine, end) {
            Some(from) => Goal::of_debugger(end, Purpose::Scan(from)),
            None => {
                let first = machine.history().and_then(|history| history.first()).unwrap_or_default();
                Goal::of_debugger(Moment::arrival(first), Purpose::Land(Told::Begin))
            }
        }
    }

    /// Where a debugger's wish to go back leads, to begin with.
    fn goal_of(&self, machine: &Machine, back: Back) -> Goal {
        let here = machine.core.moment();
        match back {
            Back::Continue => self.look_before(machine, here),
            Back::Step if here.place.icount == 0 => {
                Goal::of_debugger(Moment::default(), Purpose::Land(Told::Begin))
            }
            Back::Step => {
                let place = Place { icount: here.place.icount - 1, events: 0 };
                Goal::of_debugger(Moment::arrival(place), Purpose::Land(Told::Step))
            }
        }
    }

    /// The machine is where it was to go, or can go no further.
    pub(super) fn arrive(&mut self, machine: &mut Machine) -> Result<Flow, RunError> {
        match self.seek.goal.map(|goal| goal.purpose) {
            Some(Purpose::Scan(from)) => {
                self.seek.goal = None;
                let goal = match machine.core.probe.take_noted() {
                    Some((moment, hit)) => Goal::of_debugger(moment, Purpose::Land(Told::Met(hit))),
                    None => self.look_before(machine, Moment::arrival(from)),
                };
                self.begin_way(machine, goal)
            }
            Some(Purpose::Land(told)) => {
                machine.debugger.came_back(told);
                self.leave_way(machine)?;
                machine.core.stand_here();
                self.pause(machine, PauseReason::Stopped)
            }
            Some(Purpose::Monitor(_)) | None => {
                self.leave_way(machine)?;
                self.pause(machine, PauseReason::Place)
            }
        }
    }

    /// Goals, stops and snapshots at this place; a flow if the machine does not go on from here as it is.
    pub(super) fn attend_seek(&mut self, machine: &mut Machine) -> Result<Option<Flow>, RunError> {
        if machine.history().is_some_and(|history| history.first().is_none()) && machine.is_quiet() {
            // Whatever is asked for first: there is a way back to here.
            machine.take_snapshot(self.seek.events)?;
        }
        machine.reached(self.seek.events);
        let back = machine.debugger.take_back().map(|back| self.goal_of(machine, back));
        if let Some(goal) = self.seek.wish.take().or(back) {
            return self.begin_way(machine, goal).map(Some);
        }
        if let Some(reason) = self.over {
            return self.pause(machine, reason).map(Some);
        }
        let for_debugger = self.seek.goal.is_some_and(|goal| goal.is_of_debugger());
        if for_debugger && !machine.debugger.is_attached() {
            // Nobody is told where it ends: the machine runs on from here.
            self.seek.goal = None;
            self.leave_way(machine)?;
        }
        let here = self.seek.here(machine);
        if self.seek.is_marked(machine) && machine.is_quiet() && !self.guest_ended {
            machine.take_snapshot(here.events)?;
        } else if machine.history().is_some_and(|history| history.holds(here)) {
            machine.pass_snapshot(here.events);
        }
        if self.seek.has_arrived(machine) {
            return self.arrive(machine).map(Some);
        }
        if !for_debugger && self.seek.meets_break(machine) {
            return self.pause(machine, PauseReason::Place).map(Some);
        }
        Ok(None)
    }
}
