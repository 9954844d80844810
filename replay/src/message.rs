//! Messages of the lane between the broker and a vCPU process.
//!
//! Inbound messages keep their order. The one distinction that matters: `Apply` and `Offer` change the guest and end up
//! in the journal; `Control` never does.

use crate::event::{DeviceIndex, Input, ShutdownCause, Stamped};
use crate::inspect::{Answer, Query};
use crate::time::{Icount, Vtime};
use serde::{Deserialize, Serialize};

/// Broker → vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inbound {
    /// Replay: the next event of the log. The vCPU runs to exactly this icount, applies it, and takes the next.
    Apply(Stamped),
    /// Replay: the log holds no more events; run to this icount and pause there.
    LogEnds {
        /// Last instruction count that the recording is known to have reached.
        icount: Icount,
        /// Whether this is the end of the run or only of what is known of it.
        how: LogEnding,
    },
    /// Plain run and recording: something from the host, to be stamped and applied at the next checkpoint.
    Offer(Offer),
    /// A command without effect on the guest; answered by [`Outbound::Ack`].
    Control {
        /// Chosen by the broker; comes back in the acknowledgement.
        sequence: u64,
        /// What to do.
        control: Control,
    },
    /// To the debugger that is attached to the vCPU process.
    Debugger(ToDebugger),
    /// Replay: what follows is the log from where [`Outbound::Rewind`] asked for.
    Rewound,
}

/// What an attached debugger is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDebugger {
    /// What the monitor says to its [`FromDebugger::Command`].
    Answer {
        /// The command's number.
        number: u64,
        /// The text, its lines ended by LF.
        text: String,
    },
    /// [`FromDebugger::Continue`] was carried out: its control came before this.
    Granted,
    /// [`FromDebugger::Continue`] was refused.
    Refused {
        /// One line.
        why: String,
    },
}

/// What an attached debugger asks of the broker, or does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDebugger {
    /// It is there.
    Attached,
    /// It has gone.
    Detached,
    /// It lets the machine run that stood still for it alone.
    Resumed,
    /// It wants the machine to run, which stands still for another reason.
    Continue,
    /// A command for the monitor.
    Command {
        /// Comes back with the answer.
        number: u64,
        /// The line.
        line: String,
    },
    /// It ends the run.
    Quit,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogEnding {
    /// With its End event.
    Finished,
    /// Without: its writer was killed or could not write on.
    CutShort,
    /// At a damaged block; what follows is not used.
    Damaged,
}

/// Something from the host that becomes an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offer {
    /// A back-end signalled a queue; its used entries are in the window.
    DeviceReady {
        /// The device, in window order.
        device: DeviceIndex,
        /// Index of the virtqueue.
        queue: u16,
    },
    /// Keyboard or mouse.
    Input(Input),
    /// The power button.
    PowerButton,
    /// A non-maskable interrupt.
    Nmi,
    /// A reset of the machine.
    Reset,
    /// A write to an I/O port.
    PortWrite {
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// What to write.
        value: u32,
    },
    /// End the run.
    Quit {
        /// Why.
        cause: ShutdownCause,
    },
}

/// A command without effect on the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Pause between two instructions.
    Stop,
    /// Run on.
    Continue,
    /// End the process without an event: a replay is left.
    Quit,
    /// A device has another back-end; its descriptors are the next message on the control socket.
    Reconnect {
        /// The device.
        device: DeviceIndex,
        /// It is the one with which a disk goes on after a save or a load: the disk gets nothing before. Without this another
        /// one is to come for a disk that waits.
        goes_on: bool,
    },
    /// Debuggers are expected on another socket from now on, or on none. An attached one is left.
    Debugger {
        /// The listening socket is the next message on the control socket.
        listens: bool,
    },
    /// Replay: go to this place, back or forward, and pause there. Acknowledged on arrival.
    Seek {
        /// Instructions retired.
        icount: Icount,
        /// Events of the log that were applied; 0 for the first arrival at the icount.
        events: u64,
    },
    /// Replay: as `Seek`, to the first place at which guest time is this or later.
    SeekTime {
        /// Guest time.
        vtime: Vtime,
    },
    /// Replay: pause when guest time comes to this; once.
    BreakTime {
        /// Guest time.
        vtime: Vtime,
    },
    /// Save the machine's state: answered by [`Outbound::Saved`], then [`Outbound::Copied`].
    Save {
        /// All of RAM, not only what was written since the last save or load.
        full: bool,
        /// Disks whose back-ends are about to be replaced: they get no request after those that the state knows.
        held: Vec<DeviceIndex>,
    },
    /// Take the state in the files that are the next message on the control socket ([`crate::handover`]): answered by
    /// [`Outbound::Loaded`].
    Load {
        /// As for `Save`; with an image that fits the state they come back.
        held: Vec<DeviceIndex>,
    },
    /// Replay: go to the start, which no stored snapshot has: answered by [`Outbound::Loaded`].
    LoadStart {
        /// As for `Load`.
        held: Vec<DeviceIndex>,
    },
    /// Replay: there is a stored snapshot of this place, which [`Outbound::Fetch`] may ask for.
    Known {
        /// Instructions retired.
        icount: Icount,
        /// Events of the log that were applied.
        events: u64,
        /// Guest time there.
        vtime: Vtime,
    },
    /// Replay: pause when the run comes here; once.
    Break {
        /// Instructions retired.
        icount: Icount,
    },
    /// Replay: forget such a place; all of them, also those in guest time, if none is named.
    DeleteBreak {
        /// Instructions retired.
        icount: Option<Icount>,
    },
    /// Tell something about the machine. Answered by [`Outbound::Inspected`], not acknowledged.
    Inspect {
        /// What.
        query: Query,
    },
}

/// vCPU → broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outbound {
    /// An event took effect; the order of these is the truth.
    Journal(Stamped),
    /// The control command with this number was carried out.
    Ack {
        /// The command's number.
        sequence: u64,
    },
    /// The answer to [`Control::Inspect`].
    Inspected {
        /// The command's number.
        sequence: u64,
        /// The answer.
        answer: Answer,
    },
    /// The machine stands still.
    Paused {
        /// Where.
        icount: Icount,
        /// Why.
        reason: PauseReason,
    },
    /// [`Control::Reconnect`] came to nothing: the device has no back-end.
    NotConnected {
        /// The control's number.
        sequence: u64,
        /// The device.
        device: DeviceIndex,
        /// One line.
        why: String,
    },
    /// A replay differs from its recording; the machine is paused.
    Divergence {
        /// Where the difference was seen.
        icount: Icount,
        /// What differs, e.g. `registers digest`.
        field: String,
        /// The recording's value.
        expected: String,
        /// The replay's value.
        found: String,
    },
    /// The machine was reset; it goes on.
    WasReset {
        /// By the guest, not by a monitor.
        guest: bool,
    },
    /// The run is over; the process is about to exit.
    Ended {
        /// Why.
        cause: ShutdownCause,
        /// Where.
        icount: Icount,
    },
    /// A warning for the user.
    Note {
        /// One line.
        text: String,
    },
    /// What the attached debugger asks or does.
    Debugger(FromDebugger),
    /// Replay: the machine went to another place; send the log again from behind this many events, after
    /// [`Inbound::Rewound`].
    Rewind {
        /// Events of the log that were applied before that place.
        events: u64,
    },
    /// State was saved as it is here, and is in files that are the next message on the control socket. The machine goes on.
    Saved {
        /// The command's number.
        sequence: u64,
        /// The disks hold what belongs to the state, and wait. Else, in a replay that was taken back, they are ahead of it.
        with_disks: bool,
    },
    /// All pages of a saved state are in its file, unless there is an error.
    Copied {
        /// The command's number.
        sequence: u64,
        /// A line for the user.
        error: Option<String>,
    },
    /// A state was taken: what follows happens from there on. With an error, nothing was changed.
    Loaded {
        /// The command's number.
        sequence: u64,
        /// A line for the user.
        error: Option<String>,
    },
    /// Replay: the way is shorter from this stored snapshot.
    Fetch {
        /// Instructions retired.
        icount: Icount,
        /// Events of the log that were applied.
        events: u64,
    },
    /// Replay: the way goes from the start, and the disks of this run have begun later. Answered by [`Control::Load`] or
    /// [`Control::LoadStart`].
    FetchStart,
    /// The machine stands still until this back-end answers; none: it has.
    Waiting {
        /// The device.
        device: Option<DeviceIndex>,
    },
}

/// Why a machine stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseReason {
    /// The monitor asked for it, or `-S` was given.
    Stopped,
    /// A debugger asked for it; it may let the machine run on by itself.
    Debugger,
    /// A replay has arrived where it was to go, or to stop.
    Place,
    /// The replay has reached the end of the log.
    EndOfLog,
    /// The guest ended, and the machine was told to stay (`-no-shutdown`).
    Shutdown(ShutdownCause),
    /// The replay differs from the recording.
    Divergence,
}
