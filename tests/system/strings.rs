//! String instructions against a plain model: all sizes, both directions, overlaps, page boundaries; and faults in the
//! middle (SDM 2, REP and the instructions).

use tests::check::{Expect, check, registers};
use tests::code64;
use tests::guest::Guest;
use tests::layout::*;
use tests::paging::{PRESENT, WRITE};
use tests::segments::Gate;
use vcpu::fault::vector;
use vcpu::interp::Stop;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDI, RSI};
use vcpu::state::rflags;

const RW: u64 = PRESENT | WRITE;
/// Bytes of the test area: four pages that do not lie next to one another in physical memory.
const AREA: usize = 0x4000;
const FRAMES: [u64; 4] = [FRAME + 0x3000, FRAME, FRAME + 0x9000, FRAME + 0x5000];

/// A generator of test data; its seed is in every message.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ self.0 >> 29;
        mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
}

/// Code of a test, assembled at build time.
type Code = fn() -> &'static [u8];

/// Instruction, element size, code with 64-bit and with 32-bit addresses.
const FORMS: &[(Kind, usize, Code, Code)] = &[
    (Kind::Movs, 1, || code64!("rep movsb", "hlt"), || code64!(".byte 0x67", "rep movsb", "hlt")),
    (Kind::Movs, 2, || code64!("rep movsw", "hlt"), || code64!(".byte 0x67", "rep movsw", "hlt")),
    (Kind::Movs, 4, || code64!("rep movsd", "hlt"), || code64!(".byte 0x67", "rep movsd", "hlt")),
    (Kind::Movs, 8, || code64!("rep movsq", "hlt"), || code64!(".byte 0x67", "rep movsq", "hlt")),
    (Kind::Stos, 1, || code64!("rep stosb", "hlt"), || code64!(".byte 0x67", "rep stosb", "hlt")),
    (Kind::Stos, 2, || code64!("rep stosw", "hlt"), || code64!(".byte 0x67", "rep stosw", "hlt")),
    (Kind::Stos, 4, || code64!("rep stosd", "hlt"), || code64!(".byte 0x67", "rep stosd", "hlt")),
    (Kind::Stos, 8, || code64!("rep stosq", "hlt"), || code64!(".byte 0x67", "rep stosq", "hlt")),
    (Kind::Lods, 1, || code64!("rep lodsb", "hlt"), || code64!(".byte 0x67", "rep lodsb", "hlt")),
    (Kind::Lods, 8, || code64!("rep lodsq", "hlt"), || code64!(".byte 0x67", "rep lodsq", "hlt")),
    (Kind::Cmps, 1, || code64!("repe cmpsb", "hlt"), || code64!(".byte 0x67", "repe cmpsb", "hlt")),
    (Kind::Cmps, 4, || code64!("repe cmpsd", "hlt"), || code64!(".byte 0x67", "repe cmpsd", "hlt")),
    (Kind::Scas, 1, || code64!("repne scasb", "hlt"), || code64!(".byte 0x67", "repne scasb", "hlt")),
    (Kind::Scas, 2, || code64!("repne scasw", "hlt"), || code64!(".byte 0x67", "repne scasw", "hlt")),
];

/// Operands: offsets in the area, count, direction.
#[derive(Clone, Copy, Debug)]
struct Operands {
    from: usize,
    to: usize,
    count: usize,
    down: bool,
    rax: u64,
}

/// The model's state: the area, RAX, and how many elements were done.
fn model(kind: Kind, size: usize, mut area: Vec<u8>, o: Operands) -> (Vec<u8>, u64, usize) {
    let place = |start: usize, n: usize| if o.down { start - n * size } else { start + n * size };
    let read = |area: &[u8], at: usize| {
        (0..size).fold(0u64, |word, byte| word | u64::from(area[at + byte]) << (8 * byte))
    };
    let mut rax = o.rax;
    let mask = u64::MAX >> (64 - 8 * size);
    for n in 0..o.count {
        let (from, to) = (place(o.from, n), place(o.to, n));
        match kind {
            Kind::Movs => {
                let value = read(&area, from).to_le_bytes();
                area[to..to + size].copy_from_slice(&value[..size]);
            }
            Kind::Stos => area[to..to + size].copy_from_slice(&rax.to_le_bytes()[..size]),
            Kind::Lods => rax = rax & !mask | read(&area, from),
            // REPE ends at the first difference, REPNE at the first match.
            Kind::Cmps if read(&area, from) != read(&area, to) => return (area, rax, n + 1),
            Kind::Scas if read(&area, to) == rax & mask => return (area, rax, n + 1),
            Kind::Cmps | Kind::Scas => {}
        }
    }
    (area, rax, o.count)
}

fn area_guest(area: &[u8], o: Operands, code: &[u8]) -> Guest {
    let mut guest = Guest::long();
    for (page, frame) in FRAMES.into_iter().enumerate() {
        guest.map(WINDOW + page as u64 * 0x1000, frame, 0, RW);
        guest.put(frame, &area[page * 0x1000..(page + 1) * 0x1000]);
    }
    guest.set(RSI, WINDOW + o.from as u64);
    guest.set(RDI, WINDOW + o.to as u64);
    guest.set(RCX, o.count as u64);
    guest.set(RAX, o.rax);
    if o.down {
        guest.set_flags(rflags::DF);
    }
    guest.program(code)
}

fn area_of(guest: &Guest) -> Vec<u8> {
    let mut area = vec![0; AREA];
    for (page, frame) in FRAMES.into_iter().enumerate() {
        assert!(guest.core.mem.ram.read_bytes(frame, &mut area[page * 0x1000..(page + 1) * 0x1000]));
    }
    area
}

fn operands(random: &mut Random, size: usize) -> Operands {
    let count = match random.below(4) {
        0 => random.below(4),
        1 => random.below(40),
        _ => random.below(1500 / size as u64 * 4),
    } as usize;
    let bytes = count * size;
    let room = AREA - bytes - 16;
    let low = random.below(room as u64) as usize;
    // Often close together, so that they overlap, with every distance; or aligned to each other by a page.
    let other = match random.below(4) {
        0 => random.below(room as u64) as usize,
        1 => (low + random.below(24) as usize).min(room),
        2 => low.saturating_sub(random.below(24) as usize),
        _ => (low + 0x1000).min(room),
    };
    let down = random.below(3) == 0;
    let lift = if down { bytes.max(size) } else { 0 };
    Operands { from: low + lift, to: other + lift, count, down, rax: random.next() << 20 ^ random.next() }
}

/// Random operands, in the bulk path and, with 32-bit addresses, element by element, against the model.
#[test]
fn strings_match_the_model() {
    let seed = 0x5eed_0001;
    let mut random = Random(seed);
    for round in 0..12 {
        for &(kind, size, wide, narrow) in FORMS {
            let o = operands(&mut random, size);
            // Few different values, so that comparisons go on for a while.
            let values = if matches!(kind, Kind::Cmps) { 1 } else { 256 };
            let mut area: Vec<u8> = (0..AREA).map(|_| random.below(values) as u8).collect();
            if kind == Kind::Cmps {
                let at = random.below(AREA as u64) as usize;
                area[at] = 1;
            }
            let (after, rax, done) = model(kind, size, area.clone(), o);
            for code in [wide(), narrow()] {
                let name = format!("seed {seed:x}, round {round}, {kind:?} of {size}, {code:x?}, {o:?}");
                let mut guest = area_guest(&area, o, code);
                assert_eq!(guest.run(10), Stop::Halted, "{name}");
                let moved = |start: usize| {
                    let bytes = (done * size) as u64;
                    let start = WINDOW + start as u64;
                    if o.down { start - bytes } else { start + bytes }
                };
                let uses_from = matches!(kind, Kind::Movs | Kind::Lods | Kind::Cmps);
                let uses_to = kind != Kind::Lods;
                let wanted = [
                    (RCX, (o.count - done) as u64),
                    (RSI, if uses_from { moved(o.from) } else { WINDOW + o.from as u64 }),
                    (RDI, if uses_to { moved(o.to) } else { WINDOW + o.to as u64 }),
                    (RAX, rax),
                ];
                for (number, value) in wanted {
                    assert_eq!(
                        guest.register(number),
                        value,
                        "{name}, register {number}\n{}",
                        registers(&guest)
                    );
                }
                let same = area_of(&guest) == after;
                assert!(same, "{name}: memory differs");
                assert_eq!(guest.core.cpu.icount, 2, "{name}");
            }
        }
    }
}

/// A fault in the middle: the registers show what was done, and the handler maps the page and goes on.
#[test]
fn faults_in_the_middle() {
    // 1800H bytes in all, of which 400H lie before (or 401H … from above) the absent page at WINDOW + 1000H.
    struct Row(&'static str, &'static [u8], u64, bool, u64, u64, u32);
    let up = WINDOW + 0x1000;
    for Row(name, code, size, down, address, done, error) in [
        Row("MOVSB", code64!("rep movsb", "ud2"), 1, false, up, 0x400, 2),
        Row("MOVSQ", code64!("rep movsq", "ud2"), 8, false, up, 0x80, 2),
        Row("STOSD", code64!("rep stosd", "ud2"), 4, false, up, 0x100, 2),
        Row("SCASB", code64!("repe scasb", "ud2"), 1, false, up, 0x400, 0),
        Row("LODSB", code64!("rep lodsb", "ud2"), 1, false, up, 0x400, 0),
        Row("MOVSB down", code64!("rep movsb", "ud2"), 1, true, WINDOW + 0x1fff, 0x401, 2),
        Row("STOSQ down", code64!("rep stosq", "ud2"), 8, true, WINDOW + 0x1ff8, 0x81, 2),
    ] {
        let make = |handled: bool| {
            move || {
                let mut guest = Guest::long();
                for page in [0, 2] {
                    guest.map(WINDOW + page * 0x1000, FRAME + page * 0x1000, 0, RW);
                }
                guest.map(WINDOW + 0x1000, FRAME + 0x1000, 0, 0);
                for page in 4..8 {
                    guest.map(WINDOW + page * 0x1000, FRAME + page * 0x1000, 0, RW);
                }
                let entry = guest.entry_address(WINDOW + 0x1000, 0);
                let start = if down { WINDOW + 0x2400 } else { WINDOW + 0xc00 };
                guest.set(RBX, entry);
                guest.set(RDI, start);
                guest.set(RSI, if name == "LODSB" { start } else { start + 0x4000 });
                guest.set(RCX, 0x1800 / size);
                if down {
                    guest.set_flags(rflags::DF);
                }
                if handled {
                    guest.set_gate(vector::PF, Gate::new(14, 8, CODE + 0x800));
                    guest.put(
                        CODE + 0x800,
                        code64!("mov r8, rcx", "or qword ptr [rbx], 3", "add rsp, 8", "iretq"),
                    );
                }
                guest.program(code)
            }
        };
        let left = 0x1800 / size - done;
        let ends = [
            Expect::Event(vector::PF, Some(error), CODE),
            Expect::Register(RCX, left),
            Expect::Memory(DATA, address),
        ];
        let noting = || {
            let mut guest = make(false)();
            guest.put(handler(vector::PF), code64!("mov rdx, cr2", "mov [0x20000], rdx", "hlt"));
            guest
        };
        check(name, noting, &ends[1..]);
        check(name, make(false), &ends[..2]);
        let ends = [
            Expect::Register(RCX, 0),
            Expect::Register(8, left),
            Expect::Event(vector::UD, None, CODE + code.len() as u64 - 2),
            Expect::Icount(1 + 4 + 1),
        ];
        check(name, make(true), &ends);
    }
}

/// The source faults although the target could be written: nothing of that element is stored.
#[test]
fn faults_of_the_source() {
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW, FRAME, 0, RW);
        guest.map(WINDOW + 0x2000, FRAME + 0x2000, 0, RW);
        guest.put_u64(FRAME + 0xff8, 0x1111_1111_1111_1111);
        guest.set(RSI, WINDOW + 0xff4);
        guest.set(RDI, WINDOW + 0x2000);
        guest.set(RCX, 4);
        guest.program(code64!("rep movsq"))
    };
    // The second element crosses into the absent page.
    let ends = [
        Expect::Event(vector::PF, Some(0), CODE),
        Expect::Is("CR2", |guest| guest.core.cpu.cr2, WINDOW + 0x1000),
        Expect::Register(RCX, 3),
        Expect::Register(RSI, WINDOW + 0xffc),
        Expect::Memory(FRAME + 0x2000, 0x1111_1111_0000_0000),
        Expect::Memory(FRAME + 0x2008, 0),
    ];
    check("MOVSQ", guest, &ends);
}

/// Source and target in one page under two addresses: an overlap is one of physical memory.
#[test]
fn overlaps_through_an_alias() {
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW, FRAME, 0, RW);
        guest.map(WINDOW + 0x5000, FRAME, 0, RW);
        guest.put_u64(FRAME, 0x0807_0605_0403_0201);
        // Both pages writable without a walk, so that the bulk path could run.
        guest.set(RSI, WINDOW);
        guest.set(RDI, WINDOW + 0x5002);
        guest.set(RCX, 14);
        guest.program(code64!("mov [rdi + 0x100], al", "mov [rsi + 0x200], al", "rep movsb", "hlt"))
    };
    let ends =
        [Expect::Memory(FRAME, 0x0201_0201_0201_0201), Expect::Memory(FRAME + 8, 0x0201_0201_0201_0201)];
    check("MOVSB", guest, &ends);
}

/// A count of zero touches neither memory nor flags (SDM 2, REP).
#[test]
fn a_count_of_zero() {
    for code in [
        code64!("rep movsb", "hlt"),
        code64!("rep stosq", "hlt"),
        code64!("repe cmpsb", "hlt"),
        code64!("repne scasb", "hlt"),
    ] {
        let guest = || {
            let mut guest = Guest::long();
            guest.set(RSI, WINDOW);
            guest.set(RDI, WINDOW);
            guest.program(code)
        };
        let ends = [
            Expect::HaltedAt(CODE + code.len() as u64),
            Expect::Register(RSI, WINDOW),
            Expect::Flags { set: 2, clear: 0x8d5 },
        ];
        check(&format!("{code:x?}"), guest, &ends);
    }
}
