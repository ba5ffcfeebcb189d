//! The event loop over an in-memory kernel: budgets of a turn, which cannot be tested reliably over sockets.

use ssegateway::clock::Millis;
use ssegateway::gateway::{ConnId, Gateway, Listener, Peer, ProcessFigures, Settings};
use ssegateway::job::{Completion, Job};
use ssegateway::reactor::{Event, Reactor, System};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// Clients that may have input.
#[derive(Default)]
struct Kernel {
    now: Duration,
    events: Vec<Event>,
    /// The most events of one poll.
    events_max: Option<usize>,
    /// The timeout of the last poll.
    timeout: Option<Duration>,
    /// Clients waiting to be accepted.
    knocking: VecDeque<usize>,
    accepted: HashMap<usize, ConnId>,
    /// The input of a client's next read.
    sent: HashMap<usize, Vec<u8>>,
    /// The output to each client.
    got: HashMap<usize, Vec<u8>>,
    shut: Vec<usize>,
    closed: Vec<usize>,
}

impl Kernel {
    fn knock(&mut self, clients: impl Iterator<Item = usize>) {
        self.knocking.extend(clients);
        self.events.push(Event::Accept(Listener::Public));
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.sent.insert(client, bytes.to_vec());
        let id = self.accepted[&client];
        self.events.push(Event::Socket { id, readable: true, writable: true, read_closed: false });
    }
}

impl System for Kernel {
    type Socket = usize;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        self.timeout = timeout;
        let rest = self.events.split_off(self.events.len().min(self.events_max.unwrap_or(usize::MAX)));
        events.append(&mut std::mem::replace(&mut self.events, rest));
        Ok(!self.events.is_empty())
    }

    fn accept(&mut self, _: Listener) -> io::Result<(usize, Peer)> {
        let client = self.knocking.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        Ok((client, Peer::Loopback))
    }

    fn connect(&mut self, _: std::net::SocketAddr) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn register(&mut self, client: &mut usize, id: ConnId) -> io::Result<()> {
        self.accepted.insert(*client, id);
        Ok(())
    }

    fn read(&mut self, client: &mut usize, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.sent.remove(client).ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write(&mut self, client: &mut usize, bytes: &[u8]) -> io::Result<usize> {
        self.got.entry(*client).or_default().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn unacknowledged(&self, _: &usize) -> usize {
        0
    }

    fn keep_alive(&mut self, _client: &mut usize) {}

    fn shutdown_write(&mut self, client: &mut usize) -> io::Result<()> {
        self.shut.push(*client);
        Ok(())
    }

    fn close(&mut self, client: usize) {
        self.closed.push(client);
    }

    fn abort(&mut self, client: usize) {
        self.closed.push(client);
    }

    fn stop_accepting(&mut self) {}

    fn now(&mut self) -> Duration {
        self.now
    }

    fn unix_seconds(&mut self) -> u64 {
        0
    }

    fn draw_token(&mut self) -> Uuid {
        Uuid::from_u128(self.accepted.len() as u128 + 1)
    }

    fn submit(&mut self, _: Job) {}

    fn next_completion(&mut self) -> Option<Completion> {
        None
    }

    fn process_figures(&mut self) -> ProcessFigures {
        ProcessFigures::default()
    }

    fn release_memory(&mut self) {}
}

#[test]
fn timers_due_at_once_do_not_delay_a_client_until_the_last() {
    const IDLE: usize = 3_000;
    /// Each of them is read once more, then shut down like one with output.
    const ENDED_IN_A_TURN: usize = 512;
    let settings = Settings { keepalive_timeout: Duration::from_secs(5), ..Settings::default() };
    let gateway = Gateway::new(settings, Millis::ZERO, 0);
    let mut reactor = Reactor::new(Kernel::default(), gateway, IDLE + 1, false);
    reactor.net().knock(0..IDLE);
    while reactor.gateway().connection_count() < IDLE {
        reactor.turn().unwrap();
    }
    // A minute passes before another client connects.
    reactor.net().now = Duration::from_secs(60);
    reactor.net().knock(IDLE..IDLE + 1);
    let mut ended = 0;
    while reactor.net().shut.len() < IDLE {
        reactor.turn().unwrap();
        let now = reactor.net().shut.len();
        // The rest of the previous turn has a budget of its own.
        assert!(now > ended && now <= ended + 2 * ENDED_IN_A_TURN, "{ended}, then {now}");
        if ended > 0 {
            assert_eq!(reactor.net().timeout, Some(Duration::ZERO), "there is more to do");
        }
        ended = now;
    }
    reactor.turn().unwrap();
    reactor.net().send(IDLE, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    reactor.turn().unwrap();
    assert!(reactor.net().got[&IDLE].starts_with(b"HTTP/1.1 200 OK\r\n"));
    reactor.turn().unwrap();
    assert_ne!(reactor.net().timeout, Some(Duration::ZERO), "there is nothing to do");
}

#[test]
fn a_turn_flushes_a_limited_number_of_connections_and_the_next_continues_without_waiting() {
    /// Connections with fresh output written to in one turn.
    const FLUSHES: usize = 512;
    let gateway = Gateway::new(Settings::default(), Millis::ZERO, 0);
    let mut reactor = Reactor::new(Kernel::default(), gateway, 2 * FLUSHES, false);
    reactor.net().knock(0..FLUSHES + 10);
    while reactor.gateway().connection_count() < FLUSHES + 10 {
        reactor.turn().expect("a turn");
    }
    for client in 0..FLUSHES + 10 {
        reactor.net().send(client, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    reactor.turn().expect("a turn");
    assert_eq!(reactor.net().got.len(), FLUSHES);
    reactor.turn().expect("a turn");
    assert_eq!(reactor.net().timeout, Some(Duration::ZERO));
    assert_eq!(reactor.net().got.len(), FLUSHES + 10);
}

#[test]
fn deadlines_passed_in_a_pause_wait_for_the_input_that_arrived_in_it() {
    const CLIENTS: usize = 4_000;
    let settings = Settings { request_timeout: Duration::from_secs(2), ..Settings::default() };
    let gateway = Gateway::new(settings, Millis::ZERO, 0);
    let mut reactor = Reactor::new(Kernel::default(), gateway, CLIENTS, false);
    reactor.net().knock(0..CLIENTS);
    while reactor.gateway().connection_count() < CLIENTS {
        reactor.turn().expect("a turn");
    }
    reactor.turn().expect("a turn that sleeps");
    // The process is paused for longer than the request timeout, and all clients send a request meanwhile.
    reactor.net().now = Duration::from_secs(8);
    reactor.net().events_max = Some(1_024);
    for client in 0..CLIENTS {
        reactor.net().send(client, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    let mut turns = 0;
    while reactor.net().got.len() < CLIENTS {
        reactor.turn().expect("a turn");
        turns += 1;
        assert!(turns < 100, "{} of {CLIENTS} are answered", reactor.net().got.len());
    }
    assert!(reactor.net().got.values().all(|answer| answer.starts_with(b"HTTP/1.1 200 OK\r\n")));
    assert_eq!(reactor.net().closed, [0_usize; 0]);
}
