//! The virtio console (virtio 1.2, 5.3): one port, no features, no configuration space.
//!
//! A transmit request is given back when the host has taken its bytes: that is the back-pressure. Input is read only
//! into buffers that the driver offered. A receive buffer given back empty is a break condition.

use super::port::Port;
use super::stream::Input;
use crate::rings::{self, Direction, Request};
use crate::serve::{Backend, Queues};
use std::os::fd::RawFd;
use std::time::Instant;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUES: usize = 2;

/// Most bytes put into one receive buffer.
const INPUT_MAX: usize = 4096;
/// Requests served before other events get their turn.
const REQUESTS_MAX: usize = 1024;
/// How often the end waits for the host before it looks at the time.
const FINISH_STEP_MS: u16 = 20;

/// The back-end.
pub struct Console {
    port: Port,
    /// A transmit request that was not copied whole yet.
    partial: Option<Request>,
}

impl Console {
    /// A console on `port`.
    pub fn new(port: Port) -> Console {
        Console { port, partial: None }
    }

    fn pump(&mut self, queues: &Queues) -> Result<(), String> {
        self.transmit(queues)?;
        self.receive(queues)
    }

    /// Moves output from the ring to the host, as far as it goes.
    fn transmit(&mut self, queues: &Queues) -> Result<(), String> {
        let ring = &queues.rings[TRANSMIT];
        rings::ask_for_silence(ring)?;
        let mut empty_before = false;
        for _ in 0..REQUESTS_MAX {
            let fetched = self.fetch_output(queues)?;
            self.port.write_out();
            self.complete_output(queues)?;
            let blocked = !self.port.outgoing.is_empty();
            if blocked {
                // The host will tell when it takes more; kicks would say nothing new.
                return Ok(());
            }
            self.port.show_monitor_output();
            if fetched || !self.port.outgoing.is_empty() {
                empty_before = false;
                continue;
            }
            if !rings::ask_for_kicks(ring)? {
                return Ok(());
            }
            if std::mem::replace(&mut empty_before, true) {
                return Err("the driver's transmit ring is damaged: it offers requests and has none".into());
            }
        }
        self.port.poller().wake();
        Ok(())
    }

    /// Copies requests until there is enough to write at once; false: there was nothing.
    fn fetch_output(&mut self, queues: &Queues) -> Result<bool, String> {
        let ring = &queues.rings[TRANSMIT];
        let mut bytes = Vec::new();
        let mut any = false;
        while self.port.outgoing.room() > 0 {
            let next = self.partial.take().or_else(|| rings::pop(queues, ring, Direction::FromDriver));
            let Some(mut request) = next else { break };
            any = true;
            bytes.clear();
            self.port.outgoing.begin_request();
            request.take(queues, &mut bytes, self.port.outgoing.room())?;
            self.port.put(&bytes);
            if request.is_empty() {
                self.port.outgoing.end_request(request.head);
            } else {
                self.partial = Some(request);
            }
        }
        Ok(any)
    }

    fn complete_output(&mut self, queues: &Queues) -> Result<(), String> {
        let ring = &queues.rings[TRANSMIT];
        let mut any = false;
        while let Some(head) = self.port.outgoing.next_completed() {
            rings::complete(ring, head, 0)?;
            any = true;
        }
        if any { rings::notify(queues, ring) } else { Ok(()) }
    }

    /// Gives a request back of which the host has taken some bytes: whoever serves the ring next must not begin it again.
    fn give_up_half_taken(&mut self, queues: &Queues) -> Result<(), String> {
        let outgoing = &self.port.outgoing;
        let begun = self.partial.as_ref().filter(|_| outgoing.is_begun_taken()).map(|request| request.head);
        match outgoing.half_taken().or(begun) {
            Some(head) => rings::complete(&queues.rings[TRANSMIT], head, 0),
            None => Ok(()),
        }
    }

    /// Moves input from the host into the driver's buffers, while there are both.
    fn receive(&mut self, queues: &Queues) -> Result<(), String> {
        let ring = &queues.rings[RECEIVE];
        let mut served = 0;
        while self.port.may_have_input() && served < REQUESTS_MAX {
            let port = &mut self.port;
            let used = rings::fill_next(queues, ring, |request| {
                let mut buffer = [0; INPUT_MAX];
                let room = request.len().min(INPUT_MAX);
                match port.next_input(&mut buffer[..room]) {
                    Some(Input::Bytes(count)) => request.fill(queues, &buffer[..count]).map(|()| Some(count)),
                    Some(Input::Break) => Ok(Some(0)),
                    None => Ok(None),
                }
            })?;
            if !used {
                break;
            }
            served += 1;
            self.port.read_keys();
        }
        if served == REQUESTS_MAX {
            self.port.poller().wake();
        }
        if !self.port.outgoing.is_empty() {
            // Answers to Ctrl-a keys that were read for the buffers above.
            self.port.write_out();
            self.complete_output(queues)?;
        }
        if served > 0 { rings::notify(queues, ring) } else { Ok(()) }
    }
}

impl Backend for Console {
    fn queues(&self) -> usize {
        QUEUES
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.port.poller().raw_fd())
    }

    fn kicked(&mut self, queue: usize, queues: &Queues) -> Result<(), String> {
        match queue {
            TRANSMIT => self.transmit(queues),
            _ => self.receive(queues),
        }
    }

    fn woken(&mut self, queues: &Queues) -> Result<(), String> {
        self.port.poller().drain(0);
        self.port.attend();
        self.pump(queues)
    }

    fn finish(&mut self, queues: &Queues, deadline: Instant) -> Result<(), String> {
        loop {
            self.transmit(queues)?;
            if self.port.is_flushed() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return self.give_up_half_taken(queues);
            }
            self.port.poller().drain(FINISH_STEP_MS);
        }
    }
}
