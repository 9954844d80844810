//! Vhost-user back-ends that are somebody else's programs: we connect to them, or they to us.

use super::LaunchError;
use super::process::wait_readable;
use super::signals::Signals;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connects to the back-end of the device `id`.
pub fn connect(id: &str, path: &Path) -> Result<UnixStream, LaunchError> {
    UnixStream::connect(path).map_err(|error| {
        let place = path.display();
        LaunchError::BackEnd(match error.kind() {
            ErrorKind::NotFound => {
                format!("device \"{id}\": there is no socket '{place}'; start its vhost-user back-end first")
            }
            ErrorKind::ConnectionRefused => {
                format!("device \"{id}\": nobody listens on '{place}'; start its vhost-user back-end first")
            }
            _ => format!("device \"{id}\": cannot connect to its vhost-user back-end on '{place}': {error}"),
        })
    })
}

/// Waits until the back-end of the device `id` connects.
pub fn accept(id: &str, path: &Path, signals: &Signals) -> Result<UnixStream, LaunchError> {
    let place = path.display();
    let failed = |error: io::Error| {
        LaunchError::BackEnd(format!(
            "device \"{id}\": cannot listen on '{place}' for its vhost-user back-end: {error}"
        ))
    };
    let listener = listen(path).map_err(failed)?;
    eprintln!("reprise: info: waiting for connection on: unix:{place},server=on");
    wait_readable(listener.as_fd(), true, signals)?;
    let (socket, _) = listener.accept().map_err(failed)?;
    // One back-end is all there can be.
    let _ = std::fs::remove_file(path);
    Ok(socket)
}

/// Listens on a path; a socket that nobody serves any more is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let line =
            |path: &Path| connect("c0", path).unwrap_err().to_string().replace(path.to_str().unwrap(), "S");
        assert_eq!(line(&path), "device \"c0\": there is no socket 'S'; start its vhost-user back-end first");
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(line(&path), "device \"c0\": nobody listens on 'S'; start its vhost-user back-end first");
        let listener = listen(&path).unwrap();
        assert!(connect("c0", &path).is_ok());
        drop(listener);
        let file = directory.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(listen(&file).is_err() && file.exists());
    }
}
