//! Groups that Redis keeps: following them, and open streams that enter them late, or anew after a gap.

use super::actions::Ticket;
use super::asking::{Line, Look, Message, Owed, Question};
use super::connection::{Connecting, Connection, Resume, State};
use super::following::{Purpose, Wait};
use super::frames::without_ids;
use super::pages::Arrived;
use super::reached::Reached;
use super::replay::Entry;
use super::results::Asked;
use super::shared::Shared;
use crate::callback::{self, Reason};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::hub::{ConnId, EndReason, Joined, Owing, parse_token};
use crate::redis::{Link, Page};
use crate::sse::{self, Event};
use crate::table::Table;
use std::time::Duration;

/// Gaps that concern many streams at once are spread over this time, as every page then fetches its state anew.
const GAPS_SPREAD_OVER: Duration = Duration::from_secs(10);

/// How long another gateway may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long other gateways may take to count members.
const COUNTED_WITHIN: Duration = Duration::from_secs(1);

/// The position of the time when a stream enters.
const NOW: Position = Position::MAX;

/// Groups of a connect's answer.
pub(super) fn granted<S: AsRef<str>>(names: &[S]) -> Vec<(Box<str>, bool)> {
    names.iter().map(|name| (Box::from(name.as_ref()), true)).collect()
}

impl Shared {
    /// Whether there is a connection to Redis now.
    pub(super) fn is_linked(&self) -> bool {
        self.engine.link.as_ref().is_some_and(|link| link.is_live())
    }

    /// The other gateway that a token names.
    pub(super) fn owner_of(&self, token: &str) -> Option<u32> {
        let link = self.engine.link.as_ref()?;
        let owner = (parse_token(token)?.as_u128() >> 96) as u32;
        (owner != link.gateway()).then_some(owner)
    }

    /// Asks another gateway something that `body` says.
    pub(super) fn ask_gateway(&mut self, now: Millis, gateway: u32, question: Question, body: &[u8]) {
        let Some(link) = &mut self.engine.link else { return };
        let is_change = matches!(question, Question::Change(_));
        let number = self.asking.add(now.after(ANSWERS_WITHIN), question);
        let from = link.gateway();
        let message =
            if is_change { Message::Change { from, number, body } } else { Message::Send { from, number, body } };
        let serial = link.tell(now, gateway, &message.write());
        self.asking.owed.insert(serial, Owed::Told(number));
    }

    /// The result of a send will come from elsewhere.
    pub(super) fn owe_send(&mut self, now: Millis, ticket: Ticket, asked: Asked, body: &[u8]) {
        match asked {
            Asked::Redis { serial, has_id } => drop(self.asking.owed.insert(serial, Owed::Send { ticket, has_id })),
            Asked::Gateway(gateway) => self.ask_gateway(now, gateway, Question::Send(ticket), body),
        }
    }

    /// The result of a line of a feed will come from elsewhere.
    pub(super) fn owe_line(&mut self, now: Millis, feed: ConnId, line: Line, asked: Asked, body: &[u8]) {
        match asked {
            Asked::Redis { serial, .. } => drop(self.asking.owed.insert(serial, Owed::Line(feed, line))),
            Asked::Gateway(gateway) => self.ask_gateway(now, gateway, Question::Line(feed, line), body),
        }
    }

    /// Asks whether the group of a feed has ended.
    pub(super) fn ask_about_group(&mut self, now: Millis, feed: ConnId, name: &str) {
        if let Some(link) = &mut self.engine.link {
            let serial = link.peek(now, name);
            self.asking.owed.insert(serial, Owed::Target(feed, Box::from(name)));
        }
    }

    /// The newest cursor of all gateways.
    pub(super) fn ask_for_cursor(&mut self, now: Millis, ticket: Ticket) {
        let Some(link) = &mut self.engine.link else { return };
        let serial = link.newest(now);
        self.asking.owed.insert(serial, Owed::Cursor(ticket));
    }

    /// How a group stands, with its members at all gateways.
    pub(super) fn ask_for_group(&mut self, now: Millis, ticket: Ticket, name: Box<str>) {
        let Some(link) = &mut self.engine.link else { return };
        let look = Look { ticket, name, standing: None, followers: None, answers: 0, streams: 0 };
        let name = look.name.clone();
        let number = self.asking.add(now.after(COUNTED_WITHIN), Question::Group(look));
        let message = Message::Count { from: link.gateway(), number, group: &name };
        let serial = link.tell_followers(now, &name, &message.write());
        self.asking.owed.insert(serial, Owed::Followers(number));
        let serial = link.peek(now, &name);
        self.asking.owed.insert(serial, Owed::Standing(number));
    }

    /// A stream is to attach to one of these groups. Whether it has to wait until Redis has said if there is anything in
    /// them. It must not follow them before: whoever does counts as a member.
    pub(super) fn asks_what_is_alive<S: AsRef<str>>(&mut self, now: Millis, stream: ConnId, names: &[S]) -> bool {
        self.unfollow_unused();
        let is_alive = |name: &str| {
            let standing = self.hub.groups.standing(name);
            standing.is_some_and(|standing| standing.members > 0 || (standing.is_alive && self.is_known(name)))
        };
        let mut names = names.iter().map(AsRef::as_ref).peekable();
        if names.peek().is_none() || names.clone().any(|name| is_alive(name) || self.following.is_wanted(name)) {
            return false;
        }
        let Some(link) = self.engine.link.as_mut().filter(|link| link.is_live()) else { return false };
        let serial = link.alive(now, &names.collect::<Vec<_>>());
        self.asking.owed.insert(serial, Owed::Attach(stream));
        true
    }

    /// Whether something has come over Redis that was not acted upon.
    pub(super) fn is_upstream_behind(&self) -> bool {
        !self.backlog.is_empty() || self.engine.link.as_ref().is_some_and(|link| link.has_events())
    }

    /// Ends following groups that nobody here is in, or waits for.
    pub(super) fn unfollow_unused(&mut self) {
        // What is still to come of a group would else be taken for that of the next time when it is followed.
        if self.is_upstream_behind() {
            return;
        }
        let Some(link) = &mut self.engine.link else { return };
        loop {
            let vacated = self.hub.groups.next_vacated();
            let Some(name) = vacated.or_else(|| self.following.next_released()) else { return };
            let members = self.hub.groups.standing(&name).map_or(0, |standing| standing.members);
            if members == 0 && !self.following.is_wanted(&name) {
                link.unfollow(&name);
                self.hub.groups.unload(&name);
            }
        }
    }

    /// Follows groups. Whether all of them are known, as they always are without Redis.
    pub(super) fn follow_all<S: AsRef<str>>(&mut self, now: Millis, names: &[S]) -> bool {
        let Some(link) = &mut self.engine.link else { return true };
        names.iter().for_each(|name| link.follow(now, name.as_ref()));
        names.iter().all(|name| self.is_known(name.as_ref()))
    }

    /// Whether all of a group is known here. The connection may be ahead: its events are taken one by one, and an epoch
    /// begins in slices.
    pub(super) fn is_known(&self, name: &str) -> bool {
        let epoch = self.backlog.new_epoch.is_none().then_some(self.engine.epoch());
        let is_ready = |link: &Link| epoch.is_some() && link.epoch() == epoch && link.is_ready(name);
        self.engine.link.as_ref().is_some_and(|link| is_ready(link)) && self.hub.groups.is_followed(name)
    }

    /// The client's GET was read: it is to get what is sent from now on, by the order of Redis.
    pub(super) fn ask_for_head(&mut self, now: Millis, stream: ConnId) {
        let Some(link) = self.engine.link.as_mut().filter(|link| link.is_live()) else { return };
        if !self.hub.groups.has_history() {
            return;
        }
        let serial = *self.asking.head.get_or_insert_with(|| link.newest(now));
        match self.asking.owed.entry(serial).or_insert_with(|| Owed::Resumes(Vec::new())) {
            Owed::Resumes(streams) => streams.push(stream),
            Owed::Send { .. }
            | Owed::Line(..)
            | Owed::Target(..)
            | Owed::Told(_)
            | Owed::Cursor(_)
            | Owed::Attach(_)
            | Owed::Page(..)
            | Owed::Standing(_)
            | Owed::Followers(_) => {}
        }
    }

    /// What a stream begins with that opens before its groups are known: no ids, as it has no position yet.
    pub(super) fn write_early_start(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        (answer, connecting): (&callback::Answer<'_>, &Connecting),
        resume: Option<Resume>,
    ) {
        let is_resumable = self.hub.groups.has_history();
        if let Some(delay) = self.settings.reconnect_delay_ms {
            sse::write_retry(self.outbox.frames(now, &mut connection.out), self.jitter.spread(delay));
        }
        for event in &answer.events {
            let id = event.id.clone().filter(|_| !is_resumable);
            self.write_events(now, connection, 1, |out| Event { id, ..event.clone() }.write(out));
        }
        if connecting.held_events > 0 {
            let held = if is_resumable { without_ids(&connecting.held) } else { connecting.held.clone() };
            self.write_events(now, connection, connecting.held_events, |out| out.extend_from_slice(&held));
        }
        self.mark_entering(connection);
        let purpose = Purpose::Enter { not_before: now, resume, has_gap: false };
        self.following.add(connection.id, Wait { names: granted(&answer.groups), purpose });
    }

    /// The stream is in no group now, but will be.
    fn mark_entering(&mut self, connection: &mut Connection) {
        self.set_lagging(connection, false);
        if let State::Streaming(streaming) = &mut connection.state {
            streaming.joined = Joined::NONE;
            streaming.reached = Reached::new(0, self.hub.groups.has_history());
        }
    }

    /// An open stream enters its groups, which are known now.
    pub(super) fn enter_late(&mut self, now: Millis, connection: &mut Connection, wait: &Wait) {
        let Purpose::Enter { resume, has_gap, .. } = wait.purpose else { return };
        let head = self.hub.groups.head();
        let resume = match resume {
            Some(Resume::Live(NOW)) => Some(Resume::Live(head)),
            resume => resume,
        };
        let granted: Vec<&str> =
            wait.names.iter().filter(|(_, is_granted)| *is_granted).map(|(name, _)| &**name).collect();
        let entry = match self.find_entry(&granted, false, resume) {
            Ok(Some(entry)) => Entry { has_gap: entry.has_gap || has_gap, ..entry },
            // Those that were joined later are live.
            Ok(None) => Entry { from: head, is_resumable: false, is_due: false, has_gap: false, is_over: false },
            Err(detail) => {
                let ending = EndReason { reason: Reason::ServerClosed, detail: Some(detail) };
                return self.end_stream(now, connection, ending);
            }
        };
        self.enter(connection, wait.names.iter().map(|(name, is_granted)| (&**name, *is_granted)), entry);
        self.write_late_start(now, connection, entry);
    }

    /// Something that is due to a stream in groups may be missing: it leaves them, and enters them again with a gap.
    /// `is_anew`: positions begin anew.
    pub(super) fn suspend(&mut self, now: Millis, connection: &mut Connection, is_anew: bool) {
        let spread = self.jitter.within(GAPS_SPREAD_OVER);
        self.suspend_until(now, connection, is_anew, now.after(spread));
    }

    /// The same; it enters them again at that time.
    fn suspend_until(&mut self, now: Millis, connection: &mut Connection, is_anew: bool, gap_at: Millis) {
        self.catch_up(now, connection);
        let State::Streaming(streaming) = &mut connection.state else { return };
        let (joined, reached) = (streaming.joined, streaming.reached);
        if joined == Joined::NONE {
            return;
        }
        let names = self.hub.groups.grants_of(joined);
        let cursor = self.engine.cursor(self.position_of(reached));
        let State::Streaming(streaming) = &mut connection.state else { return };
        self.hub.groups.leave_all(&mut streaming.joined);
        if let Some(ending) = self.write_held(now, connection) {
            return self.end_stream(now, connection, ending);
        }
        let has_gap = reached.is_resumable();
        self.mark_entering(connection);
        let not_before = if has_gap { gap_at } else { now };
        let resume = if is_anew || !has_gap { Resume::Live(NOW) } else { Resume::Cursor(Some(cursor)) };
        let purpose = Purpose::Enter { not_before, resume: Some(resume), has_gap };
        self.following.add(connection.id, Wait { names, purpose });
    }

    /// Asks for the pages that streams wait for.
    pub(super) fn ask_for_pages(&mut self, now: Millis, connections: &Table<Connection>) {
        let Some(link) = self.engine.link.as_mut().filter(|link| link.is_live()) else { return };
        while let Some(id) = self.pages.next_to_ask() {
            let Some(State::Streaming(streaming)) = connections.get(id).map(|connection| &connection.state) else {
                self.pages.forget(id);
                continue;
            };
            let owing = self.hub.groups.owing(streaming.joined, streaming.reached.position());
            let groups: Vec<(Box<str>, Position)> = owing.map(|owing| (Box::from(owing.name), owing.behind)).collect();
            let serial = link.page(now, &groups);
            self.stats.remote.pages += 1;
            self.asking.owed.insert(serial, Owed::Page(id, groups));
        }
    }

    /// The page of a stream has come. It must be seamless: Redis drops events, too.
    pub(super) fn take_page(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        asked: Vec<(Box<str>, Position)>,
        page: Page,
    ) {
        let (id, State::Streaming(streaming)) = (connection.id, &connection.state) else { return };
        let (joined, position) = (streaming.joined, streaming.reached.position());
        if !streaming.reached.is_lagging() {
            return;
        }
        let owing = || self.hub.groups.owing(joined, position);
        let is_same = |(owing, (name, behind)): (Owing<'_>, &(Box<str>, Position))| {
            *owing.name == **name && owing.behind >= *behind
        };
        if owing().count() != asked.len() || !owing().zip(&asked).all(is_same) {
            // It is in other groups by now, and asks again.
            return self.outbox.queue(id, &mut connection.out);
        }
        let arrived = Arrived { names: asked.into_iter().map(|(name, _)| name).collect(), page };
        let behind: Vec<Position> = owing().map(|owing| owing.behind).collect();
        // Without that, Redis has lost its data, and an epoch is about to begin.
        let has_more = arrived.due(&behind, Position::MAX).next().is_some();
        let mut lost = Vec::new();
        for (group, owing) in owing().enumerate() {
            let has =
                |position| arrived.page.events.iter().any(|event| event.group == group && event.position == position);
            let dropped = arrived.page.dropped.get(group).copied().unwrap_or(0);
            if dropped > owing.behind && owing.dropped > owing.behind {
                lost.push((Box::<str>::from(owing.name), dropped));
            } else if owing.known > owing.behind
                && (!has_more || (owing.known <= arrived.page.covers && !has(owing.known)))
            {
                lost.push((Box::from(owing.name), owing.known));
            }
        }
        if lost.is_empty() {
            // What is unsent goes first, and another page is asked for then.
            if connection.out.is_empty() {
                self.pages.put(id, arrived);
            }
            connection.out.touch(now);
            return self.outbox.queue(id, &mut connection.out);
        }
        for (name, until) in lost {
            self.hub.groups.lose(&name, until);
        }
        self.suspend_until(now, connection, false, now);
    }
}
