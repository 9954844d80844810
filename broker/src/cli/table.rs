//! The table of options: one row each, with its argument, its help and the function that reads it.

use super::options::Options;
use super::{CliError, VERSION, refused, set, set_hardware};
use std::fmt::Write as _;

/// Reads one option's argument (empty for an option without one) into the options.
type Setter = fn(&mut Options, &str) -> Result<(), String>;

/// One option.
pub struct Row {
    /// Its name without dashes, and another name for it.
    pub names: &'static [&'static str],
    /// The form of its argument; empty for none.
    pub argument: &'static str,
    /// What it does.
    pub help: &'static str,
    set: Setter,
}

const fn row(names: &'static [&'static str], argument: &'static str, help: &'static str, set: Setter) -> Row {
    Row { names, argument, help, set }
}

/// What a command line in QEMU's grammar comes to.
pub enum Parsed {
    /// A machine to run.
    Options(Box<Options>),
    /// A text to print.
    Print(String),
}

/// Every option that is accepted, in the order of the help.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(&["machine", "M"], "pc|q35[,accel=tcg]", "machine; one with both names", set::machine),
    row(&["cpu"], "MODEL[,+f][,-f][,f=on|off]", "CPU model (-cpu help) and changes to its features", set::cpu),
    row(&["smp"], "1", "number of CPUs", set::smp),
    row(&["m"], "[size=]N[M|G]", "guest RAM, in MiB without a suffix; default 128, at most 64G", set::memory),
    row(&["accel"], "tcg", "how instructions run", set::accel),
    row(&["name"], "NAME", "name of the guest", set::name),
    row(&["uuid"], "UUID", "UUID of the system", set::uuid),
    row(&["rtc"], "[base=utc|localtime|DATE][,clock=vm|host]", "what the real-time clock shows, and what it follows", set::rtc),
    row(&["kernel"], "FILE", "kernel: bzImage, ELF64 or multiboot", set::kernel),
    row(&["initrd"], "FILE", "initial RAM disk", set::initrd),
    row(&["append"], "TEXT", "command line of the kernel", set::append),
    row(&["icount"], "[shift=N|auto][,sleep=on|off][,rr=record|replay,rrfile=DIR[,rrsnapshot=TAG][,rrsnapmode=periodic,rrsnaptime=S,rrsnapcount=N]]",
        "guest time by instructions, 2^N ns each; record to or replay from DIR", set::icount),
    row(&["drive"], "[file=F][,format=raw|qcow2][,if=virtio|none|ide|scsi][,id=][,media=cdrom][,readonly=on][,snapshot=on]...",
        "image and, but for if=none, its virtio-blk disk; driver=blkreplay,image=ID is accepted", set_hardware::drive),
    row(&["blockdev"], "driver=file|raw|qcow2|null-co|memory|blkreplay,node-name=ID[,...]",
        "block node, in this form or as JSON", set_hardware::blockdev),
    row(&["hda"], "FILE", "first disk; as a bare FILE", set_hardware::hda),
    row(&["hdb"], "FILE", "second disk", set_hardware::hdb),
    row(&["hdc"], "FILE", "third disk", set_hardware::hdc),
    row(&["hdd"], "FILE", "fourth disk", set_hardware::hdd),
    row(&["cdrom"], "FILE", "third disk, read-only", set_hardware::cdrom),
    row(&["loadvm"], "TAG", "start from a snapshot", |o, tag| { o.loadvm = Some(tag.to_owned()); Ok(()) }),
    row(&["snapdir"], "DIR", "where snapshots are, beside those of a recording (default: $XDG_STATE_HOME/reprise/snapshots)",
        |o, path| { o.snapshot_directory = Some(path.into()); Ok(()) }),
    row(&["snapshot"], "", "what the guest writes to its disks is thrown away", |o, _| on(&mut o.snapshot)),
    row(&["device"], "DRIVER[,PROPERTY=...]", "device (-device help lists them)", set_hardware::device),
    row(&["netdev"], "user|tap|stream|dgram|socket|vhost-user|none,id=ID[,...]", "the host's side of a network", set_hardware::netdev),
    row(&["nic"], "user|...|none[,model=virtio-net-pci][,mac=]", "network card and its host side", set_hardware::nic),
    row(&["net"], "nic|user|...|none", "network card or host side; without any there is no network", set_hardware::net),
    row(&["object"], "rng-random|rng-builtin|filter-replay,id=ID[,...]", "source of entropy; filter of a network", set_hardware::object),
    row(&["chardev"], "BACKEND,id=ID[,...]", "stream: null stdio file pipe pty serial socket", set::chardev),
    row(&["serial"], "DEV", "next serial port: stdio file:F pipe:F pty null none unix:P tcp:H:P telnet:H:P chardev:ID mon:DEV",
        set::serial),
    row(&["monitor"], "DEV", "monitor on the same kinds of stream", set::monitor),
    row(&["mon"], "[chardev=]ID[,mode=readline|control][,pretty=on|off]", "monitor on a -chardev; control is QMP", set::mon),
    row(&["qmp"], "DEV", "monitor for programs (QMP) on the same kinds of stream", set::qmp),
    row(&["qmp-pretty"], "DEV", "the same with answers of several lines", set::qmp_pretty),
    row(&["debugcon"], "DEV", "debug console at port 0xe9", set::debugcon),
    row(&["display"], "none", "no display", set::display),
    row(&["vga"], "none", "no display adapter", set::vga),
    row(&["nographic"], "", "serial port and monitor share the terminal (Ctrl-a h)", |o, _| on(&mut o.nographic)),
    row(&["nodefaults"], "", "no serial port and monitor that were not asked for", |o, _| on(&mut o.nodefaults)),
    row(&["no-user-config"], "", "accepted: there are no configuration files", |_, _| Ok(())),
    row(&["S"], "", "do not start before the monitor or gdb says so", |o, _| on(&mut o.start_paused)),
    row(&["gdb"], "DEV", "expect gdb on tcp:[HOST]:PORT, unix:PATH or none", set::gdb),
    row(&["s"], "", "as -gdb tcp::1234", |o, _| set::gdb(o, super::gdb::DEFAULT)),
    row(&["no-reboot"], "", "a reset of the guest ends the run", |o, _| on(&mut o.no_reboot)),
    row(&["no-shutdown"], "", "a power-off of the guest pauses the run", |o, _| on(&mut o.no_shutdown)),
    row(&["action"], "[panic=none|pause|shutdown|exit-failure][,reboot=reset|shutdown][,shutdown=poweroff|pause][,device-exit=shutdown|pause][,replay-end=shutdown|pause]",
        "what follows when the guest panics, resets or powers off, a device process ends, or a replay is at its end", set_hardware::action),
    row(&["pidfile"], "FILE", "write the process id to FILE", set::pidfile),
    row(&["d"], "FILTER", "log, e.g. debug or vcpu=trace (as REPRISE_LOG)", set::log_filter),
    row(&["D"], "FILE", "log to FILE instead of stderr", set::log_file),
];

fn on(flag: &mut bool) -> Result<(), String> {
    *flag = true;
    Ok(())
}

/// Reads a whole command line.
pub fn parse(args: &[String]) -> Result<Parsed, CliError> {
    let mut options = Options::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            bare_image(&mut options, word)?;
            continue;
        };
        match name {
            "version" => return Ok(Parsed::Print(format!("{VERSION}\n"))),
            "help" | "h" => return Ok(Parsed::Print(help())),
            _ => {}
        }
        let Some(row) = ROWS.iter().find(|row| row.names.contains(&name)) else {
            return Err(unknown(name));
        };
        let mut value = "";
        if !row.argument.is_empty() {
            value = words.next().ok_or_else(|| CliError(format!("-{name}: requires an argument")))?;
            if matches!(value, "help" | "?")
                && let Some(text) = set::help_of(row.names[0])
            {
                return Ok(Parsed::Print(text));
            }
        }
        (row.set)(&mut options, value).map_err(|why| {
            CliError(if value.is_empty() {
                format!("-{name}: {why}")
            } else {
                format!("-{name} {value}: {why}")
            })
        })?;
    }
    Ok(Parsed::Options(Box::new(options)))
}

/// A word without a dash is the image of the first disk.
fn bare_image(options: &mut Options, word: &str) -> Result<(), CliError> {
    if word == "-" || word == "--" || word.is_empty() {
        return Err(CliError(format!("'{word}' is no option and no image")));
    }
    set_hardware::hda(options, word).map_err(|why| CliError(format!("{word}: {why}")))
}

fn unknown(name: &str) -> CliError {
    CliError(match refused::find(name) {
        Some(_) => format!("-{name}: not supported yet"),
        None => format!("-{name}: invalid option (-help lists the options)"),
    })
}

/// The text of `-help`.
pub fn help() -> String {
    let mut text = format!(
        "{VERSION}: a machine that can be recorded and replayed\n\n\
         usage: reprise [OPTIONS]             run a machine; options as QEMU's, with one dash or two\n\
         {}\nOptions:\n",
        super::subcommand::USAGE
    );
    for row in ROWS {
        let names = row.names.iter().map(|name| format!("-{name}")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "  {} {}\n        {}", names, row.argument, row.help);
    }
    text.push_str("  -version\n        print the version\n  -help, -h\n        print this text\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chardev::Target;
    use std::path::Path;

    fn parse_words(words: &[&str]) -> Result<Box<Options>, String> {
        match parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()) {
            Ok(Parsed::Options(options)) => Ok(options),
            Ok(Parsed::Print(text)) => panic!("printed {text}"),
            Err(CliError(why)) => Err(why),
        }
    }

    #[test]
    fn the_command_of_issue_2634() {
        let options = parse_words(&[
            "-cpu",
            "SandyBridge",
            "-smp",
            "1",
            "-serial",
            "stdio",
            "-display",
            "none",
            "-m",
            "4096",
            "-drive",
            "file=./empty.qcow2,id=rr",
            "-kernel",
            "vmlinuz",
            "-initrd",
            "initrd.gz",
            "-monitor",
            "telnet:127.0.0.1:4444,server,nowait",
            "-append",
            "console=ttyS0 quiet panic=-1 job=boot",
            "-icount",
            "shift=auto,rrfile=rr,rr=record,rrsnapshot=init",
        ])
        .unwrap();
        assert_eq!(options.ram_bytes, Some(4 << 30));
        assert_eq!(options.cpu.unwrap().model, "SandyBridge");
        assert_eq!(options.append.as_deref(), Some("console=ttyS0 quiet panic=-1 job=boot"));
        assert!(matches!(&options.serials[..], [Target::New { monitor: false, .. }]));
        assert!(options.icount.record_replay.unwrap().record);
        assert_eq!(options.warnings, ["drive 'rr': the ide disk is attached as virtio-blk"]);
        assert_eq!(options.devices.len(), 1);
    }

    #[test]
    fn one_dash_or_two() {
        let options = parse_words(&["--kernel", "k", "-no-reboot", "--nographic"]).unwrap();
        assert_eq!(options.kernel.as_deref(), Some(Path::new("k")));
        assert!(options.no_reboot && options.nographic);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (words, message) in [
            (&["-fda", "x"][..], "-fda: not supported yet"),
            (
                &["-gdb", "stdio"],
                "-gdb stdio: 'stdio' is not supported for gdb; use tcp:[HOST]:PORT, unix:PATH or none",
            ),
            (&["-mon", "c,pretty=on"], "-mon c,pretty=on: pretty= is an option of mode=control"),
            (&["--nonsense"], "-nonsense: invalid option (-help lists the options)"),
            (&["-m"], "-m: requires an argument"),
            (&["-smp", "2"], "-smp 2: only one CPU yet"),
            (&["-m", "65G"], "-m 65G: at most 64 GiB"),
            (&["-icount", "shift=99"], "-icount shift=99: icount: Invalid shift value"),
            (
                &["-device", "virtio-gpu-pci"],
                "-device virtio-gpu-pci: 'virtio-gpu-pci' is not supported (-device help lists what is)",
            ),
            (&["-hda", "a", "b"], "b: drive with if=ide and index=0 exists"),
            (&["-netdev", "user"], "-netdev user: Parameter 'id' is missing"),
            (
                &["-device", "pvpanic,ioport=0x506"],
                "-device pvpanic,ioport=0x506: ioport=0x506 is not supported; only 0x505",
            ),
            (&["-action", "panic=run"], "-action panic=run: invalid option value 'run' of panic"),
            (&["-display", "gtk"], "-display gtk: not supported; only none"),
        ] {
            assert_eq!(parse_words(words).unwrap_err(), message);
        }
        assert!(parse_words(&["-"]).is_err());
    }

    #[test]
    fn no_option_is_both_known_and_refused() {
        for row in ROWS {
            for name in row.names {
                assert!(refused::find(name).is_none(), "{name}");
                assert!(help().contains(&format!("-{name}")));
            }
        }
    }

    #[test]
    fn no_argument_makes_the_parser_panic() {
        for row in ROWS {
            for value in
                ["", ",", ",,", "=", "a=", "=,a", "é", "-", "0x", "mon:", ":::", "T", "999999999999999999999"]
            {
                let _ = parse(&[format!("-{}", row.names[0]), value.to_owned()]);
            }
        }
    }
}
