//! One seed: a machine, its recording, and runs from it.

use crate::dice::Dice;
use crate::disk::Disk;
use crate::guest;
use crate::line::Line;
use crate::trickle::Trickle;
use crate::vcpu_side::{Clock, Shared, Sliced};
use crate::world::{Fate, Habits, World};
use broker::journal::{Journal, Playback, Record};
use broker::sequence::core::{Core, Facts};
use broker::sequence::ending::End;
use replay::device::{DeviceChoice, DeviceKind};
use replay::lane;
use replay::log::{Ending, LogError, Reader, Writer, survey};
use replay::machine::{Boot, Clock as GuestClock, CpuChoice, Machine as Description, PanicAction};
use replay::recording::Recording;
use replay::setup::{Mode, VcpuSetup};
use std::cell::RefCell;
use std::io::Cursor;
use std::path::Path;
use std::rc::Rc;
use vcpu::run::consoles::{BackEnd, Consoles};
use vcpu::run::inputs::Inputs;
use vcpu::run::live::Live;
use vcpu::run::machine::Machine;
use vcpu::run::playback::Playback as VcpuPlayback;
use vcpu::run::process::run_machine;

/// Where a machine stood when its run was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub icount: u64,
    pub vtime: u64,
    pub digests: (u64, u64),
}

/// What a run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What each line has shown.
    pub outputs: Vec<Vec<u8>>,
    pub state: State,
    pub end: End,
}

/// A recording of a run.
pub struct Recorded {
    pub outcome: Outcome,
    /// The vCPU came to the end by itself.
    pub by_itself: bool,
    pub disk_full: bool,
    pub log: Vec<u8>,
}

/// A machine and the places of its files.
pub struct Case<'a> {
    pub description: Description,
    digest_interval: u64,
    directory: &'a Path,
}

fn setup(description: &Description, mode: Mode, digest_interval: u64, start_paused: bool) -> VcpuSetup {
    VcpuSetup { digest_interval, start_paused, ..VcpuSetup::alone(description.clone(), mode) }
}

impl<'a> Case<'a> {
    /// A machine from `dice`; `directory` holds the kernel and an empty recording.
    pub fn new(directory: &'a Path, dice: &mut Dice) -> Case<'a> {
        let device = |id: &str| DeviceChoice { id: id.to_owned(), kind: DeviceKind::Chardev };
        let boot =
            Boot { kernel: Some(directory.join("kernel")), initrd: None, cmdline: guest::script(dice) };
        let description = Description {
            ram_bytes: 4 << 20,
            cpu: CpuChoice {
                model: "x86-64-v3".to_owned(),
                features: vec![("rdrand".to_owned(), true), ("rdseed".to_owned(), true)],
            },
            cpu_count: 1,
            boot,
            clock: GuestClock {
                shift: dice.below(11) as u8,
                auto: dice.one_in(4),
                sleep: !dice.one_in(3),
                rtc_base: 1_700_000_000,
                host_offset_s: dice.one_in(2).then(|| dice.below(7200) as i64 - 3600),
            },
            uarts: vec![Some(0), Some(1)],
            devices: vec![device("serial0"), device("serial1"), device("debug")],
            functions: vec![],
            no_reboot: dice.one_in(4),
            no_shutdown: dice.one_in(6),
            panic_action: match dice.below(6) {
                0 => PanicAction::Pause,
                1 => PanicAction::Shutdown,
                2 => PanicAction::ExitFailure,
                _ => PanicAction::None,
            },
            debug_exit_port: Some(0xf4),
            debug_console: Some((0x402, 2)),
            uuid: None,
        };
        let digest_interval = match dice.below(12) {
            0 | 1 => 0,
            2 => 15 + dice.magnitude(8),
            _ => 250 + dice.magnitude(12),
        };
        Case { description, digest_interval, directory }
    }

    fn recording(&self) -> Recording {
        Recording::open(self.directory).expect("made by the test")
    }

    fn machine(&self, lines: &[Line]) -> Machine {
        let setup = setup(&self.description, Mode::Replay, self.digest_interval, false);
        let open = |device: u16| Some(Box::new(lines[usize::from(device)].clone()) as Box<dyn BackEnd>);
        let consoles = Consoles::new(&setup.machine.uarts, Some(2), open);
        Machine::new(&setup, consoles.into()).expect("the machine can be built")
    }

    /// Records a run.
    pub fn record(&self, fate: Fate, dice: &mut Dice) -> Recorded {
        let habits = Habits::of_host(dice);
        self.record_with(habits, fate, dice)
    }

    /// Records a run with a user of given habits.
    pub fn record_with(&self, habits: Habits, fate: Fate, dice: &mut Dice) -> Recorded {
        let lines: Vec<Line> = (0..3).map(|_| Line::default()).collect();
        if dice.one_in(30) {
            lines[0].0.borrow_mut().dies_after = Some(dice.below(30) as usize);
        }
        let room = dice.one_in(25).then(|| 36 + dice.below(2000) as usize);
        let disk = Disk::new(room, dice.one_in(2));
        let writer = Writer::create(disk.clone(), uuid()).expect("there is room for the header");
        let journal = Record::with_writer(self.recording(), writer);
        let (broker, vcpu) = lane::pair(None).expect("a lane");
        let paused = dice.one_in(8);
        let core = Core::new(broker, Box::new(journal), Facts::default(), paused);
        let world = Rc::new(RefCell::new(World::new(core, lines.clone(), true, habits, fate, dice)));
        let mut machine = self.machine(&lines);
        let setup = setup(&self.description, Mode::Record, self.digest_interval, paused);
        let entropy = std::array::from_fn(|_| dice.next() as u8);
        let clock = Box::new(Clock(world.clone()));
        let mut live = Live::new(vcpu, &setup, &mut machine, entropy, clock).expect("a start");
        let by_itself = drive(&mut machine, &mut live, &world, dice);
        drop(live);
        let end = self.close(&world, fate);
        Recorded {
            outcome: outcome(&mut machine, &lines, end),
            by_itself,
            disk_full: disk.is_full(),
            log: disk.bytes(),
        }
    }

    /// What the broker does when the vCPU is gone, unless it is gone itself.
    fn close(&self, world: &Shared, fate: Fate) -> End {
        let mut world = world.borrow_mut();
        if fate == Fate::AllKilled && world.killed && world.end.is_none() {
            return End::FailedAndSaid;
        }
        world.tick();
        let end = world.end.take().unwrap_or_else(|| End::Failed("the vCPU process is gone".to_owned()));
        world.core.close(end)
    }

    /// Replays a log.
    pub fn replay(&self, log: &[u8], dice: &mut Dice) -> Result<(Outcome, Ending), LogError> {
        let ending = survey(log)?.ending;
        let reader = Reader::new(Cursor::new(log.to_vec()))?;
        let playback = Playback::with_reader(self.recording(), reader, ending.clone());
        let journal: Box<dyn Journal> =
            if dice.one_in(2) { Box::new(playback) } else { Box::new(Trickle::new(playback, dice.fork())) };
        let lines: Vec<Line> = (0..3).map(|_| Line::default()).collect();
        let (broker, vcpu) = lane::pair(None).expect("a lane");
        let paused = dice.one_in(8);
        let core = Core::new(broker, journal, Facts::default(), paused);
        let habits = Habits::of_replay(dice);
        let world = Rc::new(RefCell::new(World::new(core, lines.clone(), false, habits, Fate::Well, dice)));
        let mut machine = self.machine(&lines);
        let setup = setup(&self.description, Mode::Replay, self.digest_interval, paused);
        let mut inputs = VcpuPlayback::new(vcpu, &setup, Box::new(Clock(world.clone())));
        let by_itself = drive(&mut machine, &mut inputs, &world, dice);
        assert!(by_itself, "the replay was killed: {:?}", world.borrow().end);
        drop(inputs);
        assert!(!lines.iter().any(|line| line.0.borrow().receives), "a replay asks for input");
        let end = self.close(&world, Fate::Well);
        Ok((outcome(&mut machine, &lines, end), ending))
    }
}

/// Runs the loop to its end; false when the process was killed or failed.
fn drive(machine: &mut Machine, inputs: &mut dyn Inputs, world: &Shared, dice: &mut Dice) -> bool {
    let slice_bits = 5 + dice.below(9);
    let mut sliced = Sliced { inner: inputs, world: world.clone(), slice_bits, last_icount: 0 };
    run_machine(machine, &mut sliced).is_ok()
}

fn outcome(machine: &mut Machine, lines: &[Line], end: End) -> Outcome {
    // A dead back-end cannot take the rest.
    lines.iter().for_each(|line| line.0.borrow_mut().dies_after = None);
    let digests = machine.digests().expect("lines take everything");
    let state = State { icount: machine.icount(), vtime: machine.vtime().0, digests };
    let outputs = lines.iter().map(|line| line.0.borrow().output.clone()).collect();
    Outcome { outputs, state, end }
}

/// Identity of the recording that the cases share.
pub fn uuid() -> [u8; 16] {
    replay::manifest::example().uuid_bytes().expect("the example is right")
}
