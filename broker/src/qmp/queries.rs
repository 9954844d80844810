//! What QMP's commands tell.

use super::table::{Arguments, COMMANDS, Outcome};
use crate::disk_images;
use crate::hmp::host::{Host, RunStatus};
use replay::device::{DeviceKind, Disk, Image};
use replay::machine::Machine;
use replay::setup::Mode;
use serde_json::{Value, json};

type Result = std::result::Result<Outcome, String>;

fn done(value: Value) -> Result {
    Ok(Outcome::Done(value))
}

/// The program's version in QEMU's shape.
pub(super) fn version_value() -> Value {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("reprise ", env!("CARGO_PKG_VERSION")),
    })
}

pub(super) fn version(_: &mut dyn Host, _: &Arguments) -> Result {
    done(version_value())
}

pub(super) fn status(host: &mut dyn Host, _: &Arguments) -> Result {
    let status = match host.run_status() {
        RunStatus::Running => "running",
        RunStatus::Prelaunch => "prelaunch",
        RunStatus::Paused => "paused",
        RunStatus::Debug => "debug",
        RunStatus::Shutdown => "shutdown",
        RunStatus::Panicked => "guest-panicked",
        RunStatus::IoError => "io-error",
        RunStatus::InternalError => "internal-error",
    };
    let running = host.run_status() == RunStatus::Running;
    done(json!({"status": status, "running": running, "singlestep": false}))
}

pub(super) fn replay(host: &mut dyn Host, _: &Arguments) -> Result {
    let status = host.replay_status();
    done(match status.mode {
        Mode::Plain => json!({"mode": "none", "icount": status.icount}),
        Mode::Record => json!({"mode": "record", "filename": status.file, "icount": status.icount}),
        Mode::Replay => json!({"mode": "play", "filename": status.file, "icount": status.icount}),
    })
}

pub(super) fn name(host: &mut dyn Host, _: &Arguments) -> Result {
    done(host.name().map_or_else(|| json!({}), |name| json!({"name": name})))
}

pub(super) fn uuid(host: &mut dyn Host, _: &Arguments) -> Result {
    done(json!({"UUID": host.uuid().unwrap_or("00000000-0000-0000-0000-000000000000")}))
}

pub(super) fn cpus(host: &mut dyn Host, _: &Arguments) -> Result {
    done(json!([{
        "cpu-index": 0,
        "qom-path": "/machine/unattached/device[0]",
        "thread-id": host.vcpu_pid(),
        "props": {"core-id": 0, "thread-id": 0, "socket-id": 0},
        "target": "x86_64",
    }]))
}

pub(super) fn chardev(host: &mut dyn Host, _: &Arguments) -> Result {
    let all = host.chardevs().into_iter();
    done(
        all.map(|(label, filename)| json!({"label": label, "filename": filename, "frontend-open": true}))
            .collect(),
    )
}

pub(super) fn commands(_: &mut dyn Host, _: &Arguments) -> Result {
    done(COMMANDS.iter().map(|row| json!({"name": row.name})).collect())
}

pub(super) fn jobs(host: &mut dyn Host, _: &Arguments) -> Result {
    done(host.jobs().describe())
}

pub(super) fn block(host: &mut dyn Host, _: &Arguments) -> Result {
    let Some(machine) = host.machine() else { return done(json!([])) };
    let disks = disks(machine);
    done(disks.into_iter().map(|(id, function, disk)| disk_value(id, function, disk)).collect())
}

/// All disks: name, function, the disk itself.
pub(super) fn disks(machine: &Machine) -> Vec<(&str, &str, &Disk)> {
    let mut disks = vec![];
    for function in &machine.functions {
        for (index, _) in function.kind.back_ends() {
            let Some(device) = machine.devices.get(usize::from(index)) else { continue };
            if let DeviceKind::Block(disk) = &device.kind {
                disks.push((device.id.as_str(), function.id.as_str(), disk));
            }
        }
    }
    disks
}

fn disk_value(id: &str, function: &str, disk: &Disk) -> Value {
    let (filename, format, bytes) = match &disk.image {
        Image::File { path, format } => {
            // The size of an image is in its header; one that cannot be read now has none.
            let known = disk_images::identify(id, path, format.as_deref()).ok();
            let found = known.as_ref().map(|known| known.format.clone());
            let format = format.clone().or(found).unwrap_or_else(|| "raw".to_owned());
            (path.display().to_string(), format, known.map_or(0, |known| known.bytes))
        }
        Image::Null { bytes } => ("null-co://".to_owned(), "null-co".to_owned(), *bytes),
        Image::Memory { bytes } => ("memory".to_owned(), "memory".to_owned(), *bytes),
    };
    json!({
        "device": id,
        "qdev": format!("/machine/peripheral/{function}/virtio-backend"),
        "type": "unknown",
        "removable": false,
        "locked": false,
        "io-status": "ok",
        "inserted": {
            "file": filename,
            "drv": format,
            "node-name": id,
            "ro": disk.read_only,
            "encrypted": false,
            "backing_file_depth": 0,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
            "cache": {"writeback": true, "direct": false, "no-flush": disk.cache_unsafe},
            "image": {"filename": filename, "format": format, "virtual-size": bytes},
        },
    })
}
