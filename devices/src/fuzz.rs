//! Bytes that a front-end says, and writes into memory and rings, against the disk and network programs in this process.
//!
//! Whatever they are, no thread panics, and the device ends soon after its front-end is gone. For tests and fuzz targets only.

use crate::block::config::Config;
use crate::block::device::BlockDevice;
use crate::block::disk::{Behaviour, Discard, Disk, ID_BYTES};
use crate::block::{complaints::Complaints, open};
use crate::front_end::{self, FrontEnd};
use crate::lifetime::Stop;
use crate::net::card::Card;
use crate::net::nothing::Nothing;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Once;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MEMORY: u64 = 1 << 20;
const RING: u32 = 8;
/// Longest time from the hang-up to the end.
const END_MAX: Duration = Duration::from_secs(20);

/// Requests of vhost-user, by number.
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ENABLE: u32 = 18;

/// Bytes as numbers; zeros after their end.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.next(), self.next(), self.next(), self.next()])
    }
}

/// One run.
pub fn front_end_side(bytes: &[u8]) {
    die_of_any_panic();
    let mut numbers = Numbers(bytes);
    let (socket, theirs) = UnixStream::pair().expect("a socket pair");
    socket.set_nonblocking(true).expect("a socket of ours");
    let device = start(theirs, numbers.next());
    let memory = File::from(memfd_create("fuzz", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
    memory.set_len(MEMORY).expect("memory");
    let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).expect("an eventfd");
    let mut front_end = FrontEndSide { socket, memory, kick: eventfd(), call: eventfd(), made: [0; 2] };
    front_end.greet(&mut numbers);
    while !numbers.0.is_empty() && !device.is_finished() {
        front_end.step(&mut numbers);
    }
    drop(front_end);
    let deadline = Instant::now() + END_MAX;
    while !device.is_finished() {
        assert!(Instant::now() < deadline, "the device did not end after its front-end");
        thread::sleep(Duration::from_micros(200));
    }
}

/// The device in a thread of its own. It may end with a complaint, which is right.
fn start(front_end: UnixStream, kind: u8) -> JoinHandle<Result<(), String>> {
    thread::spawn(move || {
        let (front_end, stop) = (FrontEnd::Connected(front_end), Stop::default());
        if kind & 1 == 0 {
            let behaviour = Behaviour {
                serial: [0; ID_BYTES],
                discard: Discard::Unmap,
                flush_to_disk: false,
                restartable: kind & 2 != 0,
            };
            let disk = Disk::new(open::open_memory(1 << 16, None)?, behaviour, Complaints::new("fuzz"));
            let config = Config::new(1 << 16, 512, 2, kind & 4 != 0, Discard::Unmap);
            front_end::serve(front_end, BlockDevice::new(disk, config)?, "fuzz", &stop)
        } else {
            front_end::serve(front_end, Card::new(Box::new(Nothing::open()?), "fuzz"), "fuzz", &stop)
        }
    })
}

/// A panic in a worker thread would go unnoticed: it ends the process, which is what a fuzzer looks for.
fn die_of_any_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            print(info);
            std::process::abort();
        }));
    });
}

struct FrontEndSide {
    socket: UnixStream,
    memory: File,
    kick: EventFd,
    call: EventFd,
    /// Chains made available, by queue.
    made: [u16; 2],
}

impl FrontEndSide {
    /// Says something; what cannot be said now is left out.
    fn say(&self, request: u32, words: &[u32], fds: &[RawFd]) {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut message: Vec<u8> =
            [request, 1, payload.len() as u32].iter().flat_map(|w| w.to_ne_bytes()).collect();
        message.extend(payload);
        self.send(&message, fds);
    }

    fn send(&self, message: &[u8], fds: &[RawFd]) {
        let control = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &control[..0] } else { &control };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let parts = [IoSlice::new(message)];
        let _ = sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &parts, control, flags, None);
        // Answers are thrown away, so that the device never waits for us.
        let _ = (&self.socket).read(&mut [0; 4096]);
    }

    /// A handshake that is right, but for a word here and there.
    fn greet(&mut self, numbers: &mut Numbers<'_>) {
        let mut wrong = numbers.next();
        let mut odd = |right: u32| {
            wrong = wrong.wrapping_sub(7);
            if wrong == 0 { numbers.word() } else { right }
        };
        let size = MEMORY as u32;
        self.say(SET_OWNER, &[], &[]);
        // VERSION_1, protocol features, indirect and event index.
        self.say(SET_FEATURES, &[odd(3 << 28 | 1 << 30), odd(1)], &[]);
        let region = [odd(1), 0, 0, 0, odd(size), 0, 0, 0, odd(0), 0];
        self.say(SET_MEM_TABLE, &region, &[self.memory.as_raw_fd()]);
        for queue in 0..2 {
            self.say(SET_VRING_NUM, &[queue, odd(RING)], &[]);
            let [table, avail, used] = [0, 0x1000, 0x2000].map(|part| area(queue) + part);
            self.say(SET_VRING_ADDR, &[queue, 0, odd(table), 0, odd(used), 0, odd(avail), 0, 0, 0], &[]);
            self.say(SET_VRING_BASE, &[queue, odd(0)], &[]);
            self.say(SET_VRING_CALL, &[queue, 0], &[self.call.as_fd().as_raw_fd()]);
            self.say(SET_VRING_KICK, &[queue, 0], &[self.kick.as_fd().as_raw_fd()]);
            self.say(SET_VRING_ENABLE, &[queue, odd(1)], &[]);
        }
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        if u64::from(at) + bytes.len() as u64 <= MEMORY {
            let _ = self.memory.write_all_at(bytes, at.into());
        }
    }

    fn step(&mut self, numbers: &mut Numbers<'_>) {
        match numbers.next() % 8 {
            0 => {
                // Any request, any payload.
                let words: Vec<u32> = (0..numbers.next() % 12).map(|_| numbers.word()).collect();
                let fds = [self.kick.as_fd().as_raw_fd()];
                let fds = if numbers.next() & 1 == 0 { &fds[..0] } else { &fds };
                self.say(u32::from(numbers.next() % 48), &words, fds);
            }
            1 => {
                let length = usize::from(numbers.next()) % 64;
                let bytes: Vec<u8> = (0..length).map(|_| numbers.next()).collect();
                self.send(&bytes, &[]);
            }
            2 => {
                let at = area(u32::from(numbers.next() & 1)) + (numbers.word() & 0x2fff);
                self.write(at, &[numbers.next(), numbers.next()]);
            }
            _ => self.request(numbers),
        }
        let _ = self.kick.write(1);
    }

    /// A chain of three buffers, with now and then a number that is not right.
    fn request(&mut self, numbers: &mut Numbers<'_>) {
        let queue = u32::from(numbers.next() & 1);
        let head = u32::from(numbers.next()) % (RING - 2);
        let data = 0x4_0000 + (numbers.word() & 0xffff);
        let header = [u32::from(numbers.next() % 15), 0, u32::from(numbers.next()), 0];
        self.write(data, &header.map(u32::to_le_bytes).concat());
        let lengths = [16, u32::from(numbers.next()) * 64, 1];
        for (number, length) in (0u32..).zip(lengths) {
            let at = if numbers.next() == 0 { numbers.word() } else { data + 0x1000 * number };
            let flags = match number {
                0 => 1,
                1 => 1 | u32::from(numbers.next() & 2),
                _ => 2,
            };
            let flags = if numbers.next() == 0 { u32::from(numbers.next()) } else { flags };
            let words = [at, 0, length, flags | (head + number + 1) << 16];
            self.write(area(queue) + 16 * (head + number), &words.map(u32::to_le_bytes).concat());
        }
        let made = &mut self.made[queue as usize];
        let slot = u32::from(*made) % RING;
        *made = made.wrapping_add(1);
        let index = *made;
        self.write(area(queue) + 0x1000 + 4 + 2 * slot, &(head as u16).to_le_bytes());
        self.write(area(queue) + 0x1002, &index.to_le_bytes());
    }
}

/// Where a queue's rings are.
fn area(queue: u32) -> u32 {
    0x1_0000 + 0x1_0000 * queue
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The handshake is good enough that random requests get somewhere.
    #[test]
    fn a_right_front_end_is_answered() {
        for kind in [0, 1] {
            let (socket, theirs) = UnixStream::pair().unwrap();
            socket.set_nonblocking(true).unwrap();
            let device = start(theirs, kind);
            let memory = File::from(memfd_create("fuzz", MFdFlags::MFD_CLOEXEC).unwrap());
            memory.set_len(MEMORY).unwrap();
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let [kick, call] = [(); 2].map(|()| EventFd::from_flags(flags).unwrap());
            let mut front_end = FrontEndSide { socket, memory, kick, call, made: [0; 2] };
            front_end.greet(&mut Numbers(&[]));
            // Queue 1, descriptors 0 to 2, all ones so that nothing is replaced by zeros' wrong turns.
            front_end.request(&mut Numbers(&[1; 64]));
            front_end.kick.write(1).unwrap();
            let deadline = Instant::now() + END_MAX;
            let mut used = [0; 2];
            while used == [0; 2] {
                assert!(Instant::now() < deadline && !device.is_finished(), "no answer from kind {kind}");
                front_end.memory.read_exact_at(&mut used, u64::from(area(1)) + 0x2002).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(used, [1, 0]);
            drop(front_end);
            assert_eq!(device.join().unwrap(), Ok(()));
        }
    }

    #[test]
    fn random_front_ends() {
        let seconds =
            std::env::var("REPRISE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut seed = 0x9e57_2001u64;
        while Instant::now() < end {
            let mut state = seed;
            let mut next = || {
                // SplitMix64 (Steele, Lea, Flood 2014).
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ mixed >> 31) as u8
            };
            let length = usize::from(next()) * 16;
            let bytes: Vec<u8> = (0..length).map(|_| next()).collect();
            // A panic ends the process: the seed must be there before it.
            println!("seed {seed:#x}");
            front_end_side(&bytes);
            seed += 1;
        }
    }
}
