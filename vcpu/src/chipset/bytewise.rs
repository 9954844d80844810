//! Wide accesses to 8-bit devices: the bus makes byte accesses of them, in rising address order.

/// Reads `size` bytes one by one; the lowest address is the lowest byte.
pub fn read(offset: u64, size: u8, mut byte: impl FnMut(u64) -> u8) -> u64 {
    let count = u64::from(size.min(8));
    (0..count).fold(0, |value, index| value | u64::from(byte(offset.wrapping_add(index))) << (8 * index))
}

/// Writes `size` bytes one by one; the lowest address gets the lowest byte.
pub fn write(offset: u64, size: u8, value: u64, mut byte: impl FnMut(u64, u8)) {
    for index in 0..u64::from(size.min(8)) {
        byte(offset.wrapping_add(index), (value >> (8 * index)) as u8);
    }
}

/// The low `size` bytes of a word.
pub fn truncate(value: u64, size: u8) -> u64 {
    if size >= 8 { value } else { value & ((1 << (8 * u32::from(size))) - 1) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lowest_address_is_lowest_byte() {
        assert_eq!(super::read(0x10, 4, |offset| offset as u8), 0x1312_1110);
        let mut seen = Vec::new();
        super::write(5, 2, 0xbbaa, |offset, byte| seen.push((offset, byte)));
        assert_eq!(seen, [(5, 0xaa), (6, 0xbb)]);
        assert_eq!(super::truncate(0x1234_5678_9abc, 2), 0x9abc);
        assert_eq!(super::truncate(u64::MAX, 8), u64::MAX);
    }
}
