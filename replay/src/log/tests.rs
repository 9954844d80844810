//! Tests of writer and reader together: round trips, every damage, every cut.

use super::format::{BLOCK_HEADER_BYTES, BLOCK_RAW_TARGET};
use super::*;
use crate::event::{Event, Input, Payload, ShutdownCause, Stamped, UsedEntry};
use crate::time::Vtime;
use proptest::prelude::*;

const UUID: [u8; 16] = *b"sixteen bytes id";

fn digest(icount: u64) -> Stamped {
    let spread = icount.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Stamped { icount: Icount(icount), event: Event::Digest { registers: spread, memory: !spread } }
}

/// Three blocks with events, one with progress only, one with End.
fn sample() -> Vec<u8> {
    let mut writer = Writer::create(Vec::new(), UUID).unwrap();
    writer.append(&Stamped { icount: Icount(0), event: Event::Entropy { bytes: vec![7; 200] } }).unwrap();
    writer.append(&digest(1000)).unwrap();
    writer.flush(Icount(1500)).unwrap();
    writer.append(&digest(2000)).unwrap();
    writer.flush(Icount(2000)).unwrap();
    writer.flush(Icount(2500)).unwrap();
    let shutdown = Event::Shutdown { cause: ShutdownCause::GuestShutdown };
    writer.append(&Stamped { icount: Icount(3000), event: shutdown }).unwrap();
    writer.finish(Icount(3000)).unwrap()
}

/// Reads until the end; returns the events and how it ended.
fn read(bytes: &[u8]) -> Result<(Vec<Stamped>, Ending), LogError> {
    let mut reader = Reader::new(bytes)?;
    let mut events = Vec::new();
    loop {
        match reader.next()? {
            Step::Event(entry) => events.push(entry.stamped),
            Step::Ended(ending) => return Ok((events, ending)),
        }
    }
}

/// Offsets at which blocks begin, and the length of the file.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut at = vec![FILE_HEADER_BYTES];
    while *at.last().unwrap() < bytes.len() {
        let start = *at.last().unwrap();
        let length = u32::from_le_bytes(bytes[start + 8..start + 12].try_into().unwrap());
        at.push(start + BLOCK_HEADER_BYTES + length as usize);
    }
    at
}

#[test]
fn a_finished_log_reads_back() {
    let bytes = sample();
    let (events, ending) = read(&bytes).unwrap();
    assert_eq!(events.len(), 5);
    assert_eq!(events[1], digest(1000));
    assert_eq!(events[4], Stamped { icount: Icount(3000), event: Event::End });
    assert_eq!(ending, Ending::Finished { icount: Icount(3000) });
    let mut reader = Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.uuid(), UUID);
    let Step::Event(entry) = reader.next().unwrap() else { panic!("no event") };
    assert_eq!((entry.block, entry.offset), (0, FILE_HEADER_BYTES as u64));
    let survey = survey(&bytes[..]).unwrap();
    assert_eq!((survey.blocks, survey.events, survey.bytes), (4, 5, bytes.len() as u64));
    assert_eq!((survey.progress, survey.ending), (Icount(3000), ending));
}

#[test]
fn every_changed_byte_is_reported_before_it_has_effect() {
    let bytes = sample();
    let (good, _) = read(&bytes).unwrap();
    let starts = boundaries(&bytes);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff, 0x20, 0x55] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match (read(&damaged), survey(&damaged[..])) {
                (Err(error), Err(_)) => {
                    assert!(at < FILE_HEADER_BYTES, "byte {at}: {error}");
                    assert!(matches!(error, LogError::HeaderDamaged { .. }), "byte {at}: {error}");
                }
                (Ok((events, Ending::Damaged(damage))), Ok(survey)) => {
                    let block = starts.iter().rposition(|start| *start <= at).unwrap();
                    assert_eq!(damage.offset, starts[block] as u64, "byte {at}");
                    assert_eq!(damage.block as usize, block, "byte {at}");
                    assert!(events.iter().all(|event| event.icount <= damage.from), "byte {at}");
                    assert_eq!(events[..], good[..events.len()], "byte {at}");
                    assert_eq!(survey.ending, Ending::Damaged(damage));
                }
                other => panic!("byte {at} ^ {flip:#x} passed: {other:?}"),
            }
        }
    }
}

#[test]
fn every_cut_keeps_what_is_before_it() {
    let bytes = sample();
    let (good, _) = read(&bytes).unwrap();
    let starts = boundaries(&bytes);
    let progress = [0, 1500, 2000, 2500];
    for length in 0..bytes.len() {
        match read(&bytes[..length]) {
            Err(error) => {
                assert!(length < FILE_HEADER_BYTES);
                assert!(matches!(error, LogError::NoHeader { bytes } if bytes == length), "{error}");
            }
            Ok((events, ending)) => {
                let block = starts.iter().rposition(|start| *start <= length).unwrap();
                let at_offset = starts[block] as u64;
                assert_eq!(ending, Ending::Cut { at_offset, last_icount: Icount(progress[block]) });
                assert_eq!(events[..], good[..events.len()]);
                assert!(good[events.len()..].iter().all(|event| event.icount >= Icount(progress[block])));
            }
        }
    }
}

#[test]
fn added_removed_and_swapped_bytes_are_reported() {
    let bytes = sample();
    let starts = boundaries(&bytes);
    let ending = |bytes: &[u8]| read(bytes).unwrap().1;
    for count in [1, 39, 40, 100] {
        let longer = [&bytes[..], &vec![0; count]].concat();
        assert!(matches!(ending(&longer), Ending::Damaged(_)), "{count} bytes added");
        let cut_and_padded = [&bytes[..starts[3]], &vec![0; count]].concat();
        assert!(matches!(ending(&cut_and_padded), Ending::Damaged(_)), "{count} zeros behind a cut");
    }
    let without_a_block = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
    assert!(matches!(ending(&without_a_block), Ending::Damaged(_)));
    let twice = [&bytes[..starts[1]], &bytes[starts[0]..]].concat();
    assert!(matches!(ending(&twice), Ending::Damaged(_)));
    let other = Writer::create(Vec::new(), *b"another recordin").unwrap().finish(Icount(9)).unwrap();
    let spliced = [&other[..FILE_HEADER_BYTES], &bytes[FILE_HEADER_BYTES..]].concat();
    assert!(matches!(ending(&spliced), Ending::Damaged(_)), "blocks are chained to their file");
}

#[test]
fn foreign_and_newer_files_are_told_apart() {
    let error = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    assert_eq!(error(b"QEMU"), "this is not an event log of reprise");
    assert_eq!(error(&[b'x'; 100]), "this is not an event log of reprise");
    assert_eq!(error(b""), "the log is cut short: 0 bytes, not even its header is there");
    let mut newer = sample();
    newer[8] = 9;
    let crc = crc32fast::hash(&newer[..32]);
    newer[32..36].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(error(&newer), "the log has format 9, this reprise reads formats up to 1: use a newer one");
}

#[test]
fn a_boot_of_thirty_seconds_takes_less_than_100_kb() {
    let mut writer = Writer::create(Vec::new(), UUID).unwrap();
    let (mut icount, mut next_digest) = (0u64, 0u64);
    for tick in 0..600u64 {
        // 100 M instructions a second, a flush every 50 ms, a digest every 10 M instructions, a seed now and then.
        icount += 5_000_000;
        if tick % 25 == 0 {
            let event = Event::Entropy { bytes: (0..32).map(|i| (tick * 31 + i * 17) as u8).collect() };
            writer.append(&Stamped { icount: Icount(icount - 10), event }).unwrap();
        }
        if icount >= next_digest {
            writer.append(&digest(icount)).unwrap();
            next_digest += 10_000_000;
        }
        writer.flush(Icount(icount)).unwrap();
    }
    let bytes = writer.finish(Icount(icount)).unwrap().len();
    assert!(bytes < 50_000, "{bytes} bytes");
}

#[test]
fn a_long_log_is_cut_into_blocks_without_a_flush() {
    let mut writer = Writer::create(Vec::new(), UUID).unwrap();
    let event = |n: u64| Stamped { icount: Icount(n), event: Event::PowerButton };
    (0..70_000).for_each(|n| writer.append(&event(n)).unwrap());
    let big = Event::Entropy { bytes: vec![1; BLOCK_RAW_TARGET + 5] };
    writer.append(&Stamped { icount: Icount(70_000), event: big }).unwrap();
    let bytes = writer.finish(Icount(70_000)).unwrap();
    let (events, ending) = read(&bytes).unwrap();
    assert_eq!((events.len(), ending), (70_002, Ending::Finished { icount: Icount(70_000) }));
    assert!(survey(&bytes[..]).unwrap().blocks >= 3);
}

#[test]
fn events_out_of_order_are_refused() {
    let mut writer = Writer::create(Vec::new(), UUID).unwrap();
    writer.append(&digest(10)).unwrap();
    assert!(matches!(writer.append(&digest(9)), Err(LogError::Order { .. })));
    writer.flush(Icount(20)).unwrap();
    assert!(matches!(writer.append(&digest(19)), Err(LogError::Order { .. })));
    writer.append(&digest(20)).unwrap();
    let end = Stamped { icount: Icount(30), event: Event::End };
    assert!(matches!(writer.append(&end), Err(LogError::Order { .. })));
    let length = writer.bytes();
    writer.flush(Icount(5)).unwrap();
    assert!(writer.bytes() > length && writer.progress() == Icount(20));
    writer.flush(Icount(20)).unwrap();
    assert_eq!(read(&writer.finish(Icount(20)).unwrap()).unwrap().0.len(), 3);
}

#[test]
fn progress_without_events_does_not_grow_the_log() {
    let mut writer = Writer::create(Vec::new(), UUID).unwrap();
    writer.append(&digest(10)).unwrap();
    writer.flush(Icount(20)).unwrap();
    let with_event = writer.bytes();
    writer.flush(Icount(30)).unwrap();
    let with_progress = writer.bytes();
    assert!(with_progress > with_event);
    for icount in 31..1000 {
        writer.flush(Icount(icount)).unwrap();
    }
    assert_eq!((writer.bytes(), writer.progress()), (with_progress, Icount(999)));
    writer.append(&digest(1000)).unwrap();
    writer.flush(Icount(1000)).unwrap();
    writer.flush(Icount(1001)).unwrap();
    let log = writer.finish(Icount(1002)).unwrap();
    assert_eq!(read(&log).unwrap().0.len(), 3);
}

/// Storage with a limit, as a full disk: what fits is written.
struct Limited<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
    truncates: bool,
}

impl Storage for Limited<'_> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..room.min(bytes.len())]);
        if bytes.len() > room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.overwrite(offset, bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if !self.truncates {
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_leaves_whole_blocks() {
    for (limit, truncates) in (40..200).flat_map(|limit| [(limit, true), (limit, false)]) {
        let mut bytes = Vec::new();
        let mut writer = Writer::create(Limited { bytes: &mut bytes, limit, truncates }, UUID).unwrap();
        let mut flushed = 0;
        let error = loop {
            writer.append(&digest(flushed + 10)).unwrap();
            match writer.flush(Icount(flushed + 10)) {
                Ok(()) => flushed += 10,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LogError::Write { icount: Icount(i), .. } if i == flushed), "{error}");
        assert!(matches!(writer.append(&digest(1000)), Err(LogError::Closed)));
        assert!(matches!(writer.finish(Icount(1000)), Err(LogError::Closed)));
        let (events, ending) = read(&bytes).unwrap();
        assert_eq!(events.len() as u64, flushed / 10);
        assert!(matches!(ending, Ending::Cut { last_icount, .. } if last_icount == Icount(flushed)));
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let payload = prop_oneof![bytes().prop_map(Payload::Data), any::<u64>().prop_map(Payload::Digest)];
    let entry =
        (any::<u16>(), any::<u32>(), payload).prop_map(|(id, len, payload)| UsedEntry { id, len, payload });
    prop_oneof![
        (any::<u16>(), any::<u16>(), prop::collection::vec(entry, 0..5))
            .prop_map(|(device, queue, entries)| Event::QueueUsed { device, queue, entries }),
        (any::<u16>(), bytes()).prop_map(|(device, bytes)| Event::ConfigChanged { device, bytes }),
        (any::<u16>(), any::<bool>())
            .prop_map(|(scancode, down)| Event::Input(Input::Key { scancode, down })),
        (any::<i32>(), any::<i32>(), any::<i32>()).prop_map(|(dx, dy, dz)| Event::Input(Input::MouseMove {
            dx,
            dy,
            dz
        })),
        Just(Event::Nmi),
        (any::<u16>(), any::<u8>(), any::<u32>()).prop_map(|(port, size, value)| Event::PortWrite {
            port,
            size,
            value
        }),
        any::<u64>().prop_map(|unix_ns| Event::HostClock { unix_ns }),
        any::<u64>().prop_map(|vtime| Event::IdleWake { vtime: Vtime(vtime) }),
        any::<i32>().prop_map(|signal| Event::Shutdown { cause: ShutdownCause::HostSignal { signal } }),
        (any::<u64>(), any::<u64>()).prop_map(|(registers, memory)| Event::Digest { registers, memory }),
    ]
}

/// Events with the distance to the one before, and whether a flush follows, so much further on.
fn any_run() -> impl Strategy<Value = Vec<(u64, Event, Option<u64>)>> {
    let step = prop_oneof![0..10u64, 0..1u64 << 40];
    prop::collection::vec((step, any_event(), prop::option::of(0..1000u64)), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(run in any_run(), tail in 0..1000u64) {
        let mut writer = Writer::create(Vec::new(), UUID).unwrap();
        let (mut icount, mut written) = (0, Vec::new());
        for (step, event, flush) in run {
            icount += step;
            let stamped = Stamped { icount: Icount(icount), event };
            writer.append(&stamped).unwrap();
            written.push(stamped);
            if let Some(further) = flush {
                icount += further;
                writer.flush(Icount(icount)).unwrap();
            }
        }
        let end = Icount(icount + tail);
        written.push(Stamped { icount: end, event: Event::End });
        let bytes = writer.finish(end).unwrap();
        let (events, ending) = read(&bytes).unwrap();
        prop_assert_eq!(events, written);
        prop_assert_eq!(ending, Ending::Finished { icount: end });
    }

    #[test]
    fn no_file_makes_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..400usize) {
        let _ = read(&bytes);
        let sample = sample();
        let mut mixed = sample[..cut.min(sample.len())].to_vec();
        mixed.append(&mut bytes);
        let _ = read(&mixed);
    }
}
