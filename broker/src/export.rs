//! `reprise export pcap`: the packets of a recording's networks, with guest time stamps.
//!
//! A silent replay in which the vCPU process writes each packet that passes a network function.

use crate::cli::CliError;
use crate::run::{self, RunError};
use crate::verify::{is_good, progress_bar};
use replay::device::VirtioKind;
use replay::machine::Machine;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the packets of one network go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Capture {
    function: u16,
    /// Name of the function.
    id: String,
    /// `None`: stdout.
    file: Option<PathBuf>,
}

/// Exports and reports; the program's status.
pub fn pcap(recording: &Path, output: Option<&Path>, nic: Option<&str>) -> Result<u8, RunError> {
    let bar = progress_bar();
    let mut captures = Vec::new();
    let result = run::replay_silently(
        recording,
        |machine| {
            captures = plan(machine, output, nic)?;
            if captures[0].file.is_none() && std::io::stdout().is_terminal() {
                return Err(CliError("a capture is not for a terminal; give -o FILE".to_owned()).into());
            }
            captures.iter().map(|capture| Ok((capture.function, open(capture)?))).collect()
        },
        &mut |icount, last| {
            bar.set_length(last);
            bar.set_position(icount.min(last));
        },
    );
    bar.finish_and_clear();
    let replayed = result?;
    for Capture { id, file, .. } in &captures {
        if let Some(file) = file {
            eprintln!("reprise: {id}: {}", file.display());
        }
    }
    if let Some(why) = replayed.end.message() {
        eprintln!("reprise: {}: {why}; the packets up to there were written", recording.display());
    }
    Ok(u8::from(!is_good(&replayed)))
}

/// Which networks go where.
fn plan(machine: &Machine, output: Option<&Path>, nic: Option<&str>) -> Result<Vec<Capture>, CliError> {
    let mut all = Vec::new();
    for (number, function) in machine.functions.iter().enumerate() {
        let VirtioKind::Net { device, .. } = &function.kind else { continue };
        let device = machine.devices.get(usize::from(*device)).map_or("", |device| device.id.as_str());
        all.push((number as u16, function.id.as_str(), device));
    }
    let names = all.iter().map(|(_, id, device)| format!("{id} ({device})")).collect::<Vec<_>>().join(", ");
    if all.is_empty() {
        return Err(CliError("the recording has no network".to_owned()));
    }
    if let Some(nic) = nic {
        all.retain(|(_, id, device)| *id == nic || *device == nic);
        if all.is_empty() {
            return Err(CliError(format!("--nic {nic}: the recording has no such network; it has: {names}")));
        }
    }
    let file = match output {
        Some(path) if path != Path::new("-") => Some(path),
        _ => None,
    };
    if file.is_none() && all.len() > 1 {
        return Err(CliError(format!("several networks do not go into one stream: --nic, one of {names}")));
    }
    let several = all.len() > 1;
    let place = |id: &str| file.map(|file| if several { with_id(file, id) } else { file.to_owned() });
    let capture =
        |(function, id, _): (u16, &str, &str)| Capture { function, id: id.to_owned(), file: place(id) };
    Ok(all.into_iter().map(capture).collect())
}

/// `a.pcap` becomes `a-ID.pcap`.
fn with_id(file: &Path, id: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension = file.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    file.with_file_name(format!("{stem}-{id}{}", extension.unwrap_or_default()))
}

fn open(capture: &Capture) -> Result<File, RunError> {
    let opened = match &capture.file {
        None => std::io::stdout().as_fd().try_clone_to_owned().map(File::from),
        Some(path) => File::options().write(true).create(true).truncate(true).mode(0o600).open(path),
    };
    opened.map_err(|error| {
        let place = capture.file.as_ref().map_or("stdout".into(), |path| path.display().to_string());
        RunError::Tool(format!("cannot write packets to {place}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str, output: Option<&str>, nic: Option<&str>) -> Result<Vec<String>, String> {
        let machine = crate::machine::tests::machine(line);
        let captures = plan(&machine, output.map(Path::new), nic).map_err(|error| error.0)?;
        let place =
            |file: &Option<PathBuf>| file.as_ref().map_or("-".into(), |path| path.display().to_string());
        Ok(captures.iter().map(|c| format!("{} {} {}", c.function, c.id, place(&c.file))).collect())
    }

    #[test]
    fn files_of_captures() {
        let one = "-device virtio-rng -nic user";
        let two = "-nic user -netdev user,id=n -device virtio-net,netdev=n,id=b";
        assert_eq!(planned(one, None, None).unwrap(), ["1 virtio-net0 -"]);
        assert_eq!(planned(one, Some("-"), None).unwrap(), ["1 virtio-net0 -"]);
        assert_eq!(planned(one, Some("d/a.pcap"), None).unwrap(), ["1 virtio-net0 d/a.pcap"]);
        let both = ["0 virtio-net0 d/a-virtio-net0.pcap", "1 b d/a-b.pcap"];
        assert_eq!(planned(two, Some("d/a.pcap"), None).unwrap(), both);
        assert_eq!(planned(two, Some("a"), Some("n")).unwrap(), ["1 b a"]);
        assert_eq!(planned(two, None, Some("b")).unwrap(), ["1 b -"]);
        assert_eq!(planned("", None, None).unwrap_err(), "the recording has no network");
        let message = planned(two, None, None).unwrap_err();
        assert!(message.ends_with("one of virtio-net0 (nic0), b (n)"), "{message}");
        let message = planned(two, None, Some("x")).unwrap_err();
        assert_eq!(message, "--nic x: the recording has no such network; it has: virtio-net0 (nic0), b (n)");
    }
}
