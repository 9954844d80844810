//! Record and replay through a lane, with a stand-in for the vCPU.

use super::*;
use replay::event::{Event, Input};
use replay::lane::{self, VcpuEnd};
use replay::log::{Storage, Writer};
use replay::manifest;
use replay::message::{Control, LogEnding, Outbound};
use replay::recording::{Recording, Replace};
use replay::time::Vtime;
use std::io;

struct Bench {
    _guard: tempfile::TempDir,
    path: PathBuf,
    broker: BrokerEnd,
    vcpu: VcpuEnd,
}

fn bench() -> Bench {
    let guard = tempfile::tempdir().unwrap();
    let path = guard.path().join("run");
    let (broker, vcpu) = lane::pair(None).unwrap();
    Bench { _guard: guard, path, broker, vcpu }
}

fn new_recording(path: &Path) -> Recording {
    Recording::create(path, Replace::No, manifest::example()).unwrap()
}

fn event(icount: u64) -> Stamped {
    let bytes = vec![icount as u8; 1000];
    Stamped { icount: Icount(icount), event: Event::Entropy { bytes } }
}

fn shutdown(icount: u64) -> Stamped {
    let cause = ShutdownCause::GuestShutdown;
    Stamped { icount: Icount(icount), event: Event::Shutdown { cause } }
}

/// What the broker's loop does at each tick.
fn tick(journal: &mut dyn Journal, broker: &mut BrokerEnd) -> Result<(), JournalError> {
    let progress = broker.status()?.icount;
    while let Some(message) = broker.receive()? {
        if let Outbound::Journal(stamped) = message {
            journal.on_event(&stamped)?;
        }
    }
    journal.flush(progress)?;
    journal.pump(broker)
}

/// Records events at 10, 20, … and a shutdown behind them; returns them.
fn record(bench: &mut Bench, count: u64) -> Vec<Stamped> {
    let mut journal = Record::create(new_recording(&bench.path)).unwrap();
    let mut sent: Vec<Stamped> = (1..=count).map(|n| event(n * 10)).collect();
    sent.push(shutdown(count * 10 + 5));
    for stamped in &sent {
        bench.vcpu.send(&Outbound::Journal(stamped.clone())).unwrap();
        bench.vcpu.publish(stamped.icount, Vtime(0));
        tick(&mut journal, &mut bench.broker).unwrap();
    }
    journal.finish(Icount(count * 10 + 5), ShutdownCause::GuestShutdown).unwrap();
    sent
}

/// Replays everything; returns the events applied and the ending.
fn play(
    journal: &mut Playback,
    broker: &mut BrokerEnd,
    vcpu: &mut VcpuEnd,
) -> (Vec<Stamped>, u64, LogEnding) {
    let mut applied = Vec::new();
    loop {
        tick(journal, broker).unwrap();
        while let Some(message) = vcpu.receive().unwrap() {
            match message {
                Inbound::Apply(stamped) => applied.push(stamped),
                Inbound::LogEnds { icount, how } => return (applied, icount.0, how),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_was_recorded_is_played_back_ahead() {
    let mut bench = bench();
    let sent = record(&mut bench, 3000);
    let mut journal = Playback::open(Recording::open(&bench.path).unwrap()).unwrap();
    assert_eq!(journal.take_warning(), None);
    journal.pump(&mut bench.broker).unwrap();
    assert!(bench.broker.room_bytes().unwrap() <= lane::RING_BYTES / 2, "the ring is kept full");
    let played = play(&mut journal, &mut bench.broker, &mut bench.vcpu);
    assert_eq!(played, (sent, 30_005, LogEnding::Finished));
    journal.pump(&mut bench.broker).unwrap();
    assert_eq!(bench.vcpu.receive().unwrap(), None, "the end is sent once");
    journal.finish(Icount(30_005), ShutdownCause::GuestShutdown).unwrap();
}

#[test]
fn a_killed_recorder_leaves_what_was_flushed() {
    let mut bench = bench();
    let mut journal = Record::create(new_recording(&bench.path)).unwrap();
    bench.vcpu.send(&Outbound::Journal(event(10))).unwrap();
    bench.vcpu.publish(Icount(70), Vtime(0));
    tick(&mut journal, &mut bench.broker).unwrap();
    journal.on_event(&event(90)).unwrap();
    drop(journal);
    let mut journal = Playback::open(Recording::open(&bench.path).unwrap()).unwrap();
    let warning = journal.take_warning().unwrap();
    assert!(
        warning.contains("the recording was cut short, not finished") && warning.contains("instruction 70")
    );
    let played = play(&mut journal, &mut bench.broker, &mut bench.vcpu);
    assert_eq!(played, (vec![event(10)], 70, LogEnding::CutShort));
    journal.finish(Icount(70), ShutdownCause::HostQuit).unwrap();
}

#[test]
fn damage_is_known_before_the_first_event() {
    let mut bench = bench();
    let sent = record(&mut bench, 5);
    let log = bench.path.join("events.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 4;
    std::fs::write(&log, bytes).unwrap();
    let mut journal = Playback::open(Recording::open(&bench.path).unwrap()).unwrap();
    let warning = journal.take_warning().unwrap();
    assert!(warning.contains("damaged at offset") && warning.contains("instructions 55 to 55"), "{warning}");
    let played = play(&mut journal, &mut bench.broker, &mut bench.vcpu);
    assert_eq!(played, (sent, 55, LogEnding::Damaged));
    let end = journal.finish(Icount(55), ShutdownCause::GuestShutdown);
    assert!(matches!(end, Err(JournalError::Damaged { .. })));
}

#[test]
fn a_vcpu_that_died_gets_its_cause_from_the_broker() {
    let mut bench = bench();
    let mut journal = Record::create(new_recording(&bench.path)).unwrap();
    journal.on_event(&event(40)).unwrap();
    journal.finish(Icount(30), ShutdownCause::HostError).unwrap();
    let mut journal = Playback::open(Recording::open(&bench.path).unwrap()).unwrap();
    let (applied, icount, how) = play(&mut journal, &mut bench.broker, &mut bench.vcpu);
    let died = Event::Shutdown { cause: ShutdownCause::HostError };
    assert_eq!(applied[1..], [Stamped { icount: Icount(40), event: died }]);
    assert_eq!((icount, how), (40, LogEnding::Finished));
}

#[test]
fn offers_reach_a_live_machine_and_are_refused_in_a_replay() {
    let mut bench = bench();
    let offer = || Offer::Input(Input::Key { scancode: 0x1c, down: true });
    let quit = || Offer::Quit { cause: ShutdownCause::HostQuit };
    let Bench { broker, vcpu, path, .. } = &mut bench;
    Plain.offer(broker, offer()).unwrap();
    assert!(vcpu.take_attention());
    assert_eq!(vcpu.receive().unwrap(), Some(Inbound::Offer(offer())));
    let mut live = Record::create(new_recording(path)).unwrap();
    live.offer(broker, quit()).unwrap();
    assert_eq!(vcpu.receive().unwrap(), Some(Inbound::Offer(quit())));
    live.finish(Icount(0), ShutdownCause::HostQuit).unwrap();
    let mut replayed = Playback::open(Recording::open(path).unwrap()).unwrap();
    assert!(matches!(replayed.offer(broker, offer()), Err(JournalError::Refused { .. })));
    assert!(matches!(replayed.on_event(&event(1)), Err(JournalError::Unexpected(_))));
    replayed.offer(broker, quit()).unwrap();
    let control = Inbound::Control { sequence: JOURNAL_SEQUENCE, control: Control::Quit };
    assert_eq!(vcpu.receive().unwrap(), Some(control));
}

/// A disk with room for so many bytes.
struct SmallDisk(usize);

impl Storage for SmallDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }

    fn overwrite(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_said_once_and_ends_the_recording() {
    let bench = bench();
    let writer = Writer::create(SmallDisk(150), [0; 16]).unwrap();
    let mut journal = Record::with_writer(new_recording(&bench.path), writer);
    journal.on_event(&event(10)).unwrap();
    journal.flush(Icount(20)).unwrap();
    journal.on_event(&event(30)).unwrap();
    let error = journal.flush(Icount(40)).unwrap_err().to_string();
    assert!(error.contains("the recording ends at instruction 20"), "{error}");
    journal.on_event(&event(50)).unwrap();
    journal.flush(Icount(60)).unwrap();
    let error = journal.finish(Icount(70), ShutdownCause::HostError).unwrap_err().to_string();
    assert!(error.ends_with("is not finished: it ends at instruction 20"), "{error}");
}
