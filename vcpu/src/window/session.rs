//! The vhost-user conversation with a back-end: handshake, start and stop of its rings, hang-up.
//!
//! The order of messages is the one both rust-vmm back-ends and qemu-storage-daemon take. Host time is
//! used for waiting only; the guest sees none of it.

use super::error::WindowError;
use super::event_fd::event_fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Error as PeerError, Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How long a back-end may take for all answers of a handshake, a start or a stop.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Where one ring is, as the back-end is told.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// Number of the virtqueue.
    pub queue: usize,
    /// Number of descriptors.
    pub size: u16,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub avail: u64,
    /// Address of the used ring.
    pub used: u64,
    /// Index of the next chain to be taken from the available ring.
    pub base: u16,
}

/// A connected back-end.
pub struct Session {
    device: String,
    socket: UnixStream,
    frontend: Frontend,
    features: u64,
    has_config: bool,
    calls: Vec<EventFd>,
    kicks: Vec<EventFd>,
}

impl Session {
    /// Greets the back-end at the other end of `socket`. It will signal `calls`, one for each queue.
    pub fn connect(socket: UnixStream, calls: Vec<OwnedFd>, device: &str) -> Result<Session, WindowError> {
        let host = |what| move |source| WindowError::Host { device: device.to_string(), what, source };
        let for_polling = socket.try_clone().map_err(host("duplicate a socket"))?;
        let mut frontend = Frontend::from_stream(socket, calls.len() as u64);
        let (features, has_config) = within_limit(&for_polling, device, || greet(&mut frontend, device))?;
        let kick = |_: &EventFd| EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host("make an eventfd"));
        let calls: Vec<EventFd> = calls.into_iter().map(event_fd).collect();
        let kicks = calls.iter().map(kick).collect::<Result<_, _>>()?;
        Ok(Session {
            device: device.to_string(),
            socket: for_polling,
            frontend,
            features,
            has_config,
            calls,
            kicks,
        })
    }

    /// Feature bits that the back-end offers.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The complaint about a back-end that offers less than the one before it.
    pub fn changed(&self, missing: u64) -> WindowError {
        WindowError::Lost { device: self.device.clone(), missing }
    }

    /// The first `size` bytes of the back-end's configuration space; empty if it has none. Back-ends hang up on, or never answer,
    /// a request for more than they have.
    pub fn config(&mut self, size: usize) -> Result<Vec<u8>, WindowError> {
        if !self.has_config || size == 0 {
            return Ok(Vec::new());
        }
        let Session { socket, device, frontend, .. } = self;
        within_limit(socket, device, || {
            let asked = frontend.get_config(0, size as u32, VhostUserConfigFlags::empty(), &vec![0; size]);
            asked.map(|(_, bytes)| bytes).map_err(refused(device, "GET_CONFIG"))
        })
    }

    /// Shares memory and starts the rings. A back-end that is gone has none that run: it is the broker's to say what comes of that.
    pub fn start(
        &mut self,
        features: u64,
        memory: &[VhostUserMemoryRegionInfo],
        rings: &[RingPlace],
    ) -> Result<(), WindowError> {
        let Session { socket, device, frontend, calls, kicks, .. } = self;
        let refused = |request| refused(device, request);
        let features = features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let started = within_limit(socket, device, || {
            frontend.set_features(features).map_err(refused("SET_FEATURES"))?;
            frontend.set_mem_table(memory).map_err(refused("SET_MEM_TABLE"))?;
            rings.iter().try_for_each(|ring| {
                start_ring(frontend, device, ring, &calls[ring.queue], &kicks[ring.queue])
            })
        });
        unless_gone(started).map(drop)
    }

    /// Starts one more ring, after `start`.
    pub fn start_ring(&mut self, ring: &RingPlace) -> Result<(), WindowError> {
        let Session { socket, device, frontend, calls, kicks, .. } = self;
        let started = within_limit(socket, device, || {
            start_ring(frontend, device, ring, &calls[ring.queue], &kicks[ring.queue])
        });
        unless_gone(started).map(drop)
    }

    /// Stops rings; the back-end touches them no more. For each, the index of the next chain that it would take; none if the
    /// back-end is gone.
    pub fn stop(&mut self, rings: &[RingPlace]) -> Result<Option<Vec<u16>>, WindowError> {
        let Session { socket, device, frontend, .. } = self;
        let stopped = within_limit(socket, device, || {
            let stop = |ring: &RingPlace| {
                frontend.set_vring_enable(ring.queue, false).map_err(refused(device, "SET_VRING_ENABLE"))?;
                let base = frontend.get_vring_base(ring.queue).map_err(refused(device, "GET_VRING_BASE"))?;
                Ok(base as u16)
            };
            rings.iter().map(stop).collect()
        });
        unless_gone(stopped)
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

/// Lets one conversation take no longer than `ANSWER_MAX`. The vhost crate waits for an answer for ever, so somebody else hangs up.
fn within_limit<T>(
    socket: &UnixStream,
    device: &str,
    conversation: impl FnOnce() -> Result<T, WindowError>,
) -> Result<T, WindowError> {
    let host = |what| move |source| WindowError::Host { device: device.to_string(), what, source };
    let socket = socket.try_clone().map_err(host("duplicate a socket"))?;
    let (over, waits) = mpsc::channel::<()>();
    let hang_up = move || {
        let late = waits.recv_timeout(ANSWER_MAX) == Err(RecvTimeoutError::Timeout);
        // A socket that cannot be shut down is closed already.
        late && socket.shutdown(Shutdown::Both).is_ok()
    };
    let watcher = thread::Builder::new().name("patience".into()).spawn(hang_up);
    let watcher = watcher.map_err(host("start a thread"))?;
    let result = conversation();
    drop(over);
    match (result, watcher.join()) {
        (Err(_), Ok(true)) => {
            Err(WindowError::NoAnswer { device: device.to_string(), seconds: ANSWER_MAX.as_secs() })
        }
        (result, _) => result,
    }
}

fn refused<'a>(device: &'a str, request: &'static str) -> impl Fn(vhost::Error) -> WindowError + 'a {
    move |source| WindowError::Handshake { device: device.to_string(), request, source }
}

/// A back-end may be gone at any moment, when a monitor wants another one or by itself. Then this is no error here: the broker
/// sees it too, and stops the machine or ends the run.
fn unless_gone<T>(result: Result<T, WindowError>) -> Result<Option<T>, WindowError> {
    match result {
        Err(WindowError::Handshake {
            device,
            request,
            source:
                vhost::Error::VhostUserProtocol(
                    source @ (PeerError::SocketBroken(_)
                    | PeerError::Disconnected
                    | PeerError::PartialMessage),
                ),
        }) => {
            tracing::debug!("{device}: {request}: {source}");
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// Features that the back-end offers, and whether it has a configuration space.
fn greet(frontend: &mut Frontend, device: &str) -> Result<(u64, bool), WindowError> {
    let lacks = |feature| WindowError::Feature { device: device.to_string(), feature };
    frontend.set_owner().map_err(refused(device, "SET_OWNER"))?;
    let features = frontend.get_features().map_err(refused(device, "GET_FEATURES"))?;
    if features & 1 << VIRTIO_F_VERSION_1 == 0 {
        return Err(lacks("VIRTIO_F_VERSION_1"));
    }
    if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
        return Err(lacks("VHOST_USER_F_PROTOCOL_FEATURES"));
    }
    let offered = frontend.get_protocol_features().map_err(refused(device, "GET_PROTOCOL_FEATURES"))?;
    if !offered.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        return Err(lacks("VHOST_USER_PROTOCOL_F_REPLY_ACK"));
    }
    let wanted = VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG;
    let taken = offered & wanted;
    frontend.set_protocol_features(taken).map_err(refused(device, "SET_PROTOCOL_FEATURES"))?;
    // From here on every request is acknowledged before the next step.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    Ok((features, taken.contains(VhostUserProtocolFeatures::CONFIG)))
}

fn start_ring(
    frontend: &mut Frontend,
    device: &str,
    ring: &RingPlace,
    call: &EventFd,
    kick: &EventFd,
) -> Result<(), WindowError> {
    let addresses = VringConfigData {
        queue_max_size: ring.size,
        queue_size: ring.size,
        flags: 0,
        desc_table_addr: ring.descriptors,
        used_ring_addr: ring.used,
        avail_ring_addr: ring.avail,
        log_addr: None,
    };
    let queue = ring.queue;
    frontend.set_vring_num(queue, ring.size).map_err(refused(device, "SET_VRING_NUM"))?;
    frontend.set_vring_addr(queue, &addresses).map_err(refused(device, "SET_VRING_ADDR"))?;
    frontend.set_vring_base(queue, ring.base).map_err(refused(device, "SET_VRING_BASE"))?;
    frontend.set_vring_call(queue, call).map_err(refused(device, "SET_VRING_CALL"))?;
    frontend.set_vring_kick(queue, kick).map_err(refused(device, "SET_VRING_KICK"))?;
    frontend.set_vring_enable(queue, true).map_err(refused(device, "SET_VRING_ENABLE"))
}
