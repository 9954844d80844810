//! Machine reset, A20 and the power button.

use super::Chipset;
use super::debug_port::PostCode;
use super::hpet::Hpet;
use super::ioapic::IoApic;
use super::pic::PicPair;
use super::pit::Pit;
use super::pvpanic::Pvpanic;
use super::reset::{ControlA, ResetControl};
use replay::time::Vtime;

impl Chipset {
    /// Resets every device. Guest time goes on; what the host has sent and not yet delivered stays.
    pub fn reset(&mut self, now: Vtime) {
        self.lapics = Chipset::new_lapics(&self.config);
        self.ioapic = IoApic::default();
        self.pic = PicPair::default();
        self.pit = Pit::default();
        self.hpet = Hpet::default();
        self.rtc.reset(now);
        self.acpi_pm.reset(now);
        for uart in &mut self.uarts {
            uart.reset();
        }
        self.i8042.reset();
        self.pci.reset();
        self.reset_virtio();
        self.fw_cfg.reset();
        self.reset_control = ResetControl::default();
        self.control_a = ControlA::default();
        self.pvpanic = Pvpanic::default();
        self.post_code = PostCode::default();
        self.nmi_waits = false;
        self.lines.forget_routed();
        self.current = 0;
        self.advance(now);
    }

    /// Whether address bit 20 reaches memory: port 0x92 or the keyboard controller lets it through.
    pub fn a20(&self) -> bool {
        self.control_a.a20() || self.i8042.a20()
    }

    /// Whether the guest has said, since the last reset, that it panicked.
    pub fn panicked(&self) -> bool {
        self.pvpanic.panicked()
    }

    /// The user pressed the power button.
    pub fn press_power_button(&mut self, now: Vtime) {
        self.catch_up(now);
        self.acpi_pm.press_power_button();
        self.settle();
    }
}
