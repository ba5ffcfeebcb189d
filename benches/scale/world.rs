//! Thousands of streams on the kernel of `net.rs`, and operations on them.

use crate::common::{requests, sys};
use crate::net::Memory;
use ssegateway::clock::Millis;
use ssegateway::gateway::{Gateway, Listener, Settings};
use ssegateway::reactor::{Event, Reactor};
use ssegateway::timer::TICK_MS;
use std::time::Duration;

/// The default of `HEARTBEAT_INTERVAL_SECONDS`.
const HEARTBEAT_MS: u64 = 15_000;

/// Sends in one read.
const DEPTH: usize = 16;
/// The most events that one call of epoll_wait reports.
const EVENTS_PER_TURN: usize = 1024;
const ACCEPTS_PER_TURN: usize = 64;
/// A limit for loops that should end.
const TURNS_MAX: usize = 10_000_000;

/// Turns of the loop, timed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Turns {
    pub count: usize,
    pub total: Duration,
    pub longest: Duration,
}

impl Turns {
    pub(crate) fn nanoseconds_each(self, pieces: usize) -> f64 {
        self.total.as_nanos() as f64 / pieces as f64
    }
}

pub(crate) struct World {
    reactor: Reactor<Memory>,
    turns: Turns,
}

impl World {
    pub(crate) fn new(streams: usize) -> Self {
        let get = requests::browser_get("/events/tenant-7/stream/0123456", "events.example.com");
        let net = Memory::new(streams + 1, get);
        let settings = Settings {
            streams_max: streams,
            heartbeat_interval: Duration::from_millis(HEARTBEAT_MS),
            // So that nothing is dropped.
            history_bytes: usize::MAX / 2,
            ..Settings::default()
        };
        let gateway = Gateway::new(settings, Millis::ZERO, 1);
        Self { reactor: Reactor::new(net, gateway, streams + 1, false), turns: Turns::default() }
    }

    fn net(&mut self) -> &mut Memory {
        self.reactor.net()
    }

    fn turn(&mut self) {
        let start = sys::thread_time();
        self.reactor.turn().expect("this kernel does not fail");
        let time = sys::thread_time().saturating_sub(start);
        self.turns.count += 1;
        self.turns.total += time;
        self.turns.longest = self.turns.longest.max(time);
    }

    /// The turns since the last call.
    pub(crate) fn take_turns(&mut self) -> Turns {
        std::mem::take(&mut self.turns)
    }

    /// Bytes of one request kept for the disconnect callback.
    pub(crate) fn request_bytes(&mut self) -> usize {
        self.net().request_bytes
    }

    fn turn_until(&mut self, done: impl Fn(&mut Reactor<Memory>) -> bool) {
        for _ in 0..TURNS_MAX {
            if done(&mut self.reactor) {
                return;
            }
            if self.net().has_completions() {
                self.net().events.push(Event::Completions);
            }
            self.turn();
        }
        panic!("no end after {TURNS_MAX} turns");
    }

    fn accept(&mut self, count: usize) {
        self.net().backlog = count;
        self.net().events.push(Event::Accept(Listener::Public));
        self.turn_until(|reactor| reactor.net().backlog == 0);
    }

    /// Opens the streams, evenly over one heartbeat interval; then the backend connects.
    pub(crate) fn open(&mut self, streams: usize) {
        let start = self.net().clock;
        for first in (0..streams).step_by(ACCEPTS_PER_TURN) {
            self.net().clock = start + HEARTBEAT_MS * first as u64 / streams as u64;
            let count = ACCEPTS_PER_TURN.min(streams - first);
            self.accept(count);
            for client in first..first + count {
                self.net().report_readable(client);
            }
            self.turn();
            self.turn_until(|reactor| reactor.gateway().call_count() == 0);
        }
        assert_eq!(self.reactor.gateway().stream_count(), streams);
        self.accept(1);
    }

    /// The backend sends that many events, each to a random stream.
    pub(crate) fn send(&mut self, streams: usize, events: usize) {
        let data = requests::Payload::Plain.escaped();
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut batch = Vec::new();
        let before = self.net().writes;
        for _ in 0..events / DEPTH {
            batch.clear();
            for _ in 0..DEPTH {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let stream = ((random >> 32) as usize * streams) >> 32;
                requests::push_send(&mut batch, &self.net().tokens[stream].to_string(), data.as_bytes());
            }
            self.net().set_batch(&batch);
            self.net().report_readable(streams);
            self.turn();
        }
        let writes = self.net().writes - before;
        assert!(writes > events, "a write for nearly every event and one for the answers: {writes}");
    }

    /// The backend's answers to connects from now on.
    pub(crate) fn answer_by(&mut self, answer: fn(usize) -> String) {
        self.net().answer = answer;
    }

    /// One event to each of these groups, after which all members have been written to. Returns the number of writes.
    pub(crate) fn publish(&mut self, streams: usize, groups: impl IntoIterator<Item = String>) -> usize {
        let data = requests::Payload::Plain.escaped();
        let before = self.net().writes;
        let (mut batch, mut groups) = (Vec::new(), groups.into_iter().peekable());
        while groups.peek().is_some() {
            batch.clear();
            for group in groups.by_ref().take(DEPTH) {
                requests::push_send_to(&mut batch, "group", &group, data.as_bytes());
            }
            self.net().set_batch(&batch);
            self.net().report_readable(streams);
            self.turn();
            self.turn_until(|reactor| !reactor.gateway().has_visits());
        }
        self.net().writes - before
    }

    /// Advances by one heartbeat interval, tick by tick. Returns the number of heartbeats.
    pub(crate) fn beat(&mut self) -> usize {
        let before = self.net().writes;
        for _ in 0..HEARTBEAT_MS.div_ceil(TICK_MS) {
            self.net().clock += TICK_MS;
            self.turn();
        }
        self.net().writes - before
    }

    /// The process was paused for so long that every heartbeat is due.
    pub(crate) fn pause(&mut self) -> Turns {
        self.net().clock += HEARTBEAT_MS + TICK_MS;
        let (before, streams) = (self.net().writes, self.reactor.gateway().stream_count());
        self.turn_until(|reactor| reactor.net().writes - before >= streams);
        self.take_turns()
    }

    /// All clients leave at once, and the backend too.
    pub(crate) fn leave(&mut self) {
        self.all_leave();
        self.turn_until(|reactor| reactor.gateway().call_count() == 0);
        assert_eq!(self.reactor.gateway().connection_count(), 0);
        self.net().forget_clients();
    }

    /// Half a minute without clients.
    pub(crate) fn rest(&mut self) {
        for _ in 0..30 {
            self.net().clock += 1000;
            self.turn();
        }
    }

    /// SIGTERM: all streams are ended and all clients leave.
    pub(crate) fn drain(&mut self) {
        self.net().events.push(Event::Signal);
        self.turn();
        self.turn_until(|reactor| reactor.gateway().stream_count() == 0);
        self.all_leave();
        self.turn_until(|reactor| reactor.gateway().finished().is_some());
    }

    fn all_leave(&mut self) {
        self.net().leaving = true;
        let clients = self.net().ids.len();
        for first in (0..clients).step_by(EVENTS_PER_TURN) {
            for client in first..clients.min(first + EVENTS_PER_TURN) {
                self.net().report_readable(client);
            }
            if self.net().has_completions() {
                self.net().events.push(Event::Completions);
            }
            self.turn();
        }
    }
}
