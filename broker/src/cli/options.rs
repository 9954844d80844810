//! What a command line in QEMU's grammar says, before any default is filled in.
//!
//! Everything is optional: a replay takes what is not said from the recording and refuses what contradicts it.

use super::block::Node;
use super::chardev::{Chardev, Target};
use super::device::DeviceOption;
use super::drive::Place;
use super::gdb::GdbDevice;
use super::icount::IcountOption;
use super::net::{NetOption, Netdev};
use super::object::Object;
use super::rtc::RtcOption;
use replay::machine::{CpuChoice, PanicAction};
use std::path::PathBuf;

/// The options of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-kernel`.
    pub kernel: Option<PathBuf>,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-append`.
    pub append: Option<String>,
    /// `-m`, in bytes.
    pub ram_bytes: Option<u64>,
    /// `-cpu`.
    pub cpu: Option<CpuChoice>,
    /// `-icount`.
    pub icount: IcountOption,
    /// `-rtc`.
    pub rtc: Option<RtcOption>,
    /// `-chardev`, in order.
    pub chardevs: Vec<Chardev>,
    /// `-serial`, in order: UART 0 first.
    pub serials: Vec<Target>,
    /// `-monitor` and `-mon`, in order.
    pub monitors: Vec<Target>,
    /// `-qmp`, `-qmp-pretty` and `-mon mode=control`, in order; whether answers take several lines.
    pub qmps: Vec<(Target, bool)>,
    /// `-debugcon` or `-device isa-debugcon`.
    pub debug_console: Option<DebugConsole>,
    /// I/O port of `-device isa-debug-exit`.
    pub debug_exit_port: Option<u16>,
    /// `-drive` and `-blockdev`, in order.
    pub nodes: Vec<Node>,
    /// Interfaces and indexes of the `-drive`s.
    pub drive_places: Vec<Place>,
    /// `-snapshot`.
    pub snapshot: bool,
    /// `-netdev`, in order, and those of `-nic`.
    pub netdevs: Vec<Netdev>,
    /// `-net`, in order.
    pub nets: Vec<NetOption>,
    /// Number of `-nic` options.
    pub nic_count: usize,
    /// `-object`, in order.
    pub objects: Vec<Object>,
    /// `-device`, and what other options bring with them, in order.
    pub devices: Vec<DeviceOption>,
    /// `-action device-exit=`: what happens when a device process ends.
    pub on_device_exit: DeviceExit,
    /// `-action replay-end=`: what happens where a replay is at its end, or differs from its recording.
    pub replay_end: Option<ReplayEnd>,
    /// `-device pvpanic`: the device is always there; asked for, it has QEMU's default action.
    pub panic_device: bool,
    /// `-action panic=`.
    pub panic_action: Option<PanicAction>,
    /// `-S`.
    pub start_paused: bool,
    /// `-gdb` and `-s`: where a debugger is expected.
    pub gdb: Option<GdbDevice>,
    /// `-no-reboot`.
    pub no_reboot: bool,
    /// `-no-shutdown`.
    pub no_shutdown: bool,
    /// `-nographic`.
    pub nographic: bool,
    /// `-nodefaults`.
    pub nodefaults: bool,
    /// `-loadvm`: the snapshot from which the machine starts.
    pub loadvm: Option<String>,
    /// `-snapdir`: where snapshots are.
    pub snapshot_directory: Option<PathBuf>,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`, in its usual form.
    pub uuid: Option<String>,
    /// `-pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `-d`: what the processes log.
    pub log_filter: Option<String>,
    /// `-D`: where they log.
    pub log_file: Option<PathBuf>,
    /// Lines for the user about what is accepted without having its full effect.
    pub warnings: Vec<String>,
}

/// What happens when a device process ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceExit {
    /// The run ends.
    #[default]
    Shutdown,
    /// The machine stops until `device_restart` and `cont`.
    Pause,
}

/// What happens at the end of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The run ends.
    Shutdown,
    /// The machine stands still, and a monitor or a debugger may take it elsewhere.
    Pause,
}

/// A debug console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugConsole {
    /// Its I/O port.
    pub port: u16,
    /// Where its output goes.
    pub target: Target,
}
