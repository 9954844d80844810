//! The vhost-user handshake with a back-end, and the life of the connection.
//!
//! The order of messages is the one both rust-vmm back-ends and qemu-storage-daemon take. Host time is
//! used for waiting only; the guest sees none of it.

use super::error::WindowError;
use super::event_fd::event_fd;
use super::memory::WindowMemory;
use super::queue::DriverQueue;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How long a back-end may take to answer a request.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A connected back-end whose rings run.
pub struct Connection {
    device: String,
    socket: UnixStream,
    kicks: Vec<EventFd>,
    /// Dropping it would close the protocol's side of the connection.
    _frontend: Frontend,
}

impl Connection {
    /// Hands `memory` and `queues` to the back-end at the other end of `socket` and starts the rings. The back-end signals
    /// `calls`, one for each queue.
    pub fn open(
        socket: UnixStream,
        calls: Vec<OwnedFd>,
        device: &str,
        memory: &WindowMemory,
        queues: &[&DriverQueue],
    ) -> Result<Connection, WindowError> {
        assert_eq!(calls.len(), queues.len(), "each queue has a call descriptor");
        let host = |what| move |source| WindowError::Host { device: device.to_string(), what, source };
        socket.set_read_timeout(Some(ANSWER_MAX)).map_err(host("set a time limit"))?;
        let for_polling = socket.try_clone().map_err(host("duplicate a socket"))?;
        let mut frontend = Frontend::from_stream(socket, queues.len() as u64);
        negotiate(&mut frontend, device)?;
        announce(&frontend, memory).map_err(refused(device, "SET_MEM_TABLE"))?;
        let mut kicks = Vec::new();
        for (index, (queue, call)) in queues.iter().zip(calls).enumerate() {
            let kick = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host("make an eventfd"))?;
            start_ring(&mut frontend, device, index, queue, &event_fd(call), &kick)?;
            kicks.push(kick);
        }
        Ok(Connection { device: device.to_string(), socket: for_polling, kicks, _frontend: frontend })
    }

    /// Tells the back-end of new requests in `queue`.
    pub fn kick(&self, queue: usize) -> Result<(), WindowError> {
        self.kicks[queue].write(1).map_err(|source| WindowError::Host {
            device: self.device.clone(),
            what: "kick the back-end",
            source,
        })
    }

    /// Lets host time pass, at most `timeout`; an error if the back-end hung up.
    pub fn wait(&self, timeout: Duration) -> Result<(), WindowError> {
        // Only for the hang-up, which is always reported: a back-end that sends something unasked must not turn
        // waiting into a busy loop.
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(0) | Err(Errno::EINTR) => Ok(()),
            Ok(_) => Err(WindowError::Gone { device: self.device.clone() }),
            Err(error) => Err(WindowError::Host {
                device: self.device.clone(),
                what: "wait for the back-end",
                source: error.into(),
            }),
        }
    }
}

fn refused<'a>(device: &'a str, request: &'static str) -> impl Fn(vhost::Error) -> WindowError + 'a {
    move |source| WindowError::Handshake { device: device.to_string(), request, source }
}

fn negotiate(frontend: &mut Frontend, device: &str) -> Result<(), WindowError> {
    let lacks = |feature| WindowError::Feature { device: device.to_string(), feature };
    frontend.set_owner().map_err(refused(device, "SET_OWNER"))?;
    let offered = frontend.get_features().map_err(refused(device, "GET_FEATURES"))?;
    let version_1 = 1 << VIRTIO_F_VERSION_1;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    if offered & version_1 == 0 {
        return Err(lacks("VIRTIO_F_VERSION_1"));
    }
    if offered & protocol == 0 {
        return Err(lacks("VHOST_USER_F_PROTOCOL_FEATURES"));
    }
    let offered = frontend.get_protocol_features().map_err(refused(device, "GET_PROTOCOL_FEATURES"))?;
    if !offered.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        return Err(lacks("VHOST_USER_PROTOCOL_F_REPLY_ACK"));
    }
    let wanted = offered & (VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ);
    frontend.set_protocol_features(wanted).map_err(refused(device, "SET_PROTOCOL_FEATURES"))?;
    // From here on every request is acknowledged before the next step.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(version_1 | protocol).map_err(refused(device, "SET_FEATURES"))
}

/// Announces the window as all the memory there is: offset, guest address and user address are the same, so no message
/// depends on where anything is mapped.
fn announce(frontend: &Frontend, memory: &WindowMemory) -> vhost::Result<()> {
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: memory.size() as u64,
        userspace_addr: 0,
        mmap_offset: 0,
        mmap_handle: memory.fd(),
    };
    frontend.set_mem_table(&[region]).map(drop)
}

fn start_ring(
    frontend: &mut Frontend,
    device: &str,
    index: usize,
    queue: &DriverQueue,
    call: &EventFd,
    kick: &EventFd,
) -> Result<(), WindowError> {
    let (size, layout) = (queue.shape().size, queue.layout());
    let addresses = VringConfigData {
        queue_max_size: size,
        queue_size: size,
        flags: 0,
        desc_table_addr: layout.descriptors as u64,
        used_ring_addr: layout.used as u64,
        avail_ring_addr: layout.avail as u64,
        log_addr: None,
    };
    frontend.set_vring_num(index, size).map_err(refused(device, "SET_VRING_NUM"))?;
    frontend.set_vring_addr(index, &addresses).map_err(refused(device, "SET_VRING_ADDR"))?;
    frontend.set_vring_base(index, 0).map_err(refused(device, "SET_VRING_BASE"))?;
    frontend.set_vring_call(index, call).map_err(refused(device, "SET_VRING_CALL"))?;
    frontend.set_vring_kick(index, kick).map_err(refused(device, "SET_VRING_KICK"))?;
    frontend.set_vring_enable(index, true).map_err(refused(device, "SET_VRING_ENABLE"))
}
