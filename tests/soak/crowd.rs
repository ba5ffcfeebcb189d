//! The crowd: thousands of connections that open, receive events, misbehave and leave, driven by one thread.

use crate::backend::News;
use crate::common::{HEARTBEAT, Random, get, sys};
use crate::pace::{TICK, next_turn};
use crate::reader::Reader;
use crate::senders::{Answered, Sender};
use crate::visitor::{Figures, Role, Stage, Visitor};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const SENDERS: usize = 16;
/// Sends after which a sender's connection is replaced.
const SENDS_PER_CONNECTION: usize = 5_000;
/// Maximum connects in a tick.
const OPENS_PER_TICK: usize = 10;
/// Time between two passes over all connections.
const ROUND: Duration = Duration::from_millis(100);
/// The maximum wait for anything; nothing takes longer than the gateway's own timeouts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum stalled readers at a time.
const LAZY_MAX: usize = 10;
const LAZY_TIME: Duration = Duration::from_secs(15);

pub(crate) struct Crowd {
    port: u16,
    poll: Poll,
    events: Events,
    slots: Vec<Option<Visitor>>,
    by_visit: HashMap<u64, usize>,
    /// A send is known by the visit that it is for.
    senders: Vec<Sender<u64>>,
    news: Receiver<News>,
    random: Random,
    start: Instant,
    lifetime: Duration,
    /// Sends per second.
    rate: usize,
    /// The fraction of a send that is due.
    due: f64,
    turned_at: Instant,
    ticked_at: Instant,
    looked_at: Instant,
    lazy: usize,
    pub figures: Figures,
    /// Visitors arrive, and sends are made.
    pub busy: bool,
    /// The gateway is shutting down: streams end cleanly.
    pub draining: bool,
}

impl Crowd {
    pub(crate) fn new(
        port: u16,
        size: usize,
        rate: usize,
        lifetime: Duration,
        seed: u64,
        news: Receiver<News>,
    ) -> Self {
        let poll = Poll::new().expect("epoll");
        let connect = |n| Sender::connect(port, poll.registry(), Token(size + n));
        let senders = (0..SENDERS).map(connect).collect();
        Self {
            port,
            senders,
            poll,
            events: Events::with_capacity(4096),
            slots: (0..size).map(|_| None).collect(),
            by_visit: HashMap::new(),
            news,
            random: Random::new(seed),
            start: Instant::now(),
            lifetime,
            rate,
            due: 0.0,
            turned_at: Instant::now(),
            ticked_at: Instant::now(),
            looked_at: Instant::now(),
            lazy: 0,
            figures: Figures::default(),
            busy: true,
            draining: false,
        }
    }

    /// Connections open on this side.
    pub(crate) fn connections(&self) -> usize {
        self.by_visit.len() + self.senders.len()
    }

    /// Whether no sends or events are in flight.
    pub(crate) fn is_settled(&self) -> bool {
        let settled = |visitor: &Visitor| match visitor.role {
            Role::Healthy | Role::Hasty => visitor.stage == Stage::Open && visitor.received == visitor.sent,
            Role::Early | Role::Lazy | Role::Garbage | Role::SlowHead => false,
        };
        self.senders.iter().all(Sender::is_idle) && self.slots.iter().flatten().all(settled)
    }

    /// No stream is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_visit.is_empty()
    }

    /// Four of five visitors leave at once.
    pub(crate) fn thin_out(&mut self) {
        for slot in 0..self.slots.len() {
            if slot % 5 != 0 {
                self.remove(slot);
            }
        }
    }

    /// Runs for some 10 ms.
    pub(crate) fn turn(&mut self) {
        if let Some(passed) = next_turn(&mut self.poll, &mut self.events, &mut self.turned_at) {
            self.forgive(passed);
        }
        self.hear_news();
        let tokens: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for token in tokens {
            if token < self.slots.len() {
                self.serve(token);
            } else if !self.draining {
                self.serve_sender(token - self.slots.len());
            }
        }
        if self.ticked_at.elapsed() >= TICK {
            let passed = self.ticked_at.elapsed().min(10 * TICK);
            self.ticked_at = Instant::now();
            if self.busy {
                self.due += passed.as_secs_f64() * self.rate as f64;
                self.send_some();
                self.open_some();
            }
            if !self.draining {
                if self.looked_at.elapsed() >= ROUND {
                    self.looked_at = Instant::now();
                    self.look_after_all();
                }
                self.senders.iter_mut().for_each(Sender::flush);
                self.replace_senders(SENDS_PER_CONNECTION);
            }
        }
    }

    /// This process was paused: extends all deadlines by the pause.
    fn forgive(&mut self, stopped: Duration) {
        println!("the crowd stood still for {stopped:?}");
        for visitor in self.slots.iter_mut().flatten() {
            visitor.since += stopped;
            visitor.leaves_at += stopped;
        }
        // Connections idle for that long may have been closed.
        self.replace_senders(0);
    }

    fn hear_news(&mut self) {
        while let Ok((visit, token)) = self.news.try_recv() {
            if let Some(visitor) = self.by_visit.get(&visit).and_then(|slot| self.slots[*slot].as_mut()) {
                visitor.token = Some(token);
            }
        }
    }

    fn open_some(&mut self) {
        let mut opened = 0;
        let first = self.random.index(self.slots.len());
        for slot in (first..self.slots.len()).chain(0..first) {
            if opened == OPENS_PER_TICK {
                return;
            }
            if self.slots[slot].is_none() {
                self.open(slot);
                opened += 1;
            }
        }
    }

    fn open(&mut self, slot: usize) {
        let role = match self.random.below(1000) {
            0..20 => Role::Hasty,
            20..40 => Role::Early,
            40..50 => Role::Garbage,
            50..60 => Role::SlowHead,
            60..70 if self.lazy < LAZY_MAX => Role::Lazy,
            _ => Role::Healthy,
        };
        self.lazy += usize::from(role == Role::Lazy);
        let visit = self.figures.visits as u64;
        self.figures.visits += 1;
        let out = match role {
            Role::Healthy | Role::Hasty | Role::Early | Role::Lazy => get(&format!("/visit/{visit}")).into_bytes(),
            Role::SlowHead => b"GET /visit/slow HTTP/1.1\r\nHost: h\r\nX-Slow: ".to_vec(),
            Role::Garbage => self.garbage(),
        };
        let mut socket = TcpStream::connect(([127, 0, 0, 1], self.port).into()).expect("a connection");
        self.poll
            .registry()
            .register(&mut socket, Token(slot), Interest::READABLE | Interest::WRITABLE)
            .expect("epoll takes it");
        if role == Role::Lazy {
            sys::receive_buffer(&socket, 16 * 1024);
        }
        let now = Instant::now();
        let stays = match role {
            Role::Healthy | Role::Hasty => self.lifetime.mul_f64(self.exponential()),
            Role::Early => Duration::from_millis(self.random.below(40)),
            Role::Lazy => LAZY_TIME,
            Role::Garbage | Role::SlowHead => PATIENCE,
        };
        self.by_visit.insert(visit, slot);
        self.slots[slot] = Some(Visitor {
            visit,
            socket,
            out,
            role,
            stage: Stage::Waiting,
            since: now,
            leaves_at: now + stays,
            token: None,
            reader: Reader::default(),
            sent: 0,
            received: 0,
        });
    }

    /// Malformed requests.
    fn garbage(&mut self) -> Vec<u8> {
        let length = 1 + self.random.below(200);
        let mut bytes: Vec<u8> = (0..length).map(|_| self.random.next() as u8).collect();
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    }

    /// With a mean of 1.
    fn exponential(&mut self) -> f64 {
        let uniform = (self.random.below(1 << 20) + 1) as f64 / f64::from(1 << 20);
        -uniform.ln()
    }

    fn send_some(&mut self) {
        while self.due >= 1.0 {
            self.due -= 1.0;
            let slot = self.random.index(self.slots.len());
            // Sometimes several in a row for the same stream.
            let count = if self.random.chance(50) { 5 } else { 1 };
            for _ in 0..count {
                self.send_event(slot);
            }
        }
    }

    fn send_event(&mut self, slot: usize) {
        let Some(visitor) = &mut self.slots[slot] else { return };
        let Some(token) = &visitor.token else { return };
        let sends = matches!(visitor.role, Role::Healthy | Role::Hasty | Role::Early);
        if !sends || !matches!(visitor.stage, Stage::Waiting | Stage::Open) {
            return;
        }
        let padding = "x".repeat(self.random.index(300));
        let (visit, sequence, micros) = (visitor.visit, visitor.sent, self.start.elapsed().as_micros());
        let body = format!(r#"{{"token":"{token}","event":{{"data":"{visit} {sequence} {micros} {padding}"}}}}"#);
        visitor.sent += 1;
        self.figures.sends += 1;
        self.senders[slot % SENDERS].push(visit, &body);
    }

    /// Time-driven work: lazy readers are flooded, old visitors leave, and nothing may wait too long.
    fn look_after_all(&mut self) {
        let now = Instant::now();
        for slot in 0..self.slots.len() {
            let Some(visitor) = &mut self.slots[slot] else { continue };
            let (role, stage, over) = (visitor.role, visitor.stage, now >= visitor.leaves_at);
            let waited = now - visitor.since;
            match stage {
                Stage::Waiting | Stage::Quiet | Stage::Ending => {
                    let lost = waited > PATIENCE;
                    assert!(!lost, "{role:?} {stage:?} for {waited:?}: {} of {}", visitor.received, visitor.sent);
                }
                Stage::Open => {}
            }
            match (role, stage) {
                (Role::Lazy, Stage::Waiting) if visitor.token.is_some() && !over => {
                    let token = visitor.token.clone().unwrap_or_default();
                    let body = serde_json::json!({"token": token, "event": {"data": "x".repeat(64 * 1024)}});
                    let visit = visitor.visit;
                    self.senders[slot % SENDERS].push(visit, &body.to_string());
                }
                (Role::SlowHead, Stage::Waiting) if self.random.chance(500) => visitor.out.push(b'x'),
                (Role::Hasty | Role::Early, Stage::Open) | (Role::Early | Role::Lazy, Stage::Waiting) if over => {
                    self.remove(slot)
                }
                (Role::Healthy, Stage::Open) if over && self.busy => {
                    visitor.stage = Stage::Quiet;
                    visitor.since = now;
                }
                (Role::Healthy, Stage::Quiet) if visitor.received == visitor.sent => self.leave(slot),
                _ => {}
            }
            self.write(slot);
        }
    }

    /// A healthy visitor that has received everything leaves, in one of several ways.
    fn leave(&mut self, slot: usize) {
        let way = self.random.below(4);
        let Some(visitor) = &mut self.slots[slot] else { return };
        visitor.stage = Stage::Ending;
        visitor.since = Instant::now();
        match way {
            0 => self.remove(slot),
            1 => {
                sys::reset_on_close(&visitor.socket);
                self.remove(slot);
            }
            2 => drop(visitor.socket.shutdown(Shutdown::Write)),
            _ => {
                let token = visitor.token.clone().expect("an open stream has a token");
                let data = format!("{} {} {} last", visitor.visit, visitor.sent, self.start.elapsed().as_micros());
                visitor.sent += 1;
                self.figures.sends += 1;
                let body = format!(r#"{{"token":"{token}","event":{{"data":"{data}"}},"close":true}}"#);
                self.senders[slot % SENDERS].push(visitor.visit, &body);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        if let Some(visitor) = self.slots[slot].take() {
            self.by_visit.remove(&visitor.visit);
            self.lazy -= usize::from(visitor.role == Role::Lazy);
        }
    }

    fn write(&mut self, slot: usize) {
        let Some(visitor) = &mut self.slots[slot] else { return };
        if visitor.out.is_empty() {
            return;
        }
        // An error here will show on the next read.
        if let Ok(count) = visitor.socket.write(&visitor.out) {
            visitor.out.drain(..count);
        }
    }

    fn serve(&mut self, slot: usize) {
        self.write(slot);
        let Some(visitor) = &mut self.slots[slot] else { return };
        if visitor.role == Role::Lazy {
            return;
        }
        let mut scratch = [0; 64 * 1024];
        loop {
            match visitor.socket.read(&mut scratch) {
                Ok(0) => return self.ended(slot),
                Ok(count) => visitor.reader.feed(&scratch[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(_) => return self.ended(slot),
            }
        }
        self.take_frames(slot);
    }

    fn take_frames(&mut self, slot: usize) {
        let Some(visitor) = &mut self.slots[slot] else { return };
        if visitor.stage == Stage::Waiting && visitor.reader.status == Some(200) {
            visitor.stage = Stage::Open;
            visitor.since = Instant::now();
            self.figures.opened += 1;
        }
        while let Some(frame) = visitor.reader.frame() {
            if frame == HEARTBEAT {
                self.figures.heartbeats += 1;
            } else if let Some(hello) = frame.strip_prefix("event: hello\ndata: ") {
                assert_eq!(hello, format!("{}\n\n", visitor.visit), "another stream's event");
                assert_eq!(visitor.received, 0, "the callback's event comes first");
            } else if frame.starts_with("retry: ") {
                assert!(self.draining, "only a drain says when to come back");
            } else {
                let mut words = frame.strip_prefix("data: ").expect("an unnamed event").split(' ');
                let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
                let got = (number(), number());
                assert_eq!(
                    got,
                    (visitor.visit, visitor.received),
                    "lost, duplicated, out of order or of another stream"
                );
                visitor.received += 1;
                self.figures.events += 1;
                let took = self.start.elapsed().saturating_sub(Duration::from_micros(number()));
                self.figures.slowest = self.figures.slowest.max(took);
            }
        }
    }

    /// The gateway ended this connection.
    fn ended(&mut self, slot: usize) {
        self.take_frames(slot);
        let Some(visitor) = &self.slots[slot] else { return };
        let (role, stage, finished) = (visitor.role, visitor.stage, visitor.reader.finished);
        let all = visitor.received == visitor.sent;
        match (visitor.reader.status, role) {
            (Some(200), Role::Healthy | Role::Hasty) => {
                let right = match stage {
                    // After a half-close the stream is cut, after a close by the backend it ends cleanly.
                    Stage::Ending => all,
                    Stage::Open => self.draining && finished && all,
                    Stage::Waiting | Stage::Quiet => false,
                };
                let (received, sent) = (visitor.received, visitor.sent);
                assert!(right, "{role:?} {stage:?} ended, in order: {finished}, {received} events of {sent}");
            }
            (Some(302 | 403 | 500 | 503 | 504), _) | (Some(400..=505), Role::Garbage | Role::SlowHead) => {
                self.figures.refused += 1;
            }
            (None, Role::Garbage | Role::SlowHead) => self.figures.refused += 1,
            (status, _) => {
                assert_eq!((status, role), (Some(200), Role::Early), "ended without an answer");
            }
        }
        self.remove(slot);
    }

    fn serve_sender(&mut self, n: usize) {
        self.senders[n].flush();
        for answer in self.senders[n].read() {
            self.answered(&answer);
        }
        let failure = self.senders[n].failure();
        assert_eq!(failure, None, "a sender's connection is over");
    }

    fn answered(&mut self, answer: &Answered<u64>) {
        let slot = self.by_visit.get(&answer.send).copied();
        let visitor = slot.and_then(|slot| self.slots[slot].as_ref());
        let open = visitor.is_some_and(|visitor| {
            visitor.role == Role::Healthy && matches!(visitor.stage, Stage::Open | Stage::Quiet)
        });
        match answer.status {
            200 => {}
            // It was rejected, or has left.
            404 => assert!(!open, "an open stream's token is unknown: {}", answer.body),
            500 => {
                let lazy = visitor.is_none_or(|visitor| visitor.role == Role::Lazy);
                assert!(lazy, "a stream with a reader was dropped: {}", answer.body);
                self.figures.dropped += 1;
                if let Some(slot) = slot {
                    self.remove(slot);
                }
            }
            status => panic!("an impossible answer to a send: {status} {}", answer.body),
        }
    }

    /// Replaces idle senders that have made enough sends.
    fn replace_senders(&mut self, sends: usize) {
        for n in 0..self.senders.len() {
            if self.senders[n].is_worn(sends) {
                self.senders[n] = Sender::connect(self.port, self.poll.registry(), Token(self.slots.len() + n));
            }
        }
    }
}
