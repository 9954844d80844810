//! `reprise demo`: records a small guest, replays it, verifies it, steps back in it, damages a copy, and shows what each step
//! found.
//!
//! Each step is the program itself, started as a user would start it, on a guest that is part of the program. Reading
//! order: this file (what is claimed, and checked), `step` (one run of the program), `screen` (how it is shown).

mod back;
mod screen;
mod step;

use crate::demo_guest;
use crate::inspect::{self, InspectError};
use crate::launch::signals::Signals;
use crate::launch::{HostError, host};
use replay::recording::{Recording, RecordingError};
use screen::Screen;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use step::{Done, Script, Stage};

/// What the guest prints when it waits for a line, and the line.
const TYPED: Script<'static> = Script { question: b"type a line: ", answer: b"never diverge\n" };
/// The guest's last word before it powers off: a hash of every input it saw.
const CHECKSUM: &str = "checksum ";
/// Instructions between two digests: the guest runs 12 million.
const DIGEST_INTERVAL: &str = "1000000";
/// Bytes of the head of the log: a change there is found before any block is read.
const LOG_HEAD_BYTES: usize = 64;

/// Why the demo did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The recording cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The recording cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The user ended it.
    #[error("demo: ended by signal {0}")]
    Signal(i32),
    /// Something that was claimed did not hold.
    #[error("demo: {0}")]
    Claim(String),
}

/// A directory that goes when the demo ends, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Scratch, HostError> {
        let path = std::env::temp_dir().join(format!("reprise-demo-{}", uuid::Uuid::new_v4()));
        host("make a directory", DirBuilder::new().mode(0o700).create(&path))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays for the user to see.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the demo.
pub fn demo() -> Result<(), DemoError> {
    let start = Instant::now();
    // From here on ^C ends the step that runs, and so the demo, in order.
    let signals = Signals::block()?;
    let scratch = Scratch::make()?;
    let stage = Stage { signals: &signals, directory: &scratch.0 };
    let mut screen = Screen::new();
    let recording = scratch.0.join("recording");

    let recorded = record(&stage, &mut screen)?;
    describe(&recording, &mut screen)?;
    replay_it(&stage, &recorded, &mut screen)?;
    let icount = verify(&stage, &mut screen)?;
    back::step(&stage, &mut screen, icount)?;
    damage(&stage, &recording, &mut screen)?;
    screen.line(&format!("all of it held, in {:.1} s", start.elapsed().as_secs_f64()))?;
    Ok(())
}

fn record(stage: &Stage<'_>, screen: &mut Screen) -> Result<Done, DemoError> {
    screen.begin("record", "a guest that uses timer interrupts, clock, random numbers and a typed line")?;
    host("write the guest", fs::write(stage.directory.join("demo-guest.elf"), demo_guest::IMAGE))?;
    let words = ["record", "--digest-interval", DIGEST_INTERVAL, "-o", "recording"];
    let machine = ["-kernel", "demo-guest.elf", "-m", "16", "-display", "none", "-no-reboot"];
    let rest = ["-serial", "stdio", "-icount", "shift=0"];
    let words: Vec<&str> = words.into_iter().chain(machine).chain(rest).collect();
    let done = stage.run(&words, Some(&TYPED), Some(screen))?;
    done.expect_success()?;
    let text = done.text();
    let complete = text.lines().any(|line| line.starts_with(CHECKSUM)) && text.contains("egrevid reven");
    claim(complete, || "the guest did not come to its end".to_owned())?;
    screen.done(&format!("{} bytes of console output", done.output.len()), done.time)?;
    Ok(done)
}

fn describe(path: &Path, screen: &mut Screen) -> Result<(), DemoError> {
    let start = Instant::now();
    screen
        .begin("info", "what was kept of it: inputs with their places, nothing that can be computed again")?;
    let recording = Recording::open(path)?;
    let summary = inspect::summarize(&recording)?;
    let inputs: Vec<String> = summary.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    screen.line(&format!("  events: {}", inputs.join(", ")))?;
    let (icount, bytes) = (summary.survey.progress.0, summary.survey.bytes);
    let text = format!("{} instructions in a log of {bytes} bytes", screen::grouped(icount));
    screen.done(&text, start.elapsed())?;
    Ok(())
}

fn replay_it(stage: &Stage<'_>, recorded: &Done, screen: &mut Screen) -> Result<(), DemoError> {
    screen.begin("replay", "no input, and nothing of this host's timer, clock or random numbers")?;
    let done = stage.run(&["replay", "recording"], None, Some(screen))?;
    done.expect_success()?;
    claim(done.output == recorded.output, || {
        format!("the replay printed {:?}, the recording {:?}", done.text(), recorded.text())
    })?;
    let text = format!(
        "the same {} bytes, in {} instead of {}",
        done.output.len(),
        screen::seconds(done.time),
        screen::seconds(recorded.time)
    );
    screen.done(&text, done.time)?;
    Ok(())
}

/// Returns the number of instructions.
fn verify(stage: &Stage<'_>, screen: &mut Screen) -> Result<u64, DemoError> {
    screen.begin("verify", "registers and memory, compared at every digest")?;
    let done = stage.run(&["verify", "recording", "--json"], None, None)?;
    done.expect_success()?;
    let report: serde_json::Value = serde_json::from_slice(&done.output).unwrap_or_default();
    let (digests, icount) = (report["digests"].as_u64().unwrap_or(0), report["icount"].as_u64().unwrap_or(0));
    claim(report["ok"] == true && digests > 0, || format!("verify reports {report}"))?;
    let text = format!("{digests} digests over {} instructions are equal", screen::grouped(icount));
    screen.done(&text, done.time)?;
    Ok(icount)
}

/// Changes one byte of a copy; a replay must say so, and where.
fn damage(stage: &Stage<'_>, recording: &Path, screen: &mut Screen) -> Result<(), DemoError> {
    let copy = stage.directory.join("damaged");
    host("make a directory", DirBuilder::new().mode(0o700).create(&copy))?;
    let mut place = 0;
    for entry in host("list the recording", fs::read_dir(recording))? {
        let name = host("list the recording", entry)?.file_name();
        let mut bytes = host("read the recording", fs::read(recording.join(&name)))?;
        if name == "events.log" {
            place = (LOG_HEAD_BYTES + bytes.len()) / 2;
            claim(place < bytes.len(), || "the log is empty".to_owned())?;
            bytes[place] ^= 1;
        }
        host("copy the recording", fs::write(copy.join(&name), bytes))?;
    }
    screen.begin("damage", &format!("one bit of a copy is changed, at offset {place} of its log"))?;
    let done = stage.run(&["verify", "damaged"], None, None)?;
    let complaint = done.errors.lines().rfind(|line| line.contains("damaged at offset"));
    let Some(complaint) = complaint.filter(|_| !done.status.success()) else {
        return Err(DemoError::Claim(format!("a changed log passed: {} {}", done.status, done.errors)));
    };
    let at = complaint.find("the log is damaged").unwrap_or(0);
    screen.line(&format!("  | {}", &complaint[at..]))?;
    screen.done("refused, with the place and both checksums", done.time)?;
    Ok(())
}

fn claim(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), DemoError> {
    if holds { Ok(()) } else { Err(DemoError::Claim(otherwise())) }
}

/// Longest time a step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
