//! `reprise log DIR`: the events of a recording, one a line.

use super::describe::{Described, describe};
use super::{Form, InspectError, KINDS, ending_json};
use replay::device::DeviceChoice;
use replay::event::DeviceIndex;
use replay::log::{Ending, Entry, Step};
use replay::recording::Recording;
use replay::time::Icount;
use serde_json::{Value, json};
use std::io::Write;

/// Which events to show; everything by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `--kind`: only these, of [`KINDS`]; empty for all.
    pub kinds: Vec<String>,
    /// `--device`: only events of this device, by its id or its index.
    pub device: Option<String>,
    /// `--from`: first icount.
    pub from: Option<Icount>,
    /// `--to`: last icount.
    pub to: Option<Icount>,
}

/// Writes the events that pass the filter, and how the log ends. The ending is also returned, for the exit status.
pub fn dump(
    recording: &Recording,
    filter: &Filter,
    form: Form,
    out: &mut dyn Write,
) -> Result<Ending, InspectError> {
    let devices = &recording.manifest().machine.devices;
    let device = filter.check(devices)?;
    let mut reader = recording.open_log()?;
    if form == Form::Text {
        writeln!(out, "{:>16} {:>6}  {:<14} detail", "icount", "block", "kind")?;
    }
    let ending = loop {
        let entry = match reader.next()? {
            Step::Event(entry) => entry,
            Step::Ended(ending) => break ending,
        };
        let described = describe(&entry.stamped.event);
        if !filter.passes(&entry, &described, device) {
            continue;
        }
        let name = described.device.map(|index| device_name(devices, index));
        match form {
            Form::Text => writeln!(out, "{}", text_line(&entry, &described, name))?,
            Form::Json => writeln!(out, "{}", json_line(&entry, &described, name))?,
        }
    };
    match form {
        Form::Text => writeln!(out, "# {ending}")?,
        Form::Json => writeln!(out, "{}", ending_json(&ending))?,
    }
    Ok(ending)
}

impl Filter {
    /// Checks the names in the filter; returns the index of the device.
    fn check(&self, devices: &[DeviceChoice]) -> Result<Option<DeviceIndex>, InspectError> {
        if let Some(kind) = self.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(InspectError::UnknownKind(kind.clone()));
        }
        let Some(name) = &self.device else { return Ok(None) };
        let by_id = devices.iter().position(|device| device.id == *name);
        let by_index = || name.parse::<usize>().ok().filter(|index| *index < devices.len());
        match by_id.or_else(by_index).map(DeviceIndex::try_from) {
            Some(Ok(index)) => Ok(Some(index)),
            Some(Err(_)) | None => {
                let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
                Err(InspectError::UnknownDevice { name: name.clone(), devices: ids.join(", ") })
            }
        }
    }

    fn passes(&self, entry: &Entry, described: &Described, device: Option<DeviceIndex>) -> bool {
        let icount = entry.stamped.icount;
        self.from.is_none_or(|from| icount >= from)
            && self.to.is_none_or(|to| icount <= to)
            && (device.is_none() || described.device == device)
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == described.kind))
    }
}

fn device_name(devices: &[DeviceChoice], index: DeviceIndex) -> String {
    devices.get(usize::from(index)).map_or(format!("device {index}"), |device| device.id.clone())
}

fn text_line(entry: &Entry, described: &Described, device: Option<String>) -> String {
    let device = device.map_or(String::new(), |name| format!("{} ", name.escape_debug()));
    let line = format!(
        "{:>16} {:>6}  {:<14} {device}{}",
        entry.stamped.icount.0, entry.block, described.kind, described.text
    );
    line.trim_end().to_owned()
}

fn json_line(entry: &Entry, described: &Described, device: Option<String>) -> Value {
    let mut object = json!({
        "icount": entry.stamped.icount,
        "block": entry.block,
        "offset": entry.offset,
        "kind": described.kind,
    });
    if let Some(name) = device {
        object["device"] = name.into();
    }
    if let Value::Object(fields) = &described.fields {
        fields.iter().for_each(|(name, value)| object[name] = value.clone());
    }
    object
}
