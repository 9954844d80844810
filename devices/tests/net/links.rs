//! `stream`, `dgram`, `none`, `tap`, and how the card treats its buffers.

use crate::driver::{Driver, EVENT_IDX, HEADER_SIZE, MRG_RXBUF, RECEIVE, SECONDS, TRANSMIT};
use crate::lab::{Device, device, inheritable, refusal, turn};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length as u32).map(|at| (at.wrapping_mul(31) ^ number) as u8).collect();
    frame[..4].copy_from_slice(&number.to_be_bytes());
    frame
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn read_frame(peer: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

/// A device whose peer is the returned socket.
fn with_peer(features: u64) -> (Device, Driver, UnixStream) {
    let (peer, for_child) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(SECONDS)).unwrap();
    let fd = inheritable(&for_child);
    let mut device = Device::net(&format!("stream,id=s,addr.type=fd,addr.str={fd}"));
    let driver = device.driver(features);
    (device, driver, peer)
}

/// Both directions, with writes torn by the peer.
fn exchange(driver: &mut Driver, peer: &mut (impl Read + Write)) {
    for (number, length) in [(1, 14), (2, 60), (3, 1514), (4, 61)] {
        driver.send(&frame(number, length));
        assert_eq!(read_frame(peer), frame(number, length));
        for part in framed(&frame(number + 10, length)).chunks(7 + number as usize * 100) {
            peer.write_all(part).unwrap();
        }
        driver.receive_until(|got| got == frame(number + 10, length));
    }
}

#[test]
fn a_stream_server_has_one_peer_after_the_other() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let mut device = Device::net(&format!("stream,addr.type=unix,addr.path={},server=on", path.display()));
    let mut driver = device.driver(MRG_RXBUF);
    driver.send(&frame(0, 60));
    for _ in 0..2 {
        let mut peer = UnixStream::connect(&path).unwrap();
        peer.set_read_timeout(Some(SECONDS)).unwrap();
        // It is plugged in once its first frame has arrived.
        peer.write_all(&framed(&frame(99, 60))).unwrap();
        driver.receive_until(|got| got == frame(99, 60));
        exchange(&mut driver, &mut peer);
    }
    device.end(driver);
    assert!(!path.exists(), "the socket file is removed");
}

#[test]
fn a_stream_client_connects_and_connects_again() {
    let _turn = turn();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}");
    let mut device = Device::net(&format!("stream,{options},reconnect-ms=50"));
    let mut driver = device.driver(0);
    for _ in 0..2 {
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(SECONDS)).unwrap();
        peer.write_all(&framed(&frame(99, 60))).unwrap();
        driver.receive_until(|got| got == frame(99, 60));
        exchange(&mut driver, &mut peer);
    }
    device.end(driver);
    drop(listener);
    let text = refusal(&["net", &format!("--netdev=stream,id=c,{options}"), "--socket-path=/tmp/unused"]);
    assert!(
        text.contains(&format!("c: cannot connect to tcp:127.0.0.1:{port}: Connection refused")),
        "{text}"
    );
}

#[test]
fn a_peer_that_talks_nonsense_is_left() {
    let _turn = turn();
    let (mut device, driver, mut peer) = with_peer(0);
    peer.write_all(&[0xff; 64]).unwrap();
    assert_eq!(peer.read(&mut [0; 16]).unwrap(), 0, "the device hangs up");
    let mut driver = driver;
    driver.hang_up();
    let message = "reprise device: s: the peer announces a frame of 4294967295 bytes; the link is down\n";
    assert_eq!(device.wait(), (Some(0), message.into()));
}

#[test]
fn a_slow_peer_makes_the_driver_wait_and_loses_nothing() {
    const FRAMES: u32 = 1500;
    let _turn = turn();
    let (device, mut driver, mut peer) = with_peer(0);
    let mut number = 0;
    let mut stuck_since = Instant::now();
    // Until nothing moves any more.
    while number < FRAMES && stuck_since.elapsed() < Duration::from_millis(300) {
        if driver.queue_frame(&[0; HEADER_SIZE], &frame(number, 1514)) {
            number += 1;
            stuck_since = Instant::now();
        }
        driver.kick(TRANSMIT);
        driver.wait_for_call(TRANSMIT, Duration::from_millis(1));
    }
    assert!(number < FRAMES, "the ring filled up");
    let reader = std::thread::spawn(move || {
        for number in 0..FRAMES {
            assert_eq!(read_frame(&mut peer), frame(number, 1514));
        }
        peer
    });
    for number in number..FRAMES {
        driver.send(&frame(number, 1514));
    }
    let peer = reader.join().unwrap();
    device.end(driver);
    drop(peer);
}

/// Frames that are in the ring at the end still go out, whoever ends it.
#[test]
fn what_is_in_the_ring_at_the_end_is_sent() {
    let _turn = turn();
    for by_signal in [false, true] {
        let (mut device, mut driver, mut peer) = with_peer(0);
        driver.send(&frame(0, 60));
        assert_eq!(read_frame(&mut peer), frame(0, 60));
        for number in 1..=100 {
            assert!(driver.queue_frame(&[0; HEADER_SIZE], &frame(number, 1000)));
        }
        if by_signal {
            device.signal(Signal::SIGTERM);
        } else {
            driver.hang_up();
        }
        for number in 1..=100 {
            assert_eq!(read_frame(&mut peer), frame(number, 1000), "by signal: {by_signal}");
        }
        assert_eq!(device.wait(), (Some(0), String::new()));
    }
}

#[test]
fn a_packet_takes_several_mergeable_buffers() {
    let _turn = turn();
    let (device, mut driver, mut peer) = with_peer(MRG_RXBUF);
    // Too few at first: the packet waits for the rest.
    (0..3).for_each(|_| driver.offer_one(256));
    driver.kick(RECEIVE);
    peer.write_all(&framed(&frame(5, 1500))).unwrap();
    driver.wait_for_call(RECEIVE, Duration::from_millis(200));
    assert!(driver.try_receive().is_none(), "not before it fits");
    (0..5).for_each(|_| driver.offer_one(256));
    driver.kick(RECEIVE);
    driver.wait_for_call(RECEIVE, SECONDS);
    let (header, got, lengths) = driver.try_receive().expect("the packet");
    assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0]);
    assert!(got == frame(5, 1500));
    assert_eq!(lengths, [256, 256, 256, 256, 256, 232]);
    peer.write_all(&framed(&frame(6, 100))).unwrap();
    driver.wait_for_call(RECEIVE, SECONDS);
    let (header, got, lengths) = driver.try_receive().expect("the next packet");
    assert_eq!((header[10], got, lengths), (1, frame(6, 100), vec![112]));
    device.end(driver);
}

#[test]
fn without_them_a_packet_that_does_not_fit_is_dropped_and_counted() {
    let _turn = turn();
    let (mut device, mut driver, mut peer) = with_peer(0);
    (0..4).for_each(|_| driver.offer_one(256));
    driver.kick(RECEIVE);
    for (number, length) in [(1, 1500), (2, 244), (3, 245)] {
        peer.write_all(&framed(&frame(number, length))).unwrap();
    }
    peer.write_all(&framed(&frame(4, 60))).unwrap();
    for (number, length) in [(2, 244), (4, 60)] {
        let deadline = Instant::now() + SECONDS;
        let got = loop {
            if let Some((header, got, _)) = driver.try_receive() {
                assert_eq!(header[10], 1);
                break got;
            }
            assert!(Instant::now() < deadline, "frame {number}");
            driver.wait_for_call(RECEIVE, Duration::from_millis(20));
        };
        assert_eq!(got, frame(number, length));
    }
    driver.hang_up();
    let message = "reprise device: s: dropped 2 packets to the guest and 0 from it\n";
    assert_eq!(device.wait(), (Some(0), message.into()));
}

#[test]
fn frames_that_are_none_are_dropped_and_counted() {
    let _turn = turn();
    let (mut device, mut driver, mut peer) = with_peer(0);
    let mut segmented = [0; HEADER_SIZE];
    segmented[1] = 1;
    assert!(driver.queue_frame(&segmented, &frame(1, 1514)));
    assert!(driver.queue_frame(&[0; HEADER_SIZE], &frame(2, 13)));
    let mut outside = [0; HEADER_SIZE];
    (outside[0], outside[6], outside[8]) = (1, 50, 9);
    assert!(driver.queue_frame(&outside, &frame(3, 60)));
    // 64 KiB and more: 48 buffers in one chain.
    for index in 100..148u16 {
        let last = index == 147;
        let buffer = (driver.queues[TRANSMIT].buffer(index), 2048);
        driver.describe(TRANSMIT, index, buffer, u16::from(!last), index + 1);
    }
    driver.offer(TRANSMIT, 100);
    driver.send(&frame(4, 60));
    assert_eq!(read_frame(&mut peer), frame(4, 60), "the good one behind them");
    driver.hang_up();
    let message = "reprise device: s: dropped 0 packets to the guest and 4 from it\n";
    assert_eq!(device.wait(), (Some(0), message.into()));
}

#[test]
fn rings_that_are_enabled_before_features_are_set() {
    let _turn = turn();
    let (mut peer, for_child) = UnixStream::pair().unwrap();
    let fd = inheritable(&for_child);
    let mut device = Device::net(&format!("stream,addr.type=fd,addr.str={fd}"));
    let mut driver = Driver::connect_in_order(device.socket(), 0, &[256, 256], true);
    exchange(&mut driver, &mut peer);
    device.end(driver);
}

#[test]
fn a_driver_is_told_when_it_wants_to_be() {
    let _turn = turn();
    let (device, mut driver, mut peer) = with_peer(EVENT_IDX);
    // Told at the fifth packet, not before.
    driver.set_used_event(RECEIVE, 4);
    (0..64).for_each(|_| driver.offer_one(2048));
    driver.kick(RECEIVE);
    for number in 0..4 {
        peer.write_all(&framed(&frame(number, 60))).unwrap();
    }
    assert_eq!(driver.wait_for_call(RECEIVE, Duration::from_millis(200)), 0);
    peer.write_all(&framed(&frame(4, 60))).unwrap();
    assert_eq!(driver.wait_for_call(RECEIVE, SECONDS), 1);
    for number in 0..5 {
        assert_eq!(driver.try_receive().expect("all are there").1, frame(number, 60));
    }
    // A burst is one batch, or a few: fewer signals than packets.
    driver.set_used_event(RECEIVE, 5);
    let burst: Vec<u8> = (0..40).flat_map(|number| framed(&frame(number, 60))).collect();
    peer.write_all(&burst).unwrap();
    assert_eq!(driver.wait_for_call(RECEIVE, SECONDS), 1);
    device.end(driver);
}

#[test]
fn a_link_without_an_end_takes_everything() {
    let _turn = turn();
    let mut device = Device::net("none");
    let mut driver = device.driver(0);
    for number in 0..2000 {
        driver.send(&frame(number, 60));
    }
    device.end(driver);
}

#[test]
fn datagrams() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let unix_peer = UnixDatagram::bind(at("peer")).unwrap();
    unix_peer.set_read_timeout(Some(SECONDS)).unwrap();
    let (local, remote) = (at("local"), at("peer"));
    let options = format!("local.type=unix,local.path={local},remote.type=unix,remote.path={remote}");
    let mut device = Device::net(&format!("dgram,{options}"));
    let mut driver = device.driver(0);
    let mut buffer = vec![0; 2000];
    for number in 0..50 {
        driver.send(&frame(number, 1514));
        assert_eq!(unix_peer.recv(&mut buffer).unwrap(), 1514);
        assert_eq!(buffer[..1514], frame(number, 1514));
        unix_peer.send_to(&frame(number + 100, 60), at("local")).unwrap();
        driver.receive_until(|got| got == frame(number + 100, 60));
    }
    device.end(driver);
    assert!(!directory.path().join("local").exists(), "the socket file is removed");

    let udp_peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp_peer.set_read_timeout(Some(SECONDS)).unwrap();
    let remote = udp_peer.local_addr().unwrap();
    let mut device = Device::net(&format!("socket,udp={remote},localaddr=127.0.0.1:0"));
    let mut driver = device.driver(0);
    driver.send(&frame(1, 99));
    let (count, from) = udp_peer.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..count], frame(1, 99));
    udp_peer.send_to(&frame(2, 98), from).unwrap();
    driver.receive_until(|got| got == frame(2, 98));
    device.end(driver);
}

#[test]
fn everyone_in_a_multicast_group_hears_everyone() {
    let _turn = turn();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let netdev = format!("socket,mcast=239.255.42.42:{port},localaddr=127.0.0.1");
    let mut devices = [Device::net(&netdev), Device::net(&netdev)];
    let [mut one, mut other] = devices.each_mut().map(|device| device.driver(0));
    one.send(&frame(1, 60));
    other.receive_until(|got| got == frame(1, 60));
    other.send(&frame(2, 60));
    one.receive_until(|got| got == frame(2, 60));
    let [first, second] = devices;
    first.end(one);
    second.end(other);
}

/// Whether this host lets us make a tap interface or not, the device says in one line why it cannot, or it works.
#[test]
fn a_tap_interface_opens_or_says_why() {
    let _turn = turn();
    let name = format!("rpr{}", std::process::id() % 100_000);
    let netdev = format!("--netdev=tap,id=t,ifname={name},script=no,downscript=no");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("front");
    let mut child = device(&["net", &netdev, &format!("--socket-path={}", path.display())]).spawn().unwrap();
    let interface = format!("/sys/class/net/{name}");
    let deadline = Instant::now() + SECONDS;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(status.code(), Some(1), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            let opening = text.starts_with("reprise device: t: cannot open /dev/net/tun: ");
            let attaching = format!("reprise device: t: cannot attach to the tap interface, '{name}': ");
            assert!(opening || text.starts_with(&attaching), "{text}");
            return;
        }
        // Frames of the kernel's own would come through as soon as the interface is up; it is not.
        if std::path::Path::new(&interface).exists() && path.exists() {
            break;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut driver = loop {
        if let Ok(socket) = UnixStream::connect(&path) {
            // Segmentation both ways, and checksums.
            break Driver::connect(socket, MRG_RXBUF | 0x1983 | 1, &[256, 256]);
        }
        assert!(Instant::now() < deadline);
    };
    // An interface that is down takes no frames: they are lost, not kept.
    driver.send(&frame(1, 60));
    driver.hang_up();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(text, "reprise device: t: dropped 0 packets to the guest and 1 from it\n");
    assert!(!std::path::Path::new(&interface).exists(), "the interface goes with the device");
}

#[test]
fn what_cannot_be_opened_is_named() {
    let _turn = turn();
    let listener = UnixListener::bind(tempfile::tempdir().unwrap().path().join("l")).unwrap();
    let fd = inheritable(&listener);
    for (netdev, message) in [
        (format!("tap,fd={fd}"), format!("file descriptor {fd} is no tap interface: ")),
        ("tap,fd=77".into(), "file descriptor 77: Bad file".into()),
        (
            format!("dgram,local.type=fd,local.str={fd}"),
            format!("file descriptor {fd} is no datagram socket"),
        ),
        (
            "stream,addr.type=unix,addr.path=/no/where,server=on".into(),
            "net: cannot listen on unix:/no/where: No such file".into(),
        ),
        (
            "dgram,local.type=unix,local.path=/no/where,remote.type=unix,remote.path=/x".into(),
            "net: cannot use the datagram socket '/no/where': No such file".into(),
        ),
        ("socket,udp=127.0.0.1:1,localaddr=192.0.2.1:1".into(), "net: cannot use udp 192.0.2.1:1: ".into()),
        ("vde".into(), "-netdev vde: the netdev 'vde' is not supported".into()),
    ] {
        let text = refusal(&["net", &format!("--netdev={netdev}"), "--socket-path=/tmp/unused"]);
        assert!(text.contains(&message), "{netdev}: {text}");
    }
    assert!(
        refusal(&["net", "--netdev=none"]).contains("one of --listen-fd, --socket-path and --fd is missing")
    );
}
