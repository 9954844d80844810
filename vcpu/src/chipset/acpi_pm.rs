//! ACPI fixed hardware: PM1 events and control, the PM timer, general-purpose events.
//!
//! The machine is always in ACPI mode: there is no SMI command port (FADT.SMI_CMD = 0) and SCI_EN reads one.
//! The timer is computed from guest time, never ticked. ACPI specification 6.5, section 4.8.

use super::bytewise;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// First I/O port of the block, as the FADT and the LPC bridge's PMBASE tell.
pub const PORT: u16 = 0x600;
/// Number of I/O ports of the block.
pub const PORT_COUNT: u16 = 0x80;
/// PM1a event block: status and enable, 16 bits each.
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// PM1a control block, 16 bits.
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// PM timer, 32 bits.
pub const TIMER_PORT: u16 = 0x608;
/// GPE0 block: 16 status bits, then 16 enable bits.
pub const GPE0_PORT: u16 = 0x620;
/// Length of the GPE0 block in bytes.
pub const GPE0_LENGTH: u8 = 4;
/// IRQ of the SCI: level, active high at the device.
pub const SCI_IRQ: u8 = 9;
/// SLP_TYP of S5, for the DSDT's `\_S5` package.
pub const SLEEP_TYPE_S5: u8 = 5;
/// The timer is 32 bits wide: FADT flag TMR_VAL_EXT is to be set.
pub const TIMER_BITS: u32 = 32;

const TIMER_HZ: u128 = 3_579_545;
const SECOND_NS: u128 = 1_000_000_000;

/// PM1 status and enable bits (tables 4.14 and 4.15).
mod pm1 {
    pub const TIMER: u16 = 1 << 0;
    pub const BUS_MASTER: u16 = 1 << 4;
    pub const GLOBAL: u16 = 1 << 5;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const SLEEP_BUTTON: u16 = 1 << 9;
    pub const RTC: u16 = 1 << 10;
    pub const WAKE: u16 = 1 << 15;
    pub const STATUS: u16 = TIMER | BUS_MASTER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC | WAKE;
    /// Bits that raise the SCI.
    pub const ENABLE: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC;
}

/// PM1 control bits (table 4.16).
mod control {
    pub const SCI_EN: u16 = 1 << 0;
    pub const BM_RLD: u16 = 1 << 1;
    pub const SLP_TYP: u16 = 7 << 10;
    pub const SLP_TYP_SHIFT: u32 = 10;
    pub const SLP_EN: u16 = 1 << 13;
}

/// The fixed hardware block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    /// The guest asked for S5 and the loop has not taken it yet.
    power_off: bool,
    /// TMR_STS is right up to here.
    last: Vtime,
}

impl Default for AcpiPm {
    fn default() -> AcpiPm {
        AcpiPm::new()
    }
}

impl AcpiPm {
    /// Fixed hardware after power-on, in ACPI mode.
    pub fn new() -> AcpiPm {
        AcpiPm {
            status: 0,
            enable: 0,
            control: control::SCI_EN,
            gpe_status: 0,
            gpe_enable: 0,
            power_off: false,
            last: Vtime(0),
        }
    }

    /// Machine reset; the timer counts on.
    pub fn reset(&mut self, now: Vtime) {
        *self = AcpiPm { last: now, ..AcpiPm::new() };
    }

    /// Reads ports from `PORT + offset` on; ports without a register read all ones.
    pub fn read(&mut self, offset: u64, size: u8, now: Vtime) -> u64 {
        self.advance(now);
        let timer = timer_count(now) as u32;
        bytewise::read(offset, size, |port| {
            let word = match port & !1 {
                0x00 => self.status,
                0x02 => self.enable,
                0x04 => self.control,
                0x06 => 0,
                0x08 => timer as u16,
                0x0a => (timer >> 16) as u16,
                0x20 => self.gpe_status,
                0x22 => self.gpe_enable,
                _ => 0xffff,
            };
            word.to_le_bytes()[(port & 1) as usize]
        })
    }

    /// Writes ports from `PORT + offset` on. Status bits are cleared by writing ones.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        self.advance(now);
        bytewise::write(offset, size, value, |port, byte| {
            let shift = 8 * (port & 1);
            let bits = u16::from(byte) << shift;
            let keep = !(0xff << shift);
            match port & !1 {
                0x00 => self.status &= !bits,
                0x02 => self.enable = (self.enable & keep | bits) & pm1::ENABLE,
                0x04 => self.write_control(self.control & keep | bits),
                0x20 => self.gpe_status &= !bits,
                0x22 => self.gpe_enable = self.gpe_enable & keep | bits,
                // The timer is read-only; the rest has no registers.
                _ => {}
            }
        });
    }

    /// Level of the SCI.
    pub fn line(&self) -> bool {
        self.status & self.enable & pm1::ENABLE != 0 || self.gpe_status & self.gpe_enable != 0
    }

    /// When the timer's top bit next changes and raises the SCI, if TMR_EN says so.
    pub fn deadline(&self) -> Option<Vtime> {
        if self.enable & pm1::TIMER == 0 || self.status & pm1::TIMER != 0 {
            return None;
        }
        let next = (half_periods(self.last) + 1) << (TIMER_BITS - 1);
        u64::try_from((next * SECOND_NS).div_ceil(TIMER_HZ)).ok().map(Vtime)
    }

    /// Brings TMR_STS up to `now`: it is set whenever the timer's top bit changes.
    pub fn advance(&mut self, now: Vtime) {
        if now <= self.last {
            return;
        }
        if half_periods(now) != half_periods(self.last) {
            self.status |= pm1::TIMER;
        }
        self.last = now;
    }

    /// The user pressed the power button.
    pub fn press_power_button(&mut self) {
        self.status |= pm1::POWER_BUTTON;
    }

    /// A general-purpose event (0..16) happened.
    pub fn raise_gpe(&mut self, number: u8) {
        assert!(number < 16, "GPE0 has 16 events, not {number}");
        self.gpe_status |= 1 << number;
    }

    /// Whether the guest has switched the power off since the last call.
    pub fn take_power_off(&mut self) -> bool {
        std::mem::take(&mut self.power_off)
    }

    /// SLP_EN with the type of S5 is power-off. No other sleep state is offered (the DSDT names none), so any
    /// other type wakes at once. GBL_RLS would raise an SMI, which this machine does not have.
    fn write_control(&mut self, value: u16) {
        self.control = value & (control::BM_RLD | control::SLP_TYP) | control::SCI_EN;
        if value & control::SLP_EN == 0 {
            return;
        }
        if (value & control::SLP_TYP) >> control::SLP_TYP_SHIFT == u16::from(SLEEP_TYPE_S5) {
            self.power_off = true;
        } else {
            self.status |= pm1::WAKE & pm1::STATUS;
        }
    }
}

/// Cycles of the 3.579545 MHz clock since power-on.
fn timer_count(now: Vtime) -> u128 {
    u128::from(now.0) * TIMER_HZ / SECOND_NS
}

/// How often the timer's top bit has changed.
fn half_periods(now: Vtime) -> u128 {
    timer_count(now) >> (TIMER_BITS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn word(pm: &mut AcpiPm, offset: u64, at: u64) -> u16 {
        pm.read(offset, 2, Vtime(at)) as u16
    }

    #[test]
    fn timer_counts_at_3_579545_mhz() {
        let mut pm = AcpiPm::new();
        assert_eq!(pm.read(8, 4, Vtime(0)), 0);
        assert_eq!(pm.read(8, 4, Vtime(279)), 0);
        assert_eq!(pm.read(8, 4, Vtime(280)), 1);
        assert_eq!(pm.read(8, 4, Vtime(SECOND)), 3_579_545);
        assert_eq!(pm.read(8, 4, Vtime(3600 * SECOND)), 3600 * 3_579_545 % (1 << 32));
        assert_eq!(pm.read(9, 1, Vtime(SECOND)), 3_579_545 >> 8 & 0xff);
        pm.write(8, 4, 0, Vtime(SECOND));
        assert_eq!(pm.read(8, 4, Vtime(SECOND)), 3_579_545);
    }

    #[test]
    fn timer_status_when_the_top_bit_changes() {
        let mut pm = AcpiPm::new();
        assert_eq!(pm.deadline(), None);
        pm.write(2, 2, 0x0001, Vtime(5));
        // 2^31 cycles take 599.93 s.
        let at = pm.deadline().unwrap();
        assert_eq!(at.0, ((1u128 << 31) * 1_000_000_000).div_ceil(3_579_545) as u64);
        assert_eq!(pm.read(8, 4, Vtime(at.0 - 1)), 0x7fff_ffff);
        assert!(!pm.line());
        assert_eq!(pm.read(8, 4, at), 0x8000_0000);
        assert!(pm.line());
        assert_eq!(pm.deadline(), None);
        pm.write(0, 2, 0x0001, at);
        assert!(!pm.line());
        let wrap = pm.deadline().unwrap();
        assert_eq!(pm.read(8, 4, wrap), 0);
        assert!(pm.line());
    }

    #[test]
    fn power_button_raises_the_sci() {
        let mut pm = AcpiPm::new();
        pm.press_power_button();
        assert!(!pm.line());
        pm.write(2, 2, 0x0100, Vtime(0));
        assert!(pm.line());
        assert_eq!(word(&mut pm, 0, 0), 0x0100);
        pm.write(1, 1, 0x01, Vtime(0));
        assert!(!pm.line());
        assert_eq!(word(&mut pm, 0, 0), 0);
    }

    #[test]
    fn enable_keeps_only_defined_bits() {
        let mut pm = AcpiPm::new();
        pm.write(2, 2, 0xffff, Vtime(0));
        assert_eq!(word(&mut pm, 2, 0), 0x0721);
        pm.write(0, 4, 0, Vtime(0));
        assert_eq!(pm.read(0, 4, Vtime(0)), 0);
    }

    #[test]
    fn always_in_acpi_mode() {
        let mut pm = AcpiPm::new();
        assert_eq!(word(&mut pm, 4, 0), 1);
        pm.write(4, 2, 0, Vtime(0));
        assert_eq!(word(&mut pm, 4, 0), 1);
    }

    #[test]
    fn sleep_type_five_is_power_off() {
        let mut pm = AcpiPm::new();
        pm.write(4, 2, 5 << 10, Vtime(0));
        assert!(!pm.take_power_off());
        pm.write(4, 2, 5 << 10 | 1 << 13, Vtime(0));
        assert!(pm.take_power_off());
        assert!(!pm.take_power_off());
        assert_eq!(word(&mut pm, 4, 0), 5 << 10 | 1, "SLP_EN reads zero");
        pm.write(4, 2, 1 << 10 | 1 << 13, Vtime(0));
        assert!(!pm.take_power_off());
        assert_eq!(word(&mut pm, 0, 0), 0x8000);
    }

    #[test]
    fn general_purpose_events() {
        let mut pm = AcpiPm::new();
        pm.raise_gpe(9);
        assert!(!pm.line());
        pm.write(0x23, 1, 0x02, Vtime(0));
        assert!(pm.line());
        assert_eq!(pm.read(0x20, 4, Vtime(0)), 0x0200_0200);
        pm.write(0x20, 2, 0x0200, Vtime(0));
        assert!(!pm.line());
        assert_eq!(pm.read(0x40, 2, Vtime(0)), 0xffff);
    }
}
