//! The locks that QEMU and its tools take on image files, so that we and they respect each other.
//!
//! A permission that a user of the file has is a shared lock on byte 100 + n, one that it does not grant to
//! others is a shared lock on byte 200 + n (QEMU, `block/file-posix.c`). Nobody keeps an exclusive lock: whether
//! there is a conflict is found out by asking for one. Locks belong to the open file and go with it.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const PERMISSIONS_AT: i64 = 100;
const SHARED_AT: i64 = 200;

/// Reads what is consistent only as long as nobody writes.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What neither a reader nor a writer grants to others.
const NOT_SHARED: [i64; 2] = [WRITE, RESIZE];

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To read; others may read too.
    Read,
    /// To read and write, alone.
    Write,
}

/// Takes the locks for `use_` on the file at `path`.
///
/// # Errors
/// Somebody else uses the file in a way that does not go with it.
pub fn lock(file: &File, path: &Path, use_: Use) -> Result<(), String> {
    let permissions: &[i64] = match use_ {
        Use::Read => &[CONSISTENT_READ],
        Use::Write => &[CONSISTENT_READ, WRITE, RESIZE],
    };
    let cannot = |error: Errno| format!("cannot lock '{}': {}", path.display(), error.desc());
    let bytes = permissions.iter().map(|bit| PERMISSIONS_AT + bit);
    for byte in bytes.chain(NOT_SHARED.iter().map(|bit| SHARED_AT + bit)) {
        let wanted = range(byte, libc::F_RDLCK);
        fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)).map_err(cannot)?;
    }
    for bit in NOT_SHARED {
        if is_locked(file, PERMISSIONS_AT + bit).map_err(cannot)? {
            return Err(conflict(file, path, "is written to by"));
        }
    }
    for bit in permissions {
        if is_locked(file, SHARED_AT + bit).map_err(cannot)? {
            return Err(conflict(file, path, "may not be written to, it is in use by"));
        }
    }
    Ok(())
}

fn range(byte: i64, kind: i32) -> flock {
    flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}

/// Whether another open file has any lock on the byte.
fn is_locked(file: &File, byte: i64) -> nix::Result<bool> {
    let mut found = range(byte, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn conflict(file: &File, path: &Path, why: &str) -> String {
    let holder = holder(file).unwrap_or_else(|| "another process (QEMU, qemu-img, another reprise?)".into());
    format!("'{}' is locked: it {why} {holder}", path.display())
}

/// Another process that has the file open, as far as we may see. The kernel does not say whose such a lock is.
fn holder(file: &File) -> Option<String> {
    let ours = file.metadata().ok()?;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name().into_string().unwrap_or_default();
        let is_other = name.parse::<u32>().is_ok_and(|id| id != std::process::id());
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        if !is_other {
            continue;
        }
        for descriptor in descriptors.flatten() {
            let Ok(theirs) = std::fs::metadata(descriptor.path()) else { continue };
            if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
                let program = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (process {name})", program.trim()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path();
        let (first, second) = (open(path), open(path));
        lock(&first, path, Use::Read).unwrap();
        lock(&second, path, Use::Read).unwrap();
        let message = lock(&open(path), path, Use::Write).unwrap_err();
        assert!(message.contains("may not be written to"), "{message}");
        drop((first, second));
        let writer = open(path);
        lock(&writer, path, Use::Write).unwrap();
        let message = lock(&open(path), path, Use::Read).unwrap_err();
        assert!(message.contains("is written to by"), "{message}");
        assert!(lock(&open(path), path, Use::Write).is_err());
        drop(writer);
        lock(&open(path), path, Use::Write).unwrap();
    }
}
