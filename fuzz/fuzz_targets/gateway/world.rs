//! The world around the gateway: sockets, backend and clock, driven by the script and reported to the oracle.

use crate::input::{self, Message, Request, Send};
use crate::oracle::callbacks::{Lane, Reply, token_of};
use crate::oracle::entries::Change;
use crate::oracle::exchange::Exchange;
use crate::oracle::groups::{self, GROUPS, Publication};
use crate::oracle::limits::OFFER_MAX;
use crate::oracle::requests::{self, Asked, Serves};
use crate::oracle::sends::{Event, Form};
use crate::oracle::{Oracle, State, unix_seconds};
use arbitrary::{Result, Unstructured};
use ssegateway::callback::{CallId, Called};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Finished, Gateway, Listener, Peer, ProcessFigures, Settings, SocketError};
use ssegateway::job::{Completion, Job};
use std::collections::HashMap;
use std::io::ErrorKind;

/// One client; its number is that of its exchange.
struct Client {
    id: ConnId,
    serves: Serves,
    /// Written by the client, not yet delivered.
    outbox: Vec<u8>,
    /// Free bytes in the client's socket; `None`: unlimited.
    room: Option<usize>,
}

/// A callback in flight.
struct Call {
    id: CallId,
    client: usize,
    lane: Lane,
}

pub struct World {
    gateway: Gateway,
    oracle: Oracle,
    now: u64,
    clients: Vec<Client>,
    /// The client of each open connection.
    places: HashMap<ConnId, usize>,
    calls: Vec<Call>,
    answered: Vec<CallId>,
    /// The backend's connection, which no operation selects as a client.
    sender: Option<usize>,
    events: u32,
    stopped_accepting: bool,
    has_groups: bool,
    /// How many members of groups may still be written to before the next input.
    visits_left: usize,
    aloud: bool,
}

impl World {
    pub fn new(settings: Settings, has_groups: bool) -> World {
        let now = 1_000;
        let mut world = World {
            gateway: Gateway::new(settings.clone(), Millis::from_millis(now), 7),
            oracle: Oracle::new(settings),
            now,
            clients: Vec::new(),
            places: HashMap::new(),
            calls: Vec::new(),
            answered: Vec::new(),
            sender: None,
            events: 0,
            stopped_accepting: false,
            has_groups,
            visits_left: usize::MAX,
            aloud: std::env::var_os("ALOUD").is_some(),
        };
        world.set_time(now);
        world
    }

    pub fn is_finished(&self) -> bool {
        self.gateway.finished().is_some()
    }

    /// Runs the operation in the fuzzer's next bytes, and perhaps others before all members of groups are written to.
    pub fn perform(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.has_groups && input.ratio(1, 8)? {
            for _ in 0..input.int_in_range(1..=3_u8)? {
                self.visits_left = input.int_in_range(0..=3)?;
                self.perform_one(input)?;
            }
        }
        self.visits_left = usize::MAX;
        self.perform_one(input)?;
        self.check();
        Ok(())
    }

    /// Clients are selected by how recently they connected.
    fn perform_one(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=if self.has_groups { 40 } else { 32_u8 })? {
            0..=3 => drop(self.accept(input.ratio(1, 4)?)),
            kind @ 4..=9 => {
                let client = input.arbitrary()?;
                let request = Request::read(input, &mut self.events)?;
                if kind < 9 {
                    let deliver = input.ratio(3, 4)?;
                    self.request(client, &request, deliver);
                } else {
                    self.mangled(client, &request, input.arbitrary()?);
                }
            }
            10 => {
                let client = input.arbitrary()?;
                let length = usize::from(input.int_in_range(0..=100_u8)?).min(input.len());
                self.send_garbage(client, input.bytes(length)?);
            }
            11 => {
                let client = input.arbitrary()?;
                self.send_garbage(client, &vec![b'x'; input.int_in_range(1..=80)? * 1024]);
            }
            12 | 13 => {
                let [client, count]: [u8; 2] = input.arbitrary()?;
                self.pick(client).into_iter().for_each(|at| self.deliver(at, count.into()));
            }
            14 | 15 => {
                if let Some(at) = self.pick(input.arbitrary()?) {
                    self.deliver(at, usize::MAX);
                    self.eof(at);
                }
            }
            16 => {
                let client = input.arbitrary()?;
                self.fail(
                    client,
                    *input.choose(&[SocketError::Reset, SocketError::WriteFailed, SocketError::TimedOut])?,
                );
            }
            17 | 18 => {
                let client = input.arbitrary()?;
                let room = match input.int_in_range(0..=3_u8)? {
                    0 => None,
                    1 => Some(0),
                    2 => Some(input.arbitrary::<u8>()?.into()),
                    _ => Some(input.arbitrary::<u16>()?.into()),
                };
                self.make_room(client, room);
            }
            19..=21 => {
                let count = input.int_in_range(1..=4_u8)?;
                let sends: Result<Vec<Send>> = (0..count).map(|_| Send::read(input, &mut self.events)).collect();
                self.send(&sends?);
            }
            22..=25 => {
                let (call, mut reply) = (input.arbitrary::<u8>()?, input::reply(input)?);
                if self.has_groups && reply.is_plain() {
                    reply = reply.into_groups(input::grant(input, &self.oracle.cursors)?);
                }
                if !self.calls.is_empty() {
                    let call = self.calls.remove(usize::from(call) % self.calls.len());
                    self.answer(&call, reply);
                }
            }
            26 => {
                let (call, reply) = (input.arbitrary::<u8>()?, input::reply(input)?);
                self.answer_again(call, reply);
            }
            27 | 28 => self.sleep(input::millis(input)?),
            29 => self.expire(self.now + input::millis(input)?),
            30 => self.sleep(16),
            31 => self.shut_down(),
            32 => self.gateway.shrink(),
            33 | 34 => {
                let client = input.arbitrary()?;
                self.request(client, &Request::read_resume(input)?, true);
            }
            _ => {
                let count = input.int_in_range(1..=4_u8)?;
                let messages: Result<Vec<Message>> =
                    (0..count).map(|_| Message::read(input, &mut self.events)).collect();
                self.say(&messages?);
            }
        }
        Ok(())
    }

    /// The checks after every operation.
    fn check(&mut self) -> State {
        self.visits_left = usize::MAX;
        self.settle();
        let state = State::of(&self.gateway);
        self.oracle.note_streams(self.gateway.stream_count());
        self.oracle.turn_ends(&state);
        self.oracle.falls_asleep();
        for (client, exchange) in self.clients.iter().zip(&self.oracle.exchanges) {
            assert_eq!(self.places.contains_key(&client.id), !exchange.closed);
            // Members that lag collect what there is when they are asked; the oracle has checked whether they were.
            if !exchange.is_member() {
                let unsent = self.gateway.unsent(client.id).len();
                let backlog = if exchange.closed { 0 } else { exchange.backlog };
                assert_eq!(unsent, backlog, "bytes without an attempted write");
            }
            assert!(!exchange.failed || exchange.closed, "a failed socket stays open");
            assert!(!exchange.closed || !self.gateway.wants_input(client.id));
        }
        self.turn(false);
        state
    }

    fn pick(&self, client: u8) -> Option<usize> {
        let count = self.clients.len();
        (count > 0).then(|| count - 1 - usize::from(client) % count.min(12)).filter(|at| Some(*at) != self.sender)
    }

    fn accept(&mut self, internal: bool) -> Option<usize> {
        let at = self.clients.len();
        let settings = &self.oracle.settings;
        let listener = if internal && settings.internal_listener { Listener::Internal } else { Listener::Public };
        let serves = Serves::on(listener, settings);
        let id = self.gateway.accept(Millis::from_millis(self.now), listener, Peer::Loopback, token_of(at));
        assert_eq!(id.is_none(), self.gateway.finished() == Some(Finished::TimedOut));
        let id = id?;
        self.oracle.exchanges.push(Exchange::default());
        self.oracle.accepted(at);
        self.clients.push(Client { id, serves, outbox: Vec::new(), room: None });
        assert_eq!(self.places.insert(id, at), None, "an id in use");
        self.settle();
        Some(at)
    }

    /// The request in the form that client `at` writes.
    fn write(&mut self, at: usize, request: &Request) -> Option<Asked> {
        let serves = self.clients[at].serves;
        let send = match request {
            Request::Send(send) => send,
            Request::Resume { cursor, named } => {
                let cursors = &self.oracle.cursors;
                let cursor = cursors.get(usize::from(*cursor) % cursors.len().max(1)).map_or("0.0", |cursor| cursor);
                return Some(requests::resumed_stream(&format!("/s/{at}?a=%zz"), cursor, *named, serves));
            }
            Request::Stream { .. } | Request::Probe { .. } | Request::Report { .. } | Request::Refused { .. } => {
                return request.write(at, serves);
            }
        };
        let target = self.pick(send.client)?;
        let from = &self.oracle.exchanges[at];
        if from.wild || from.followed_to.is_some() {
            if self.oracle.exchanges[target].is_member() {
                return None;
            }
            // Whether this send is reached, and in which form, is not tracked.
            self.oracle.exchanges[target].wild = true;
        }
        Some(self.write_send(send, target, serves))
    }

    fn write_send(&mut self, send: &Send, target: usize, serves: Serves) -> Asked {
        match send.invalid {
            Some(kind) => self.oracle.invalid_send(kind, Some(target), send.form, serves),
            None => self.oracle.send(Some(target), send.event.as_ref(), send.close, send.form, serves),
        }
    }

    fn request(&mut self, client: u8, request: &Request, deliver: bool) {
        let Some(at) = self.pick(client) else { return };
        let Some(asked) = self.write(at, request) else { return };
        self.oracle.exchanges[at].ask(&asked);
        self.clients[at].outbox.extend(asked.bytes);
        self.deliver(at, if deliver { usize::MAX } else { 0 });
    }

    /// A client writes a request with one byte changed.
    fn mangled(&mut self, client: u8, request: &Request, [at, byte]: [u8; 2]) {
        self.send_garbage(client, &[]);
        let Some(n) = self.pick(client) else { return };
        let Some(mut asked) = self.write(n, request) else { return };
        let length = asked.bytes.len();
        asked.bytes[usize::from(at) % length] = byte;
        self.send_garbage(client, &asked.bytes);
    }

    /// A client writes bytes that are not a request.
    fn send_garbage(&mut self, client: u8, bytes: &[u8]) {
        let Some(at) = self.pick(client) else { return };
        self.oracle.exchanges[at].send_garbage(bytes.len());
        self.clients[at].outbox.extend_from_slice(bytes);
        self.deliver(at, usize::MAX);
    }

    fn deliver(&mut self, at: usize, count: usize) {
        let client = &mut self.clients[at];
        let count = count.min(client.outbox.len()).min(OFFER_MAX);
        if count == 0 || !self.gateway.wants_input(client.id) {
            return;
        }
        let bytes: Vec<u8> = client.outbox.drain(..count).collect();
        if self.aloud {
            eprintln!("{}: client {at} wrote {}", self.now, bytes.escape_ascii());
        }
        self.oracle.read(at, Ok(count));
        self.gateway.receive(Millis::from_millis(self.now), client.id, &bytes);
        self.settle();
    }

    fn eof(&mut self, at: usize) {
        let id = self.clients[at].id;
        if self.gateway.wants_input(id) {
            self.oracle.read(at, Ok(0));
            self.gateway.receive_eof(Millis::from_millis(self.now), id);
            self.settle();
        }
    }

    /// Sets the free bytes in the client's socket; `None`: unlimited.
    fn make_room(&mut self, client: u8, room: Option<usize>) {
        let Some(at) = self.pick(client) else { return };
        self.clients[at].room = room;
        self.find_room(at);
    }

    fn find_room(&mut self, at: usize) {
        if self.oracle.exchanges[at].is_member() && self.clients[at].room != Some(0) {
            self.oracle.exchanges[at].refused = false;
            self.oracle.note_member_room(at);
        }
        self.flush(at);
        self.settle();
    }

    fn fail(&mut self, client: u8, error: SocketError) {
        if let Some(at) = self.pick(client).filter(|at| !self.oracle.exchanges[*at].closed) {
            self.oracle.failed(at, error);
            self.gateway.fail(Millis::from_millis(self.now), self.clients[at].id, error);
            self.settle();
        }
    }

    /// Sends in one piece, on the backend's own connection.
    fn send(&mut self, batch: &[Send]) {
        let Some(sender) = self.find_sender() else { return };
        for send in batch {
            let Some(target) = self.pick(send.client) else { continue };
            let asked = self.write_send(send, target, self.clients[sender].serves);
            self.oracle.exchanges[sender].ask(&asked);
            self.clients[sender].outbox.extend(asked.bytes);
        }
        self.deliver(sender, usize::MAX);
    }

    /// The same with groups.
    fn say(&mut self, messages: &[Message]) {
        let Some(sender) = self.find_sender() else { return };
        let serves = self.clients[sender].serves;
        for message in messages {
            let asked = match message {
                Message::Send(send) => {
                    let Some(target) = self.pick(send.client) else { continue };
                    self.write_send(send, target, serves)
                }
                Message::Publish { groups, events, is_transient, close, end, form } => {
                    let mut groups = input::groups(*groups);
                    let most = if groups::may_share(&self.oracle.settings) { GROUPS } else { 1 };
                    groups.truncate(most);
                    if groups.is_empty() {
                        continue;
                    }
                    let mut events = events.clone();
                    if !self.oracle.settings.history_age.is_zero() {
                        events.iter_mut().for_each(|event| event.id = None);
                    }
                    let publication = Publication {
                        groups: groups.clone(),
                        frames: events.iter().map(Event::frame).collect(),
                        is_transient: *is_transient,
                        close: *close,
                        end: *end && groups.len() == 1,
                    };
                    self.oracle.group_send(&groups, &events, publication, *form, serves)
                }
                Message::Change { client, join, leave } => {
                    let Some(target) = self.pick(*client) else { continue };
                    let change = Change { join: input::groups(*join), leave: input::groups(*leave) };
                    self.oracle.group_change(target, change, Form::default(), serves)
                }
                Message::Look { group } => requests::look(group.map(|group| group % GROUPS), serves),
            };
            self.oracle.exchanges[sender].ask(&asked);
            self.clients[sender].outbox.extend(asked.bytes);
        }
        self.deliver(sender, usize::MAX);
    }

    fn find_sender(&mut self) -> Option<usize> {
        let usable = |it: &Exchange| it.is_reading() && !it.ended && !it.wild;
        if !self.sender.is_some_and(|at| usable(&self.oracle.exchanges[at])) {
            self.sender = None;
            self.sender = self.accept(true);
        }
        self.sender
    }

    fn answer(&mut self, call: &Call, mut reply: Reply) {
        if self.oracle.exchanges[call.client].wild {
            reply = reply.out_of_groups();
        } else if reply.attaches_to().is_some_and(|groups| self.oracle.finds_anything(groups).is_none()) {
            // Whether a stream has ended that another one might be attached to is not always known outside.
            reply.attach_anyway();
        }
        self.answered.push(call.id);
        self.oracle.call_ended(call.client, call.lane, &reply);
        let completion = Completion::Called(Called { id: call.id, outcome: reply.outcome.clone() });
        self.gateway.complete(Millis::from_millis(self.now), completion);
        self.settle();
    }

    /// Repeats the outcome of an answered callback.
    fn answer_again(&mut self, call: u8, reply: Reply) {
        if let Some(id) = self.answered.iter().rev().nth(usize::from(call)) {
            let completion = Completion::Called(Called { id: *id, outcome: reply.outcome });
            self.gateway.complete(Millis::from_millis(self.now), completion);
            let idle = self.gateway.next_action().is_none() && self.gateway.next_dirty().is_none();
            assert!(idle, "a stale answer had an effect");
        }
    }

    fn shut_down(&mut self) {
        self.turn(true);
        self.gateway.shut_down(Millis::from_millis(self.now));
        self.settle();
    }

    /// The loop sleeps and wakes as often as the gateway requires.
    fn sleep(&mut self, millis: u64) {
        let until = self.now + millis;
        let mut turns = 0;
        while let Some(due) = self.gateway.next_deadline().map(Millis::as_millis)
            && due <= until
        {
            self.expire(due);
            turns += 1;
            assert!(turns < 20_000, "the loop spins");
        }
        self.expire(until);
    }

    /// A turn of the loop, in which timers only fire if the time has changed.
    fn turn(&mut self, signalled: bool) {
        self.oracle.turn_begins(self.now, signalled);
        self.oracle.timers_run();
    }

    fn set_time(&mut self, time: u64) {
        self.now = self.oracle.certain_time(self.now.max(time));
        self.gateway.set_date(unix_seconds(self.now));
        self.turn(false);
    }

    fn expire(&mut self, time: u64) {
        self.check();
        self.set_time(time);
        let now = Millis::from_millis(self.now);
        let mut more = self.gateway.expire(now);
        self.settle();
        while more {
            more = self.gateway.expire_more(now);
            self.settle();
        }
        let next = self.gateway.next_deadline();
        assert!(next.is_none_or(|next| next > now), "no work is left, but the gateway does not sleep");
    }

    /// Like the event loop after each input: writes first, then actions.
    fn settle(&mut self) {
        loop {
            if let Some(id) = self.gateway.next_dirty() {
                self.flush(self.places[&id]);
            } else if let Some(action) = self.gateway.next_action() {
                self.act(action);
            } else if self.visits_left > 0
                && let Some(id) = self.gateway.next_member(Millis::from_millis(self.now))
            {
                self.visits_left -= 1;
                self.flush(self.places[&id]);
            } else {
                return;
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let client = &mut self.clients[at];
        loop {
            let unsent = self.gateway.unsent(client.id);
            let offered = &unsent[..unsent.len().min(OFFER_MAX)];
            let count = offered.len().min(client.room.unwrap_or(usize::MAX));
            if !offered.is_empty() {
                let result = if count == 0 { Err(ErrorKind::WouldBlock) } else { Ok(count) };
                if self.aloud {
                    eprintln!("{}: for client {at} {result:?} of {}", self.now, offered.escape_ascii());
                }
                self.oracle.wrote(at, offered, result, true);
            }
            client.room = client.room.map(|room| room - count);
            let now = Millis::from_millis(self.now);
            if !offered.is_empty() && count == 0 {
                self.gateway.refused(now, client.id);
            } else {
                self.gateway.wrote(now, client.id, count);
            }
            if count == 0 || !self.gateway.has_unsent(client.id) {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(Job::Call(call)) => {
                let (client, lane) = self.oracle.called(&call);
                self.calls.push(Call { id: call.id, client, lane });
            }
            Action::Report(ticket) => {
                self.oracle.figures_told();
                self.gateway.report(Millis::from_millis(self.now), ticket, &ProcessFigures::default());
            }
            Action::List => self.gateway.list(Millis::from_millis(self.now), |_| 0),
            Action::ReadLast(id) => self.read_last(id),
            Action::TellFeed(id) => self.gateway.tell_feed(Millis::from_millis(self.now), id),
            Action::KeepAlive(_) => {}
            Action::Start(Job::Resolve(..)) | Action::Connect(_) | Action::Disconnect => panic!("there is no Redis"),
            Action::ShutdownWrite(id) => {
                assert!(self.gateway.unsent(id).is_empty(), "closed before the last bytes");
                if let Some(at) = self.places.get(&id) {
                    self.oracle.shut(*at);
                }
            }
            Action::Close(id, how) => {
                let at = self.places.remove(&id).expect("closed twice");
                self.oracle.closed(at, how);
                self.clients[at].outbox.clear();
            }
            Action::StopAccepting => {
                assert!(self.oracle.is_draining() && !self.stopped_accepting);
                self.stopped_accepting = true;
            }
        }
    }

    /// Reads any remaining input, like the event loop.
    fn read_last(&mut self, id: ConnId) {
        let now = Millis::from_millis(self.now);
        if let Some(at) = self.places.get(&id).copied().filter(|_| self.gateway.wants_input(id)) {
            let outbox = &mut self.clients[at].outbox;
            let bytes: Vec<u8> = outbox.drain(..outbox.len().min(OFFER_MAX)).collect();
            if bytes.is_empty() {
                self.oracle.read(at, Err(ErrorKind::WouldBlock));
            } else {
                self.oracle.read(at, Ok(bytes.len()));
                self.gateway.receive(now, id, &bytes);
            }
        }
        self.gateway.end_reading(now, id);
    }

    /// Without further faults, everything must be delivered, reported and released.
    pub fn come_to_rest(&mut self, shut_down: bool) {
        if self.gateway.finished() == Some(Finished::TimedOut) {
            return;
        }
        for at in 0..self.clients.len() {
            self.clients[at].room = None;
            self.find_room(at);
            while !self.clients[at].outbox.is_empty() && self.gateway.wants_input(self.clients[at].id) {
                self.deliver(at, usize::MAX);
            }
            let it = &self.oracle.exchanges[at];
            let unread = it.is_reading() && !it.ended && !self.clients[at].outbox.is_empty();
            assert!(it.wild || !unread, "requests are left unread");
        }
        let started = self.now;
        if shut_down {
            self.shut_down();
        }
        let must_finish = self.oracle.is_leaving();
        let state = loop {
            while let Some(call) = self.calls.pop() {
                let close = self.calls.len().is_multiple_of(2);
                self.answer(&call, Reply::accept(200, None, close));
            }
            for at in 0..self.clients.len() {
                if !must_finish || self.oracle.exchanges[at].shut_at.is_some() {
                    self.eof(at);
                }
            }
            if !self.calls.is_empty() {
                continue;
            }
            let state = self.check();
            if if must_finish { state.finished.is_some() } else { state.is_at_rest() } {
                break state;
            }
            let next = self.gateway.next_deadline().expect("something must still happen").as_millis();
            assert!(next < started + 60_000, "no end after a minute");
            self.expire(next);
        };
        assert_eq!(state.finished, must_finish.then_some(Finished::Clean));
        self.oracle.ends(&state);
    }
}
