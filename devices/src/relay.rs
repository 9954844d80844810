//! A connected socket as if somebody had connected to a listening one.
//!
//! vhost-user-backend only accepts and connects. So what comes on an inherited connection, with its descriptors, is
//! handed on to a connection of our own, both ways, by one thread. Only messages of the protocol's dialogue
//! travel here; rings and buffers are shared memory.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use nix::unistd;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

/// Largest message: 8 memory regions or 256 bytes of configuration, and its header.
const CHUNK: usize = 4096;
/// Most descriptors with one message (VHOST_MEMORY_BASELINE_NREGIONS is 8).
const DESCRIPTORS_MAX: usize = 32;

/// A listener on which the first connection is `outside`, until one of both ends hangs up.
pub fn start(outside: UnixStream) -> Result<UnixListener, String> {
    let failed = |error: io::Error| format!("cannot serve a connected socket: {error}");
    // Nobody else may connect: the directory is ours alone, and gone when we are connected.
    let directory = tempfile::Builder::new().prefix("reprise-").tempdir().map_err(failed)?;
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let inside = UnixStream::connect(&path).map_err(failed)?;
    directory.close().map_err(failed)?;
    let run = move || relay(&outside, &inside);
    thread::Builder::new().name("relay".into()).spawn(run).map_err(failed)?;
    Ok(listener)
}

fn relay(outside: &UnixStream, inside: &UnixStream) {
    while step(outside, inside) {}
    // Whoever is still there learns that the other is gone.
    for end in [outside, inside] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// Waits for either side and hands its bytes on; false: one of them is gone.
fn step(outside: &UnixStream, inside: &UnixStream) -> bool {
    let mut fds = [outside, inside].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => {}
        Err(Errno::EINTR) => return true,
        Err(_) => return false,
    }
    let [from_outside, from_inside] = fds.map(|fd| fd.any().unwrap_or(true));
    (!from_outside || hand_on(outside, inside).is_ok_and(|count| count > 0))
        && (!from_inside || hand_on(inside, outside).is_ok_and(|count| count > 0))
}

/// Moves what one call receives, with its descriptors; 0: the end.
fn hand_on(from: &UnixStream, to: &UnixStream) -> nix::Result<usize> {
    let mut bytes = [0; CHUNK];
    let mut space = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut fds: Vec<RawFd> = Vec::new();
    let count = {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                fds.extend(received);
            }
        }
        message.bytes
    };
    let sent = send_all(to, &bytes[..count], &fds);
    for fd in fds {
        // The other side has its own by now.
        let _ = unistd::close(fd);
    }
    sent.map(|()| count)
}

fn send_all(to: &UnixStream, mut bytes: &[u8], fds: &[RawFd]) -> nix::Result<()> {
    let mut control = vec![ControlMessage::ScmRights(fds)];
    if fds.is_empty() {
        control.clear();
    }
    while !bytes.is_empty() {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<UnixAddr>(to.as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, None) {
            Ok(count) => {
                bytes = &bytes[count..];
                control.clear();
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::{Read, Write};

    #[test]
    fn bytes_and_descriptors_go_through_both_ways_and_hang_ups_too() {
        let (mut peer, given) = UnixStream::pair().unwrap();
        let listener = start(given).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let fds = [writer.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        let bytes = [IoSlice::new(b"with a pipe")];
        sendmsg::<UnixAddr>(peer.as_raw_fd(), &bytes, &control, MsgFlags::empty(), None).unwrap();
        drop(writer);

        let mut buffer = [0; 64];
        let mut space = cmsg_space!([RawFd; 4]);
        let mut received = None;
        {
            let mut buffers = [IoSliceMut::new(&mut buffer)];
            let message =
                recvmsg::<UnixAddr>(accepted.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty());
            let message = message.unwrap();
            assert_eq!(message.bytes, 11);
            for control in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    received = fds.first().copied();
                }
            }
        }
        assert_eq!(&buffer[..11], b"with a pipe");
        let received = received.expect("a descriptor came along");
        let mut writer = OpenOptions::new().write(true).open(format!("/proc/self/fd/{received}")).unwrap();
        unistd::close(received).unwrap();
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through", "and the relay kept no copy open");

        accepted.write_all(b"answer").unwrap();
        peer.read_exact(&mut buffer[..6]).unwrap();
        assert_eq!(&buffer[..6], b"answer");
        drop(accepted);
        assert_eq!(peer.read(&mut buffer).unwrap(), 0, "the hang-up arrives");
    }
}
