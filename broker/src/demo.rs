//! `reprise demo`: records a small guest, replays it, verifies it, and shows what happened at each step.
//!
//! Each step is the program itself, started as a user would start it, on a guest that is part of the program.

use crate::demo_guest;
use crate::launch::signals::Signals;
use crate::launch::{HostError, host};
use crate::run::count_digests;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use replay::recording::{Recording, RecordingError};
use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the guest prints when it waits for a line.
const QUESTION: &[u8] = b"type a line: ";
/// The line.
const ANSWER: &[u8] = b"never diverge\n";
/// Longest time a step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Instructions between two digests: the guest is short.
const DIGEST_INTERVAL: &str = "100000";

/// Why the demo did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A step failed.
    #[error("demo: {0}")]
    Step(String),
}

/// A directory that goes when the demo ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays for the user to see.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the demo.
pub fn demo() -> Result<(), DemoError> {
    // ^C ends the step that runs, and so the demo in order.
    let _signals = Signals::block()?;
    let scratch = Scratch(std::env::temp_dir().join(format!("reprise-demo-{}", uuid::Uuid::new_v4())));
    host("make a directory", DirBuilder::new().mode(0o700).create(&scratch.0))?;
    let (guest, recording) = (scratch.0.join("guest.elf"), scratch.0.join("recording"));
    host("write the guest", std::fs::write(&guest, demo_guest::IMAGE))?;

    println!("1. recording a guest that uses timer, clock, random numbers and a typed line");
    let mut words: Vec<String> =
        ["record", "--digest-interval", DIGEST_INTERVAL, "-o"].map(str::to_owned).to_vec();
    words.push(recording.display().to_string());
    words.push("-kernel".to_owned());
    words.push(guest.display().to_string());
    words.extend(["-m", "16", "-no-reboot", "-serial", "stdio"].map(str::to_owned));
    let recorded = step(&words, true)?;
    let counts = count_events(&recording)?;
    println!("   {counts}\n");

    println!("2. replaying it: no timer, clock, random numbers or keyboard of the host are used");
    let replayed = step(&["replay".to_owned(), recording.display().to_string()], true)?;
    if replayed.text != recorded.text {
        return Err(DemoError::Step("the replay printed something else than the recording".to_owned()));
    }
    println!(
        "   same {} bytes, {:.2} s instead of {:.2} s\n",
        replayed.text.len(),
        replayed.seconds,
        recorded.seconds
    );

    println!("3. verifying it: registers and memory at every digest");
    let verified = step(&["verify".to_owned(), recording.display().to_string(), "--json".to_owned()], false)?;
    let report: serde_json::Value = serde_json::from_slice(&verified.text).unwrap_or_default();
    let (digests, icount) = (&report["digests"], &report["icount"]);
    println!("   {digests} digests over {icount} instructions are equal");
    Ok(())
}

/// What a step printed and how long it took.
struct Done {
    text: Vec<u8>,
    seconds: f64,
}

/// Runs this program with `words`, answers the guest's question, and shows what it prints.
fn step(words: &[String], show: bool) -> Result<Done, DemoError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("reprise").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = host("start a step", command.spawn())?;
    let text = converse(&mut child, show);
    if text.is_err() {
        // It may have ended already.
        let _ = child.kill();
    }
    let status = host("wait for a step", child.wait())?;
    let text = text?;
    if !status.success() {
        return Err(DemoError::Step(format!("`reprise {}` ended with {status}", words[0])));
    }
    Ok(Done { text, seconds: start.elapsed().as_secs_f64() })
}

fn converse(child: &mut Child, show: bool) -> Result<Vec<u8>, DemoError> {
    let (Some(mut output), Some(mut input)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(DemoError::Step("a step has no input and output".to_owned()));
    };
    let deadline = Instant::now() + STEP_TIMEOUT;
    let (mut text, mut shown, mut answered) = (Vec::new(), 0, false);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => {
                return Err(DemoError::Step(format!("nothing happened for {} s", STEP_TIMEOUT.as_secs())));
            }
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) | Err(_) => {}
        }
        let mut bytes = [0; 4096];
        let count = host("read from a step", output.read(&mut bytes))?;
        text.extend(&bytes[..count]);
        if show {
            shown += show_lines(&text[shown..], count == 0);
        }
        if count == 0 {
            return Ok(text);
        }
        if !answered && text.ends_with(QUESTION) {
            answered = true;
            // A replay takes no input and may have gone on already.
            let _ = input.write_all(ANSWER);
        }
    }
}

/// Shows whole lines, at the end also what is left; how many bytes were shown.
fn show_lines(text: &[u8], all: bool) -> usize {
    let end =
        if all { text.len() } else { text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1) };
    for line in String::from_utf8_lossy(&text[..end]).lines() {
        println!("   | {}", line.trim_end());
    }
    end
}

fn count_events(path: &Path) -> Result<String, DemoError> {
    let recording = Recording::open(path)?;
    let survey = recording.survey_log()?;
    let digests = count_digests(&recording)?;
    // The End event is no input.
    let inputs = survey.events.saturating_sub(digests + 1);
    let (icount, bytes) = (survey.progress, survey.bytes);
    Ok(format!("{icount} instructions, {inputs} events and {digests} digests in {bytes} bytes"))
}
