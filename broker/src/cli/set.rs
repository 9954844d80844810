//! The functions behind the table of options: each reads one argument into `Options`.

use super::chardev::{self, Target};
use super::keyval::{KeyValues, parse_bool};
use super::options::{DebugConsole, Options};
use super::{icount as icount_option, rtc as rtc_option, size};
use replay::machine::{CpuChoice, PanicAction};
use std::path::PathBuf;

/// CPU models by name; the vCPU process knows what is in them.
pub const CPU_MODELS: &[&str] = &["x86-64-v2", "x86-64-v3", "SandyBridge", "Nehalem", "Haswell", "qemu64"];

/// The port of pvpanic.
const PANIC_PORT: u64 = 0x505;
/// The events that pvpanic knows: a panic, and a panic whose dump is being written.
const PANIC_EVENTS: u64 = 3;

/// What `-NAME help` prints, for options that have choices.
pub fn help_of(name: &str) -> Option<String> {
    Some(match name {
        "cpu" => format!("Available CPUs:\n  {}\n", CPU_MODELS.join("\n  ")),
        "machine" => "Supported machines are:\npc    Standard PC (default)\nq35   the same\n".to_owned(),
        "accel" => "Accelerators supported:\ntcg\n".to_owned(),
        "device" => "isa-debug-exit  iobase=PORT iosize=N\nisa-debugcon    iobase=PORT chardev=ID\npvpanic\n"
            .to_owned(),
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

pub(super) fn drive(options: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, None)?;
    let mut words = Vec::new();
    for key in ["id", "file"] {
        if let Some(text) = list.take(key)? {
            words.push(format!("{key} '{text}'"));
        }
    }
    let what = if words.is_empty() { value.to_owned() } else { words.join(", ") };
    options.warnings.push(format!("-drive: disks are not supported yet; the guest does not see {what}"));
    Ok(())
}

pub(super) fn device(options: &mut Options, value: &str) -> Result<(), String> {
    let mut list = KeyValues::parse(value, Some("driver"))?;
    let driver = list.take("driver")?.unwrap_or_default();
    let port = |list: &mut KeyValues, default: u16| match list.take_number("iobase")? {
        None => Ok(default),
        Some(port) => u16::try_from(port).map_err(|_| format!("iobase={port:#x} is beyond 0xffff")),
    };
    match driver.as_str() {
        "isa-debug-exit" => {
            options.debug_exit_port = Some(port(&mut list, 0x501)?);
            if let Some(size @ 0 | size @ 5..) = list.take_number("iosize")? {
                return Err(format!("iosize={size}: expected 1 to 4"));
            }
        }
        "isa-debugcon" => {
            let port = port(&mut list, 0xe9)?;
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
        _ => return Err(format!("'{driver}' is not supported yet")),
    }
    list.take("id")?;
    list.finish()
}

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
    if list.take("watchdog")?.is_some() {
        return Err("watchdog= is not supported: there is no watchdog".to_owned());
    }
    list.finish()
}

pub(super) fn no_network(_: &mut Options, value: &str) -> Result<(), String> {
    if value == "none" { Ok(()) } else { Err("not supported yet; only none".to_owned()) }
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
