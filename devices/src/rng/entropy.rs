//! The virtio entropy device (virtio 1.2, 5.4): one queue of buffers, which are filled with random bytes. No features.

use crate::batch::Batch;
use crate::chardev::descriptor::Descriptor;
use crate::rings::Direction;
use crate::serve::{Backend, Queues};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Bytes put into one buffer at most; a shorter answer than the buffer is allowed.
const FILL_MAX: usize = 64 * 1024;
/// Buffers filled before other events get their turn.
const TURN_MAX: usize = 256;

/// How much may be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes in one period.
    pub bytes_max: u64,
    /// Its length.
    pub period: Duration,
}

/// What is left of a rate in the current period.
struct Quota {
    rate: Rate,
    left: u64,
    period_end: Instant,
}

/// The back-end.
pub struct Entropy {
    source: Descriptor,
    name: String,
    quota: Option<Quota>,
    /// Holds the others.
    epoll: Epoll,
    timer: TimerFd,
    again: EventFd,
}

impl Entropy {
    /// Opens the source `path`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, rate: Option<Rate>, label: &str) -> Result<Entropy, String> {
        let name = path.display().to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let source = open(path, flags, Mode::empty())
            .map_err(|error| format!("{label}: cannot open '{name}': {}", error.desc()))?;
        let failed = |error: Errno| format!("{label}: cannot wait for '{name}': {}", error.desc());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .map_err(failed)?;
        let again = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        // Edge-triggered: one event when there is more, none while nobody asks for it.
        let event = || EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(&timer, event()).map_err(failed)?;
        epoll.add(&again, event()).map_err(failed)?;
        match epoll.add(&source, event()) {
            // A file cannot be waited for and never makes anyone wait.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(error) => return Err(failed(error)),
        }
        let quota = rate.map(|rate| Quota { rate, left: 0, period_end: Instant::now() });
        Ok(Entropy { source: Descriptor::own(source), name, quota, epoll, timer, again })
    }

    /// Fills buffers while there are any, and as far as source and rate allow.
    fn fill(&mut self, queues: &Queues) -> Result<(), String> {
        let mut batch = Batch::begin(queues, &queues.rings[0]);
        batch.ask_for_silence()?;
        let mut bytes = Vec::new();
        for _ in 0..TURN_MAX {
            let Some(buffer) = batch.pop_or_ask(Direction::ToDriver)? else { return batch.publish() };
            let wanted = buffer.len().min(FILL_MAX);
            let count = self.allowance(wanted)?;
            bytes.resize(count, 0);
            let got = if count == 0 { None } else { self.read(&mut bytes)? };
            match got {
                Some(got) => {
                    buffer.fill(queues, &bytes[..got])?;
                    batch.complete(buffer.head, got as u32);
                    if let Some(quota) = &mut self.quota {
                        quota.left -= got as u64;
                    }
                }
                // Nothing would ever come for a buffer without room.
                None if wanted == 0 => batch.complete(buffer.head, 0),
                None => {
                    batch.put_back(1);
                    return batch.publish();
                }
            }
        }
        // Fails only when 2^64 wakes are pending: it is readable then.
        let _ = self.again.write(1);
        batch.publish()
    }

    /// Random bytes; `None`: none now, an event will tell.
    fn read(&self, bytes: &mut [u8]) -> Result<Option<usize>, String> {
        match self.source.read(bytes) {
            Ok(Some(0)) => Err(format!("'{}' has ended", self.name)),
            Ok(got) => Ok(got),
            Err(error) => Err(format!("cannot read '{}': {}", self.name, error.desc())),
        }
    }

    /// How many of `wanted` bytes the rate allows now. None: the timer is set for when it does.
    fn allowance(&mut self, wanted: usize) -> Result<usize, String> {
        let Some(quota) = &mut self.quota else { return Ok(wanted) };
        let now = Instant::now();
        if now >= quota.period_end {
            quota.left = quota.rate.bytes_max;
            quota.period_end = now + quota.rate.period;
        }
        if quota.left == 0 && wanted > 0 {
            let rest = quota.period_end.saturating_duration_since(now).max(Duration::from_nanos(1));
            let expiration = Expiration::OneShot(TimeSpec::from_duration(rest));
            self.timer
                .set(expiration, TimerSetTimeFlags::empty())
                .map_err(|error| format!("cannot set a timer: {}", error.desc()))?;
        }
        Ok(wanted.min(usize::try_from(quota.left).unwrap_or(usize::MAX)))
    }
}

impl Backend for Entropy {
    fn queues(&self) -> usize {
        1
    }

    /// None of its own. QEMU's vhost-user-rng offers these two of the rings without asking.
    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.epoll.0.as_raw_fd())
    }

    fn kicked(&mut self, _queue: usize, queues: &Queues) -> Result<(), String> {
        self.fill(queues)
    }

    fn woken(&mut self, queues: &Queues) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); 4];
        // Edge-triggered: taking the events in is all there is to do. A signal is as good a reason to look as an event.
        let _ = self.epoll.wait(&mut events, EpollTimeout::ZERO);
        self.fill(queues)
    }

    /// Nobody waits for random bytes any more.
    fn finish(&mut self, _queues: &Queues, _deadline: Instant) -> Result<(), String> {
        Ok(())
    }
}
