//! Clients: each holds a stream and checks the events it receives.

use super::common::requests::browser_get;
use super::histogram::Histogram;
use super::reader::{self, Reader};
use super::stamp::{Sequence, Stamp, Tally, now};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

enum State {
    /// Connecting, or waiting for the response head.
    Opening {
        request: Vec<u8>,
        head: Vec<u8>,
    },
    Open(Reader),
    Closed,
}

struct Client {
    socket: Option<TcpStream>,
    state: State,
    started: u64,
    events: Sequence,
}

/// The channel that a client shares with others, by its number: their stamps have it in place of a stream's number.
pub(crate) type Channels = fn(usize) -> u32;

pub(crate) struct Clients {
    server: SocketAddr,
    /// The `Last-Event-ID` with which they come.
    pub cursor: Option<String>,
    pub channels: Option<Channels>,
    /// The only stream whose latencies count.
    pub timed: Option<usize>,
    /// With so many events a client has caught up.
    pub behind: u32,
    /// From the start of the connect to that moment.
    pub catch_up_latency: Histogram,
    clients: Vec<Client>,
    /// Clients without a stream yet.
    pub opening: usize,
    pub open: usize,
    /// Failed connects, and streams that ended unexpectedly.
    pub failed: u64,
    pub heartbeats: u64,
    pub tally: Tally,
    latency: Histogram,
    pub connect_latency: Histogram,
    /// When the last event arrived.
    pub last_event: u64,
}

impl Clients {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            cursor: None,
            channels: None,
            timed: None,
            behind: 0,
            catch_up_latency: Histogram::default(),
            clients: Vec::new(),
            opening: 0,
            open: 0,
            failed: 0,
            heartbeats: 0,
            tally: Tally::default(),
            latency: Histogram::default(),
            connect_latency: Histogram::default(),
            last_event: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Connects one more client; its number is that of `token`, and the end of its path.
    pub(crate) fn open(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let path = format!("/events/tenant-7/stream/{}", token.0);
        let mut request = browser_get(&path, &self.server.to_string());
        if let Some(cursor) = &self.cursor {
            request.truncate(request.len() - 2);
            request.extend_from_slice(format!("Last-Event-ID: {cursor}\r\n\r\n").as_bytes());
        }
        let mut socket = TcpStream::connect(self.server)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let state = State::Opening { request, head: Vec::new() };
        self.clients.push(Client { socket: Some(socket), state, started: now(), events: Sequence::default() });
        self.opening += 1;
        Ok(())
    }

    /// Takes the next event number of a stream.
    pub(crate) fn number_next(&mut self, index: usize) -> u32 {
        let events = &mut self.clients[index].events;
        events.sent += 1;
        events.sent - 1
    }

    /// An event for all that share that channel; returns its number.
    pub(crate) fn number_for_all(&mut self, channel: u32) -> u32 {
        let Some(channels) = self.channels else { return 0 };
        let members = self.clients.iter_mut().enumerate().filter(|(index, _)| channels(*index) == channel);
        let numbers = members.map(|(_, client)| {
            client.events.sent += 1;
            client.events.sent - 1
        });
        numbers.max().unwrap_or(0)
    }

    /// Each client was to get so many events.
    pub(crate) fn expect(&mut self, events: u32) {
        self.clients.iter_mut().for_each(|client| client.events.sent = events);
    }

    /// Events in flight.
    pub(crate) fn outstanding(&self) -> u64 {
        self.clients.iter().map(|client| client.events.outstanding()).sum()
    }

    pub(crate) fn take_tally(&mut self) -> (Tally, Histogram) {
        let lost = self.clients.iter_mut().map(|client| client.events.settle()).sum();
        let tally = Tally { lost, ..std::mem::take(&mut self.tally) };
        (tally, std::mem::take(&mut self.latency))
    }

    /// All clients leave at once; returns how many had a stream.
    pub(crate) fn leave(&mut self) -> usize {
        for client in &mut self.clients {
            client.socket = None;
            client.state = State::Closed;
        }
        self.opening = 0;
        std::mem::take(&mut self.open)
    }

    /// Handles readiness of a client's socket.
    pub(crate) fn handle(&mut self, index: usize, buffer: &mut [u8]) {
        let client = &mut self.clients[index];
        let Some(socket) = &mut client.socket else { return };
        if let State::Opening { request, .. } = &mut client.state
            && !request.is_empty()
        {
            match socket.write(request) {
                Ok(count) => drop(request.drain(..count)),
                Err(error) if is_early(&error) => {}
                Err(_) => return self.fail(index),
            }
        }
        loop {
            let client = &mut self.clients[index];
            let Some(socket) = &mut client.socket else { return };
            let count = match socket.read(buffer) {
                Ok(0) => return self.fail(index),
                Ok(count) => count,
                Err(error) if is_early(&error) => return,
                Err(_) => return self.fail(index),
            };
            self.take(index, &buffer[..count]);
            // A short read has emptied the socket: the next byte will be a new edge.
            if count < buffer.len() {
                return;
            }
        }
    }

    fn take(&mut self, index: usize, input: &[u8]) {
        match &mut self.clients[index].state {
            State::Open(_) => self.take_frames(index, input),
            State::Opening { head, .. } => {
                head.extend_from_slice(input);
                let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else { return };
                if !head.starts_with(b"HTTP/1.1 200 ") {
                    return self.fail(index);
                }
                let rest = head.split_off(end + 4);
                self.connect_latency.record(now() - self.clients[index].started);
                self.clients[index].state = State::Open(Reader::default());
                self.opening -= 1;
                self.open += 1;
                self.take_frames(index, &rest);
            }
            State::Closed => {}
        }
    }

    fn take_frames(&mut self, index: usize, input: &[u8]) {
        let Client { state: State::Open(reader), events, started, .. } = &mut self.clients[index] else { return };
        let now = now();
        let (tally, latency, heartbeats) = (&mut self.tally, &mut self.latency, &mut self.heartbeats);
        let channel = self.channels.map(|channels| channels(index));
        let is_timed = self.timed.is_none_or(|timed| timed == index);
        let mut last_event = None;
        reader.take(input, |frame| {
            let Some(data) = reader::data(frame) else {
                *heartbeats += 1;
                return;
            };
            match Stamp::read(data) {
                Some(stamp) if stamp.stream as usize == index || Some(stamp.stream) == channel => {
                    events.take(stamp.number, tally);
                    if is_timed {
                        latency.record(now.saturating_sub(stamp.sent));
                    }
                    if stamp.number + 1 == self.behind {
                        self.catch_up_latency.record(now - *started);
                    }
                    last_event = Some(now);
                }
                // Another stream's event: a duplicate here, and lost there.
                Some(_) | None => tally.duplicated += 1,
            }
        });
        let ended = reader.ended;
        self.last_event = last_event.unwrap_or(self.last_event);
        if ended {
            self.fail(index);
        }
    }

    fn fail(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.socket = None;
        match std::mem::replace(&mut client.state, State::Closed) {
            State::Opening { .. } => self.opening -= 1,
            State::Open(_) => self.open -= 1,
            State::Closed => return,
        }
        self.failed += 1;
    }
}

/// The socket is not connected yet, or has nothing to read or no room.
pub(crate) fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted)
}
