//! A page from a server of the host: recorded, replayed without the server, exported as packets.

use crate::http::{self, Server};
use crate::lab::Lab;
use crate::{BOOT_PATIENCE, guests, replay_and_verify, start_io, value};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket};
use std::net::{Ipv4Addr, TcpStream};

#[test]
fn a_page() {
    let Some(guests) = guests() else { return };
    let lab = Lab::new();
    let server = Server::start();
    let port = server.port();
    let options = ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:11:22:33"];
    let recorded = start_io(&lab, &guests, &format!("job=net port={port}"), &options);
    let recorded = recorded.end(BOOT_PATIENCE).well();
    let text = recorded.text();
    assert!(text.contains("lease 10.0.2.15 router 10.0.2.2 dns 10.0.2.3"), "{text}");
    assert_eq!(value(&text, "mac"), "52:54:00:11:22:33");
    assert!(text.contains(&http::page_line()), "{text}");
    assert!(text.contains("refused"), "{text}");

    drop(server);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the server has stopped");
    let export = lab.start("export pcap rec -o net.pcap");
    replay_and_verify(&lab, &recorded);
    export.end(BOOT_PATIENCE).well();
    check_packets(&std::fs::read(lab.path("net.pcap")).unwrap(), port);
}

/// The packets of a capture (pcap, little-endian, Ethernet) with their times in units of the file.
fn packets(file: &[u8]) -> Vec<((u32, u32), &[u8])> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert!([0xa1b2_c3d4, 0xa1b2_3c4d].contains(&word(0)), "magic {:x}", word(0));
    assert_eq!(word(20), 1, "link type Ethernet");
    let (mut at, mut found) = (24, vec![]);
    while at < file.len() {
        let length = word(at + 8) as usize;
        assert_eq!(word(at + 12) as usize, length, "a packet is whole");
        found.push(((word(at), word(at + 4)), &file[at + 16..at + 16 + length]));
        at += 16 + length;
    }
    found
}

/// The bytes of one direction of the connection with the server, put together.
fn stream(packets: &[((u32, u32), &[u8])], port: u16, from_server: bool) -> Vec<u8> {
    let (mut start, mut bytes) = (None, vec![]);
    for (_, frame) in packets {
        let frame = EthernetFrame::new_checked(*frame).unwrap();
        if frame.ethertype() != EthernetProtocol::Ipv4 {
            continue;
        }
        let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
        let (host, guest) = (Ipv4Address::new(10, 0, 2, 2), Ipv4Address::new(10, 0, 2, 15));
        let ends = if from_server { (host, guest) } else { (guest, host) };
        if (packet.src_addr(), packet.dst_addr()) != ends || packet.next_header() != IpProtocol::Tcp {
            continue;
        }
        assert!(packet.verify_checksum());
        let segment = TcpPacket::new_checked(packet.payload()).unwrap();
        if port != if from_server { segment.src_port() } else { segment.dst_port() } {
            continue;
        }
        let number = segment.seq_number().0 as u32;
        // SYN counts as one. What comes without content may stand behind the end: FIN counts as one, too.
        let first = *start.get_or_insert(number.wrapping_add(1));
        if segment.payload().is_empty() {
            continue;
        }
        let at = number.wrapping_sub(first) as usize;
        let end = at + segment.payload().len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[at..end].copy_from_slice(segment.payload());
    }
    bytes
}

fn check_packets(file: &[u8], port: u16) {
    let packets = packets(file);
    assert!(packets.windows(2).all(|pair| pair[0].0 <= pair[1].0), "time goes on");
    assert!(packets.last().unwrap().0.0 - packets[0].0.0 < 600, "guest time");
    let request = stream(&packets, port, false);
    assert!(request.starts_with(b"GET /page HTTP/1."), "{:?}", String::from_utf8_lossy(&request));
    let answer = stream(&packets, port, true);
    assert!(answer.starts_with(b"HTTP/1.0 200 OK\r\n"));
    assert!(answer.ends_with(&http::page()), "{} bytes of the page", answer.len());
}
