//! Saved, loaded, saved again.

use super::*;
use crate::run::connect::Outside;
use crate::run::consoles::Consoles;
use replay::machine::Machine as Description;
use replay::setup::{Mode, VcpuSetup};
use std::fs::File;
use std::io::{Read, Seek};

const CODE: u64 = 0x1000;
const PAGES: u64 = 0x10_0000;

/// A machine without devices that runs `code` in real mode.
fn machine(code: &[u8]) -> Machine {
    let example = replay::manifest::example().machine;
    let description = Description {
        ram_bytes: 4 << 20,
        devices: vec![],
        functions: vec![],
        uarts: vec![None],
        debug_console: None,
        ..example
    };
    let setup = VcpuSetup::alone(description, Mode::Plain);
    let mut machine = Machine::bare(&setup, Outside::from(Consoles::default())).unwrap();
    machine.core.mem.ram.write_bytes(CODE, code);
    let cpu = &mut machine.core.cpu;
    cpu.segments[crate::state::seg::CS].base = 0;
    cpu.segments[crate::state::seg::CS].selector = 0;
    cpu.rip = CODE;
    machine.core.mode_changed();
    machine
}

/// again: inc eax; inc word [0x2000]; mov [bx + 0x3000], ax; add bx, 8; jmp again.
const COUNTER: &[u8] =
    &[0x66, 0x40, 0xff, 0x06, 0x00, 0x20, 0x89, 0x87, 0x00, 0x30, 0x83, 0xc3, 0x08, 0xeb, 0xf1];

fn run(machine: &mut Machine, to: u64) {
    while machine.icount() < to {
        machine.advance_timers();
        machine.run(to);
    }
}

fn contents(files: &Files) -> (Vec<u8>, Vec<u8>) {
    let read = |mut file: &File| {
        let mut bytes = vec![];
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    (read(&files.state), read(&files.pages))
}

/// Saves all and waits until every page is copied.
fn save(machine: &mut Machine, full: bool) -> Files {
    let files = machine.begin_save(full, None).unwrap();
    machine.copy_some(usize::MAX).unwrap().unwrap();
    files
}

/// The same files for one more reader.
fn twin(files: &Files) -> Files {
    Files { state: files.state.try_clone().unwrap(), pages: files.pages.try_clone().unwrap() }
}

/// Takes a state at once.
fn load(machine: &mut Machine, files: &Files) -> Result<Handover, Refused> {
    machine.begin_load(twin(files)).unwrap()?;
    assert!(machine.compare_some(usize::MAX).unwrap());
    Ok(machine.finish_load(&[]).unwrap()?.handover)
}

#[test]
fn saved_loaded_and_saved_again_the_bytes_are_equal_and_so_is_the_future() {
    let mut one = machine(COUNTER);
    run(&mut one, 10_000);
    let mut files = save(&mut one, true);
    // The other machine has done other things.
    let mut other = machine(&[0x90, 0xeb, 0xfd]);
    other.core.mem.ram.write_bytes(PAGES, &[7; 0x5000]);
    run(&mut other, 777);
    let handover = load(&mut other, &files).unwrap();
    assert_eq!((handover.icount, other.icount()), (10_000, 10_000));
    let mut again = save(&mut other, true);
    let (first, second) = (files.read().unwrap(), again.read().unwrap());
    assert_eq!(first.1, second.1, "the state");
    // Pages of zeros may be listed by one and not by the other.
    let pages = |files: &Files, handover: &Handover| {
        let bytes = contents(files).1;
        let pages = handover.pages.iter().copied().zip(bytes.chunks_exact(4096).map(<[u8]>::to_vec));
        pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)).collect::<Vec<_>>()
    };
    assert_eq!(pages(&files, &first.0), pages(&again, &second.0));
    assert_eq!(one.digests().unwrap(), other.digests().unwrap());
    for to in [10_001, 12_345, 30_000] {
        run(&mut one, to);
        run(&mut other, to);
        assert_eq!(one.digests().unwrap(), other.digests().unwrap(), "at {to}");
    }
}

#[test]
fn ram_is_as_it_was_at_the_save_though_the_guest_writes_on() {
    let mut still = machine(COUNTER);
    run(&mut still, 20_000);
    let wanted = contents(&save(&mut still, true)).1;
    let mut one = machine(COUNTER);
    run(&mut one, 20_000);
    let files = one.begin_save(true, None).unwrap();
    let mut to = 20_000;
    while one.copy_some(1).is_none() {
        to += 300;
        run(&mut one, to);
    }
    assert!(to > 20_300, "the guest ran while pages were copied");
    assert_eq!(contents(&files).1, wanted);
}

#[test]
fn a_second_save_has_only_what_was_written_since() {
    let mut one = machine(COUNTER);
    run(&mut one, 20_000);
    let (all, _) = save(&mut one, false).read().unwrap();
    assert!(!all.is_partial && all.pages.len() > 5);
    run(&mut one, 20_100);
    let (some, _) = save(&mut one, false).read().unwrap();
    assert!(some.is_partial && (1..4).contains(&some.pages.len()), "{:?}", some.pages);
    let (none, _) = save(&mut one, false).read().unwrap();
    assert_eq!((none.is_partial, none.pages.len()), (true, 0));
    assert_eq!(save(&mut one, true).read().unwrap().0.pages.len(), all.pages.len());
}

#[test]
fn a_load_while_the_machine_runs_looks_again_only_at_what_was_written() {
    let mut one = machine(COUNTER);
    one.core.mem.ram.write_bytes(PAGES, &[7; 0x20_0000]);
    run(&mut one, 20_000);
    let files = save(&mut one, true);
    let wanted = one.digests().unwrap();
    // Pages that the state has not, pages that differ, and all the while the guest writes.
    one.core.mem.ram.write_bytes(PAGES + 0x20_0000, &[9; 0x3000]);
    one.core.mem.ram.write_bytes(PAGES + 0x1000, &[1; 0x2000]);
    let mut to = one.icount();
    one.begin_load(twin(&files)).unwrap().unwrap();
    while !one.compare_some(10).unwrap() {
        to += 50;
        run(&mut one, to);
    }
    assert!(to > 21_000, "the guest ran while pages were compared");
    one.core.mem.ram.write_bytes(PAGES + 0x10_0000, &[2; 0x1000]);
    let taken = one.finish_load(&[]).unwrap().unwrap();
    assert!((7..40).contains(&taken.pages), "{}", taken.pages);
    assert_eq!(one.digests().unwrap(), wanted);
    // RAM is replaced in the middle, as by a reset: nothing that was compared counts.
    one.begin_load(twin(&files)).unwrap().unwrap();
    assert!(one.compare_some(usize::MAX).unwrap());
    let touched = one.core.mem.ram.touched().unwrap();
    one.incoming.as_mut().unwrap().begin_again(touched);
    assert!(!one.compare_some(1).unwrap());
    assert!(one.compare_some(usize::MAX).unwrap());
    one.finish_load(&[]).unwrap().unwrap();
    assert_eq!(one.digests().unwrap(), wanted);
}

#[test]
fn what_is_not_a_state_of_this_machine_changes_nothing() {
    let mut one = machine(COUNTER);
    run(&mut one, 5000);
    let before = one.digests().unwrap();
    let mut good = save(&mut one, true);
    let (handover, sections) = good.read().unwrap();
    let half = sections[0][..sections[0].len() / 2].to_vec();
    let bad = [
        (handover.clone(), vec![]),
        (handover.clone(), vec![half]),
        (handover.clone(), [sections.clone(), vec![vec![1]]].concat()),
        (Handover { pages: vec![1 << 40], ..handover.clone() }, sections.clone()),
        (Handover { is_partial: true, ..handover.clone() }, sections.clone()),
    ];
    for (number, (handover, sections)) in bad.into_iter().enumerate() {
        let files = Files::new(&handover, &sections).unwrap();
        let why = load(&mut one, &files).unwrap_err();
        assert!(!why.is_empty() && !why.contains('\n'), "{number}: {why}");
        assert_eq!(one.digests().unwrap(), before, "{number}");
    }
}
