//! A machine's whole state but for RAM, as bytes: what a snapshot on disk holds.
//!
//! The bytes are those of plain structs, so they are of use to the same build only (`replay::manifest::build`); whoever changes one
//! of the structs raises `REVISION`. The first section is everything but the answers of back-ends that the guest has not
//! got; each of those has a section of its own.

use super::state::SavedState;
use crate::chipset::rtc::Look;
use crate::virtio::Tag;
use crate::virtio::resume::Undelivered;
use crate::window::requests::Done;
use replay::codec;
use replay::event::DeviceIndex;
use serde::{Deserialize, Serialize};

/// Everything that decides how a machine goes on, but for RAM.
#[derive(Debug)]
pub struct WholeState {
    /// CPU, chipset, virtio functions, clock.
    pub state: SavedState,
    /// The guest was about to read a time that follows the host's clock.
    pub rtc_look: Option<Look>,
    /// Answers on their way to the guest.
    pub undelivered: Vec<Undelivered>,
}

#[derive(Serialize, Deserialize)]
struct First {
    state: SavedState,
    rtc_look: Option<Look>,
    answers: Vec<Answer>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    device: DeviceIndex,
    queue: u16,
    head: u16,
    life: u32,
    number: u64,
    length: u32,
}

impl WholeState {
    /// The sections of a snapshot.
    pub fn to_sections(self) -> Vec<Vec<u8>> {
        let answer = |(device, done): &Undelivered| {
            let Tag { queue, head, life, number } = done.tag;
            Answer { device: *device, queue, head, life, number, length: done.length }
        };
        let answers = self.undelivered.iter().map(answer).collect();
        let first = First { state: self.state, rtc_look: self.rtc_look, answers };
        let mut sections = vec![codec::encode(&first)];
        sections.extend(self.undelivered.into_iter().map(|(_, done)| done.bytes));
        sections
    }

    /// Reads them; the error is a line for the user.
    pub fn from_sections(mut sections: Vec<Vec<u8>>) -> Result<WholeState, String> {
        if sections.is_empty() {
            return Err("the snapshot has no state".into());
        }
        let contents = sections.split_off(1);
        let first: First = codec::decode_all(&sections[0]).map_err(|error| error.to_string())?;
        if first.answers.len() != contents.len() {
            return Err(format!(
                "{} answers of back-ends and {} contents",
                first.answers.len(),
                contents.len()
            ));
        }
        let undelivered = first.answers.iter().zip(contents).map(|(answer, bytes)| {
            let &Answer { device, queue, head, life, number, length } = answer;
            (device, Done { tag: Tag { queue, head, life, number }, length, bytes })
        });
        Ok(WholeState { undelivered: undelivered.collect(), state: first.state, rtc_look: first.rtc_look })
    }
}
