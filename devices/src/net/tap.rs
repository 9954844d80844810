//! `tap`: a network interface of the host.
//!
//! With a virtio header before each frame the host's kernel does checksums and segmentation for the guest; the header goes through as
//! it is, and the kernel refuses those that make no sense.

use super::frame::{FRAME_MAX, Frame, HEADER_SIZE};
use super::netdev::{Netdev, Sent};
use super::spec::{Script, TapSpec};
use super::{CSUM_FEATURES, checksum, tun};
use crate::chardev::poller::Poller;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access, read, write};
use replay::inherit;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO,
};

const DEVICE: &str = "/dev/net/tun";
/// What QEMU runs where nothing was said.
const DEFAULT_SCRIPT: &str = "/etc/qemu-ifup";

/// What the driver may take, and the kernel's bit for it.
const OFFLOADS: [(u32, u32); 5] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
    (VIRTIO_NET_F_GUEST_UFO, libc::TUN_F_UFO),
];
/// What the driver may leave to the kernel, segmentation of UDP aside.
const SEGMENTATION: [u32; 3] = [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN];

/// The netdev.
pub struct Tap {
    tun: OwnedFd,
    label: String,
    /// Frames carry a virtio header.
    vnet_header: bool,
    features: u64,
    poller: Poller,
    /// There may be frames; false from "nothing now" to the next event.
    readable: bool,
    /// The interface was removed.
    gone: bool,
    dropped: u64,
    buffer: Vec<u8>,
}

impl Tap {
    /// Opens or takes over the interface and sets it up.
    pub fn open(spec: &TapSpec, label: &str) -> Result<Tap, String> {
        let (tun, vnet_header) = match spec {
            TapSpec::Inherited(number) => inherited(*number, label)?,
            TapSpec::Open { ifname, script, vnet_header } => {
                let name = ifname.as_deref().unwrap_or_default();
                let (tun, name) = create(name, *vnet_header, label)?;
                run_script(script, &name, label)?;
                (tun, *vnet_header)
            }
        };
        let failed = |what: &str, error: Errno| format!("{label}: {DEVICE}: cannot {what}: {}", error.desc());
        let mut features = CSUM_FEATURES;
        if vnet_header {
            tun::set_header_size(&tun, HEADER_SIZE)
                .map_err(|error| failed("set the header's size", error))?;
            let offer = |set: &[u32]| set.iter().fold(0, |sum, feature| sum | 1 << feature);
            let [csum, tso4, tso6, ecn, ufo] = OFFLOADS;
            features |= offer(&SEGMENTATION) | offer(&[csum.0, tso4.0, tso6.0, ecn.0]);
            // Some kernels have no segmentation of UDP.
            if tun::set_offload(&tun, OFFLOADS.iter().fold(0, |sum, (_, bit)| sum | bit)).is_ok() {
                features |= offer(&[ufo.0, VIRTIO_NET_F_HOST_UFO]);
            }
            // Until the driver says what it takes, it takes whole packets with their checksums.
            tun::set_offload(&tun, 0).map_err(|error| failed("set offloads", error))?;
        }
        let poller = Poller::new()?;
        poller.watch(&tun)?;
        let (label, buffer) = (label.to_string(), vec![0; HEADER_SIZE + FRAME_MAX]);
        let (readable, gone, dropped) = (true, false, 0);
        Ok(Tap { tun, label, vnet_header, features, poller, readable, gone, dropped, buffer })
    }
}

/// A new interface, or an existing one that lasts. Returns it with its name.
fn create(name: &str, vnet_header: bool, label: &str) -> Result<(OwnedFd, String), String> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let tun = open(DEVICE, flags, Mode::empty())
        .map_err(|error| format!("{label}: cannot open {DEVICE}: {}", error.desc()))?;
    let flags = tun::TAP | tun::NO_PACKET_INFORMATION | if vnet_header { tun::VNET_HEADER } else { 0 };
    let name = tun::attach(&tun, name, flags).map_err(|error| {
        let which = if name.is_empty() { "a new one".to_string() } else { format!("'{name}'") };
        let hint = if error == Errno::EPERM { " (CAP_NET_ADMIN is needed, or fd=)" } else { "" };
        format!("{label}: cannot attach to the tap interface, {which}: {}{hint}", error.desc())
    })?;
    Ok((tun, name))
}

fn inherited(number: RawFd, label: &str) -> Result<(OwnedFd, bool), String> {
    let tun = inherit::take(number).map_err(|message| format!("{label}: {message}"))?;
    let no_tap = |why: &str| format!("{label}: file descriptor {number} is no tap interface: {why}");
    let (_, flags) = tun::interface(&tun).map_err(|error| no_tap(error.desc()))?;
    if flags & tun::TAP == 0 || flags & tun::NO_PACKET_INFORMATION == 0 {
        return Err(no_tap("IFF_TAP and IFF_NO_PI are needed"));
    }
    let status = fcntl(&tun, FcntlArg::F_GETFL).map_err(|error| no_tap(error.desc()))?;
    let status = OFlag::from_bits_retain(status) | OFlag::O_NONBLOCK;
    fcntl(&tun, FcntlArg::F_SETFL(status)).map_err(|error| no_tap(error.desc()))?;
    Ok((tun, flags & tun::VNET_HEADER != 0))
}

/// Runs the program that sets the interface up, with the interface's name, as QEMU does.
fn run_script(script: &Script, ifname: &str, label: &str) -> Result<(), String> {
    let path = match script {
        Script::No => return Ok(()),
        Script::Default if access(DEFAULT_SCRIPT, AccessFlags::X_OK).is_err() => return Ok(()),
        Script::Default => Path::new(DEFAULT_SCRIPT),
        Script::File(path) => path,
    };
    let shown = path.display();
    match Command::new(path).arg(ifname).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{label}: the script '{shown} {ifname}' failed: {status}")),
        Err(error) => Err(format!("{label}: cannot run the script '{shown}': {error}")),
    }
}

impl Netdev for Tap {
    fn features(&self) -> u64 {
        self.features
    }

    fn accept_features(&mut self, features: u64) -> Result<(), String> {
        if !self.vnet_header {
            return Ok(());
        }
        let taken = OFFLOADS.iter().filter(|(feature, _)| features & 1 << feature != 0);
        let offloads = taken.fold(0, |sum, (_, bit)| sum | bit);
        // The kernel wants no segmentation without checksums; nor does virtio (virtio 1.2, 5.1.3.1).
        let offloads = if offloads & libc::TUN_F_CSUM == 0 { 0 } else { offloads };
        tun::set_offload(&self.tun, offloads)
            .map_err(|error| format!("cannot set offloads of the interface: {}", error.desc()))
    }

    fn poll_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    fn attend(&mut self) -> Result<(), String> {
        self.poller.drain(0);
        self.readable = true;
        Ok(())
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        let bytes = match self.vnet_header {
            true => frame.wire(),
            false if checksum::complete(frame) => frame.ethernet(),
            false => return Sent::Refused,
        };
        match write(&self.tun, bytes) {
            Ok(_) => Sent::Taken,
            Err(Errno::EAGAIN) => Sent::NotNow,
            // Also while the interface is down (EIO).
            Err(_) => Sent::Refused,
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        while self.readable && !self.gone {
            let frame = match read(&self.tun, &mut self.buffer) {
                Ok(count) if self.vnet_header => Frame::from_wire(self.buffer[..count].to_vec()),
                Ok(count) => Some(Frame::from_ethernet(&self.buffer[..count], 0)),
                Err(Errno::EINTR) => continue,
                Err(Errno::EBADFD) => {
                    self.gone = true;
                    eprintln!("reprise device: {}: the interface was removed; the link is down", self.label);
                    return None;
                }
                // EAGAIN; whatever else, the next event tells.
                Err(_) => {
                    self.readable = false;
                    return None;
                }
            };
            match frame {
                Some(frame) => return Some(frame),
                None => self.dropped += 1,
            }
        }
        None
    }

    fn wake(&self) {
        self.poller.wake();
    }

    fn wait(&mut self, timeout_ms: u16) {
        self.poller.drain(timeout_ms);
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
