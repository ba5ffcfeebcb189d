//! Groups and replay on the bare gateway: clients that come and go with their cursors, sockets that fill up, a history that
//! is too short, or gives way as memory is scarce; and a plain account beside it of what each client is owed.
//!
//! What a client got over all its connections is a strictly increasing part of the one order of events; between two
//! neighbours nothing is missing that its groups kept, unless a `gap` stands there; and a `gap` stands there only if
//! something was dropped. Some gateways are stopped at the end: then everybody gets what was sent to its token, and a clean end.

mod drain;
mod judge;

use super::frames::Frames;
use crate::random::Random;
use ssegateway::callback::{CallId, CallKind, Called, Detail, Outcome};
use ssegateway::clock::Millis;
use ssegateway::cursor::Cursor;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, ProcessFigures, Settings};
use ssegateway::job::{Completion, Job};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use uuid::Uuid;

const GROUPS: usize = 5;
const CLIENTS: usize = 7;
const STEPS: usize = 600;
/// So many gateways of 1000 are stopped at the end.
const DRAINS: u64 = 400;
/// What an event and a group count against the limit of bytes, beside their own.
const EVENT_BYTES: usize = 64;
const GROUP_BYTES: usize = 256;
/// A limit of memory at which a full history is too much, and one of what is queued for one stream alone.
const MEMORY: u64 = 1_200_000;
const PENDING: usize = 100;
/// How many times that much may be queued for a client that reads; and a send to a token, at least.
const READER_FACTOR: usize = 4;
const TOKEN_SEND: usize = "data: t1\n\n".len();

/// What is kept of one group.
#[derive(Default)]
struct Kept {
    events: Vec<(u64, usize)>,
    dropped: u64,
    touched_at: u64,
}

/// One client, over all its connections.
#[derive(Default)]
struct Client {
    connection: Option<ConnId>,
    token: Uuid,
    /// The groups it is in, and from where on.
    granted: BTreeMap<usize, u64>,
    /// Groups that it has left: from where on it was in, and up to where. What it had not got by then may still come.
    left: Vec<(usize, u64, u64)>,
    /// What it has everything up to, or has been told of the gap.
    has: u64,
    cursor: Option<String>,
    /// On this connection.
    frames: Frames,
    is_headed: bool,
    /// A gap must come first.
    owes_gap: bool,
    /// Room in its socket.
    room: usize,
    /// Nothing was ever refused, so that all sends come in the order in which they were made.
    is_strict: bool,
    last_send: u64,
    last_token_send: u64,
    /// Sends to its token that it has not got.
    waiting: BTreeSet<u64>,
    /// A send to it was refused.
    is_refused: bool,
}

struct World {
    gateway: Gateway,
    settings: Settings,
    random: Random,
    now: u64,
    backend: ConnId,
    /// What the gateway has answered on the backend's connection.
    answers: Vec<u8>,
    clients: Vec<Client>,
    by_connection: HashMap<ConnId, usize>,
    /// Connect callbacks that have not been answered: whose they are, and the number of the connection.
    calls: Vec<(CallId, usize, u64)>,
    tokens: u128,
    /// Numbers all sends.
    sends: u64,
    head: u64,
    kept: Vec<Kept>,
    /// Events dropped for space: more, and the history has given way to something else.
    dropped: u64,
    /// Groups and send of each kept event, by position.
    events: BTreeMap<u64, (Vec<usize>, u64)>,
    ready: BTreeSet<ConnId>,
    /// Tokens of streams that were cut; why is known once the input is over.
    cut: Vec<Uuid>,
    /// The gateway has been stopped.
    is_drained: bool,
}

/// Runs the seed; panics where the gateway fails.
pub(crate) fn run(seed: u64) {
    let mut random = Random::new(seed);
    let is_scarce = random.chance(100);
    let settings = Settings {
        // Clients that do not read take up most of it, but not all.
        memory_bytes_max: is_scarce.then_some(MEMORY),
        pending_bytes_max: random.pick(&[PENDING, 1 << 20, 1 << 20]),
        history_age: random.pick(&[Duration::from_secs(2), Duration::from_secs(300), Duration::from_secs(300)]),
        history_events: random.pick(&[1, 3, 10, 1000]),
        history_bytes: random.pick(&[1500, 4000, 1 << 20, 1 << 20]),
        heartbeat_interval: Duration::from_millis(random.within(500, 5000)),
        client_timeout: Duration::from_secs(60),
        keepalive_timeout: Duration::from_secs(100_000),
        request_timeout: Duration::from_secs(100_000),
        connect_queue: Duration::from_secs(100_000),
        callback_timeout: Duration::from_secs(100_000),
        ..Settings::default()
    };
    let mut gateway = Gateway::new(settings.clone(), Millis::ZERO, seed);
    let backend = gateway.accept(Millis::ZERO, Listener::Public, Peer::Loopback, Uuid::nil()).expect("room");
    let mut world = World {
        gateway,
        settings,
        random,
        now: 0,
        backend,
        answers: Vec::new(),
        clients: (0..CLIENTS).map(|_| Client::default()).collect(),
        by_connection: HashMap::new(),
        calls: Vec::new(),
        tokens: 0,
        sends: 0,
        head: 0,
        dropped: 0,
        kept: (0..GROUPS).map(|_| Kept::default()).collect(),
        events: BTreeMap::new(),
        ready: BTreeSet::new(),
        cut: Vec::new(),
        is_drained: false,
    };
    for _ in 0..STEPS {
        world.step();
        world.gateway.assert_invariants();
    }
    if world.random.chance(DRAINS) { world.drain() } else { world.finish() }
}

impl World {
    fn time(&self) -> Millis {
        Millis::from_millis(self.now)
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=6 => self.publish(),
            7..=8 => self.send_to_token(),
            9..=11 => self.come_or_go(),
            12 => self.answer_connect(),
            13 => self.change_groups(),
            14..=15 => {
                let n = self.random.index(CLIENTS);
                let room = self.random.pick(&[0, 0, 30, 200, 1000, 1 << 30, 1 << 30]);
                self.clients[n].room = room;
                self.ready.extend(self.clients[n].connection);
            }
            16 => {
                let time = self.random.pick(&[1, 100, 700, 2500]);
                self.pass(time);
            }
            _ => {}
        }
        self.note_drops();
        self.judge_cuts();
        let members = self.random.below(4);
        self.turn(members);
        self.judge_cuts();
    }

    /// Writes what is fresh, to some members, and to sockets that have room again.
    fn turn(&mut self, members: u64) {
        self.carry_out();
        for _ in 0..members {
            let Some(id) = self.gateway.next_member(self.time()) else { break };
            self.flush(id);
        }
        for id in std::mem::take(&mut self.ready) {
            if self.gateway.has_unsent(id) {
                self.flush(id);
            }
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        loop {
            if let Some(id) = self.gateway.next_dirty() {
                self.flush(id);
            } else if let Some(action) = self.gateway.next_action() {
                self.act(action);
            } else {
                return;
            }
        }
    }

    fn flush(&mut self, id: ConnId) {
        let unsent = self.gateway.unsent(id).to_vec();
        if id == self.backend {
            self.answers.extend_from_slice(&unsent);
            return self.gateway.wrote(self.time(), id, unsent.len());
        }
        let Some(n) = self.by_connection.get(&id).copied() else {
            return self.gateway.wrote(self.time(), id, unsent.len());
        };
        let room = self.clients[n].room;
        let mut count = unsent.len().min(room).min(64 * 1024);
        if count > 1 && self.random.chance(100) {
            count = self.random.within(1, count as u64) as usize;
        }
        self.clients[n].room -= count;
        self.clients[n].is_strict &= count == unsent.len();
        self.gateway.wrote(self.time(), id, count);
        self.take(n, &unsent[..count]);
        if self.clients[n].room > 0 {
            self.ready.insert(id);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(Job::Call(call)) => match call.kind {
                CallKind::Start => panic!("a start that was not asked for"),
                CallKind::Connect => {
                    let n = (call.token.as_u128() >> 64) as usize;
                    self.calls.push((call.id, n, call.token.as_u128() as u64));
                }
                CallKind::Disconnect { detail, .. } => {
                    if detail == Some(Detail::SlowConsumer) {
                        self.cut.push(call.token);
                    }
                    let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
                    self.gateway.complete(self.time(), Completion::Called(Called { id: call.id, outcome }));
                }
            },
            // A stream that is cut stays for a while, and gets nothing more.
            Action::Close(id, _) | Action::ShutdownWrite(id) => self.closed(id),
            Action::TellFeed(id) => self.gateway.tell_feed(self.time(), id),
            Action::Report(ticket) => self.gateway.report(self.time(), ticket, &ProcessFigures::default()),
            Action::List | Action::StopAccepting | Action::ReadLast(_) | Action::KeepAlive(_) => {}
            Action::Start(Job::Resolve(..)) | Action::Connect(_) | Action::Disconnect => panic!("there is no Redis"),
        }
    }

    fn closed(&mut self, id: ConnId) {
        if let Some(n) = self.by_connection.remove(&id)
            && self.clients[n].connection == Some(id)
        {
            self.clients[n].connection = None;
        }
    }

    /// The backend says something, and is answered.
    fn ask(&mut self, path: &str, body: &str) -> String {
        self.answers.clear();
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        self.gateway.receive(self.time(), self.backend, request.as_bytes());
        self.carry_out();
        let answer = String::from_utf8(std::mem::take(&mut self.answers)).expect("text");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    fn publish(&mut self) {
        // Where space is short, which group of an event loses it first is not told outside.
        let is_scarce = self.settings.memory_bytes_max.is_some();
        let is_short = is_scarce || self.settings.history_bytes < 1 << 20;
        let count = if is_short { 1 } else { self.random.within(1, 2) as usize };
        let mut groups: Vec<usize> = (0..count).map(|_| self.random.index(GROUPS)).collect();
        groups.sort_unstable();
        groups.dedup();
        let is_transient = self.random.chance(200);
        let events = self.random.within(1, 3);
        let pad = if is_scarce { self.random.pick(&[0, 2000, 8000]) } else { self.random.pick(&[0, 0, 20, 300]) };
        let mut list = Vec::new();
        let first = self.sends + 1;
        for _ in 0..events {
            self.sends += 1;
            list.push(format!(r#"{{"data":"{} {}"}}"#, self.sends, "x".repeat(pad)));
        }
        let names: Vec<String> = groups.iter().map(|group| format!(r#""g{group}""#)).collect();
        let body =
            format!(r#"{{"groups":[{}],"events":[{}],"transient":{is_transient}}}"#, names.join(","), list.join(","));
        let answer = self.ask("/internal/send", &body);
        assert!(answer.starts_with(r#"{"status":"ok""#), "{answer}");
        let positions = self.head + 1..=self.head + events;
        self.head += events;
        if is_transient {
            return;
        }
        let id = answer.split_once(r#""id":""#).and_then(|(_, rest)| rest.split_once('"')).expect("an id").0;
        let last = Cursor::parse(id.as_bytes()).expect("a cursor").position;
        assert_eq!(last, self.head, "another position");
        for (position, send) in positions.zip(first..) {
            let frame = format!("data: {send} {}\n\n", "x".repeat(pad)).len();
            self.events.insert(position, (groups.clone(), send));
            for group in &groups {
                if self.kept[*group].events.len() >= self.settings.history_events {
                    self.drop_first(*group);
                    self.dropped += 1;
                }
                self.kept[*group].events.push((position, frame + EVENT_BYTES));
                self.kept[*group].touched_at = self.now;
            }
        }
        while self.kept_bytes() > self.settings.history_bytes {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = (0..GROUPS).filter(|group| !self.kept[*group].events.is_empty());
        let group = oldest.min_by_key(|group| self.kept[*group].events[0].0).expect("something is kept");
        self.drop_first(group);
        self.dropped += 1;
    }

    /// What is kept may give way as memory is scarce: that much is taken from the gateway, but not which events these are.
    fn note_drops(&mut self) {
        let Some(limit) = self.settings.memory_bytes_max else { return };
        // Relief does not go down so far.
        if self.gateway.memory() < limit / 2 {
            return;
        }
        let dropped = self.count_drops();
        while self.dropped < dropped {
            self.drop_oldest();
        }
        let memory = self.gateway.memory();
        let is_short = memory > limit - limit / 8;
        assert!(!is_short || self.kept_bytes() == 0, "history does not give way: {memory} bytes");
    }

    /// Events dropped for space, by the metrics.
    fn count_drops(&mut self) -> u64 {
        let id = self.gateway.accept(self.time(), Listener::Public, Peer::Loopback, Uuid::nil()).expect("room");
        self.gateway.receive(self.time(), id, b"GET /internal/metrics HTTP/1.1\r\nHost: h\r\n\r\n");
        while let Some(action) = self.gateway.next_action() {
            self.act(action);
        }
        let text = String::from_utf8(self.gateway.unsent(id).to_vec()).expect("text");
        self.carry_out();
        self.gateway.receive_eof(self.time(), id);
        self.carry_out();
        let name = r#"ssegateway_history_dropped_total{cause="space"} "#;
        let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("a sample");
        value.parse().expect("a number")
    }

    fn drop_first(&mut self, group: usize) {
        let (position, _) = self.kept[group].events.remove(0);
        self.kept[group].dropped = position;
    }

    fn kept_bytes(&self) -> usize {
        let used = self.kept.iter().filter(|kept| !kept.events.is_empty());
        used.map(|kept| GROUP_BYTES + 2 + kept.events.iter().map(|(_, bytes)| bytes).sum::<usize>()).sum()
    }

    fn send_to_token(&mut self) {
        let n = self.random.index(CLIENTS);
        if self.clients[n].connection.is_none() {
            return;
        }
        let is_narrow = self.settings.pending_bytes_max == PENDING;
        for _ in 0..if is_narrow { self.random.within(1, 8) } else { 1 } {
            self.sends += 1;
            self.clients[n].waiting.insert(self.sends);
            let body = format!(r#"{{"token":"{}","event":{{"data":"t{}"}}}}"#, self.clients[n].token, self.sends);
            let answer = self.ask("/internal/send", &body);
            if !answer.starts_with(r#"{"status""#) {
                self.clients[n].waiting.remove(&self.sends);
                self.clients[n].is_refused = true;
            }
            let bytes = self.clients[n].waiting.len() * TOKEN_SEND;
            let bytes_max = READER_FACTOR * self.settings.pending_bytes_max + TOKEN_SEND;
            let is_open = self.clients[n].connection.is_some() && self.clients[n].is_headed;
            assert!(!is_open || bytes <= bytes_max, "client {n}: {bytes} bytes are queued");
        }
    }

    fn come_or_go(&mut self) {
        let n = self.random.index(CLIENTS);
        if let Some(id) = self.clients[n].connection {
            if self.random.chance(500) {
                self.gateway.receive_eof(self.time(), id);
                self.by_connection.remove(&id);
                self.clients[n].connection = None;
                self.carry_out();
            }
            return;
        }
        // Whoever comes while memory is scarce is refused.
        self.note_drops();
        self.tokens += 1;
        let token = Uuid::from_u128((n as u128) << 64 | self.tokens);
        let id = self.gateway.accept(self.time(), Listener::Public, Peer::Remote, token).expect("room");
        let cursor = self.clients[n].cursor.clone().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        self.clients[n] = Client {
            connection: Some(id),
            token,
            has: if cursor.is_empty() { self.head } else { self.clients[n].has },
            cursor: self.clients[n].cursor.take(),
            room: self.random.pick(&[1 << 30, 1 << 30, 500]),
            is_strict: true,
            ..Client::default()
        };
        // What its last connection had not told it is replayed from its cursor on.
        if let Some(cursor) = &self.clients[n].cursor {
            self.clients[n].has = Cursor::parse(cursor.as_bytes()).expect("a cursor").position;
        }
        self.by_connection.insert(id, n);
        let request = format!("GET /{n} HTTP/1.1\r\nHost: h\r\n{cursor}\r\n");
        self.gateway.receive(self.time(), id, request.as_bytes());
        self.carry_out();
        if self.random.chance(700) {
            self.answer_connect();
        }
    }

    fn answer_connect(&mut self) {
        self.note_drops();
        if self.calls.is_empty() {
            return;
        }
        let (id, n, token) = self.calls.swap_remove(self.random.index(self.calls.len()));
        let groups: BTreeSet<usize> = (0..self.random.within(1, 3)).map(|_| self.random.index(GROUPS)).collect();
        let names: Vec<String> = groups.iter().map(|group| format!(r#""g{group}""#)).collect();
        let client = &mut self.clients[n];
        if client.token.as_u128() as u64 == token && client.connection.is_some() {
            let from = client.has;
            client.owes_gap = groups.iter().any(|group| self.kept[*group].dropped > from);
            // Whoever is replaying lags.
            let is_due = |group: &usize| self.kept[*group].events.last().is_some_and(|(last, _)| *last > from);
            client.is_strict &= !groups.iter().any(is_due);
            client.granted = groups.iter().map(|group| (*group, self.kept[*group].dropped.max(from))).collect();
        }
        let body = format!(r#"{{"groups":[{}]}}"#, names.join(","));
        let outcome =
            Outcome::Answered { status: 200, passed: Vec::new(), body: Some(body.into_bytes()), in_doubt: false };
        self.gateway.complete(self.time(), Completion::Called(Called { id, outcome }));
        self.carry_out();
    }

    fn change_groups(&mut self) {
        let n = self.random.index(CLIENTS);
        let is_open = self.clients[n].is_headed && self.clients[n].connection.is_some();
        if !is_open {
            return;
        }
        let (group, token) = (self.random.index(GROUPS), self.clients[n].token);
        let join = !self.clients[n].granted.contains_key(&group);
        let field = if join { "join" } else { "leave" };
        let answer = self.ask("/internal/groups", &format!(r#"{{"token":"{token}","{field}":["g{group}"]}}"#));
        if answer != r#"{"status":"ok"}"# {
            return;
        }
        if join {
            self.clients[n].granted.insert(group, self.head);
        } else {
            let from = self.clients[n].granted.remove(&group).expect("it is in");
            let left = (group, from, self.head);
            self.clients[n].left.push(left);
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        while self.gateway.next_deadline().is_some_and(|due| due <= self.time()) {
            while self.gateway.expire(self.time()) {
                self.carry_out();
            }
            self.turn(u64::MAX);
        }
        let age = self.settings.history_age.as_millis() as u64;
        for group in 0..GROUPS {
            if self.kept[group].touched_at + age <= self.now {
                while !self.kept[group].events.is_empty() {
                    self.drop_first(group);
                }
            }
        }
    }

    /// Everybody reads on: then everybody has everything.
    fn finish(&mut self) {
        while !self.calls.is_empty() {
            self.answer_connect();
        }
        for n in 0..CLIENTS {
            self.clients[n].room = 1 << 30;
            self.ready.extend(self.clients[n].connection);
        }
        for _ in 0..1000 {
            self.turn(u64::MAX);
        }
        assert!(!self.gateway.has_visits() && self.ready.iter().all(|id| !self.gateway.has_unsent(*id)), "no rest");
        for n in 0..CLIENTS {
            if self.clients[n].connection.is_some() {
                self.check_nothing_missing(n, self.head + 1);
                self.check_token_sends(n);
            }
        }
        self.gateway.assert_invariants();
    }
}
