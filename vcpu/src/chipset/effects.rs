//! What the chipset asks of the run loop.

use super::rtc::Look;
use serde::{Deserialize, Serialize};

/// Requests since the last look; the run loop carries them out after the instruction that made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// The guest switched the power off.
    pub power_off: bool,
    /// The guest asked for a reset. A soft one (port 0x92, keyboard controller) is one of the machine too: what
    /// it would come back to is firmware, and that resets the rest.
    pub reset: bool,
    /// The guest says that it panicked.
    pub panicked: bool,
    /// The guest wrote this to isa-debug-exit.
    pub debug_exit: Option<u8>,
    /// INIT arrived at the bootstrap processor: the CPU alone is reset.
    pub init: bool,
    /// The guest is about to read the time of an RTC that follows the host's clock.
    pub rtc_look: Option<Look>,
    /// UARTs, one bit each, for which `take_uart_output` has something.
    pub uart_output: u8,
    /// `take_debug_output` has something.
    pub debug_output: bool,
    /// The guest started a fw_cfg transfer; `Chipset::fw_cfg_dma` does it with this address.
    pub fw_cfg_dma: Option<u64>,
    /// `take_virtio_work` has something.
    pub virtio: bool,
    /// The A20 gate changed; `a20` says to what.
    pub a20_changed: bool,
}

impl Effects {
    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        *self == Effects::default()
    }
}
