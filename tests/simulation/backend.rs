//! The backend behind the gateway, and the pool of workers in between.
//!
//! It decides on connects, records disconnects, and sends: from inside the connect callback, after it, and to streams
//! that have ended; on a few kept-alive connections, often many in one batch.

use super::client::{Client, Script};
use super::faults::Fault;
use super::world::{Item, World};
use crate::oracle::callbacks::{FLAWED_KINDS, Lane, Reply};
use crate::oracle::entries::{Change, Grant, Since};
use crate::oracle::groups::{self, GROUPS, Publication};
use crate::oracle::millis;
use crate::oracle::requests::{self, Asked, Serves};
use crate::oracle::sends::{Event, Form, INVALID_KINDS};
use crate::random::Random;
use ssegateway::callback::{Call, CallId, Called, LATE_TIME_MAX, Outcome};
use ssegateway::gateway::Listener;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;

/// Bytes of sends to groups that a connection may have on its way.
const BEHIND_MAX: u64 = 16 * 1024;

struct Record {
    id: CallId,
    /// Its stream's client, and its kind; `None` if it is about the gateway's start.
    about: Option<(usize, Lane)>,
    reply: Reply,
    /// The second outcome if this one is overdue, and its delay.
    late: Option<(Reply, u64)>,
    is_late: bool,
    taken: bool,
}

/// A few workers that take calls one by one, whether or not the caller still waits.
pub(super) struct Workers {
    /// When each is free.
    free_at: BinaryHeap<Reverse<u64>>,
    service_ms: u64,
    /// Without other faults no call may time out, since the gateway limits the calls in flight to their capacity.
    never_late: bool,
}

impl Workers {
    /// The first wave, at the gateway's initial limit, can be answered in time.
    pub(super) fn draw(random: &mut Random, timeout_ms: u64, never_late: bool) -> Self {
        let count = random.within(1, 4);
        let service_ms = timeout_ms * count / random.within(10, 40);
        Self { free_at: (0..count).map(|_| Reverse(0)).collect(), service_ms, never_late }
    }

    /// The duration of a call that arrives at `now`.
    fn take(&mut self, now: u64) -> u64 {
        let free_at = self.free_at.pop().map_or(now, |Reverse(free_at)| free_at.max(now));
        self.free_at.push(Reverse(free_at + self.service_ms));
        free_at + self.service_ms - now
    }
}

#[derive(Default)]
pub(super) struct Backend {
    /// If there are fewer workers than possible calls.
    pub workers: Option<Workers>,
    /// When it is down.
    pub down: Range<u64>,
    calls: Vec<Record>,
    /// Clients with a connect callback.
    streams: Vec<usize>,
    /// Connections for its sends.
    senders: Vec<usize>,
    /// The client of the next token.
    pub token_for: usize,
    events: u64,
}

impl World {
    fn hits(&mut self, fault: Fault) -> bool {
        self.faults.strikes(fault, &mut self.random)
    }

    /// The gateway makes a callback.
    pub(super) fn take_call(&mut self, call: &Call) {
        let (client, lane) = self.oracle.called(call);
        let (about, connect) = (Some((client, lane)), lane == Lane::Connects);
        self.trace.note(self.clock, "callback", &[("client", client as u64), ("connect", u64::from(connect))]);
        let (reply, delay) = self.serve_call(connect);
        let mut reply = self.grant(client, connect, reply);
        let timed_out = reply.outcome == Outcome::TimedOut { written: true };
        let late = (connect && timed_out && self.hits(Fault::LateAnswer)).then(|| self.decide_late());
        if late.is_some() {
            reply = Reply::overdue();
        }
        self.record(Record { id: call.id, about, reply, late, is_late: false, taken: false }, delay);
        if connect {
            self.backend.streams.push(client);
            if self.random.chance(300) && !self.faults.ended() {
                let count = self.random.within(1, 3);
                self.send_batch(count, Some(client));
            }
        }
    }

    /// Puts a stream that is accepted into groups.
    fn grant(&mut self, client: usize, connect: bool, reply: Reply) -> Reply {
        let is_followed = self.has_groups && connect && !self.oracle.exchanges[client].wild;
        if !is_followed || !reply.is_plain() || self.random.chance(200) {
            return reply;
        }
        // An answer without groups has nothing to attach to.
        let attach = self.random.chance(100);
        let groups = if attach && self.random.chance(50) { Vec::new() } else { self.draw_groups(3) };
        let since = match self.random.below(8) {
            0 => Since::Start,
            1 => self.draw_cursor().map_or(Since::Now, Since::Cursor),
            _ => Since::Now,
        };
        reply.into_groups(Grant { groups, since, attach })
    }

    fn draw_groups(&mut self, most: u64) -> Vec<usize> {
        let count = self.random.within(1, most);
        let groups: BTreeSet<usize> = (0..count).map(|_| self.random.index(GROUPS)).collect();
        groups.into_iter().collect()
    }

    /// The gateway tells of its start.
    pub(super) fn take_start(&mut self, call: &Call) {
        self.oracle.start_called(call);
        self.trace.note(self.clock, "start told", &[]);
        let (reply, delay) = self.serve_call(false);
        self.record(Record { id: call.id, about: None, reply, late: None, is_late: false, taken: false }, delay);
    }

    fn record(&mut self, record: Record, delay: u64) {
        self.backend.calls.push(record);
        let number = self.backend.calls.len() - 1;
        self.plan(delay, Item::Outcome(number));
    }

    /// The outcome of a callback that arrives now, and its time.
    fn serve_call(&mut self, connect: bool) -> (Reply, u64) {
        let (mut reply, mut delay) = self.decide(connect);
        let timeout = millis(self.settings.callback_timeout);
        if let Some(workers) = &mut self.backend.workers {
            let took = workers.take(self.clock);
            assert!(took <= timeout || !workers.never_late, "a callback that a queue of {took} ms makes time out");
            delay += took;
            if delay >= timeout {
                (reply, delay) = (Reply::broken(true, true), timeout);
            }
        }
        if self.backend.down.contains(&self.clock) && !self.faults.ended() {
            (reply, delay) = (Reply::broken(false, false), self.random.below(5));
        }
        (reply, delay)
    }

    /// The outcome of a connect that has timed out, and its time.
    fn decide_late(&mut self) -> (Reply, u64) {
        let reply = match self.random.below(4) {
            0 => Reply::reject(self.random.pick(&[403, 409, 500])),
            1 => Reply::broken(self.random.chance(500), true),
            _ => Reply::accept(200, None, false),
        };
        let reply = if self.hits(Fault::RetriedAnswer) { reply.retried() } else { reply };
        let long = if self.random.chance(200) { millis(LATE_TIME_MAX) } else { 3_000 };
        (reply, self.random.below(long))
    }

    /// The outcome of a callback, and its time.
    fn decide(&mut self, connect: bool) -> (Reply, u64) {
        let timeout = millis(self.settings.callback_timeout);
        let mut delay = self.random.within(0, 20);
        if self.hits(Fault::SlowAnswer) {
            delay = self.random.below(timeout);
        }
        let written = self.random.chance(700);
        let status = self.random.pick(&[200, 200, 201, 204]);
        let reply = if self.hits(Fault::LostAnswer) {
            delay = timeout;
            Reply::broken(true, written)
        } else if self.hits(Fault::BrokenAnswer) {
            Reply::broken(false, written)
        } else if self.hits(Fault::Rejection) {
            Reply::reject(self.random.pick(&[302, 304, 401, 403, 404, 500, 502, 503, 504]))
        } else if self.hits(Fault::MalformedAnswer) {
            Reply::flawed(status, self.random.index(FLAWED_KINDS))
        } else {
            let event = self.random.chance(300).then(|| self.draw_event());
            Reply::accept(status, event.as_ref(), connect && self.random.chance(50))
        };
        let reply = if connect && self.hits(Fault::RetriedAnswer) { reply.retried() } else { reply };
        if self.hits(Fault::LateOutcome) {
            delay += self.random.within(0, timeout + 3_000);
        }
        (reply, delay)
    }

    /// A worker is done; some repeat an old outcome, which must have no effect.
    pub(super) fn complete(&mut self, number: usize) {
        let Record { id, about, reply, late, .. } = &mut self.backend.calls[number];
        let (id, about) = (*id, *about);
        self.trace.note(self.clock, "outcome", &[("client", about.map_or(u64::MAX, |(client, _)| client as u64))]);
        self.kernel.complete(Called { id, outcome: reply.outcome.clone() });
        if let Some((reply, delay)) = late.take() {
            self.record(Record { id, about, reply, late: None, is_late: true, taken: false }, delay);
        }
        if self.hits(Fault::StaleOutcome) {
            let record = &self.backend.calls[self.random.index(self.backend.calls.len())];
            if record.taken && record.reply.outcome != Outcome::Overdue {
                let stale = Event { data: "stale".to_owned(), ..Event::default() };
                let outcome = Reply::accept(200, Some(&stale), true).outcome;
                self.kernel.complete(Called { id: record.id, outcome });
            }
        }
    }

    /// The gateway receives an outcome.
    pub(super) fn completion_taken(&mut self, completion: &mut Called) {
        let calls = &mut self.backend.calls;
        let is_it = |record: &&mut Record| {
            record.id == completion.id && !record.taken && record.reply.outcome == completion.outcome
        };
        let Some(record) = calls.iter_mut().rev().find(is_it) else { return };
        record.taken = true;
        // Whether a stream has ended that another one might be attached to is not always known outside.
        if record.reply.attaches_to().is_some_and(|groups| self.oracle.finds_anything(groups).is_none()) {
            record.reply.attach_anyway();
            completion.outcome = record.reply.outcome.clone();
        }
        match record.about {
            None => self.oracle.start_ended(&record.reply),
            Some((client, _)) if record.is_late => self.oracle.late_call_ended(client, &record.reply),
            Some((client, lane)) => self.oracle.call_ended(client, lane, &record.reply),
        }
    }

    /// Sends something to a random client.
    pub(super) fn chat(&mut self) {
        let count = if self.hits(Fault::Flood) { self.random.within(5, 40) } else { self.random.within(1, 4) };
        let same = self.random.chance(500);
        let target = if same && !self.backend.streams.is_empty() { Some(self.pick_stream()) } else { None };
        self.send_batch(count, target);
    }

    fn pick_stream(&mut self) -> usize {
        let recent = self.backend.streams.len().saturating_sub(25);
        self.random.pick(&self.backend.streams[recent..])
    }

    /// Sends `count` events in one batch, all to `target` or each to a random client.
    fn send_batch(&mut self, count: u64, target: Option<usize>) {
        let sender = self.pick_sender();
        let serves = Serves::on(self.sending_listener(), &self.settings);
        let mut bytes = Vec::new();
        for _ in 0..count {
            if self.has_groups && self.random.chance(500) {
                let send = self.draw_group_send(serves);
                self.oracle.exchanges[sender].ask(&send);
                bytes.extend(send.bytes);
                continue;
            }
            if self.has_groups && self.random.chance(50) {
                let group = self.random.chance(700).then(|| self.random.index(GROUPS));
                let look = requests::look(group, serves);
                self.oracle.exchanges[sender].ask(&look);
                bytes.extend(look.bytes);
                continue;
            }
            if self.has_groups && !self.backend.streams.is_empty() && self.random.chance(150) {
                let change = self.draw_change(serves);
                self.oracle.exchanges[sender].ask(&change);
                bytes.extend(change.bytes);
                continue;
            }
            let to = match target {
                Some(target) => Some(target),
                None if self.backend.streams.is_empty() || self.random.chance(30) => None,
                None => Some(self.pick_stream()),
            };
            let send = self.draw_send(to, serves);
            self.oracle.exchanges[sender].ask(&send);
            bytes.extend(send.bytes);
        }
        self.prompt(sender, &bytes);
    }

    fn pick_sender(&mut self) -> usize {
        let mut senders = std::mem::take(&mut self.backend.senders);
        // A gateway that owes too many answers executes the rest of the sends later, or never.
        let is_behind = |n: &usize| self.oracle.exchanges[*n].scripted > self.oracle.exchanges[*n].read + BEHIND_MAX;
        senders.retain(|n| self.is_usable(*n) && !(self.has_groups && is_behind(n)));
        if senders.is_empty() || (senders.len() < 3 && self.random.chance(100)) {
            let listener = self.sending_listener();
            let (piece, pause) = if self.hits(Fault::Pieces) { (200, 3) } else { (0, 0) };
            senders.push(self.join(listener, Script::default(), Client::in_pieces(piece, pause)));
        }
        let sender = self.random.pick(&senders);
        self.backend.senders = senders;
        sender
    }

    fn sending_listener(&self) -> Listener {
        if self.settings.internal_listener { Listener::Internal } else { Listener::Public }
    }

    fn draw_send(&mut self, to: Option<usize>, serves: Serves) -> Asked {
        let chunked = self.random.chance(100).then(|| self.random.pick(&[1, 33, 4096]));
        let form = Form { chunked, expects: self.random.chance(50) };
        match self.random.below(40) {
            0 | 1 => {
                let kind = self.random.index(INVALID_KINDS);
                self.oracle.invalid_send(kind, to, form, serves)
            }
            2 => self.oracle.send(to, None, false, form, serves),
            kind => {
                let event = (kind > 3).then(|| self.draw_event());
                let close = kind == 3 || self.random.chance(20);
                self.oracle.send(to, event.as_ref(), close, form, serves)
            }
        }
    }

    fn draw_group_send(&mut self, serves: Serves) -> Asked {
        let chunked = self.random.chance(100).then(|| self.random.pick(&[1, 33, 4096]));
        let form = Form { chunked, expects: self.random.chance(50) };
        let groups = self.draw_groups(if groups::may_share(&self.settings) { 2 } else { 1 });
        let count = self.random.pick(&[0, 1, 1, 1, 2, 3]);
        let mut events: Vec<Event> = (0..count).map(|_| self.draw_event()).collect();
        if !self.settings.history_age.is_zero() {
            // The gateway gives the ids.
            events.iter_mut().for_each(|event| event.id = None);
        }
        let publication = Publication {
            groups: groups.clone(),
            frames: events.iter().map(Event::frame).collect(),
            is_transient: self.random.chance(200),
            close: self.random.chance(20),
            end: groups.len() == 1 && self.random.chance(15),
        };
        self.oracle.group_send(&groups, &events, publication, form, serves)
    }

    fn draw_change(&mut self, serves: Serves) -> Asked {
        let to = self.pick_stream();
        let mut change = Change { join: self.draw_groups(2), leave: self.draw_groups(2) };
        match self.random.below(4) {
            0 => change.leave.clear(),
            1 | 2 => change.join.clear(),
            _ => {}
        }
        self.oracle.group_change(to, change, Form::default(), serves)
    }

    fn draw_event(&mut self) -> Event {
        self.backend.events += 1;
        let number = self.backend.events;
        let mut data = format!("{number}");
        for _ in 0..self.random.below(4) {
            let pieces = ["\n", "\r\n", "\r", ": heartbeat", " ", "data: x", "\"\\", "\u{e9}", "\0"];
            data.push_str(self.random.pick(&pieces));
        }
        if self.random.chance(100) {
            // The largest is too big for one read, and sometimes for a body.
            let more = self.random.pick(&[170, 170, 300, 300, 5_000, 5_000, 20_000, 100_000]);
            let most = if self.has_groups { 1_000 } else { 100_000 };
            let room = self.settings.body_bytes_max.min(most) - if self.random.chance(50) { 0 } else { 300 };
            data.push_str(&"x".repeat(more.min(room)));
        }
        let id = if number.is_multiple_of(5) { String::new() } else { number.to_string() };
        Event {
            name: self.random.pick(&[None, None, Some(""), Some("tick"), Some(" a:b")]).map(str::to_owned),
            id: self.random.chance(300).then_some(id),
            retry: self.random.pick(&[None, None, None, Some(0), Some(2_147_483_647)]),
            data,
        }
    }
}
