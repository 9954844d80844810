//! gdb on Debian's kernel with its debug information: by lines and by functions, forward and back.
//!
//! `tests/guests/fetch.sh symbols` gets it. What is expected comes from the line table and from the way forward: no line and
//! no icount stands here.

use super::debugging::{debug, record_command};
use super::guests;
use crate::lab::Lab;

/// `PLACE` and `info line` are read by `Pass`. A walk begins at start_kernel and ends there; `walk 1` saves on its way.
const SCRIPT: &str = r#"set pagination off
set confirm off
set debuginfod enabled off
file vmlinux
target remote g
define hookpost-monitor
maintenance flush register-cache
end
define place
printf "PLACE $arg0 %lu %#lx ", $icount, $pc
info symbol $pc
info line *$pc
end
define nexts
next
place next
next
place next
next
place next
end
define back
set $left = 50
while $icount > $first && $left > 0
reverse-next
place back
set $left = $left - 1
end
end
define into
set $frame = $sp
while $sp == $frame
place caller
step
end
place callee
end
define ticks
printf "JIFFIES %lu\n", jiffies
place $arg0
end
define walk
set $first = $icount
place start
nexts
if $arg0
monitor savevm mid
end
back
nexts
reverse-continue
place landed
nexts
into
reverse-step
place stepped
into
nexti
reverse-finish
place finished
stepi
place called
tbreak rest_init
continue
watch jiffies
ticks rest
reverse-continue
ticks tick
if $arg0
monitor savevm tick
end
reverse-continue
ticks tick
continue
ticks tock
continue
ticks tock
delete $bpnum
reverse-continue
place landed
end
break start_kernel
continue
printf "BANNER %s", (char *)linux_banner
printf "PASS\n"
walk 0
printf "PASS\n"
walk 1
printf "PASS\n"
monitor loadvm mid
place loaded
back
monitor loadvm tick
ticks loaded
watch jiffies
reverse-continue
ticks tick
delete $bpnum
reverse-continue
place landed
monitor replay_seek 50000000
set $sought = $pc
printf "SOUGHT %lu\n", $icount
stepi
reverse-stepi
printf "STOOD %lu %d\n", $icount, $pc == $sought
kill
"#;

/// Where gdb stood.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop {
    label: String,
    icount: u64,
    pc: u64,
    /// As `info symbol` says it.
    symbol: String,
    /// As `info line` says it: the line, and where its code begins.
    line: u64,
    from: u64,
}

/// The places of one walk, and what jiffies was.
#[derive(Debug, PartialEq, Eq)]
struct Pass {
    stops: Vec<Stop>,
    jiffies: Vec<u64>,
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|_| panic!("no address: {text}"))
}

impl Pass {
    fn of(text: &str) -> Pass {
        let mut pass = Pass { stops: Vec::new(), jiffies: Vec::new() };
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(value) = line.strip_prefix("JIFFIES ") {
                pass.jiffies.push(value.parse().unwrap());
            }
            let Some(place) = line.strip_prefix("PLACE ") else { continue };
            let words: Vec<&str> = place.splitn(4, ' ').collect();
            let info = lines.next().unwrap_or_default();
            let after = |word: &str| {
                let rest = info.split_once(word).unwrap_or_else(|| panic!("{place}: {info}")).1;
                rest.split_whitespace().next().unwrap().to_owned()
            };
            pass.stops.push(Stop {
                label: words[0].to_owned(),
                icount: words[1].parse().unwrap(),
                pc: hex(words[2]),
                symbol: words[3].to_owned(),
                line: after("Line ").parse().unwrap(),
                from: hex(&after("starts at address ")),
            });
        }
        pass
    }

    fn named(&self, label: &str) -> Vec<&Stop> {
        self.stops.iter().filter(|stop| stop.label == label).collect()
    }

    /// The way back by lines, from after the last of `forward`, meets their lines in reverse order.
    fn check_back(&self, forward: &[&Stop]) {
        let back = self.named("back");
        let descends = back.windows(2).all(|pair| pair[1].icount < pair[0].icount);
        assert!(descends, "{back:#?}");
        let mut left = back.iter();
        for pair in forward.windows(2).rev() {
            let on = |stop: &&&Stop| {
                stop.line == pair[0].line && (pair[0].icount..pair[1].icount).contains(&stop.icount)
            };
            assert!(left.any(|stop| on(&stop)), "no {:?} in {back:#?}", pair[0]);
        }
        let last = back.last().unwrap();
        assert_eq!((last.icount, last.pc), (forward[0].icount, forward[0].pc));
    }

    fn check_lines(&self) {
        let start = self.stops[0].clone();
        assert!(start.symbol.starts_with("start_kernel in section"), "{start:?}");
        let nexts = self.named("next");
        assert_eq!(nexts.len(), 9);
        let forward: Vec<&Stop> = [&start].into_iter().chain(nexts[..3].iter().copied()).collect();
        for pair in forward.windows(2) {
            assert!(pair[1].icount > pair[0].icount && pair[1].line != pair[0].line, "{pair:#?}");
            assert_eq!(pair[1].pc, pair[1].from, "a line begins there");
        }
        assert!(nexts[..3] == nexts[3..6] && nexts[..3] == nexts[6..], "{nexts:#?}");
        self.check_back(&forward);
        let landed = self.named("landed");
        assert_eq!(landed.len(), 2);
        for stop in landed {
            assert_eq!((stop.icount, stop.pc), (start.icount, start.pc));
        }
    }

    fn check_functions(&self) {
        let (callers, callees) = (self.named("caller"), self.named("callee"));
        let (caller, callee) = (callers.last().unwrap(), callees[0]);
        assert_eq!(callees, [callee; 2]);
        let function = |stop: &Stop| stop.symbol.split_whitespace().next().unwrap().to_owned();
        assert_ne!(function(caller), function(callee));
        for label in ["stepped", "finished"] {
            let stop = self.named(label)[0];
            assert_eq!((stop.line, function(stop)), (caller.line, function(caller)), "{stop:?}");
            assert!((caller.icount..callee.icount).contains(&stop.icount), "{stop:?}");
        }
        let (finished, called) = (self.named("finished")[0], self.named("called")[0]);
        assert_eq!(called.icount, finished.icount + 1, "the call is the next instruction");
        assert_eq!(function(called), function(callee));
        assert!(!called.symbol.contains(" + "), "{called:?}");
    }

    fn check_ticks(&self) {
        let (rest, ticks, tocks) = (self.named("rest")[0], self.named("tick"), self.named("tock"));
        assert!(rest.symbol.starts_with("rest_init in section"), "{rest:?}");
        assert!(ticks[0].icount < rest.icount && ticks[1].icount < ticks[0].icount, "{ticks:?}");
        // Forward gdb stops after the store, backwards before it.
        assert_eq!(tocks[0].icount, ticks[1].icount + 1);
        assert_eq!(tocks[1].icount, ticks[0].icount + 1);
        let now = self.jiffies[0];
        assert_eq!(self.jiffies, [now, now - 1, now - 2, now - 1, now]);
    }
}

#[test]
fn gdb_walks_over_lines_of_the_kernel() {
    let Some(debug_file) = guests().map(|guests| guests.join("vmlinux-cloud.debug")) else { return };
    if !debug_file.is_file() {
        println!("{} is missing, nothing is tested: run tests/guests/fetch.sh symbols", debug_file.display());
        return;
    }
    let lab = Lab::new();
    std::os::unix::fs::symlink(debug_file, lab.path("vmlinux")).unwrap();
    let Some(printed) = record_command(&lab, "cat /proc/version") else { return };
    let (text, said) = debug(&lab, SCRIPT);
    let banner = text.lines().find_map(|line| line.strip_prefix("BANNER "));
    let banner = banner.unwrap_or_else(|| panic!("{text}\n{said}"));
    assert!(printed.lines().any(|line| line.trim() == banner.trim()), "{banner:?} in {printed}");
    let mut parts = text.split("PASS\n").skip(1).map(Pass::of);
    let [first, second, third] =
        std::array::from_fn(|_| parts.next().unwrap_or_else(|| panic!("{text}\n{said}")));
    first.check_lines();
    first.check_functions();
    first.check_ticks();
    assert_eq!(first, second, "a save changes nothing");

    let loaded = third.named("loaded");
    let place = |stop: &Stop| (stop.icount, stop.pc, stop.line);
    assert_eq!(place(loaded[0]), place(first.named("next")[2]));
    assert_eq!(third.named("back"), first.named("back"));
    assert_eq!(place(loaded[1]), place(first.named("tick")[0]));
    assert_eq!(third.named("tick"), first.named("tick")[1..]);
    assert_eq!(third.named("landed"), first.named("landed")[..1]);
    assert_eq!(third.jiffies, first.jiffies[1..3]);
    // Without the hook gdb would show the registers of the place before.
    assert!(text.contains("SOUGHT 50000000\n") && text.contains("STOOD 50000000 1\n"), "{text}\n{said}");
}
