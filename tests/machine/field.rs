//! What users of other record and replay systems complain of, as situations that must turn out well (docs/field-cases.md).

use crate::debugger::Dice;
use crate::guests::{self, demo_recorded, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::Child;
use crate::stub::Stub;
use replay::store::{Snapshot, Store};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// Every kind of device, idle.
const DEVICES: &str = "-drive file=disk,if=none,id=d,format=raw -device virtio-blk-pci,drive=d \
                       -nic user -device virtio-rng-pci -chardev null,id=c -device virtio-serial-pci \
                       -device virtconsole,chardev=c";

fn ticker_with_disk() -> Lab {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    lab.write("disk", vec![0; 1 << 20]);
    lab
}

fn more_lines(child: &mut Child, count: usize) {
    let wanted = lines(&child.out()) + count;
    child.until("more lines", PATIENCE, |out| lines(out) >= wanted);
}

fn stored(lab: &Lab, store: &str, tag: &str) -> Snapshot {
    Store::new(&lab.path(store)).read(tag).unwrap().unwrap_or_else(|| panic!("no {tag} in {store}"))
}

/// A3: a state that is saved, loaded by another process and saved again is the same, byte by byte.
#[test]
fn field_a3_a_state_comes_back_as_it_was() {
    let lab = ticker_with_disk();
    let line = |rec: &str, more: &str| {
        let words = "-kernel k -m 16 -serial stdio -monitor unix:m,server=on,wait=off";
        format!("{words} {DEVICES} -icount shift=3,rr=record,rrfile={rec} {more}")
    };
    let mut child = lab.start(&line("one", "-snapdir snaps"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    more_lines(&mut child, 20);
    for command in ["sendkey a", "mouse_move 3 4", "stop", "savevm a", "quit"] {
        monitor.send(command);
    }
    child.end(PATIENCE).well();
    let _ = std::fs::remove_file(lab.path("m"));
    let child = lab.start(&line("two", "-snapdir one -loadvm a -S"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    assert_eq!(monitor.ask("savevm b"), "");
    monitor.send("quit");
    child.end(PATIENCE).well();
    let (first, second) = (stored(&lab, "one", "a"), stored(&lab, "two", "b"));
    assert_eq!((first.info.icount, first.info.vtime_ns), (second.info.icount, second.info.vtime_ns));
    assert!(first.info.icount > 1_000_000 && first.state.concat().len() > 1000);
    assert!(first.state == second.state, "the states differ");
    assert!(first.table == second.table, "pages differ");
}

/// A4: no save is refused, whenever it is asked for; a disk's layers may be many. (Under the load of a real kernel: `field_a4` of tests/debian.)
#[test]
fn field_a4_no_save_is_refused() {
    let lab = ticker_with_disk();
    let line = "-kernel k -m 16 -serial stdio -icount shift=3,rr=record,rrfile=rec -snapdir snaps";
    let mut child = lab.start(&format!("{line} {DEVICES} -monitor unix:m,server=on,wait=off"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    let mut dice = Dice::new(41);
    for save in 0..100 {
        // A loop of the guest is at another place each time.
        let start = monitor.icount() + dice.below(300_000);
        while monitor.icount() < start {}
        child.type_bytes(b"x");
        assert_eq!(monitor.ask(&format!("savevm s{save}")), "");
    }
    let table = monitor.ask("info snapshots");
    assert_eq!(table.lines().count(), 2 + 100, "{table}");
    monitor.send("quit");
    child.end(PATIENCE).well();
    lab.run("verify rec").well();
}

/// A6: a hundred loads while the host is busy and the guest is typed at.
#[test]
fn field_a6_loads_under_load() {
    let lab = ticker_with_disk();
    let line = "-kernel k -m 16 -serial stdio -icount shift=3,rr=record,rrfile=rec -snapdir snaps";
    let mut child = lab.start(&format!("{line} {DEVICES} -monitor unix:m,server=on,wait=off"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let done =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| load_often(&mut child, &mut monitor)));
        over.store(true, Relaxed);
        done.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
    monitor.send("quit");
    child.end(PATIENCE).well();
    lab.run("verify rec").well();
}

fn load_often(child: &mut Child, monitor: &mut Monitor) {
    more_lines(child, 3);
    assert_eq!(monitor.ask("savevm a"), "");
    more_lines(child, 3);
    assert_eq!(monitor.ask("savevm b"), "");
    let mut dice = Dice::new(61);
    for _ in 0..100 {
        child.type_bytes(b"x");
        let tag = ["a", "b"][dice.below(2) as usize];
        assert_eq!(monitor.ask(&format!("loadvm {tag}")), "");
        assert_eq!(monitor.ask("info status"), "VM status: running\n");
        more_lines(child, dice.below(3) as usize);
    }
}

/// How far a replay ran to come to each place, from what its vCPU process logs: places and the snapshots it took.
fn jumps(lab: &Lab) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(lab.path("log")).unwrap_or_default();
    let number = |line: &str, name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
    };
    let lines = text.lines().filter(|line| line.contains("a replay jumps to a snapshot"));
    lines.map(|line| (number(line, "from"), number(line, "target"))).collect()
}

/// A replay of `counter`, more than a hundred million instructions long, at its end; how long it is.
fn at_the_end_of_a_long_replay() -> (Lab, Child, Stub, u64) {
    let lab = Lab::new();
    lab.write("k", guests::counter());
    let child = lab.start("record -o rec -kernel k -m 16 -serial null -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    while monitor.icount() < 150_000_000 {
        thread::sleep(std::time::Duration::from_millis(20));
    }
    monitor.send("quit");
    child.end(PATIENCE).well();
    let child = lab.start("replay rec -S -serial null -gdb unix:g -d vcpu=debug -D log");
    let mut stub = Stub::attach(&lab.path("g"));
    assert!(stub.ask("c").contains("replaylog:end"));
    let end = stub.icount();
    (lab, child, stub, end)
}

/// A7: what happens shortly before the end is near, without a word of the user: there are snapshots on the way.
#[test]
fn field_a7_the_end_is_near() {
    let (lab, child, mut stub, end) = at_the_end_of_a_long_replay();
    // The last second of guest time of a machine with a billion instructions in it would be two and a half of these ways.
    let place = end - end / 20;
    assert_eq!(stub.monitor(&format!("replay_seek {place}")), "");
    assert_eq!(stub.icount(), place);
    let jumps = jumps(&lab);
    let (from, target) = *jumps.last().expect("it goes back");
    assert_eq!(target, place);
    assert!(target - from <= end / 4, "{} of {end} instructions are run again", target - from);
    stub.send("k");
    child.end(PATIENCE).well();
}

/// D3: a debugger that wants to go back in a machine that lives gets an error, and the machine goes on.
#[test]
fn field_d3_back_in_a_live_machine() {
    let lab = ticker_with_disk();
    let mut child = lab.start("-kernel k -m 16 -serial stdio -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    for packet in ["bs", "bc"] {
        let before = stub.icount();
        assert_eq!(stub.ask(packet), "E22");
        assert_eq!(stub.icount(), before);
        assert_eq!(stub.ask("s"), "T05thread:01;");
    }
    assert_eq!(stub.ask("D"), "OK");
    more_lines(&mut child, 10);
    child.type_bytes(b"q");
    child.end(PATIENCE).well();
}

/// D4: after the first step back the next ones need not run far, however long the log.
#[test]
fn field_d4_the_next_step_back_is_short() {
    let (lab, child, mut stub, end) = at_the_end_of_a_long_replay();
    for back in 1..=200 {
        assert_eq!(stub.ask("bs"), "T05thread:01;");
        assert_eq!(stub.icount(), end - back);
    }
    let jumps = jumps(&lab);
    assert_eq!(jumps.len(), 200);
    for (from, target) in &jumps[1..] {
        assert!(target - from <= 1 << 13, "{target} from {from}");
    }
    stub.send("k");
    child.end(PATIENCE).well();
}

/// D5: a place is kept by name at a breakpoint, and gone back to; breakpoints survive it.
#[test]
fn field_d5_places_by_name_in_a_debugger() {
    let (lab, _) = demo_recorded();
    let child = lab.start("replay rec -S -serial null -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    assert_eq!(stub.monitor("replay_seek 1000000"), "");
    let point = stub.rip();
    assert_eq!(stub.ask(&format!("Z0,{point:x},1")), "OK");
    let mut kept = vec![];
    for tag in ["one", "two", "three"] {
        assert_eq!(stub.monitor(&format!("savevm {tag}")), "");
        let when = stub.monitor("info replay");
        assert_eq!(when, format!("Replaying execution 'rec': instruction count = {}\n", stub.icount()));
        kept.push((tag, stub.icount(), stub.ask("g")));
        let next = stub.icount() + 70_000;
        assert_eq!(stub.monitor(&format!("replay_seek {next}")), "");
    }
    for at in [2, 0, 1, 0, 2] {
        let (tag, icount, registers) = &kept[at];
        assert_eq!(stub.monitor(&format!("loadvm {tag}")), "");
        assert_eq!((stub.icount(), &stub.ask("g")), (*icount, registers), "{tag}");
    }
    assert_eq!(stub.monitor("replay_seek 1000"), "");
    let stop = stub.ask("c");
    assert_eq!((stop.as_str(), stub.rip()), ("T05thread:01;swbreak:;", point));
    assert!(stub.icount() <= 1_000_000);
    assert_eq!(stub.ask("D"), "OK");
    child.end(PATIENCE).well();
}

/// D1: a place past the end is the end, with a debugger as without one; everything works from there.
#[test]
fn field_d1_past_the_end_with_a_debugger() {
    let (lab, _) = demo_recorded();
    let child = lab.start("replay rec -S -serial null -gdb unix:g -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    let mut stub = Stub::attach(&lab.path("g"));
    assert_eq!(monitor.ask("replay_seek 999999999999"), "");
    let end = stub.icount();
    assert_eq!(monitor.icount(), end);
    assert!(end > 1_000_000 && monitor.ask("info status").starts_with("VM status: paused"), "{end}");
    assert_eq!(stub.monitor("replay_seek 999999999999"), "");
    assert_eq!(stub.icount(), end);
    assert_eq!(stub.ask("bs"), "T05thread:01;");
    assert_eq!(stub.icount(), end - 1);
    assert_eq!(monitor.ask("replay_seek 1000"), "");
    assert_eq!(stub.icount(), 1000);
    monitor.send("quit");
    child.end(PATIENCE).well();
}

/// D2: a recording that was ended by `quit` is a stop for a debugger, not the end of its session.
#[test]
fn field_d2_the_end_by_quit_is_a_place_to_go_back_from() {
    let lab = ticker_with_disk();
    let mut child =
        lab.start("record -o rec -kernel k -m 16 -serial stdio -monitor unix:m,server=on,wait=off");
    let mut monitor = Monitor::connect(&lab.path("m"));
    more_lines(&mut child, 20);
    monitor.send("quit");
    child.end(PATIENCE).well();
    assert_eq!(lab.cause("rec"), "host-qmp-quit");

    let child = lab.start("replay rec -S -serial null -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    for _ in 0..2 {
        assert!(stub.ask("c").contains("replaylog:end"));
        let (end, rip) = (stub.icount(), stub.rip());
        assert_eq!(stub.ask(&format!("Z0,{rip:x},1")), "OK");
        assert!(stub.ask("bc").starts_with("T05thread:01;"));
        assert!(stub.icount() < end && stub.rip() == rip);
        assert_eq!(stub.ask(&format!("z0,{rip:x},1")), "OK");
    }
    stub.send("k");
    child.end(PATIENCE).well();
}
