//! x87 environment, written in Rust, against the host's FNSTENV and FLDENV.

use super::super::fpu;
use super::super::fpu_control::{environment, set_environment};
use super::host_x87::{Random, SPECIAL, special};
use super::{instruction, thunks};
use crate::state::DataRegs;
use crate::thunk::Thunks;
use crate::thunk::call::Scratch;

const FNSTENV32: &[u8] = &[0xd9, 0x30];
const FNSTENV16: &[u8] = &[0x66, 0xd9, 0x30];
const FLDENV32: &[u8] = &[0xd9, 0x20];
const FLDENV16: &[u8] = &[0x66, 0xd9, 0x20];

/// Any state: stack top, tags, flags and masks at random, special register contents.
fn state(random: &mut Random) -> DataRegs {
    let mut data = DataRegs::reset();
    fpu::set_control(&mut data.fx, random.next() as u16);
    fpu::set_status(&mut data.fx, random.next() as u16);
    for i in 0..8 {
        fpu::set_register(&mut data.fx, i, special(random.next() as usize % SPECIAL.len()));
    }
    fpu::set_tags(&mut data.fx, random.next() as u8);
    data
}

/// Runs natively with `memory` as operand; leaves the saved state in `data`.
fn native(thunks: &mut Thunks, bytes: &[u8], data: &mut DataRegs, memory: &[u8; 32]) -> [u8; 32] {
    let (id, _) = thunks.native(&instruction(bytes)).expect("can run natively");
    let thunk = thunks.thunk(id);
    *thunks.scratch = Scratch::new();
    thunks.scratch.memory[..4].copy_from_slice(&super::super::run::from_bytes(memory));
    thunks.enter(&thunk, data);
    fpu::commit(&mut data.fx, &thunks.scratch.fx);
    let mut words = [0; 4];
    words.copy_from_slice(&thunks.scratch.memory[..4]);
    super::super::run::to_bytes(&words)
}

#[test]
fn stored_environments_are_the_hosts() {
    let (mut thunks, mut random) = (thunks(), Random(2));
    for _ in 0..200 {
        let data = state(&mut random);
        let theirs = native(&mut thunks, FNSTENV32, &mut data.clone(), &[0; 32]);
        let mut ours = [0; 28];
        environment::<4>(&data.fx, &mut ours);
        assert_eq!(ours, theirs[..28]);
        let theirs = native(&mut thunks, FNSTENV16, &mut data.clone(), &[0; 32]);
        let mut ours = [0; 14];
        environment::<2>(&data.fx, &mut ours);
        assert_eq!(ours, theirs[..14]);
    }
}

#[test]
fn loaded_environments_are_the_hosts() {
    let (mut thunks, mut random) = (thunks(), Random(3));
    for _ in 0..200 {
        let mut before = state(&mut random);
        // FLDENV waits: nothing may be pending.
        let status = fpu::status(&before.fx) & !fpu::EXCEPTIONS;
        fpu::set_status(&mut before.fx, status);
        let memory: [u8; 32] = std::array::from_fn(|_| random.next() as u8);
        for wide in [true, false] {
            let (mut ours, mut theirs) = (before.clone(), before.clone());
            native(&mut thunks, if wide { FLDENV32 } else { FLDENV16 }, &mut theirs, &memory);
            if wide {
                set_environment::<4>(&mut ours.fx, &memory[..28]);
            } else {
                set_environment::<2>(&mut ours.fx, &memory[..14]);
            }
            assert_eq!(ours.fx.0[..160], theirs.fx.0[..160]);
        }
    }
}

/// FXRSTOR and FNSTCW (which does not wait) show what the host makes of an error summary that does not fit.
#[test]
fn the_error_summary_follows_from_flags_and_masks() {
    let (mut thunks, mut random) = (thunks(), Random(4));
    for _ in 0..200 {
        let mut theirs = state(&mut random);
        theirs.fx.0[3] ^= 0x80;
        theirs.fx.0[2] ^= 0x80;
        let mut ours = theirs.clone();
        native(&mut thunks, &[0xd9, 0x38], &mut theirs, &[0; 32]);
        let status = fpu::status(&ours.fx);
        fpu::set_status(&mut ours.fx, status);
        assert_eq!(fpu::status(&ours.fx), fpu::status(&theirs.fx));
    }
}

#[test]
fn initialisation_is_the_hosts() {
    let (mut thunks, mut random) = (thunks(), Random(5));
    for _ in 0..50 {
        let mut theirs = state(&mut random);
        let mut ours = theirs.clone();
        native(&mut thunks, &[0xdb, 0xe3], &mut theirs, &[0; 32]);
        fpu::initialise(&mut ours.fx);
        assert_eq!(ours.fx.0[..160], theirs.fx.0[..160]);
    }
}

#[test]
fn an_mmx_instruction_enters_mmx_mode() {
    let (mut thunks, mut random) = (thunks(), Random(6));
    for _ in 0..50 {
        let mut theirs = state(&mut random);
        let status = fpu::status(&theirs.fx) & !fpu::EXCEPTIONS;
        fpu::set_status(&mut theirs.fx, status);
        let mut ours = theirs.clone();
        native(&mut thunks, &[0x0f, 0x7e, 0xc0], &mut theirs, &[0; 32]); // movd eax, mm0
        fpu::enter_mmx(&mut ours.fx);
        assert_eq!(ours.fx.0[..160], theirs.fx.0[..160]);
    }
}

/// The plan says that they need no x87 state: here they run with it all the same.
#[test]
fn conversions_from_memory_do_not_enter_mmx_mode() {
    let mut thunks = thunks();
    for bytes in [&[0x0f, 0x2a, 0x00][..], &[0x66, 0x0f, 0x2a, 0x00]] {
        let instruction = instruction(bytes);
        let mut data = DataRegs::reset();
        data.mxcsr = 0x1f80;
        fpu::initialise(&mut data.fx);
        let mut plan = thunks.native(&instruction).expect("can run natively").1;
        assert!(!plan.fpu);
        plan.fpu = true;
        let roles = super::super::emit::Roles::new(plan.gpr_used).expect("enough registers");
        let mut placed = super::super::canonical(&instruction);
        placed.set_memory_base(iced_x86::Register::RAX + u32::from(roles.scratch));
        let encoding = thunks.encode(&placed).expect("encodes");
        let code = super::super::emit::emit(&plan, &roles, &encoding[1..1 + usize::from(encoding[0])]);
        let code = thunks.cache.push(&code.expect("emits")).expect("there is room");
        super::super::call::enter(&thunks.cache, code, &mut data, &mut thunks.scratch);
        fpu::commit(&mut data.fx, &thunks.scratch.fx);
        assert_eq!(fpu::tags(&data.fx), 0, "{bytes:x?}");
    }
}
