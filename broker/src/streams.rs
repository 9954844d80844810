//! Which character stream serves which serial port, debug console and monitor.
//!
//! Every stream becomes one device process. A stream with `mux` may serve a device and a monitor together.

use crate::cli::CliError;
use crate::cli::chardev::{Backend, Chardev, Target};
use crate::cli::options::Options;
use replay::device::{DeviceChoice, DeviceKind};
use replay::machine::Machine;

/// One stream and its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The stream.
    pub chardev: Chardev,
    /// Index of the device of the machine whose back-end it is.
    pub device: Option<u16>,
    /// A monitor speaks on it.
    pub monitor: bool,
    /// The monitor's language.
    pub language: Language,
}

/// What a monitor speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// Lines for people (HMP).
    #[default]
    Human,
    /// JSON for programs (QMP).
    Control {
        /// Answers take several lines.
        pretty: bool,
    },
}

/// All streams, and what the machine has to know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// The streams, in the order in which they are opened.
    pub streams: Vec<Stream>,
    /// As in [`Machine`].
    pub uarts: Vec<Option<u16>>,
    /// As in [`Machine`].
    pub devices: Vec<DeviceChoice>,
    /// As in [`Machine`].
    pub debug_console: Option<(u16, u16)>,
    /// Lines for the user.
    pub warnings: Vec<String>,
    /// Names of sockets that are no streams: vhost-user back-ends have them.
    pub sockets: Vec<String>,
}

/// A use of a stream.
#[derive(Clone, Copy)]
enum User {
    Device(u16),
    Monitor(Language),
}

impl Streams {
    /// The streams of the serial ports and the debug console of a machine that is made new.
    pub fn of_ports(options: &Options) -> Result<Streams, CliError> {
        let (serials, _) = with_defaults(options);
        let mut streams = Streams::default();
        for (number, target) in serials.iter().enumerate() {
            let uart = streams.add_device(options, &format!("serial{number}"), target)?;
            streams.uarts.push(uart);
        }
        if let Some(console) = &options.debug_console
            && let Some(device) = streams.add_device(options, "debugcon", &console.target)?
        {
            streams.debug_console = Some((console.port, device));
        }
        Ok(streams)
    }

    /// The same of a replay: the machine is `recorded`, only where its output goes is free.
    /// `show` sends the first serial port to stdout when nothing else is said.
    pub fn of_replayed_ports(options: &Options, recorded: &Machine, show: bool) -> Result<Streams, CliError> {
        let (mut serials, _) = with_defaults(options);
        if options.serials.is_empty() && !options.nographic {
            serials.clear();
        }
        if serials.len() > recorded.uarts.len() {
            return Err(CliError(format!(
                "-serial: the recording has {} serial port(s), the command line {}",
                recorded.uarts.len(),
                serials.len()
            )));
        }
        let mut streams = Streams {
            uarts: recorded.uarts.clone(),
            devices: recorded.devices.clone(),
            debug_console: recorded.debug_console,
            ..Streams::default()
        };
        let default = |id: &str, shown: bool| Target::New {
            chardev: Chardev::new(id, if shown { Backend::Stdio { signal: None } } else { Backend::Null }),
            monitor: false,
        };
        for (number, uart) in recorded.uarts.iter().enumerate() {
            let id = format!("serial{number}");
            match (uart, serials.get(number)) {
                (None, None | Some(Target::None)) => {}
                (None, Some(_)) => {
                    return Err(CliError(format!("-serial: {id} is none in the recording")));
                }
                (Some(device), None) => {
                    streams.use_target(options, &default(&id, show && number == 0), User::Device(*device))?;
                }
                (Some(_), Some(Target::None)) => {}
                (Some(device), Some(target)) => {
                    streams.use_target(options, target, User::Device(*device))?;
                }
            }
        }
        match (recorded.debug_console, &options.debug_console) {
            (Some((port, device)), Some(console)) if port == console.port => {
                streams.use_target(options, &console.target, User::Device(device))?;
            }
            (Some((port, _)), Some(console)) => {
                return Err(CliError(format!(
                    "-debugcon: port {:#x} contradicts the recording's {port:#x}",
                    console.port
                )));
            }
            (None, Some(_)) => {
                return Err(CliError("-debugcon: the recording has no debug console".to_owned()));
            }
            (_, None) => {}
        }
        Ok(streams)
    }

    /// Connects `device` to its stream.
    pub fn serve(&mut self, options: &Options, target: &Target, device: u16) -> Result<(), CliError> {
        self.use_target(options, target, User::Device(device))
    }

    fn add_device(&mut self, options: &Options, id: &str, target: &Target) -> Result<Option<u16>, CliError> {
        if *target == Target::None {
            return Ok(None);
        }
        let device = self.devices.len() as u16;
        self.devices.push(DeviceChoice { id: id.to_owned(), kind: DeviceKind::Chardev });
        self.use_target(options, target, User::Device(device))?;
        Ok(Some(device))
    }

    /// Connects the monitors, when everything else is connected.
    pub fn add_monitors(&mut self, options: &Options) -> Result<(), CliError> {
        let (_, monitors) = with_defaults(options);
        for target in &monitors {
            self.use_target(options, target, User::Monitor(Language::Human))?;
        }
        for (target, pretty) in &options.qmps {
            let language = Language::Control { pretty: *pretty };
            self.use_target(options, target, User::Monitor(language))?;
        }
        if let Some(stream) = self.streams.iter().find(|stream| self.sockets.contains(&stream.chardev.id)) {
            return Err(CliError(format!("Device '{}' is in use", stream.chardev.id)));
        }
        for chardev in options.chardevs.iter().filter(|chardev| !self.sockets.contains(&chardev.id)) {
            if !self.streams.iter().any(|stream| stream.chardev.id == chardev.id) {
                self.warnings.push(format!("-chardev {}: nothing uses it; it is not opened", chardev.id));
            }
        }
        Ok(())
    }

    fn use_target(&mut self, options: &Options, target: &Target, user: User) -> Result<(), CliError> {
        match target {
            Target::None => Ok(()),
            Target::New { chardev, monitor } => {
                let index = self.open(chardev.clone())?;
                self.attach(index, user)?;
                if *monitor && matches!(user, User::Device(_)) {
                    self.attach(index, User::Monitor(Language::Human))?;
                }
                Ok(())
            }
            Target::Named(id) => {
                let index = match self.streams.iter().position(|stream| stream.chardev.id == *id) {
                    Some(index) => index,
                    None => {
                        let chardev = options.chardevs.iter().find(|chardev| chardev.id == *id);
                        let chardev =
                            chardev.ok_or_else(|| CliError(format!("Chardev '{id}' does not exist")))?;
                        self.open(chardev.clone())?
                    }
                };
                self.attach(index, user)
            }
        }
    }

    fn open(&mut self, chardev: Chardev) -> Result<usize, CliError> {
        let is_stdio = |chardev: &Chardev| matches!(chardev.backend, Backend::Stdio { .. });
        if is_stdio(&chardev) && self.streams.iter().any(|stream| is_stdio(&stream.chardev)) {
            return Err(CliError("cannot use stdio by multiple character devices".to_owned()));
        }
        if self.streams.iter().any(|stream| stream.chardev.id == chardev.id) {
            return Err(CliError(format!("Duplicate ID '{}' for chardev", chardev.id)));
        }
        self.streams.push(Stream { chardev, device: None, monitor: false, language: Language::Human });
        Ok(self.streams.len() - 1)
    }

    fn attach(&mut self, index: usize, user: User) -> Result<(), CliError> {
        let stream = &mut self.streams[index];
        let id = stream.chardev.id.clone();
        if (stream.device.is_some() || stream.monitor) && !stream.chardev.mux {
            return Err(CliError(format!("Device '{id}' is in use")));
        }
        match user {
            User::Device(_) if stream.device.is_some() => {
                Err(CliError(format!("chardev '{id}': two devices on one stream are not supported yet")))
            }
            User::Monitor(_) if stream.monitor => {
                Err(CliError(format!("chardev '{id}': two monitors on one stream are not supported yet")))
            }
            User::Device(device) => {
                stream.device = Some(device);
                Ok(())
            }
            User::Monitor(language) => {
                (stream.monitor, stream.language) = (true, language);
                Ok(())
            }
        }
    }
}

/// Serial ports and monitors as QEMU's defaults complete them; where QEMU would open a window, there is nothing.
fn with_defaults(options: &Options) -> (Vec<Target>, Vec<Target>) {
    let (mut serials, mut monitors) = (options.serials.clone(), options.monitors.clone());
    if options.nodefaults {
        return (serials, monitors);
    }
    let new = |id: &str, backend, monitor| {
        let mut chardev = Chardev::new(id, backend);
        chardev.mux = monitor;
        Target::New { chardev, monitor }
    };
    let all_monitors = || options.monitors.iter().chain(options.qmps.iter().map(|(target, _)| target));
    let uses_stdio = |target: &Target| matches!(target, Target::New { chardev, .. } if matches!(chardev.backend, Backend::Stdio { .. }));
    let no_monitor = monitors.is_empty()
        && options.qmps.is_empty()
        && !serials.iter().any(|t| matches!(t, Target::New { monitor: true, .. }));
    match (serials.is_empty(), options.nographic) {
        (true, true) if no_monitor => {
            serials.push(new("serial0", Backend::Stdio { signal: Some(false) }, true));
        }
        (true, true) if !all_monitors().any(uses_stdio) => {
            serials.push(new("serial0", Backend::Stdio { signal: None }, false));
        }
        (true, _) => serials.push(new("serial0", Backend::Null, false)),
        (false, true) if no_monitor && !serials.iter().any(uses_stdio) => {
            monitors.push(new("compat_monitor0", Backend::Stdio { signal: None }, false));
        }
        (false, _) => {}
    }
    (serials, monitors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn options(line: &str) -> Options {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words).unwrap() {
            Command::Run(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    /// Each stream as `id kind device monitor`.
    fn shape(line: &str) -> Result<Vec<String>, String> {
        let streams = crate::wiring::Wiring::of_new(&options(line)).map_err(|error| error.0)?;
        Ok(streams.streams.iter().map(describe).collect())
    }

    fn describe(stream: &Stream) -> String {
        let kind = stream.chardev.filename();
        format!("{} {kind} {:?} {}", stream.chardev.id, stream.device, stream.monitor)
    }

    #[test]
    fn defaults_are_those_of_qemu_without_a_display() {
        for (line, wanted) in [
            ("", &["serial0 null Some(0) false"][..]),
            ("-nodefaults", &[]),
            ("-nographic", &["serial0 stdio Some(0) true"]),
            ("-nographic -monitor none", &["serial0 stdio Some(0) false"]),
            ("-nographic -serial mon:stdio", &["serial0 stdio Some(0) true"]),
            ("-nographic -serial null", &["serial0 null Some(0) false", "compat_monitor0 stdio None true"]),
            ("-serial none -monitor stdio", &["compat_monitor0 stdio None true"]),
            (
                "-nographic -qmp unix:q",
                &["serial0 stdio Some(0) false", "compat_monitor0 disconnected:unix:q None true"],
            ),
            (
                "-serial none -monitor null -qmp null",
                &["compat_monitor0 null None true", "compat_monitor1 null None true"],
            ),
            ("-chardev stdio,mux=on,id=c -serial chardev:c -mon chardev=c", &["c stdio Some(0) true"]),
            ("-serial null -serial file:x", &["serial0 null Some(0) false", "serial1 file Some(1) false"]),
        ] {
            assert_eq!(shape(line).unwrap(), wanted, "{line}");
        }
    }

    #[test]
    fn conflicts_are_named() {
        for (line, message) in [
            ("-serial stdio -monitor stdio", "cannot use stdio by multiple character devices"),
            ("-chardev null,id=c -serial chardev:c -mon c", "Device 'c' is in use"),
            ("-serial chardev:c", "Chardev 'c' does not exist"),
        ] {
            assert_eq!(shape(line).unwrap_err(), message, "{line}");
        }
        let streams = crate::wiring::Wiring::of_new(&options("-chardev null,id=c")).unwrap();
        assert!(streams.warnings[0].contains('c'));
    }

    #[test]
    fn a_replay_may_send_output_elsewhere() {
        let recorded = crate::machine::tests::machine("-serial stdio -serial none");
        assert_eq!(recorded.uarts, [Some(0), None]);
        let shape = |line: &str, show| {
            let streams = crate::wiring::Wiring::of_replay(&options(line), &recorded, show);
            let streams = streams.map_err(|error| error.0)?;
            Ok::<_, String>(streams.streams.iter().map(describe).collect::<Vec<_>>())
        };
        assert_eq!(shape("-serial file:x", false).unwrap(), ["serial0 file Some(0) false"]);
        assert_eq!(shape("", true).unwrap(), ["serial0 stdio Some(0) false"]);
        assert_eq!(shape("", false).unwrap(), ["serial0 null Some(0) false"]);
        assert_eq!(shape("-serial none", true).unwrap(), [""; 0]);
        assert!(shape("-serial null -serial null", true).unwrap_err().contains("serial1 is none"));
    }
}
