//! What the processes log for whoever looks for a fault: to stderr or a file, by a filter.
//!
//! Never in the guest's sight, and off (`warn`) unless asked for with `REPRISE_LOG`, `-d` or `-D`, or while it runs by `log` and
//! `logfile`. `link` tells the processes of a running tree.

pub mod link;

use crate::launch::{HostError, host};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Environment variable with the filter; child processes inherit it.
pub const FILTER_VARIABLE: &str = "REPRISE_LOG";
/// Environment variable with the file; child processes inherit it.
pub const FILE_VARIABLE: &str = "REPRISE_LOG_FILE";

/// Items of a filter, and what they let through. `TARGET=` may stand before one.
pub const LEVELS: [(&str, &str); 6] = [
    ("off", "nothing at all"),
    ("error", "what went wrong"),
    ("warn", "and what is suspicious; the default"),
    ("info", "and what happens seldom"),
    ("debug", "and what happens often"),
    ("trace", "and every request of a device (lots of logs)"),
];
/// What is logged when nothing is said.
const DEFAULT: &str = "warn";
/// Longest filter.
const FILTER_BYTES_MAX: usize = 4096;

/// Fails with a line for the user when `filter` is not one.
pub fn check_filter(filter: &str) -> Result<(), String> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(format!("a filter has at most {FILTER_BYTES_MAX} bytes"));
    }
    for item in filter.split(',') {
        let level = item.rsplit('=').next().unwrap_or(item);
        if !LEVELS.iter().any(|(known, _)| *known == level) {
            return Err(format!("unknown log item '{item}'; -d help lists them"));
        }
    }
    EnvFilter::try_new(filter).map(|_| ()).map_err(|error| error.to_string())
}

/// What is logged and where; `None` takes the environment's, else `warn` and stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// The filter.
    pub filter: Option<String>,
    /// The file; lines are appended.
    pub file: Option<PathBuf>,
}

/// Another filter or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is logged; none: as if nothing had been said.
    Filter(Option<String>),
    /// Where to; none: stderr.
    File(Option<PathBuf>),
}

impl LogSettings {
    /// Settings of `-d` and `-D`. The file is emptied, and known by a path that means the same everywhere.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(filter: Option<&str>, file: Option<&Path>) -> Result<LogSettings, HostError> {
        let mut settings = LogSettings { filter: filter.map(str::to_owned), file: None };
        if let Some(path) = file {
            let action = format!("write the log file {}", path.display());
            let path = host(&action, std::path::absolute(path))?;
            host(&action, File::create(&path))?;
            settings.file = Some(path);
        }
        Ok(settings)
    }

    /// These settings with something else. A file that is used already is not emptied.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn with(&self, change: Change) -> Result<LogSettings, HostError> {
        match change {
            Change::Filter(filter) => Ok(LogSettings { filter, file: self.file.clone() }),
            Change::File(None) => Ok(LogSettings { filter: self.filter.clone(), file: None }),
            Change::File(Some(path)) if std::path::absolute(&path).ok() == self.file => Ok(self.clone()),
            Change::File(path) => LogSettings::new(self.filter.as_deref(), path.as_deref()),
        }
    }

    /// What a child process gets in its environment; `link`: its end, by which it hears of changes.
    pub fn environment_with(&self, link: &impl AsRawFd) -> Vec<(&'static str, OsString)> {
        let filter = self.filter.as_ref().map(|filter| (FILTER_VARIABLE, filter.into()));
        let file = self.file.as_ref().map(|file| (FILE_VARIABLE, file.into()));
        let link = (link::VARIABLE, link.as_raw_fd().to_string().into());
        filter.into_iter().chain(file).chain([link]).collect()
    }

    fn env_filter(&self) -> EnvFilter {
        let text = self.filter.clone().or_else(|| std::env::var(FILTER_VARIABLE).ok());
        text.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new(DEFAULT))
    }
}

/// Where this process's lines go.
static OUTPUT: Mutex<Option<File>> = Mutex::new(None);
/// The filter of this process, once it logs.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Writes to `OUTPUT`, else to stderr.
struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *OUTPUT.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Starts logging in this process. What cannot be used falls back to `warn` and stderr.
pub fn init(settings: &LogSettings) {
    let path = settings.file.clone().or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    *OUTPUT.lock().unwrap_or_else(PoisonError::into_inner) = path.and_then(|path| open(&path).ok());
    let (filter, handle) = reload::Layer::new(settings.env_filter());
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Sink);
    // A second start in one process (tests) is no fault.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Lets this process, which logs already, go on with other settings.
///
/// # Errors
/// When the file cannot be opened; then nothing has changed.
pub fn apply(settings: &LogSettings) -> Result<(), String> {
    let cannot = |path: &Path, error| format!("cannot write the log file {}: {error}", path.display());
    let file = settings.file.as_deref().map(|path| open(path).map_err(|error| cannot(path, error)));
    let file = file.transpose()?;
    *OUTPUT.lock().unwrap_or_else(PoisonError::into_inner) = file;
    match FILTER.get() {
        Some(filter) => filter.reload(settings.env_filter()).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(check_filter("debug").is_ok());
        assert!(check_filter("warn,vcpu=trace").is_ok());
        assert!(check_filter("in_asm").unwrap_err().contains("in_asm"));
        assert!(check_filter(&"warn,".repeat(2000)).is_err());
    }

    #[test]
    fn a_change_leaves_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let settings = LogSettings::new(Some("info"), Some(&path)).unwrap();
        std::fs::write(&path, "a line").unwrap();
        let same = settings.with(Change::File(Some(path.clone()))).unwrap();
        assert_eq!(same, settings);
        assert_eq!(std::fs::read(&path).unwrap(), b"a line", "it is in use");
        let other = same.with(Change::Filter(None)).unwrap();
        assert_eq!(other, LogSettings { filter: None, file: Some(path.clone()) });
        let stderr = other.with(Change::File(None)).unwrap();
        assert_eq!(stderr.file, None);
        assert_eq!(stderr.with(Change::File(Some(path.clone()))).unwrap().file, Some(path.clone()));
        assert_eq!(std::fs::read(&path).unwrap(), b"", "a new file is emptied");
        assert!(stderr.with(Change::File(Some(directory.path().join("no/file")))).is_err());
    }
}
