//! Backends that send: a few connections, each with several requests in flight.

use super::clients::{Clients, is_early};
use super::common::requests::{Payload, push_send_to};
use super::stamp::{Stamp, now};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) const TOKENS: &str = "token";
pub(crate) const GROUPS: &str = "group";

/// Connections of the senders.
pub(crate) const SENDERS: usize = 8;

/// Chooses the stream of the next event. Every stream has one sender, so that the order of its events is defined.
pub(crate) struct Recipients {
    streams: usize,
    choice: Choice,
}

enum Choice {
    Random {
        state: u64,
        pace: Option<Pace>,
    },
    /// How many of each sender's streams have had their event.
    Everybody {
        done: [usize; SENDERS],
    },
    Nobody,
}

struct Pace {
    per_nanosecond: f64,
    start: u64,
    sent: u64,
}

impl Recipients {
    pub(crate) fn random(streams: usize, per_second: Option<f64>) -> Self {
        let pace = per_second.map(|rate| Pace { per_nanosecond: rate / 1e9, start: now(), sent: 0 });
        Self { streams, choice: Choice::Random { state: 0x9E37_79B9_7F4A_7C15, pace } }
    }

    /// Each stream once.
    pub(crate) fn everybody(streams: usize) -> Self {
        Self { streams, choice: Choice::Everybody { done: [0; SENDERS] } }
    }

    pub(crate) fn nobody() -> Self {
        Self { streams: 0, choice: Choice::Nobody }
    }

    /// How long until there is something to send; `None`: until an answer frees a slot.
    pub(crate) fn pause(&self, may_spin: bool) -> Option<Duration> {
        match &self.choice {
            Choice::Random { pace: Some(_), .. } if may_spin => Some(Duration::ZERO),
            Choice::Random { pace: Some(_), .. } => Some(Duration::from_millis(1)),
            Choice::Random { pace: None, .. } | Choice::Everybody { .. } | Choice::Nobody => None,
        }
    }

    /// The next stream for a sender; `None`: none for now.
    fn next(&mut self, sender: usize) -> Option<usize> {
        let share = self.streams.saturating_sub(sender).div_ceil(SENDERS);
        let place = match &mut self.choice {
            Choice::Random { state, pace } => {
                if let Some(pace) = pace {
                    if pace.sent as f64 >= (now() - pace.start) as f64 * pace.per_nanosecond {
                        return None;
                    }
                    pace.sent += 1;
                }
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                ((*state >> 32) as usize * share) >> 32
            }
            Choice::Everybody { done } if done[sender] < share => {
                done[sender] += 1;
                done[sender] - 1
            }
            Choice::Everybody { .. } | Choice::Nobody => return None,
        };
        (share > 0).then_some(sender + place * SENDERS)
    }
}

struct Sender {
    socket: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    in_flight: usize,
}

pub(crate) struct Senders {
    server: SocketAddr,
    senders: Vec<Sender>,
    /// Whether the targets are tokens or groups, and the target of each stream.
    kind: &'static str,
    targets: Vec<String>,
    /// Requests in flight on each connection.
    depth: usize,
    /// The data after the stamp.
    filler: Vec<u8>,
    data: Vec<u8>,
    pub answered: u64,
}

impl Senders {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            senders: Vec::new(),
            kind: TOKENS,
            targets: Vec::new(),
            depth: 1,
            filler: Vec::new(),
            data: Vec::new(),
            answered: 0,
        }
    }

    pub(crate) fn start(
        &mut self,
        registry: &Registry,
        first: usize,
        kind: &'static str,
        targets: Vec<String>,
    ) -> io::Result<()> {
        (self.kind, self.targets) = (kind, targets);
        for index in 0..SENDERS {
            let mut socket = TcpStream::connect(self.server)?;
            registry.register(&mut socket, Token(first + index), Interest::READABLE | Interest::WRITABLE)?;
            self.senders.push(Sender { socket, out: Vec::new(), input: Vec::new(), in_flight: 0 });
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) {
        self.senders.clear();
    }

    /// Sets the payload of events and the requests in flight per connection.
    pub(crate) fn set_payload(&mut self, payload: Payload, depth: usize) {
        // The stamp replaces as many characters; an escape must not be cut in two.
        let text = payload.text();
        self.filler = text[Stamp::LENGTH..].replace('"', "\\\"").into_bytes();
        self.depth = depth;
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.senders.iter().map(|sender| sender.in_flight).sum()
    }

    /// Sends as many events as may be in flight.
    pub(crate) fn fill(&mut self, recipients: &mut Recipients, clients: &mut Clients) -> io::Result<()> {
        for (index, sender) in self.senders.iter_mut().enumerate() {
            let before = sender.out.len();
            while sender.in_flight < self.depth
                && let Some(stream) = recipients.next(index)
            {
                let number = clients.number_next(stream);
                self.data.clear();
                Stamp { stream: stream as u32, number, sent: now() }.write(&mut self.data);
                self.data.extend_from_slice(&self.filler);
                push_send_to(&mut sender.out, self.kind, &self.targets[stream], &self.data);
                sender.in_flight += 1;
            }
            if sender.out.len() > before {
                sender.flush()?;
            }
        }
        Ok(())
    }

    /// Sends an event to a group whose members share a channel, on the last connection, whatever is in flight.
    pub(crate) fn send_to_group(&mut self, group: &str, channel: u32, clients: &mut Clients) -> io::Result<()> {
        let number = clients.number_for_all(channel);
        self.send_numbered(group, channel, number)
    }

    /// The same with a number, whoever gets it.
    pub(crate) fn send_numbered(&mut self, group: &str, channel: u32, number: u32) -> io::Result<()> {
        self.data.clear();
        Stamp { stream: channel, number, sent: now() }.write(&mut self.data);
        self.data.extend_from_slice(&self.filler);
        let Some(sender) = self.senders.last_mut() else { return Ok(()) };
        push_send_to(&mut sender.out, GROUPS, group, &self.data);
        sender.in_flight += 1;
        sender.flush()
    }

    /// Handles readiness of a sender's socket.
    pub(crate) fn handle(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<()> {
        let Some(sender) = self.senders.get_mut(index) else { return Ok(()) };
        sender.flush()?;
        let count = match sender.socket.read(buffer) {
            Ok(0) => return Err(io::Error::other("the gateway closed a sender's connection")),
            Ok(count) => count,
            Err(error) if is_early(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        sender.input.extend_from_slice(&buffer[..count]);
        let mut used = 0;
        while let Some(length) = answer(&sender.input[used..]) {
            used += length;
            sender.in_flight -= 1;
            self.answered += 1;
        }
        sender.input.drain(..used);
        Ok(())
    }
}

impl Sender {
    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        match self.socket.write(&self.out) {
            Ok(count) => drop(self.out.drain(..count)),
            // An edge will report when there is space.
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The length of the first answer, if it is complete. Its status does not matter: an event that does not arrive is
/// lost.
fn answer(input: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = response.parse(input).ok()? else { return None };
    let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    let length = head + std::str::from_utf8(field.value).ok()?.parse::<usize>().ok()?;
    (input.len() >= length).then_some(length)
}
