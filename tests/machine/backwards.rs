//! A debugger that goes back in a replay: what it finds is compared with what it saw on the way forward.

use crate::debugger::Dice;
use crate::guests::{self, SLEEPER_HANDLERS, SLEEPER_INVALID, demo_recorded};
use crate::lab::{Lab, PATIENCE};
use crate::process::Child;
use crate::stub::Stub;
use replay::event::Event;
use replay::log::Step;
use replay::recording::Recording;
use std::process::Command;
use std::time::Duration;

const BEGIN: &str = "replaylog:begin";
const END: &str = "replaylog:end";

/// A replay of `sleeper`, stopped before its first instruction.
fn sleeper(rounds: u8) -> (Lab, Child, Stub) {
    let lab = Lab::new();
    lab.write("k", guests::sleeper(rounds));
    lab.run("record -o rec -kernel k -m 16 -display none -icount shift=3,sleep=off").well();
    let child = lab.start("replay rec -S -gdb unix:g");
    let stub = Stub::attach(&lab.path("g"));
    (lab, child, stub)
}

/// A replay of `counter` with some millions of instructions.
fn counter() -> (Lab, Child, Stub) {
    let lab = Lab::new();
    lab.write("k", guests::counter());
    let line = "record -o rec --digest-interval 3000000 -kernel k -m 16 -display none -gdb unix:g";
    let mut child = lab.start(line);
    let mut stub = Stub::attach(&lab.path("g"));
    while stub.icount() < 30_000_000 {
        stub.send("c");
        std::thread::sleep(Duration::from_millis(100));
        stub.raw(&[3]);
        assert_eq!(stub.answer(), "T02thread:01;");
        assert!(child.is_alive());
    }
    stub.send("k");
    child.end(PATIENCE).well();
    let child = lab.start("replay rec -S -gdb unix:g");
    let stub = Stub::attach(&lab.path("g"));
    (lab, child, stub)
}

/// What a debugger sees at a place: registers (the icount among them), and the counters.
fn look(stub: &mut Stub) -> (u64, u64, String, String) {
    (stub.icount(), stub.rip(), stub.ask("g"), stub.ask("m200000,c"))
}

#[test]
fn a_step_back_always_goes_to_the_instruction_before() {
    let (_lab, child, mut stub) = sleeper(6);
    let mut seen = vec![look(&mut stub)];
    loop {
        let stop = stub.ask("s");
        if stop.contains(END) {
            break;
        }
        assert_eq!(stop, "T05thread:01;");
        seen.push(look(&mut stub));
    }
    let handlers = seen.iter().filter(|(_, rip, ..)| (0x10_0200..0x10_0240).contains(rip)).count();
    assert!(seen.len() > 100 && handlers > 40, "{} {handlers}", seen.len());
    // Powering off retires no instruction.
    assert_eq!(stub.icount(), seen.last().unwrap().0);
    for expected in seen.iter().rev().skip(1) {
        assert_eq!(stub.ask("bs"), "T05thread:01;");
        assert_eq!(look(&mut stub), *expected);
    }
    for _ in 0..2 {
        assert_eq!(stub.ask("bs"), format!("T05{BEGIN};"));
        assert_eq!(look(&mut stub), seen[0]);
    }
    for expected in &seen[1..20] {
        assert_eq!(stub.ask("s"), "T05thread:01;");
        assert_eq!(look(&mut stub), *expected);
    }
    assert_eq!(stub.ask("D"), "OK");
    child.end(PATIENCE).well();
}

/// Goes to the end, then back: each stop on the way is one of those on the way forward.
fn there_and_back(stub: &mut Stub, point: &str, back: impl Fn(u64) -> u64) -> Vec<u64> {
    assert_eq!(stub.ask(&format!("Z{point}")), "OK");
    let mut stops = vec![];
    loop {
        let stop = stub.ask("c");
        if stop.contains(END) {
            break;
        }
        stops.push((stub.icount(), stub.rip(), stop));
    }
    for (icount, rip, stop) in stops.iter().rev() {
        assert_eq!(stub.ask("bc"), *stop, "{point}");
        assert_eq!(stub.icount(), back(*icount), "{point}");
        if back(*icount) == *icount {
            assert_eq!(stub.rip(), *rip, "{point}");
        }
    }
    assert_eq!(stub.ask("bc"), format!("T05{BEGIN};"), "{point}");
    assert_eq!(stub.icount(), 0);
    assert_eq!(stub.ask(&format!("z{point}")), "OK");
    stops.into_iter().map(|(icount, ..)| icount).collect()
}

#[test]
fn reverse_continue_meets_what_continue_met() {
    let (_lab, child, mut stub) = sleeper(9);
    let [timer, invalid] = SLEEPER_HANDLERS;
    let same = |icount| icount;
    // A write is undone: the machine stands before it.
    let before = |icount: u64| icount - 1;
    assert_eq!(there_and_back(&mut stub, &format!("0,{:x},1", SLEEPER_INVALID - 1), same).len(), 9);
    let timers = there_and_back(&mut stub, &format!("1,{timer:x},1"), same);
    let invalid_at = there_and_back(&mut stub, &format!("0,{SLEEPER_INVALID:x},1"), same);
    // The handler begins at the icount of the instruction that raised the exception.
    assert_eq!(there_and_back(&mut stub, &format!("0,{invalid:x},1"), same), invalid_at);
    assert!(timers.len() >= 9 && invalid_at.len() == 9, "{timers:?} {invalid_at:?}");
    assert_eq!(there_and_back(&mut stub, "2,200000,4", before).len(), 9);
    assert_eq!(there_and_back(&mut stub, "2,200008,1", before).len(), 9);
    assert_eq!(there_and_back(&mut stub, "3,200000,2", before).len(), 18);
    // Both at one icount, one after the other.
    for point in [SLEEPER_INVALID, invalid] {
        assert_eq!(stub.ask(&format!("Z0,{point:x},1")), "OK");
    }
    assert!(stub.monitor("replay_seek 1000000").is_empty());
    for icount in invalid_at.iter().rev() {
        for point in [invalid, SLEEPER_INVALID] {
            assert_eq!(stub.ask("bc"), "T05thread:01;swbreak:;");
            assert_eq!((stub.icount(), stub.rip()), (*icount, point));
        }
    }
    assert!(stub.ask("bc").contains(BEGIN));
    assert_eq!(stub.ask("D"), "OK");
    child.end(PATIENCE).well();
}

#[test]
fn points_survive_jumps_and_many_hits_cost_nothing() {
    let (_lab, child, mut stub) = counter();
    assert!(stub.ask("c").contains(END));
    let end = stub.icount();
    assert_eq!(stub.ask("Z2,200000,4"), "OK");
    // Six million writes, of which the last ones count.
    let count = |stub: &mut Stub| u32::from_str_radix(&stub.ask("m200000,4"), 16).unwrap().swap_bytes();
    let last = count(&mut stub);
    for step in 1..=5 {
        assert!(stub.ask("bc").starts_with("T05thread:01;watch:"));
        assert_eq!((count(&mut stub), stub.rip()), (last - step, 0x10_0060));
    }
    for place in [end / 2, 1000, end / 3, end - 10] {
        assert_eq!(stub.monitor(&format!("replay_seek {place}")), "");
        assert_eq!(stub.icount(), place);
        assert!(stub.ask("c").starts_with("T05thread:01;watch:"));
        assert!(stub.icount() - place < 8);
        assert!(stub.ask("bc").starts_with("T05thread:01;watch:"));
        assert!(stub.ask("bc").starts_with("T05thread:01;watch:"));
        assert!(place - stub.icount() < 8, "{place} {}", stub.icount());
    }
    assert_eq!(stub.ask("z2,200000,4"), "OK");
    // Nothing there: to the beginning.
    assert_eq!(stub.ask("Z0,300000,1"), "OK");
    assert!(stub.ask("c").contains(END));
    assert!(stub.ask("bc").contains(BEGIN));
    assert_eq!((stub.icount(), count(&mut stub)), (0, 0));
    assert!(stub.ask("c").contains(END));
    assert_eq!((stub.icount(), count(&mut stub)), (end, last));
    // An interrupt ends it anywhere; what is left then is a place like any other.
    stub.send("bc");
    stub.raw(&[3]);
    let stop = stub.answer();
    assert!(stop == "T02thread:01;" || stop.contains(BEGIN), "{stop}");
    let here = stub.icount();
    assert_eq!(stub.monitor(&format!("replay_seek {end}")), "");
    assert_eq!(stub.monitor(&format!("replay_seek {here}")), "");
    assert_eq!(stub.icount(), here);
    stub.send("k");
    child.end(PATIENCE).well();
}

#[test]
fn a_replay_that_was_taken_back_and_forth_still_ends_as_recorded() {
    let (lab, recorded) = demo_recorded();
    let child = lab.start("replay rec -S -serial stdio -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    assert!(stub.ask("c").contains(END));
    let end = stub.icount();
    let mut dice = Dice::new(11);
    for _ in 0..40 {
        let wanted = dice.below(end);
        match dice.below(4) {
            0 => assert_eq!(stub.monitor(&format!("replay_seek {wanted}")), ""),
            1 => {
                for _ in 0..dice.below(20) {
                    let before = stub.icount();
                    assert!(stub.ask("bs").starts_with("T05"));
                    assert_eq!(stub.icount(), before.saturating_sub(1));
                }
            }
            2 => {
                let rip = stub.rip();
                assert_eq!(stub.ask(&format!("Z0,{rip:x},1")), "OK");
                assert!(stub.ask("bc").starts_with("T05"));
                assert!(stub.icount() == 0 || stub.rip() == rip);
                assert_eq!(stub.ask(&format!("z0,{rip:x},1")), "OK");
            }
            _ => assert!(stub.ask("s").starts_with("T05")),
        }
    }
    // Whoever leaves in the past sees the rest of it.
    assert_eq!(stub.monitor("replay_seek 0"), "");
    assert_eq!(stub.ask("D"), "OK");
    let done = child.end(PATIENCE).well();
    assert!(done.out.ends_with(&recorded.out), "{}", done.text());
}

/// A copy of a recording whose digest at or after `from` is false; where that is.
fn falsify(lab: &Lab, from: u64) -> u64 {
    lab.copy("rec", "false");
    let recording = Recording::open(&lab.path("rec")).unwrap();
    let mut log = recording.open_log().unwrap();
    let mut writer = replay::log::Writer::create(vec![], log.uuid()).unwrap();
    let (mut at, mut last) = (None, replay::time::Icount(0));
    while let Step::Event(entry) = log.next().unwrap() {
        let mut stamped = entry.stamped;
        last = stamped.icount;
        if stamped.event == Event::End {
            break;
        }
        if let Event::Digest { registers, .. } = &mut stamped.event
            && at.is_none()
            && stamped.icount.0 >= from
        {
            *registers ^= 1;
            at = Some(stamped.icount.0);
        }
        writer.append(&stamped).unwrap();
    }
    lab.write("false/events.log", writer.finish(last).unwrap());
    at.expect("there are later digests")
}

#[test]
fn a_difference_is_a_place_from_which_one_can_go_back() {
    let (lab, _) = demo_recorded();
    let at = falsify(&lab, 2_000_000);
    let child = lab.start("replay false -S -serial stdio -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    for _ in 0..2 {
        assert_eq!(stub.ask("c"), "T06thread:01;");
        assert_eq!(stub.icount(), at);
    }
    assert_eq!(stub.monitor("info status"), "VM status: paused (internal-error)\n");
    for back in 1..4 {
        assert_eq!(stub.ask("bs"), "T05thread:01;");
        assert_eq!(stub.icount(), at - back);
    }
    assert_eq!(stub.monitor("info status"), "VM status: paused (debug)\n");
    assert_eq!(stub.monitor("replay_seek 1000"), "");
    assert_eq!(stub.icount(), 1000);
    assert_eq!(stub.ask("c"), "T06thread:01;");
    assert_eq!(stub.ask("D"), "OK");
    let done = child.end(PATIENCE);
    assert_eq!(done.code(), 1);
    let told = format!("differs from the recording at instruction {at}: digest of registers");
    assert!(done.err.contains(&told), "{}", done.err);
}

#[test]
fn gdb_goes_back() {
    let (lab, child, stub) = sleeper(9);
    drop(stub);
    lab.write(
        "script",
        "set pagination off\nset confirm off\nset architecture i386:x86-64\ntarget remote g\n\
         break *0x1000a3\ncontinue\ncontinue\nset $two = $icount\n\
         stepi\nstepi\nreverse-stepi\nreverse-stepi\nprintf \"same %d\\n\", $icount == $two\n\
         reverse-continue\nprintf \"first %#lx %d\\n\", $pc, *(int *)0x200000\n\
         reverse-continue\nprintf \"begin %#lx %lu\\n\", $pc, $icount\ndelete\n\
         continue\nprintf \"rounds %d\\n\", *(int *)0x200000\n\
         watch *(int *)0x200000\nreverse-continue\nprintf \"undone %#lx %d\\n\", $pc, *(int *)0x200000\n\
         reverse-continue\nprintf \"undone %#lx %d\\n\", $pc, *(int *)0x200000\n\
         continue\nprintf \"done %d\\n\", *(int *)0x200000\n\
         kill\n",
    );
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-x", "script"]).current_dir(lab.path("."));
    let output = gdb.output().expect("the test needs gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    for line in [
        "same 1",
        "first 0x1000a3 0",
        "No more reverse-execution history.",
        "begin 0x100060 0",
        "No more reverse-execution history.",
        "rounds 9",
        "Old value = 9",
        "New value = 8",
        "undone 0x1000a3 8",
        "undone 0x1000a3 7",
        "done 8",
    ] {
        assert!(lines.any(|found| found == line), "no {line:?} in {text}");
    }
    child.end(PATIENCE).well();
}
