//! `logfile=`: a copy of all output in a file.

use super::spec::FileSpec;
use super::stream::open_output;
use std::fs::File;
use std::io::Write;

/// The file, until a write fails.
pub struct Log {
    file: Option<File>,
    label: String,
}

impl Log {
    /// Opens the file.
    pub fn open(spec: &FileSpec, label: &str) -> Result<Log, String> {
        Ok(Log { file: Some(File::from(open_output(spec)?)), label: label.to_string() })
    }

    /// Adds `bytes`. A full disk is reported once and does not stop the console.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
        {
            eprintln!("reprise device: {}: the log file ends here: {error}", self.label);
            self.file = None;
        }
    }
}
