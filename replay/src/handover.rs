//! How a machine's state passes between broker and vCPU process: two memory files, sent over the control socket.
//!
//! The first has sections (`store::sections`): a [`Handover`], then the state, which only a vCPU process understands. The second has
//! the contents of pages of RAM, one after the other. A vCPU process sends both at a save, before [`Outbound::Saved`]; it fills
//! the second one while the machine runs on, until [`Outbound::Copied`]. The broker sends both before [`Control::Load`].
//!
//! [`Outbound::Saved`]: crate::message::Outbound::Saved
//! [`Outbound::Copied`]: crate::message::Outbound::Copied
//! [`Control::Load`]: crate::message::Control::Load

use crate::codec;
use crate::store::sections;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Most bytes of state that are read.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// What passes with a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Instructions retired.
    pub icount: u64,
    /// Guest time, nanoseconds.
    pub vtime_ns: u64,
    /// In a replay: events of the log that were applied.
    pub events: Option<u64>,
    /// Pages that are not listed are as in the snapshot that this process saved or loaded last; else they are zero.
    pub is_partial: bool,
    /// Numbers of the pages in the second file, in its order.
    pub pages: Vec<u64>,
}

/// Both files.
#[derive(Debug)]
pub struct Files {
    /// Sections.
    pub state: File,
    /// Contents of pages.
    pub pages: File,
}

impl Files {
    /// Files with a state, and none of its pages yet.
    pub fn new(handover: &Handover, state: &[Vec<u8>]) -> io::Result<Files> {
        let make = |name: &std::ffi::CStr| memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from);
        let mut file = make(c"reprise-state")?;
        let mut parts = vec![codec::encode(handover)];
        parts.extend(state.iter().cloned());
        file.write_all(&sections::join(&parts))?;
        Ok(Files { state: file, pages: make(c"reprise-pages")? })
    }

    /// What is in the first file; the error is a line for the user.
    pub fn read(&mut self) -> Result<(Handover, Vec<Vec<u8>>), String> {
        let mut bytes = Vec::new();
        let read = self.state.seek(SeekFrom::Start(0));
        let read = read.and_then(|_| (&self.state).take(STATE_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|error| format!("cannot read a saved state: {error}"))?;
        let mut parts = sections::split(&bytes).ok_or("a saved state has the wrong length")?.into_iter();
        let first = parts.next().ok_or("a saved state is empty")?;
        let handover = codec::decode_all(&first).map_err(|error| error.to_string())?;
        Ok((handover, parts.collect()))
    }

    /// Sends both over the control socket.
    pub fn send(&self, socket: RawFd) -> io::Result<()> {
        let fds = [self.state.as_raw_fd(), self.pages.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(socket, &[IoSlice::new(b"S")], &rights, flags, None)?;
        Ok(())
    }

    /// Takes both from the control socket.
    pub fn receive(socket: RawFd) -> io::Result<Files> {
        let mut fds = receive_fds(socket)?.into_iter().map(File::from);
        match (fds.next(), fds.next(), fds.next()) {
            (Some(state), Some(pages), None) => Ok(Files { state, pages }),
            _ => Err(io::Error::other("a saved state came without its two files")),
        }
    }
}

fn receive_fds(socket: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 64]);
    let message = recvmsg::<()>(socket, &mut iov, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let mut fds = Vec::new();
    for message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            for number in numbers {
                fds.push(crate::inherit::take(number).map_err(io::Error::other)?);
            }
        }
    }
    Ok(fds)
}
