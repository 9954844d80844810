//! How values become bytes: in the lane, in the log, in saved states.
//!
//! This is the only user of bincode, so that another codec could take its place in one file. bincode 2.0.1 is its last
//! working release; it is pinned, and nothing it reads is believed: lengths are bounded before memory is allocated.
//!
//! Wire form: bincode 2 "standard": integers above 250 as a marker byte and 2, 4, 8 or 16 little-endian bytes, signed
//! ones zigzag, sequences with their length in front, enums with their variant's index in front.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The longest encoding of one value, in bytes, that is accepted or sent.
pub const ENCODED_BYTES_MAX: usize = 16 << 20;

/// bincode counts an integer with its full width, up to 8 bytes, though it may take one on the wire.
const CLAIMED_BYTES_MAX: usize = 8 * ENCODED_BYTES_MAX;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<CLAIMED_BYTES_MAX>,
> = bincode::config::standard().with_limit::<CLAIMED_BYTES_MAX>();

/// Bytes that are not the encoding of a value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a valid {type_name}: {reason}")]
pub struct CodecError {
    /// Last part of the Rust name of the type that was expected.
    pub type_name: &'static str,
    /// What the decoder met.
    pub reason: String,
}

/// Encodes a value.
///
/// # Panics
/// On a type whose `Serialize` can fail (a path that is not UTF-8): such types do not belong on a wire.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes);
    bytes
}

/// Encodes a value and appends it to `bytes`.
///
/// # Panics
/// As [`encode`].
pub fn encode_into<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, bytes, CONFIG)
        .expect("a plain type encodes, and a Vec takes every byte");
}

/// Decodes one value from the front of `bytes`; returns it and the number of bytes it took.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|error| fail::<T>(error.to_string()))
}

/// Decodes one value that takes all of `bytes`.
pub fn decode_all<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = decode(bytes)?;
    if used != bytes.len() {
        return Err(fail::<T>(format!("{} bytes left over", bytes.len() - used)));
    }
    Ok(value)
}

fn fail<T>(reason: String) -> CodecError {
    let name = std::any::type_name::<T>();
    CodecError { type_name: name.rsplit("::").next().unwrap_or(name), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn the_wire_form_is_bincode_2_standard() {
        // bincode's specification: 251 marks a u16, 252 a u32; sequences carry their length; signed is zigzag.
        assert_eq!(encode(&250u64), [250]);
        assert_eq!(encode(&251u64), [251, 251, 0]);
        assert_eq!(encode(&0x1_0000u64), [252, 0, 0, 1, 0]);
        assert_eq!(encode(&-1i32), [1]);
        assert_eq!(encode(&vec![7u8, 8]), [2, 7, 8]);
        assert_eq!(encode(&Event::PowerButton), [3]);
    }

    #[test]
    fn decode_says_how_much_it_took() {
        assert_eq!(decode::<u64>(&[5, 6, 7]).unwrap(), (5, 1));
        assert_eq!(decode_all::<u64>(&[5, 6, 7]).unwrap_err().reason, "2 bytes left over");
    }

    #[test]
    fn a_forged_length_is_refused_without_allocating() {
        // A sequence that claims 2^40 elements.
        let forged = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(decode::<Vec<u8>>(&forged).is_err());
        assert!(decode::<Vec<Event>>(&forged).is_err());
    }

    #[test]
    fn what_is_as_long_as_allowed_decodes() {
        let numbers = vec![1u64; ENCODED_BYTES_MAX - 5];
        let bytes = encode(&numbers);
        assert_eq!(bytes.len(), ENCODED_BYTES_MAX);
        assert_eq!(decode_all::<Vec<u64>>(&bytes).unwrap().len(), numbers.len());
    }

    #[test]
    fn an_unknown_variant_is_an_error() {
        assert_eq!(decode::<Event>(&[200]).unwrap_err().type_name, "Event");
    }
}
