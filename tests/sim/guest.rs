//! The simulated machine's program: `guest.s` as a multiboot image, and scripts for it.

use crate::dice::Dice;
use std::arch::global_asm;

global_asm!(include_str!("guest.s"), ".code64", ".text", options(att_syntax));

unsafe extern "C" {
    static sim_guest_start: u8;
    static sim_guest_end: u8;
}

/// The image, as a file for `-kernel` holds it.
pub fn image() -> &'static [u8] {
    let (start, end) = (&raw const sim_guest_start, &raw const sim_guest_end);
    // SAFETY: guest.s puts both labels into one constant section, the start before the end.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// Operations that a script may use at any place, as often as they stand here.
pub const COMMON: &[u8] = b"cccclhhhiiijpprtoouuggffwwssnmmbbeeddkq";
/// Operations that restart the machine.
pub const RESETS: &[u8] = b"ABCD";
/// Operations that end the run in another way than by power-off.
const ENDS: &[u8] = b"EF";

/// A script: some common operations, now and then a reset, and an end.
pub fn script(dice: &mut Dice) -> String {
    let mut script: Vec<u8> = (0..dice.below(14)).map(|_| dice.pick(COMMON)).collect();
    if dice.one_in(4) {
        script.push(dice.pick(RESETS));
        script.extend((0..dice.below(5)).map(|_| dice.pick(COMMON)));
    }
    if dice.one_in(6) {
        script.push(dice.pick(ENDS));
    } else if dice.one_in(400) {
        script.push(b'G');
    }
    String::from_utf8(script).expect("letters")
}
