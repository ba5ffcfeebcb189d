//! Sends to groups, and streams that join and leave them.

use super::asking::{Asker, Question};
use super::connection::{Connection, HeldChange, State};
use super::following::{Purpose, Wait};
use super::reached::Reached;
use super::results::{Asked, MembershipResult, Published, SendResult};
use super::shared::Shared;
use crate::clock::Millis;
use crate::hub::{Frame, GROUPS_MAX, Joined, Publication, Watched};
use crate::planted;
use crate::redis::{self, Send};
use crate::send::{self, MembershipChange, MembershipError, SendCommand};
use crate::sse::Event;
use crate::table::Table;
use log::warn;
use std::borrow::Cow;
use std::time::Duration;

/// How long a change of groups waits until they are known.
const HELD: Duration = Duration::from_secs(1);

impl Shared {
    /// A send to groups: orders and executes it.
    pub(super) fn publish(&mut self, now: Millis, names: &[Cow<'_, str>], command: &SendCommand<'_>) -> SendResult {
        if self.engine.link.is_some() {
            return self.publish_by_redis(now, names, command, false);
        }
        let mut alive: Vec<&str> = Vec::with_capacity(names.len());
        for name in names {
            let is_ended = self.hub.groups.standing(name).is_some_and(|standing| standing.is_ended);
            if !is_ended && !alive.contains(&&**name) {
                alive.push(name);
            }
        }
        if alive.is_empty() {
            self.stats.groups.sends.ended += 1;
            return SendResult::Ended;
        }
        let events = command.events.as_slice();
        if events.is_empty() && !command.close && !command.end {
            let members = |name: &&str| self.hub.groups.standing(name).map_or(0, |standing| standing.members);
            let reached = alive.iter().any(|name| members(name) > 0);
            return SendResult::Published(Published { id: None, reached });
        }
        let frames: Vec<Frame> = events.iter().map(|event| self.encode(event)).collect();
        let mut publication = Publication {
            first: 0,
            frames: &frames,
            is_transient: command.transient,
            closes: command.close,
            ends: command.end,
        };
        let first = self.engine.order(publication.positions());
        publication.first = first;
        self.published(now, &alive, &publication)
    }

    /// The last send to a group, of which nobody waits for the result.
    pub(super) fn publish_last(&mut self, now: Millis, name: &str, command: &SendCommand<'_>) {
        let names = &[Cow::Borrowed(name)];
        if self.engine.link.is_some() {
            self.publish_by_redis(now, names, command, true);
        } else {
            self.publish(now, names, command);
        }
    }

    /// The same, by Redis: the result comes later, and the events come back as those of any other gateway.
    fn publish_by_redis(
        &mut self,
        now: Millis,
        names: &[Cow<'_, str>],
        command: &SendCommand<'_>,
        is_patient: bool,
    ) -> SendResult {
        let (events, mut distinct) = (command.events.as_slice(), Vec::new());
        let names: &[&str] = match names {
            [name] => &[name],
            _ => {
                for name in names {
                    if !distinct.contains(&&**name) {
                        distinct.push(&**name);
                    }
                }
                &distinct
            }
        };
        let has_id = self.hub.groups.has_history() && !command.transient && !events.is_empty();
        let send = Send {
            names,
            events,
            is_transient: command.transient,
            closes: command.close,
            ends: command.end,
            is_patient,
        };
        match &mut self.engine.link {
            Some(link) => SendResult::Asked(Asked::Redis { serial: link.send(now, &send), has_id }),
            None => SendResult::Unavailable,
        }
    }

    /// Something that was sent to groups has come back from Redis.
    pub(super) fn take_published(&mut self, now: Millis, published: &redis::Published) {
        let publication = Publication {
            first: published.first,
            frames: &published.frames,
            is_transient: published.is_transient,
            closes: published.closes,
            ends: published.ends,
        };
        self.hub.groups.publish(now, published.names(), &publication);
    }

    fn encode(&mut self, event: &Event<'_>) -> Frame {
        let scratch = &mut self.frame_scratch;
        scratch.clear();
        event.write(scratch);
        Frame::from(scratch.as_slice())
    }

    /// A send to groups has its position.
    fn published(&mut self, now: Millis, names: &[&str], publication: &Publication<'_>) -> SendResult {
        let reached = self.hub.groups.publish(now, names.iter().copied(), publication);
        if publication.ends {
            names.iter().for_each(|name| self.tell_watchers(|| Watched::Group(Box::from(*name))));
        }
        let has_id = self.hub.groups.has_history() && !publication.is_transient && !publication.frames.is_empty();
        let id = has_id.then(|| self.engine.cursor(self.hub.groups.head()));
        let counts = &mut self.stats.groups.sends;
        *(if reached { &mut counts.reached } else { &mut counts.unreached }) += 1;
        SendResult::Published(Published { id, reached })
    }

    /// The body of a request to change a stream's groups.
    pub(super) fn change_groups(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        body: &[u8],
        asker: Asker,
    ) -> MembershipResult {
        let mut scratch = std::mem::take(&mut self.send_scratch);
        let result = match send::parse_membership(body, &mut scratch) {
            Ok(change) => self.apply_change(now, connections, body, &change, asker),
            Err(error) => MembershipResult::Invalid(error),
        };
        self.send_scratch = scratch;
        result
    }

    fn apply_change(
        &mut self,
        now: Millis,
        connections: &mut Table<Connection>,
        body: &[u8],
        change: &MembershipChange<'_>,
        asker: Asker,
    ) -> MembershipResult {
        let Some(connection) = self.stream_named(connections, &change.token) else {
            return match (self.owner_of(&change.token), asker) {
                (Some(gateway), Asker::Client(ticket)) => {
                    self.ask_gateway(now, gateway, Question::Change(ticket), body);
                    MembershipResult::Asked
                }
                (Some(_), Asker::Gateway(..) | Asker::Nobody) | (None, _) => MembershipResult::NotFound,
            };
        };
        match &mut connection.state {
            State::Connecting(connecting) => {
                if connecting.held_close {
                    return MembershipResult::NotFound;
                }
                let owned = |names: &[Cow<'_, str>]| names.iter().map(|name| Box::from(&**name)).collect();
                let held = HeldChange { join: owned(&change.join), leave: owned(&change.leave) };
                let bytes: usize = connecting.held_changes.iter().chain([&held]).map(HeldChange::bytes).sum();
                if bytes > self.settings.pending_bytes_max {
                    return MembershipResult::Failed;
                }
                connecting.held_changes.push(held);
                MembershipResult::Buffered
            }
            State::Streaming(_) => {
                if !self.follow_all(now, &change.join) {
                    let owned = |name: &Cow<'_, str>| Box::from(&**name);
                    let names = change.join.iter().map(|name| (owned(name), false)).collect();
                    let leave = change.leave.iter().map(owned).collect();
                    let purpose = Purpose::Change { until: now.after(HELD), asker, leave };
                    self.following.add(connection.id, Wait { names, purpose });
                    return MembershipResult::Asked;
                }
                self.change_now(now, connection, &change.join, &change.leave)
            }
            State::Reading(_) | State::Answering(_) | State::Feeding(_) | State::Closing(_) | State::Closed(_) => {
                debug_assert!(false, "a token names what is no stream");
                MembershipResult::NotFound
            }
        }
    }

    /// Changes the groups of an open stream, all of which are known.
    pub(super) fn change_now<S: AsRef<str>>(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        join: &[S],
        leave: &[S],
    ) -> MembershipResult {
        self.catch_up(now, connection);
        if self.is_ending(connection) {
            return MembershipResult::NotFound;
        }
        match self.change_membership(connection, join, leave) {
            Ok(()) => {
                // A stream without an end: the groups that it is still in have all ended before.
                if !planted::is("leaving-is-taken-for-staying") {
                    self.end_if_over(now, connection);
                }
                MembershipResult::Ok
            }
            Err(error) => MembershipResult::Invalid(error),
        }
    }

    /// Changes the groups of an open stream, which has caught up or lags. Errors: nothing is changed.
    fn change_membership<S: AsRef<str>>(
        &mut self,
        connection: &mut Connection,
        join: &[S],
        leave: &[S],
    ) -> Result<(), MembershipError> {
        let slot = connection.id.slot();
        let State::Streaming(streaming) = &mut connection.state else { return Ok(()) };
        if let Some(wait) = self.following.entering(connection.id) {
            return self.following.change_entering(wait, join, leave);
        }
        let groups = &mut self.hub.groups;
        let leaves = |name: &str| leave.iter().any(|left| left.as_ref() == name);
        let stays = groups.names_of(streaming.joined).filter(|name| !leaves(name)).count();
        let is_new = |name: &&S| !groups.is_member(streaming.joined, name.as_ref()) || leaves(name.as_ref());
        if stays + join.iter().filter(is_new).count() > GROUPS_MAX {
            return Err(MembershipError::TooMany);
        }
        for name in leave {
            groups.leave(&mut streaming.joined, name.as_ref());
        }
        let head = groups.head();
        // Events from before it joined, if it lags.
        let from = if planted::is("joined-groups-are-replayed") { 0 } else { head };
        for name in join {
            groups.join(slot, &mut streaming.joined, name.as_ref(), from, false);
        }
        if streaming.joined != Joined::NONE && streaming.reached.is_plain() {
            streaming.reached = Reached::new(head, false);
        } else if !streaming.reached.is_plain() && !streaming.reached.is_lagging() {
            streaming.reached.set_position(head);
        }
        Ok(())
    }

    /// Applies the changes requested before the stream was open.
    pub(super) fn make_held_changes(&mut self, now: Millis, connection: &mut Connection, changes: &[HeldChange]) {
        // A missed state: the backend's answer and a change of groups cross.
        let changes = if planted::is("changes-requested-meanwhile-are-forgotten") { &changes[..0] } else { changes };
        for change in changes {
            if !self.follow_all(now, &change.join) && self.following.entering(connection.id).is_none() {
                let names = change.join.iter().map(|name| (name.clone(), false)).collect();
                let purpose =
                    Purpose::Change { until: Millis::NEVER, asker: Asker::Nobody, leave: change.leave.clone() };
                self.following.add(connection.id, Wait { names, purpose });
            } else if !self.is_ending(connection)
                && let Err(error) = self.change_membership(connection, &change.join, &change.leave)
            {
                let token = connection.token.to_string();
                warn!(token, why = &*error.message(); "a change of groups that was requested meanwhile is ignored");
            }
            self.end_if_over(now, connection);
        }
    }
}

impl HeldChange {
    fn bytes(&self) -> usize {
        self.join.iter().chain(&self.leave).map(|name| name.len() + size_of::<Box<str>>()).sum()
    }
}
