//! Scarce memory on the bare gateway: strangers with unfinished requests, clients that have stopped reading, a history
//! that fills up, and honest clients beside them; and a plain account of whose turn it is to give way.
//!
//! The limit holds at every moment. Unfinished requests go before streams, the largest first; streams that have much
//! unsent, or whose clients have stopped reading, go before new ones are refused, the largest first; who reads stays,
//! and a send that has come whole is delivered.

use crate::random::Random;
use ssegateway::callback::{CallKind, Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, CloseMode, ConnId, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use std::time::Duration;
use uuid::Uuid;

const STEPS: usize = 300;
const HONEST: usize = 4;
/// Nobody needs more than that to be cut.
const MUCH: usize = 64 * 1024;
/// Who has read nothing for so long has stopped reading.
const STALL: u64 = 100;
/// Unfinished requests are looked for again after so long.
const LOOK: u64 = 100;
/// Streams cut at once.
const CUTS: usize = 8;
/// What the kernel holds for a client that does not read, as the gateway estimates it.
const BLOCKED: usize = 96 * 1024;
/// The gateway counts a little more or less than was sent.
const SLACK: usize = 2048;
const OUT_OF_MEMORY: &str = "HTTP/1.1 503 ";

/// An unfinished request.
struct Stranger {
    id: ConnId,
    bytes: usize,
    changed_at: u64,
}

struct Stream {
    id: ConnId,
    token: Uuid,
    reads: bool,
    /// Unsent, since when, and what the kernel has refused of it.
    unsent: usize,
    since: u64,
    refused: usize,
    /// Events that it must have got.
    owed: usize,
    got: usize,
}

impl Stream {
    /// Whether it may be cut for want of memory.
    fn may_be_cut(&self, now: u64) -> bool {
        self.unsent >= MUCH || self.stalls(now)
    }

    /// Whether it is to be cut before others.
    fn is_to_be_cut(&self, now: u64) -> bool {
        self.refused >= MUCH || (self.refused > 0 && self.stalls(now))
    }

    fn stalls(&self, now: u64) -> bool {
        self.unsent > 0 && now >= self.since + STALL
    }
}

struct World {
    gateway: Gateway,
    random: Random,
    limit: u64,
    now: u64,
    connections: u128,
    strangers: Vec<Stranger>,
    streams: Vec<Stream>,
    /// In this step: tokens of streams that have ended, and connections that were closed.
    ended: Vec<Uuid>,
    closed: Vec<ConnId>,
    /// Streams cut earlier that have been reset.
    resets: usize,
}

/// Runs the seed; panics where the gateway fails.
pub(crate) fn run(seed: u64) {
    let mut random = Random::new(seed);
    let limit = random.pick(&[1_000_000, 2_000_000, 5_000_000]);
    let long = Duration::from_secs(100_000);
    let settings = Settings {
        memory_bytes_max: Some(limit),
        pending_bytes_max: 16 << 20,
        client_timeout: long,
        request_timeout: long,
        keepalive_timeout: long,
        heartbeat_interval: long,
        ..Settings::default()
    };
    let gateway = Gateway::new(settings, Millis::ZERO, seed);
    let (strangers, streams, ended, closed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut world =
        World { gateway, random, limit, now: 0, connections: 0, strangers, streams, ended, closed, resets: 0 };
    for _ in 0..HONEST {
        assert!(world.open_stream(true), "there is memory at first");
    }
    // One kind of attack, or all of them.
    let focus = world.random.below(5);
    for _ in 0..STEPS {
        let what = if world.random.chance(600) { focus } else { world.random.below(8) };
        world.step(what);
    }
    world.ends();
}

impl World {
    fn at(&self) -> Millis {
        Millis::from_millis(self.now)
    }

    fn step(&mut self, what: u64) {
        match what {
            0 => self.begin_request(),
            1 => self.continue_request(),
            2 => self.send(false),
            3 => _ = self.open_stream(false),
            4 => self.publish(),
            5 => self.send(true),
            6 => _ = self.open_stream(true),
            _ => {
                self.now += self.random.pick(&[1, 20, 300, 2000]);
                self.gateway.expire(self.at());
            }
        }
        self.judge(None);
        self.now += 1;
    }

    /// A connection, for which others may have to give way; whether memory is still short then.
    fn connect(&mut self) -> (ConnId, bool) {
        let is_short = self.gateway.is_short_of_memory(self.at());
        if let Some(victim) = is_short.then(|| self.gateway.longest_silent(self.at(), Listener::Public)).flatten() {
            self.gateway.give_way(self.at(), victim);
        }
        self.connections += 1;
        let token = Uuid::from_u128(self.connections);
        (self.gateway.accept(self.at(), Listener::Public, Peer::Loopback, token).expect("a connection"), is_short)
    }

    fn begin_request(&mut self) {
        let (id, _) = self.connect();
        let length = self.random.below(15_000) as usize;
        let head = match self.random.chance(500) {
            true => "GET /x HTTP/1.1\r\nX: ",
            false => "POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n{\"",
        };
        self.strangers.push(Stranger { id, bytes: length, changed_at: self.now });
        self.receive(id, format!("{head}{}", "x".repeat(length)).as_bytes());
    }

    fn continue_request(&mut self) {
        let place = self.random.index(self.strangers.len());
        let length = self.random.within(1, 60_000) as usize;
        let Some(stranger) = self.strangers.get_mut(place) else { return self.begin_request() };
        stranger.bytes += length;
        stranger.changed_at = self.now;
        let id = stranger.id;
        self.receive(id, &vec![b'x'; length]);
    }

    fn receive(&mut self, id: ConnId, bytes: &[u8]) {
        self.gateway.receive(self.at(), id, bytes);
        self.judge(Some(id));
    }

    /// A send to a stream that reads, or to one that does not.
    fn send(&mut self, reads: bool) {
        let places: Vec<usize> = (0..self.streams.len()).filter(|n| self.streams[*n].reads == reads).collect();
        if places.is_empty() {
            self.open_stream(reads);
            return;
        }
        let (place, length) = (self.random.pick(&places), self.random.pick(&[10, 1_000, 20_000]));
        let token = self.streams[place].token;
        let body = format!(r#"{{"token":"{token}","event":{{"data":"{}"}}}}"#, "x".repeat(length));
        self.post(&body, Some((token, length)));
    }

    /// An event that is kept.
    fn publish(&mut self) {
        let (group, length) = (self.random.below(5), self.random.within(1, 20_000) as usize);
        self.post(&format!(r#"{{"group":"{group}","event":{{"data":"{}"}}}}"#, "x".repeat(length)), None);
    }

    /// A send that comes whole. Its target, which is to get so many bytes, may be cut to make room for its connection.
    fn post(&mut self, body: &str, target: Option<(Uuid, usize)>) {
        let (id, _) = self.connect();
        self.judge(None);
        let is_target = |stream: &&mut Stream| target.is_some_and(|(token, _)| token == stream.token);
        if let (Some(stream), Some((_, length))) = (self.streams.iter_mut().find(is_target), target) {
            stream.since = if stream.unsent == 0 { self.now } else { stream.since };
            stream.unsent += length;
            stream.owed += 1;
        }
        let length = body.len();
        let request = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        self.gateway.receive(self.at(), id, request.as_bytes());
        let answer = String::from_utf8_lossy(self.gateway.unsent(id)).into_owned();
        assert!(!answer.starts_with(OUT_OF_MEMORY) && !answer.is_empty(), "a whole send is refused: {answer}");
        self.judge(None);
        self.gateway.receive_eof(self.at(), id);
    }

    /// Whether it was accepted.
    fn open_stream(&mut self, reads: bool) -> bool {
        let (id, is_short) = self.connect();
        let token = Uuid::from_u128(self.connections);
        let before = self.gateway.memory();
        self.gateway.receive(self.at(), id, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        let is_refused = self.gateway.unsent(id).starts_with(OUT_OF_MEMORY.as_bytes());
        if is_refused {
            assert!(before + SLACK as u64 > self.near(), "a stream is refused with {before} bytes of {}", self.limit);
            self.act();
            let is_left = |stream: &Stream| stream.is_to_be_cut(self.now) && !self.ended.contains(&stream.token);
            let kept = self.streams.iter().any(is_left) && self.ended.len() < CUTS;
            assert!(!is_short || !kept, "a stream is refused before others give way");
        } else {
            self.streams.push(Stream { id, token, reads, unsent: 0, since: self.now, refused: 0, owed: 0, got: 0 });
        }
        self.judge(None);
        !is_refused
    }

    /// From here on somebody has to give way.
    fn near(&self) -> u64 {
        self.limit - self.limit / 8
    }

    /// Makes all callbacks, which are answered at once, and notes who is gone.
    fn act(&mut self) {
        while let Some(action) = self.gateway.next_action() {
            match action {
                Action::Start(Job::Call(call)) => {
                    if call.kind != CallKind::Connect {
                        self.ended.push(call.token);
                    }
                    let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
                    self.gateway.complete(self.at(), Completion::Called(Called { id: call.id, outcome }));
                }
                Action::Close(id, mode) => {
                    self.closed.push(id);
                    self.resets += usize::from(mode == CloseMode::Abort);
                }
                _ => {}
            }
        }
    }

    /// The input is over; `current` has sent it.
    fn judge(&mut self, current: Option<ConnId>) {
        self.act();
        self.judge_requests(current);
        self.judge_streams();
        self.flush();
        self.act();
        self.judge_streams();
        self.gateway.assert_invariants();
        let memory = self.gateway.memory();
        assert!(memory < self.limit, "{memory} bytes of {}", self.limit);
    }

    /// Of unfinished requests the largest are refused.
    fn judge_requests(&mut self, current: Option<ConnId>) {
        let mut smallest_refused = usize::MAX;
        let (gateway, closed) = (&mut self.gateway, &self.closed);
        self.strangers.retain(|stranger| {
            // Evicted: that goes by time.
            if closed.contains(&stranger.id) {
                return false;
            }
            let answer = gateway.unsent(stranger.id);
            if answer.starts_with(OUT_OF_MEMORY.as_bytes()) && Some(stranger.id) != current {
                smallest_refused = smallest_refused.min(stranger.bytes);
            }
            answer.is_empty()
        });
        // One that came last was not there when others had to go.
        let others = self.strangers.iter().filter(|stranger| Some(stranger.id) != current);
        let largest = others.map(|stranger| stranger.bytes).max().unwrap_or(0);
        assert!(largest <= smallest_refused.saturating_add(SLACK), "{smallest_refused} refused before {largest}");
    }

    /// Streams are cut only if no request could be refused, and those first that have most unsent.
    fn judge_streams(&mut self) {
        let now = self.now;
        let (cut, kept): (Vec<Stream>, Vec<Stream>) =
            std::mem::take(&mut self.streams).into_iter().partition(|stream| self.ended.contains(&stream.token));
        // At the limit everybody may be cut who has something unsent.
        let freed: usize = cut.iter().map(|stream| stream.unsent + BLOCKED + SLACK).sum();
        let freed = freed + std::mem::take(&mut self.resets) * BLOCKED;
        let was_full = self.gateway.memory() + freed as u64 >= self.limit;
        for stream in &cut {
            assert!(!stream.reads, "a stream is cut whose client reads");
            let may_be_cut = stream.may_be_cut(now) || (was_full && stream.unsent > 0);
            assert!(may_be_cut, "a stream is cut with {} bytes unsent", stream.unsent);
            let refusable =
                self.strangers.iter().any(|stranger| stranger.bytes > 0 && now >= stranger.changed_at + LOOK);
            assert!(!refusable, "a stream is cut before an unfinished request");
            let more = kept.iter().any(|other| other.is_to_be_cut(now) && other.refused > stream.unsent + SLACK);
            assert!(!more, "a stream is cut before one with more unsent");
        }
        self.streams = kept;
        self.ended.clear();
        self.closed.clear();
    }

    /// The kernel takes everything, but from those who do not read.
    fn flush(&mut self) {
        while let Some(id) = self.gateway.next_dirty() {
            let stream = self.streams.iter_mut().find(|stream| stream.id == id);
            let unsent = self.gateway.unsent(id);
            let length = unsent.len();
            let is_event = unsent.windows(6).any(|bytes| bytes == b"data: ");
            match stream {
                Some(stream) if !stream.reads && is_event => {
                    (stream.unsent, stream.refused) = (length, length);
                    self.gateway.refused(Millis::from_millis(self.now), id);
                    continue;
                }
                Some(stream) => {
                    stream.got += unsent.windows(6).filter(|bytes| *bytes == b"data: ").count();
                    stream.unsent = 0;
                }
                None => {}
            }
            self.gateway.wrote(Millis::from_millis(self.now), id, length);
        }
    }

    fn ends(&self) {
        let honest = self.streams.iter().filter(|stream| stream.reads);
        assert!(honest.clone().count() >= HONEST, "honest streams are lost");
        for stream in honest {
            assert_eq!(stream.got, stream.owed, "events are lost");
        }
    }
}
