//! Scan codes: what a key sends in sets 1, 2 and 3, and what the controller makes of set 2.
//!
//! A key is named by its set 1 code, as in `replay::event::Input`: one byte, or 0xe0xx for extended keys;
//! 0xe11d is Pause. IBM PS/2 Hardware Interface Technical Reference, Keyboards, 1990.

/// Names of keys that do not follow the rule of their set.
pub mod key {
    /// Sends no break code.
    pub const PAUSE: u16 = 0xe11d;
    /// Sends a shift with its code.
    pub const PRINT_SCREEN: u16 = 0xe037;
    /// Control and Pause.
    pub const BREAK: u16 = 0xe046;
}

/// What the controller sends for each set 2 byte when it translates; bytes from 0x85 on pass.
#[rustfmt::skip]
const SET1_OF_SET2: [u8; 0x85] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54,
];

/// Set 3 codes of keys with one-byte names, from 0x00 on; zero: no such key.
#[rustfmt::skip]
const SET3_PLAIN: [u8; 0x59] = [
    0x00, 0x08, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d,
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x11, 0x1c, 0x1b,
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5c, 0x1a, 0x22, 0x21, 0x2a,
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7e, 0x19, 0x29, 0x14, 0x07, 0x0f, 0x17, 0x1f, 0x27,
    0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x76, 0x5f, 0x6c, 0x75, 0x7d, 0x84, 0x6b, 0x73, 0x74, 0x7c, 0x69,
    0x72, 0x7a, 0x70, 0x71, 0x57, 0x00, 0x13, 0x56, 0x5e,
];

/// Set 3 codes of extended keys.
#[rustfmt::skip]
const SET3_EXTENDED: [(u16, u8); 19] = [
    (0xe01c, 0x79), (0xe01d, 0x58), (0xe035, 0x77), (key::PRINT_SCREEN, 0x57), (0xe038, 0x39), (key::BREAK, 0x62),
    (0xe047, 0x6e), (0xe048, 0x63), (0xe049, 0x6f), (0xe04b, 0x61), (0xe04d, 0x6a), (0xe04f, 0x65),
    (0xe050, 0x60), (0xe051, 0x6d), (0xe052, 0x67), (0xe053, 0x64), (0xe05b, 0x8b), (0xe05c, 0x8c), (0xe05d, 0x8d),
];

/// Prefix of a released key in sets 2 and 3.
pub const RELEASE: u8 = 0xf0;

/// Keys that send more than a prefix and a code: name, make and break in set 2.
const SET2_SPECIAL: [(u16, &[u8], &[u8]); 3] = [
    (key::PAUSE, &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77], &[]),
    (key::PRINT_SCREEN, &[0xe0, 0x12, 0xe0, 0x7c], &[0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]),
    (key::BREAK, &[0xe0, 0x7e, 0xe0, 0xf0, 0x7e], &[]),
];

/// The same in set 1.
const SET1_SPECIAL: [(u16, &[u8], &[u8]); 3] = [
    (key::PAUSE, &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5], &[]),
    (key::PRINT_SCREEN, &[0xe0, 0x2a, 0xe0, 0x37], &[0xe0, 0xb7, 0xe0, 0xaa]),
    (key::BREAK, &[0xe0, 0x46, 0xe0, 0xc6], &[]),
];

/// Controller's translation of one byte from the keyboard. The release prefix is the caller's matter.
pub fn translate(byte: u8) -> u8 {
    SET1_OF_SET2.get(usize::from(byte)).copied().unwrap_or(byte)
}

/// Set 3 code of a key.
pub fn set3(name: u16) -> Option<u8> {
    if name == key::PAUSE {
        return Some(0x62);
    }
    let extended = SET3_EXTENDED.iter().find(|(key, _)| *key == name).map(|(_, code)| *code);
    let plain = || SET3_PLAIN.get(usize::from(name)).copied().filter(|&code| code != 0);
    extended.or_else(plain)
}

/// Appends what a key sends in `set` (1, 2 or 3); nothing for a name that is no key.
pub fn encode(set: u8, name: u16, down: bool, to: &mut Vec<u8>) {
    match set {
        1 => encode_set1(name, down, to),
        3 => {
            if let Some(code) = set3(name) {
                to.extend(if down { None } else { Some(RELEASE) });
                to.push(code);
            }
        }
        _ => encode_set2(name, down, to),
    }
}

fn special(table: &[(u16, &'static [u8], &'static [u8])], name: u16, down: bool) -> Option<&'static [u8]> {
    let row = table.iter().find(|(key, ..)| *key == name)?;
    Some(if down { row.1 } else { row.2 })
}

/// Prefix and code of a name that follows the rule.
fn split(name: u16) -> Option<(Option<u8>, u8)> {
    let code = name as u8;
    match name >> 8 {
        0 if (1..0x80).contains(&code) => Some((None, code)),
        0xe0 if (1..0x80).contains(&code) => Some((Some(0xe0), code)),
        _ => None,
    }
}

fn encode_set1(name: u16, down: bool, to: &mut Vec<u8>) {
    if let Some(bytes) = special(&SET1_SPECIAL, name, down) {
        to.extend(bytes);
    } else if let Some((prefix, code)) = split(name) {
        to.extend(prefix);
        to.push(code | if down { 0 } else { 0x80 });
    }
}

fn encode_set2(name: u16, down: bool, to: &mut Vec<u8>) {
    if let Some(bytes) = special(&SET2_SPECIAL, name, down) {
        to.extend(bytes);
        return;
    }
    // F7 and SysRq have two codes that translate to theirs; keyboards send the last.
    let code = |set1: u8| SET1_OF_SET2.iter().rposition(|&byte| byte == set1);
    if let Some((prefix, code)) = split(name).and_then(|(prefix, set1)| Some((prefix, code(set1)?))) {
        to.extend(prefix);
        to.extend(if down { None } else { Some(RELEASE) });
        to.push(code as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(set: u8, name: u16, down: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(set, name, down, &mut bytes);
        bytes
    }

    #[test]
    fn known_keys() {
        // Name, set 2 make, set 3 make, from the reference's tables.
        let table: [(u16, &[u8], u8); 12] = [
            (0x01, &[0x76], 0x08),         // Escape
            (0x1e, &[0x1c], 0x1c),         // A
            (0x1c, &[0x5a], 0x5a),         // Enter
            (0x2b, &[0x5d], 0x5c),         // backslash
            (0x3b, &[0x05], 0x07),         // F1
            (0x41, &[0x83], 0x37),         // F7
            (0x58, &[0x07], 0x5e),         // F12
            (0x56, &[0x61], 0x13),         // key 102
            (0x4a, &[0x7b], 0x84),         // keypad minus
            (0xe01d, &[0xe0, 0x14], 0x58), // right control
            (0xe048, &[0xe0, 0x75], 0x63), // up
            (0xe05b, &[0xe0, 0x1f], 0x8b), // left GUI
        ];
        for (name, set2, set3) in table {
            assert_eq!(sent(2, name, true), set2, "{name:#x}");
            assert_eq!(sent(3, name, true), [set3], "{name:#x}");
            assert_eq!(sent(3, name, false), [0xf0, set3], "{name:#x}");
        }
        assert_eq!(sent(2, 0xe048, false), [0xe0, 0xf0, 0x75]);
        assert_eq!(sent(1, 0xe048, false), [0xe0, 0xc8]);
        assert!(sent(2, 0, true).is_empty());
        assert!(sent(2, 0xffff, true).is_empty());
        assert!(sent(2, 0xe100, false).is_empty());
    }

    #[test]
    fn translated_set_2_is_set_1() {
        let names = (1..0x59).chain((0xe001..0xe060).chain([key::PAUSE])).filter(|&name| name != 0x55);
        for name in names {
            for down in [true, false] {
                let mut release = 0;
                let mut translated = Vec::new();
                for byte in sent(2, name, down) {
                    if byte == RELEASE {
                        release = 0x80;
                    } else {
                        translated.push(translate(byte) | release);
                        release = 0;
                    }
                }
                assert_eq!(translated, sent(1, name, down), "{name:#x} {down}");
            }
        }
    }
}
