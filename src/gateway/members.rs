//! Members of groups: bringing a stream up to date, as far as its socket accepts it.
//!
//! A stream whose socket is full is not written to: it lags, and continues with the kept events once there is space.
//! Its progress is a position, which moves only when the kernel has accepted an event.

use super::connection::{Connection, State};
use super::frames::{Framing, IdLine, Offer, Tail, write_frame};
use super::reached::Reached;
use super::shared::Shared;
use crate::callback::{Detail, Reason};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::hub::{ConnId, Due, EndReason, Joined, Keeps, Visit};
use crate::planted;

/// Ended with its groups.
pub(super) const GROUP_ENDED: EndReason = EndReason { reason: Reason::ServerClosed, detail: Some(Detail::GroupEnded) };

impl Shared {
    /// The position of a stream in its groups.
    pub(super) fn position_of(&self, reached: Reached) -> Position {
        let position = reached.position();
        if reached.is_lagging() { position } else { position.max(self.hub.groups.settled()) }
    }

    /// The `id` of a position.
    pub(super) fn id_line(&self, position: Position) -> IdLine {
        IdLine::new(self.engine.cursor(position))
    }

    /// The groups of an open stream, and its position.
    fn membership(connection: &Connection) -> Option<(Joined, Reached)> {
        match &connection.state {
            State::Streaming(streaming) => Some((streaming.joined, streaming.reached)),
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Closing(_)
            | State::Closed(_) => None,
        }
    }

    fn reached_mut(connection: &mut Connection) -> Option<&mut Reached> {
        match &mut connection.state {
            State::Streaming(streaming) => Some(&mut streaming.reached),
            State::Reading(_)
            | State::Answering(_)
            | State::Feeding(_)
            | State::Connecting(_)
            | State::Closing(_)
            | State::Closed(_) => None,
        }
    }

    /// A walk visits a member. `true`: it must be written to now.
    pub(super) fn visit(&mut self, now: Millis, connection: &mut Connection, visit: Visit) -> bool {
        let Some((joined, reached)) = Self::membership(connection) else { return false };
        let end = if visit.close_at > 0 {
            Some((visit.close_at, EndReason::SERVER_CLOSED))
        } else {
            self.hub.groups.is_over(joined).then(|| (self.hub.groups.head(), GROUP_ENDED))
        };
        if reached.is_lagging() {
            // The end of its groups is seen once it has caught up.
            if visit.close_at > 0 {
                self.end_behind(connection, visit.close_at, EndReason::SERVER_CLOSED);
            }
            return false;
        }
        let (floor, head) = (self.position_of(reached), self.hub.groups.head());
        let is_blocked = connection.out.refused() > 0;
        if let Some((until, reason)) = end {
            if is_blocked && self.hub.groups.has_history() && visit.newest > floor {
                self.lag(connection, floor);
                self.end_behind(connection, until, reason);
            } else {
                self.append_due(now, connection, until, if is_blocked { Due::Queued } else { Due::Live });
                self.end_stream(now, connection, reason);
            }
            return false;
        }
        if visit.newest <= floor {
            return false;
        }
        if connection.out.is_empty() {
            return self.offer(connection, visit.sole);
        }
        if !is_blocked {
            self.append_due(now, connection, head, Due::Live);
        } else if self.hub.groups.has_history() {
            self.lag(connection, floor);
        } else if connection.out.is_overdue(now, self.settings.pending_bytes_max) {
            self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
        } else {
            self.append_due(now, connection, head, Due::Queued);
        }
        false
    }

    /// The stream continues with the kept events after `position`.
    fn lag(&mut self, connection: &mut Connection, position: Position) {
        if let Some(reached) = Self::reached_mut(connection) {
            reached.set_position(position);
            reached.set_lagging(true);
        }
    }

    /// Lets a lagging stream end once it has reached `until`.
    pub(super) fn end_behind(&mut self, connection: &mut Connection, until: Position, reason: EndReason) {
        let Some(reached) = Self::reached_mut(connection) else { return };
        reached.set_tail(true);
        let tail = self.delivery.tails.entry(connection.id.slot());
        let tail = tail.or_insert(Tail { until, held: Vec::new(), held_events: 0, end: None });
        if tail.end.is_none() {
            tail.until = until;
            tail.end = Some(reason);
        }
    }

    fn framing(connection: &Connection, reached: Reached) -> Framing {
        Framing { ids: reached.is_resumable(), chunks: connection.out.is_chunked() }
    }

    /// Offers the events due to a stream, without a copy if it is only one. `false`: none is due.
    fn offer(&mut self, connection: &mut Connection, sole: Option<Position>) -> bool {
        let Some((joined, reached)) = Self::membership(connection) else { return false };
        let framing = Self::framing(connection, reached);
        let (floor, head) = (self.position_of(reached), self.hub.groups.head());
        let id = connection.id;
        if let Some(position) = sole {
            if !self.delivery.live.has(position, framing) {
                let id = self.id_line(position);
                let live = &mut self.delivery.live;
                self.hub.groups.take_due(joined, (floor, head), Due::Live, |position, frame, keeps| {
                    live.encode(position, frame, Some(&id).filter(|_| keeps == Keeps::Replayable), framing);
                    true
                });
            }
            if !self.delivery.live.has(position, framing) {
                return false;
            }
            let offer = Offer { id, live: Some((position, framing)), floor, complete_to: Some(head) };
            self.delivery.offer = Some(offer);
            return true;
        }
        self.collect(connection, head, Due::Live)
    }

    /// Offers as many of the events due up to `until` as fit into one write.
    fn collect(&mut self, connection: &Connection, until: Position, due: Due) -> bool {
        let Some((joined, reached)) = Self::membership(connection) else { return false };
        let framing = Self::framing(connection, reached);
        let floor = self.position_of(reached);
        let (engine, collected) = (&self.engine, self.delivery.start());
        let is_complete = self.hub.groups.take_due(joined, (floor, until), due, |position, frame, keeps| {
            let ids = framing.ids && keeps == Keeps::Replayable;
            collected.add(engine.cursor(position), frame, Framing { ids, ..framing })
        });
        if collected.is_empty() {
            return false;
        }
        let complete_to = is_complete.then_some(until);
        self.delivery.offer = Some(Offer { id: connection.id, live: None, floor, complete_to });
        true
    }

    /// Appends the events due up to `until`, whatever their size, to the unsent bytes of a stream that does not lag.
    fn append_due(&mut self, now: Millis, connection: &mut Connection, until: Position, due: Due) {
        let Some((joined, reached)) = Self::membership(connection) else { return };
        let floor = self.position_of(reached);
        let (engine, ids) = (&self.engine, reached.is_resumable());
        let (mut events, mut bytes) = (0, 0);
        let (outbox, out) = (&mut self.outbox, &mut connection.out);
        self.hub.groups.take_due(joined, (floor, until), due, |position, frame, keeps| {
            let id = (ids && keeps == Keeps::Replayable).then(|| IdLine::new(engine.cursor(position)));
            let to = outbox.frames(now, out);
            let start = to.len();
            write_frame(to, frame, id.as_ref());
            bytes += to.len() - start;
            events += 1;
            true
        });
        if let Some(reached) = Self::reached_mut(connection) {
            reached.set_position(until.max(floor));
        }
        if events > 0 {
            self.stats.deliver(events, bytes);
            let was_blocked = due == Due::Queued;
            if was_blocked {
                self.count_unsent(connection);
            } else {
                self.outbox.queue(connection.id, &mut connection.out);
            }
        }
    }

    /// Brings a stream up to date before other output, so that sends to it stay in order. Lagging streams stay behind.
    pub(super) fn catch_up(&mut self, now: Millis, connection: &mut Connection) {
        let Some((joined, reached)) = Self::membership(connection) else { return };
        if reached.is_lagging() || joined == Joined::NONE || !self.hub.groups.has_walks() {
            return;
        }
        if planted::is("token-sends-overtake-group-sends") {
            return;
        }
        let head = self.hub.groups.head();
        if connection.out.refused() == 0 {
            self.append_due(now, connection, head, Due::Live);
        } else if self.hub.groups.has_history() {
            let floor = self.position_of(reached);
            if self.hub.groups.owes(joined, floor) {
                self.lag(connection, floor);
            }
        } else {
            self.append_due(now, connection, head, Due::Queued);
        }
    }

    /// The next offer to a lagging stream, which has nothing else unsent.
    fn pull(&mut self, connection: &Connection) -> bool {
        let Some((joined, reached)) = Self::membership(connection) else { return false };
        if let Some(offer) = &self.delivery.offer
            && offer.id == connection.id
        {
            return true;
        }
        if !reached.is_lagging() || self.hub.groups.is_lost(joined, reached.position()) {
            return false;
        }
        self.collect(connection, self.end_of_pull(connection, reached), Due::Kept)
    }

    fn end_of_pull(&self, connection: &Connection, reached: Reached) -> Position {
        let tail = reached.has_tail().then(|| self.delivery.tails.get(&connection.id.slot())).flatten();
        tail.map_or(self.hub.groups.head(), |tail| tail.until)
    }

    /// The offer to a stream that has nothing else unsent.
    pub(super) fn offered(&mut self, connection: &Connection) -> &[u8] {
        if !self.pull(connection) {
            return &[];
        }
        self.delivery.offer.as_ref().map_or(&[], |offer| self.delivery.bytes(offer))
    }

    /// Whether that connection is offered events of its groups now.
    pub(super) fn is_offered(&self, connection: &Connection) -> bool {
        connection.out.is_empty() && self.delivery.offer.is_some_and(|offer| offer.id == connection.id)
    }

    /// The kernel accepted `count` bytes of an offer.
    pub(super) fn settle_offer(&mut self, now: Millis, connection: &mut Connection, count: usize) {
        let Some(offer) = self.delivery.offer.take() else { return };
        let Some((_, reached)) = Self::membership(connection) else { return };
        let taken = self.delivery.taken(&offer, count);
        let mut position = taken.position.unwrap_or(offer.floor);
        // A position that moves before the kernel has the event: refused bytes are lost.
        if planted::is("position-moves-before-the-write") {
            position = offer.complete_to.unwrap_or(position);
        }
        self.stats.deliver(taken.events, count);
        // The wait of a stream that accepts nothing counts from its beginning.
        if count > 0 || !reached.is_lagging() {
            connection.out.touch(now);
        }
        if !taken.rest.is_empty() {
            self.outbox.bytes(now, &mut connection.out).extend_from_slice(&taken.rest);
        }
        match offer.complete_to {
            Some(complete_to) if taken.all => {
                if reached.is_lagging() {
                    return self.catch_up_with(now, connection, complete_to);
                }
                if let Some(reached) = Self::reached_mut(connection) {
                    reached.set_position(complete_to);
                }
            }
            Some(_) | None if reached.is_lagging() => {
                if let Some(reached) = Self::reached_mut(connection) {
                    reached.set_position(position);
                }
            }
            Some(_) | None if self.hub.groups.has_history() => self.lag(connection, position),
            Some(_) | None => {
                if let Some(reached) = Self::reached_mut(connection) {
                    reached.set_position(position);
                }
                let head = self.hub.groups.head();
                self.append_due(now, connection, head, if taken.all { Due::Live } else { Due::Queued });
            }
        }
    }

    /// A lagging stream has nothing unsent and no offer: it has caught up, or has fallen too far behind.
    pub(super) fn end_pull(&mut self, now: Millis, connection: &mut Connection) {
        let Some((joined, reached)) = Self::membership(connection) else { return };
        if !reached.is_lagging() {
            return;
        }
        let until = self.end_of_pull(connection, reached);
        if self.hub.groups.is_lost(joined, reached.position()) {
            self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
        } else if !self.hub.groups.owes_kept(joined, (reached.position(), until)) {
            self.catch_up_with(now, connection, until);
        }
    }

    /// A lagging stream has reached `position`, and gets what follows there.
    fn catch_up_with(&mut self, now: Millis, connection: &mut Connection, position: Position) {
        let tail = self.delivery.tails.remove(&connection.id.slot());
        let head = self.hub.groups.head();
        let Some(reached) = Self::reached_mut(connection) else { return };
        reached.set_tail(false);
        reached.set_position(position);
        reached.set_lagging(position < head);
        let mut end = None;
        if let Some(tail) = tail {
            if !tail.held.is_empty() {
                self.outbox.frames(now, &mut connection.out).extend_from_slice(&tail.held);
                self.stats.sent(tail.held_events, tail.held.len());
                self.outbox.queue(connection.id, &mut connection.out);
            }
            end = tail.end;
        }
        let Some((joined, _)) = Self::membership(connection) else { return };
        if end.is_none() && position == head && self.hub.groups.is_over(joined) {
            end = Some(GROUP_ENDED);
        }
        if let Some(reason) = end {
            self.end_stream(now, connection, reason);
        }
    }

    /// The `id` of a stream's heartbeat, if it has one.
    pub(super) fn heartbeat_id(&self, id: ConnId, reached: Reached) -> Option<IdLine> {
        // One that is still to enter its groups has no position of its own.
        let has_position = self.following.is_empty() || self.following.entering(id).is_none();
        (reached.is_resumable() && has_position).then(|| self.id_line(self.position_of(reached)))
    }
}
