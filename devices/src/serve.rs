//! The vhost-user skeleton that every back-end runs on.
//!
//! A back-end implements `Backend`: it is told of kicks and of its own poll descriptor, on one worker
//! thread. The protocol, memory and the life of the connection are handled here, on vhost-user-backend. Traps of that
//! crate that this file knows: an error returned from `handle_event` ends the worker silently (errors are kept in
//! `failure` and hang up instead); without an exit event the daemon's drop waits for ever; a kick may be
//! reported when there was none, so a back-end looks at the ring and never counts kicks.

use crate::lifetime::Stop;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use vhost::vhost_user::Error as ProtocolError;
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{
    VHOST_USER_CONFIG_SIZE, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon, VringMutex};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

/// Memory the front-end announced.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// One virtqueue of the device.
pub type Ring = VringMutex<Memory>;

/// The virtqueues of the device and the memory they are in.
pub struct Queues {
    /// Where the rings and their buffers are.
    pub memory: Memory,
    /// By queue number.
    pub rings: Vec<Ring>,
}

/// How long output may take after the front-end hung up.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// What one kind of device adds to the skeleton. Errors end the device with their text.
pub trait Backend: Send + 'static {
    /// Number of virtqueues.
    fn queues(&self) -> usize;

    /// Largest size of a virtqueue, a power of two.
    fn queue_size_max(&self) -> usize {
        256
    }

    /// Device feature bits beyond VIRTIO_F_VERSION_1.
    fn features(&self) -> u64 {
        0
    }

    /// Device configuration space; empty: there is none.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver writes `bytes` to the configuration space.
    fn set_config(&mut self, _offset: usize, _bytes: &[u8]) -> Result<(), String> {
        Err("the configuration space is read-only".to_string())
    }

    /// The driver accepted these feature bits.
    fn accepted(&mut self, _features: u64) {}

    /// `queue` is stopped; what it was about is over.
    fn stopped(&mut self, _queue: usize) {}

    /// A descriptor that is readable when `woken` should run.
    fn poll_fd(&self) -> Option<RawFd>;

    /// The driver may have made buffers available in `queue`.
    fn kicked(&mut self, queue: usize, queues: &Queues) -> Result<(), String>;

    /// `poll_fd` is readable.
    fn woken(&mut self, queues: &Queues) -> Result<(), String>;

    /// The front-end is gone: takes what is still in the rings to its end, until `deadline`.
    fn finish(&mut self, queues: &Queues, deadline: Instant) -> Result<(), String>;
}

struct Adapter<B: Backend> {
    name: String,
    backend: Mutex<B>,
    queues: usize,
    queue_size_max: usize,
    features: u64,
    has_config: bool,
    memory: Memory,
    served: OnceLock<Queues>,
    failure: Mutex<Option<String>>,
    stop: Stop,
}

impl<B: Backend> Adapter<B> {
    fn new(name: &str, backend: B, memory: Memory, stop: Stop) -> Adapter<B> {
        Adapter {
            name: name.to_owned(),
            queues: backend.queues(),
            queue_size_max: backend.queue_size_max(),
            features: backend.features(),
            has_config: !backend.config().is_empty(),
            backend: Mutex::new(backend),
            memory,
            served: OnceLock::new(),
            failure: Mutex::new(None),
            stop,
        }
    }

    /// Event number of the back-end's own descriptor: above the queues and the daemon's own event.
    fn poll_event(&self) -> u16 {
        self.queues as u16 + 1
    }

    fn backend(&self) -> MutexGuard<'_, B> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> VhostUserBackend for Adapter<B> {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        self.queue_size_max
    }

    fn features(&self) -> u64 {
        self.features | 1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let mut features = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        features.set(VhostUserProtocolFeatures::CONFIG, self.has_config);
        features
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // A front-end asks for the fields it knows, and they may be more than ours: those read as zero.
        let mut config = self.backend().config();
        config.resize(config.len().max(VHOST_USER_CONFIG_SIZE as usize), 0);
        let start = offset as usize;
        let range = start..start.saturating_add(size as usize);
        config.get(range).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.backend().set_config(offset as usize, bytes).map_err(io::Error::other)
    }

    fn acked_features(&self, features: u64) {
        self.backend().accepted(features);
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        // Taking the lock waits for the request in progress: afterwards the ring does not change any more.
        self.backend().stopped(index as usize);
        Ok(())
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(&self, event: u16, _events: EventSet, rings: &[Ring], _thread: usize) -> io::Result<()> {
        let queues =
            self.served.get_or_init(|| Queues { memory: self.memory.clone(), rings: rings.to_vec() });
        let mut backend = self.backend();
        if self.failure().is_some() {
            return Ok(());
        }
        let result = match event {
            queue if usize::from(queue) < self.queues => {
                tracing::trace!(device = %self.name, queue, "buffers may be available");
                backend.kicked(usize::from(queue), queues)
            }
            _ => backend.woken(queues),
        };
        if let Err(message) = result {
            *self.failure() = Some(message);
            self.stop.abandon();
        }
        Ok(())
    }
}

/// Serves the first front-end that connects to `listener`, until it hangs up or `stop` is requested.
pub fn serve<B: Backend>(listener: UnixListener, backend: B, name: &str, stop: &Stop) -> Result<(), String> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let adapter = Arc::new(Adapter::new(name, backend, memory.clone(), stop.clone()));
    let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let mut daemon =
        VhostUserDaemon::new(name.to_string(), adapter.clone(), memory).map_err(|error| failed(&error))?;
    let workers = daemon.get_epoll_handlers();
    let poll_fd = adapter.backend().poll_fd();
    if let Some(fd) = poll_fd {
        let event = u64::from(adapter.poll_event());
        workers[0].register_listener(fd, EventSet::IN, event).map_err(|error| failed(&error))?;
    }
    daemon.start(&mut Listener::from(listener)).map_err(|error| failed(&error))?;
    stop.serving(daemon.shutdown_handle());
    tracing::info!(device = %name, "a front-end is connected");
    let ended = daemon.wait();
    if let Some(fd) = poll_fd {
        // From here on only `finish` runs the back-end.
        let event = u64::from(adapter.poll_event());
        workers[0].unregister_listener(fd, EventSet::IN, event).map_err(|error| failed(&error))?;
    }
    for worker in &workers {
        worker.send_exit_event();
    }
    if let Some(message) = adapter.failure().take() {
        return Err(format!("{name}: {message}"));
    }
    if let Some(queues) = adapter.served.get() {
        let finished = adapter.backend().finish(queues, Instant::now() + FINISH_MAX);
        finished.map_err(|message| format!("{name}: {message}"))?;
    }
    match ended {
        // A front-end that ends or dies hangs up at any place of the dialogue.
        Ok(())
        | Err(DaemonError::HandleRequest(
            ProtocolError::Disconnected | ProtocolError::PartialMessage | ProtocolError::SocketBroken(_),
        )) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}
