//! Everything around the gateway: sockets, backend and clock, moved by the script, and the oracle's judgement
//! of what crosses them.

use crate::client::{Client, Verdict};
use crate::operation::{Answer, Operation, Request, Send, WELCOME};
use crate::responses::{self, Body};
use crate::sends::{self, Expected};
use serde_json::Value;
use ssegateway::callback::{Call, CallId, CallKind, Called, Reason};
use ssegateway::job::{Completion, Job};
use ssegateway::gateway::{Action, ConnId, SocketError, Finished, Gateway, Listener, Peer, ProcessFigures, Settings};
use ssegateway::clock::Millis;
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// How late a timer may fire, in milliseconds.
const TICK_MS: u64 = 16;
/// How much one write takes, as in the event loop.
const WRITE_BYTES: usize = 64 * 1024;
/// What of a call's time is kept for telling of its end: the gateway's own grace.
const CALL_GRACE_MS: u64 = 1000;
/// How long the gateway waits for a client to close, in milliseconds.
const LINGER_MS: u64 = 1000;

pub struct World {
    gateway: Gateway,
    settings: Settings,
    now: u64,
    clients: Vec<Client>,
    /// The open connections' places among the clients.
    places: HashMap<ConnId, usize>,
    calls: Vec<Call>,
    answered: Vec<CallId>,
    /// The backend's connection, for sends that the oracle follows.
    sender: Option<usize>,
    events: u32,
    shutting_down: bool,
    stopped_accepting: bool,
}

/// A send whose answer is due.
struct Sent {
    target: usize,
    close: bool,
    frame: Option<String>,
    /// Of its body.
    bytes: usize,
    /// What its target had unsent before the batch.
    backlog: usize,
    was_closed: bool,
    /// The first of its batch for that target.
    is_first: bool,
}

impl World {
    pub fn new(settings: Settings) -> World {
        let now = 1_000;
        World {
            gateway: Gateway::new(settings.clone(), Millis::from_millis(now), 7),
            settings,
            now,
            clients: Vec::new(),
            places: HashMap::new(),
            calls: Vec::new(),
            answered: Vec::new(),
            sender: None,
            events: 0,
            shutting_down: false,
            stopped_accepting: false,
        }
    }

    pub fn is_finished(&self) -> bool {
        self.gateway.finished().is_some()
    }

    pub fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Accept { internal } => drop(self.accept(internal && self.settings.internal_listener)),
            Operation::Request { client, request, deliver } => {
                let Some(at) = self.pick(client) else { return };
                self.request(at, &request);
                if deliver {
                    self.deliver(at, usize::MAX);
                }
            }
            Operation::Mangled { client, request, at: position, byte } => {
                let Some(at) = self.pick(client) else { return };
                let start = self.clients[at].outbox.len();
                self.request(at, &request);
                let client = &mut self.clients[at];
                client.tame = false;
                let written = client.outbox.len() - start;
                if written > 0 {
                    client.outbox[start + usize::from(position) % written] = byte;
                }
                self.deliver(at, usize::MAX);
            }
            Operation::Raw { client, bytes } => self.write_raw(client, &bytes),
            Operation::Flood { client, kibibytes } => {
                self.write_raw(client, &vec![b'x'; usize::from(kibibytes) * 1024])
            }
            Operation::Deliver { client, bytes } => {
                let Some(at) = self.pick(client) else { return };
                self.deliver(at, usize::from(bytes));
            }
            Operation::Eof { client } => {
                let Some(at) = self.pick(client) else { return };
                self.deliver(at, usize::MAX);
                self.eof(at);
            }
            Operation::Fail { client, fault } => {
                let Some(at) = self.pick(client) else { return };
                self.fail(at, fault);
            }
            Operation::Room { client, bytes } => {
                let Some(at) = self.pick(client) else { return };
                let client = &mut self.clients[at];
                client.room = bytes.map(usize::from);
                client.roomy &= bytes.is_none();
                self.flush(at);
                self.settle();
            }
            Operation::Send(sends) => self.send(&sends),
            Operation::Answer { call, answer } => {
                if !self.calls.is_empty() {
                    let call = self.calls.remove(usize::from(call) % self.calls.len());
                    self.answer(&call, &answer);
                }
            }
            Operation::AnswerAgain { call, answer } => {
                if let Some(id) = self.answered.iter().rev().nth(usize::from(call)) {
                    let before = (self.gateway.stream_count(), self.gateway.connection_count(), self.gateway.call_count());
                    let id = *id;
                    self.complete(id, &answer);
                    assert!(self.gateway.next_action().is_none() && self.gateway.next_dirty().is_none());
                    let after = (self.gateway.stream_count(), self.gateway.connection_count(), self.gateway.call_count());
                    assert_eq!(before, after, "a stale answer reached somebody");
                }
            }
            Operation::Sleep { millis } => self.sleep(millis),
            Operation::Leap { millis } => {
                self.now += millis;
                self.clients.iter_mut().for_each(|client| client.leapt = true);
                self.expire();
            }
            Operation::ShutDown => self.shut_down(),
            Operation::Shrink => self.gateway.shrink(),
        }
    }

    /// What must hold after every operation.
    pub fn check(&mut self) {
        self.gateway.assert_invariants();
        assert_eq!(self.gateway.connection_count(), self.places.len(), "a connection that nobody closed, or twice");
        assert!(self.gateway.stream_count() <= self.settings.streams_max);
        assert!(self.calls.len() <= self.settings.callback_concurrency);
        assert!(self.gateway.call_count() >= self.calls.len());
        for (at, client) in self.clients.iter_mut().enumerate() {
            if client.closed.is_some() {
                assert!(!self.gateway.wants_input(client.id) && self.gateway.unsent(client.id).is_empty());
                continue;
            }
            assert_eq!(self.places.get(&client.id), Some(&at));
            let waits = !self.gateway.unsent(client.id).is_empty();
            assert!(!waits || client.room == Some(0), "a write that nobody tries");
            if waits && !client.stalled {
                client.progress_at = self.now;
            }
            client.stalled = waits;
        }
    }

    fn check_deadlines(&mut self) {
        let late = |since: u64, allowed: Duration| since + allowed.as_millis() as u64 + TICK_MS <= self.now;
        for client in self.clients.iter().filter(|client| client.closed.is_none()) {
            if client.stalled && !self.gateway.unsent(client.id).is_empty() {
                assert!(!late(client.progress_at, self.settings.client_timeout), "a stalled client stays");
            }
            if client.delivered == 0 {
                assert!(!late(client.accepted_at, self.settings.request_timeout), "a silent client stays");
            }
            if let Some(shut_at) = client.shut_at {
                assert!(!late(shut_at, Duration::from_millis(LINGER_MS)), "a finished client stays");
            }
            let allowed = self.settings.callback_timeout + Duration::from_millis(CALL_GRACE_MS);
            if client.request.is_some() && client.verdict.is_none() && late(client.called_at, allowed) {
                let told = client.received.len() + self.gateway.unsent(client.id).len();
                assert!(told > 0, "a client waits for an answer that does not come");
            }
        }
    }

    fn pick(&self, client: u8) -> Option<usize> {
        let count = self.clients.len();
        // The sender keeps to itself.
        (count > 0).then(|| count - 1 - usize::from(client) % count.min(12)).filter(|at| Some(*at) != self.sender)
    }

    fn accept(&mut self, internal: bool) -> Option<usize> {
        let at = self.clients.len();
        // Tokens that no accident turns into each other.
        let number = (at as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let token = uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid();
        let listener = if internal { Listener::Internal } else { Listener::Public };
        let id = self.gateway.accept(Millis::from_millis(self.now), listener, Peer::Loopback, token);
        assert_eq!(id.is_none(), self.stopped_accepting);
        let id = id?;
        let mut client = Client::new(id, token, internal, self.now);
        client.may.have_been_closed = self.shutting_down;
        self.clients.push(client);
        assert_eq!(self.places.insert(id, at), None, "an id in use");
        self.settle();
        Some(at)
    }

    fn request(&mut self, at: usize, request: &Request) {
        let number = at as u32;
        if let Request::Send(send) = request {
            let Some(target) = self.pick(send.client) else { return };
            let event = send.event.as_ref().map(|event| sends::event(event, u32::MAX / 4 + number));
            let body = sends::body(self.clients[target].token, event.as_ref(), send.close);
            let may = &mut self.clients[target].may;
            may.have_been_closed |= send.close;
            may.have_failed |= send.event.is_some();
            may.have_more_events |= send.event.is_some();
            self.clients[at].outbox.extend_from_slice(&sends::post(send, &body));
            self.clients[at].requests.push(Expected::Any);
            return;
        }
        let client = &mut self.clients[at];
        let reports = client.internal || !self.settings.internal_listener;
        let (bytes, expected) = sends::request(request, number, client.internal, reports);
        client.outbox.extend_from_slice(&bytes);
        client.requests.push(expected);
    }

    fn write_raw(&mut self, client: u8, bytes: &[u8]) {
        let Some(at) = self.pick(client) else { return };
        self.clients[at].tame = false;
        self.clients[at].outbox.extend_from_slice(bytes);
        self.deliver(at, usize::MAX);
    }

    fn deliver(&mut self, at: usize, count: usize) {
        let client = &mut self.clients[at];
        if !self.gateway.wants_input(client.id) {
            return;
        }
        let count = count.min(client.outbox.len()).min(WRITE_BYTES);
        if count == 0 {
            return;
        }
        let bytes: Vec<u8> = client.outbox.drain(..count).collect();
        client.delivered += count;
        client.may.have_failed |= client.delivered > 8 * 1024;
        self.gateway.receive(Millis::from_millis(self.now), client.id, &bytes);
        self.settle();
    }

    fn eof(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if !self.gateway.wants_input(client.id) {
            return;
        }
        let before = self.gateway.stream_count();
        client.may.have_left = true;
        self.gateway.receive_eof(Millis::from_millis(self.now), client.id);
        self.settle();
        self.note_end(at, before, Reason::ClientClosed);
    }

    fn fail(&mut self, at: usize, fault: SocketError) {
        let client = &mut self.clients[at];
        let reason = match fault {
            SocketError::Reset => Reason::ClientClosed,
            SocketError::WriteFailed | SocketError::TimedOut => Reason::Error,
        };
        client.may.have_left |= fault == SocketError::Reset;
        client.may.have_failed |= fault != SocketError::Reset;
        let before = self.gateway.stream_count();
        self.gateway.fail(Millis::from_millis(self.now), client.id, fault);
        self.settle();
        assert!(self.clients[at].closed.is_some(), "a failed socket stays open");
        self.note_end(at, before, reason);
    }

    /// One stream less: this one, for that reason.
    fn note_end(&mut self, at: usize, before: usize, reason: Reason) {
        let after = self.gateway.stream_count();
        assert!(after == before || after + 1 == before, "{before} streams, then {after}");
        let client = &mut self.clients[at];
        if after < before {
            assert_eq!(client.ended_by, None, "a stream that ended twice");
            client.ended_by = Some(reason);
            // A disconnect may have been told of before the end could be noted.
            assert!(client.disconnects.iter().all(|told| told == reason.as_str()), "{:?}", client.disconnects);
        }
    }

    /// Sends whose answers are read at once.
    fn send(&mut self, batch: &[Send]) {
        let is_open = |client: &Client| client.closed.is_none() && client.shut_at.is_none();
        let sender = match self.sender.filter(|at| is_open(&self.clients[*at])) {
            Some(at) => at,
            None => {
                self.sender = None;
                let Some(at) = self.accept(self.settings.internal_listener) else { return };
                at
            }
        };
        // Nobody sends to the connection that it sends on.
        self.sender = Some(sender);
        let mut bytes = Vec::new();
        let mut sent: Vec<Sent> = Vec::new();
        for send in batch {
            let Some(target) = self.pick(send.client) else { continue };
            self.events += 1;
            let event = send.event.as_ref().map(|event| sends::event(event, self.events));
            let client = &mut self.clients[target];
            let body = sends::body(client.token, event.as_ref(), send.close);
            bytes.extend_from_slice(&sends::post(send, &body));
            let backlog = self.gateway.unsent(client.id).len();
            // What comes of it may be told to the backend before the answer is read.
            client.may.have_been_closed |= send.close;
            client.may.have_failed |=
                backlog.max(client.frames_bytes() + 4 * bytes.len()) > self.settings.pending_bytes_max;
            sent.push(Sent {
                target,
                close: send.close,
                frame: event.map(|event| event.frame),
                bytes: body.len(),
                backlog,
                was_closed: client.closed.is_some(),
                is_first: sent.iter().all(|other| other.target != target),
            });
        }
        let before = self.clients[sender].received.len();
        self.clients[sender].requests.extend(sent.iter().map(|_| Expected::Any));
        self.clients[sender].outbox = bytes;
        self.deliver(sender, usize::MAX);
        let received = self.clients[sender].received[before..].to_vec();
        let answers = responses::read(&received);
        assert!(answers.rest.is_empty());
        for (index, sent) in sent.into_iter().enumerate() {
            let Some(answer) = answers.whole.get(index) else { panic!("a send without an answer") };
            let Body::Whole(text) = &answer.body else { panic!("a stream for a send") };
            assert_eq!(answer.status == 413, sent.bytes > self.settings.body_bytes_max);
            if answer.status == 413 {
                assert_eq!(answers.whole.len(), index + 1);
                return;
            }
            self.judge_send(sent, answer.status, text);
        }
    }

    fn judge_send(&mut self, sent: Sent, status: u16, text: &[u8]) {
        let client = &mut self.clients[sent.target];
        let pending_max = self.settings.pending_bytes_max;
        let held = client.frames_bytes();
        match (status, text) {
            (200, br#"{"status":"ok"}"# | br#"{"status":"buffered"}"#) => {
                assert_eq!(client.ended_by, None, "sent to a stream that is over");
                assert!(!sent.was_closed, "sent to a connection that is closed");
                assert!(!client.told_to_close, "sent behind a close");
                client.told_to_close = sent.close;
                let buffered = text == br#"{"status":"buffered"}"#;
                assert_eq!(buffered, client.opened_at.is_none());
                if buffered && sent.frame.is_some() {
                    assert!(held <= pending_max || client.may.have_more_events, "{held} bytes were not too many");
                } else if sent.is_first && sent.frame.is_some() {
                    // Within a batch, what no write has been tried for yet does not count.
                    assert!(sent.backlog <= pending_max, "{} bytes were not too many", sent.backlog);
                }
                client.frames.extend(sent.frame);
                if sent.close && !buffered {
                    client.ended_by = Some(Reason::ServerClosed);
                }
            }
            (404, br#"{"error":"Token not found"}"#) => {
                assert!(!client.is_surely_streaming(), "a stream was not found")
            }
            (500, br#"{"error":"Write failed: connection closed"}"#) => {
                assert_eq!(client.ended_by, None, "a stream that ended twice");
                assert!(sent.frame.is_some());
                let unsent = if client.opened_at.is_none() { held } else { sent.backlog };
                assert!(unsent > pending_max || client.may.have_more_events, "{unsent} bytes were too many");
                client.may.have_failed = true;
                client.ended_by = Some(Reason::Error);
            }
            (status, text) => panic!("{status} {}", responses::text(text)),
        }
    }

    fn complete(&mut self, id: CallId, answer: &Answer) {
        let completion = Completion::Called(Called { id, outcome: answer.outcome() });
        self.gateway.complete(Millis::from_millis(self.now), completion);
    }

    fn answer(&mut self, call: &Call, answer: &Answer) {
        self.answered.push(call.id);
        let at = self.clients.iter().position(|client| client.call == Some(call.id));
        let before = self.gateway.stream_count();
        let Some(at) = at.filter(|_| call.kind == CallKind::Connect) else {
            self.complete(call.id, answer);
            self.settle();
            assert_eq!(self.gateway.stream_count(), before);
            return;
        };
        let client = &mut self.clients[at];
        client.call = None;
        client.verdict = Some(match *answer {
            Answer::Accept { .. } => Verdict::Accepted,
            Answer::Reject { status } => Verdict::Rejected { status },
            Answer::Broken { timed_out: _, written } => Verdict::Broken { written },
        });
        client.may.have_been_closed |= matches!(answer, Answer::Accept { close: true, .. });
        let told = client.received.len() + self.gateway.unsent(client.id).len();
        let waits = client.closed.is_none();
        self.complete(call.id, answer);
        let client = &mut self.clients[at];
        let tells = client.received.len() + self.gateway.unsent(client.id).len() > told;
        if answer.is_accepted() && waits && tells {
            client.opened_at = Some(self.now);
            if let Answer::Accept { event: true, .. } = answer {
                client.welcome = Some(sends::data_lines(WELCOME));
            }
        }
        self.settle();
        let reason = if answer.is_accepted() { Reason::ServerClosed } else { Reason::Error };
        self.note_end(at, before, reason);
    }

    fn sleep(&mut self, millis: u64) {
        let until = self.now + millis;
        let mut turns = 0;
        while let Some(due) = self.gateway.next_deadline().map(Millis::as_millis)
            && due <= until
        {
            self.now = self.now.max(due);
            self.expire();
            turns += 1;
            assert!(turns < 20_000, "the loop spins");
        }
        self.now = until;
        self.expire();
        if !self.is_finished() {
            self.check_deadlines();
        }
    }

    fn expire(&mut self) {
        for client in &mut self.clients {
            // Whoever waits for something may be told that it has waited too long.
            client.may.have_failed |= client.opened_at.is_none() || client.room.is_some();
        }
        let now = Millis::from_millis(self.now);
        let mut more = self.gateway.expire(now);
        self.settle();
        while more {
            more = self.gateway.expire_more(now);
            self.settle();
        }
        self.check();
        if let Some(next) = self.gateway.next_deadline() {
            assert!(next.as_millis() > self.now, "nothing is left to do, but the gateway does not sleep");
        }
    }

    fn shut_down(&mut self) {
        self.shutting_down = true;
        self.clients.iter_mut().for_each(|client| client.may.have_been_closed = true);
        self.gateway.shut_down(Millis::from_millis(self.now));
        self.settle();
    }

    /// As the event loop does after each input: writes first, then actions.
    fn settle(&mut self) {
        loop {
            if let Some(id) = self.gateway.next_dirty() {
                let at = self.places[&id];
                self.flush(at);
            } else if let Some(action) = self.gateway.next_action() {
                self.act(action);
            } else {
                return;
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let client = &mut self.clients[at];
        loop {
            let unsent = self.gateway.unsent(client.id);
            let count = unsent.len().min(WRITE_BYTES).min(client.room.unwrap_or(usize::MAX));
            if count > 0 {
                assert!(client.shut_at.is_none(), "bytes behind the end");
                client.received.extend_from_slice(&unsent[..count]);
                client.room = client.room.map(|room| room - count);
                client.progress_at = self.now;
            }
            self.gateway.wrote(Millis::from_millis(self.now), client.id, count);
            if count == 0 || self.gateway.unsent(client.id).is_empty() {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(Job::Call(call)) => self.call(call),
            Action::Report(ticket) => self.gateway.report(Millis::from_millis(self.now), ticket, &ProcessFigures::default()),
            Action::ShutdownWrite(id) => {
                assert!(self.gateway.unsent(id).is_empty(), "the end before the last bytes");
                if let Some(at) = self.places.get(&id) {
                    assert_eq!(self.clients[*at].shut_at.replace(self.now), None, "shut down twice");
                }
            }
            Action::Close(id, how) => {
                let at = self.places.remove(&id).expect("closed twice");
                self.clients[at].closed = Some(how);
                self.clients[at].outbox.clear();
            }
            Action::StopAccepting => {
                assert!(self.shutting_down && !self.stopped_accepting);
                self.stopped_accepting = true;
            }
        }
    }

    /// The backend is asked or told.
    fn call(&mut self, call: Call) {
        let mut body = Vec::new();
        call.write_body(&mut body);
        assert_eq!(body.len(), call.body_bytes());
        let body: Value = serde_json::from_slice(&body).expect("a callback is JSON");
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let token = Uuid::parse_str(&text("token")).expect("a token");
        assert_eq!(call.token, token);
        let client = self.clients.iter_mut().find(|client| client.token == token).expect("a token of ours");
        let request = body["request"].to_string();
        assert!(body["request"]["url"].is_string() && body["request"]["headers"].is_object());
        match call.kind {
            CallKind::Connect => {
                assert_eq!((text("action").as_str(), body.as_object().map(|body| body.len())), ("connect", Some(3)));
                assert_eq!(client.request.replace(request), None, "asked twice");
                assert!(client.ended_by.is_none());
                client.call = Some(call.id);
                client.called_at = self.now;
            }
            CallKind::Disconnect { .. } => {
                assert_eq!((text("action").as_str(), body.as_object().map(|body| body.len())), ("disconnect", Some(4)));
                assert_eq!(client.request.as_ref(), Some(&request), "another request than was asked about");
                let reason = text("reason");
                match client.verdict {
                    None => panic!("told of the end before the answer"),
                    Some(Verdict::Accepted) => {}
                    Some(Verdict::Broken { written: true }) => assert_eq!(reason, "error"),
                    Some(Verdict::Rejected { .. } | Verdict::Broken { written: false }) => panic!("told in vain"),
                }
                let expected = if client.verdict == Some(Verdict::Accepted) { client.ended_by } else { None };
                assert!(expected.is_none_or(|expected| expected.as_str() == reason), "{reason}, not {expected:?}");
                let may = &client.may;
                match reason.as_str() {
                    "client_closed" => assert!(may.have_left),
                    "server_closed" => assert!(may.have_been_closed || self.shutting_down),
                    "error" => assert!(may.have_failed || client.ended_by.is_some() || expected.is_none()),
                    other => panic!("no reason: {other}"),
                }
                client.disconnects.push(reason);
                assert_eq!(client.disconnects.len(), 1, "told twice");
            }
        }
        assert!(self.calls.iter().all(|other| other.id != call.id), "an id in use");
        self.calls.push(call);
    }

    /// Nothing strange happens any more: everything must be delivered, told and released.
    pub fn come_to_rest(&mut self, shut_down: bool) {
        if self.gateway.finished() == Some(Finished::TimedOut) {
            return;
        }
        for at in 0..self.clients.len() {
            self.clients[at].room = None;
            self.flush(at);
            self.settle();
            self.deliver(at, usize::MAX);
        }
        self.check();
        for client in &self.clients {
            client.judge(&self.settings, self.now);
            self.judge_completeness(client);
        }
        let started = self.now;
        if shut_down {
            self.shut_down();
        }
        let must_finish = self.shutting_down;
        loop {
            self.check();
            while let Some(call) = self.calls.pop() {
                let close = self.calls.len() % 2 == 0;
                self.answer(&call, &Answer::Accept { status: 200, event: false, close, flaw: 2 });
            }
            for at in 0..self.clients.len() {
                let waits_for_us = self.clients[at].shut_at.is_some();
                if self.clients[at].closed.is_none() && (waits_for_us || !must_finish) {
                    self.eof(at);
                }
            }
            if !self.calls.is_empty() {
                continue;
            }
            let at_rest = self.gateway.connection_count() == 0 && self.gateway.call_count() == 0;
            if if must_finish { self.is_finished() } else { at_rest } {
                break;
            }
            let next = self.gateway.next_deadline().expect("something must still happen").as_millis();
            assert!(next < started + 60_000, "this takes for ever");
            self.now = self.now.max(next);
            self.expire();
        }
        assert_eq!(self.gateway.finished(), must_finish.then_some(Finished::Clean));
        assert_eq!((self.gateway.connection_count(), self.gateway.stream_count(), self.gateway.call_count()), (0, 0, 0));
        self.check();
        for client in &self.clients {
            client.judge(&self.settings, self.now);
            client.judge_callbacks();
        }
    }

    /// Every request of a connection that is still open has its answer.
    fn judge_completeness(&self, client: &Client) {
        if !client.tame || client.closed.is_some() || client.shut_at.is_some() || !client.outbox.is_empty() {
            return;
        }
        let answers = responses::read(&client.received).whole.len();
        let stream = client.requests.iter().position(|request| *request == Expected::Stream);
        let due = stream.unwrap_or(client.requests.len());
        assert!(answers == due || (stream.is_some() && answers == due + 1), "{answers} answers of {due}");
    }
}
