//! The whole of recording and replay in one thread: broker, vCPU and back-ends on in-memory channels, with a seed
//! that decides who moves next, what arrives when, who is killed and where a write is torn.
//!
//! `SIM_SEEDS=N` runs N seeds, `SIM_SEED=S` the seed S alone.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod case;
mod dice;
mod disk;
mod guest;
mod line;
mod trickle;
mod vcpu_side;
mod world;

use broker::sequence::ending::End;
use case::{Case, Outcome, Recorded};
use dice::Dice;
use replay::event::{Event, ShutdownCause};
use replay::log::{Ending, Reader, Step};
use replay::machine::PanicAction;
use replay::manifest;
use replay::recording::{Recording, Replace};
use std::path::Path;
use world::{Fate, Habits};

/// About 20 s.
const SEEDS: u64 = 2000;

/// Seeds that find a bug again if it comes back; tried first.
const REGRESSIONS: &[(u64, &str)] = &[
    (7, "an event landed between a delivered exception and the next retired instruction"),
    (274, "an NMI pending behind a #DB was delivered at the end of a block, wherever that was"),
    (754, "a halted machine that was paused and ended did not journal its guest time"),
    (1788, "a replay took exceptions without progress for the end of the log"),
];

/// Names the seed of a failure.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SIM_SEED={} fails", self.0);
        }
    }
}

/// Files that all seeds share: the kernel and a recording whose log is never read.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let directory = directory.expect("a place for files");
    let recording = Recording::create(directory.path(), Replace::Yes, manifest::example()).unwrap();
    drop(recording.create_log().unwrap());
    std::fs::write(directory.path().join("kernel"), guest::image()).unwrap();
    directory
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn every_seed_replays_as_it_was_recorded() {
    let directory = directory();
    let seeds: Vec<u64> = match environment("SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let known = REGRESSIONS.iter().map(|(seed, _)| *seed);
            known.chain(0..environment("SIM_SEEDS").unwrap_or(SEEDS)).collect()
        }
    };
    for seed in seeds {
        let guard = Seed(seed);
        run_seed(directory.path(), seed);
        std::mem::forget(guard);
    }
}

/// Without disturbance the guest comes to the end of any script: the seeds test more than its first instructions.
#[test]
fn the_guest_knows_every_operation() {
    let directory = directory();
    for operation in guest::COMMON.iter().chain(guest::RESETS) {
        let mut dice = Dice::new(7);
        let mut case = Case::new(directory.path(), &mut dice);
        case.description.boot.cmdline = format!("{}c", char::from(*operation));
        case.description.clock.shift = 7;
        case.description.no_reboot = false;
        case.description.no_shutdown = false;
        case.description.panic_action = PanicAction::None;
        let recorded = case.record_with(Habits { type_in: 300, ..Habits::quiet() }, Fate::Well, &mut dice);
        let Outcome { end, outputs, .. } = &recorded.outcome;
        let name = char::from(*operation);
        assert_eq!(*end, End::Shutdown(ShutdownCause::GuestShutdown), "operation {name}");
        assert!(outputs[0].len() >= 9 && !outputs[0].contains(&b'!'), "operation {name}: {outputs:?}");
    }
}

fn run_seed(directory: &Path, seed: u64) {
    let mut dice = Dice::new(seed);
    let case = Case::new(directory, &mut dice);
    let fate = match dice.below(8) {
        0 => Fate::AllKilled,
        1 => Fate::VcpuKilled,
        _ => Fate::Well,
    };
    let recorded = case.record(fate, &mut dice);
    if std::env::var_os("SIM_SEED").is_some() {
        eprintln!("{:?}\n{:?} {:?}", case.description, fate, recorded.outcome);
        dump(&recorded.log);
    }
    check_order(&recorded);
    let first = check_replay(&case, &recorded, &mut dice);
    match seed % 3 {
        0 => check_cut(&case, &recorded, &first, &mut dice),
        1 => check_flip(&case, &recorded, &first, &mut dice),
        _ => {
            let second = case.replay(&recorded.log, &mut dice).expect("replayed before").0;
            assert_eq!(first, second, "two replays differ");
        }
    }
}

fn dump(log: &[u8]) {
    let mut reader = Reader::new(log).unwrap();
    while let Step::Event(entry) = reader.next().unwrap() {
        eprintln!("{:?}", entry.stamped);
    }
}

/// The journal's order makes sense: entropy first, icounts rise, guest time rises, one shutdown at the end.
fn check_order(recorded: &Recorded) {
    let mut reader = Reader::new(&*recorded.log).expect("the log has a header");
    let mut events = vec![];
    let ending = loop {
        match reader.next().expect("memory can be read") {
            Step::Event(entry) => events.push(entry.stamped),
            Step::Ended(ending) => break ending,
        }
    };
    assert!(events.is_sorted_by_key(|stamped| stamped.icount));
    assert!(events.first().is_none_or(|first| matches!(first.event, Event::Entropy { .. })));
    let wakes = events.iter().filter_map(|stamped| match stamped.event {
        Event::IdleWake { vtime } => Some(vtime),
        _ => None,
    });
    assert!(wakes.is_sorted());
    match ending {
        Ending::Finished { .. } => {
            let [.., shutdown, end] = events.as_slice() else { panic!("a whole log has two events") };
            assert!(matches!(shutdown.event, Event::Shutdown { .. }), "{shutdown:?}");
            assert_eq!(end.event, Event::End);
        }
        Ending::Cut { .. } => assert!(recorded.disk_full || !recorded.by_itself),
        Ending::Damaged(damage) => panic!("{damage}"),
    }
}

fn check_replay(case: &Case, recorded: &Recorded, dice: &mut Dice) -> Outcome {
    let (replayed, ending) = case.replay(&recorded.log, dice).expect("the log has a header");
    assert_eq!(replayed.end, End::Replayed, "{ending}");
    let whole = recorded.by_itself && matches!(ending, Ending::Finished { .. });
    if whole {
        assert_eq!(replayed.state.icount, recorded.outcome.state.icount);
        assert_eq!(replayed.state.vtime, recorded.outcome.state.vtime);
        assert_eq!(replayed.outputs, recorded.outcome.outputs);
        if !case.description.boot.cmdline.ends_with('G') {
            assert_eq!(replayed.state.digests, recorded.outcome.state.digests);
        }
    } else {
        let pairs = replayed.outputs.iter().zip(&recorded.outcome.outputs);
        for (replayed, recorded) in pairs {
            assert!(replayed.starts_with(recorded) || recorded.starts_with(replayed));
        }
    }
    replayed
}

/// A torn write: the rest replays, and says that it is not all.
fn check_cut(case: &Case, recorded: &Recorded, whole: &Outcome, dice: &mut Dice) {
    let length = dice.below(recorded.log.len() as u64) as usize;
    let Ok((replayed, ending)) = case.replay(&recorded.log[..length], dice) else {
        assert!(length < replay::log::FILE_HEADER_BYTES);
        return;
    };
    let Ending::Cut { last_icount, .. } = ending else { panic!("cut at {length}: {ending}") };
    assert_eq!(replayed.end, End::Replayed);
    assert_eq!(replayed.state.icount, last_icount.0);
    check_prefix(&replayed, whole);
}

/// A damaged byte is reported, and what is replayed lies before it.
fn check_flip(case: &Case, recorded: &Recorded, whole: &Outcome, dice: &mut Dice) {
    let mut log = recorded.log.clone();
    let at = dice.below(log.len() as u64) as usize;
    log[at] ^= 1 << dice.below(8);
    let Ok((replayed, ending)) = case.replay(&log, dice) else { return };
    let damage = match ending {
        Ending::Damaged(damage) => damage,
        // In the torn end of a log that was cut already nothing is used.
        Ending::Cut { at_offset, .. } if at_offset <= at as u64 && recorded.disk_full => return,
        Ending::Cut { .. } | Ending::Finished { .. } => panic!("byte {at} flipped: {ending}"),
    };
    assert!(damage.offset <= at as u64);
    assert!(matches!(replayed.end, End::Failed(_)), "{:?}", replayed.end);
    assert_eq!(replayed.state.icount, damage.from.0);
    check_prefix(&replayed, whole);
}

fn check_prefix(replayed: &Outcome, whole: &Outcome) {
    for (part, all) in replayed.outputs.iter().zip(&whole.outputs) {
        assert!(all.starts_with(part), "the output is no prefix");
    }
}
