//! Kernel and initial RAM disk: looked at before anything starts, and known by their content.

use crate::cli::CliError;
use crate::cli::size::display_size;
use replay::machine::Machine;
use replay::manifest::FileIdentity;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// Fails when an image cannot be read or cannot fit.
pub fn check(machine: &Machine) -> Result<(), CliError> {
    let boot = &machine.boot;
    for (option, path) in [("-kernel", &boot.kernel), ("-initrd", &boot.initrd)] {
        let Some(path) = path else { continue };
        let (_, bytes) = open(option, path)?;
        if bytes >= machine.ram_bytes {
            return Err(CliError(format!(
                "{option} {}: {} do not fit into {} of RAM",
                path.display(),
                display_size(bytes),
                display_size(machine.ram_bytes)
            )));
        }
    }
    Ok(())
}

/// Path, length and hash of an image.
pub fn identify(option: &str, path: &Path) -> Result<FileIdentity, CliError> {
    let (mut file, _) = open(option, path)?;
    let mut hash = Sha256::new();
    let (mut bytes, mut chunk) = (0, vec![0; CHUNK_BYTES]);
    loop {
        let count = file.read(&mut chunk).map_err(|error| refused(option, path, &error))?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
        bytes += count as u64;
    }
    let sha256 = hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Ok(FileIdentity { path: path.to_string_lossy().into_owned(), bytes, sha256 })
}

fn open(option: &str, path: &Path) -> Result<(File, u64), CliError> {
    let file = File::open(path).map_err(|error| refused(option, path, &error))?;
    let metadata = file.metadata().map_err(|error| refused(option, path, &error))?;
    if !metadata.is_file() {
        return Err(CliError(format!("{option} {}: not a plain file", path.display())));
    }
    if metadata.len() == 0 {
        return Err(CliError(format!("{option} {}: the file is empty", path.display())));
    }
    Ok((file, metadata.len()))
}

fn refused(option: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError(format!("{option}: could not open '{}': {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_by_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        std::fs::write(&path, "abc").unwrap();
        let identity = identify("-kernel", &path).unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(identity.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(identity.bytes, 3);
    }

    #[test]
    fn bad_images_are_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for path in [directory.path(), &empty, Path::new("/nonexistent/k")] {
            let error = identify("-kernel", path).unwrap_err().0;
            assert!(error.contains("-kernel") && error.contains(path.to_str().unwrap()), "{error}");
        }
        let mut machine = crate::machine::tests::machine("-m 1");
        let big = directory.path().join("big");
        std::fs::write(&big, vec![0; 2 << 20]).unwrap();
        machine.boot.kernel = None;
        machine.boot.initrd = Some(big);
        let error = check(&machine).unwrap_err().0;
        assert!(
            error.starts_with("-initrd") && error.ends_with("2 MiB do not fit into 1 MiB of RAM"),
            "{error}"
        );
    }
}
