//! The machine description: what the broker tells the vCPU process and what the manifest keeps.

use crate::device::{DeviceChoice, VirtioFunction};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that decides how the guest behaves, apart from events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Guest RAM in bytes; a multiple of 4096.
    pub ram_bytes: u64,
    /// CPU model and its changes, e.g. `x86-64-v3` with `-avx2`.
    pub cpu: CpuChoice,
    /// Number of CPUs.
    pub cpu_count: u32,
    /// What to load.
    pub boot: Boot,
    /// Guest time.
    pub clock: Clock,
    /// The consoles behind the UARTs: index into the devices, by UART number (at most 2).
    pub uarts: Vec<Option<u16>>,
    /// Device processes, in window order.
    pub devices: Vec<DeviceChoice>,
    /// What the guest sees on the PCI bus beside the chipset.
    #[serde(default)]
    pub functions: Vec<VirtioFunction>,
    /// A reset ends the run instead of restarting the machine.
    pub no_reboot: bool,
    /// A power-off pauses the run instead of ending it.
    pub no_shutdown: bool,
    /// What becomes of a guest that says that it panicked.
    #[serde(default)]
    pub panic_action: PanicAction,
    /// I/O port of isa-debug-exit, if the device was asked for.
    pub debug_exit_port: Option<u16>,
    /// I/O port of the debug console (0xe9) and its device.
    pub debug_console: Option<(u16, u16)>,
    /// System UUID shown in SMBIOS and fw_cfg.
    pub uuid: Option<String>,
}

/// What becomes of a machine whose guest says at the pvpanic port that it panicked: `-action panic=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanicAction {
    #[default]
    /// It runs on; that it panicked is the cause of the end if a reset ends it later.
    None,
    /// It stands still until the monitor says otherwise.
    Pause,
    /// It ends; with `-no-shutdown` it stands still.
    Shutdown,
    /// It ends, and the status says that something went wrong.
    ExitFailure,
}

/// CPU model and feature changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuChoice {
    /// Model name as given to `-cpu`.
    pub model: String,
    /// `(feature, on)` in the order of the command line.
    pub features: Vec<(String, bool)>,
}

/// Images to load and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Boot {
    /// `-kernel`: bzImage, ELF64 (PVH or 64-bit entry) or multiboot ELF32.
    pub kernel: Option<PathBuf>,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-append`.
    pub cmdline: String,
}

/// How guest time runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Nanoseconds an instruction as a power of two, 0..=10: the start value for `auto`.
    pub shift: u8,
    /// `shift=auto`: follow the host's speed.
    pub auto: bool,
    /// An idle machine waits in host time for its next timer.
    pub sleep: bool,
    /// Seconds since 1970 that the RTC shows at power-on.
    pub rtc_base: i64,
    /// `-rtc clock=host`: the RTC follows the host's clock, ahead of it by these seconds. None: it runs on guest
    /// time.
    pub host_offset_s: Option<i64>,
}
