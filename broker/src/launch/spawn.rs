//! Starting one child: which descriptors it keeps, when it must die.
//!
//! The only `unsafe` of the broker: what runs between fork and exec.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What to start.
pub struct Spawn<'a> {
    /// Words after the program's name.
    pub arguments: Vec<String>,
    /// Variables added to its environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// Descriptors the child keeps, under the same numbers.
    pub keep: Vec<BorrowedFd<'a>>,
    /// Numbers of descriptors that this process itself was given for the child.
    pub keep_inherited: Vec<RawFd>,
    /// The child uses our standard input and output.
    pub stdio: bool,
    /// What it gets when this process dies.
    pub death_signal: Signal,
}

/// Signals that a terminal or `timeout` sends to the whole process group; what they mean is the broker's decision.
/// A device handles SIGTERM again, because it is its death signal.
const GROUP_SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM];

impl Spawn<'_> {
    /// With these words and nothing else, and the signal that it gets when this process dies.
    pub fn tool(arguments: Vec<String>, death_signal: Signal) -> Spawn<'static> {
        Spawn {
            arguments,
            environment: vec![],
            keep: vec![],
            keep_inherited: vec![],
            stdio: false,
            death_signal,
        }
    }

    /// Starts this program again with these words.
    ///
    /// The caller must be the main thread: a death signal is sent when the thread that forked ends.
    pub fn start(self) -> io::Result<Child> {
        let stdio = self.stdio;
        let mut command = self.command();
        if !stdio {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        command.spawn()
    }

    /// As [`Spawn::start`], in another directory and with pipes for its three streams.
    pub fn start_piped(self, directory: &Path) -> io::Result<Child> {
        let mut command = self.command();
        command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    }

    fn command(self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("reprise").args(&self.arguments).envs(self.environment);
        let mut keep: Vec<RawFd> = self.keep.iter().map(AsRawFd::as_raw_fd).collect();
        keep.extend(&self.keep_inherited);
        let parent = nix::unistd::getpid();
        let death_signal = self.death_signal;
        let before_exec = move || {
            set_pdeathsig(death_signal)?;
            if nix::unistd::getppid() != parent {
                // The parent died before the death signal was set.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            close_all_but(&keep)?;
            ignore_group_signals();
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made (prctl, getppid, close_range, fcntl, signal), all
        // async-signal-safe; the closure allocates nothing: `keep` was filled before and an error of a number is plain.
        unsafe { command.pre_exec(before_exec) };
        command
    }
}

/// Lets exec close every descriptor above stderr except these.
fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    // A kernel before 5.11 does not know the flag; every descriptor of our own is close-on-exec anyway.
    // SAFETY: changes only flags of descriptors of this process, which is about to exec.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    for fd in keep {
        // SAFETY: as above; a number that is not open fails with EBADF.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn ignore_group_signals() {
    for signal in GROUP_SIGNALS {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
