//! Debuggers: what they see, and that the guest never notices them.

use crate::guests::{self, lines};
use crate::lab::{Lab, PATIENCE};
use crate::monitor::Monitor;
use crate::process::Child;
use crate::stub::{Stub, framed};
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::Duration;

/// Numbers that look random, from a seed that the test prints.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        println!("seed {seed}");
        Dice(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn ticker(words: &str) -> (Lab, Child) {
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let child = lab.start(words);
    (lab, child)
}

const PLAIN: &str = "-kernel k -m 16 -serial stdio -display none -gdb unix:g";

#[test]
fn gdb_breaks_steps_and_watches() {
    let lab = Lab::new();
    lab.write("k", guests::counter());
    let child = lab.start("-kernel k -m 16 -display none -S -gdb unix:g");
    drop(Stub::connect(&lab.path("g")));
    let said = gdb(
        &lab,
        "set architecture i386:x86-64\ntarget remote g\n\
         printf \"start %#lx %lu\\n\", $pc, $icount\n\
         hbreak *0x100067\ncontinue\nprintf \"hard %#lx %u\\n\", $pc, *(unsigned *)0x200000\ndelete\n\
         stepi\nprintf \"step %#lx %lu\\n\", $pc, $icount\n\
         break *0x100066\ncontinue\nprintf \"soft %#lx %u\\n\", $pc, *(unsigned *)0x200000\ndelete\n\
         watch *(unsigned *)0x200000\ncontinue\nprintf \"watch %#lx %u\\n\", $pc, *(unsigned *)0x200000\ndelete\n\
         rwatch *(unsigned *)0x200004\ncontinue\nprintf \"read %#lx\\n\", $pc\ndelete\n\
         awatch *(char *)0x200009\ncontinue\nprintf \"access %#lx\\n\", $pc\ndelete\n\
         x/2i $pc\nmonitor info status\n\
         set var *(unsigned *)0x200000 = 1000\nset var $rbx = 0x1234\nbreak *0x100066\ncontinue\n\
         printf \"written %u %#lx\\n\", *(unsigned *)0x200000, $rbx\n\
         detach\nshell sleep 0.2\ntarget remote g\nprintf \"again %d\\n\", *(unsigned *)0x200000 > 1001\nkill\n",
    );
    for line in [
        "start 0x100060 0",
        "hard 0x100067 1",
        "step 0x10006c 3",
        "soft 0x100066 2",
        "Old value = 2",
        "New value = 3",
        "watch 0x100066 3",
        "read 0x10006c",
        "access 0x100073",
        "=> 0x100073:\tjmp    0x100060",
        "written 1001 0x1234",
        "again 1",
        "VM status: paused (debug)",
    ] {
        assert!(said.iter().any(|found| found == line), "no {line:?} in {said:#?}");
    }
    child.end(PATIENCE).well();
}

/// What gdb says, line by line, to a script without its own settings; its standard error follows.
fn gdb(lab: &Lab, script: &str) -> Vec<String> {
    lab.write("script", format!("set pagination off\nset confirm off\n{script}"));
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-x", "script"]).current_dir(lab.path("."));
    let output = gdb.output().expect("the test needs gdb");
    let texts = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    texts.concat().lines().map(str::to_owned).collect()
}

#[test]
fn code_of_16_and_32_bits_is_shown_rightly() {
    let lab = Lab::new();
    lab.write("k", guests::counter_16());
    let child = lab.start("-kernel k -m 16 -display none -S -gdb unix:g");
    drop(Stub::connect(&lab.path("g")));
    let said = gdb(
        &lab,
        "target remote g\nmonitor gdb architecture i8086\ndisconnect\n\
         target remote g\nhbreak *0x1000a3\ncontinue\nx/2i $pc\nprintf \"ax %#x eip %#x\\n\", $ax, $eip\n\
         delete\nstepi\nstepi\nprintf \"ax %#x eip %#x icount %d\\n\", $ax, $eip, $icount\n\
         set var $eax = 0x56780010\nset var $eip = 0x1000a0\nprintf \"eax %#x\\n\", $eax\n\
         stepi\nprintf \"eax %#x eip %#x\\n\", $eax, $eip\n\
         monitor gdb architecture i386\ndisconnect\ntarget remote g\nx/1i 0x100060\nx/1i 0x100067\n\
         printf \"xmm %d\\n\", sizeof($xmm7)\nmonitor gdb architecture i486\nkill\n",
    );
    for line in [
        "=> 0x1000a3:\tinc    %ax",
        "   0x1000a4:\tjmp    0x1000a3",
        "ax 0x1234 eip 0x1000a3",
        "ax 0x1235 eip 0x1000a3 icount 5",
        "eax 0x56780010",
        "eax 0x56781234 eip 0x1000a3",
        "   0x100060:\tlgdtl  0x100080",
        "   0x100067:\tljmp   $0x8,$0x0",
        "xmm 16",
        "       gdb architecture i386:x86-64|i386|i8086",
    ] {
        assert!(said.iter().any(|found| found == line), "no {line:?} in {said:#?}");
    }
    child.end(PATIENCE).well();
}

/// What a debugger may do to a machine that stands still, at random; then the machine runs again.
fn meddle(stub: &mut Stub, dice: &mut Dice) {
    for _ in 0..dice.below(12) {
        match dice.below(7) {
            0 => {
                let before = stub.icount();
                for step in 1..=dice.below(5) {
                    assert_eq!(stub.ask("vCont;s:p1.1"), "T05thread:01;");
                    assert_eq!(stub.icount(), before + step);
                }
            }
            1 => {
                let rip = stub.rip();
                let target = 0x10_0060 + dice.below(0x50);
                let kind = dice.below(2);
                assert_eq!(stub.ask(&format!("Z{kind},{target:x},1")), "OK");
                let range = format!("vCont;r{rip:x},{:x}:p1.1", rip + 3);
                let stop = stub.ask(&range);
                assert!(stop.starts_with("T05thread:01;"), "{stop}");
                assert_eq!(stub.ask(&format!("z{kind},{target:x},1")), "OK");
            }
            2 => assert_eq!(stub.ask("g").len(), 2 * 872, "all registers"),
            3 => {
                let address = dice.below(16 << 20);
                assert_eq!(stub.ask(&format!("m{address:x},40")).len(), 128);
            }
            4 => assert!(stub.ask("mffff800000000000,8").starts_with('E')),
            5 => {
                let status = stub.monitor("info status");
                assert!(status.starts_with("VM status: paused"), "{status}");
            }
            _ => {
                // The loop's counter is in a register: this watches the stack that nobody uses.
                assert_eq!(stub.ask("Z4,200000,8"), "OK");
                assert_eq!(stub.ask("vCont;s:p1.1"), "T05thread:01;");
                assert_eq!(stub.ask("z4,200000,8"), "OK");
            }
        }
    }
}

#[test]
fn a_recording_under_a_debugger_is_true() {
    let line = "record -o rec --digest-interval 300000 -kernel k -m 16 -serial stdio -gdb unix:g";
    let (lab, mut child) = ticker(line);
    let mut dice = Dice::new(4);
    for round in 0..6 {
        let mut stub = Stub::attach(&lab.path("g"));
        for _ in 0..4 {
            meddle(&mut stub, &mut dice);
            stub.send("c");
            std::thread::sleep(Duration::from_millis(dice.below(20)));
            stub.raw(&[3]);
            assert_eq!(stub.answer(), "T02thread:01;");
        }
        let refused = stub.ask("M200000,1:00");
        assert!(refused.starts_with("E."), "{refused}");
        assert!(stub.ask("P0=0000000000000000").starts_with("E."));
        assert_eq!(stub.ask("bs"), "E22");
        child.type_bytes(b"x");
        match round % 2 {
            0 => assert_eq!(stub.ask("D;1"), "OK"),
            // One that just goes leaves the machine as it is.
            _ => {
                drop(stub);
                assert_eq!(Stub::attach(&lab.path("g")).ask("D"), "OK");
            }
        }
    }
    let before = lines(&child.out());
    child.until("more lines", PATIENCE, |out| lines(out) > before + 3);
    child.type_bytes(b"q");
    let recorded = child.end(PATIENCE).well();
    assert!(recorded.err.contains("cannot be changed in a recording or replay"), "{}", recorded.err);
    lab.run("verify rec").well();
    lab.run("replay rec").well().same_output(&recorded);
}

#[test]
fn who_comes_while_the_machine_is_let_go_finds_it_at_rest() {
    let (lab, child) = ticker(PLAIN);
    for _ in 0..10 {
        // One that just goes: the machine no longer stands still for it, and only the broker can let it run.
        drop(Stub::attach(&lab.path("g")));
        let mut stub = Stub::attach(&lab.path("g"));
        child.signal(Signal::SIGSTOP);
        assert_eq!(stub.ask("D"), "OK");
        let mut stub = Stub::connect(&lab.path("g"));
        stub.send("?");
        std::thread::sleep(Duration::from_millis(20));
        child.signal(Signal::SIGCONT);
        assert_eq!(stub.answer(), "T05thread:01;");
        let before = stub.icount();
        for step in 1..20 {
            assert_eq!(stub.ask("vCont;s:p1.1"), "T05thread:01;");
            assert_eq!(stub.icount(), before + step);
        }
        assert_eq!(stub.monitor("info status"), "VM status: paused (debug)\n");
        assert_eq!(stub.ask("D"), "OK");
    }
    let mut stub = Stub::attach(&lab.path("g"));
    stub.send("k");
    child.end(PATIENCE).well();
}

#[test]
fn a_replay_under_a_debugger_finds_no_difference() {
    let (lab, mut child) = ticker("record -o rec --digest-interval 200000 -kernel k -m 16 -serial stdio");
    child.until("40 lines", PATIENCE, |out| lines(out) >= 40);
    child.type_bytes(b"abcq");
    let recorded = child.end(PATIENCE).well();

    let mut dice = Dice::new(5);
    let child = lab.start("replay rec -S -serial stdio -gdb unix:g");
    let mut stub = Stub::attach(&lab.path("g"));
    assert!(stub.ask("qSupported:swbreak+").contains("ReverseStep+;"));
    assert_eq!(stub.icount(), 0);
    assert_eq!(stub.ask("bc"), "T05replaylog:begin;");
    let mut last = 0;
    for _ in 0..30 {
        meddle(&mut stub, &mut dice);
        let now = stub.icount();
        assert!(now >= last);
        last = now;
        stub.send("c");
        std::thread::sleep(Duration::from_millis(dice.below(5)));
        stub.raw(&[3]);
        let stop = stub.answer();
        if stop.contains("replaylog:end") {
            stub.raw(&[3]);
            break;
        }
        assert_eq!(stop, "T02thread:01;");
    }
    // The end is a stop from which everything can be looked at, as often as one likes.
    for _ in 0..2 {
        let stop = stub.ask("vCont;c");
        assert!(stop.contains("replaylog:end"), "{stop}");
    }
    let end = stub.icount();
    assert!(stub.ask("s").contains("replaylog:end"));
    assert_eq!(stub.icount(), end);
    assert!(stub.monitor("info status").contains("paused"));
    assert_eq!(stub.ask("D"), "OK");
    child.end(PATIENCE).well().same_output(&recorded);
}

#[test]
fn monitor_and_debugger_know_of_each_other() {
    let (lab, mut child) = ticker(&format!("{PLAIN} -monitor unix:m,server=on,wait=off"));
    let mut monitor = Monitor::connect(&lab.path("m"));
    child.until("2 lines", PATIENCE, |out| lines(out) >= 2);
    let mut stub = Stub::attach(&lab.path("g"));
    assert_eq!(monitor.ask("info status"), "VM status: paused (debug)\n");
    stub.send("c");
    let before = lines(&child.out());
    child.until("lines", PATIENCE, |out| lines(out) > before);
    assert_eq!(monitor.ask("info status"), "VM status: running\n");
    assert_eq!(monitor.ask("stop"), "");
    assert_eq!(stub.answer(), "T02thread:01;");
    assert_eq!(monitor.ask("info status"), "VM status: paused\n");
    // What the monitor stopped, the debugger may continue; and the other way round.
    stub.send("c");
    child.until("lines", PATIENCE, |out| lines(out) > before + 2);
    stub.raw(&[3]);
    assert_eq!(stub.answer(), "T02thread:01;");
    assert_eq!(monitor.ask("cont"), "");
    assert_eq!(monitor.ask("info status"), "VM status: running\n");
    assert_eq!(stub.monitor("stop"), "");
    assert_eq!(stub.monitor("info status"), "VM status: paused\n");
    assert_eq!(stub.ask("D"), "OK");
    let before = lines(&child.out());
    child.until("lines", PATIENCE, |out| lines(out) > before);
    // Another place, and none.
    assert_eq!(monitor.ask("gdbserver unix:h"), "Waiting for gdb connection on device 'unix:h'\n");
    assert!(!lab.path("g").exists());
    let mut stub = Stub::attach(&lab.path("h"));
    assert_eq!(monitor.ask("gdbserver none"), "Disabled gdbserver\n");
    assert_eq!(stub.next(), None);
    assert!(!lab.path("h").exists());
    assert_eq!(monitor.ask("cont"), "");
    child.type_bytes(b"q");
    child.end(PATIENCE).well();
}

#[test]
fn a_debugger_learns_of_the_end() {
    let (lab, mut child) = ticker(PLAIN);
    let mut stub = Stub::attach(&lab.path("g"));
    stub.send("c");
    child.type_bytes(b"q");
    assert_eq!(stub.answer(), "W00");
    child.end(PATIENCE).well();

    let (lab, child) = ticker(PLAIN);
    let mut stub = Stub::attach(&lab.path("g"));
    stub.send("k");
    child.end(PATIENCE).well();
    assert!(!lab.path("g").exists(), "the socket goes with the run");
}

const CORPUS: &[&str] = &[
    "?",
    "g",
    "G00",
    "p10",
    "P10=0000000000000000",
    "m100060,10",
    "mffffffffffffffff,8000",
    "M200000,2:0102",
    "X200000,2:ab",
    "c",
    "s",
    "vCont?",
    "vCont;c",
    "vCont;s:p1.1;c",
    "vCont;r100060,100070:1",
    "Z0,100060,1",
    "z0,100060,1",
    "Z1,100067,1",
    "Z2,200000,4",
    "z2,200000,4",
    "Z3,0,8",
    "Z4,200000,8",
    "Hg0",
    "Hc-1",
    "Hgp1.1",
    "qSupported:multiprocess+;swbreak+",
    "QStartNoAckMode",
    "qXfer:features:read:target.xml:0,ffb",
    "qXfer:features:read:x.xml:ffffffffffffffff,ffb",
    "qRcmd,696e666f",
    "qRcmd,zz",
    "bs",
    "bc",
    "!",
    "R00",
    "T1",
    "qC",
    "qfThreadInfo",
    "qsThreadInfo",
    "qAttached:1",
    "vFile:open:00,0,0",
    "qTStatus",
    "QTDP:1:100060:E:0:0",
    "vMustReplyEmpty",
    "Qqemu.PhyMemMode:1",
    "qqemu.PhyMemMode",
    "qOffsets",
    "qCRC:0,ffffffff",
    "vAttach;1",
    "vRun;",
    "D;1",
    "t",
    "x0,10",
    "QCatchSyscalls:1",
    "qHostInfo",
    "qProcessInfo",
    "jThreadsInfo",
    "i",
    "C05",
    "S05",
    "c100",
    "s100",
];

/// A packet of the corpus, changed at random places, or noise.
fn random_packet(dice: &mut Dice) -> Vec<u8> {
    let mut body = CORPUS[dice.below(CORPUS.len() as u64) as usize].as_bytes().to_vec();
    for _ in 0..dice.below(4) {
        let at = dice.below(body.len() as u64 + 1) as usize;
        match dice.below(4) {
            0 => body.insert(at, dice.below(256) as u8),
            1 if at < body.len() => body[at] = dice.below(256) as u8,
            2 if at < body.len() => drop(body.remove(at)),
            _ => {
                let digits = b"0f;:,#}*-";
                body.insert(at, digits[dice.below(digits.len() as u64) as usize]);
            }
        }
    }
    if dice.below(50) == 0 {
        body = (0..dice.below(40_000)).map(|_| dice.below(256) as u8).collect();
    }
    // A kill is obeyed.
    if body.starts_with(b"k") || body.starts_with(b"vKill") {
        body[0] = b'q';
    }
    let mut packet = framed(&body);
    if dice.below(20) == 0 {
        packet.truncate(dice.below(packet.len() as u64 + 1) as usize);
    }
    if dice.below(20) == 0 {
        packet.push([3, b'-', b'+', b'$'][dice.below(4) as usize]);
    }
    packet
}

#[test]
fn no_packet_ends_or_hangs_the_machine() {
    let (lab, mut child) = ticker(PLAIN);
    let mut dice = Dice::new(6);
    for _ in 0..40 {
        let mut stub = Stub::connect(&lab.path("g"));
        for _ in 0..100 {
            let packet = random_packet(&mut dice);
            if !stub.try_raw(&packet) {
                break;
            }
        }
        drop(stub);
        assert!(child.is_alive(), "{}", child.err());
    }
    let mut stub = Stub::attach(&lab.path("g"));
    assert!(stub.monitor("info status").starts_with("VM status: paused"));
    assert_eq!(stub.ask("QStartNoAckMode"), "OK");
    for body in ["vCont;t", "Hg-1", "vCont;x", "H"] {
        assert_eq!(stub.ask(body), "E22", "{body}");
        assert!(stub.ask("g").len() > 1000, "it goes on after {body}");
    }
    stub.send("D");
    // What was written to the guest at random may have stopped it: only the process must be well.
    let mut stub = Stub::attach(&lab.path("g"));
    stub.send("k");
    child.end(PATIENCE).well();
}

#[test]
fn no_packet_ends_or_hangs_a_replay() {
    let (lab, mut child) = ticker("record -o rec -kernel k -m 16 -serial stdio -icount shift=3,sleep=off");
    child.until("20 lines", PATIENCE, |out| lines(out) >= 20);
    child.type_bytes(b"q");
    child.end(PATIENCE).well();
    let mut dice = Dice::new(7);
    for _ in 0..8 {
        let mut child = lab.start("replay rec -S -serial stdio -gdb unix:g");
        let mut stub = Stub::connect(&lab.path("g"));
        for _ in 0..150 {
            let packet = match dice.below(3) {
                0 => framed([&b"bc"[..], b"bs", b"c", b"s"][dice.below(4) as usize]),
                _ => random_packet(&mut dice),
            };
            // Who leaves at the end of the log ends the run.
            if !packet.windows(2).any(|pair| pair == b"$D") {
                stub.raw(&packet);
            }
        }
        // The first may be taken for the rest of what came before.
        for _ in 0..3 {
            stub.raw(&[3]);
            stub.send("qqemu.sstepbits");
        }
        while stub.answer() != "ENABLE=1" {}
        assert!(child.is_alive(), "{}", child.err());
        stub.send("k");
        child.end(PATIENCE).well();
    }
}

#[test]
fn a_busy_socket_is_refused_in_one_line() {
    let (lab, child) = ticker(PLAIN);
    drop(Stub::attach(&lab.path("g")));
    let second = lab.run(PLAIN);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.err.starts_with("reprise: gdb: cannot listen on unix:g: "), "{}", second.err);
    assert_eq!(second.err.lines().count(), 1);
    let mut stub = Stub::attach(&lab.path("g"));
    stub.send("k");
    child.end(PATIENCE).well();
}
