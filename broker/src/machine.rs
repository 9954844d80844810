//! From the command line to the machine description.
//!
//! A new machine is the default machine with the options over it. A replayed machine is the recorded one; what the
//! command line says must agree with it, and a contradiction is refused by name with both values.

use crate::cli::CliError;
use crate::cli::icount::Shift;
use crate::cli::options::Options;
use crate::cli::rtc::RtcBase;
use crate::cli::size::display_size;
use crate::host_clock::HostTime;
use crate::streams::Streams;
use replay::machine::{Boot, Clock, CpuChoice, Machine};
use std::path::Path;

/// CPU model without `-cpu`.
pub const CPU_MODEL_DEFAULT: &str = "x86-64-v3";
/// Guest RAM without `-m`.
pub const RAM_BYTES_DEFAULT: u64 = 128 << 20;
/// Rate at which `shift=auto` starts: 2^3 ns an instruction, as QEMU's.
pub const AUTO_SHIFT_START: u8 = 3;

/// The machine that a command line describes.
pub fn new_machine(options: &Options, streams: &Streams, time: HostTime) -> Result<Machine, CliError> {
    let kernel = options.kernel.as_deref().ok_or_else(|| {
        CliError("-kernel is missing: there is no firmware yet that could boot anything else".to_owned())
    })?;
    let (shift, auto) = clock_rate(options);
    let rtc_base = match options.rtc {
        None | Some(RtcBase::Utc) => time.utc,
        Some(RtcBase::LocalTime) => time.local,
        Some(RtcBase::Date(seconds)) => seconds,
    };
    Ok(Machine {
        ram_bytes: options.ram_bytes.unwrap_or(RAM_BYTES_DEFAULT),
        cpu: options
            .cpu
            .clone()
            .unwrap_or_else(|| CpuChoice { model: CPU_MODEL_DEFAULT.to_owned(), features: Vec::new() }),
        cpu_count: 1,
        boot: Boot {
            kernel: Some(absolute("-kernel", kernel)?),
            initrd: options.initrd.as_deref().map(|path| absolute("-initrd", path)).transpose()?,
            cmdline: options.append.clone().unwrap_or_default(),
        },
        clock: Clock { shift, auto, sleep: options.icount.sleep.unwrap_or(true), rtc_base },
        uarts: streams.uarts.clone(),
        devices: streams.devices.clone(),
        no_reboot: options.no_reboot,
        no_shutdown: options.no_shutdown,
        debug_exit_port: options.debug_exit_port,
        debug_console: streams.debug_console,
        uuid: options.uuid.clone(),
    })
}

/// Paths in a manifest mean the same from everywhere.
fn absolute(option: &str, path: &Path) -> Result<std::path::PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| CliError(format!("{option} {}: {error}", path.display())))
}

fn clock_rate(options: &Options) -> (u8, bool) {
    match options.icount.shift {
        None | Some(Shift::Auto) => (AUTO_SHIFT_START, true),
        Some(Shift::Fixed(shift)) => (shift, false),
    }
}

/// Fails with the first option of a replay that contradicts the recording.
///
/// Paths of images are not compared: their content is.
pub fn check_against(options: &Options, recorded: &Machine) -> Result<(), CliError> {
    match contradictions(options, recorded).into_iter().next() {
        None => Ok(()),
        Some(line) => Err(CliError(line)),
    }
}

/// One line for each option that contradicts the recording.
pub fn contradictions(options: &Options, recorded: &Machine) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |option: &str, what: &str, given: Option<String>, has: String| {
        if let Some(given) = given
            && given != has
        {
            lines.push(format!("{option}: {what} {given} contradicts the recording's {has}"));
        }
    };
    let size = |bytes| display_size(bytes);
    compare("-m", "memory size", options.ram_bytes.map(size), size(recorded.ram_bytes));
    compare("-cpu", "CPU", options.cpu.as_ref().map(cpu_text), cpu_text(&recorded.cpu));
    compare(
        "-append",
        "kernel command line",
        options.append.as_ref().map(quoted),
        quoted(&recorded.boot.cmdline),
    );
    let rate = options.icount.shift.map(|_| rate_text(clock_rate(options)));
    compare("-icount", "rate", rate, rate_text((recorded.clock.shift, recorded.clock.auto)));
    compare("-icount", "sleep", options.icount.sleep.map(on_off), on_off(recorded.clock.sleep));
    let date = match options.rtc {
        Some(RtcBase::Date(seconds)) => Some(seconds.to_string()),
        // The host's clock was read once, when the recording began.
        None | Some(RtcBase::Utc | RtcBase::LocalTime) => None,
    };
    compare("-rtc", "base (seconds since 1970)", date, recorded.clock.rtc_base.to_string());
    let initrd = |present: bool| if present { "present" } else { "absent" }.to_owned();
    let given = options.initrd.as_ref().map(|_| initrd(true));
    compare("-initrd", "initial RAM disk", given, initrd(recorded.boot.initrd.is_some()));
    let flag = |given: bool| given.then(|| on_off(true));
    compare("-no-reboot", "setting", flag(options.no_reboot), on_off(recorded.no_reboot));
    compare("-no-shutdown", "setting", flag(options.no_shutdown), on_off(recorded.no_shutdown));
    let port = |port: Option<u16>| port.map_or("none".to_owned(), |port| format!("{port:#x}"));
    let given = options.debug_exit_port.map(|p| port(Some(p)));
    compare("-device", "isa-debug-exit port", given, port(recorded.debug_exit_port));
    let uuid = recorded.uuid.clone().unwrap_or_else(|| "none".to_owned());
    compare("-uuid", "UUID", options.uuid.clone(), uuid);
    lines
}

fn cpu_text(cpu: &CpuChoice) -> String {
    let mut text = cpu.model.clone();
    for (feature, on) in &cpu.features {
        text.push_str(if *on { ",+" } else { ",-" });
        text.push_str(feature);
    }
    text
}

fn rate_text((shift, auto): (u8, bool)) -> String {
    if auto { "shift=auto".to_owned() } else { format!("shift={shift}") }
}

fn on_off(value: bool) -> String {
    if value { "on" } else { "off" }.to_owned()
}

fn quoted(text: &String) -> String {
    format!("'{text}'")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn options(line: &str) -> Options {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words).unwrap() {
            Command::Run(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    /// The machine of a command line, with a kernel.
    pub(crate) fn machine(line: &str) -> Machine {
        let options = options(&format!("-kernel /k {line}"));
        let streams = Streams::of_new(&options).unwrap();
        new_machine(&options, &streams, HostTime { utc: 1000, local: 4600 }).unwrap()
    }

    #[test]
    fn defaults() {
        let machine = machine("");
        assert_eq!(machine.ram_bytes, 128 << 20);
        assert_eq!(machine.cpu.model, "x86-64-v3");
        assert_eq!(machine.clock, Clock { shift: 3, auto: true, sleep: true, rtc_base: 1000 });
        assert_eq!(machine.uarts, [Some(0)]);
    }

    #[test]
    fn values_are_taken() {
        let machine =
            machine("-m 4G -icount shift=7,sleep=off -rtc base=localtime -device isa-debug-exit,iobase=0xf4");
        assert_eq!(machine.ram_bytes, 4 << 30);
        assert_eq!(machine.clock, Clock { shift: 7, auto: false, sleep: false, rtc_base: 4600 });
        assert_eq!(machine.debug_exit_port, Some(0xf4));
    }

    #[test]
    fn a_kernel_is_needed() {
        let options = options("-m 512");
        let streams = Streams::of_new(&options).unwrap();
        let error = new_machine(&options, &streams, HostTime { utc: 0, local: 0 }).unwrap_err();
        assert!(error.0.contains("-kernel"));
    }

    #[test]
    fn a_contradiction_has_its_option_and_both_values() {
        let recorded = machine("-m 256 -append a -icount shift=auto -no-reboot");
        for (line, message) in [
            ("-m 320", "-m: memory size 320 MiB contradicts the recording's 256 MiB"),
            ("-append b", "-append: kernel command line 'b' contradicts the recording's 'a'"),
            ("-icount shift=3", "-icount: rate shift=3 contradicts the recording's shift=auto"),
            ("-cpu qemu64,+avx", "-cpu: CPU qemu64,+avx contradicts the recording's x86-64-v3"),
            ("-rtc base=1970-01-01", "-rtc: base (seconds since 1970) 0 contradicts the recording's 1000"),
            ("-no-shutdown", "-no-shutdown: setting on contradicts the recording's off"),
        ] {
            assert_eq!(contradictions(&options(line), &recorded), [message], "{line}");
        }
        for line in ["", "-m 256", "-kernel /other", "-rtc base=utc", "-serial null -m 256M -no-reboot"] {
            assert_eq!(contradictions(&options(line), &recorded), [""; 0], "{line}");
        }
    }
}
