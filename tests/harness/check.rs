//! Runs a guest in several ways that must not differ, then compares what it left with what the manual says.

use super::guest::Guest;
use super::layout::handler;
use vcpu::interp::Stop;
use vcpu::state::seg;

/// Instructions a test guest may take.
const ICOUNT_MAX: u64 = 20_000;

/// Something the guest must have left behind.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// A general register.
    Register(usize, u64),
    /// Eight bytes of physical memory.
    Memory(u64, u64),
    /// The default handler of a vector was reached, with this error code and return address.
    Event(u8, Option<u32>, u64),
    /// Bits of the RFLAGS image that the handler got: set ones and clear ones.
    EventFlags {
        /// The frame has an error code.
        code: bool,
        /// Bits that must be set.
        set: u32,
        /// Bits that must be clear.
        clear: u32,
    },
    /// Where the CPU halted: RIP after the HLT.
    HaltedAt(u64),
    /// CPU shut down.
    TripleFault,
    /// Instructions retired, the HLT included.
    Icount(u64),
    /// RFLAGS bits: set ones and clear ones.
    Flags {
        /// Bits that must be set.
        set: u32,
        /// Bits that must be clear.
        clear: u32,
    },
    /// Anything else, by name.
    Is(&'static str, fn(&Guest) -> u64, u64),
}

impl Expect {
    /// What is wrong, if anything.
    fn problem(&self, guest: &Guest, stop: Stop) -> Option<String> {
        let cpu = &guest.core.cpu;
        let differs = |what: String, is: u64, want: u64| {
            (is != want).then(|| format!("{what} is {is:#x}, expected {want:#x}"))
        };
        match *self {
            Expect::Register(number, want) => {
                differs(format!("register {number}"), guest.register(number), want)
            }
            Expect::Memory(gpa, want) => differs(format!("memory at {gpa:#x}"), guest.memory(gpa), want),
            Expect::Event(vector, code, rip) => {
                let event = guest.event(code.is_some());
                let same = event.rip == rip && event.code == code && cpu.rip == handler(vector) + 1;
                (!same || stop != Stop::Halted)
                    .then(|| format!("{event:x?} ({stop:?}), expected {vector} {code:x?} at {rip:#x}"))
            }
            Expect::EventFlags { code, set, clear } => {
                let image = u64::from(guest.event(code).rflags & (set | clear));
                differs("pushed RFLAGS".into(), image, u64::from(set))
            }
            Expect::HaltedAt(rip) if stop == Stop::Halted => differs("RIP at HLT".into(), cpu.rip, rip),
            Expect::TripleFault if stop == Stop::TripleFault => None,
            Expect::HaltedAt(_) | Expect::TripleFault => Some(format!("{stop:?} instead of {self:x?}")),
            Expect::Icount(want) => differs("icount".into(), cpu.icount, want),
            Expect::Flags { set, clear } => {
                differs("RFLAGS".into(), u64::from(guest.core.rflags() & (set | clear)), u64::from(set))
            }
            Expect::Is(what, read, want) => differs(what.into(), read(guest), want),
        }
    }
}

/// How a guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// In one go.
    Whole,
    /// Seven instructions a call.
    Sliced,
    /// One instruction a call.
    Stepped,
    /// One instruction a call, the engine's caches dropped before each.
    Cold,
}

fn run(guest: &mut Guest, pace: Pace) -> Stop {
    if pace == Pace::Whole {
        return guest.run(ICOUNT_MAX);
    }
    loop {
        if pace == Pace::Cold {
            guest.forget();
        }
        let next = guest.core.cpu.icount + if pace == Pace::Sliced { 7 } else { 1 };
        match guest.run(next) {
            Stop::Limit if next < ICOUNT_MAX => {}
            stop => return stop,
        }
    }
}

/// Makes the guest, runs it in one go, compares; then makes and runs it again in slices and step by step, which must
/// end in the same state to the last bit.
pub fn check(name: &str, make: impl Fn() -> Guest, expected: &[Expect]) {
    let mut guest = make();
    let stop = run(&mut guest, Pace::Whole);
    let mut problems: Vec<String> =
        expected.iter().filter_map(|expect| expect.problem(&guest, stop)).collect();
    if !matches!(stop, Stop::Halted | Stop::TripleFault) {
        problems.push(format!("the guest did not end: {stop:?}"));
    }
    let end = guest.digests();
    for pace in [Pace::Sliced, Pace::Stepped, Pace::Cold] {
        let mut other = make();
        let other_stop = run(&mut other, pace);
        if (other_stop, other.digests()) != (stop, end) {
            problems.push(format!("{pace:?} differs ({other_stop:?}):\n{}", registers(&other)));
        }
    }
    assert!(problems.is_empty(), "{name}: {}\nin one go:\n{}", problems.join("\n"), registers(&guest));
}

/// Registers for a failure message.
pub fn registers(guest: &Guest) -> String {
    let cpu = &guest.core.cpu;
    let names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
    let mut text = String::new();
    for number in 0..16 {
        let name = names.get(number).map_or_else(|| format!("r{number}"), |name| (*name).to_owned());
        text += &format!("  {name:3} {:016x}", guest.register(number));
        if number % 4 == 3 {
            text.push('\n');
        }
    }
    let selector = |index: usize| cpu.segments[index].selector;
    text += &format!(
        "  rip {:x}  rflags {:x}  cs {:x}  ss {:x}  cpl {}  icount {}\n",
        cpu.rip,
        guest.core.rflags(),
        selector(seg::CS),
        selector(seg::SS),
        guest.core.mode.cpl,
        cpu.icount
    );
    text += &format!(
        "  cr0 {:x}  cr2 {:x}  cr3 {:x}  cr4 {:x}  efer {:x}  dr6 {:x}  dr7 {:x}\n",
        cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer, cpu.dr[6], cpu.dr[7]
    );
    text += &format!("  {:?}  {:?}  debug pending {:x}\n", cpu.activity, cpu.shadow, cpu.debug_pending);
    text
}
