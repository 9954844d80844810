//! Everything outside the vCPU process: the broker, the back-ends, the user, host time, and chance that orders them.
//!
//! The world moves in turns. It gets one at each checkpoint and while the vCPU sleeps, so one thread is enough and
//! a seed decides everything.

use crate::dice::Dice;
use crate::line::Line;
use broker::hmp::host::{Host, RunStatus};
use broker::sequence::core::Core;
use broker::sequence::ending::End;
use replay::event::{Input, ShutdownCause};
use replay::message::Offer;
use std::time::Instant;

/// Turns after which a run counts as hung.
const TURNS_MAX: u64 = 400_000;
/// Turns of one sleep after which the user does something.
const PATIENCE_TURNS: u64 = 24;
/// Bytes that a user types because the machine sleeps, before the user gives up.
const TYPED_MAX: u64 = 30;

/// What goes wrong in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// SIGKILL for all processes.
    AllKilled,
    /// SIGKILL for the vCPU process; the broker closes the log.
    VcpuKilled,
}

/// How busy the outside is: each is the mean number of turns between two of a kind, 0 for never.
#[derive(Clone, Debug)]
pub struct Habits {
    pub tick: u64,
    pub type_in: u64,
    pub device_input: u64,
    pub nmi: u64,
    pub power_button: u64,
    pub reset: u64,
    pub stop: u64,
    pub refused: u64,
    /// The turn in which the user quits.
    pub quit_turn: u64,
}

impl Habits {
    /// Of a recording.
    pub fn of_host(dice: &mut Dice) -> Habits {
        let quit_turn = if dice.one_in(8) { dice.magnitude(9) } else { 3000 };
        let mut rate = |most: u64| if dice.one_in(2) { 0 } else { 3 + dice.magnitude(most) };
        let busy = Habits {
            quit_turn,
            type_in: rate(8),
            device_input: rate(8),
            nmi: rate(9),
            power_button: rate(9),
            reset: rate(12),
            stop: rate(9),
            ..Habits::quiet()
        };
        busy.ticking(dice)
    }

    /// Of a user who does nothing but what a sleeping machine waits for.
    pub fn quiet() -> Habits {
        Habits {
            tick: 1,
            type_in: 0,
            device_input: 0,
            nmi: 0,
            power_button: 0,
            reset: 0,
            stop: 0,
            refused: 0,
            quit_turn: u64::MAX,
        }
    }

    /// Of a replay: only what has no effect on the guest.
    pub fn of_replay(dice: &mut Dice) -> Habits {
        let stop = if dice.one_in(2) { 0 } else { 3 + dice.magnitude(7) };
        let quiet = Habits { stop, refused: 100, ..Habits::quiet() };
        quiet.ticking(dice)
    }

    fn ticking(self, dice: &mut Dice) -> Habits {
        Habits { tick: dice.magnitude(6), ..self }
    }
}

/// The outside of one run.
pub struct World {
    pub core: Core,
    pub lines: Vec<Line>,
    dice: Dice,
    habits: Habits,
    /// Inputs come from the host.
    live: bool,
    time_ns: u64,
    turns: u64,
    /// Turns since the guest last got on.
    idle_turns: u64,
    typed: u64,
    resets: u64,
    /// When the fate strikes, in turns.
    fate: (Fate, u64),
    continue_turn: u64,
    /// Queues that were signalled, and the turn in which the broker sees it.
    signalled: Vec<(u64, u16)>,
    /// The run's end, as the broker sees it.
    pub end: Option<End>,
    /// The processes are gone: the vCPU runs no further.
    pub killed: bool,
}

impl World {
    pub fn new(
        core: Core,
        lines: Vec<Line>,
        live: bool,
        habits: Habits,
        fate: Fate,
        dice: &mut Dice,
    ) -> World {
        let mut dice = dice.fork();
        World {
            core,
            lines,
            habits,
            live,
            time_ns: 0,
            turns: 0,
            idle_turns: 0,
            typed: 0,
            resets: 0,
            fate: (fate, dice.magnitude(9)),
            continue_turn: dice.magnitude(5),
            signalled: vec![],
            end: None,
            killed: false,
            dice,
        }
    }

    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// The host's date: slower or faster than its time, and now and then set to something else.
    pub fn date_ns(&mut self) -> u64 {
        if self.dice.one_in(20) {
            return self.dice.next();
        }
        1_700_000_000_000_000_000 + self.time_ns * (1 + self.dice.below(1000))
    }

    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// The guest got on.
    pub fn not_idle(&mut self) {
        self.idle_turns = 0;
    }

    /// One turn; the vCPU sleeps for `asleep_ns` more at most, or runs.
    pub fn turn(&mut self, asleep_ns: Option<u64>) {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "the run does not end");
        let longest = asleep_ns.map_or(50_000, |ns| ns.clamp(1, 2_000_000));
        self.time_ns += 1 + self.dice.below(longest);
        if self.end.is_none() && !self.killed {
            self.go_on_or_stop();
            if self.live {
                self.do_host_things();
            } else if self.happens(self.habits.refused) {
                self.core.offer(Offer::Nmi).expect_err("a replay takes no input");
            }
            if asleep_ns.is_some() {
                self.lose_patience();
            }
        }
        if asleep_ns.is_some() || self.happens(self.habits.tick) {
            self.tick();
        }
        if self.fate.0 != Fate::Well && self.turns >= self.fate.1 {
            self.killed = true;
        }
    }

    fn happens(&mut self, every: u64) -> bool {
        every != 0 && self.dice.one_in(every)
    }

    /// What the broker's loop does when it wakes.
    pub fn tick(&mut self) {
        let result = self.core.pump().and_then(|()| self.core.receive());
        match result {
            Ok(None) => {}
            Ok(Some(end)) => {
                self.end.get_or_insert(end);
                self.core.release_vcpu();
            }
            // The broker kills what it cannot go on with.
            Err(why) => {
                self.end.get_or_insert(End::Failed(why));
                self.killed = true;
            }
        }
    }

    fn go_on_or_stop(&mut self) {
        match self.core.run_status() {
            RunStatus::Running if self.happens(self.habits.stop) => {
                self.core.stop().expect("a running machine can be stopped");
                self.continue_turn = self.turns + self.dice.magnitude(4);
            }
            RunStatus::Prelaunch | RunStatus::Paused | RunStatus::Panicked
                if self.turns >= self.continue_turn =>
            {
                self.core.cont().expect("a paused machine can go on");
            }
            _ => {}
        }
    }

    fn do_host_things(&mut self) {
        if self.happens(self.habits.type_in) {
            self.type_in();
        }
        if self.happens(self.habits.device_input) {
            let input = self.device_input();
            self.core.offer_from_host(Offer::Input(input));
        }
        if self.happens(self.habits.nmi) {
            self.core.offer_from_host(Offer::Nmi);
        }
        if self.happens(self.habits.power_button) {
            self.core.offer_from_host(Offer::PowerButton);
        }
        if self.resets < 2 && self.happens(self.habits.reset) {
            self.resets += 1;
            self.core.offer_from_host(Offer::Reset);
        }
        if self.turns == self.habits.quit_turn {
            self.quit();
        }
        for (device, line) in self.lines.iter().enumerate() {
            if std::mem::take(&mut line.0.borrow_mut().signals) {
                self.signalled.push((self.turns, device as u16));
            }
        }
        let (seen, unseen) = std::mem::take(&mut self.signalled)
            .into_iter()
            .partition::<Vec<_>, _>(|(turn, _)| *turn <= self.turns);
        self.signalled = unseen;
        for (_, device) in seen {
            self.core.offer_from_host(Offer::DeviceReady { device, queue: 0 });
        }
    }

    fn quit(&mut self) {
        let signal = self.dice.one_in(2);
        let cause = if signal { ShutdownCause::HostSignal { signal: 15 } } else { ShutdownCause::HostQuit };
        self.core.ask_to_end(cause, Instant::now());
    }

    fn type_in(&mut self) {
        let device = if self.dice.one_in(5) { 1 } else { 0 };
        let count = if self.dice.one_in(1000) { self.dice.below(50_000) } else { self.dice.magnitude(3) };
        let bytes: Vec<u8> = (0..count).map(|_| self.dice.next() as u8).collect();
        let is_break = self.dice.one_in(20);
        self.lines[usize::from(device)].type_in(if is_break { b"" } else { &bytes });
        self.signalled.push((self.turns + self.dice.below(6), device));
    }

    fn device_input(&mut self) -> Input {
        match self.dice.below(4) {
            0 => Input::MouseMove { dx: self.dice.below(9) as i32 - 4, dy: 3, dz: 0 },
            1 => Input::MouseButtons { buttons: self.dice.below(8) as u8 },
            _ => Input::Key { scancode: 1 + self.dice.below(0x50) as u16, down: self.dice.one_in(2) },
        }
    }

    /// A machine that sleeps for long waits for the user.
    fn lose_patience(&mut self) {
        self.idle_turns += 1;
        if !self.live || !self.idle_turns.is_multiple_of(PATIENCE_TURNS) {
            return;
        }
        self.typed += 1;
        if self.typed > TYPED_MAX {
            self.quit();
        } else if self.lines[0].is_taken() {
            self.lines[0].type_in(b"x");
            self.signalled.push((self.turns, 0));
        }
    }
}
