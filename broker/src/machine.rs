//! From the command line to the machine description.
//!
//! A new machine is the default machine with the options over it. A replayed machine is the recorded one; what the
//! command line says must agree with it, and a contradiction is refused by name with both values.

use crate::cli::CliError;
use crate::cli::icount::Shift;
use crate::cli::options::Options;
use crate::cli::rtc::{RtcBase, RtcOption};
use crate::host_clock::HostTime;
use crate::wiring::Wiring;
use replay::difference;
use replay::machine::{Boot, Clock, CpuChoice, Machine, PanicAction};
use std::path::Path;

/// CPU model without `-cpu`.
pub const CPU_MODEL_DEFAULT: &str = "x86-64-v3";
/// Guest RAM without `-m`.
pub const RAM_BYTES_DEFAULT: u64 = 128 << 20;
/// Rate at which `shift=auto` starts: 2^3 ns an instruction, as QEMU's.
pub const AUTO_SHIFT_START: u8 = 3;

/// The machine that a command line describes.
pub fn new_machine(options: &Options, wiring: &Wiring, time: HostTime) -> Result<Machine, CliError> {
    let kernel = options.kernel.as_deref().ok_or_else(|| {
        CliError("-kernel is missing: there is no firmware yet that could boot anything else".to_owned())
    })?;
    let (shift, auto) = clock_rate(options);
    let rtc = options.rtc.unwrap_or(RtcOption { base: RtcBase::Utc, host: None });
    let rtc_base = match rtc.base {
        RtcBase::Utc => time.utc,
        RtcBase::LocalTime => time.local,
        RtcBase::Date(seconds) => seconds,
    };
    let host_offset_s = rtc.host.unwrap_or(false).then_some(rtc_base - time.utc);
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
        clock: Clock { shift, auto, sleep: options.icount.sleep.unwrap_or(true), rtc_base, host_offset_s },
        uarts: wiring.uarts.clone(),
        devices: wiring.devices.clone(),
        functions: wiring.functions.clone(),
        no_reboot: options.no_reboot,
        no_shutdown: options.no_shutdown,
        panic_action: panic_action(options).unwrap_or(PanicAction::None),
        debug_exit_port: options.debug_exit_port,
        debug_console: wiring.debug_console,
        uuid: options.uuid.clone(),
    })
}

/// What is said about panics: an action, or by asking for the device QEMU's default action.
fn panic_action(options: &Options) -> Option<PanicAction> {
    options.panic_action.or(options.panic_device.then_some(PanicAction::Shutdown))
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

/// The recorded machine with what a replay's command line says over it.
///
/// What depends on the host's clock at the start of the recording is not said again: `-rtc base=utc` is what it was.
pub fn over_recorded(options: &Options, wiring: &Wiring, recorded: &Machine) -> Result<Machine, CliError> {
    let mut machine = recorded.clone();
    machine.devices.clone_from(&wiring.devices);
    machine.functions.clone_from(&wiring.functions);
    machine.ram_bytes = options.ram_bytes.unwrap_or(machine.ram_bytes);
    machine.cpu = options.cpu.clone().unwrap_or(machine.cpu);
    if options.icount.shift.is_some() {
        (machine.clock.shift, machine.clock.auto) = clock_rate(options);
    }
    machine.clock.sleep = options.icount.sleep.unwrap_or(machine.clock.sleep);
    if let Some(RtcOption { base: RtcBase::Date(seconds), .. }) = options.rtc {
        machine.clock.rtc_base = seconds;
    }
    if let Some(host) = options.rtc.and_then(|rtc| rtc.host) {
        machine.clock.host_offset_s = host.then_some(machine.clock.host_offset_s.unwrap_or(0));
    }
    if let Some(kernel) = &options.kernel {
        machine.boot.kernel = Some(absolute("-kernel", kernel)?);
    }
    if let Some(initrd) = &options.initrd {
        machine.boot.initrd = Some(absolute("-initrd", initrd)?);
    }
    machine.boot.cmdline = options.append.clone().unwrap_or(machine.boot.cmdline);
    machine.no_reboot |= options.no_reboot;
    machine.no_shutdown |= options.no_shutdown;
    machine.panic_action = panic_action(options).unwrap_or(machine.panic_action);
    machine.debug_exit_port = options.debug_exit_port.or(machine.debug_exit_port);
    machine.uuid = options.uuid.clone().or(machine.uuid);
    Ok(machine)
}

/// Fails when a machine cannot be recorded.
pub fn check_recordable(machine: &Machine) -> Result<(), CliError> {
    match machine.functions.iter().find(|function| !function.window) {
        None => Ok(()),
        Some(function) => Err(CliError(format!(
            "device '{}': window=off gives its back-end guest RAM itself; such a machine cannot be recorded",
            function.id
        ))),
    }
}

/// Fails when a command line contradicts the recorded machine: every contradiction, by name, with both values.
pub fn check_against(recorded: &Machine, given: &Machine) -> Result<(), CliError> {
    let differences = difference::compare(recorded, given);
    if differences.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Err(CliError(format!("the recording is of another machine: {}", words.join("; "))))
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
        let wiring = Wiring::of_new(&options).unwrap();
        new_machine(&options, &wiring, HostTime { utc: 1000, local: 4600 }).unwrap()
    }

    #[test]
    fn defaults() {
        let machine = machine("");
        assert_eq!(machine.ram_bytes, 128 << 20);
        assert_eq!(machine.cpu.model, "x86-64-v3");
        assert_eq!(
            machine.clock,
            Clock { shift: 3, auto: true, sleep: true, rtc_base: 1000, host_offset_s: None }
        );
        assert_eq!(machine.uarts, [Some(0)]);
    }

    #[test]
    fn values_are_taken() {
        let machine =
            machine("-m 4G -icount shift=7,sleep=off -rtc base=localtime -device isa-debug-exit,iobase=0xf4");
        assert_eq!(machine.ram_bytes, 4 << 30);
        assert_eq!(
            machine.clock,
            Clock { shift: 7, auto: false, sleep: false, rtc_base: 4600, host_offset_s: None }
        );
        assert_eq!(machine.debug_exit_port, Some(0xf4));
    }

    #[test]
    fn the_rtc_follows_the_host_at_its_offset() {
        for (line, offset) in [
            ("-rtc clock=vm", None),
            ("-rtc clock=host", Some(0)),
            ("-rtc base=localtime,clock=host", Some(3600)),
            ("-rtc clock=host,base=1970-01-01", Some(-1000)),
        ] {
            let recorded = machine(line);
            assert_eq!(recorded.clock.host_offset_s, offset, "{line}");
            let over = |line: &str| {
                let options = options(line);
                let wiring = Wiring::of_replay(&options, &recorded, false).unwrap();
                over_recorded(&options, &wiring, &recorded).unwrap()
            };
            let again = over("-rtc base=utc");
            assert_eq!(again.clock, recorded.clock, "{line}");
            let given = over("-rtc clock=host");
            assert_eq!(check_against(&recorded, &given).is_ok(), offset.is_some(), "{line}");
        }
    }

    #[test]
    fn what_becomes_of_a_panic() {
        for (line, action) in [
            ("", PanicAction::None),
            ("-device pvpanic", PanicAction::Shutdown),
            ("-device pvpanic,ioport=0x505 -action panic=none", PanicAction::None),
            ("-action panic=pause -device pvpanic", PanicAction::Pause),
            ("-action panic=exit-failure", PanicAction::ExitFailure),
        ] {
            assert_eq!(machine(line).panic_action, action, "{line}");
        }
        let both = machine("-action reboot=shutdown,shutdown=pause");
        assert!(both.no_reboot && both.no_shutdown && both.panic_action == PanicAction::None);
    }

    #[test]
    fn a_kernel_is_needed() {
        let options = options("-m 512");
        let wiring = Wiring::of_new(&options).unwrap();
        let error = new_machine(&options, &wiring, HostTime { utc: 0, local: 0 }).unwrap_err();
        assert!(error.0.contains("-kernel"));
    }

    #[test]
    fn a_contradiction_has_its_option_and_both_values() {
        let recorded = machine("-m 256 -append a -icount shift=auto -no-reboot");
        let check = |line: &str| {
            let options = options(line);
            let wiring = Wiring::of_replay(&options, &recorded, false)?;
            check_against(&recorded, &over_recorded(&options, &wiring, &recorded)?)
        };
        for (line, words) in [
            ("-m 320", ["-m", "RAM size", "256 MiB", "320 MiB"]),
            ("-append b", ["-append", "recorded", "\"a\"", "\"b\""]),
            ("-icount shift=3", ["-icount", "shift", "auto", "3"]),
            ("-cpu qemu64,+avx", ["-cpu", "x86-64-v3", "qemu64", "avx"]),
            ("-rtc base=1970-01-01", ["-rtc", "base", "1000", "0"]),
            ("-action panic=pause", ["-action panic=", "recorded none", "given pause", "machine"]),
            ("-no-shutdown", ["-no-shutdown", "off", "on", "given"]),
            ("-initrd /i", ["-initrd", "recorded", "given", "another machine"]),
        ] {
            let message = check(line).unwrap_err().0;
            assert!(words.iter().all(|word| message.contains(word)), "{line}: {message}");
        }
        for line in ["", "-m 256", "-kernel /other", "-rtc base=utc", "-serial null -m 256M -no-reboot"] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }
}
