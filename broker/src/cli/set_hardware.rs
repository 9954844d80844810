//! The functions behind the options that attach disks, networks and other devices.

use super::chardev::Target;
use super::drive::{self, Drive};
use super::keyval::KeyValues;
use super::net::{self, NetOption, Netdev};
use super::options::{DebugConsole, DeviceExit, Options, ReplayEnd};
use super::{block, device as device_option, object as object_option};
use replay::machine::PanicAction;

/// The port of pvpanic.
const PANIC_PORT: u64 = 0x505;
/// The events that pvpanic knows: a panic, and a panic whose dump is being written.
const PANIC_EVENTS: u64 = 3;

/// What `-device help` prints.
pub(super) fn device_help() -> String {
    let debug =
        "isa-debug-exit\n    [iobase=PORT][,iosize=N]\nisa-debugcon\n    [iobase=PORT,]chardev=ID\npvpanic\n";
    let common = "PCI devices also have: id=, bus=pci.0, addr=SLOT[.FUNCTION], vectors=N, window=on|off\n";
    format!("{}{debug}{common}", device_option::help())
}

pub(super) fn drive(options: &mut Options, value: &str) -> Result<(), String> {
    let drive = drive::parse(value, &options.drive_places)?;
    add_drive(options, drive)
}

pub(super) fn hda(options: &mut Options, value: &str) -> Result<(), String> {
    image(options, value, 0, false)
}

pub(super) fn hdb(options: &mut Options, value: &str) -> Result<(), String> {
    image(options, value, 1, false)
}

pub(super) fn hdc(options: &mut Options, value: &str) -> Result<(), String> {
    image(options, value, 2, false)
}

pub(super) fn hdd(options: &mut Options, value: &str) -> Result<(), String> {
    image(options, value, 3, false)
}

pub(super) fn cdrom(options: &mut Options, value: &str) -> Result<(), String> {
    image(options, value, 2, true)
}

fn image(options: &mut Options, path: &str, index: u16, cdrom: bool) -> Result<(), String> {
    let drive = drive::of_file(path, index, cdrom, &options.drive_places)?;
    add_drive(options, drive)
}

fn add_drive(options: &mut Options, drive: Drive) -> Result<(), String> {
    let Drive { node, place, device, warnings } = drive;
    device_option::check_serial(node.serial.as_deref())?;
    add_node(options, node)?;
    options.drive_places.push(place);
    options.devices.extend(device);
    options.warnings.extend(warnings);
    Ok(())
}

fn add_node(options: &mut Options, node: block::Node) -> Result<(), String> {
    let is_used = |name: &&String| options.nodes.iter().any(|other| other.names.contains(name));
    if let Some(name) = node.names.iter().find(is_used) {
        return Err(format!("Duplicate ID '{name}' for drive"));
    }
    options.nodes.push(node);
    Ok(())
}

pub(super) fn blockdev(options: &mut Options, value: &str) -> Result<(), String> {
    let (node, warnings) = block::parse_blockdev(value)?;
    options.warnings.extend(warnings);
    add_node(options, node)
}

pub(super) fn device(options: &mut Options, value: &str) -> Result<(), String> {
    if value.starts_with('{') {
        return Err("JSON is supported for -blockdev only".to_owned());
    }
    let mut list = KeyValues::parse(value, Some("driver"))?;
    let driver = list.take("driver")?.unwrap_or_default();
    match driver.as_str() {
        "isa-debug-exit" => {
            options.debug_exit_port = Some(take_port(&mut list, 0x501)?);
            if let Some(size @ 0 | size @ 5..) = list.take_number("iosize")? {
                return Err(format!("iosize={size}: expected 1 to 4"));
            }
        }
        "isa-debugcon" => {
            let port = take_port(&mut list, 0xe9)?;
            let target = Target::Named(list.take("chardev")?.ok_or("chardev= is missing")?);
            if options.debug_console.replace(DebugConsole { port, target }).is_some() {
                return Err("only one debug console".to_owned());
            }
        }
        "pvpanic" => {
            options.panic_device = true;
            let fixed = [("ioport", PANIC_PORT), ("events", PANIC_EVENTS)];
            for (key, only) in fixed {
                if let Some(given) = list.take_number(key)?.filter(|given| *given != only) {
                    return Err(format!("{key}={given:#x} is not supported; only {only:#x}"));
                }
            }
        }
        _ => {
            let (device, warnings) = device_option::parse(&driver, list)?;
            return add_device(options, device, warnings);
        }
    }
    list.take("id")?;
    list.finish()
}

fn take_port(list: &mut KeyValues, default: u16) -> Result<u16, String> {
    match list.take_number("iobase")? {
        None => Ok(default),
        Some(port) => u16::try_from(port).map_err(|_| format!("iobase={port:#x} is beyond 0xffff")),
    }
}

fn add_device(
    options: &mut Options,
    device: device_option::DeviceOption,
    warnings: Vec<String>,
) -> Result<(), String> {
    if let Some(id) = &device.id
        && options.devices.iter().any(|other| other.id.as_ref() == Some(id))
    {
        return Err(format!("Duplicate device ID '{id}'"));
    }
    options.warnings.extend(warnings);
    options.devices.push(device);
    Ok(())
}

pub(super) fn netdev(options: &mut Options, value: &str) -> Result<(), String> {
    if value.starts_with('{') {
        return Err("JSON is supported for -blockdev only".to_owned());
    }
    add_netdev(options, net::parse_netdev(value)?)
}

fn add_netdev(options: &mut Options, netdev: Netdev) -> Result<(), String> {
    if options.netdevs.iter().any(|other| other.id == netdev.id) {
        return Err(format!("Duplicate ID '{}' for netdev", netdev.id));
    }
    options.netdevs.push(netdev);
    Ok(())
}

pub(super) fn net(options: &mut Options, value: &str) -> Result<(), String> {
    let (option, warnings) = net::parse_net(value, options.nets.len())?;
    options.warnings.extend(warnings);
    add_net(options, option)
}

pub(super) fn nic(options: &mut Options, value: &str) -> Result<(), String> {
    let (option, warnings) = net::parse_nic(value, options.nic_count)?;
    options.nic_count += 1;
    options.warnings.extend(warnings);
    add_net(options, option)
}

fn add_net(options: &mut Options, option: NetOption) -> Result<(), String> {
    match &option {
        NetOption::None => {}
        NetOption::Card(card) => add_device(options, card.clone(), Vec::new())?,
        NetOption::Host(host) => add_netdev(options, host.clone())?,
        NetOption::Both(host, card) => {
            add_netdev(options, host.clone())?;
            add_device(options, card.clone(), Vec::new())?;
        }
    }
    options.nets.push(option);
    Ok(())
}

pub(super) fn object(options: &mut Options, value: &str) -> Result<(), String> {
    let object = object_option::parse(value)?;
    if options.objects.iter().any(|other| other.id == object.id) {
        return Err(format!("attempt to add duplicate property '{}' to object", object.id));
    }
    options.objects.push(object);
    Ok(())
}

/// `-action`: what follows an event. QEMU's events and one of ours.
pub(super) fn action(options: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, None)?;
    let wrong = |key: &str, value: &str| Err(format!("invalid option value '{value}' of {key}"));
    match list.take("panic")?.as_deref() {
        None => {}
        Some("none") => options.panic_action = Some(PanicAction::None),
        Some("pause") => options.panic_action = Some(PanicAction::Pause),
        Some("shutdown") => options.panic_action = Some(PanicAction::Shutdown),
        Some("exit-failure") => options.panic_action = Some(PanicAction::ExitFailure),
        Some(other) => return wrong("panic", other),
    }
    match list.take("reboot")?.as_deref() {
        None => {}
        Some("reset") => options.no_reboot = false,
        Some("shutdown") => options.no_reboot = true,
        Some(other) => return wrong("reboot", other),
    }
    match list.take("shutdown")?.as_deref() {
        None => {}
        Some("poweroff") => options.no_shutdown = false,
        Some("pause") => options.no_shutdown = true,
        Some(other) => return wrong("shutdown", other),
    }
    match list.take("device-exit")?.as_deref() {
        None => {}
        Some("shutdown") => options.on_device_exit = DeviceExit::Shutdown,
        Some("pause") => options.on_device_exit = DeviceExit::Pause,
        Some(other) => return wrong("device-exit", other),
    }
    match list.take("replay-end")?.as_deref() {
        None => {}
        Some("shutdown") => options.replay_end = Some(ReplayEnd::Shutdown),
        Some("pause") => options.replay_end = Some(ReplayEnd::Pause),
        Some(other) => return wrong("replay-end", other),
    }
    if list.take("watchdog")?.is_some() {
        return Err("watchdog= is not supported: there is no watchdog".to_owned());
    }
    list.finish()
}
