//! The connection to Redis: what its events mean for streams and for those who wait.

use super::actions::Action;
use super::answers::Answer;
use super::asking::{
    Asker, Line, Look, Message, Owed, Question, membership_code, membership_result, send_code, send_result,
};
use super::connection::{Connection, Resume, State};
use super::following::{Purpose, WaitId};
use super::results::{MembershipResult, Published, SendResult};
use super::shared::Shared;
use super::streams::Opening;
use crate::clock::Millis;
use crate::hub::{ConnId, Entry, Kept, Watched};
use crate::job::Job;
use crate::redis::{Event, Loaded, Outcome, Serial, span_of};
use crate::table::Table;
use core::net::{IpAddr, SocketAddr};

/// What it takes to look at a wait that may be over.
const EFFORT_OF_WAIT: usize = 4;

/// What it takes to take in an event.
fn effort_of(event: &Event) -> usize {
    match event {
        Event::Published(published) => published.frames.len().max(1),
        Event::Loaded(loaded) => 4 + loaded.entries.len(),
        Event::Done(..) | Event::Message(_) => 4,
        Event::Connect
        | Event::Disconnect
        | Event::Epoch(..)
        | Event::Limits(_)
        | Event::Gap(..)
        | Event::Head(_)
        | Event::Live => 1,
    }
}

impl Shared {
    /// Does something with the connection to Redis, and what follows.
    pub(super) fn with_link(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        act: impl FnOnce(&mut crate::redis::Link),
    ) {
        let Some(link) = &mut self.engine.link else { return };
        act(link);
        self.take_events(now, connections);
    }

    /// Takes what has come, as far as a turn allows.
    fn take_events(&mut self, now: Millis, connections: &mut Table<Connection>) {
        while let Some(event) = self.engine.link.as_mut().and_then(|link| link.next_socket_event()) {
            self.take_event(now, connections, event);
        }
        while !self.backlog.is_spent() {
            if let Some(new_epoch) = self.backlog.new_epoch.take() {
                self.advance_epoch(now, connections, new_epoch);
            } else if let Some(gap) = self.backlog.gap.take() {
                self.advance_gap(now, connections, gap);
            } else if let Some(wait) = self.backlog.waits.pop_front() {
                self.backlog.spend(EFFORT_OF_WAIT);
                self.proceed_if_known(now, connections, wait);
            } else if let Some(event) = self.engine.link.as_mut().and_then(|link| link.next_event()) {
                self.backlog.spend(effort_of(&event));
                self.take_event(now, connections, event);
            } else {
                return;
            }
        }
    }

    /// A turn begins, in which so much may be done of what has come; a unit is about a microsecond.
    pub(super) fn continue_upstream(&mut self, now: Millis, connections: &mut Table<Connection>, effort: usize) {
        self.backlog.allow(effort);
        if self.is_upstream_behind() {
            self.take_events(now, connections);
        }
    }

    /// The addresses of Redis were looked up.
    pub(super) fn resolved(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        addresses: Result<Vec<SocketAddr>, String>,
    ) {
        let failures = self.engine.link.as_ref().map_or(0, |link| link.failures());
        let next = |addresses: Vec<SocketAddr>| addresses.get(failures.checked_rem(addresses.len())?).copied();
        match addresses.map(next) {
            Ok(Some(address)) => self.outbox.act(Action::Connect(address)),
            Ok(None) => self.with_link(now, connections, |link| link.broken(now, "its name has no address")),
            Err(why) => self.with_link(now, connections, |link| link.broken(now, &why)),
        }
    }

    /// Time has passed for the connection to Redis, and for what waits for it.
    pub(super) fn expire_link(&mut self, now: Millis, connections: &mut Table<Connection>) {
        if self.engine.link.is_none() {
            return;
        }
        self.with_link(now, connections, |link| link.expire(now));
        while let Some(wait) = self.following.next_due(now) {
            self.proceed(now, connections, wait);
        }
        while let Some(question) = self.asking.next_due(now) {
            self.give_up_question(now, connections, question);
        }
    }

    /// When [`Shared::expire_link`] has something to do.
    pub(super) fn link_deadline(&self) -> Option<Millis> {
        let link = self.engine.link.as_ref()?.next_deadline();
        let others = [self.following.next_at(), self.asking.next_at()];
        others.into_iter().flatten().chain([link]).min()
    }

    /// A turn is over: its commands are about to be written.
    pub(super) fn finish_commands(&mut self, now: Millis, connections: &mut Table<Connection>) {
        if self.engine.link.is_some() {
            self.take_events(now, connections);
            self.unfollow_unused();
            self.ask_for_pages(now, connections);
            self.asking.head = None;
            self.with_link(now, connections, |_| {});
        }
    }

    fn take_event(&mut self, now: Millis, connections: &mut Table<Connection>, event: Event) {
        match event {
            Event::Connect => self.connect_upstream(),
            Event::Disconnect => self.outbox.act(Action::Disconnect),
            Event::Epoch(epoch, head) => self.begin_epoch(epoch, head),
            Event::Limits(limits) => {
                self.hub.groups.set_limits(limits.age, limits.events);
                self.hub.groups.expire_elsewhere_behind(span_of(limits.age));
            }
            Event::Gap(name, until) => {
                // It concerns those as well who come back.
                self.hub.groups.doubt(&name, until);
                self.backlog.gap = Some((name, usize::MAX));
            }
            Event::Loaded(loaded) => self.take_loaded(now, loaded),
            Event::Published(published) => {
                self.take_published(now, &published);
                if let Some(link) = &mut self.engine.link {
                    link.reuse(published);
                }
            }
            Event::Done(serial, outcome) => self.take_outcome(now, connections, serial, outcome),
            Event::Message(message) => self.take_message(now, connections, &message),
            Event::Head(head) => self.hub.groups.advance(head),
            Event::Live => self.backlog.waits.extend(self.following.all()),
        }
    }

    fn connect_upstream(&mut self) {
        let Some(link) = &self.engine.link else { return };
        let settings = link.settings();
        let action = match settings.host.parse::<IpAddr>() {
            Ok(address) => Action::Connect(SocketAddr::new(address, settings.port)),
            Err(_) => Action::Start(Job::Resolve(settings.host.clone(), settings.port)),
        };
        self.outbox.act(action);
    }

    fn take_loaded(&mut self, now: Millis, loaded: Loaded) {
        let Loaded { name, entries, dropped, gone, doubt, is_ended } = loaded;
        let entries = entries.into_iter().map(|(position, frame)| Entry { position, frame }).collect();
        self.hub.groups.load(now, Kept { name: &name, entries, dropped, gone, doubt, is_ended });
        self.backlog.waits.extend(self.following.waiting_for(&name));
    }

    fn proceed_if_known(&mut self, now: Millis, connections: &mut Table<Connection>, id: WaitId) {
        let Some(wait) = self.following.get(id) else { return };
        let is_time = match wait.purpose {
            Purpose::Enter { not_before, .. } => not_before <= now,
            Purpose::Open(_) | Purpose::Change { .. } => true,
            Purpose::Attach(_) => false,
        };
        if is_time && wait.names.iter().all(|(name, _)| self.is_known(name)) {
            self.proceed(now, connections, id);
        }
    }

    /// A wait is over: all of its groups are known, or its time has come.
    fn proceed(&mut self, now: Millis, connections: &mut Table<Connection>, id: WaitId) {
        let stream = id.0;
        let Some(wait) = self.following.get(id) else { return };
        let is_known = wait.names.iter().all(|(name, _)| self.is_known(name));
        // It enters once they are.
        if !is_known && matches!(wait.purpose, Purpose::Enter { .. }) {
            return;
        }
        let (Some(wait), Some(connection)) = (self.following.take(id), connections.get_mut(stream)) else { return };
        match wait.purpose {
            Purpose::Attach(_) | Purpose::Open(_) => self.open_accepted(now, connection, Opening::Last),
            Purpose::Enter { .. } => self.enter_late(now, connection, &wait),
            Purpose::Change { asker, leave, .. } => {
                let join: Vec<Box<str>> = wait.names.into_iter().map(|(name, _)| name).collect();
                let result = if is_known {
                    self.change_now(now, connection, &join, &leave)
                } else {
                    MembershipResult::Unavailable
                };
                self.settle(now, connections, stream);
                return self.answer_change(now, connections, asker, result);
            }
        }
        self.settle(now, connections, stream);
    }

    /// Redis has said whether there is something that a stream can attach to, or cannot be asked.
    fn attach(&mut self, now: Millis, connections: &mut Table<Connection>, stream: ConnId, outcome: &Outcome) {
        let wait = self.following.attaching(stream).and_then(|id| self.following.take(id));
        let (Some(wait), Some(connection)) = (wait, connections.get_mut(stream)) else { return };
        let Purpose::Attach(until) = wait.purpose else { return };
        let is_in_vain = *outcome == Outcome::Alive(false);
        let opening = if is_in_vain { Opening::InVain } else { Opening::Attached(until) };
        self.open_accepted(now, connection, opening);
        self.settle(now, connections, stream);
    }

    fn open_accepted(&mut self, now: Millis, connection: &mut Connection, opening: Opening) {
        if let State::Connecting(connecting) = &mut connection.state
            && let Some(accepted) = connecting.accepted.take()
        {
            self.open(now, connection, accepted, opening);
        }
    }

    fn answer_change(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        asker: Asker,
        result: MembershipResult,
    ) {
        match asker {
            Asker::Client(ticket) => self.answer_owed(now, connections, ticket, &Answer::membership(result)),
            Asker::Gateway(gateway, number) => self.tell_result(now, gateway, number, membership_code(result)),
            Asker::Nobody => {}
        }
    }

    fn tell_result(&mut self, now: Millis, gateway: u32, number: u64, value: u64) {
        if let Some(link) = &mut self.engine.link {
            link.tell(now, gateway, &Message::Result { number, value }.write());
        }
    }

    /// A request to Redis has its result.
    fn take_outcome(&mut self, now: Millis, connections: &mut Table<Connection>, serial: Serial, outcome: Outcome) {
        if self.asking.head == Some(serial) {
            self.asking.head = None;
        }
        let Some(owed) = self.asking.owed.remove(&serial) else { return };
        match owed {
            Owed::Send { ticket, has_id } => {
                let result = self.sent(outcome, has_id);
                self.answer_owed_send(now, connections, ticket, result);
            }
            Owed::Line(feed, line) => {
                let result = self.sent(outcome, false);
                self.line_done(now, connections, feed, line, result);
            }
            Owed::Target(feed, name) => {
                let watched = Watched::Group(name);
                if matches!(outcome, Outcome::Peeked(_, true)) && self.hub.watches.has(&watched, feed) {
                    self.hub.watches.remove(&watched, feed);
                    self.outbox.act(Action::TellFeed(feed));
                }
            }
            Owed::Told(number) => self.told(now, connections, number, outcome),
            Owed::Resumes(streams) => {
                let Outcome::Head(head) = outcome else { return };
                for id in streams {
                    if let Some(State::Connecting(connecting)) = connections.get_mut(id).map(|known| &mut known.state)
                        && let Resume::Live(position) = &mut connecting.resume
                    {
                        *position = head;
                    }
                }
            }
            Owed::Attach(stream) => self.attach(now, connections, stream, &outcome),
            Owed::Page(id, asked) => {
                if !self.pages.take_asked(id) {
                    return;
                }
                let Some(connection) = connections.get_mut(id) else { return };
                match outcome {
                    Outcome::Page(page) => self.take_page(now, connection, asked, page),
                    _ => self.pages.want(id),
                }
                self.settle(now, connections, id);
            }
            Owed::Cursor(ticket) => {
                // An older one is safe.
                let head = if let Outcome::Head(head) = outcome { head } else { self.hub.groups.head() };
                let cursor = self.hub.groups.has_history().then(|| self.engine.cursor(head));
                self.answer_owed(now, connections, ticket, &Answer::cursor(cursor));
            }
            Owed::Standing(number) => self.take_look(now, connections, number, |look| match outcome {
                Outcome::Peeked(newest, is_ended) => {
                    look.standing = Some((newest, is_ended));
                    true
                }
                _ => false,
            }),
            Owed::Followers(number) => self.take_look(now, connections, number, |look| match outcome {
                Outcome::Told(followers) => {
                    look.followers = Some(followers);
                    true
                }
                _ => false,
            }),
        }
    }

    /// A line of a feed has its result.
    fn line_done(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        feed: ConnId,
        line: Line,
        result: SendResult,
    ) {
        let Some(connection) = connections.get_mut(feed) else { return };
        let unfinished = connection.unfinished_bytes();
        if self.take_line(now, connection, line, result) {
            let rest = self.finish_feed(now, connection);
            self.read_input(now, connections, feed, &rest);
        }
        self.settle(now, connections, feed);
        self.recount(connections, feed, unfinished);
    }

    /// The result of a send to groups.
    fn sent(&mut self, outcome: Outcome, has_id: bool) -> SendResult {
        let counts = &mut self.stats.groups.sends;
        let (id, reached) = match outcome {
            Outcome::Sent { position, reached } => (has_id.then(|| self.engine.cursor(position)), reached),
            Outcome::Probed(reached) => (None, reached),
            Outcome::Ended => {
                counts.ended += 1;
                return SendResult::Ended;
            }
            Outcome::OutOfMemory => return SendResult::OutOfMemory,
            Outcome::Unavailable => return SendResult::Unavailable,
            Outcome::Lost
            | Outcome::Told(_)
            | Outcome::Peeked(..)
            | Outcome::Head(_)
            | Outcome::Page(_)
            | Outcome::Alive(_) => return SendResult::Lost,
        };
        *(if reached { &mut counts.reached } else { &mut counts.unreached }) += 1;
        SendResult::Published(Published { id, reached })
    }

    /// A question to another gateway is on its way, or nobody has got it.
    fn told(&mut self, now: Millis, connections: &mut Table<Connection>, number: u64, outcome: Outcome) {
        let (send, change) = match outcome {
            Outcome::Told(0) => (SendResult::NotFound, MembershipResult::NotFound),
            Outcome::Told(_) => return,
            Outcome::Unavailable => (SendResult::Unavailable, MembershipResult::Unavailable),
            Outcome::OutOfMemory => (SendResult::OutOfMemory, MembershipResult::Unavailable),
            _ => (SendResult::Lost, MembershipResult::Unavailable),
        };
        match self.asking.take(number) {
            Some(Question::Send(ticket)) => {
                let counts = &mut self.stats.remote;
                *(if send == SendResult::NotFound { &mut counts.not_found } else { &mut counts.unanswered }) += 1;
                self.answer_owed_send(now, connections, ticket, send);
            }
            Some(Question::Change(ticket)) => self.answer_owed(now, connections, ticket, &Answer::membership(change)),
            Some(Question::Line(feed, line)) => self.line_done(now, connections, feed, line, send),
            Some(Question::Group(_)) | None => {}
        }
    }

    /// Something new is known of a look at a group. `note`: `false` if it cannot be made.
    fn take_look(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        number: u64,
        note: impl FnOnce(&mut Look) -> bool,
    ) {
        let Some(Question::Group(look)) = self.asking.get_mut(number) else { return };
        let is_possible = note(look);
        if (look.is_complete() || !is_possible)
            && let Some(question) = self.asking.take(number)
        {
            self.give_up_question(now, connections, question);
        }
    }

    /// Answers a question with what has come.
    fn give_up_question(&mut self, now: Millis, connections: &mut Table<Connection>, question: Question) {
        match question {
            Question::Send(ticket) => {
                self.stats.remote.unanswered += 1;
                self.answer_owed_send(now, connections, ticket, SendResult::NoAnswer);
            }
            Question::Line(feed, line) => self.line_done(now, connections, feed, line, SendResult::NoAnswer),
            Question::Change(ticket) => {
                self.answer_owed(now, connections, ticket, &Answer::membership(MembershipResult::NoAnswer));
            }
            Question::Group(look) => {
                let own = self.hub.groups.standing(&look.name);
                let own_count = own.map_or(0, |standing| standing.members);
                let own_standing = || own.map_or((None, false), |standing| (standing.newest_kept, standing.is_ended));
                let (newest, is_ended) = look.standing.unwrap_or_else(own_standing);
                let cursor = newest.map(|position| self.engine.cursor(position));
                let streams = look.streams.max(own_count);
                let answer = Answer::group(&look.name, streams, cursor, is_ended, look.is_complete());
                self.answer_owed(now, connections, look.ticket, &answer);
            }
        }
    }

    /// A message of another gateway, or of this one.
    fn take_message(&mut self, now: Millis, connections: &mut Table<Connection>, message: &[u8]) {
        if let Some(name) = message.strip_prefix(b"E").and_then(|name| std::str::from_utf8(name).ok()) {
            return self.tell_watchers(|| Watched::Group(Box::from(name)));
        }
        match Message::parse(message) {
            Some(Message::Send { from, number, body }) => {
                let result = self.send(now, connections, body);
                self.stats.send(result);
                self.tell_result(now, from, number, send_code(result));
            }
            Some(Message::Change { from, number, body }) => {
                let asker = Asker::Gateway(from, number);
                let result = self.change_groups(now, connections, body, asker);
                if result != MembershipResult::Asked {
                    self.answer_change(now, connections, asker, result);
                }
            }
            Some(Message::Count { from, number, group }) => {
                let members = self.hub.groups.standing(group).map_or(0, |standing| standing.members);
                self.tell_result(now, from, number, members as u64);
            }
            Some(Message::Result { number, value }) => match self.asking.get_mut(number) {
                Some(Question::Group(_)) => self.take_look(now, connections, number, |look| {
                    look.answers += 1;
                    look.streams = look.streams.saturating_add(usize::try_from(value).unwrap_or(0));
                    true
                }),
                Some(Question::Send(ticket)) => {
                    let ticket = *ticket;
                    self.asking.take(number);
                    self.stats.remote.answered += 1;
                    self.answer_owed_send(now, connections, ticket, send_result(value));
                }
                Some(Question::Change(ticket)) => {
                    let ticket = *ticket;
                    self.asking.take(number);
                    self.answer_owed(now, connections, ticket, &Answer::membership(membership_result(value)));
                }
                Some(Question::Line(feed, line)) => {
                    let (feed, line) = (*feed, *line);
                    self.asking.take(number);
                    self.line_done(now, connections, feed, line, send_result(value));
                }
                None => {}
            },
            // Some only try whether a gateway may send any.
            None => {}
        }
    }
}
