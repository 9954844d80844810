//! `user`: the network that libslirp makes.

use crate::driver::{HEADER_SIZE, MRG_RXBUF, RECEIVE, SECONDS, TRANSMIT};
use crate::hostile::Dice;
use crate::lab::{Device, device, refusal, turn};
use crate::packets::{
    GATEWAY, GUEST, Guest, arp_request, checksum, echo_request, ethernet, gateway_mac, is_echo_reply,
};
use nix::sys::signal::Signal;
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::wire::Ipv4Address;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

const CSUM: u64 = 1;

fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A port of the host that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_gateway_answers_ping() {
    let _turn = turn();
    let mut device = Device::net("user,id=n0");
    let mut driver = device.driver(MRG_RXBUF);
    let mac = gateway_mac(&mut driver);
    for (sequence, length) in [(1, 0), (2, 56), (3, 1400)] {
        let payload = pattern(length);
        driver.send(&echo_request(mac, GATEWAY, sequence, &payload, true));
        driver.receive_until(|frame| is_echo_reply(frame, sequence, &payload));
    }
    device.end(driver);
}

#[test]
fn checksums_left_to_the_device_are_completed() {
    let _turn = turn();
    let mut device = Device::net("user");
    let mut driver = device.driver(CSUM);
    let mac = gateway_mac(&mut driver);
    let payload = pattern(333);
    let frame = echo_request(mac, GATEWAY, 7, &payload, false);
    assert_ne!(checksum(&frame[34..]), [0, 0], "the sum is missing");
    let mut header = [0; HEADER_SIZE];
    header[0] = 1;
    header[6] = 34;
    header[8] = 2;
    assert!(driver.queue_frame(&header, &frame));
    driver.kick(TRANSMIT);
    driver.receive_until(|frame| is_echo_reply(frame, 7, &payload));
    // Without the sum the same request is not answered: it is the device that made it right.
    driver.send(&echo_request(mac, GATEWAY, 8, &payload, false));
    let mut wanted = |frame: &[u8]| is_echo_reply(frame, 8, &payload);
    assert_eq!(driver.receive_for(Duration::from_millis(300), &mut wanted), None);
    device.end(driver);
}

#[test]
fn dhcp_gives_the_address() {
    let _turn = turn();
    let mut device = Device::net("user,net=192.168.76.0/24,dhcpstart=192.168.76.33");
    let mut guest = Guest::without_address(device.driver(0));
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let mut configured = None;
    guest.run_until("an address", |guest| {
        if let Some(dhcpv4::Event::Configured(config)) =
            guest.sockets.get_mut::<dhcpv4::Socket>(handle).poll()
        {
            let servers: Vec<Ipv4Address> = config.dns_servers.iter().copied().collect();
            configured = Some((config.address.to_string(), config.router, servers));
        }
        configured.is_some()
    });
    let at = |last| Ipv4Address::new(192, 168, 76, last);
    assert_eq!(configured, Some(("192.168.76.33/24".into(), Some(at(2)), vec![at(3)])));
    device.end(guest.into_driver());
}

/// Sends `out` through the guest's socket and receives `expected` bytes.
fn exchange(guest: &mut Guest, handle: smoltcp::iface::SocketHandle, out: &[u8], expected: usize) -> Vec<u8> {
    let (mut sent, mut got) = (0, Vec::new());
    guest.run_until("the exchange", |guest| {
        let socket = guest.sockets.get_mut::<tcp::Socket>(handle);
        if socket.can_send() && sent < out.len() {
            sent += socket.send_slice(&out[sent..]).unwrap();
        }
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    got.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        sent == out.len() && got.len() >= expected && socket.send_queue() == 0
    });
    got
}

/// Receives `count` bytes and sends them back changed.
fn serve_once(mut client: TcpStream, count: usize) {
    let mut bytes = vec![0; count];
    client.set_read_timeout(Some(SECONDS)).unwrap();
    client.read_exact(&mut bytes).unwrap();
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    client.write_all(&bytes).unwrap();
}

#[test]
fn tcp_reaches_the_hosts_loopback() {
    let _turn = turn();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let out = pattern(300_000);
    let count = out.len();
    let server = thread::spawn(move || serve_once(listener.accept().unwrap().0, count));
    let mut device = Device::net("user");
    let mut guest = Guest::new(device.driver(MRG_RXBUF));
    let handle = guest.add_tcp();
    let context = guest.interface.context();
    let socket = guest.sockets.get_mut::<tcp::Socket>(handle);
    socket.connect(context, (Ipv4Address::from(GATEWAY), port), 40_000).unwrap();
    let got = exchange(&mut guest, handle, &out, count);
    assert!(got.iter().zip(&out).all(|(got, sent)| *got == !*sent) && got.len() == count);
    server.join().unwrap();
    // The host has closed its side, the guest has not: there is nothing to do, and nothing is done.
    guest
        .run_until("the end of the stream", |guest| !guest.sockets.get_mut::<tcp::Socket>(handle).may_recv());
    let before = device.cpu_ticks();
    let end = std::time::Instant::now() + Duration::from_millis(500);
    guest.run_until("time", |_| std::time::Instant::now() >= end);
    let ticks = device.cpu_ticks() - before;
    assert!(ticks <= 10, "{ticks} ticks of 10 ms in half a second");
    device.end(guest.into_driver());
}

#[test]
fn a_port_of_the_host_leads_to_the_guest() {
    let _turn = turn();
    let port = free_port();
    let mut device = Device::net(&format!("user,hostfwd=tcp:127.0.0.1:{port}-:80"));
    let mut guest = Guest::new(device.driver(0));
    let handle = guest.add_tcp();
    guest.sockets.get_mut::<tcp::Socket>(handle).listen(80).unwrap();
    let out = pattern(50_000);
    let expected: Vec<u8> = out.iter().map(|byte| !byte).collect();
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(SECONDS)).unwrap();
        client.write_all(b"hello").unwrap();
        let mut bytes = vec![0; expected.len()];
        client.read_exact(&mut bytes).unwrap();
        assert!(bytes == expected);
    });
    let changed: Vec<u8> = out.iter().map(|byte| !byte).collect();
    assert_eq!(exchange(&mut guest, handle, &changed, 5), b"hello");
    guest.run_until("the client's end", |_| client.is_finished());
    client.join().unwrap();
    device.end(guest.into_driver());
    let refused = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "nobody listens any more");
}

#[test]
fn restrict_keeps_the_guest_in() {
    let _turn = turn();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut device = Device::net("user,restrict=on");
    let mut driver = device.driver(0);
    let mac = gateway_mac(&mut driver);
    driver.send(&echo_request(mac, GATEWAY, 1, b"still here", true));
    driver.receive_until(|frame| is_echo_reply(frame, 1, b"still here"));
    let mut guest = Guest::new(driver);
    let handle = guest.add_tcp();
    let context = guest.interface.context();
    let socket = guest.sockets.get_mut::<tcp::Socket>(handle);
    socket.connect(context, (Ipv4Address::from(GATEWAY), port), 40_000).unwrap();
    let end = std::time::Instant::now() + Duration::from_millis(700);
    guest.run_until("time", |_| std::time::Instant::now() >= end);
    assert!(!guest.sockets.get_mut::<tcp::Socket>(handle).may_send(), "no connection");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody came");
    device.end(guest.into_driver());
}

#[test]
fn packets_wait_for_buffers_up_to_a_limit() {
    const SENT: usize = 3000;
    /// What slirp.rs keeps, and the one that the card holds in its hand.
    const KEPT: usize = 1024 + 1;
    let _turn = turn();
    let mut device = Device::net("user,ipv6=off,id=full");
    let mut driver = device.driver(0);
    for _ in 0..SENT {
        driver.send(&arp_request(GATEWAY));
    }
    let deadline = std::time::Instant::now() + SECONDS;
    while driver.queues[TRANSMIT].outstanding() > 0 {
        assert!(std::time::Instant::now() < deadline, "everything is taken");
        driver.wait_for_call(TRANSMIT, Duration::from_millis(20));
        driver.reclaim(TRANSMIT);
    }
    let mut got = 0;
    let mut count = |_: &[u8]| {
        got += 1;
        false
    };
    assert_eq!(driver.receive_for(Duration::from_millis(500), &mut count), None);
    assert_eq!(got, KEPT);
    driver.hang_up();
    let lost = SENT - KEPT;
    let message = format!("reprise device: full: dropped {lost} packets to the guest and 0 from it\n");
    assert_eq!(device.wait(), (Some(0), message));
}

/// A frame that libslirp looks into: addresses, ports and fields at random, checksums often right.
fn plausible(dice: &mut Dice, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(dice.one_of(&[mac, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]]), 0x0800);
    let protocol = dice.one_of(&[1, 6, 17, 17, 58, 0]);
    let mut payload: Vec<u8> =
        (0..dice.one_of(&[0, 8, 20, 28, 64, 300, 576, 1400])).map(|_| dice.byte()).collect();
    if payload.len() >= 8 && dice.below(4) > 0 {
        let ports = [dice.one_of(&[67u16, 68, 69, 53, 80]), dice.one_of(&[67u16, 69, 53, 80, 547, 445])];
        payload[..2].copy_from_slice(&ports[0].to_be_bytes());
        payload[2..4].copy_from_slice(&ports[1].to_be_bytes());
        let length = payload.len() as u16;
        payload[4..6].copy_from_slice(&length.to_be_bytes());
        payload[6..8].fill(0);
    }
    if dice.below(4) == 0 {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([dice.one_of(&[6, 17, 58, 0, 44]), dice.one_of(&[1, 64, 255])]);
        let addresses: [[u8; 2]; 2] = dice.one_of(&[[[0xfe, 0x80], [0xff, 2]], [[0xfe, 0xc0], [0xfe, 0xc0]]]);
        for prefix in addresses {
            frame.extend(prefix);
            frame.extend([0; 13]);
            frame.push(dice.one_of(&[1, 2, 3, 15]));
        }
    } else {
        let mut ip = vec![dice.one_of(&[0x45, 0x45, 0x45, 0x46, 0x4f]), 0];
        ip.extend((dice.one_of(&[20, 20, 20, 19, 24, 0]) + payload.len() as u16).to_be_bytes());
        ip.extend([0, dice.one_of(&[1, 2])]);
        ip.extend(dice.one_of(&[0u16, 0, 0x2000, 0x2001, 0x0001, 0x0002, 0x1fff]).to_be_bytes());
        ip.extend([64, protocol, 0, 0]);
        ip.extend(dice.one_of(&[GUEST, [0; 4], GATEWAY]));
        ip.extend(dice.one_of(&[GATEWAY, [10, 0, 2, 3], [255; 4], [10, 0, 2, 255], [10, 0, 2, 77]]));
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        frame.extend(ip);
    }
    frame.extend(payload);
    frame
}

/// With restrict=on, so that nothing of it leaves this host.
#[test]
fn garbage_of_the_guest_hurts_nobody() {
    let _turn = turn();
    let mut dice = Dice::from_environment();
    let directory = tempfile::tempdir().unwrap();
    let netdev = format!("user,restrict=on,tftp={},bootfile=x", directory.path().display());
    let mut device = Device::net(&netdev);
    let mut driver = device.driver(MRG_RXBUF);
    let mac = gateway_mac(&mut driver);
    let good = [arp_request(GATEWAY), echo_request(mac, GATEWAY, 1, &pattern(64), true)];
    for round in 0..4000 {
        let mut frame = match dice.below(8) {
            0 => (0..14 + dice.below(1500)).map(|_| dice.byte()).collect(),
            1 => good[dice.below(2) as usize].clone(),
            _ => plausible(&mut dice, mac),
        };
        for _ in 0..dice.below(4).saturating_sub(1) {
            let at = dice.below(frame.len() as u64) as usize;
            frame[at] = dice.byte();
        }
        driver.send(&frame);
        if round % 64 == 0 {
            driver.receive_for(Duration::ZERO, &mut |_| false);
        }
    }
    // Some of it may have moved our address to another card.
    gateway_mac(&mut driver);
    driver.send(&echo_request(mac, GATEWAY, 99, b"alive", true));
    driver.receive_until(|frame| is_echo_reply(frame, 99, b"alive"));
    device.signal(Signal::SIGTERM);
    let (status, text) = device.wait();
    assert_eq!(status, Some(0), "{text}");
    assert!(text.lines().count() <= 20, "messages are limited: {text}");
    drop(driver);
}

/// A datagram that the guest's kernel had to cut up arrives whole.
#[test]
fn fragments_are_put_together() {
    const LENGTH: usize = 40_000;
    let _turn = turn();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(SECONDS)).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut device = Device::net("user");
    let mut driver = device.driver(0);
    let mac = gateway_mac(&mut driver);
    let mut udp = [4321u16.to_be_bytes(), port.to_be_bytes(), (8 + LENGTH as u16).to_be_bytes()].concat();
    // No checksum, which UDP over IPv4 allows.
    udp.extend([0, 0]);
    udp.extend(pattern(LENGTH));
    for (number, part) in udp.chunks(1480).enumerate() {
        let offset = (number * 1480 / 8) as u16;
        let more = if (number + 1) * 1480 < udp.len() { 0x2000 } else { 0 };
        let mut ip = vec![0x45, 0];
        ip.extend((20 + part.len() as u16).to_be_bytes());
        ip.extend([0, 9]);
        ip.extend((offset | more).to_be_bytes());
        ip.extend([64, 17, 0, 0]);
        ip.extend(GUEST);
        ip.extend(GATEWAY);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        driver.send(&[ethernet(mac, 0x0800), ip, part.to_vec()].concat());
    }
    let mut buffer = vec![0; 65536];
    let (count, from) = server.recv_from(&mut buffer).unwrap();
    assert!(buffer[..count] == pattern(LENGTH));
    server.send_to(b"got it", from).unwrap();
    driver.receive_until(|frame| frame.ends_with(b"got it"));
    device.end(driver);
}

#[test]
fn what_cannot_be_had_is_named() {
    let _turn = turn();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let rule = format!("tcp:127.0.0.1:{port}-:22");
    let text = refusal(&["net", &format!("--netdev=user,id=n7,hostfwd={rule}"), "--socket-path=/tmp/unused"]);
    let expected = format!(
        "reprise device: n7: hostfwd '{rule}': cannot listen on tcp 127.0.0.1:{port}: Address already in use\n"
    );
    assert_eq!(text, expected);
    let text = refusal(&["net", "--netdev=user,tftp=/no/where", "--socket-path=/tmp/unused"]);
    assert!(text.contains("the directory for tftp, '/no/where', is not there"), "{text}");
}

#[test]
fn a_host_without_libslirp_is_told_which_package_it_is() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    // Found before the host's own, and no library.
    std::fs::write(directory.path().join("libslirp.so.0"), [b'x'; 1000]).unwrap();
    let output = device(&["net", "--netdev=user,id=n1", "--socket-path=/tmp/unused"])
        .env("LD_LIBRARY_PATH", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let start = "reprise device: n1: user networking needs libslirp.so.0, which cannot be loaded: \
                 install the package 'libslirp0'";
    assert!(text.starts_with(start) && text.lines().count() == 1, "{text}");
}

#[test]
fn the_receive_queue_can_be_stopped_while_packets_wait() {
    let _turn = turn();
    let mut device = Device::net("user,ipv6=off");
    let mut driver = device.driver(0);
    driver.offer_one(2048);
    driver.kick(RECEIVE);
    for _ in 0..3 {
        driver.send(&arp_request(GATEWAY));
    }
    let deadline = std::time::Instant::now() + SECONDS;
    while driver.try_receive().is_none() {
        assert!(std::time::Instant::now() < deadline);
        driver.wait_for_call(RECEIVE, Duration::from_millis(20));
    }
    assert_eq!(driver.stop(RECEIVE), 1, "one buffer was offered and one was used");
    device.end(driver);
}
