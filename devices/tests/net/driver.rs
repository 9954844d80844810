//! A vhost-user front-end and virtio driver over a memfd, as bare as can be.

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub const PROTOCOL_FEATURES: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const EVENT_IDX: u64 = 1 << 29;

pub const HEADER_SIZE: usize = 12;
pub const RECEIVE: usize = 0;
pub const TRANSMIT: usize = 1;

const MEMORY_SIZE: usize = 16 << 20;
const RING_SPACE: u64 = 0x10000;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xc000;
const BUFFERS: u64 = 0x10_0000;
/// Space of one buffer.
pub const BUFFER_SIZE: u64 = 2048;
pub const SECONDS: Duration = Duration::from_secs(20);

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;

/// A queue of the driver. Descriptor N has buffer N of the queue.
pub struct Queue {
    number: usize,
    pub size: u16,
    avail_index: u16,
    used_seen: u16,
    free: Vec<u16>,
    kick: EventFd,
    call: EventFd,
    /// Holds `call`.
    calls: Epoll,
}

pub struct Driver {
    pub memory: GuestMemoryMmap,
    frontend: Option<Frontend>,
    pub queues: Vec<Queue>,
    features: u64,
}

impl Queue {
    fn new(number: usize, size: u16) -> Queue {
        let event_fd = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).unwrap();
        let (kick, call, calls) = (event_fd(), event_fd(), Epoll::new().unwrap());
        let event = EpollEvent::new(EventSet::IN, 0);
        calls.ctl(ControlOperation::Add, call.as_raw_fd(), event).unwrap();
        let free = (0..size).rev().collect();
        Queue { number, size, avail_index: 0, used_seen: 0, free, kick, call, calls }
    }

    fn base(&self) -> u64 {
        self.number as u64 * RING_SPACE
    }

    /// Descriptors that the device has.
    pub fn outstanding(&self) -> usize {
        usize::from(self.size) - self.free.len()
    }

    /// Where buffer `index` is.
    pub fn buffer(&self, index: u16) -> u64 {
        BUFFERS + (self.number as u64 * 1024 + u64::from(index)) * BUFFER_SIZE
    }
}

/// What the protocol does not allow before features are set, as QEMU says it: no reply is asked for.
fn enable_early(mut socket: &UnixStream, queues: u32) {
    const SET_VRING_ENABLE: u32 = 18;
    for queue in 0..queues {
        let message = [SET_VRING_ENABLE, 1, 8, queue, 1].map(u32::to_ne_bytes).concat();
        socket.write_all(&message).unwrap();
    }
}

impl Driver {
    /// Connects as the vCPU process does: features first, every request acknowledged.
    pub fn connect(socket: UnixStream, features: u64, queue_sizes: &[u16]) -> Driver {
        Driver::connect_in_order(socket, features, queue_sizes, false)
    }

    /// `early`: enables the rings before setting features, as QEMU does for a network device.
    pub fn connect_in_order(socket: UnixStream, features: u64, queue_sizes: &[u16], early: bool) -> Driver {
        let file = File::from(memfd_create("driver", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(MEMORY_SIZE as u64).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY_SIZE, Some(offset))]).unwrap();
        socket.set_read_timeout(Some(SECONDS)).unwrap();
        let by_hand = socket.try_clone().unwrap();
        let mut frontend = Frontend::from_stream(socket, queue_sizes.len() as u64);
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & features, features, "offered {offered:#x}");
        frontend.get_protocol_features().unwrap();
        let protocol = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
        frontend.set_protocol_features(protocol).unwrap();
        if early {
            enable_early(&by_hand, queue_sizes.len() as u32);
        }
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(features | VERSION_1 | PROTOCOL_FEATURES).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY_SIZE as u64,
            userspace_addr: 0,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        let queues = queue_sizes.iter().enumerate().map(|(number, &size)| Queue::new(number, size)).collect();
        let mut driver = Driver { memory, frontend: None, queues, features };
        for number in 0..queue_sizes.len() {
            driver.start(&mut frontend, number);
        }
        driver.frontend = Some(frontend);
        driver
    }

    fn start(&self, frontend: &mut Frontend, number: usize) {
        let queue = &self.queues[number];
        let base = queue.base();
        let addresses = VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: base,
            used_ring_addr: base + USED,
            avail_ring_addr: base + AVAIL,
            log_addr: None,
        };
        frontend.set_vring_num(number, queue.size).unwrap();
        frontend.set_vring_addr(number, &addresses).unwrap();
        frontend.set_vring_base(number, 0).unwrap();
        frontend.set_vring_call(number, &queue.call).unwrap();
        frontend.set_vring_kick(number, &queue.kick).unwrap();
        frontend.set_vring_enable(number, true).unwrap();
    }

    /// Stops a queue and returns the position it stopped at.
    pub fn stop(&mut self, number: usize) -> u32 {
        self.frontend.as_ref().unwrap().get_vring_base(number).unwrap()
    }

    /// Hangs up.
    pub fn hang_up(&mut self) {
        self.frontend = None;
    }

    pub fn kick(&self, number: usize) {
        self.queues[number].kick.write(1).unwrap();
    }

    fn store(&self, address: u64, value: u16) {
        self.memory.store(value.to_le(), GuestAddress(address), Ordering::Release).unwrap();
    }

    fn load(&self, address: u64) -> u16 {
        u16::from_le(self.memory.load(GuestAddress(address), Ordering::Acquire).unwrap())
    }

    /// Writes descriptor `index` of a queue.
    pub fn describe(&self, number: usize, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&buffer.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&buffer.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let address = self.queues[number].base() + u64::from(index) * 16;
        self.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
    }

    /// Puts a chain into the avail ring, without a kick.
    pub fn offer(&mut self, number: usize, head: u16) {
        let queue = &mut self.queues[number];
        let slot = queue.base() + AVAIL + 4 + u64::from(queue.avail_index % queue.size) * 2;
        queue.avail_index = queue.avail_index.wrapping_add(1);
        let (index_at, index) = (queue.base() + AVAIL + 2, queue.avail_index);
        self.store(slot, head);
        self.store(index_at, index);
    }

    /// Offers every free descriptor of the receive queue with `length` bytes.
    pub fn offer_receive_buffers(&mut self, length: u32) {
        while let Some(index) = self.queues[RECEIVE].free.pop() {
            self.describe(RECEIVE, index, (self.queues[RECEIVE].buffer(index), length), WRITE, 0);
            self.offer(RECEIVE, index);
        }
        self.kick(RECEIVE);
    }

    /// Offers one buffer of `length` bytes for the device to write.
    pub fn offer_one(&mut self, length: u32) {
        let index = self.queues[RECEIVE].free.pop().expect("a free descriptor");
        self.describe(RECEIVE, index, (self.queues[RECEIVE].buffer(index), length), WRITE, 0);
        self.offer(RECEIVE, index);
    }

    /// Puts header and frame into the transmit queue as two descriptors, without a kick. False: the queue is full.
    pub fn queue_frame(&mut self, header: &[u8; HEADER_SIZE], frame: &[u8]) -> bool {
        self.reclaim(TRANSMIT);
        let queue = &mut self.queues[TRANSMIT];
        if queue.free.len() < 2 {
            return false;
        }
        let (first, second) = (queue.free.pop().unwrap(), queue.free.pop().unwrap());
        let (first_at, second_at) = (queue.buffer(first), queue.buffer(second));
        self.memory.write_slice(header, GuestAddress(first_at)).unwrap();
        self.memory.write_slice(frame, GuestAddress(second_at)).unwrap();
        self.describe(TRANSMIT, first, (first_at, HEADER_SIZE as u32), NEXT, second);
        self.describe(TRANSMIT, second, (second_at, frame.len() as u32), 0, 0);
        self.offer(TRANSMIT, first);
        true
    }

    /// Sends a frame without offloads, waiting for room in the queue.
    pub fn send(&mut self, frame: &[u8]) {
        let deadline = Instant::now() + SECONDS;
        while !self.queue_frame(&[0; HEADER_SIZE], frame) {
            assert!(Instant::now() < deadline, "the transmit queue stays full");
            self.wait_for_call(TRANSMIT, Duration::from_millis(20));
        }
        self.kick(TRANSMIT);
    }

    /// The next entry of the used ring: head and length.
    pub fn next_used(&mut self, number: usize) -> Option<(u16, u32)> {
        let queue = &self.queues[number];
        let used = queue.base() + USED;
        if self.load(used + 2) == queue.used_seen {
            return None;
        }
        let element = used + 4 + u64::from(queue.used_seen % queue.size) * 8;
        let mut bytes = [0; 8];
        self.memory.read_slice(&mut bytes, GuestAddress(element)).unwrap();
        let head = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let queue = &mut self.queues[number];
        queue.used_seen = queue.used_seen.wrapping_add(1);
        Some((head.try_into().unwrap(), u32::from_le_bytes(bytes[4..].try_into().unwrap())))
    }

    /// Takes back what the device has used of the transmit queue.
    pub fn reclaim(&mut self, number: usize) -> usize {
        let mut count = 0;
        while let Some((head, _)) = self.next_used(number) {
            // Frames are in two descriptors, next to each other in the list of free ones.
            let mut bytes = [0; 2];
            let flags_at = self.queues[number].base() + u64::from(head) * 16 + 12;
            self.memory.read_slice(&mut bytes, GuestAddress(flags_at)).unwrap();
            if u16::from_le_bytes(bytes) & NEXT != 0 {
                self.memory.read_slice(&mut bytes, GuestAddress(flags_at + 2)).unwrap();
                self.queues[number].free.push(u16::from_le_bytes(bytes));
            }
            self.queues[number].free.push(head);
            count += 1;
        }
        count
    }

    /// What the device wrote to a used buffer, whose descriptor becomes free.
    pub fn contents(&mut self, number: usize, head: u16, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        let queue = &mut self.queues[number];
        self.memory.read_slice(&mut bytes, GuestAddress(queue.buffer(head))).unwrap();
        queue.free.push(head);
        bytes
    }

    /// A received packet, if one is there: header and frame, and the lengths of the buffers it took.
    pub fn try_receive(&mut self) -> Option<(Vec<u8>, Vec<u8>, Vec<u32>)> {
        let (head, length) = self.next_used(RECEIVE)?;
        let mut bytes = self.contents(RECEIVE, head, length);
        let mut lengths = vec![length];
        for _ in 1..u16::from_le_bytes([bytes[10], bytes[11]]) {
            // All of them are there at once, or the driver could not tell them apart.
            let (head, length) = self.next_used(RECEIVE).expect("the rest of a packet comes with its start");
            bytes.extend(self.contents(RECEIVE, head, length));
            lengths.push(length);
        }
        let frame = bytes.split_off(HEADER_SIZE);
        Some((bytes, frame, lengths))
    }

    /// Received frames, until `wanted` says that one is what was waited for.
    pub fn receive_until(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        self.receive_for(SECONDS, &mut wanted).expect("the frame comes")
    }

    /// The same, for at most `time`; receive buffers of full size are offered again.
    pub fn receive_for(&mut self, time: Duration, wanted: &mut dyn FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + time;
        loop {
            self.offer_receive_buffers(BUFFER_SIZE as u32);
            while let Some((_, frame, _)) = self.try_receive() {
                if wanted(&frame) {
                    return Some(frame);
                }
            }
            if Instant::now() >= deadline {
                return None;
            }
            self.wait_for_call(RECEIVE, Duration::from_millis(20));
        }
    }

    /// Waits for a signal of the device; how often it was signalled.
    pub fn wait_for_call(&self, number: usize, time: Duration) -> u64 {
        let queue = &self.queues[number];
        queue.calls.wait(time.as_millis() as i32, &mut [EpollEvent::default()]).unwrap();
        queue.call.read().unwrap_or(0)
    }

    /// Asks to be told when the used index passes `index` (EVENT_IDX).
    pub fn set_used_event(&self, number: usize, index: u16) {
        assert_ne!(self.features & EVENT_IDX, 0);
        let queue = &self.queues[number];
        self.store(queue.base() + AVAIL + 4 + u64::from(queue.size) * 2, index);
    }
}
