//! What contradicts a recording: options given to a replay that are not those of the recorded machine.

use crate::device::{DeviceChoice, DeviceKind, Disk, Image, VirtioFunction, VirtioKind};
use crate::machine::{Boot, Clock, CpuChoice, Machine, PanicAction};
use crate::manifest::FileIdentity;
use std::fmt;

/// One property with two values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The property in the user's terms, e.g. `-m (RAM size)`.
    pub field: String,
    /// The recording's value.
    pub recorded: String,
    /// The given value.
    pub given: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: recorded {}, given {}", self.field, self.recorded, self.given)
    }
}

/// Compares every property of two machines.
///
/// Images may lie elsewhere now: of `-kernel` and `-initrd` only the presence is compared here, the content by
/// [`compare_image`]. A caller for whom a property was not given copies the recorded value into `given` first; that holds
/// in particular for `clock.rtc_base`, which was the host's time when the recording began.
pub fn compare(recorded: &Machine, given: &Machine) -> Vec<Difference> {
    let Machine {
        ram_bytes,
        cpu,
        cpu_count,
        boot,
        clock,
        uarts,
        devices,
        functions,
        no_reboot,
        no_shutdown,
        panic_action,
        debug_exit_port,
        debug_console,
        uuid,
    } = recorded;
    let mut found = Vec::new();
    let mut check = |field: &str, recorded: String, given: String| {
        if recorded != given {
            found.push(Difference { field: field.into(), recorded, given });
        }
    };
    check("-m (RAM size)", size(*ram_bytes), size(given.ram_bytes));
    check("-cpu", cpu_text(cpu), cpu_text(&given.cpu));
    check("-smp (number of CPUs)", cpu_count.to_string(), given.cpu_count.to_string());
    let Boot { kernel, initrd, cmdline } = boot;
    check("-kernel", presence(kernel.is_some()), presence(given.boot.kernel.is_some()));
    check("-initrd", presence(initrd.is_some()), presence(given.boot.initrd.is_some()));
    check("-append", format!("{cmdline:?}"), format!("{:?}", given.boot.cmdline));
    let Clock { shift: _, auto: _, sleep, rtc_base, host_offset_s } = clock;
    check("-icount shift=", shift_text(clock), shift_text(&given.clock));
    check("-icount sleep=", on_off(*sleep), on_off(given.clock.sleep));
    check("-rtc base= (seconds since 1970)", rtc_base.to_string(), given.clock.rtc_base.to_string());
    check("-rtc clock=", rtc_clock_text(*host_offset_s), rtc_clock_text(given.clock.host_offset_s));
    check("-serial (devices of the UARTs)", uarts_text(uarts), uarts_text(&given.uarts));
    check("devices", devices_text(devices), devices_text(&given.devices));
    check("-device (virtio)", functions_text(functions), functions_text(&given.functions));
    check("-no-reboot", on_off(*no_reboot), on_off(given.no_reboot));
    check("-no-shutdown", on_off(*no_shutdown), on_off(given.no_shutdown));
    check("-action panic=", panic_text(*panic_action), panic_text(given.panic_action));
    let exit_port = |port: Option<u16>| port.map_or("none".into(), |port| format!("iobase={port:#x}"));
    check("-device isa-debug-exit", exit_port(*debug_exit_port), exit_port(given.debug_exit_port));
    let console = |choice: Option<(u16, u16)>| {
        choice.map_or("none".into(), |(port, device)| format!("iobase={port:#x} on device {device}"))
    };
    check("-debugcon", console(*debug_console), console(given.debug_console));
    let name = |uuid: &Option<String>| uuid.clone().unwrap_or("none".into());
    check("-uuid", name(uuid), name(&given.uuid));
    found
}

/// Compares an image by content. `option` is `-kernel` or `-initrd`.
pub fn compare_image(
    option: &str,
    recorded: Option<&FileIdentity>,
    given: Option<&FileIdentity>,
) -> Option<Difference> {
    let same = match (recorded, given) {
        (Some(recorded), Some(given)) => recorded.bytes == given.bytes && recorded.sha256 == given.sha256,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let text = |image: Option<&FileIdentity>| {
        image.map_or("none".into(), |i| format!("{} ({} bytes, sha256 {})", i.path, i.bytes, i.sha256))
    };
    let field = format!("{option} (content)");
    (!same).then(|| Difference { field, recorded: text(recorded), given: text(given) })
}

/// A size in the largest unit that divides it.
fn size(bytes: u64) -> String {
    [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .map_or(format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

fn cpu_text(cpu: &CpuChoice) -> String {
    let CpuChoice { model, features } = cpu;
    let changes = features.iter().map(|(name, on)| format!(",{}{name}", if *on { '+' } else { '-' }));
    changes.fold(model.clone(), |text, change| text + &change)
}

fn shift_text(clock: &Clock) -> String {
    if clock.auto { format!("auto (from {})", clock.shift) } else { clock.shift.to_string() }
}

fn panic_text(action: PanicAction) -> String {
    match action {
        PanicAction::None => "none",
        PanicAction::Pause => "pause",
        PanicAction::Shutdown => "shutdown",
        PanicAction::ExitFailure => "exit-failure",
    }
    .into()
}

fn rtc_clock_text(host_offset_s: Option<i64>) -> String {
    match host_offset_s {
        None => "vm".into(),
        Some(0) => "host".into(),
        Some(offset) => format!("host ({offset:+} s)"),
    }
}

fn on_off(value: bool) -> String {
    if value { "on" } else { "off" }.into()
}

fn presence(value: bool) -> String {
    if value { "one" } else { "none" }.into()
}

fn uarts_text(uarts: &[Option<u16>]) -> String {
    list(uarts.iter().map(|uart| uart.map_or("none".into(), |device| format!("device {device}"))))
}

fn devices_text(devices: &[DeviceChoice]) -> String {
    list(devices.iter().map(|device| format!("{} ({})", device.id, kind_text(&device.kind))))
}

/// What the guest can tell of a back-end: where its data comes from may differ.
fn kind_text(kind: &DeviceKind) -> String {
    match kind {
        DeviceKind::Chardev => "Chardev".into(),
        DeviceKind::Net { .. } => "network".into(),
        DeviceKind::Entropy { .. } => "entropy".into(),
        DeviceKind::Foreign { .. } => "vhost-user".into(),
        DeviceKind::Block(disk) => disk_text(disk),
    }
}

/// A copy of an image elsewhere is as good: its content is checked as it is read.
fn disk_text(disk: &Disk) -> String {
    let image = match &disk.image {
        Image::File { .. } => "disk".into(),
        Image::Null { bytes } => format!("null disk of {}", size(*bytes)),
        Image::Memory { bytes } => format!("memory disk of {}", size(*bytes)),
    };
    let serial = disk.serial.as_deref().map_or(String::new(), |serial| format!(" serial={serial}"));
    let block = disk.logical_block_size.map_or(String::new(), |bytes| format!(" logical_block_size={bytes}"));
    let read_only = if disk.read_only { " read-only" } else { "" };
    format!("{image}{serial}{block}{read_only}")
}

fn functions_text(functions: &[VirtioFunction]) -> String {
    list(functions.iter().map(|function| {
        let VirtioFunction { id, address, kind, queue_size_max, vectors, window } = function;
        let kind = match kind {
            VirtioKind::Block { queues, .. } => format!("virtio-blk num-queues={queues}"),
            VirtioKind::Net { mac, .. } => {
                let digits: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("virtio-net mac={}", digits.join(":"))
            }
            VirtioKind::Entropy { .. } => "virtio-rng".into(),
            VirtioKind::Console { ports } => {
                let port = |port: &crate::device::ConsolePort| {
                    let kind = if port.console { "console" } else { "port" };
                    format!(" {kind} {} {}", port.number, port.name.as_deref().unwrap_or("without a name"))
                };
                ports.iter().map(port).fold("virtio-serial".into(), |text: String, port| text + &port)
            }
            VirtioKind::Other { device_type, queues, .. } => {
                format!("virtio device type {device_type} num-queues={queues}")
            }
        };
        let window = if *window { "" } else { " window=off" };
        let (device, number) = (address.device, address.function);
        format!(
            "{id} at {device:02x}.{number} ({kind} queue-size={queue_size_max} vectors={vectors}{window})"
        )
    }))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    #[test]
    fn equal_machines_do_not_differ() {
        let machine = manifest::example().machine;
        assert_eq!(compare(&machine, &machine), []);
        let mut moved = machine.clone();
        moved.boot.kernel = Some("/elsewhere/vmlinuz".into());
        assert_eq!(compare(&machine, &moved), []);
    }

    #[test]
    fn every_property_is_named_with_both_values() {
        let recorded = manifest::example().machine;
        type Change = fn(&mut Machine);
        let cases: [(Change, &str); 18] = [
            (|m| m.ram_bytes = 320 << 20, "-m (RAM size): recorded 256 MiB, given 320 MiB"),
            (|m| m.cpu.features.clear(), "-cpu: recorded x86-64-v3,-avx2, given x86-64-v3"),
            (|m| m.cpu_count = 2, "-smp (number of CPUs): recorded 1, given 2"),
            (|m| m.boot.kernel = None, "-kernel: recorded one, given none"),
            (|m| m.boot.initrd = Some("i".into()), "-initrd: recorded none, given one"),
            (|m| m.boot.cmdline = "quiet".into(), "-append: recorded \"console=ttyS0\", given \"quiet\""),
            (|m| m.clock.auto = true, "-icount shift=: recorded 5, given auto (from 5)"),
            (|m| m.clock.sleep = false, "-icount sleep=: recorded on, given off"),
            (|m| m.clock.rtc_base = 5, "-rtc base= (seconds since 1970): recorded 1700000000, given 5"),
            (|m| m.clock.host_offset_s = Some(-60), "-rtc clock=: recorded vm, given host (-60 s)"),
            (|m| m.uarts = vec![None], "-serial (devices of the UARTs): recorded device 0, given none"),
            (|m| m.devices.clear(), "devices: recorded serial0 (Chardev), given none"),
            (|m| m.no_reboot = false, "-no-reboot: recorded on, given off"),
            (|m| m.no_shutdown = true, "-no-shutdown: recorded off, given on"),
            (|m| m.panic_action = PanicAction::Pause, "-action panic=: recorded none, given pause"),
            (
                |m| m.debug_exit_port = Some(0x501),
                "-device isa-debug-exit: recorded none, given iobase=0x501",
            ),
            (
                |m| m.debug_console = Some((0xe9, 0)),
                "-debugcon: recorded none, given iobase=0xe9 on device 0",
            ),
            (|m| m.uuid = Some("a".into()), "-uuid: recorded none, given a"),
        ];
        for (change, expected) in cases {
            let mut given = recorded.clone();
            change(&mut given);
            let found: Vec<String> = compare(&recorded, &given).iter().map(ToString::to_string).collect();
            assert_eq!(found, [expected]);
        }
        let mut given = recorded.clone();
        given.devices.push(DeviceChoice { id: "serial1".into(), kind: DeviceKind::Chardev });
        assert_eq!(compare(&recorded, &given).len(), 1);
    }

    #[test]
    fn images_are_compared_by_content() {
        let recorded = manifest::example().kernel.unwrap();
        let moved = FileIdentity { path: "/tmp/k".into(), ..recorded.clone() };
        assert_eq!(compare_image("-kernel", Some(&recorded), Some(&moved)), None);
        let other = FileIdentity { sha256: "1".repeat(64), ..moved };
        let found = compare_image("-kernel", Some(&recorded), Some(&other)).unwrap();
        assert_eq!(found.field, "-kernel (content)");
        assert!(found.recorded.contains("/boot/vmlinuz") && found.given.contains("1111"));
        assert!(compare_image("-kernel", Some(&recorded), None).is_some());
        assert_eq!(compare_image("-kernel", None, None), None);
    }

    #[test]
    fn sizes_are_exact() {
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(1537 << 20), "1537 MiB");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(4097), "4097 bytes");
        assert_eq!(size(0), "0 bytes");
    }
}
