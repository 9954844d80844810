//! The functions behind the table of options: each reads one argument into `Options`.

use super::chardev::{self, Target};
use super::keyval::{KeyValues, parse_bool};
use super::options::{DebugConsole, Options};
use super::{icount as icount_option, rtc as rtc_option, size};
use replay::machine::CpuChoice;
use std::path::PathBuf;

/// CPU models by name; the vCPU process knows what is in them.
pub const CPU_MODELS: &[&str] = &["x86-64-v2", "x86-64-v3", "SandyBridge", "Nehalem", "Haswell", "qemu64"];

/// What `-NAME help` prints, for options that have choices.
pub fn help_of(name: &str) -> Option<String> {
    Some(match name {
        "cpu" => format!("Available CPUs:\n  {}\n", CPU_MODELS.join("\n  ")),
        "machine" => "Supported machines are:\npc    Standard PC (default)\nq35   the same\n".to_owned(),
        "accel" => "Accelerators supported:\ntcg\n".to_owned(),
        "device" => super::set_hardware::device_help(),
        "netdev" => super::net::help(),
        "object" => super::object::HELP.to_owned(),
        "drive" | "blockdev" => format!("Supported formats and drivers: {}\n", super::block::DRIVERS),
        "net" | "nic" => "Supported NIC models:\nvirtio-net-pci\n".to_owned(),
        "chardev" => {
            "Available chardev backend types:\n  null\n  stdio\n  file\n  pipe\n  pty\n  serial\n  socket\n"
                .to_owned()
        }
        "d" => "error, warn, info, debug, trace, or TARGET=LEVEL, joined by commas\n".to_owned(),
        _ => return None,
    })
}

pub(super) fn machine(_: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("type"))?;
    match list.take("type")?.as_deref() {
        None | Some("pc" | "q35") => {}
        Some(_) => return Err("unsupported machine type; use pc or q35".to_owned()),
    }
    if let Some(name) = list.take("accel")? {
        check_accel(&name)?;
    }
    list.finish()
}

pub(super) fn accel(_: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("accel"))?;
    check_accel(&list.take("accel")?.unwrap_or_default())?;
    match list.take("thread")?.as_deref() {
        None | Some("single") => list.finish(),
        Some(other) => Err(format!("thread={other} is not supported; CPUs run on one thread")),
    }
}

fn check_accel(name: &str) -> Result<(), String> {
    if name == "tcg" { Ok(()) } else { Err(format!("invalid accelerator {name}; only tcg")) }
}

pub(super) fn cpu(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = value.split(',');
    let model = words.next().unwrap_or_default();
    if !CPU_MODELS.contains(&model) {
        return Err(format!("unable to find CPU model '{model}'; -cpu help lists them"));
    }
    let mut features = Vec::new();
    for word in words {
        let (name, on) = match (word.strip_prefix('+'), word.strip_prefix('-'), word.split_once('=')) {
            (Some(name), _, _) => (name, true),
            (_, Some(name), _) => (name, false),
            (_, _, Some((name, text))) => (name, parse_bool(name, text)?),
            // A bare word; and a model that the host cannot give is refused anyway.
            _ => (word, true),
        };
        match name {
            "" => return Err("a feature has no name".to_owned()),
            "check" | "enforce" if on => {}
            _ => features.push((name.to_owned(), on)),
        }
    }
    options.cpu = Some(CpuChoice { model: model.to_owned(), features });
    Ok(())
}

pub(super) fn smp(_: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("cpus"))?;
    for key in ["cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads"] {
        match list.take_number(key)? {
            None | Some(1) => {}
            Some(0) => return Err(format!("{key} must be at least 1")),
            Some(_) => return Err("only one CPU yet".to_owned()),
        }
    }
    list.finish()
}

pub(super) fn memory(options: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("size"))?;
    let text = list.take("size")?.ok_or("size is missing")?;
    list.finish()?;
    let bytes = size::parse_size(&text, 1 << 20).ok_or_else(|| format!("'{text}' is not a size"))?;
    if bytes > size::RAM_BYTES_MAX {
        return Err(format!("at most {}", size::display_size(size::RAM_BYTES_MAX)));
    }
    if bytes < 1 << 20 {
        return Err("at least 1 MiB".to_owned());
    }
    options.ram_bytes = Some(bytes.next_multiple_of(4096));
    Ok(())
}

pub(super) fn name(options: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("guest"))?;
    options.name = list.take("guest")?;
    list.take_bool("debug-threads")?;
    list.finish()
}

pub(super) fn uuid(options: &mut Options, value: &str) -> Result<(), String> {
    let uuid = uuid::Uuid::try_parse(value).map_err(|_| "failed to parse UUID".to_owned())?;
    options.uuid = Some(uuid.hyphenated().to_string());
    Ok(())
}

pub(super) fn rtc(options: &mut Options, value: &str) -> Result<(), String> {
    options.rtc = Some(rtc_option::parse(value)?);
    Ok(())
}

fn path(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("the file name is empty".to_owned()) } else { Ok(PathBuf::from(value)) }
}

pub(super) fn kernel(options: &mut Options, value: &str) -> Result<(), String> {
    options.kernel = Some(path(value)?);
    Ok(())
}

pub(super) fn initrd(options: &mut Options, value: &str) -> Result<(), String> {
    options.initrd = Some(path(value)?);
    Ok(())
}

pub(super) fn append(options: &mut Options, value: &str) -> Result<(), String> {
    options.append = Some(value.to_owned());
    Ok(())
}

pub(super) fn icount(options: &mut Options, value: &str) -> Result<(), String> {
    options.icount = icount_option::parse(value)?;
    Ok(())
}

pub(super) fn chardev(options: &mut Options, value: &str) -> Result<(), String> {
    let chardev = chardev::parse_chardev(value)?;
    if options.chardevs.iter().any(|other| other.id == chardev.id) {
        return Err(format!("Duplicate ID '{}' for chardev", chardev.id));
    }
    options.chardevs.push(chardev);
    Ok(())
}

pub(super) fn serial(options: &mut Options, value: &str) -> Result<(), String> {
    let number = options.serials.len();
    options.serials.push(chardev::parse_target(value, &format!("serial{number}"))?);
    if options.serials.len() > 2 {
        return Err("at most two serial ports".to_owned());
    }
    Ok(())
}

pub(super) fn monitor(options: &mut Options, value: &str) -> Result<(), String> {
    let id = format!("compat_monitor{}", options.monitors.len());
    options.monitors.push(chardev::parse_target(value, &id)?);
    Ok(())
}

pub(super) fn mon(options: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("chardev"))?;
    let id = list.take("chardev")?.ok_or("chardev= is missing")?;
    match list.take("mode")?.as_deref() {
        None | Some("readline") => {}
        Some("control") => return Err("mode=control (QMP) is not supported yet".to_owned()),
        Some(other) => return Err(format!("unknown monitor mode \"{other}\"")),
    }
    list.finish()?;
    options.monitors.push(Target::Named(id));
    Ok(())
}

pub(super) fn gdb(options: &mut Options, value: &str) -> Result<(), String> {
    options.gdb = super::gdb::parse(value)?;
    Ok(())
}

pub(super) fn debugcon(options: &mut Options, value: &str) -> Result<(), String> {
    let target = chardev::parse_target(value, "debugcon")?;
    if options.debug_console.replace(DebugConsole { port: 0xe9, target }).is_some() {
        return Err("only one debug console".to_owned());
    }
    Ok(())
}

fn only_none(value: &str) -> Result<(), String> {
    if value == "none" { Ok(()) } else { Err("not supported; only none".to_owned()) }
}

pub(super) fn display(_: &mut Options, value: &str) -> Result<(), String> {
    only_none(value)
}

pub(super) fn vga(_: &mut Options, value: &str) -> Result<(), String> {
    only_none(value)
}

pub(super) fn pidfile(options: &mut Options, value: &str) -> Result<(), String> {
    options.pidfile = Some(path(value)?);
    Ok(())
}

pub(super) fn log_filter(options: &mut Options, value: &str) -> Result<(), String> {
    crate::logging::check_filter(value)?;
    options.log_filter = Some(value.to_owned());
    Ok(())
}

pub(super) fn log_file(options: &mut Options, value: &str) -> Result<(), String> {
    options.log_file = Some(path(value)?);
    Ok(())
}
