//! Streaming sends on the bare gateway: senders that stall, break off, are told to stop or end; pieces that are cut anywhere; a
//! drain in the middle. An account beside it knows from the bytes read so far which lines were executed, what each stream
//! has got, and how each sender is answered.

mod account;
mod script;

use crate::random::Random;
use account::{Account, Said, Standing, Target};
use script::{LINE_BYTES_MAX, Mark, Plan, Script, name_of, token_of};
use ssegateway::callback::{CallId, CallKind, Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, Settings, SocketError};
use ssegateway::job::{Completion, Job};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use uuid::Uuid;

const NOW: Millis = Millis::ZERO;
const STEPS: usize = 400;
/// Open streams, and feeds that are not over, at a time.
const STREAMS: usize = 6;
const FEEDS: usize = 5;
/// Groups that have not been named yet, besides those that have.
const FRESH_GROUPS: u64 = 2;

/// The end that its client makes of a feed, once it has written so much.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Break {
    Never,
    EndOfInput(usize),
    Reset(usize),
}

/// A sender, over one connection.
struct Sender {
    connection: ConnId,
    script: Script,
    written: usize,
    read: usize,
    breaks: Break,
    is_gone: bool,
}

struct World {
    gateway: Gateway,
    random: Random,
    account: Account,
    /// By their numbers in the account.
    streams: Vec<ConnId>,
    senders: Vec<Sender>,
    backend: ConnId,
    /// What was written to each connection.
    written: HashMap<ConnId, Vec<u8>>,
    by_connection: BTreeMap<ConnId, usize>,
    calls: Vec<CallId>,
    events: u64,
    groups: usize,
    is_drained: bool,
}

/// Runs the seed; panics where the gateway fails.
pub(crate) fn run(seed: u64) {
    let settings = Settings { history_age: Duration::ZERO, body_bytes_max: LINE_BYTES_MAX, ..Settings::default() };
    let mut gateway = Gateway::new(settings, NOW, seed);
    let backend = gateway.accept(NOW, Listener::Public, Peer::Loopback, Uuid::nil()).expect("room");
    let mut world = World {
        gateway,
        random: Random::new(seed),
        account: Account::default(),
        streams: Vec::new(),
        senders: Vec::new(),
        backend,
        written: HashMap::new(),
        by_connection: BTreeMap::new(),
        calls: Vec::new(),
        events: 0,
        groups: 0,
        is_drained: false,
    };
    let drain_at = if world.random.chance(500) { world.random.index(STEPS) } else { STEPS };
    for _ in 0..drain_at {
        world.step();
        world.gateway.assert_invariants();
    }
    world.drain();
}

impl World {
    fn step(&mut self) {
        match self.random.below(20) {
            0..=1 => self.open_stream(),
            2..=4 => self.begin_feed(),
            5 => self.leave(),
            6 => self.send(),
            _ => self.go_on(),
        }
        // Members of groups may have to wait for their turn.
        let is_full = self.random.chance(600);
        let members = if is_full { u64::MAX } else { self.random.below(3) };
        self.turn(members);
        self.check(is_full);
    }

    fn accept(&mut self, token: Uuid) -> ConnId {
        self.gateway.accept(NOW, Listener::Public, Peer::Loopback, token).expect("room")
    }

    fn draw_group(&mut self) -> usize {
        let group = self.random.below(self.groups as u64 + FRESH_GROUPS) as usize;
        self.groups = self.groups.max(group + 1);
        group
    }

    /// Of a stream, open or not, in no group, or a group: sends to a token are ordered with those to a group only while
    /// its client does not lag.
    fn draw_target(&mut self) -> Target {
        let alone: Vec<usize> = (0..self.streams.len()).filter(|n| self.account.streams[*n].group.is_none()).collect();
        if self.random.chance(400) && !alone.is_empty() {
            let recent = &alone[alone.len().saturating_sub(4)..];
            return Target::Stream(self.random.pick(recent));
        }
        Target::Group(self.draw_group())
    }

    fn open_stream(&mut self) {
        let n = self.streams.len();
        let group = if self.random.chance(700) { Some(self.draw_group()) } else { None };
        let is_over = group.is_some_and(|group| self.account.is_over(Target::Group(group)));
        if is_over || self.account.streams.iter().filter(|stream| stream.is_open).count() >= STREAMS {
            return;
        }
        let id = self.accept(token_of(n));
        self.gateway.receive(NOW, id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        self.turn(0);
        let call = self.calls.pop().expect("a connect callback");
        let groups = group.map_or(String::new(), |group| format!(r#""{}""#, name_of(group)));
        let body = Some(format!(r#"{{"groups":[{groups}]}}"#).into_bytes());
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
        self.gateway.complete(NOW, Completion::Called(Called { id: call, outcome }));
        self.streams.push(id);
        self.account.streams.push(account::Stream { group, is_open: true, ..account::Stream::default() });
    }

    fn begin_feed(&mut self) {
        let is_open = |feed: &&account::Feed| matches!(feed.standing, Standing::Unread | Standing::Open);
        if self.account.feeds.iter().filter(is_open).count() >= FEEDS {
            return;
        }
        let is_lines = self.random.chance(650);
        let target = if is_lines && self.random.chance(150) { None } else { Some(self.draw_target()) };
        let ends = matches!(target, Some(Target::Group(_))) && self.random.chance(500);
        let others = (0..2).map(|_| self.draw_target()).collect();
        let script = Plan { target, ends, is_lines, others }.write(&mut self.random, &mut self.events);
        let point = self.random.index(script.bytes.len() + 1);
        let breaks = match self.random.below(10) {
            0 | 1 => Break::EndOfInput(point),
            2 => Break::Reset(point),
            _ => Break::Never,
        };
        let connection = self.accept(Uuid::nil());
        let n = self.account.begin(target, ends);
        self.by_connection.insert(connection, n);
        self.senders.push(Sender { connection, script, written: 0, read: 0, breaks, is_gone: false });
    }

    /// A stream's client leaves.
    fn leave(&mut self) {
        let open: Vec<usize> = (0..self.streams.len()).filter(|n| self.account.streams[*n].is_open).collect();
        if open.is_empty() {
            return;
        }
        // Whoever is in a group may still be on the way to its end.
        self.turn(u64::MAX);
        let n = self.random.pick(&open);
        self.account.leave(n);
        self.gateway.receive_eof(NOW, self.streams[n]);
    }

    /// A send that is no feed.
    fn send(&mut self) {
        let target = self.draw_target();
        let (named, end) = match target {
            Target::Stream(stream) => (format!(r#""token":"{}""#, token_of(stream)), false),
            Target::Group(group) => (format!(r#""group":"{}""#, name_of(group)), self.random.chance(500)),
        };
        let close = !end && self.random.chance(500);
        self.events += 1;
        let frame = format!("data: {}\n\n", self.events);
        let body = format!(
            r#"{{{named},"event":{{"data":"{}"}},"close":{close}{}}}"#,
            self.events,
            if end { r#","end":true"# } else { "" }
        );
        let is_executed = self.account.execute(&Said::Send { target, events: vec![frame], close, end }, None);
        let request =
            format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.written.remove(&self.backend);
        self.gateway.receive(NOW, self.backend, request.as_bytes());
        self.turn(0);
        let answer = &self.written[&self.backend];
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), is_executed, "a send: {}", answer.escape_ascii());
    }

    /// A sender goes on, or the gateway with what it has written.
    fn go_on(&mut self) {
        let going: Vec<usize> = (0..self.senders.len()).filter(|n| !self.senders[*n].is_gone).collect();
        if going.is_empty() {
            return;
        }
        let n = self.random.pick(&going);
        let sender = &mut self.senders[n];
        let total = match sender.breaks {
            Break::Never => sender.script.bytes.len(),
            Break::EndOfInput(point) | Break::Reset(point) => point,
        };
        let more = self.random.pick(&[0, 1, 3, 30, 300, 3000]);
        sender.written = (sender.written + more).min(total);
        if sender.written == total && sender.breaks == Break::Reset(total) && self.random.chance(300) {
            sender.is_gone = true;
            self.account.break_off(n);
            return self.gateway.fail(NOW, sender.connection, SocketError::Reset);
        }
        let bytes = self.random.pick(&[1, 2, 20, 200, 2000]);
        self.read(n, bytes);
    }

    /// The gateway reads so many bytes, or the end of input behind them.
    fn read(&mut self, n: usize, bytes: usize) {
        let sender = &mut self.senders[n];
        let id = sender.connection;
        if sender.is_gone || !self.gateway.wants_input(id) {
            return;
        }
        let end = (sender.read + bytes).min(sender.written);
        if sender.read == end {
            if sender.breaks == Break::EndOfInput(end) && bytes > 0 {
                sender.is_gone = true;
                self.account.break_off(n);
                self.gateway.receive_eof(NOW, id);
            }
            return;
        }
        let piece = sender.script.bytes[sender.read..end].to_vec();
        sender.read = end;
        while sender.script.marks.front().is_some_and(|(at, _)| *at <= end) {
            let Some((_, mark)) = sender.script.marks.pop_front() else { break };
            match mark {
                Mark::Head => self.account.read_head(n),
                Mark::Line(said) => self.account.read_line(n, &said),
                Mark::Complete => self.account.complete(n),
                Mark::Refused(status, error) => self.account.refuse(n, status, error),
            }
        }
        self.gateway.receive(NOW, id, &piece);
    }

    /// What the event loop does in a turn; `members`: so many members of groups are written to.
    fn turn(&mut self, members: u64) {
        self.carry_out();
        for _ in 0..members {
            let Some(id) = self.gateway.next_member(NOW) else { break };
            self.flush(id);
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
        self.written.entry(id).or_default().extend_from_slice(&unsent);
        self.gateway.wrote(NOW, id, unsent.len());
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(Job::Call(call)) => match call.kind {
                CallKind::Connect => self.calls.push(call.id),
                CallKind::Disconnect { .. } => {
                    let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
                    self.gateway.complete(NOW, Completion::Called(Called { id: call.id, outcome }));
                }
                CallKind::Start => panic!("a start that was not asked for"),
            },
            Action::TellFeed(id) => self.gateway.tell_feed(NOW, id),
            Action::ReadLast(id) => {
                if let Some(n) = self.by_connection.get(&id).copied() {
                    // The end of the input of a sender that is about to be told comes later.
                    let is_told = matches!(self.account.feeds[n].standing, Standing::Answered(_));
                    let is_all_read = self.senders[n].read == self.senders[n].written;
                    self.read(n, if is_told && is_all_read { 0 } else { usize::MAX / 2 });
                    self.account.looked_last(n, self.senders[n].read > 0);
                }
                self.gateway.end_reading(NOW, id);
            }
            // A connection that is shut down lingers until its peer has left.
            Action::ShutdownWrite(id) if self.is_drained => self.gateway.receive_eof(NOW, id),
            Action::ShutdownWrite(_) | Action::Close(..) | Action::StopAccepting | Action::KeepAlive(_) => {}
            Action::Report(_) | Action::List => panic!("a report that nobody has asked for"),
            Action::Start(Job::Resolve(..)) | Action::Connect(_) | Action::Disconnect => panic!("there is no Redis"),
        }
    }

    fn drain(&mut self) {
        self.account.is_draining = true;
        self.is_drained = true;
        self.gateway.shut_down(NOW);
        for _ in 0..1000 {
            let members = self.random.below(3);
            self.turn(members);
            self.gateway.expire(NOW);
        }
        self.account.drain();
        self.turn(u64::MAX);
        self.check(true);
        self.gateway.assert_invariants();
        assert!(!self.gateway.has_visits(), "walks after the end");
    }

    /// `is_settled`: nothing is on its way.
    fn check(&self, is_settled: bool) {
        for (n, id) in self.streams.iter().enumerate() {
            self.check_stream(n, self.written.get(id).map_or(&[], |written| written), is_settled);
        }
        for (n, sender) in self.senders.iter().enumerate() {
            let written = self.written.get(&sender.connection).map_or(&[][..], |written| written);
            let answer = String::from_utf8_lossy(written);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            let got = if head.is_empty() { String::new() } else { format!("{} {body}", &head[9..12]) };
            let due = match &self.account.feeds[n].standing {
                Standing::Answered(answer) => answer,
                Standing::Unread | Standing::Open | Standing::BrokenOff => "",
            };
            assert_eq!(got, due, "feed {n}: another answer");
            let closes = head.contains("\r\nConnection: close");
            assert!(
                closes || got.is_empty() || got.starts_with("200"),
                "feed {n}: an early answer ends the connection"
            );
        }
    }

    fn check_stream(&self, n: usize, written: &[u8], is_settled: bool) {
        let stream = &self.account.streams[n];
        let text = String::from_utf8_lossy(written);
        let Some((_, body)) = text.split_once("\r\n\r\n") else {
            assert!(!is_settled || stream.due.is_empty(), "stream {n} has no head");
            return;
        };
        let mut rest = body;
        let (mut content, mut is_over) = (String::new(), false);
        while let Some((size, behind)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("a size");
            content.push_str(&behind[..size]);
            rest = &behind[size + 2..];
            is_over |= size == 0;
        }
        let frames = content.split_inclusive("\n\n").filter(|frame| !frame.starts_with("retry: "));
        let got: Vec<&str> = frames.collect();
        let is_all = got.len() == stream.due.len();
        assert!(got.iter().zip(&stream.due).all(|(got, due)| got == due), "stream {n}: {got:?}, not {:?}", stream.due);
        assert!(got.len() <= stream.due.len(), "stream {n}: more than was sent: {got:?}");
        assert!(is_all || !is_over, "stream {n}: ended before its events");
        assert!(!is_over || !stream.is_open, "stream {n}: ended by nobody");
        if is_settled && !stream.has_left {
            assert!(is_all, "stream {n}: events are missing: {got:?} of {:?}", stream.due);
            assert_eq!(is_over, !stream.is_open, "stream {n}: it goes on");
        }
    }
}
