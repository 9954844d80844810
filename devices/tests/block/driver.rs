//! A vhost-user-blk front-end with its driver, as small as tests need it: rings and buffers in one memfd.

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

/// After this a device counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Memory of the driver.
pub const MEMORY: u64 = 8 << 20;
/// Size of each ring.
pub const RING: u16 = 128;
/// Bytes for the tables of one queue.
const QUEUE_BYTES: u64 = 0x4000;
/// Where buffers start.
pub const BUFFERS: u64 = 0x20000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub at: u64,
    pub length: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

struct Queue {
    base: u64,
    next_descriptor: u16,
    available: u16,
    used: u16,
    kick: EventFd,
    call: EventFd,
}

pub struct Driver {
    pub front_end: Frontend,
    pub memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    pub features: u64,
    event_index: bool,
}

impl Driver {
    /// Shakes hands and starts `queues` queues with all features that are offered and in `mask`.
    pub fn start(stream: UnixStream, queues: u16, mask: u64) -> Driver {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut front_end = Frontend::from_stream(stream, u64::from(queues));
        front_end.set_owner().unwrap();
        let features = front_end.get_features().unwrap() & (mask | 1 << 32 | 1 << 30);
        let protocol = front_end.get_protocol_features().unwrap()
            & (VhostUserProtocolFeatures::MQ
                | VhostUserProtocolFeatures::CONFIG
                | VhostUserProtocolFeatures::REPLY_ACK);
        front_end.set_protocol_features(protocol).unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        front_end.set_features(features).unwrap();
        assert!(features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0);
        let memory = shared_memory();
        let region = memory.iter().next().unwrap();
        front_end.set_mem_table(&[VhostUserMemoryRegionInfo::from_guest_region(region).unwrap()]).unwrap();
        let event_index = features & 1 << 29 != 0;
        let mut driver = Driver { front_end, memory, queues: vec![], features, event_index };
        for number in 0..queues {
            driver.start_queue(number);
        }
        driver
    }

    fn start_queue(&mut self, number: u16) {
        let index = usize::from(number);
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        let (kick, call) = (eventfd(), eventfd());
        let base = u64::from(number) * QUEUE_BYTES;
        let host = self.memory.get_host_address(GuestAddress(base)).unwrap() as u64;
        let front_end = &mut self.front_end;
        front_end.set_vring_num(index, RING).unwrap();
        let rings = VringConfigData {
            queue_max_size: RING,
            queue_size: RING,
            flags: 0,
            desc_table_addr: host,
            avail_ring_addr: host + 0x1000,
            used_ring_addr: host + 0x2000,
            log_addr: None,
        };
        front_end.set_vring_addr(index, &rings).unwrap();
        front_end.set_vring_base(index, 0).unwrap();
        front_end.set_vring_call(index, &vmm_eventfd(&call)).unwrap();
        front_end.set_vring_kick(index, &vmm_eventfd(&kick)).unwrap();
        front_end.set_vring_enable(index, true).unwrap();
        self.queues.push(Queue { base, next_descriptor: 0, available: 0, used: 0, kick, call });
    }

    /// Stops a queue and starts it anew, as at a reset; answers with the position it had.
    pub fn restart(&mut self, queue: usize) -> u32 {
        let position = self.front_end.get_vring_base(queue).unwrap();
        let number = queue as u16;
        self.queues.truncate(queue);
        self.write(u64::from(number) * QUEUE_BYTES, &vec![0; QUEUE_BYTES as usize]);
        self.start_queue(number);
        position
    }

    /// Reads the configuration space.
    pub fn config(&mut self, length: u32) -> Vec<u8> {
        let payload = vec![0; length as usize];
        let flags = VhostUserConfigFlags::WRITABLE;
        self.front_end.get_config(0, length, flags, &payload).unwrap().1
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Writes one descriptor of a table.
    pub fn set_descriptor(&self, table: u64, index: u16, at: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    /// Where the descriptor table of a queue is.
    pub fn table(&self, queue: usize) -> u64 {
        self.queues[queue].base
    }

    /// Makes a chain in the descriptor table; the answer is its head.
    pub fn make_chain(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let count = buffers.len() as u16;
        let state = &mut self.queues[queue];
        if state.next_descriptor + count > RING {
            state.next_descriptor = 0;
        }
        let head = state.next_descriptor;
        state.next_descriptor += count;
        for (number, buffer) in (head..).zip(buffers) {
            let more = if number + 1 < head + count { NEXT } else { 0 };
            let flags = more | if buffer.writable { WRITE } else { 0 };
            self.set_descriptor(self.table(queue), number, buffer.at, buffer.length, flags, number + 1);
        }
        head
    }

    /// The same in an indirect table at `table`.
    pub fn make_indirect(&mut self, queue: usize, table: u64, buffers: &[Buffer]) -> u16 {
        for (number, buffer) in (0u16..).zip(buffers) {
            let more = if usize::from(number) + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if buffer.writable { WRITE } else { 0 };
            self.set_descriptor(table, number, buffer.at, buffer.length, flags, number + 1);
        }
        let head = self
            .make_chain(queue, &[Buffer { at: table, length: 16 * buffers.len() as u32, writable: false }]);
        self.set_descriptor(self.table(queue), head, table, 16 * buffers.len() as u32, INDIRECT, 0);
        head
    }

    /// Makes chains available, without a kick.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let state = &mut self.queues[queue];
        let slot = state.base + 0x1000 + 4 + 2 * u64::from(state.available % RING);
        state.available = state.available.wrapping_add(1);
        let (base, available) = (state.base, state.available);
        self.write(slot, &head.to_le_bytes());
        fence(Ordering::SeqCst);
        self.memory.store(available.to_le(), GuestAddress(base + 0x1002), Ordering::Release).unwrap();
    }

    /// Sets the available index to what is wanted, right or wrong.
    pub fn set_available(&mut self, queue: usize, index: u16) {
        let base = self.queues[queue].base;
        self.queues[queue].available = index;
        self.memory.store(index.to_le(), GuestAddress(base + 0x1002), Ordering::Release).unwrap();
    }

    pub fn kick(&self, queue: usize) {
        self.queues[queue].kick.write(1).unwrap();
    }

    /// What the device gave back since it was asked last, in its order.
    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let base = self.queues[queue].base;
        let index: u16 = self.memory.load(GuestAddress(base + 0x2002), Ordering::Acquire).unwrap();
        let mut found = vec![];
        while self.queues[queue].used != index {
            let slot = base + 0x2004 + 8 * u64::from(self.queues[queue].used % RING);
            let bytes = self.read(slot, 8);
            let head = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            found.push((head as u16, u32::from_le_bytes(bytes[4..].try_into().unwrap())));
            self.queues[queue].used = self.queues[queue].used.wrapping_add(1);
        }
        if self.event_index {
            let wish = self.queues[queue].used.to_le();
            let at = base + 0x1004 + 2 * u64::from(RING);
            self.memory.store(wish, GuestAddress(at), Ordering::SeqCst).unwrap();
        }
        found
    }

    /// Waits for a signal of the device, at most `patience`; false: there was none.
    pub fn wait_for_call(&self, queue: usize, patience: Duration) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let call = &self.queues[queue].call;
        let mut fds = [PollFd::new(call.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap();
        poll(&mut fds, timeout).unwrap() > 0 && call.read().is_ok()
    }

    /// Waits until the device has given `count` chains back.
    pub fn wait_for(&mut self, queue: usize, count: usize) -> Vec<(u16, u32)> {
        let deadline = Instant::now() + PATIENCE;
        let mut found = self.used(queue);
        while found.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} requests are done", found.len());
            // Signals may be fewer than requests, and one may be left from before.
            self.wait_for_call(queue, Duration::from_millis(100));
            found.extend(self.used(queue));
        }
        found
    }

    /// One request with its own buffers at the start of the buffers; answers with status and data.
    pub fn request(&mut self, kind: u32, sector: u64, out: &[u8], room: u32) -> (u8, Vec<u8>) {
        self.request_on(0, kind, sector, out, room)
    }

    pub fn request_on(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        out: &[u8],
        room: u32,
    ) -> (u8, Vec<u8>) {
        let buffers = self.place(BUFFERS, kind, sector, out, room);
        let status_at = buffers.last().unwrap().at;
        let head = self.make_chain(queue, &buffers);
        self.offer(queue, head);
        self.kick(queue);
        let used = self.wait_for(queue, 1);
        assert_eq!(used, [(head, room + 1)]);
        (self.read(status_at, 1)[0], self.read(status_at - u64::from(room), room as usize))
    }

    /// Puts header, data, room and status at `at`, and says which buffers they are.
    pub fn place(&mut self, at: u64, kind: u32, sector: u64, out: &[u8], room: u32) -> Vec<Buffer> {
        self.write(at, &header(kind, sector));
        let mut buffers = vec![Buffer { at, length: 16, writable: false }];
        let mut next = at + 16;
        if !out.is_empty() {
            self.write(next, out);
            buffers.push(Buffer { at: next, length: out.len() as u32, writable: false });
            next += out.len() as u64;
        }
        if room > 0 {
            self.write(next, &vec![0xee; room as usize]);
            buffers.push(Buffer { at: next, length: room, writable: true });
            next += u64::from(room);
        }
        self.write(next, &[0xff]);
        buffers.push(Buffer { at: next, length: 1, writable: true });
        buffers
    }

    pub fn read_sectors(&mut self, sector: u64, count: u32) -> Vec<u8> {
        let (status, data) = self.request(IN, sector, &[], count * 512);
        assert_eq!(status, OK);
        data
    }

    pub fn write_sectors(&mut self, sector: u64, data: &[u8]) {
        assert_eq!(self.request(OUT, sector, data, 0).0, OK);
    }

    pub fn flush(&mut self) {
        assert_eq!(self.request(FLUSH, 0, &[], 0).0, OK);
    }
}

/// The header of a request.
pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}

/// One range of DISCARD and WRITE_ZEROES.
pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(sectors.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

fn shared_memory() -> GuestMemoryMmap {
    let file = File::from(memfd_create(c"driver", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(MEMORY).unwrap();
    let range = (GuestAddress(0), MEMORY as usize, Some(FileOffset::new(file, 0)));
    let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    assert_eq!(memory.iter().next().unwrap().len(), MEMORY);
    memory
}

/// The same eventfd in the type of the vhost crate.
fn vmm_eventfd(eventfd: &EventFd) -> vmm_sys_util::eventfd::EventFd {
    use std::os::fd::{FromRawFd, IntoRawFd};
    let copy = eventfd.as_fd().try_clone_to_owned().unwrap();
    assert!(copy.as_raw_fd() >= 0);
    // SAFETY: the copy is ours alone, and given away here.
    unsafe { vmm_sys_util::eventfd::EventFd::from_raw_fd(copy.into_raw_fd()) }
}
