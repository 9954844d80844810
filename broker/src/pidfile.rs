//! `-pidfile`: the process id in a file, while we run.

use crate::launch::{HostError, host};
use std::path::{Path, PathBuf};

/// A file with our process id; removed on drop.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes the file.
    pub fn create(path: &Path) -> Result<PidFile, HostError> {
        let text = format!("{}\n", std::process::id());
        host(&format!("write the pid file {}", path.display()), std::fs::write(path, text))?;
        Ok(PidFile { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Whoever removed it before us has done what we want.
        let _ = std::fs::remove_file(&self.path);
    }
}
