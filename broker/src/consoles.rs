//! Ports of virtio consoles: which console they belong to and which number they get.

use crate::cli::CliError;
use crate::cli::device::{DeviceOption, Model};
use crate::functions::Attached;
use replay::device::{ConsolePort, VirtioKind};

/// Adds a port, whose back-end is `device`, to its console among `functions`; returns the name of its stream.
pub fn add_port(
    functions: &mut [Attached],
    option: &DeviceOption,
    device: u16,
) -> Result<Option<String>, CliError> {
    let Model::Port { console, chardev, name, number, bus } = &option.model else {
        unreachable!("the caller has looked at the model")
    };
    let driver = &option.driver;
    let wanted = bus.as_deref().map(|bus| bus.strip_suffix(".0").unwrap_or(bus));
    let is_it = |id: &str| wanted.is_none_or(|wanted| wanted == id);
    let mut full = None;
    for Attached { function, option } in functions.iter_mut().filter(|each| is_it(&each.function.id)) {
        let (VirtioKind::Console { ports }, Model::Serial { ports_max }) =
            (&mut function.kind, &option.model)
        else {
            continue;
        };
        let used = |number: u16| ports.iter().any(|port| port.number == number);
        // Port 0 is kept for a console, as in QEMU.
        let first = u16::from(!console);
        let number = match number {
            Some(number) if used(*number) => {
                return Err(CliError(format!(
                    "{driver}: a port with number {number} exists on {}",
                    function.id
                )));
            }
            Some(number) if number >= ports_max => {
                return Err(CliError(format!("{driver}: nr={number}: at most {}", ports_max - 1)));
            }
            Some(number) => *number,
            None => match (first..*ports_max).find(|number| !used(*number)) {
                Some(number) => number,
                None => {
                    full = Some(function.id.clone());
                    continue;
                }
            },
        };
        ports.push(ConsolePort { number, device, name: name.clone(), console: *console });
        ports.sort_by_key(|port| port.number);
        return Ok(chardev.clone());
    }
    Err(CliError(match (full, bus) {
        (Some(id), _) => format!("{driver}: {id} has no free port"),
        (None, Some(bus)) => format!("{driver}: Bus '{bus}' not found"),
        (None, None) => {
            format!(
                "No 'virtio-serial-bus' bus found for device '{driver}'; -device virtio-serial-pci comes first"
            )
        }
    }))
}
