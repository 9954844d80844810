//! One event in words, for people and for scripts.

use replay::event::{DeviceIndex, Event, Input, Payload, ShutdownCause, UsedEntry};
use serde_json::{Value, json};

/// Every kind of event, as `--kind` takes it.
pub const KINDS: [&str; 17] = [
    "queue-used",
    "config-changed",
    "input",
    "power-button",
    "nmi",
    "reset",
    "host-clock",
    "entropy",
    "idle-wake",
    "rate",
    "shutdown",
    "end",
    "digest",
    "device-offered",
    "sent",
    "device-restarted",
    "port-write",
];

/// Bytes of data shown in a line of text.
const SHOWN_BYTES_MAX: usize = 32;

/// An event in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// The device it belongs to.
    pub device: Option<DeviceIndex>,
    /// The rest of a line.
    pub text: String,
    /// The rest of an object; bytes in hexadecimal.
    pub fields: Value,
}

/// Describes an event.
pub fn describe(event: &Event) -> Described {
    let of = |kind, text: String, fields| Described { kind, device: None, text, fields };
    match event {
        Event::QueueUsed { device, queue, entries } => Described {
            kind: "queue-used",
            device: Some(*device),
            text: format!("queue {queue}: {}", join(entries.iter().map(entry_text))),
            fields: json!({"queue": queue, "entries": entries.iter().map(entry_json).collect::<Vec<_>>()}),
        },
        Event::ConfigChanged { device, bytes } => Described {
            kind: "config-changed",
            device: Some(*device),
            text: bytes_text(bytes),
            fields: json!({"bytes": hex(bytes)}),
        },
        Event::Input(input) => of("input", input_text(input), input_json(input)),
        Event::PowerButton => of("power-button", String::new(), json!({})),
        Event::Nmi => of("nmi", String::new(), json!({})),
        Event::Reset => of("reset", String::new(), json!({})),
        Event::HostClock { unix_ns } => {
            let text = format!("{}.{:09} s since 1970", unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
            of("host-clock", text, json!({"unix_ns": unix_ns}))
        }
        Event::Entropy { bytes } => of("entropy", hex_text(bytes), json!({"bytes": hex(bytes)})),
        Event::IdleWake { vtime } => {
            of("idle-wake", format!("guest time {vtime}"), json!({"vtime_ns": vtime.0}))
        }
        Event::Rate { shift } => of("rate", format!("2^{shift} ns an instruction"), json!({"shift": shift})),
        Event::Shutdown { cause } => of("shutdown", cause_text(*cause), json!({"cause": cause_text(*cause)})),
        Event::End => of("end", String::new(), json!({})),
        Event::Digest { registers, memory } => {
            let (registers, memory) = (format!("{registers:016x}"), format!("{memory:016x}"));
            let text = format!("registers {registers} memory {memory}");
            of("digest", text, json!({"registers": registers, "memory": memory}))
        }
        Event::DeviceOffered { device, features, config } => Described {
            kind: "device-offered",
            device: Some(*device),
            text: format!("features {features:#x} config {}", hex_text(config)),
            fields: json!({"features": features, "config": hex(config)}),
        },
        Event::Sent { device, queue, count, digest } => Described {
            kind: "sent",
            device: Some(*device),
            text: format!("queue {queue}: {count} request(s) digest {digest:016x}"),
            fields: json!({"queue": queue, "count": count, "digest": format!("{digest:016x}")}),
        },
        Event::PortWrite { port, size, value } => of(
            "port-write",
            format!("port {port:#06x} size {size} value {value:#x}"),
            json!({"port": port, "size": size, "value": value}),
        ),
        Event::DeviceRestarted { device } => Described {
            kind: "device-restarted",
            device: Some(*device),
            text: String::new(),
            fields: json!({}),
        },
    }
}

/// A shutdown cause in words; the names are QEMU's where it has one.
pub fn cause_text(cause: ShutdownCause) -> String {
    match cause {
        ShutdownCause::GuestShutdown => "guest-shutdown".into(),
        ShutdownCause::GuestReset => "guest-reset".into(),
        ShutdownCause::GuestPanic => "guest-panic".into(),
        ShutdownCause::TripleFault => "triple-fault".into(),
        ShutdownCause::DebugExit { value } => format!("debug-exit {value:#x}"),
        ShutdownCause::HostQuit => "host-qmp-quit".into(),
        ShutdownCause::HostSignal { signal } => format!("host-signal {signal}"),
        ShutdownCause::HostError => "host-error".into(),
    }
}

fn input_text(input: &Input) -> String {
    match input {
        Input::Key { scancode, down } => format!("key {scancode:#x} {}", if *down { "down" } else { "up" }),
        Input::MouseMove { dx, dy, dz } => format!("mouse moves {dx} {dy} {dz}"),
        Input::MouseButtons { buttons } => format!("mouse buttons {buttons:03b}"),
    }
}

fn input_json(input: &Input) -> Value {
    match input {
        Input::Key { scancode, down } => json!({"scancode": scancode, "down": down}),
        Input::MouseMove { dx, dy, dz } => json!({"dx": dx, "dy": dy, "dz": dz}),
        Input::MouseButtons { buttons } => json!({"buttons": buttons}),
    }
}

fn entry_text(entry: &UsedEntry) -> String {
    let payload = match &entry.payload {
        Payload::Data(bytes) => bytes_text(bytes),
        Payload::Digest(digest) => format!("digest {digest:016x}"),
    };
    format!("id {} len {} {payload}", entry.id, entry.len)
}

fn entry_json(entry: &UsedEntry) -> Value {
    match &entry.payload {
        Payload::Data(bytes) => json!({"id": entry.id, "len": entry.len, "data": hex(bytes)}),
        Payload::Digest(digest) => {
            json!({"id": entry.id, "len": entry.len, "digest": format!("{digest:016x}")})
        }
    }
}

/// Text as text, with escapes for what no terminal should get.
fn bytes_text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    format!("\"{}\"{}", shown.escape_ascii(), more(bytes))
}

fn hex_text(bytes: &[u8]) -> String {
    format!("{}{}", hex(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]), more(bytes))
}

fn more(bytes: &[u8]) -> String {
    match bytes.len().saturating_sub(SHOWN_BYTES_MAX) {
        0 => String::new(),
        more => format!(" and {more} bytes more"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join("; ")
}
