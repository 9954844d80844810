//! What a monitor shows of the machine itself: the same at the same place of a recording and of its replay, and never a
//! trace of having looked.

use crate::guests::demo_recorded;
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;

const MONITOR: &str = "-monitor unix:m,server=on,wait=off";

/// Commands that look at the machine and change nothing.
const LOOKS: [&str; 20] = [
    "info registers",
    "info registers -a",
    "info cpus",
    "info mem",
    "info tlb",
    "info mtree",
    "info mtree -f",
    "info pic",
    "info lapic",
    "info irq",
    "info pci",
    "x/8xb $pc",
    "x/10i $pc",
    "xp/4xw 0",
    "xp/16xb 0xfee00000",
    "print/x $rip + $rsp",
    "gva2gpa $pc",
    "sum 0x100000 65536",
    "i/b 0x64",
    "i/b 0x3f8",
];

fn replay(lab: &Lab, more: &str) -> (crate::process::Child, Monitor) {
    let child = lab.start(&format!("replay rec {MONITOR} {more}"));
    (child, Monitor::connect(&lab.path("m")))
}

#[test]
fn every_look_has_an_answer_and_leaves_no_trace() {
    let (lab, recorded) = demo_recorded();
    let (child, mut monitor) = replay(&lab, "-S -serial stdio");
    let mut before = vec![];
    for place in ["start", "20%", "50%", "90%", "50%"] {
        assert_eq!(monitor.ask(&format!("replay_seek {place}")), "");
        let answers: Vec<String> = LOOKS.iter().map(|line| monitor.ask(line)).collect();
        for (line, answer) in LOOKS.iter().zip(&answers) {
            assert!(!answer.is_empty() && !answer.contains("Error"), "{line}: {answer}");
        }
        if place == "50%" {
            before.push(answers);
        }
    }
    assert_eq!(before[0], before[1], "the same place, come to from two sides");
    // Digests are compared on the way: a look that changed something would be found.
    assert_eq!(monitor.ask("replay_seek start"), "");
    monitor.send("cont");
    let mut looks = LOOKS.iter().cycle();
    let mut status = String::new();
    for _ in 0..200 {
        monitor.send(looks.next().unwrap());
        let Some(answer) = monitor.try_answer() else { break };
        status = answer;
    }
    assert!(!status.contains("Error"), "{status}");
    drop(monitor);
    child.end(PATIENCE).well().same_output(&recorded);
}

#[test]
fn places_have_many_names() {
    let (lab, _) = demo_recorded();
    let (child, mut monitor) = replay(&lab, "-S");
    let length: u64 = {
        assert_eq!(monitor.ask("replay_seek end"), "");
        monitor.icount()
    };
    for (place, icount) in [("50%", length / 2), ("start", 0), ("100%", length), ("1000*3", 3000), ("0%", 0)]
    {
        assert_eq!(monitor.ask(&format!("replay_seek {place}")), "", "{place}");
        assert_eq!(monitor.icount(), icount, "{place}");
    }
    // Guest time: later is later, and the same time is the same place from both sides.
    let mut places = vec![];
    for time in ["0.001s", "0.002s", "0.001s", "0.0015s"] {
        assert_eq!(monitor.ask(&format!("replay_seek {time}")), "", "{time}");
        places.push(monitor.icount());
    }
    assert!(places[0] < places[3] && places[3] < places[1] && places[0] == places[2], "{places:?}");
    assert_eq!(monitor.ask("replay_break 0.0018s"), "");
    assert_eq!(monitor.ask("replay_break 0.002s"), "");
    for _ in 0..2 {
        monitor.ask("cont");
        while monitor.ask("info status") != "VM status: paused\n" {}
        places.push(monitor.icount());
    }
    assert!(places[3] < places[4] && places[4] < places[5] && places[5] == places[1], "{places:?}");
    assert_eq!(monitor.ask("replay_break start"), "cannot set breakpoint at the instruction in the past\n");
    assert!(monitor.ask("replay_seek 101%").contains("beyond the end"));
    assert!(monitor.ask("replay_seek half").starts_with("invalid char 'h' in expression"));
    monitor.send("quit");
    child.end(PATIENCE).well();
}

#[test]
fn several_monitors_ask_at_once() {
    let (lab, _) = demo_recorded();
    let child = lab.start(&format!("replay rec -S {MONITOR} -monitor unix:n,server=on,wait=off"));
    let mut monitors = [Monitor::connect(&lab.path("m")), Monitor::connect(&lab.path("n"))];
    for line in LOOKS {
        monitors.iter_mut().for_each(|monitor| monitor.send(line));
        let answers = monitors.each_mut().map(|monitor| monitor.answer());
        assert_eq!(answers[0], answers[1], "{line}");
    }
    // One that goes away in the middle of an answer disturbs nobody.
    let [mut first, mut second] = monitors;
    first.send("info tlb");
    drop(first);
    assert_eq!(second.ask("info status"), "VM status: paused (prelaunch)\n");
    second.send("quit");
    child.end(PATIENCE).well();
}
