//! Packets made by hand, and a smoltcp interface on the driver.

use crate::driver::{Driver, RECEIVE, TRANSMIT};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub const GUEST: [u8; 4] = [10, 0, 2, 15];
pub const GATEWAY: [u8; 4] = [10, 0, 2, 2];

/// Who has `target`?
pub fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend(GUEST);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

pub fn ethernet(to: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(GUEST_MAC);
    frame.extend(kind.to_be_bytes());
    frame
}

/// The sum of RFC 1071, complemented.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An echo request to `to`, whose hardware address is `mac`. `complete`: with its ICMP checksum.
pub fn echo_request(mac: [u8; 6], to: [u8; 4], sequence: u16, payload: &[u8], complete: bool) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34];
    icmp.extend(sequence.to_be_bytes());
    icmp.extend(payload);
    if complete {
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum);
    }
    let mut ip = vec![0x45, 0];
    ip.extend((20 + icmp.len() as u16).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 1, 0, 0]);
    ip.extend(GUEST);
    ip.extend(to);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    [ethernet(mac, 0x0800), ip, icmp].concat()
}

/// Whether `frame` is the answer to such a request, with the same payload and right checksums.
pub fn is_echo_reply(frame: &[u8], sequence: u16, payload: &[u8]) -> bool {
    frame.len() >= 42 + payload.len()
        && frame[12..14] == [8, 0]
        && frame[23] == 1
        && frame[34] == 0
        && frame[40..42] == sequence.to_be_bytes()
        && frame[42..42 + payload.len()] == *payload
        && checksum(&frame[14..34]) == [0, 0]
        && checksum(&frame[34..42 + payload.len()]) == [0, 0]
}

/// Asks for the gateway's hardware address.
pub fn gateway_mac(driver: &mut Driver) -> [u8; 6] {
    driver.send(&arp_request(GATEWAY));
    let reply = driver.receive_until(|frame| {
        frame[12..14] == [8, 6]
            && frame[20..22] == [0, 2]
            && frame[28..38] == [&GATEWAY[..], &GUEST_MAC].concat()
    });
    reply[22..28].try_into().unwrap()
}

/// The driver as smoltcp sees it.
pub struct Wire {
    driver: Rc<RefCell<Driver>>,
}

pub struct Received(Vec<u8>);

pub struct ToSend(Rc<RefCell<Driver>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_it: F) -> R {
        use_it(&self.0)
    }
}

impl phy::TxToken for ToSend {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, use_it: F) -> R {
        let mut frame = vec![0; length];
        let result = use_it(&mut frame);
        self.0.borrow_mut().send(&frame);
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = ToSend;

    fn receive(&mut self, _now: Instant) -> Option<(Received, ToSend)> {
        let frame = self.driver.borrow_mut().try_receive()?.1;
        Some((Received(frame), ToSend(self.driver.clone())))
    }

    fn transmit(&mut self, _now: Instant) -> Option<ToSend> {
        Some(ToSend(self.driver.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest with a TCP/IP stack.
pub struct Guest {
    wire: Wire,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    started: std::time::Instant,
}

impl Guest {
    /// With the address that DHCP would give it, and the gateway as its router.
    pub fn new(driver: Driver) -> Guest {
        let mut guest = Guest::without_address(driver);
        let address = Ipv4Address::from(GUEST);
        guest.interface.update_ip_addrs(|list| list.push(IpCidr::new(address.into(), 24)).unwrap());
        guest.interface.routes_mut().add_default_ipv4_route(Ipv4Address::from(GATEWAY)).unwrap();
        guest
    }

    pub fn without_address(driver: Driver) -> Guest {
        let mut wire = Wire { driver: Rc::new(RefCell::new(driver)) };
        let mac = HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC));
        let interface = Interface::new(Config::new(mac), &mut wire, Instant::ZERO);
        Guest { wire, interface, sockets: SocketSet::new(vec![]), started: std::time::Instant::now() }
    }

    pub fn add_tcp(&mut self) -> SocketHandle {
        use smoltcp::socket::tcp;
        let buffer = || tcp::SocketBuffer::new(vec![0; 65536]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Lets packets flow once, waiting a little for them.
    pub fn step(&mut self) {
        let now = Instant::from_micros(self.started.elapsed().as_micros() as i64);
        self.wire.driver.borrow_mut().offer_receive_buffers(2048);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let mut driver = self.wire.driver.borrow_mut();
        driver.reclaim(TRANSMIT);
        driver.offer_receive_buffers(2048);
        driver.wait_for_call(RECEIVE, Duration::from_millis(5));
    }

    /// Steps until `done` says so.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Guest) -> bool) {
        let deadline = std::time::Instant::now() + crate::driver::SECONDS;
        while !done(self) {
            assert!(std::time::Instant::now() < deadline, "waited for: {what}");
            self.step();
        }
    }

    /// Gives the driver back.
    pub fn into_driver(self) -> Driver {
        drop((self.interface, self.sockets));
        match Rc::try_unwrap(self.wire.driver) {
            Ok(driver) => driver.into_inner(),
            Err(_) => panic!("a token is alive"),
        }
    }
}
