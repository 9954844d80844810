//! What the broker hands to a vCPU process at its start, as JSON in a memfd.

use crate::machine::Machine;
use serde::{Deserialize, Serialize};

/// Where the inputs of a run come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// From the host; nothing is kept.
    Plain,
    /// From the host; journaled.
    Record,
    /// From the log.
    Replay,
}

/// Start parameters of `reprise vcpu --setup-fd=N`. File descriptors are inherited numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSetup {
    /// The machine to build.
    pub machine: Machine,
    /// Record, replay or neither.
    pub mode: Mode,
    /// Memory of the lane.
    pub lane_fd: i32,
    /// Eventfd by which the vCPU process wakes the broker.
    pub doorbell_fd: i32,
    /// UNIX socket (SOCK_SEQPACKET) on which the broker hands over descriptors (SCM_RIGHTS) while the machine runs:
    /// one message for each [`crate::message::Control::Reconnect`], the connected vhost-user socket, then the call
    /// eventfds by queue.
    pub control_fd: i32,
    /// Listening socket for debuggers.
    #[serde(default)]
    pub debugger_fd: Option<i32>,
    /// Packet captures: the function's number in `machine.functions`, and a file that gets a pcap stream.
    pub captures: Vec<(u16, i32)>,
    /// One entry for each of `machine.devices`.
    pub devices: Vec<DeviceFds>,
    /// Before anything else a state is loaded.
    pub awaits_state: bool,
    /// Replay: somebody may want to go to another place, so what leads back is kept.
    pub keeps_past: bool,
    /// `-S`: wait for `cont` before the first instruction.
    pub start_paused: bool,
    /// Instructions between two digests.
    pub digest_interval: u64,
}

impl VcpuSetup {
    /// A machine without a lane, back-ends or digests: for programs that run one in their own process.
    pub fn alone(machine: Machine, mode: Mode) -> VcpuSetup {
        VcpuSetup {
            machine,
            mode,
            lane_fd: -1,
            doorbell_fd: -1,
            control_fd: -1,
            debugger_fd: None,
            captures: vec![],
            devices: vec![],
            awaits_state: false,
            keeps_past: false,
            start_paused: false,
            digest_interval: 0,
        }
    }
}

/// How the vCPU process reaches one back-end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFds {
    /// Connected vhost-user socket; none where a replay needs no back-end.
    pub socket_fd: Option<i32>,
    /// Eventfd per queue which the back-end signals and the broker polls.
    pub call_fds: Vec<i32>,
}
