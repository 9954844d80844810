//! Drivers that lie: the device may end with one line, but neither crash nor hang.

use crate::driver::{Driver, EVENT_IDX, MRG_RXBUF, NEXT, RECEIVE, TRANSMIT, WRITE};
use crate::lab::{Device, turn};
use nix::sys::signal::Signal;

const INDIRECT: u16 = 4;
const ROUNDS: u64 = 40;

/// SplitMix64.
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Seeded by NET_SEED, or anew for each process; the seed is printed.
    pub fn from_environment() -> Dice {
        let state = match std::env::var("NET_SEED") {
            Ok(seed) => seed.parse().expect("NET_SEED is a number"),
            Err(_) => u64::from(std::process::id()),
        };
        println!("NET_SEED={state}");
        Dice { state }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn random_descriptor(dice: &mut Dice, driver: &Driver, queue: usize) {
    let own = driver.queues[queue].buffer(dice.below(64) as u16);
    let address = match dice.below(8) {
        0 => dice.next(),
        1 => (16 << 20) - dice.below(100),
        2 => dice.below(0x2_0000),
        _ => own,
    };
    let length = match dice.below(8) {
        0 => dice.next() as u32,
        1 => 0,
        2 => 1 + dice.below(70_000) as u32,
        _ => dice.below(2048) as u32,
    };
    let usual = if queue == RECEIVE { WRITE } else { 0 };
    let flags = dice.one_of(&[usual, usual, usual, usual | NEXT, usual | NEXT, INDIRECT, WRITE, 0xffff]);
    let next = if dice.below(3) == 0 { 0xffff } else { dice.below(16) as u16 };
    driver.describe(queue, dice.below(16) as u16, (address, length), flags, next);
}

#[test]
fn random_rings() {
    let _turn = turn();
    let mut dice = Dice::from_environment();
    for round in 0..ROUNDS {
        let kind = dice.one_of(&["user,ipv6=off", "none"]);
        let mut device = Device::net(kind);
        let features = dice.one_of(&[0, MRG_RXBUF, EVENT_IDX, MRG_RXBUF | EVENT_IDX, 1]);
        let mut driver = Driver::connect(device.socket(), features, &[16, 16]);
        for _ in 0..dice.below(400) {
            let queue = dice.one_of(&[RECEIVE, TRANSMIT]);
            match dice.below(8) {
                0 => driver.kick(queue),
                1..4 => {
                    let head = if dice.below(50) == 0 { dice.next() as u16 } else { dice.below(16) as u16 };
                    driver.offer(queue, head);
                }
                _ => random_descriptor(&mut dice, &driver, queue),
            }
        }
        driver.kick(RECEIVE);
        driver.kick(TRANSMIT);
        device.signal(Signal::SIGTERM);
        let (status, text) = device.wait();
        let expected = match status {
            Some(0) => true,
            // What is wrong with the ring, in one line.
            Some(1) => text.lines().filter(|line| line.contains("driver")).count() == 1,
            _ => false,
        };
        assert!(expected, "round {round}: {status:?} {text}");
        assert!(!text.contains("panicked"), "round {round}: {text}");
    }
}
