//! Tests of both ends together.

use super::*;
use crate::event::{Event, Stamped};
use crate::message::{Control, Inbound, Outbound};
use std::thread;
use std::time::{Duration, Instant};

fn event(icount: u64, bytes: usize) -> Stamped {
    Stamped { icount: Icount(icount), event: Event::Entropy { bytes: vec![icount as u8; bytes] } }
}

#[test]
fn messages_arrive_in_order_in_both_directions() {
    let (mut broker, mut vcpu) = pair(None).unwrap();
    for icount in 0..100 {
        broker.send(&Inbound::Apply(event(icount, icount as usize))).unwrap();
        vcpu.send(&Outbound::Journal(event(icount, 3))).unwrap();
    }
    for icount in 0..100 {
        assert_eq!(vcpu.receive().unwrap(), Some(Inbound::Apply(event(icount, icount as usize))));
        assert_eq!(broker.receive().unwrap(), Some(Outbound::Journal(event(icount, 3))));
    }
    assert_eq!(vcpu.receive().unwrap(), None);
    assert_eq!(broker.receive().unwrap(), None);
}

#[test]
fn the_ends_meet_over_a_file_descriptor() {
    let (mut broker, file) = create().unwrap();
    let mut vcpu = VcpuEnd::from_fd(file, None).unwrap();
    broker.send(&Inbound::Control { sequence: 9, control: Control::Stop }).unwrap();
    assert!(!vcpu.take_attention(), "a message alone asks for no checkpoint");
    broker.raise_attention();
    assert!(vcpu.take_attention());
    assert_eq!(vcpu.receive().unwrap(), Some(Inbound::Control { sequence: 9, control: Control::Stop }));
    vcpu.publish(Icount(5), Vtime(40));
    vcpu.publish_state(RunState::Paused);
    let status = Status { icount: Icount(5), vtime: Vtime(40), state: RunState::Paused };
    assert_eq!(broker.status().unwrap(), status);
}

#[test]
fn a_message_longer_than_the_ring_passes_in_pieces() {
    let (mut broker, mut vcpu) = pair(None).unwrap();
    let long = Inbound::Apply(event(1, 3 * RING_BYTES));
    broker.send(&long).unwrap();
    assert!(broker.backlog_bytes() > 0);
    assert_eq!(broker.room_bytes().unwrap(), 0);
    let received = loop {
        if let Some(message) = vcpu.receive().unwrap() {
            break message;
        }
        broker.pump().unwrap();
    };
    assert_eq!(received, long);
    let too_long = Inbound::Apply(event(1, crate::codec::ENCODED_BYTES_MAX));
    assert!(matches!(broker.send(&too_long), Err(LaneError::TooLong { .. })));
}

#[test]
fn a_full_journal_ring_blocks_and_loses_nothing() {
    let (mut broker, mut vcpu) = pair(None).unwrap();
    let writer = thread::spawn(move || {
        for icount in 0..3000 {
            vcpu.send(&Outbound::Journal(event(icount, 1000))).unwrap();
        }
        vcpu
    });
    for icount in 0..3000 {
        let message = loop {
            match broker.receive().unwrap() {
                Some(message) => break message,
                None => thread::yield_now(),
            }
        };
        assert_eq!(message, Outbound::Journal(event(icount, 1000)));
        if icount % 500 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    writer.join().unwrap();
}

#[test]
fn a_sleeping_vcpu_is_woken_by_attention_and_by_a_message() {
    let (mut broker, mut vcpu) = pair(None).unwrap();
    let sleeper = thread::spawn(move || {
        assert_eq!(vcpu.wait_attention(None).unwrap(), Wake::Attention);
        assert!(vcpu.take_attention());
        let message = vcpu.wait_inbound(Duration::from_secs(20)).unwrap();
        (vcpu, message)
    });
    thread::sleep(Duration::from_millis(5));
    broker.raise_attention();
    thread::sleep(Duration::from_millis(5));
    let sent = Inbound::Apply(event(3, 3));
    broker.send(&sent).unwrap();
    let (mut vcpu, received) = sleeper.join().unwrap();
    assert_eq!(received, Some(sent));
    assert_eq!(vcpu.wait_inbound(Duration::from_millis(1)).unwrap(), None);
    assert_eq!(vcpu.wait_attention(Some(Duration::from_millis(1))).unwrap(), Wake::TimedOut);
}

#[test]
fn ping_pong_between_sleepers_misses_no_wake() {
    let (mut broker, mut vcpu) = pair(None).unwrap();
    let started = Instant::now();
    let echo = thread::spawn(move || {
        for _ in 0..2000 {
            let message = vcpu.wait_inbound(Duration::from_secs(20)).unwrap().expect("within 20 s");
            let Inbound::Control { sequence, .. } = message else { panic!("{message:?}") };
            vcpu.send(&Outbound::Ack { sequence }).unwrap();
        }
    });
    for sequence in 0..2000 {
        broker.send(&Inbound::Control { sequence, control: Control::Continue }).unwrap();
        loop {
            match broker.receive().unwrap() {
                Some(answer) => break assert_eq!(answer, Outbound::Ack { sequence }),
                None => thread::yield_now(),
            }
        }
    }
    echo.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "a wake was missed and a timeout saved the day");
}

#[test]
fn the_doorbell_rings_when_the_ring_is_half_full_and_when_room_was_wanted() {
    let eventfd = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
    let copy = std::os::fd::AsFd::as_fd(&eventfd).try_clone_to_owned().unwrap();
    let (mut broker, mut vcpu) = pair(Some(copy)).unwrap();
    vcpu.send(&Outbound::Journal(event(0, 1000))).unwrap();
    assert!(eventfd.read().is_err(), "one small message does not wake the broker");
    for icount in 1..600 {
        vcpu.send(&Outbound::Journal(event(icount, 1000))).unwrap();
    }
    assert_eq!(eventfd.read().unwrap(), 1, "one ring for one crossing");
    broker.send(&Inbound::Apply(event(0, 10))).unwrap();
    broker.want_room();
    vcpu.receive().unwrap();
    assert_eq!(eventfd.read().unwrap(), 1);
}

#[test]
fn an_end_that_is_gone_is_noticed() {
    let (mut broker, mut vcpu) = pair(None).unwrap();
    broker.send(&Inbound::Apply(event(0, 1))).unwrap();
    drop(broker);
    assert!(vcpu.receive().unwrap().is_some(), "what was sent is still delivered");
    assert!(matches!(vcpu.receive(), Err(LaneError::PeerGone)));
    let (broker, vcpu) = pair(None).unwrap();
    assert!(!broker.peer_gone());
    drop(vcpu);
    assert!(broker.peer_gone());
}

#[test]
fn a_peer_that_writes_garbage_causes_an_error() {
    type Forge = fn(&layout::Shared);
    let garbage: [(&str, Forge); 5] = [
        ("position ahead", |s| s.inbound.written.0.store(u64::MAX, Ordering::Relaxed)),
        ("position too far", |s| s.inbound.written.0.store(layout::RING_WORDS as u64 + 1, Ordering::Relaxed)),
        ("frame head", |s| {
            s.inbound.words[0].store(u64::MAX, Ordering::Relaxed);
            s.inbound.written.0.store(1, Ordering::Relaxed);
        }),
        ("frame too long", |s| {
            s.inbound.words[0].store(0x7fff_ffff_u64 | 0x8000_0000 << 32, Ordering::Relaxed);
            s.inbound.written.0.store(1, Ordering::Relaxed);
        }),
        ("no message", |s| {
            s.inbound.words[0].store(8 | 0xffff_fff7 << 32, Ordering::Relaxed);
            s.inbound.words[1].store(u64::MAX, Ordering::Relaxed);
            s.inbound.written.0.store(2, Ordering::Relaxed);
        }),
    ];
    for (name, forge) in garbage {
        let memory = Arc::new(Memory::anonymous().unwrap());
        initialise(&memory);
        let mut vcpu = VcpuEnd::new(memory.clone(), None).unwrap();
        forge(&memory);
        assert!(vcpu.receive().is_err(), "{name}");
    }
    let memory = Arc::new(Memory::anonymous().unwrap());
    assert!(matches!(VcpuEnd::new(memory.clone(), None), Err(LaneError::Header { .. })));
    memory.status.0.state.store(77, Ordering::Relaxed);
    assert!(BrokerEnd::new(memory.clone()).status().is_err());
    memory.inbound.read.0.store(5, Ordering::Relaxed);
    let mut broker = BrokerEnd::new(memory);
    assert!(broker.send(&Inbound::Apply(event(0, 1))).is_err());
}
