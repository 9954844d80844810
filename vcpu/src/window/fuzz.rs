//! Bytes that a back-end writes into its window: anywhere in the used ring and the buffers, at any moment.
//!
//! Whatever they are, nothing panics: a request comes back with its own tag and with bytes that are in its buffer, or the
//! back-end is refused by name.

use super::memory::WindowMemory;
use super::requests::{Framing, Layout, QueueShape, RequestQueue, Room};
use crate::virtio::fuzz::Numbers;
use std::collections::BTreeMap;

const SHAPE: QueueShape = QueueShape { size: 8, arena_bytes: 1 << 14, signals: true };

/// One run.
pub fn back_end_side(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let layout = Layout::new(0, &SHAPE);
    let memory = WindowMemory::new("fuzz", layout.end).expect("memory for a window");
    let mut queue = RequestQueue::new("fuzz", 0, SHAPE, layout);
    let mut indirect = numbers.next() & 1 != 0;
    queue.reset(&memory, indirect);
    // Buffer sizes by tag.
    let mut asked = BTreeMap::new();
    let mut next_tag = 0u32;
    while !numbers.is_empty() {
        match numbers.next() % 8 {
            0..=2 => {
                let (out, into) = (usize::from(numbers.next()), usize::from(numbers.next()));
                if out + into > 0 && queue.room(out, into) == Room::Now {
                    queue.submit(&memory, next_tag, &vec![1; out], into, Framing { head: 16, tail: 1 });
                    queue.publish(&memory);
                    asked.insert(next_tag, into);
                    next_tag += 1;
                }
            }
            3 => {
                let at = numbers.word() as usize % (memory.size() - 4);
                memory.write(at, &numbers.word().to_le_bytes());
            }
            4 => memory.write(layout.used + usize::from(numbers.next()) % 76, &[numbers.next()]),
            // An answer as it should be, or nearly.
            5 => {
                let [low, high] = [2, 3].map(|offset| {
                    let mut byte = [0];
                    memory.read(layout.used + offset, &mut byte);
                    byte[0]
                });
                let used = u16::from_le_bytes([low, high]);
                let element = layout.used + 4 + 8 * usize::from(used % SHAPE.size);
                let words = [u32::from(numbers.next() % 9), u32::from(numbers.next())];
                memory.write(element, &words.map(u32::to_le_bytes).concat());
                memory.write(layout.used + 2, &used.wrapping_add(1).to_le_bytes());
            }
            6 => {
                // A back-end that lacks what the one before it had is not taken.
                indirect |= numbers.next() & 1 != 0;
                queue.submit_again(&memory, indirect);
            }
            _ => match queue.take(&memory) {
                Ok(None) => {}
                Ok(Some(done)) => {
                    let into = asked.remove(&done.tag).expect("each request comes back once");
                    assert!(done.bytes.len() == into && done.length as usize <= into, "{done:?}");
                }
                Err(error) => {
                    assert!(error.to_string().starts_with("fuzz: queue 0: used "), "{error}");
                    return;
                }
            },
        }
        assert_eq!(queue.outstanding(), asked.len(), "what is outstanding");
    }
}

/// Runs a target on random bytes for as many seconds as `REPRISE_FUZZ_SECONDS` says, or five; prints the seed of each input that fails.
#[cfg(test)]
pub(crate) fn run_for_a_while(first_seed: u64, length_max: usize, target: fn(&[u8])) {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    let seconds = std::env::var("REPRISE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut seed = first_seed;
    while std::time::Instant::now() < end {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = vec![0; dice.next_u32() as usize % length_max];
        dice.fill_bytes(&mut bytes);
        let result = std::panic::catch_unwind(|| target(&bytes));
        assert!(result.is_ok(), "the input of seed {seed:#x} fails");
        seed += 1;
    }
    println!("{} inputs", seed - first_seed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_back_ends() {
        run_for_a_while(0x9e57_1001, 2048, back_end_side);
    }
}
