//! The sockets of the debugger's connection: a thread moves bytes, so that no client can hold the machine up.
//!
//! The thread knows nothing of the guest. It takes one client at a time, puts what it says aside, and raises attention on the
//! lane, where the machine looks anyway.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockaddrLike, SockaddrStorage, getsockname, send};
use replay::lane::Waker;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Unread bytes of a client beyond which it has to wait.
const INCOMING_MAX: usize = 1 << 20;
/// Unsent bytes beyond which a client that does not read is left.
const OUTGOING_MAX: usize = 64 << 20;
/// How long the last words to a client may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What happened on the connection since the last look.
#[derive(Debug, Default)]
pub struct News {
    /// Number of the client of whom this tells, or of the last one.
    pub client: u64,
    /// A client came; what was known of another is over.
    pub connected: bool,
    /// The client went.
    pub gone: bool,
    /// What it said.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    news: News,
    /// The client that is connected.
    client: Option<u64>,
    /// Clients so far.
    clients: u64,
    outgoing: VecDeque<u8>,
    /// The client is to be left once `outgoing` is sent.
    hang_up: bool,
    end: bool,
}

#[derive(Debug)]
struct Common {
    shared: Mutex<Shared>,
    sent: Condvar,
    poke: EventFd,
}

impl Common {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing in this file panics while it holds the lock.
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A listening socket and its client.
#[derive(Debug)]
pub struct Port {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// Takes clients of `listener`; `waker` raises attention.
    pub fn new(listener: OwnedFd, waker: Waker) -> std::io::Result<Port> {
        let poke = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let common = Arc::new(Common { shared: Mutex::default(), sent: Condvar::new(), poke });
        let listener = Listener::new(listener)?;
        let line = Line { common: Arc::clone(&common), listener, client: None, waker };
        let thread = std::thread::Builder::new().name("gdb".to_owned()).spawn(move || line.run())?;
        Ok(Port { common, thread: Some(thread) })
    }

    /// Takes what happened.
    pub fn take_news(&self) -> News {
        let mut shared = self.common.lock();
        let full = shared.news.bytes.len() >= INCOMING_MAX;
        let news = std::mem::take(&mut shared.news);
        shared.news.client = news.client;
        drop(shared);
        if full {
            self.poke();
        }
        news
    }

    /// Sends bytes to a client, if it is still there.
    pub fn send(&self, client: u64, bytes: &[u8]) {
        let mut shared = self.common.lock();
        if shared.client == Some(client) && !bytes.is_empty() {
            shared.outgoing.extend(bytes);
            drop(shared);
            self.poke();
        }
    }

    /// Leaves a client when everything is sent, and waits for the next.
    pub fn hang_up(&self, client: u64) {
        let mut shared = self.common.lock();
        if shared.client == Some(client) {
            shared.hang_up = true;
            drop(shared);
            self.poke();
        }
    }

    /// Waits a little until everything is sent.
    pub fn drain(&self) {
        let shared = self.common.lock();
        let waits = |shared: &mut Shared| shared.client.is_some() && !shared.outgoing.is_empty();
        // Whoever does not read in time goes without.
        let _ = self.common.sent.wait_timeout_while(shared, LAST_WORDS, waits);
    }

    fn poke(&self) {
        // A counter that is full has poked already.
        let _ = self.common.poke.write(1);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.common.lock().end = true;
        self.poke();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// A listening socket of one of two families.
#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn new(fd: OwnedFd) -> std::io::Result<Listener> {
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        Ok(match address.family() {
            Some(AddressFamily::Unix) => Listener::Unix(UnixListener::from(fd)),
            _ => Listener::Tcp(TcpListener::from(fd)),
        })
    }

    fn accept(&self) -> std::io::Result<File> {
        let fd = match self {
            Listener::Unix(listener) => {
                let (client, _) = listener.accept()?;
                client.set_nonblocking(true)?;
                OwnedFd::from(client)
            }
            Listener::Tcp(listener) => {
                let (client, _) = listener.accept()?;
                client.set_nonblocking(true)?;
                client.set_nodelay(true)?;
                OwnedFd::from(client)
            }
        };
        Ok(File::from(fd))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// The thread's side.
struct Line {
    common: Arc<Common>,
    listener: Listener,
    client: Option<File>,
    waker: Waker,
}

impl Line {
    fn run(mut self) {
        while let Ok((poked, new, readable)) = self.wait() {
            if poked {
                let _ = self.common.poke.read();
            }
            if self.common.lock().end {
                break;
            }
            if new && self.client.is_none() {
                self.accept();
            }
            if readable {
                self.read();
            }
            self.write();
        }
        self.common.lock().client = None;
        self.common.sent.notify_all();
    }

    /// What can be done: `(poked, a client waits, the client has said something)`.
    fn wait(&self) -> nix::Result<(bool, bool, bool)> {
        let shared = self.common.lock();
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, shared.news.bytes.len() < INCOMING_MAX);
        wanted.set(PollFlags::POLLOUT, !shared.outgoing.is_empty());
        drop(shared);
        let second = match &self.client {
            Some(client) => PollFd::new(client.as_fd(), wanted),
            None => PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        };
        let mut fds = [PollFd::new(self.common.poke.as_fd(), PollFlags::POLLIN), second];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok((false, false, false)),
            Err(error) => return Err(error),
        }
        let said = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let second = said(&fds[1]);
        Ok((said(&fds[0]), second && self.client.is_none(), second && self.client.is_some()))
    }

    fn accept(&mut self) {
        // One that has gone already is none.
        let Ok(client) = self.listener.accept() else { return };
        self.client = Some(client);
        let mut shared = self.common.lock();
        shared.clients += 1;
        shared.client = Some(shared.clients);
        shared.hang_up = false;
        shared.outgoing.clear();
        shared.news = News { client: shared.clients, connected: true, ..News::default() };
        drop(shared);
        self.waker.wake();
    }

    fn read(&mut self) {
        let Some(client) = &mut self.client else { return };
        let mut bytes = [0; 4096];
        match client.read(&mut bytes) {
            Ok(count) if count > 0 => {
                self.common.lock().news.bytes.extend(&bytes[..count]);
                self.waker.wake();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.leave(),
        }
    }

    fn write(&mut self) {
        let Some(client) = &self.client else { return };
        let mut shared = self.common.lock();
        let mut gone = shared.outgoing.len() > OUTGOING_MAX;
        while !shared.outgoing.is_empty() && !gone {
            let (front, _) = shared.outgoing.as_slices();
            match send(client.as_raw_fd(), front, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(count) => {
                    shared.outgoing.drain(..count);
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => break,
                Err(_) => gone = true,
            }
        }
        let done = shared.outgoing.is_empty();
        gone |= done && shared.hang_up;
        drop(shared);
        if gone {
            self.leave();
        }
        if done || gone {
            self.common.sent.notify_all();
        }
    }

    fn leave(&mut self) {
        self.client = None;
        let mut shared = self.common.lock();
        shared.client = None;
        shared.outgoing.clear();
        shared.hang_up = false;
        shared.news.gone = true;
        drop(shared);
        self.waker.wake();
    }
}
