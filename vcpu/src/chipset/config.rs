//! What the machine description decides about the chipset.

use super::msix::VECTORS_MAX;
use super::pci_host::Bdf;
use replay::device::{PciAddress, VirtioFunction};
use replay::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// RAM below 4 GiB ends here at most; what is left continues at 4 GiB.
pub const RAM_BELOW_4G_MAX: u64 = 3 << 30;

/// Number of UARTs that have ports.
pub const UARTS_MAX: u8 = 4;

/// Virtio device types that have a PCI device ID (virtio 1.2, 4.1.2).
const DEVICE_TYPES: RangeInclusive<u16> = 1..=63;

/// Largest virtqueue.
const QUEUE_SIZE_MAX: u16 = 1024;

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
    /// Virtio functions.
    pub functions: Vec<FunctionConfig>,
}

/// One virtio function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// Where the guest finds it.
    pub address: PciAddress,
    /// Virtio device type.
    pub device_type: u16,
    /// Largest size of its queues.
    pub queue_size_max: u16,
    /// MSI-X vectors; 0: only INTx.
    pub vectors: u16,
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
    /// Bus 0 has 32 devices of 8 functions; the bridges have theirs.
    #[error(
        "device {id:?}: there is no free PCI address {device:02x}.{function:x}; choose another with addr="
    )]
    Address {
        /// The function's name.
        id: String,
        /// Device number asked for.
        device: u8,
        /// Function number asked for.
        function: u8,
    },
    /// Nobody looks at the others of a device without its function 0.
    #[error(
        "device {id:?} at PCI address {device:02x}.{function:x}: there is nothing at {device:02x}.0, so no guest finds it"
    )]
    NoFunctionZero {
        /// The function's name.
        id: String,
        /// Its device number.
        device: u8,
        /// Its function number.
        function: u8,
    },
    /// A number that registers cannot hold.
    #[error("device {id:?}: {what} is {value}, and {allowed} is possible")]
    Range {
        /// The function's name.
        id: String,
        /// Which number.
        what: &'static str,
        /// What was asked for.
        value: u16,
        /// What may be asked for.
        allowed: &'static str,
    },
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
            functions: functions(&machine.functions)?,
        })
    }
}

/// Checks what the functions ask for.
fn functions(described: &[VirtioFunction]) -> Result<Vec<FunctionConfig>, ConfigError> {
    let bridges = [Bdf::HOST_BRIDGE, Bdf::ISA_BRIDGE];
    let mut taken: BTreeSet<(u8, u8)> = bridges.map(|at| (at.device(), at.function())).into();
    for one in described {
        let (id, PciAddress { device, function }) = (one.id.clone(), one.address);
        if device >= 32 || function >= 8 || !taken.insert((device, function)) {
            return Err(ConfigError::Address { id, device, function });
        }
    }
    for one in described {
        let (id, PciAddress { device, function }) = (one.id.clone(), one.address);
        if !taken.contains(&(device, 0)) {
            return Err(ConfigError::NoFunctionZero { id, device, function });
        }
        let (kind, size) = (one.kind.device_type(), one.queue_size_max);
        let checks = [
            ("the virtio device type", kind, DEVICE_TYPES.contains(&kind), "1 to 63"),
            ("the number of vectors", one.vectors, one.vectors <= VECTORS_MAX, "0 to 2048"),
            (
                "the queue size",
                size,
                size.is_power_of_two() && size <= QUEUE_SIZE_MAX,
                "a power of two up to 1024",
            ),
        ];
        if let Some(&(what, value, _, allowed)) = checks.iter().find(|(_, _, fits, _)| !fits) {
            return Err(ConfigError::Range { id, what, value, allowed });
        }
    }
    let config = |one: &VirtioFunction| FunctionConfig {
        address: one.address,
        device_type: one.kind.device_type(),
        queue_size_max: one.queue_size_max,
        vectors: one.vectors,
    };
    Ok(described.iter().map(config).collect())
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
            functions: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replay::device::VirtioKind;

    fn function(device: u8, function: u8) -> VirtioFunction {
        VirtioFunction {
            id: "disk0".into(),
            address: PciAddress { device, function },
            kind: VirtioKind::Entropy { device: 0 },
            queue_size_max: 256,
            vectors: 2,
            window: true,
        }
    }

    #[test]
    fn functions_have_places_of_their_own() {
        let (ok, taken) = (vec![(3, 0), (3, 7), (0x1f, 1), (0, 1)], "there is no free PCI address");
        let table = [
            (ok, ""),
            (vec![(3, 0), (3, 0)], taken),
            (vec![(0, 0)], taken),
            (vec![(0x1f, 0)], taken),
            (vec![(32, 0)], taken),
            (vec![(3, 0), (3, 8)], taken),
            (vec![(3, 1)], "there is nothing at 03.0"),
        ];
        for (places, message) in table {
            let all: Vec<VirtioFunction> =
                places.iter().map(|&(device, one)| function(device, one)).collect();
            match functions(&all) {
                Ok(configs) => assert!(message.is_empty() && configs.len() == all.len(), "{places:?}"),
                Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{error}"),
            }
        }
    }

    #[test]
    fn functions_have_numbers_that_registers_hold() {
        let other = |device_type| VirtioKind::Other { device: 0, device_type, queues: 1 };
        let base = function(3, 0);
        let table = [
            (VirtioFunction { vectors: 2048, queue_size_max: 1024, kind: other(63), ..base.clone() }, None),
            (VirtioFunction { vectors: 0, queue_size_max: 1, ..base.clone() }, None),
            (VirtioFunction { vectors: 2049, ..base.clone() }, Some("vectors is 2049")),
            (VirtioFunction { queue_size_max: 0, ..base.clone() }, Some("queue size is 0")),
            (VirtioFunction { queue_size_max: 100, ..base.clone() }, Some("queue size is 100")),
            (VirtioFunction { queue_size_max: 2048, ..base.clone() }, Some("queue size is 2048")),
            (VirtioFunction { kind: other(64), ..base.clone() }, Some("device type is 64")),
            (VirtioFunction { kind: other(0), ..base }, Some("device type is 0")),
        ];
        for (function, message) in table {
            let error = functions(&[function]).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), message.is_some(), "{error:?}");
            assert!(error.unwrap_or_default().contains(message.unwrap_or_default()));
        }
    }

    #[test]
    fn uuids_have_32_digits() {
        let uuid = parse_uuid("550e8400-e29b-41d4-a716-4466554400ff").expect("a UUID");
        assert_eq!((uuid[0], uuid[15]), (0x55, 0xff));
        assert_eq!(parse_uuid("550e8400"), None);
        assert_eq!(parse_uuid("g50e8400-e29b-41d4-a716-446655440000"), None);
    }
}
