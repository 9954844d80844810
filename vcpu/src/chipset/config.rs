//! What the machine description decides about the chipset.

use replay::machine::Machine;
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
    /// Guest RAM in bytes: shown in CMOS and fw_cfg.
    pub ram_bytes: u64,
    /// Seconds since 1970 that the RTC shows at power-on.
    pub rtc_base: i64,
    /// The RTC follows the host's clock, ahead of it by these seconds.
    pub host_offset_s: Option<i64>,
    /// System UUID shown in fw_cfg.
    pub uuid: [u8; 16],
    /// Number of UARTs, at most `UARTS_MAX`.
    pub uart_count: u8,
    /// I/O port of isa-debug-exit, if there is one.
    pub debug_exit_port: Option<u16>,
    /// I/O port of the debug console, if there is one.
    pub debug_console_port: Option<u16>,
}

/// A machine description that this chipset cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There are four sets of UART ports.
    #[error("{0} UARTs, and a PC has ports for {UARTS_MAX}")]
    TooManyUarts(usize),
    /// A UUID is 32 hexadecimal digits, with dashes or without.
    #[error("UUID {0:?} is not 32 hexadecimal digits")]
    Uuid(String),
}

impl ChipsetConfig {
    /// The chipset's part of a machine description.
    pub fn of_machine(machine: &Machine) -> Result<ChipsetConfig, ConfigError> {
        let uarts = machine.uarts.len();
        let uart_count = u8::try_from(uarts).ok().filter(|&count| count <= UARTS_MAX);
        let uuid = match &machine.uuid {
            Some(text) => parse_uuid(text).ok_or_else(|| ConfigError::Uuid(text.clone()))?,
            None => [0; 16],
        };
        Ok(ChipsetConfig {
            cpu_count: machine.cpu_count,
            ram_bytes: machine.ram_bytes,
            rtc_base: machine.clock.rtc_base,
            host_offset_s: machine.clock.host_offset_s,
            uuid,
            uart_count: uart_count.ok_or(ConfigError::TooManyUarts(uarts))?,
            debug_exit_port: machine.debug_exit_port,
            debug_console_port: machine.debug_console.map(|(port, _)| port),
        })
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u32> =
        text.chars().filter(|&c| c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    if digits.len() == 32 { bytes.try_into().ok() } else { None }
}

impl Default for ChipsetConfig {
    fn default() -> ChipsetConfig {
        ChipsetConfig {
            cpu_count: 1,
            ram_bytes: 128 << 20,
            rtc_base: 0,
            host_offset_s: None,
            uuid: [0; 16],
            uart_count: 1,
            debug_exit_port: None,
            debug_console_port: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_32_digits() {
        let uuid = parse_uuid("550e8400-e29b-41d4-a716-4466554400ff").expect("a UUID");
        assert_eq!((uuid[0], uuid[15]), (0x55, 0xff));
        assert_eq!(parse_uuid("550e8400"), None);
        assert_eq!(parse_uuid("g50e8400-e29b-41d4-a716-446655440000"), None);
    }
}
