//! What the machine description decides about the chipset.

use serde::{Deserialize, Serialize};

/// RAM below 4 GiB ends here at most; what is left continues at 4 GiB.
pub const RAM_BELOW_4G_MAX: u64 = 3 << 30;

/// Number of UARTs that have ports.
pub const UARTS_MAX: u8 = 4;

/// Choices made before power-on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipsetConfig {
    /// Number of CPUs, each with a local APIC.
    pub cpu_count: u32,
    /// Guest RAM in bytes: shown in CMOS.
    pub ram_bytes: u64,
    /// Seconds since 1970 that the RTC shows at power-on.
    pub rtc_base: i64,
    /// System UUID shown in fw_cfg.
    pub uuid: [u8; 16],
    /// Number of UARTs, at most 4.
    pub uart_count: u8,
    /// I/O port of isa-debug-exit, if there is one.
    pub debug_exit_port: Option<u16>,
    /// I/O port of the debug console, if there is one.
    pub debug_console_port: Option<u16>,
}

impl Default for ChipsetConfig {
    fn default() -> ChipsetConfig {
        ChipsetConfig {
            cpu_count: 1,
            ram_bytes: 128 << 20,
            rtc_base: 0,
            uuid: [0; 16],
            uart_count: 1,
            debug_exit_port: None,
            debug_console_port: None,
        }
    }
}
