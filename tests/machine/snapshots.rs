//! savevm, loadvm, delvm and info snapshots, in plain runs, recordings and replays.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::{Child, Done};
use std::path::Path;
use std::time::Duration;

const OPTIONS: &str = "-serial stdio -monitor unix:m,server=on,wait=off -snapdir snaps";

fn start(lab: &Lab, line: &str) -> (Child, Monitor) {
    // A name that is left from the run before must not be connected to.
    let _ = std::fs::remove_file(lab.path("m"));
    let child = lab.start(&format!("{line} {OPTIONS}"));
    let monitor = Monitor::connect(&lab.path("m"));
    (child, monitor)
}

fn ticker() -> Lab {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    lab
}

fn more_lines(child: &mut Child, count: usize) {
    let wanted = lines(&child.out()) + count;
    child.until("more lines", PATIENCE, |out| lines(out) >= wanted);
}

fn tags(monitor: &mut Monitor) -> Vec<String> {
    let text = monitor.ask("info snapshots");
    text.lines().skip(2).filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned())).collect()
}

/// ICOUNT of a snapshot.
fn icount_of(monitor: &mut Monitor, tag: &str) -> u64 {
    let text = monitor.ask("info snapshots");
    let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(tag));
    let icount = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
    icount.unwrap_or_else(|| panic!("{tag} in {text}"))
}

fn end(child: Child, monitor: &mut Monitor) -> Done {
    monitor.send("quit");
    child.end(PATIENCE).well()
}

/// Values of the ticks: the ticker prints a counter that only grows, but for its low half overflowing.
fn ticks(out: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(out);
    let digit = |value: u32, letter: u8| value << 4 | u32::from(letter - b'a');
    let ticks = text.lines().filter(|line| line.len() == 8 && line.bytes().all(|b| b.is_ascii_lowercase()));
    ticks.map(|line| line.bytes().fold(0, digit)).collect()
}

fn tree(path: &Path) -> Vec<(String, u64)> {
    let mut found = vec![];
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        if data.is_dir() {
            found.extend(tree(&path));
        } else {
            found.push((path.display().to_string(), data.len()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_plain_run_goes_back_and_another_one_goes_on_from_there() {
    let lab = ticker();
    let (mut child, mut monitor) = start(&lab, "-kernel k -m 16 -icount shift=3");
    assert_eq!(monitor.ask("info snapshots"), "There is no snapshot available.\n");
    more_lines(&mut child, 20);
    assert_eq!(monitor.ask("savevm a"), "");
    assert_eq!(monitor.ask("stop"), "");
    let before = ticks(&child.out());
    assert_eq!(monitor.ask("cont"), "");
    more_lines(&mut child, 50);
    assert_eq!(monitor.ask("loadvm a"), "");
    more_lines(&mut child, 50);
    assert_eq!(
        monitor.ask("loadvm nosuch"),
        "Error: Snapshot 'nosuch' does not exist in one or more devices\n"
    );
    let at = icount_of(&mut monitor, "a");
    let done = end(child, &mut monitor);
    let back = ticks(&done.out).windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert_eq!(back, 1, "guest time goes back at the load and never else");
    assert!(*before.last().unwrap() <= *ticks(&done.out).last().unwrap());

    let (mut child, mut monitor) = start(&lab, "-kernel k -m 16 -icount shift=3 -loadvm a -S");
    assert_eq!(monitor.ask("info status"), "VM status: paused (prelaunch)\n");
    assert_eq!(child.out(), b"", "nothing ran");
    monitor.ask("cont");
    more_lines(&mut child, 10);
    let again = end(child, &mut monitor);
    let first = ticks(&again.out)[0];
    assert!(ticks(&done.out).contains(&first), "the first tick is the one after the save: {first:x}");
    assert!(at > 1_000_000, "{at}");

    for (options, what) in [
        ("-kernel k -m 32 -loadvm a", "-m (RAM size): recorded 16 MiB, given 32 MiB"),
        ("-kernel k -m 16 -icount shift=3 -loadvm b", "-loadvm: there is no snapshot 'b'"),
    ] {
        let refused = lab.run(&format!("{options} {OPTIONS}"));
        assert!(refused.code() != 0 && refused.err.contains(what), "{}", refused.err);
        assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
    }
}

#[test]
fn a_load_while_recording_is_another_future_and_the_cut_one_can_be_had_again() {
    let lab = ticker();
    let line = "-kernel k -m 16 -icount shift=3,rr=record,rrfile=rec,rrsnapshot=init";
    let (mut child, mut monitor) = start(&lab, line);
    more_lines(&mut child, 20);
    assert_eq!(monitor.ask("savevm a"), "");
    child.type_bytes(b"xyz");
    child.until_text("z", PATIENCE);
    assert_eq!(monitor.ask("savevm b"), "");
    more_lines(&mut child, 300);
    let far = monitor.icount();
    assert_eq!(monitor.ask("loadvm a"), "");
    let (at, now) = (icount_of(&mut monitor, "a"), monitor.icount());
    assert!((at..far).contains(&now), "{at} {now} {far}");
    child.type_bytes(b"ABC");
    child.until_text("C", PATIENCE);
    assert_eq!(monitor.ask("stop"), "");
    assert_eq!(monitor.ask("savevm c"), "");
    // Back to the future that was cut off.
    assert_eq!(monitor.ask("loadvm b"), "");
    assert_eq!(monitor.icount(), icount_of(&mut monitor, "b"));
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    monitor.ask("cont");
    child.type_bytes(b"D");
    child.until_text("D", PATIENCE);
    more_lines(&mut child, 10);
    assert_eq!(monitor.ask("delvm init"), "");
    // The start itself keeps its name.
    assert_eq!(tags(&mut monitor), ["init", "a", "b", "c"]);
    assert!(!lab.path("rec/snapshots/init.snapshot").exists());
    let recorded = end(child, &mut monitor);
    lab.run("verify rec").well();
    let replayed = lab.run("replay rec").well();
    let text = replayed.text();
    assert!(text.contains('x') && text.contains('z') && text.contains('D') && !text.contains('A'), "{text}");
    assert!(recorded.out.ends_with(&replayed.out[replayed.out.len() - 40..]));
    assert!(ticks(&replayed.out).windows(2).all(|pair| pair[0] < pair[1]), "{text}");
    let info = lab.run("info rec").well().text();
    assert!(info.contains("cut off       2 logs"), "{info}");
}

#[test]
fn a_replay_goes_to_snapshots_of_its_path_and_keeps_its_own_beside_the_recording() {
    let lab = ticker();
    let (mut child, mut monitor) = start(&lab, "-kernel k -m 16 -icount shift=3,rr=record,rrfile=rec");
    more_lines(&mut child, 20);
    monitor.ask("savevm a");
    more_lines(&mut child, 20);
    monitor.ask("savevm other");
    more_lines(&mut child, 20);
    monitor.ask("loadvm a");
    more_lines(&mut child, 60);
    let at = icount_of(&mut monitor, "a");
    end(child, &mut monitor);
    let before = tree(&lab.path("rec"));

    let mut saved = 0;
    for session in 0..2 {
        let _ = std::fs::remove_file(lab.path("m"));
        let child = lab.start("replay rec -S -serial null -monitor unix:m,server=on,wait=off");
        let mut monitor = Monitor::connect(&lab.path("m"));
        assert_eq!(monitor.ask("loadvm a"), "");
        assert_eq!(monitor.icount(), at);
        let refused = monitor.ask("loadvm other");
        assert!(refused.contains("a replay goes only where its recording went"), "{refused}");
        assert!(monitor.ask("loadvm nosuch").contains("does not exist"));
        if session == 0 {
            assert_eq!(monitor.ask(&format!("replay_seek {}", at + 12_345)), "");
            assert_eq!(monitor.ask("savevm mine"), "");
            saved = monitor.icount();
            assert_eq!(monitor.ask("replay_seek 10"), "");
        }
        assert_eq!(monitor.ask("loadvm mine"), "");
        assert_eq!(monitor.icount(), saved);
        assert!(monitor.ask("delvm a").contains("which this run does not change"));
        assert_eq!(monitor.ask("replay_seek 5"), "");
        end(child, &mut monitor);
    }
    assert_eq!(tree(&lab.path("rec")), before, "a replay writes nothing to a recording");
    assert!(lab.path("rec.snapshots/snapshots/mine.snapshot").exists());
}

#[test]
fn a_recording_may_start_from_a_snapshot_of_another_run() {
    let lab = ticker();
    let (mut child, mut monitor) = start(&lab, "-kernel k -m 16 -icount shift=3");
    more_lines(&mut child, 30);
    assert_eq!(monitor.ask("savevm ../odd name/1"), "");
    assert_eq!(tags(&mut monitor), ["../odd"]);
    monitor.ask("savevm s");
    let at = icount_of(&mut monitor, "s");
    end(child, &mut monitor);
    let line = "-kernel k -m 16 -icount shift=3,rr=record,rrfile=rec -loadvm s";
    let (mut child, mut monitor) = start(&lab, line);
    more_lines(&mut child, 30);
    assert!(monitor.icount() > at);
    monitor.ask("savevm inside");
    more_lines(&mut child, 5);
    child.type_bytes(b"q");
    let recorded = child.end(PATIENCE).well();
    // It carries its start.
    std::fs::remove_dir_all(lab.path("snaps")).unwrap();
    lab.run("replay rec").well().same_output(&recorded);
    lab.run("verify rec").well();
    let _ = std::fs::remove_file(lab.path("m"));
    let child = lab.start("replay rec -S -serial null -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    // The start is loaded while the monitor connects.
    let deadline = std::time::Instant::now() + PATIENCE;
    while monitor.icount() != at {
        assert!(std::time::Instant::now() < deadline, "{}", monitor.icount());
    }
    for tag in ["inside", "s"] {
        assert_eq!(monitor.ask(&format!("loadvm {tag}")), "");
        assert_eq!(monitor.icount(), icount_of(&mut monitor, tag));
    }
    assert_eq!(monitor.ask("replay_seek 0"), "");
    assert_eq!(monitor.icount(), at, "there is nothing before the start");
    end(child, &mut monitor);
    std::fs::remove_file(lab.path("rec/snapshots/s.snapshot")).unwrap();
    let refused = lab.run("replay rec");
    assert!(
        refused.code() != 0 && refused.err.contains("its start: there is no snapshot 's'"),
        "{}",
        refused.err
    );
}

#[test]
fn damage_is_named_and_harms_nobody() {
    let lab = ticker();
    let (mut child, mut monitor) = start(&lab, "-kernel k -m 16 -icount shift=3");
    more_lines(&mut child, 20);
    monitor.ask("savevm a");
    let chunk = tree(&lab.path("snaps/pages")).pop().unwrap().0;
    let mut bytes = std::fs::read(&chunk).unwrap();
    let middle = bytes.len() - 20;
    bytes[middle] ^= 0xff;
    std::fs::write(&chunk, bytes).unwrap();
    let answer = monitor.ask("loadvm a");
    let name = Path::new(&chunk).file_name().unwrap().to_str().unwrap().to_owned();
    assert!(answer.contains("snapshot 'a', page 0x") && answer.contains(&name), "{answer}");
    std::fs::write(lab.path("snaps/snapshots/a.snapshot"), "nonsense").unwrap();
    assert!(monitor.ask("loadvm a").contains("a.snapshot is damaged"));
    assert!(monitor.ask("info snapshots").contains("a.snapshot is damaged"));
    // Nothing became of it, and a new one takes its place.
    more_lines(&mut child, 20);
    assert_eq!(monitor.ask("savevm a"), "");
    assert_eq!(monitor.ask("delvm a"), "");
    assert_eq!(monitor.ask("info snapshots"), "There is no snapshot available.\n");
    end(child, &mut monitor);
}

#[test]
fn a_recording_makes_snapshots_from_time_to_time_and_keeps_the_last() {
    let lab = ticker();
    let line = "-kernel k -m 16 -icount \
                shift=3,rr=record,rrfile=rec,rrsnapmode=periodic,rrsnaptime=1,rrsnapcount=2";
    let (mut child, mut monitor) = start(&lab, line);
    let first = made_by_clock(&mut monitor);
    while tags(&mut monitor).contains(&first) {}
    let found = tags(&mut monitor);
    assert!((2..=3).contains(&found.len()), "{found:?}");
    child.type_bytes(b"q");
    child.end(PATIENCE).well();
    lab.run("verify rec").well();
}

/// Waits for the first snapshot.
fn made_by_clock(monitor: &mut Monitor) -> String {
    loop {
        if let Some(tag) = tags(monitor).into_iter().next() {
            return tag;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_replay_keeps_snapshots_for_the_next_one() {
    let lab = ticker();
    let (mut child, monitor) = start(&lab, "record -o rec -kernel k -m 16");
    child.until("100 lines", PATIENCE, |out| lines(out) >= 100);
    child.type_bytes(b"q");
    child.end(PATIENCE).well();
    drop(monitor);

    let line = "-kernel k -m 16 -S -icount rr=replay,rrfile=rec,rrsnapmode=periodic,rrsnaptime=1";
    let (child, mut monitor) = start(&lab, line);
    assert_eq!(monitor.ask("replay_seek 90%"), "");
    let tag = made_by_clock(&mut monitor);
    let place = icount_of(&mut monitor, &tag);
    end(child, &mut monitor);

    let (child, mut monitor) = start(&lab, "replay rec -S");
    assert!(tags(&mut monitor).contains(&tag));
    assert_eq!((monitor.ask(&format!("loadvm {tag}")).as_str(), monitor.icount()), ("", place));
    end(child, &mut monitor);
}

#[test]
fn a_guest_that_stands_still_is_saved_and_comes_back() {
    for guest in [guests::halted(), guests::halted_with_timer(), guests::stuck()] {
        let lab = Lab::new();
        lab.write("k", guest);
        let (mut child, mut monitor) = start(&lab, "-kernel k -m 2048 -icount shift=3,rr=record,rrfile=rec");
        child.until_text("B", PATIENCE);
        assert_eq!(monitor.ask("savevm a"), "");
        assert_eq!(monitor.ask("loadvm a"), "");
        assert_eq!(monitor.ask("savevm b"), "");
        end(child, &mut monitor);
        lab.run("verify rec").well();
    }
}
