//! `snapshot-save`, `snapshot-load`, `snapshot-delete`: the monitor's savevm, loadvm and delvm as jobs.
//!
//! As in QEMU a command is refused only when its job cannot be named; everything else that is wrong is the job's error.

use super::jobs::Kind;
use super::queries::disks;
use super::table::{Arguments, Outcome};
use crate::hmp::host::Host;
use crate::snapshots::desk::Request;
use replay::machine::Machine;
use serde_json::Value;

type Result = std::result::Result<Outcome, String>;

fn text<'a>(arguments: &'a Arguments, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn save(host: &mut dyn Host, arguments: &Arguments) -> Result {
    begin(host, arguments, Kind::Save, Request::Create)
}

pub(super) fn load(host: &mut dyn Host, arguments: &Arguments) -> Result {
    begin(host, arguments, Kind::Load, Request::Load)
}

pub(super) fn delete(host: &mut dyn Host, arguments: &Arguments) -> Result {
    begin(host, arguments, Kind::Delete, Request::Delete)
}

fn begin(host: &mut dyn Host, arguments: &Arguments, kind: Kind, request: fn(String) -> Request) -> Result {
    let id = text(arguments, "job-id");
    host.jobs().check_new(id)?;
    let tag = text(arguments, "tag");
    if tag.is_empty() {
        return Err("Parameter 'tag' expects the name of a snapshot".to_owned());
    }
    let list = arguments.get("devices").and_then(Value::as_array);
    let devices: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
    let vmstate = arguments.get("vmstate").and_then(Value::as_str);
    let checked = check_devices(host.machine(), &devices, vmstate);
    host.begin_job(id, kind, checked.map(|()| request(tag.to_owned())));
    Ok(Outcome::nothing())
}

/// A snapshot holds all disks that the guest may write to, so all of them must be meant. A machine without disks names none.
fn check_devices(
    machine: Option<&Machine>,
    devices: &[&str],
    vmstate: Option<&str>,
) -> std::result::Result<(), String> {
    let known = machine.map(disks).unwrap_or_default();
    if let Some(unknown) = devices.iter().find(|device| !known.iter().any(|(id, ..)| id == *device)) {
        return Err(format!("No block device node '{unknown}'"));
    }
    if devices.is_empty() && !known.is_empty() {
        return Err("At least one device is required for snapshot".to_owned());
    }
    let is_left_out = |id: &str| !devices.contains(&id);
    if let Some((id, ..)) = known.iter().find(|(id, _, disk)| !disk.read_only && is_left_out(id)) {
        return Err(format!("Device '{id}' is writable and not among 'devices': a snapshot holds all disks"));
    }
    let bad_place = |place: &&str| !(devices.contains(place) || devices.is_empty() && place.is_empty());
    match vmstate.filter(bad_place) {
        Some(place) => Err(format!("vmstate block device '{place}' does not exist")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_disks_and_no_others_are_meant() {
        let machine = crate::machine::tests::machine(
            "-drive file=/nonexist,if=none,id=a,format=raw -device virtio-blk,drive=a \
             -drive file=/nonexist2,if=none,id=b,format=raw,readonly=on -device virtio-blk,drive=b",
        );
        let check = |devices: &[&str], vmstate| check_devices(Some(&machine), devices, vmstate);
        assert_eq!(check(&["a"], Some("a")), Ok(()));
        assert_eq!(check(&["b", "a"], Some("b")), Ok(()));
        assert_eq!(check(&["a"], None), Ok(()));
        for (devices, vmstate, why) in [
            (&["a", "c"][..], "a", "No block device node 'c'"),
            (&[], "a", "At least one device is required for snapshot"),
            (&["a"], "b", "vmstate block device 'b' does not exist"),
            (&["a"], "", "vmstate block device '' does not exist"),
            (&["b"], "b", "Device 'a' is writable and not among 'devices': a snapshot holds all disks"),
        ] {
            assert_eq!(check(devices, Some(vmstate)), Err(why.to_owned()));
        }
        assert_eq!(check_devices(None, &[], Some("")), Ok(()));
        assert!(check_devices(None, &[], Some("a")).is_err());
    }
}
