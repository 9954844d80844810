//! Every instruction that the CPU models offer, with random operands, on our CPU and on the host's.
//!
//! `ORACLE_SEED`, `ORACLE_CASES` (for each code) and `ORACLE_CODE` (part of a code's name) choose what runs.

mod address;
mod case;
mod codes;
mod compare;
mod operands;
mod tolerate;
mod values;

use case::Case;
use codes::Group;
use iced_x86::{Code, Formatter, IntelFormatter};
use tests::arena::{self, Image};
use tests::host::Host;
use tests::ours::Guest;
use tests::random::Random;
use tests::state::{CodeSize, State};

const SEED: u64 = 0x5eed;
/// Failing codes shown in full.
const SHOWN_MAX: usize = 30;
/// Attempts to find operands that can be encoded, for each case.
const ATTEMPTS_MAX: u64 = 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        let digits = text.trim_start_matches("0x");
        let radix = if digits.len() < text.len() { 16 } else { 10 };
        u64::from_str_radix(digits, radix).unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Runs the cases of one group and panics with all that differed.
fn check(group: Group, size: CodeSize, cases: u64) {
    let seed = setting("ORACLE_SEED", SEED);
    let cases = setting("ORACLE_CASES", cases);
    let only = std::env::var("ORACLE_CODE").unwrap_or_default();
    let mut guest = Guest::new("x86-64-v3", &[]);
    let mut host = Host::new();
    let mut codes = codes::of(group, size, &guest.core.cpu.model);
    codes.retain(|code| format!("{code:?}").contains(&only));
    println!("{group:?}, {size:?}: {} codes, {cases} cases each, ORACLE_SEED={seed:#x}", codes.len());
    let mut failures = vec![];
    for code in codes {
        // Each code has its own numbers, so that one can be repeated alone.
        let random = Random::new(seed ^ (code as u64) << 32);
        if let Some(failure) = check_code(&mut host, &mut guest, random, code, size, cases) {
            failures.push(failure);
        }
    }
    let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
    let details: Vec<&str> = failures.iter().take(SHOWN_MAX).map(|(_, text)| text.as_str()).collect();
    assert!(
        failures.is_empty(),
        "{} codes differ from the host (ORACLE_SEED={seed:#x}):\n{}\nall: {}",
        failures.len(),
        details.join("\n"),
        names.join(" ")
    );
}

/// Runs the cases of one code: its name and the first difference.
fn check_code(
    host: &mut Host,
    guest: &mut Guest,
    mut random: Random,
    code: Code,
    size: CodeSize,
    cases: u64,
) -> Option<(String, String)> {
    let image = random_image(&mut random);
    let (mut made, mut first, mut differing, mut faults) = (0, None, 0, 0);
    for _ in 0..cases * ATTEMPTS_MAX {
        let Some(case) = case::generate(&mut random, code, size, &image) else { continue };
        made += 1;
        let (mut host_memory, mut our_memory) = (case.memory.clone(), case.memory.clone());
        let theirs = host.run(&case.bytes, size, &case.state, &mut host_memory);
        let mut ours = guest.run(&case.bytes, size, &case.state, &mut our_memory);
        faults += u64::from(theirs.raised.is_some());
        if let Some(text) = compare::differences(&case, (&theirs, &host_memory), (&mut ours, &mut our_memory))
        {
            differing += 1;
            first.get_or_insert_with(|| describe(&case, &text));
        }
        if made == cases {
            break;
        }
    }
    let name = format!("{code:?}");
    if made == 0 {
        return Some((name, format!("{code:?}: no case could be made")));
    }
    first.map(|text| (name, format!("{code:?}: {differing} of {made} cases differ ({faults} fault)\n{text}")))
}

fn random_image(random: &mut Random) -> Box<Image> {
    let mut image = Box::new([0; arena::BYTES]);
    for (page, rights) in arena::RIGHTS.iter().enumerate() {
        if *rights != arena::Rights::Absent {
            let bytes = &mut image[page * arena::PAGE as usize..][..arena::PAGE as usize];
            bytes.fill_with(|| random.bits() as u8);
        }
    }
    image
}

/// The case and what came of it.
fn describe(case: &Case, differences: &str) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(&case.instruction, &mut text);
    let bytes: Vec<String> = case.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let used = used_registers(&case.instruction);
    let empty = State::default();
    let fields = case.state.fields().into_iter().zip(empty.fields());
    let before: Vec<String> = fields
        .filter(|((name, value), (_, initial))| value != initial && used.contains(name))
        .map(|((name, value), _)| format!("{name}={value}"))
        .collect();
    format!("  {text}    {}\n    before: {}\n{differences}", bytes.join(" "), before.join(" "))
}

/// Names of the state's fields that the instruction uses.
fn used_registers(instruction: &iced_x86::Instruction) -> Vec<String> {
    let mut names: Vec<String> = ["rflags", "fs", "gs"].map(String::from).to_vec();
    let mut factory = iced_x86::InstructionInfoFactory::new();
    for used in factory.info(instruction).used_registers() {
        let register = used.register();
        if register.is_vector_register() {
            names.extend([format!("ymm{}", register.number()), "mxcsr".into()]);
        } else if register.is_st() || register.is_mm() {
            names.extend((0..8).map(|i| format!("st{i}")));
            names.extend(["fcw", "fsw", "tags"].map(String::from));
        } else {
            names.push(format!("{:?}", register.full_register()).to_lowercase());
        }
    }
    names
}

#[test]
fn integer_instructions_match_the_host() {
    check(Group::Integer, CodeSize::Bits64, 300);
}

#[test]
fn x87_instructions_match_the_host() {
    check(Group::X87, CodeSize::Bits64, 300);
}

#[test]
fn sse_instructions_match_the_host() {
    check(Group::Sse, CodeSize::Bits64, 200);
}

#[test]
fn avx_instructions_match_the_host() {
    check(Group::Avx, CodeSize::Bits64, 200);
}
