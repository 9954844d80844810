//! Events: every input of the machine that is not a function of its own state.
//!
//! An event is stamped with the icount at which it took effect. The order in the journal is the truth.

use crate::time::{Icount, Vtime};
use serde::{Deserialize, Serialize};

/// Number of a device process's window, in the order of the machine description.
pub type DeviceIndex = u16;

/// An event and the place where it took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Instructions retired before the event took effect.
    pub icount: Icount,
    /// What happened.
    pub event: Event,
}

/// One input of the machine, or a note about it (digest, end).
///
/// New kinds go to the end: logs store a kind by its place here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A back-end completed requests; the bytes are what went into the guest.
    QueueUsed {
        /// The device.
        device: DeviceIndex,
        /// Number of the virtqueue.
        queue: u16,
        /// Used elements, in the order the guest sees them.
        entries: Vec<UsedEntry>,
    },
    /// A device's configuration space changed.
    ConfigChanged {
        /// The device.
        device: DeviceIndex,
        /// The configuration space as it is now.
        bytes: Vec<u8>,
    },
    /// Keyboard or mouse input from the monitor.
    Input(Input),
    /// The power button was pressed.
    PowerButton,
    /// The monitor asked for a non-maskable interrupt.
    Nmi,
    /// The monitor asked for a reset.
    Reset,
    /// A read of the host's real-time clock, which the RTC follows from here on: nanoseconds since 1970-01-01 UTC.
    HostClock {
        /// In nanoseconds.
        unix_ns: u64,
    },
    /// Host entropy that seeds RDRAND, RDSEED and virtio-rng.
    Entropy {
        /// The host's bytes.
        bytes: Vec<u8>,
    },
    /// An idle machine was woken before its next timer; guest time was set to this.
    IdleWake {
        /// Guest time after the wake.
        vtime: Vtime,
    },
    /// shift=auto chose another rate: 2^shift nanoseconds an instruction.
    Rate {
        /// log2 of the nanoseconds an instruction takes.
        shift: u8,
    },
    /// The machine ended.
    Shutdown {
        /// Why.
        cause: ShutdownCause,
    },
    /// The recording ends here.
    End,
    /// State of the machine at this point; compared in replay.
    Digest {
        /// Over everything but RAM: CPU, translations, clock, chipset.
        registers: u64,
        /// Over guest RAM.
        memory: u64,
    },
    /// What a back-end offered when it was connected; at icount 0, one for each virtio function's device.
    DeviceOffered {
        /// The device.
        device: DeviceIndex,
        /// Its feature bits (virtio 1.2, chapter 6).
        features: u64,
        /// Its configuration space; empty if it has none.
        config: Vec<u8>,
    },
    /// What the guest has sent through a queue that only goes out, since the last such note; compared in replay.
    Sent {
        /// The device.
        device: DeviceIndex,
        /// Number of the virtqueue.
        queue: u16,
        /// Requests.
        count: u32,
        /// Digest of their bytes.
        digest: u64,
    },
    /// The back-end was started again and got its unanswered requests once more. No effect on the guest.
    DeviceRestarted {
        /// The device.
        device: DeviceIndex,
    },
}

/// One used element of a virtqueue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedEntry {
    /// Head descriptor index of the request.
    pub id: u16,
    /// Bytes the device wrote.
    pub len: u32,
    /// What the journal keeps of them.
    pub payload: Payload,
}

/// What a journal keeps of a completed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The bytes themselves; a replay needs no back-end.
    Data(Vec<u8>),
    /// A digest of them; a replay executes the request again and compares.
    Digest(u64),
}

/// Input to the i8042's devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A key by its set-1 scan code (0xe0xx for extended keys).
    Key {
        /// The make code.
        scancode: u16,
        /// Pressed, not released.
        down: bool,
    },
    /// Relative mouse movement.
    MouseMove {
        /// To the right, in counts.
        dx: i32,
        /// Downwards, in counts.
        dy: i32,
        /// Of the wheel.
        dz: i32,
    },
    /// State of all buttons: bit 0 left, bit 1 right, bit 2 middle.
    MouseButtons {
        /// The pressed ones.
        buttons: u8,
    },
}

/// Why a machine ended. QEMU's causes where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownCause {
    /// The guest switched the power off (ACPI S5).
    GuestShutdown,
    /// The guest asked for a reset and `-no-reboot` was given.
    GuestReset,
    /// The guest reported a panic.
    GuestPanic,
    /// A fault while delivering a double fault, and `-no-reboot` was given.
    TripleFault,
    /// The guest wrote to isa-debug-exit; the process status is `value << 1 | 1`.
    DebugExit {
        /// What was written.
        value: u8,
    },
    /// The monitor said quit.
    HostQuit,
    /// A signal ended the run.
    HostSignal {
        /// Its number.
        signal: i32,
    },
    /// Something of the host failed: a child died, the disk is full.
    HostError,
}

impl ShutdownCause {
    /// Whether it comes from outside: the guest does nothing to bring it about.
    pub fn is_from_host(self) -> bool {
        match self {
            ShutdownCause::HostQuit | ShutdownCause::HostSignal { .. } | ShutdownCause::HostError => true,
            ShutdownCause::GuestShutdown
            | ShutdownCause::GuestReset
            | ShutdownCause::GuestPanic
            | ShutdownCause::TripleFault
            | ShutdownCause::DebugExit { .. } => false,
        }
    }
}
