//! What the processes log for whoever looks for a fault: to stderr or a file, by a filter.
//!
//! Never in the guest's sight, and off (`warn`) unless asked for with `REPRISE_LOG`, `-d` or `-D`.

use crate::launch::{HostError, host};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing_subscriber::filter::EnvFilter;

/// Environment variable with the filter; child processes inherit it.
pub const FILTER_VARIABLE: &str = "REPRISE_LOG";
/// Environment variable with the file; child processes inherit it.
pub const FILE_VARIABLE: &str = "REPRISE_LOG_FILE";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Fails with a line for the user when `filter` is not one.
pub fn check_filter(filter: &str) -> Result<(), String> {
    for item in filter.split(',') {
        let level = item.rsplit('=').next().unwrap_or(item);
        if !LEVELS.contains(&level) {
            return Err(format!("unknown log item '{item}'; -d help lists them"));
        }
    }
    EnvFilter::try_new(filter).map(|_| ()).map_err(|error| error.to_string())
}

/// What is logged and where; `None` takes the environment's, else `warn` and stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// The filter.
    pub filter: Option<String>,
    /// The file; lines are appended.
    pub file: Option<PathBuf>,
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

    /// What a child process gets in its environment.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let filter = self.filter.as_ref().map(|filter| (FILTER_VARIABLE, filter.into()));
        let file = self.file.as_ref().map(|file| (FILE_VARIABLE, file.into()));
        filter.into_iter().chain(file).collect()
    }
}

/// Starts logging in this process. What cannot be used falls back to `warn` and stderr.
pub fn init(settings: &LogSettings) {
    let filter = settings.filter.clone().or_else(|| std::env::var(FILTER_VARIABLE).ok());
    let filter =
        filter.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new("warn"));
    let path = settings.file.clone().or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    let file = path.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // A second start in one process (tests) is no fault.
    let _ = match file {
        Some(file) => builder.with_writer(Mutex::new(file)).try_init(),
        None => builder.with_writer(std::io::stderr).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(check_filter("debug").is_ok());
        assert!(check_filter("warn,vcpu=trace").is_ok());
        assert!(check_filter("in_asm").unwrap_err().contains("in_asm"));
    }
}
