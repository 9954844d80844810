//! One step of the demo: this program, started again, with its input scripted and its output collected.

use super::screen::Screen;
use super::{DemoError, STEP_TIMEOUT};
use crate::launch::host;
use crate::launch::signals::Signals;
use crate::launch::spawn::Spawn;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Most output that is kept of a step; the guest prints less than a kilobyte.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// How long a step may take to end in order once it was told to.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Where steps run and what ends them.
pub struct Stage<'a> {
    /// Signals to this process.
    pub signals: &'a Signals,
    /// The working directory of every step.
    pub directory: &'a Path,
}

/// What is typed, and after which output.
pub struct Script<'a> {
    /// The end of the output so far.
    pub question: &'a [u8],
    /// What is typed then.
    pub answer: &'a [u8],
}

/// A step that has ended.
pub struct Done {
    /// What it ran.
    words: String,
    /// What it wrote to stdout.
    pub output: Vec<u8>,
    /// What it wrote to stderr.
    pub errors: String,
    /// How it ended.
    pub status: ExitStatus,
    /// How long it took.
    pub time: Duration,
}

impl Done {
    /// Its output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Fails unless it ended with status 0.
    pub fn expect_success(&self) -> Result<(), DemoError> {
        if self.status.success() {
            return Ok(());
        }
        let why = self.errors.lines().last().unwrap_or("it did not say why");
        Err(DemoError::Claim(format!("`reprise {}` ended with {}: {why}", self.words, self.status)))
    }
}

impl Stage<'_> {
    /// Runs this program to its end, plays the script, shows the output if there is a screen.
    pub fn run(
        &self,
        words: &[&str],
        script: Option<&Script<'_>>,
        mut screen: Option<&mut Screen>,
    ) -> Result<Done, DemoError> {
        let start = Instant::now();
        // It ends in order, with its own children.
        let spawn = Spawn::tool(words.iter().map(|word| (*word).to_owned()).collect(), Signal::SIGTERM);
        let mut child = host("start a step", spawn.start_piped(self.directory))?;
        let spoken = self.converse(&mut child, script, &mut screen);
        if spoken.is_err() {
            end(&mut child);
        }
        let status = host("wait for a step", child.wait())?;
        let (output, errors) = spoken?;
        let errors = String::from_utf8_lossy(&errors).into_owned();
        Ok(Done { words: words.join(" "), output, errors, status, time: start.elapsed() })
    }

    fn converse(
        &self,
        child: &mut Child,
        script: Option<&Script<'_>>,
        screen: &mut Option<&mut Screen>,
    ) -> Result<(Vec<u8>, Vec<u8>), DemoError> {
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(DemoError::Claim("a step has no output".to_owned()));
        };
        // Without a script the input ends at once.
        let mut input = child.stdin.take().filter(|_| script.is_some());
        let deadline = Instant::now() + STEP_TIMEOUT;
        let (mut output, mut errors, mut shown) = (Vec::new(), Vec::new(), 0);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            let [out_ready, err_ready] =
                self.wait([out_open.then(|| out.as_fd()), err_open.then(|| err.as_fd())], deadline)?;
            if err_ready {
                err_open = take(&mut err, &mut errors)?;
            }
            if !out_ready {
                continue;
            }
            out_open = take(&mut out, &mut output)?;
            if let Some(screen) = screen {
                let whole = output.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let end = if out_open { whole } else { output.len() };
                screen.console(&output[shown..end])?;
                shown = end;
            }
            if let Some(script) = script
                && output.ends_with(script.question)
                && let Some(mut input) = input.take()
            {
                host("type a line", input.write_all(script.answer))?;
            }
        }
        Ok((output, errors))
    }

    /// Waits for one of the two; also ends with a signal or at the deadline.
    fn wait(
        &self,
        streams: [Option<std::os::fd::BorrowedFd<'_>>; 2],
        deadline: Instant,
    ) -> Result<[bool; 2], DemoError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = STEP_TIMEOUT.as_secs();
            return Err(DemoError::Claim(format!("a step did not end within {seconds} s")));
        }
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(streams.into_iter().flatten().map(|stream| PollFd::new(stream, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => host("wait for a step", Err(errno))?,
        }
        if let Some(signal) = self.signals.take() {
            return Err(DemoError::Signal(signal));
        }
        let mut ready = fds[1..].iter().map(|fd| fd.any().unwrap_or(false));
        Ok(streams.map(|stream| stream.is_some() && ready.next().unwrap_or(false)))
    }
}

/// Takes what is there; false at the end of the stream.
fn take(stream: &mut impl Read, into: &mut Vec<u8>) -> Result<bool, DemoError> {
    let mut bytes = [0; 4096];
    let count = host("read from a step", stream.read(&mut bytes))?;
    into.extend(&bytes[..count]);
    if into.len() > OUTPUT_BYTES_MAX {
        return Err(DemoError::Claim(format!("a step wrote more than {OUTPUT_BYTES_MAX} bytes")));
    }
    Ok(count > 0)
}

/// Ends a step: in order if it can, so that its own children go first.
fn end(child: &mut Child) {
    let deadline = Instant::now() + END_TIMEOUT;
    // It was not reaped, so the number is its own; one that has ended already takes no signal.
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
}
