//! The ioctls of /dev/net/tun. The `unsafe` of tap interfaces is all here.

use nix::libc::{self, c_int, ifreq};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

mod ioctl {
    use nix::libc::{c_int, ifreq};

    nix::ioctl_write_ptr_bad!(tunsetiff, nix::request_code_write!(b'T', 202, size_of::<c_int>()), ifreq);
    nix::ioctl_read_bad!(tungetiff, nix::request_code_read!(b'T', 210, size_of::<c_int>()), ifreq);
    nix::ioctl_write_int_bad!(tunsetoffload, nix::request_code_write!(b'T', 208, size_of::<c_int>()));
    nix::ioctl_write_ptr!(tunsetvnethdrsz, b'T', 216, c_int);
}

/// Flags of an interface: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
pub const TAP: i16 = libc::IFF_TAP as i16;
/// No packet information before the frame.
pub const NO_PACKET_INFORMATION: i16 = libc::IFF_NO_PI as i16;
/// A virtio header before the frame.
pub const VNET_HEADER: i16 = libc::IFF_VNET_HDR as i16;

fn request(name: &[u8], flags: i16) -> ifreq {
    // SAFETY: integers and a union of integers and addresses; all zero is a value of each.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (byte, &given) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name) {
        *byte = given as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    request
}

/// Attaches an open /dev/net/tun to the interface `name`, or a new one (empty), with `flags`. Returns the interface's name.
pub fn attach(tun: &impl AsFd, name: &str, flags: i16) -> nix::Result<String> {
    let request = request(name.as_bytes(), flags);
    // SAFETY: the kernel reads and writes one ifreq, which is ours.
    unsafe { ioctl::tunsetiff(tun.as_fd().as_raw_fd(), &request) }?;
    Ok(interface(tun)?.0)
}

/// Name and flags of the interface that an open tun descriptor is attached to.
pub fn interface(tun: &impl AsFd) -> nix::Result<(String, i16)> {
    let mut request = request(b"", 0);
    // SAFETY: the kernel writes one ifreq, which is ours.
    unsafe { ioctl::tungetiff(tun.as_fd().as_raw_fd(), &mut request) }?;
    // SAFETY: `request` made the last byte zero and the kernel writes names that end.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: TUNGETIFF fills in the flags.
    Ok((name, unsafe { request.ifr_ifru.ifru_flags }))
}

/// Says what the reader of the interface takes, as TUN_F bits.
pub fn set_offload(tun: &impl AsFd, offloads: u32) -> nix::Result<()> {
    // SAFETY: the argument is a number.
    unsafe { ioctl::tunsetoffload(tun.as_fd().as_raw_fd(), offloads as c_int) }.map(drop)
}

/// Sets the number of bytes of the header before each frame.
pub fn set_header_size(tun: &impl AsFd, size: usize) -> nix::Result<()> {
    // SAFETY: the kernel reads one int.
    unsafe { ioctl::tunsetvnethdrsz(tun.as_fd().as_raw_fd(), &(size as c_int)) }.map(drop)
}
