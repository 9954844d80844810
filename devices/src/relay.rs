//! A connected socket as if somebody had connected to a listening one.
//!
//! vhost-user-backend only accepts and connects. So what comes on an inherited connection, with its descriptors, is
//! handed on to a connection of our own, both ways, by one thread. Only messages of the protocol's dialogue
//! travel here; rings and buffers are shared memory.

use crate::early_enable::{Dialogue, HEADER_SIZE};
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
    let mut dialogue = Dialogue::default();
    while step(outside, inside, &mut dialogue) {}
    // Whoever is still there learns that the other is gone.
    for end in [outside, inside] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// Waits for either side and hands its bytes on; false: one of them is gone.
fn step(outside: &UnixStream, inside: &UnixStream, dialogue: &mut Dialogue) -> bool {
    let mut fds = [outside, inside].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => {}
        Err(Errno::EINTR) => return true,
        Err(_) => return false,
    }
    let [from_outside, from_inside] = fds.map(|fd| fd.any().unwrap_or(true));
    (!from_outside || hand_on_request(outside, inside, dialogue).is_ok_and(|count| count > 0))
        && (!from_inside || hand_on(inside, outside).is_ok_and(|count| count > 0))
}

/// Moves what one call receives, with its descriptors; 0: the end.
fn hand_on(from: &UnixStream, to: &UnixStream) -> nix::Result<usize> {
    let mut bytes = [0; CHUNK];
    let mut fds = Vec::new();
    let received = receive(from, &mut bytes, &mut fds);
    let sent = received.and_then(|count| send_all(to, &bytes[..count], &fds).map(|()| count));
    close(fds);
    sent
}

/// Moves one whole request of the front-end, with what `dialogue` wants said before it; 0: the end.
fn hand_on_request(from: &UnixStream, to: &UnixStream, dialogue: &mut Dialogue) -> nix::Result<usize> {
    let mut bytes = vec![0; HEADER_SIZE];
    let mut fds = Vec::new();
    let handed_on = (|| {
        let count = receive_all(from, &mut bytes, &mut fds)?;
        if count < HEADER_SIZE {
            return send_all(to, &bytes[..count], &fds).map(|()| 0);
        }
        let (before, size) = dialogue.next(&bytes).ok_or(Errno::EMSGSIZE)?;
        bytes.resize(HEADER_SIZE + size, 0);
        let count = receive_all(from, &mut bytes[HEADER_SIZE..], &mut fds)?;
        send_all(to, before, &[])?;
        send_all(to, &bytes[..HEADER_SIZE + count], &fds)?;
        Ok(if count < size { 0 } else { HEADER_SIZE + size })
    })();
    close(fds);
    handed_on
}

/// Receives until `bytes` is full; fewer: the end. One call stops behind descriptors.
fn receive_all(from: &UnixStream, bytes: &mut [u8], fds: &mut Vec<RawFd>) -> nix::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match receive(from, &mut bytes[done..], fds) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn receive(from: &UnixStream, bytes: &mut [u8], fds: &mut Vec<RawFd>) -> nix::Result<usize> {
    let mut space = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut buffers = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received);
        }
    }
    Ok(message.bytes)
}

fn close(fds: Vec<RawFd>) {
    for fd in fds {
        // The other side has its own by now.
        let _ = unistd::close(fd);
    }
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
        // A request without a payload, and one with eight bytes of it.
        let requests = [15, 1, 0, 16, 1, 8, 0x0102_0304, 0x0506_0708].map(u32::to_ne_bytes).concat();
        let bytes = [IoSlice::new(&requests)];
        sendmsg::<UnixAddr>(peer.as_raw_fd(), &bytes, &control, MsgFlags::empty(), None).unwrap();
        drop(writer);

        let mut buffer = [0; 64];
        let mut fds = Vec::new();
        let count = receive_all(&accepted, &mut buffer[..requests.len()], &mut fds);
        assert_eq!((count, &buffer[..requests.len()]), (Ok(requests.len()), requests.as_slice()));
        let received = *fds.first().expect("a descriptor came along");
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
