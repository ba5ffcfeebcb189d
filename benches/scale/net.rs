//! A kernel that costs next to nothing: [`System`] on counters. No call ever blocks or fails, so only the gateway and
//! the loop are measured.

use ssegateway::callback::{Called, Outcome};
use ssegateway::gateway::{ConnId, Listener, Peer, ProcessFigures};
use ssegateway::job::{Completion, Job};
use ssegateway::reactor::{Event, System};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;
use uuid::Uuid;

/// A client's number, as wide as a descriptor.
pub(crate) struct Socket(u32);

pub(crate) struct Memory {
    pub clock: u64,
    /// Events of the next poll.
    pub events: Vec<Event>,
    /// Clients waiting to be accepted.
    pub backlog: usize,
    /// By client.
    pub tokens: Vec<Uuid>,
    pub ids: Vec<ConnId>,
    /// The request of a stream's client.
    get: Vec<u8>,
    /// The backend's sends, read from the socket that was accepted last.
    batch: Vec<u8>,
    /// Reads return the end of the input.
    pub leaving: bool,
    completions: VecDeque<Completion>,
    pub writes: usize,
    /// Bytes of one client's request in the JSON of callbacks.
    pub request_bytes: usize,
    /// The backend's answer to the connect of client `n`.
    pub answer: fn(n: usize) -> String,
    /// Connects so far.
    connects: usize,
}

impl Memory {
    /// Reserves space for `clients`, so that its growth is not measured.
    pub(crate) fn new(clients: usize, get: Vec<u8>) -> Self {
        Self {
            clock: 0,
            events: Vec::with_capacity(1024),
            backlog: 0,
            tokens: Vec::with_capacity(clients),
            ids: Vec::with_capacity(clients),
            get,
            batch: Vec::with_capacity(64 * 1024),
            leaving: false,
            completions: VecDeque::with_capacity(1024),
            writes: 0,
            request_bytes: 0,
            answer: |_| String::new(),
            connects: 0,
        }
    }

    pub(crate) fn set_batch(&mut self, batch: &[u8]) {
        self.batch.clear();
        self.batch.extend_from_slice(batch);
    }

    /// All clients are gone; numbering restarts.
    pub(crate) fn forget_clients(&mut self) {
        self.tokens.clear();
        self.ids.clear();
        self.batch.clear();
        self.leaving = false;
    }

    pub(crate) fn report_readable(&mut self, client: usize) {
        let id = self.ids[client];
        let read_closed = self.leaving;
        self.events.push(Event::Socket { id, readable: true, writable: false, read_closed });
    }

    pub(crate) fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }
}

impl System for Memory {
    type Socket = Socket;

    fn poll(&mut self, events: &mut Vec<Event>, _timeout: Option<Duration>) -> io::Result<bool> {
        events.append(&mut self.events);
        Ok(false)
    }

    fn accept(&mut self, _listener: Listener) -> io::Result<(Socket, Peer)> {
        if self.backlog == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.backlog -= 1;
        Ok((Socket(self.ids.len() as u32), Peer::Remote))
    }

    fn connect(&mut self, _: std::net::SocketAddr) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn register(&mut self, _socket: &mut Socket, id: ConnId) -> io::Result<()> {
        self.ids.push(id);
        Ok(())
    }

    fn read(&mut self, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
        if self.leaving {
            return Ok(0);
        }
        let is_last = socket.0 as usize + 1 == self.ids.len();
        let bytes = if is_last && !self.batch.is_empty() { &self.batch } else { &self.get };
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write(&mut self, _socket: &mut Socket, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        Ok(bytes.len())
    }

    fn unacknowledged(&self, _socket: &Socket) -> usize {
        0
    }

    fn keep_alive(&mut self, _socket: &mut Socket) {}

    fn shutdown_write(&mut self, _socket: &mut Socket) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _socket: Socket) {}

    fn abort(&mut self, _socket: Socket) {}

    fn stop_accepting(&mut self) {}

    fn now(&mut self) -> Duration {
        Duration::from_millis(self.clock)
    }

    fn process_figures(&mut self) -> ProcessFigures {
        ProcessFigures::default()
    }

    fn unix_seconds(&mut self) -> u64 {
        1_700_000_000 + self.clock / 1000
    }

    fn draw_token(&mut self) -> Uuid {
        // SplitMix64 (Steele, Lea and Flood, 2014), twice: as random as a table of tokens needs.
        let mix = |n: u64| {
            let mut mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        };
        let n = self.tokens.len() as u64 * 2 + 1;
        let token = uuid::Builder::from_u128(u128::from(mix(n)) << 64 | u128::from(mix(n + 1)))
            .with_version(uuid::Version::Random)
            .into_uuid();
        self.tokens.push(token);
        token
    }

    fn submit(&mut self, job: Job) {
        let Job::Call(call) = job else { panic!("nothing here has a name") };
        self.request_bytes = call.request.json().len();
        let body = Some((self.answer)(self.connects).into_bytes());
        self.connects += 1;
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
        self.completions.push_back(Completion::Called(Called { id: call.id, outcome }));
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn release_memory(&mut self) {
        ssegateway::sys::release_heap();
    }
}
