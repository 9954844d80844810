//! A PS/2 mouse with wheel (IntelliMouse) and five buttons (IntelliMouse Explorer).
//!
//! It speaks to the controller in bytes; `i8042` carries them. IBM PS/2 Hardware Interface Technical
//! Reference, Mouse, 1990; the knocks that switch extensions on are Microsoft's.

use replay::time::Vtime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes that may wait for the host; a report is made only when nothing waits.
const QUEUE_MAX: usize = 16;
/// Largest count of one report in x and y: nine bits, sign and magnitude alike.
const MOVE_MAX: i32 = 255;
/// Largest wheel count of one report: four bits.
const WHEEL_MAX: i32 = 7;
/// Movement that is kept for later reports.
const BACKLOG_MAX: i32 = 1 << 20;
const SAMPLE_RATE_DEFAULT: u8 = 100;
/// Resolution code 2: four counts a millimetre.
const RESOLUTION_DEFAULT: u8 = 2;

mod reply {
    pub const SELF_TEST_PASSED: u8 = 0xaa;
    pub const ACK: u8 = 0xfa;
    pub const RESEND: u8 = 0xfe;
}

mod command {
    pub const SCALING_1_1: u8 = 0xe6;
    pub const SCALING_2_1: u8 = 0xe7;
    pub const SET_RESOLUTION: u8 = 0xe8;
    pub const STATUS: u8 = 0xe9;
    pub const STREAM_MODE: u8 = 0xea;
    pub const READ_DATA: u8 = 0xeb;
    pub const RESET_WRAP: u8 = 0xec;
    pub const WRAP_MODE: u8 = 0xee;
    pub const REMOTE_MODE: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const SET_SAMPLE_RATE: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const SET_DEFAULTS: u8 = 0xf6;
    pub const RESEND: u8 = 0xfe;
    pub const RESET: u8 = 0xff;
}

/// What the mouse identifies as, and with that the form of its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Protocol {
    Standard,
    Wheel,
    FiveButtons,
}

impl Protocol {
    fn id(self) -> u8 {
        match self {
            Protocol::Standard => 0,
            Protocol::Wheel => 3,
            Protocol::FiveButtons => 4,
        }
    }
}

/// Sample rates that, set in this order, switch an extension on.
const KNOCKS: [([u8; 3], Protocol, Protocol); 2] = [
    ([200, 100, 80], Protocol::Standard, Protocol::Wheel),
    ([200, 200, 80], Protocol::Wheel, Protocol::FiveButtons),
];

/// The mouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mouse {
    queue: VecDeque<u8>,
    /// The last answer or report, for RESEND.
    last_sent: Vec<u8>,
    awaits: Option<u8>,
    /// The last three sample rates set.
    rates: [u8; 3],
    protocol: Protocol,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling_2_1: bool,
    resolution: u8,
    sample_rate: u8,
    /// Movement since the last report: right, up, and the wheel towards the user.
    moved: [i32; 3],
    buttons: u8,
    buttons_reported: u8,
    /// No report before this.
    next_sample: Vtime,
}

impl Default for Mouse {
    fn default() -> Mouse {
        Mouse::new()
    }
}

impl Mouse {
    /// A mouse that has passed its self-test before anybody looked.
    pub fn new() -> Mouse {
        Mouse {
            queue: VecDeque::new(),
            last_sent: Vec::new(),
            awaits: None,
            rates: [0; 3],
            protocol: Protocol::Standard,
            reporting: false,
            remote: false,
            wrap: false,
            scaling_2_1: false,
            resolution: RESOLUTION_DEFAULT,
            sample_rate: SAMPLE_RATE_DEFAULT,
            moved: [0; 3],
            buttons: 0,
            buttons_reported: 0,
            next_sample: Vtime(0),
        }
    }

    /// A byte from the host.
    pub fn command(&mut self, byte: u8) {
        if self.wrap && byte != command::RESET && byte != command::RESET_WRAP {
            self.answer(&[byte]);
            return;
        }
        // A command ends what was being sent.
        self.queue.clear();
        match self.awaits.take() {
            Some(command) => self.argument(command, byte),
            None => self.simple_command(byte),
        }
    }

    /// The mouse moves: right and down positive, wheel away from the user positive.
    pub fn move_by(&mut self, dx: i32, dy: i32, dz: i32) {
        let add = |sum: i32, delta: i32| sum.saturating_add(delta).clamp(-BACKLOG_MAX, BACKLOG_MAX);
        // Without a wheel its movement goes nowhere.
        let wheel = if self.protocol == Protocol::Standard { 0 } else { dz.saturating_neg() };
        let deltas = [dx, dy.saturating_neg(), wheel];
        for (sum, delta) in self.moved.iter_mut().zip(deltas) {
            *sum = add(*sum, delta);
        }
    }

    /// State of the buttons: bit 0 left, 1 right, 2 middle, 3 and 4 the side buttons.
    pub fn set_buttons(&mut self, buttons: u8) {
        self.buttons = buttons & 0x1f;
    }

    /// When the next report is due, if there is something to report.
    pub fn deadline(&self) -> Option<Vtime> {
        (self.streams() && self.changed() && self.queue.is_empty()).then_some(self.next_sample)
    }

    /// Makes a report if one is due.
    pub fn advance(&mut self, now: Vtime) {
        if self.deadline().is_some_and(|at| at <= now) {
            let report = self.report();
            self.answer(&report);
            let period = 1_000_000_000 / u64::from(self.sample_rate.max(1));
            self.next_sample = Vtime(now.0.saturating_add(period));
        }
    }

    /// Whether a byte waits for the host.
    pub fn has_byte(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends the next byte to the host.
    pub fn pop(&mut self) -> Option<u8> {
        self.queue.pop_front()
    }

    fn simple_command(&mut self, byte: u8) {
        match byte {
            command::SET_RESOLUTION | command::SET_SAMPLE_RATE => {
                self.awaits = Some(byte);
                self.acknowledge();
            }
            command::SCALING_1_1 | command::SCALING_2_1 => {
                self.scaling_2_1 = byte == command::SCALING_2_1;
                self.acknowledge();
            }
            command::STATUS => {
                let status = self.status();
                self.answer(&[reply::ACK, status, self.resolution, self.sample_rate]);
            }
            command::STREAM_MODE | command::REMOTE_MODE => {
                self.remote = byte == command::REMOTE_MODE;
                self.forget_movement();
                self.acknowledge();
            }
            command::READ_DATA => {
                let mut bytes = vec![reply::ACK];
                bytes.extend(self.report());
                self.answer(&bytes);
            }
            command::RESET_WRAP | command::WRAP_MODE => {
                self.wrap = byte == command::WRAP_MODE;
                self.forget_movement();
                self.acknowledge();
            }
            command::IDENTIFY => self.answer(&[reply::ACK, self.protocol.id()]),
            command::ENABLE | command::DISABLE => {
                self.reporting = byte == command::ENABLE;
                self.forget_movement();
                self.acknowledge();
            }
            command::SET_DEFAULTS => {
                self.set_defaults();
                self.acknowledge();
            }
            command::RESEND => self.queue.extend(&self.last_sent),
            command::RESET => {
                self.set_defaults();
                self.protocol = Protocol::Standard;
                self.answer(&[reply::ACK, reply::SELF_TEST_PASSED, self.protocol.id()]);
            }
            _ => self.answer(&[reply::RESEND]),
        }
    }

    fn argument(&mut self, command: u8, byte: u8) {
        let valid = match command {
            command::SET_RESOLUTION => byte <= 3,
            _ => byte != 0,
        };
        if !valid {
            self.answer(&[reply::RESEND]);
            return;
        }
        if command == command::SET_RESOLUTION {
            self.resolution = byte;
        } else {
            self.sample_rate = byte;
            self.rates = [self.rates[1], self.rates[2], byte];
            let knock = KNOCKS.iter().find(|(rates, from, _)| *rates == self.rates && *from == self.protocol);
            self.protocol = knock.map_or(self.protocol, |&(_, _, to)| to);
        }
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        self.answer(&[reply::ACK]);
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= QUEUE_MAX {
            self.queue.extend(bytes);
        }
        if bytes != [reply::RESEND] {
            self.last_sent = bytes.to_vec();
        }
    }

    fn set_defaults(&mut self) {
        self.reporting = false;
        self.remote = false;
        self.wrap = false;
        self.scaling_2_1 = false;
        self.resolution = RESOLUTION_DEFAULT;
        self.sample_rate = SAMPLE_RATE_DEFAULT;
        self.rates = [0; 3];
        self.forget_movement();
    }

    fn forget_movement(&mut self) {
        self.moved = [0; 3];
        self.buttons_reported = self.buttons;
    }

    fn streams(&self) -> bool {
        self.reporting && !self.remote && !self.wrap
    }

    fn changed(&self) -> bool {
        self.moved != [0; 3] || self.buttons != self.buttons_reported
    }

    /// First status byte: mode, reporting, scaling, and the buttons in their own order.
    fn status(&self) -> u8 {
        let (left, right, middle) = (self.buttons & 1, self.buttons >> 1 & 1, self.buttons >> 2 & 1);
        u8::from(self.remote) << 6
            | u8::from(self.reporting) << 5
            | u8::from(self.scaling_2_1) << 4
            | left << 2
            | middle << 1
            | right
    }

    /// A data packet of what has changed; movement that does not fit stays for the next.
    fn report(&mut self) -> Vec<u8> {
        let mut take = |axis: usize, limit: i32| {
            let part = self.moved[axis].clamp(-limit, limit);
            self.moved[axis] -= part;
            part
        };
        let (mut x, mut y) = (take(0, MOVE_MAX), take(1, MOVE_MAX));
        let wheel = take(2, WHEEL_MAX);
        if self.scaling_2_1 && self.streams() {
            (x, y) = (scale_2_1(x), scale_2_1(y));
        }
        self.buttons_reported = self.buttons;
        let signs = u8::from(x < 0) << 4 | u8::from(y < 0) << 5;
        let mut bytes = vec![self.buttons & 7 | 0x08 | signs, x as u8, y as u8];
        match self.protocol {
            Protocol::Standard => {}
            Protocol::Wheel => bytes.push(wheel as u8),
            Protocol::FiveButtons => bytes.push(wheel as u8 & 0x0f | (self.buttons & 0x18) << 1),
        }
        bytes
    }
}

/// Counts with 2:1 scaling (reference, table "Set Scaling 2:1").
fn scale_2_1(count: i32) -> i32 {
    const SMALL: [i32; 6] = [0, 1, 1, 3, 6, 9];
    let size = count.unsigned_abs() as usize;
    let scaled = SMALL.get(size).copied().unwrap_or(2 * size as i32).min(MOVE_MAX);
    scaled * count.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Vtime = Vtime(0);

    fn drain(mouse: &mut Mouse) -> Vec<u8> {
        std::iter::from_fn(|| mouse.pop()).collect()
    }

    fn ask(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for &byte in bytes {
            mouse.command(byte);
            all.extend(drain(mouse));
        }
        all
    }

    fn rates(mouse: &mut Mouse, rates: [u8; 3]) -> u8 {
        for rate in rates {
            assert_eq!(ask(mouse, &[0xf3, rate]), [0xfa, 0xfa]);
        }
        ask(mouse, &[0xf2])[1]
    }

    /// The reports that are due now.
    fn reports(mouse: &mut Mouse) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(at) = mouse.deadline() {
            mouse.advance(at);
            all.push(drain(mouse));
        }
        all
    }

    #[test]
    fn commands() {
        let mut mouse = Mouse::new();
        let table: [(&[u8], &[u8]); 12] = [
            (&[0xff], &[0xfa, 0xaa, 0x00]),
            (&[0xfe], &[0xfa, 0xaa, 0x00]),
            (&[0xf2], &[0xfa, 0x00]),
            (&[0xe9], &[0xfa, 0x00, 0x02, 100]),
            (&[0xe8, 0x03, 0xf3, 40, 0xe7, 0xf4], &[0xfa; 6]),
            (&[0xe9], &[0xfa, 0x30, 0x03, 40]),
            (&[0xe8, 0x04], &[0xfa, 0xfe]),
            (&[0xf0], &[0xfa]),
            (&[0xeb], &[0xfa, 0x08, 0x00, 0x00]),
            (&[0xee, 0x12, 0xf4, 0xec], &[0xfa, 0x12, 0xf4, 0xfa]),
            (&[0xf6, 0xe9], &[0xfa, 0xfa, 0x00, 0x02, 100]),
            (&[0xe1], &[0xfe]),
        ];
        for (bytes, answer) in table {
            assert_eq!(ask(&mut mouse, bytes), answer, "{bytes:x?}");
        }
    }

    #[test]
    fn knocks_switch_extensions_on() {
        let mut mouse = Mouse::new();
        assert_eq!(rates(&mut mouse, [200, 200, 80]), 0, "first the wheel");
        assert_eq!(rates(&mut mouse, [200, 100, 80]), 3);
        assert_eq!(rates(&mut mouse, [200, 200, 80]), 4);
        ask(&mut mouse, &[0xf6]);
        assert_eq!(ask(&mut mouse, &[0xf2]), [0xfa, 4]);
        ask(&mut mouse, &[0xff]);
        assert_eq!(ask(&mut mouse, &[0xf2]), [0xfa, 0]);
    }

    #[test]
    fn packets() {
        let mut mouse = Mouse::new();
        mouse.move_by(5, 5, 0);
        assert_eq!(reports(&mut mouse), Vec::<Vec<u8>>::new(), "reporting is off");
        ask(&mut mouse, &[0xf4]);
        mouse.move_by(3, 2, 0);
        mouse.set_buttons(1);
        assert_eq!(reports(&mut mouse), [[0x29, 0x03, 0xfe]], "down is negative");
        mouse.move_by(-300, 0, 0);
        mouse.set_buttons(6);
        assert_eq!(reports(&mut mouse), [[0x1e, 0x01, 0], [0x1e, 0xd3, 0]]);
        mouse.move_by(0, 0, 1);
        assert_eq!(reports(&mut mouse), Vec::<Vec<u8>>::new(), "there is no wheel");
    }

    #[test]
    fn wheel_and_side_buttons() {
        let mut mouse = Mouse::new();
        rates(&mut mouse, [200, 100, 80]);
        ask(&mut mouse, &[0xf4]);
        mouse.move_by(0, 0, 1);
        assert_eq!(reports(&mut mouse), [[0x08, 0, 0, 0xff]]);
        mouse.move_by(0, 0, -9);
        assert_eq!(reports(&mut mouse), [[0x08, 0, 0, 7], [0x08, 0, 0, 2]]);
        ask(&mut mouse, &[0xf5]);
        rates(&mut mouse, [200, 200, 80]);
        ask(&mut mouse, &[0xf4]);
        mouse.set_buttons(0x18);
        mouse.move_by(0, 0, 1);
        assert_eq!(reports(&mut mouse), [[0x08, 0, 0, 0x3f]]);
    }

    #[test]
    fn sample_rate_paces_reports() {
        let mut mouse = Mouse::new();
        ask(&mut mouse, &[0xf3, 10, 0xf4]);
        mouse.move_by(1, 0, 0);
        assert_eq!(mouse.deadline(), Some(T0));
        mouse.advance(Vtime(7));
        drain(&mut mouse);
        assert_eq!(mouse.deadline(), None);
        mouse.move_by(1, 0, 0);
        assert_eq!(mouse.deadline(), Some(Vtime(100_000_007)));
    }

    #[test]
    fn remote_mode_reports_when_asked() {
        let mut mouse = Mouse::new();
        ask(&mut mouse, &[0xf4, 0xf0]);
        mouse.move_by(7, -1, 0);
        assert_eq!(mouse.deadline(), None);
        assert_eq!(ask(&mut mouse, &[0xeb]), [0xfa, 0x08, 7, 1]);
        assert_eq!(ask(&mut mouse, &[0xeb]), [0xfa, 0x08, 0, 0]);
    }

    #[test]
    fn scaling() {
        let table = [(0, 0), (1, 1), (2, 1), (3, 3), (4, 6), (5, 9), (6, 12), (-4, -6), (200, 255)];
        for (count, scaled) in table {
            assert_eq!(scale_2_1(count), scaled);
        }
    }

    #[test]
    fn nothing_grows_without_limit() {
        let mut mouse = Mouse::new();
        rates(&mut mouse, [200, 100, 80]);
        mouse.command(0xee);
        for byte in 0..=255u8 {
            mouse.command(byte & 0x7f);
        }
        assert!(drain(&mut mouse).len() <= QUEUE_MAX);
        mouse.move_by(i32::MIN, i32::MIN, i32::MIN);
        mouse.move_by(i32::MIN, i32::MIN, i32::MIN);
        assert_eq!(mouse.moved, [-BACKLOG_MAX, BACKLOG_MAX, BACKLOG_MAX]);
    }
}
