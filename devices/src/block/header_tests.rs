//! Tests of reading headers: a header made by hand, and every way to damage it.

use super::*;
use std::io::Write;

/// A version 3 header with a backing file, in an image of four clusters of 512 bytes.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &MAGIC);
    put(4, &3u32.to_be_bytes());
    put(8, &200u64.to_be_bytes());
    put(16, &4u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &1024u64.to_be_bytes());
    put(48, &512u64.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(104, &0x6803_f857u32.to_be_bytes());
    put(108, &3u32.to_be_bytes());
    put(120, &BACKING_FORMAT.to_be_bytes());
    put(124, &3u32.to_be_bytes());
    put(128, b"raw");
    put(200, b"base");
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<Header, String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let header = read(&file, bytes.len() as u64)?;
    header.check_complete(&file, bytes.len() as u64)?;
    Ok(header)
}

#[test]
fn the_backing_file_and_its_format() {
    let header = read_bytes(&image()).unwrap();
    let backing = Backing { name: "base".into(), format: Some("raw".into()) };
    assert_eq!(header.backing, Some(backing));
    let mut without = image();
    without[120..124].fill(0);
    assert_eq!(read_bytes(&without).unwrap().backing.unwrap().format, None);
    without[8..16].fill(0);
    assert_eq!(read_bytes(&without).unwrap().backing, None);
    let mut old = image();
    old[4..8].copy_from_slice(&2u32.to_be_bytes());
    // In version 2 these bytes are not a header's any more.
    old[72..104].fill(0);
    assert_eq!(read_bytes(&old).unwrap().backing.unwrap().format, None);
}

#[test]
fn damage_is_named() {
    for (at, bytes, message) in [
        (0, &b"QFI"[..], ""),
        (1, b"x", "it is not a qcow2 image"),
        (7, &[9], "version 9"),
        (35, &[1], "encrypted (AES)"),
        (35, &[2], "encrypted (LUKS)"),
        (79, &[1], "not closed cleanly"),
        (79, &[4], "in another file"),
        (79, &[8], "zstd"),
        (79, &[16], "extended L2"),
        (79, &[32], "unknown incompatible features (0x20)"),
        (23, &[8], "clusters of 2^8"),
        (23, &[40], "clusters of 2^40"),
        (36, &[1], "tables are too large"),
        (56, &[1], "tables are too large"),
        (40, &[0xff; 8], "first-level table lies beyond"),
        (54, &[9], "reference table lies beyond"),
        (16, &[1], "is not in its header"),
        (8, &[0xff; 8], "is not in its header"),
        (200, &[0xff], "not UTF-8"),
        // A second-level table beyond the end of the file.
        (1024, &[0x80, 0, 0, 0, 0, 0, 8, 0], "truncated"),
        // A second-level table that is there, whose first entry is the header's magic number: far away.
        (1024, &[0x80, 0, 0, 0, 0, 0, 0, 0], ""),
        (1024, &[0x80, 0, 0, 0, 0, 0, 6, 0], ""),
    ] {
        let mut image = image();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        match read_bytes(&image) {
            Ok(_) => assert_eq!(message, "", "{at}: {bytes:x?}"),
            Err(text) => assert!(!message.is_empty() && text.contains(message), "{at}: {text}"),
        }
    }
    for length in [0, 71] {
        assert!(read_bytes(&image()[..length]).unwrap_err().contains("less than a qcow2 header"));
    }
    assert!(read_bytes(&image()[..300]).unwrap_err().contains("truncated"));
}

#[test]
fn data_beyond_the_end() {
    let with_entry = |entry: u64| {
        let mut image = image();
        image[1024..1032].copy_from_slice(&(0x600u64 | 1 << 63).to_be_bytes());
        image[0x600..0x608].copy_from_slice(&entry.to_be_bytes());
        read_bytes(&image)
    };
    assert!(with_entry(0x400 | 1 << 63).is_ok());
    assert!(with_entry(0x800 | 1 << 63).unwrap_err().contains("truncated"));
    assert!(with_entry(0x800 | ZERO).is_ok(), "zeros need no data");
    assert!(with_entry(0x7ff | COMPRESSED).is_ok());
    assert!(with_entry(0x800 | COMPRESSED).unwrap_err().contains("truncated"));
    assert!(with_entry(0x400 | COMPRESSED | 1 << 61).is_ok(), "the length is not a part of the place");
}

#[test]
fn no_damage_is_too_much() {
    let mut random = 1u64;
    for _ in 0..20_000 {
        let mut image = image();
        for _ in 0..4 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            image[(random >> 33) as usize % 240] = (random >> 56) as u8;
        }
        // Whatever it says, it says it.
        let _ = read_bytes(&image);
    }
}

#[test]
fn pointers_and_the_blocks_that_count_them() {
    let mut bytes = image();
    // Counts of 16 bits: a block of 512 bytes counts 256 clusters. One block, at 0x200, then a place for more.
    bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
    bytes[512..520].copy_from_slice(&0x600u64.to_be_bytes());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let mut layout = Layout::read(&file).unwrap();
    assert!(layout.is_in_tables(1024, 8), "the first-level table has one entry");
    assert!(!layout.is_in_tables(1032, 8));
    assert!(layout.is_in_tables(512 + 504, 8) && layout.is_in_tables(500, 13));
    assert!(!layout.is_in_tables(500, 12));
    let last_counted = 255 << 9;
    assert_eq!(layout.enter(1024, 1 << 63 | last_counted), Some(0x600));
    assert_eq!(layout.enter(1024, 1 << 63 | 256 << 9), None, "no block counts it");
    assert_eq!(layout.enter(1024, 0), None);
    assert_eq!(layout.enter(520, 0x800), Some(0x600), "a new block in a place that the first one counts");
    assert_eq!(layout.enter(1024, 1 << 63 | 256 << 9), Some(0x800));
    assert_eq!(layout.enter(528, 512 << 9), Some(512 << 9), "a block that counts itself");
    assert_eq!(layout.enter(1024, u64::MAX), None);
}
