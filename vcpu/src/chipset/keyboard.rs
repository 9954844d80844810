//! A PS/2 keyboard: commands, scan code sets, typematic repeat.
//!
//! It speaks to the controller in bytes; `i8042` carries them. IBM PS/2 Hardware Interface Technical
//! Reference, Keyboards, 1990.

use super::scancodes::{self, key};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes of keys that may wait, as in the reference.
const QUEUE_MAX: usize = 16;
/// Bytes of answers that may wait; a host that sends commands without reading loses what is more.
const ANSWERS_MAX: usize = 16;
/// Key events that may wait for room in the queue.
const TYPED_MAX: usize = 1024;
const MILLISECOND_NS: u64 = 1_000_000;
/// Identification of an MF2 keyboard.
const IDENT: [u8; 2] = [0xab, 0x83];
/// 500 ms, then 10.9 characters a second.
const TYPEMATIC_DEFAULT: u8 = 0x2b;

mod reply {
    pub const SELF_TEST_PASSED: u8 = 0xaa;
    pub const ECHO: u8 = 0xee;
    pub const ACK: u8 = 0xfa;
    pub const RESEND: u8 = 0xfe;
}

mod command {
    pub const SET_LEDS: u8 = 0xed;
    pub const ECHO: u8 = 0xee;
    pub const SCAN_CODE_SET: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const SET_TYPEMATIC: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const SET_DEFAULTS: u8 = 0xf6;
    /// Set 3: the kind of all keys.
    pub const ALL_TYPEMATIC: u8 = 0xf7;
    pub const ALL_MAKE_BREAK: u8 = 0xf8;
    pub const ALL_MAKE: u8 = 0xf9;
    pub const ALL_TYPEMATIC_MAKE_BREAK: u8 = 0xfa;
    /// Set 3: the kind of the keys that follow.
    pub const KEY_TYPEMATIC: u8 = 0xfb;
    pub const KEY_MAKE_BREAK: u8 = 0xfc;
    pub const KEY_MAKE: u8 = 0xfd;
    pub const RESEND: u8 = 0xfe;
    pub const RESET: u8 = 0xff;
}

/// What a key sends beside its make code, in set 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyKind {
    repeats: bool,
    releases: bool,
}

impl KeyKind {
    const TYPEMATIC: KeyKind = KeyKind { repeats: true, releases: false };
    const MAKE_BREAK: KeyKind = KeyKind { repeats: false, releases: true };
    const MAKE: KeyKind = KeyKind { repeats: false, releases: false };
    const TYPEMATIC_MAKE_BREAK: KeyKind = KeyKind { repeats: true, releases: true };
}

/// The keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyboard {
    /// Answers to commands: sent before keys.
    answers: VecDeque<u8>,
    queue: VecDeque<u8>,
    /// Keys pressed and released by the user that are not in the queue yet.
    typed: VecDeque<(u16, bool)>,
    /// The command whose argument comes next.
    awaits: Option<u8>,
    last_sent: u8,
    scanning: bool,
    set: u8,
    leds: u8,
    typematic: u8,
    /// By set 3 code.
    kinds: Vec<KeyKind>,
    /// The key that repeats, and when next.
    repeat: Option<(u16, Vtime)>,
}

impl Default for Keyboard {
    fn default() -> Keyboard {
        Keyboard::new()
    }
}

impl Keyboard {
    /// A keyboard that has passed its self-test before anybody looked.
    pub fn new() -> Keyboard {
        Keyboard {
            answers: VecDeque::new(),
            queue: VecDeque::new(),
            typed: VecDeque::new(),
            awaits: None,
            last_sent: 0,
            scanning: true,
            set: 2,
            leds: 0,
            typematic: TYPEMATIC_DEFAULT,
            kinds: default_kinds(),
            repeat: None,
        }
    }

    /// A byte from the host.
    pub fn command(&mut self, byte: u8) {
        if let Some(command) = self.awaits.take() {
            self.argument(command, byte);
            return;
        }
        match byte {
            command::SET_LEDS
            | command::SCAN_CODE_SET
            | command::SET_TYPEMATIC
            | command::KEY_TYPEMATIC
            | command::KEY_MAKE_BREAK
            | command::KEY_MAKE => {
                self.awaits = Some(byte);
                self.answer(&[reply::ACK]);
            }
            command::ECHO => self.answer(&[reply::ECHO]),
            command::IDENTIFY => self.answer(&[reply::ACK, IDENT[0], IDENT[1]]),
            command::ENABLE => {
                self.clear();
                self.scanning = true;
                self.answer(&[reply::ACK]);
            }
            command::DISABLE | command::SET_DEFAULTS => {
                self.set_defaults();
                self.scanning = byte == command::SET_DEFAULTS && self.scanning;
                self.answer(&[reply::ACK]);
            }
            command::ALL_TYPEMATIC => self.set_all_kinds(KeyKind::TYPEMATIC),
            command::ALL_MAKE_BREAK => self.set_all_kinds(KeyKind::MAKE_BREAK),
            command::ALL_MAKE => self.set_all_kinds(KeyKind::MAKE),
            command::ALL_TYPEMATIC_MAKE_BREAK => self.set_all_kinds(KeyKind::TYPEMATIC_MAKE_BREAK),
            command::RESEND => self.answer(&[self.last_sent]),
            command::RESET => {
                self.set_defaults();
                self.scanning = true;
                self.answer(&[reply::ACK, reply::SELF_TEST_PASSED]);
            }
            _ => self.answer(&[reply::RESEND]),
        }
    }

    /// A key goes down or up.
    pub fn key(&mut self, name: u16, down: bool, now: Vtime) {
        if !self.scanning {
            return;
        }
        if down {
            let repeats = self.kind(name).repeats && name != key::PAUSE && name != key::BREAK;
            self.repeat = repeats.then(|| (name, Vtime(now.0.saturating_add(self.repeat_delay_ns()))));
        } else if self.repeat.is_some_and(|(held, _)| held == name) {
            self.repeat = None;
        }
        if self.typed.len() < TYPED_MAX {
            self.typed.push_back((name, down));
        }
        self.fill_queue();
    }

    /// When the held key repeats.
    pub fn deadline(&self) -> Option<Vtime> {
        self.repeat.map(|(_, at)| at)
    }

    /// Repeats the held key. Repetitions that found no room are not made up for.
    pub fn advance(&mut self, now: Vtime) {
        let Some((name, at)) = self.repeat.filter(|&(_, at)| at <= now) else { return };
        let period = self.repeat_period_ns();
        let missed = (now.0 - at.0) / period;
        self.repeat = Some((name, Vtime(at.0.saturating_add((missed + 1).saturating_mul(period)))));
        if self.queue.is_empty() {
            self.typed.push_back((name, true));
            self.fill_queue();
        }
    }

    /// Whether a byte waits for the host.
    pub fn has_byte(&self) -> bool {
        !self.answers.is_empty() || !self.queue.is_empty()
    }

    /// Sends the next byte to the host.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.queue.pop_front())?;
        if byte != reply::RESEND {
            self.last_sent = byte;
        }
        self.fill_queue();
        Some(byte)
    }

    /// Scroll lock, num lock, caps lock from bit 0 on.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// Key events that fit before new ones are lost.
    pub fn room(&self) -> usize {
        TYPED_MAX - self.typed.len()
    }

    fn argument(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (command::SET_LEDS, _) => {
                self.leds = byte & 7;
                self.answer(&[reply::ACK]);
            }
            (command::SET_TYPEMATIC, _) => {
                self.typematic = byte & 0x7f;
                self.answer(&[reply::ACK]);
            }
            (command::SCAN_CODE_SET, 0) => self.answer(&[reply::ACK, self.set]),
            (command::SCAN_CODE_SET, 1..=3) => {
                self.clear();
                self.set = byte;
                self.answer(&[reply::ACK]);
            }
            (command::SCAN_CODE_SET, _) => self.answer(&[reply::RESEND]),
            // A list of keys, one code each, ends with the next command.
            (_, 0xed..) => self.command(byte),
            (list, code) => {
                self.awaits = Some(list);
                if let Some(kind) = self.kinds.get_mut(usize::from(code)) {
                    *kind = match list {
                        command::KEY_TYPEMATIC => KeyKind::TYPEMATIC,
                        command::KEY_MAKE_BREAK => KeyKind::MAKE_BREAK,
                        _ => KeyKind::MAKE,
                    };
                }
                self.answer(&[reply::ACK]);
            }
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS_MAX {
            self.answers.extend(bytes);
        }
    }

    fn set_defaults(&mut self) {
        self.clear();
        self.set = 2;
        self.leds = 0;
        self.typematic = TYPEMATIC_DEFAULT;
        self.kinds = default_kinds();
    }

    fn set_all_kinds(&mut self, kind: KeyKind) {
        self.kinds.fill(kind);
        self.answer(&[reply::ACK]);
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.typed.clear();
        self.repeat = None;
    }

    /// Moves key events into the queue, whole sequences only.
    fn fill_queue(&mut self) {
        while let Some(&(name, down)) = self.typed.front() {
            let mut bytes = Vec::with_capacity(8);
            if down || self.kind(name).releases {
                scancodes::encode(self.set, name, down, &mut bytes);
            }
            if self.queue.len() + bytes.len() > QUEUE_MAX {
                return;
            }
            self.queue.extend(bytes);
            self.typed.pop_front();
        }
    }

    /// In sets 1 and 2 all keys repeat and release.
    fn kind(&self, name: u16) -> KeyKind {
        if self.set != 3 {
            return KeyKind::TYPEMATIC_MAKE_BREAK;
        }
        let kind = scancodes::set3(name).and_then(|code| self.kinds.get(usize::from(code)));
        kind.copied().unwrap_or(KeyKind::MAKE)
    }

    /// Bits 5 and 6: 250 ms to 1 s.
    fn repeat_delay_ns(&self) -> u64 {
        (u64::from(self.typematic >> 5) + 1) * 250 * MILLISECOND_NS
    }

    /// Bits 0 to 4: (8 + A) * 2^B / 240 seconds.
    fn repeat_period_ns(&self) -> u64 {
        let (a, b) = (u64::from(self.typematic & 7), self.typematic >> 3 & 3);
        ((8 + a) << b) * 1_000_000_000 / 240
    }
}

/// Set 3 after power-on: characters, arrows and deletion repeat, modifiers release, the rest only makes.
fn default_kinds() -> Vec<KeyKind> {
    const RELEASING: [u8; 5] = [0x11, 0x12, 0x14, 0x19, 0x59];
    const REPEATING: [u8; 6] = [0x60, 0x61, 0x63, 0x64, 0x66, 0x6a];
    /// F1 to F11, Print Screen, right Alt, right Control: among the codes of characters.
    const MAKING: [u8; 14] =
        [0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x39, 0x3f, 0x47, 0x4f, 0x56, 0x57, 0x58];
    let kind = |code: u8| match code {
        _ if RELEASING.contains(&code) => KeyKind::MAKE_BREAK,
        _ if MAKING.contains(&code) => KeyKind::MAKE,
        _ if REPEATING.contains(&code) => KeyKind::TYPEMATIC,
        0x0d..=0x5d => KeyKind::TYPEMATIC,
        _ => KeyKind::MAKE,
    };
    (0..=0x8f).map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Vtime = Vtime(0);

    fn drain(keyboard: &mut Keyboard) -> Vec<u8> {
        std::iter::from_fn(|| keyboard.pop()).collect()
    }

    fn ask(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
        let mut answer = |&byte: &u8| {
            keyboard.command(byte);
            drain(keyboard)
        };
        bytes.iter().flat_map(&mut answer).collect()
    }

    #[test]
    fn commands() {
        let mut keyboard = Keyboard::new();
        let table: [(&[u8], &[u8]); 14] = [
            (&[0xff], &[0xfa, 0xaa]),
            (&[0xf2], &[0xfa, 0xab, 0x83]),
            (&[0xee], &[0xee]),
            (&[0xfe], &[0xee]),
            (&[0xed, 0x02], &[0xfa, 0xfa]),
            (&[0xf3, 0x00], &[0xfa, 0xfa]),
            (&[0xf0, 0x00], &[0xfa, 0xfa, 0x02]),
            (&[0xf0, 0x07], &[0xfa, 0xfe]),
            (&[0xf0, 0x03], &[0xfa, 0xfa]),
            (&[0xf0, 0x00], &[0xfa, 0xfa, 0x03]),
            (&[0xf8], &[0xfa]),
            (&[0xfb, 0x1c, 0x1b, 0xf4], &[0xfa; 4]),
            (&[0xf6], &[0xfa]),
            (&[0x12], &[0xfe]),
        ];
        for (bytes, answer) in table {
            assert_eq!(ask(&mut keyboard, bytes), answer, "{bytes:x?}");
        }
        assert_eq!(keyboard.leds(), 0, "F6 sets defaults");
    }

    #[test]
    fn keys_in_three_sets() {
        for (set, bytes) in [(1, &[0x1e, 0x9e][..]), (2, &[0x1c, 0xf0, 0x1c]), (3, &[0x1c])] {
            let mut keyboard = Keyboard::new();
            ask(&mut keyboard, &[0xf0, set]);
            keyboard.key(0x1e, true, T0);
            keyboard.key(0x1e, false, T0);
            assert_eq!(drain(&mut keyboard), bytes);
        }
        let mut keyboard = Keyboard::new();
        ask(&mut keyboard, &[0xf0, 3]);
        ask(&mut keyboard, &[0xf8]);
        keyboard.key(0x1e, true, T0);
        keyboard.key(0x1e, false, T0);
        assert_eq!(keyboard.deadline(), None, "make/break keys do not repeat");
        assert_eq!(drain(&mut keyboard), [0x1c, 0xf0, 0x1c]);
    }

    #[test]
    fn disabled_keyboard_is_silent() {
        let mut keyboard = Keyboard::new();
        ask(&mut keyboard, &[0xf5]);
        keyboard.key(0x1e, true, T0);
        assert!(drain(&mut keyboard).is_empty());
        assert_eq!(keyboard.deadline(), None);
        ask(&mut keyboard, &[0xf4]);
        keyboard.key(0x1e, true, T0);
        assert_eq!(drain(&mut keyboard), [0x1c]);
    }

    #[test]
    fn typematic_repeat() {
        let mut keyboard = Keyboard::new();
        keyboard.key(0x1e, true, T0);
        drain(&mut keyboard);
        assert_eq!(keyboard.deadline(), Some(Vtime(500_000_000)));
        keyboard.advance(Vtime(500_000_000));
        assert_eq!(drain(&mut keyboard), [0x1c]);
        // 0x2b: A = 3, B = 1: 22/240 s, 10.9 characters a second.
        assert_eq!(keyboard.deadline(), Some(Vtime(500_000_000 + 91_666_666)));
        keyboard.advance(Vtime(60_000_000_000));
        assert_eq!(drain(&mut keyboard), [0x1c]);
        assert!(keyboard.deadline().unwrap() > Vtime(60_000_000_000));
        keyboard.key(0x1e, false, Vtime(60_000_000_001));
        assert_eq!(keyboard.deadline(), None);
        assert_eq!(drain(&mut keyboard), [0xf0, 0x1c]);
        ask(&mut keyboard, &[0xf3, 0x00]);
        keyboard.key(0x1e, true, T0);
        assert_eq!(keyboard.deadline(), Some(Vtime(250_000_000)));
        assert_eq!(keyboard.repeat_period_ns(), 33_333_333);
    }

    #[test]
    fn typing_ahead_is_kept_in_order_and_bounded() {
        let mut keyboard = Keyboard::new();
        for _ in 0..100 {
            keyboard.key(0xe048, true, T0);
            keyboard.key(0xe048, false, T0);
        }
        let sent = drain(&mut keyboard);
        assert_eq!(sent.len(), 500);
        assert!(sent.chunks(5).all(|chunk| chunk == [0xe0, 0x75, 0xe0, 0xf0, 0x75]));
        for _ in 0..10_000 {
            keyboard.key(0x1e, true, T0);
        }
        assert!(drain(&mut keyboard).len() <= TYPED_MAX + QUEUE_MAX);
        for _ in 0..10_000 {
            keyboard.command(0xf2);
            keyboard.command(0xfe);
        }
        assert!(drain(&mut keyboard).len() <= QUEUE_MAX + ANSWERS_MAX);
    }
}
