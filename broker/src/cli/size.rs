//! Numbers and sizes as QEMU's options write them.

/// Largest guest RAM.
pub const RAM_BYTES_MAX: u64 = 64 << 30;

/// A number in decimal, or in hexadecimal with `0x`.
pub fn parse_number(text: &str) -> Option<u64> {
    let digits_only = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_alphanumeric());
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if digits_only(hex) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if digits_only(text) => text.parse().ok(),
        None => None,
    }
}

/// A size with an optional suffix `b`, `k`, `M`, `G` or `T` and an optional fraction (`1.5G`); without a
/// suffix it counts in `unit`.
pub fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (at, 'b' | 'B') => (&text[..at], 1),
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        (at, 't' | 'T') => (&text[..at], 1 << 40),
        _ => (text, unit),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let bytes = parse_number(whole)?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(bytes);
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let part = u128::from(unit) * u128::from(fraction.parse::<u64>().ok()?) / scale;
    bytes.checked_add(part as u64)
}

/// A size for people: `256 MiB`.
pub fn display_size(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512", Some(512 << 20)),
            ("512M", Some(512 << 20)),
            ("4G", Some(4 << 30)),
            ("1.5g", Some(3 << 29)),
            ("4096b", Some(4096)),
            ("0x10k", Some(16 << 10)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("+1", None),
            ("1.5.5", None),
            ("99999999999999T", None),
        ] {
            assert_eq!(parse_size(text, 1 << 20), bytes, "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(display_size(320 << 20), "320 MiB");
        assert_eq!(display_size(4 << 30), "4 GiB");
        assert_eq!(display_size(4097), "4097 bytes");
    }
}
