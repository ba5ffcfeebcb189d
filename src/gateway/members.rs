//! Members of groups: bringing a stream up to date, as far as its socket accepts it.
//!
//! A stream whose socket is full is not written to: it lags, and continues with the kept events once there is space.
//! Its progress is a position, which moves only when the kernel has accepted an event.

use super::connection::{Connection, State};
use super::frames::{Framing, IdLine, Offer, Rest, Tail, write_frame};
use super::group_stats::Lag;
use super::reached::Reached;
use super::shared::Shared;
use crate::callback::{Detail, Reason};
use crate::clock::Millis;
use crate::cursor::{Cursor, Position};
use crate::hub::{Due, EndReason, Joined, Keeps, Visit};
use crate::planted;
use crate::table::Table;

/// With so much unsent, kept events are not copied behind it, even if the socket is not known to be full.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

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
        let Some((_, reached)) = Self::membership(connection) else { return false };
        if self.end_with_groups(now, connection) || reached.is_lagging() {
            return false;
        }
        let (floor, head) = (self.position_of(reached), self.hub.groups.head());
        let is_blocked = connection.out.refused() > 0;
        if visit.newest <= floor {
            return false;
        }
        if connection.out.is_empty() {
            return self.offer(connection, visit.sole);
        }
        if !is_blocked && connection.out.len() >= UNSENT_BYTES_MAX && self.is_all_kept(connection, head) {
            self.fall_behind(now, connection, floor);
        } else if !is_blocked {
            self.append_due(now, connection, head, Due::Live);
        } else if !self.hub.groups.has_history() && connection.out.is_overdue(now, self.settings.pending_bytes_max) {
            self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
        } else {
            self.fall_behind(now, connection, floor);
        }
        false
    }

    /// Whether a stream that is left behind misses nothing: all that is due to it is kept.
    fn is_all_kept(&mut self, connection: &Connection, until: Position) -> bool {
        let Some((joined, reached)) = Self::membership(connection) else { return false };
        let floor = self.position_of(reached);
        self.hub.groups.has_history()
            && self.hub.groups.take_due(joined, (floor, until), Due::Live, |_, _, keeps| keeps == Keeps::Replayable)
    }

    /// The rest of what is due to the member that [`Shared::delivery`] has not finished with.
    pub(super) fn rest_of_visit(&mut self) -> Option<Visit> {
        let id = self.delivery.unfinished.take()?;
        Some(Visit { stream: id.slot(), newest: self.hub.groups.head(), sole: None })
    }

    /// The socket of a stream is full that has got to `position`. What is not kept of the rest, or no longer, is queued.
    fn fall_behind(&mut self, now: Millis, connection: &mut Connection, position: Position) {
        let Some((joined, _)) = Self::membership(connection) else { return };
        let head = self.hub.groups.head();
        if self.hub.groups.has_history() {
            let room = self.settings.pending_bytes_max.saturating_sub(connection.out.len());
            let is_lost = self.hub.groups.is_lost(joined, position);
            if !is_lost || self.hub.groups.exceeds(joined, (position, head), room) {
                return self.leave_behind(connection, position);
            }
        }
        if let Some(reached) = Self::reached_mut(connection) {
            reached.set_position(position);
        }
        self.append_due(now, connection, head, Due::Queued);
    }

    /// Ends a stream whose groups have ended, or one of whose groups was closed, behind what it is owed until then. One
    /// that lags ends later; by then the marks of its groups' ends may be gone.
    fn end_with_groups(&mut self, now: Millis, connection: &mut Connection) -> bool {
        let Some((joined, reached)) = Self::membership(connection) else { return false };
        let close = self.hub.groups.close_of(joined).map(|until| (until, EndReason::SERVER_CLOSED));
        let over = self.hub.groups.over_since(joined).map(|since| (since, GROUP_ENDED));
        let first = close.into_iter().chain(over).min_by_key(|(until, _)| *until);
        let Some((until, reason)) = first else { return false };
        let floor = self.position_of(reached);
        let is_blocked = connection.out.refused() > 0;
        if reached.is_lagging() {
            self.end_behind(connection, until, reason);
        } else if is_blocked && self.hub.groups.has_history() && self.hub.groups.owes(joined, floor) {
            self.fall_behind(now, connection, floor);
            if connection.is_lagging() {
                self.end_behind(connection, until, reason);
            } else {
                self.end_stream(now, connection, reason);
            }
        } else {
            self.append_due(now, connection, until, if is_blocked { Due::Queued } else { Due::Live });
            self.end_stream(now, connection, reason);
        }
        true
    }

    /// Whether a stream has ended, or does once it has caught up.
    pub(super) fn is_ending(&self, connection: &Connection) -> bool {
        let Some((_, reached)) = Self::membership(connection) else { return true };
        self.tail_of(connection, reached).is_some_and(|tail| tail.end.is_some())
    }

    /// Ends a stream that is in no group that goes on, behind what it is owed.
    pub(super) fn end_if_over(&mut self, now: Millis, connection: &mut Connection) {
        let Some((joined, reached)) = Self::membership(connection) else { return };
        let Some(until) = self.hub.groups.over_since(joined) else { return };
        if reached.is_lagging() {
            self.end_behind(connection, until, GROUP_ENDED);
        } else {
            self.end_stream(now, connection, GROUP_ENDED);
        }
    }

    /// The stream continues with the kept events after `position`.
    fn leave_behind(&mut self, connection: &mut Connection, position: Position) {
        if let Some(reached) = Self::reached_mut(connection) {
            reached.set_position(position);
            self.set_lagging(connection, true);
        }
    }

    /// Whether a stream reads kept events from now on.
    pub(super) fn set_lagging(&mut self, connection: &mut Connection, is_lagging: bool) {
        let Some(reached) = Self::reached_mut(connection) else { return };
        reached.set_lagging(is_lagging);
        let lagging = &mut self.delivery.lagging;
        let slot = connection.id.slot();
        if is_lagging {
            lagging.insert(slot);
        } else if lagging.remove(&slot) {
            self.pages.forget(connection.id);
        }
    }

    /// How many streams lag, and how far. Walks them.
    pub(super) fn lag(&self, connections: &Table<Connection>) -> Lag {
        let membership = |slot: &u32| connections.in_slot(*slot).and_then(Self::membership);
        let events = self.delivery.lagging.iter().filter_map(membership);
        let events = events.map(|(joined, reached)| self.hub.groups.kept_after(joined, reached.position())).max();
        Lag { streams: self.delivery.lagging.len() as u64, events: events.unwrap_or(0) }
    }

    /// Lets a lagging stream end once it has reached `until`.
    pub(super) fn end_behind(&mut self, connection: &mut Connection, until: Position, reason: EndReason) {
        let Some((joined, reached)) = Self::membership(connection) else { return };
        // What is dropped behind that does not concern it, but what was dropped before does.
        let until = if self.hub.groups.is_lost(joined, reached.position()) {
            until
        } else {
            self.hub.groups.last_kept(joined, until)
        };
        let until = until.max(reached.position());
        let Some(reached) = Self::reached_mut(connection) else { return };
        reached.set_tail(true);
        let tail = self.delivery.tails.entry(connection.id.slot());
        let tail = tail.or_insert(Tail { until, held: Vec::new(), held_events: 0, end: None });
        if tail.end.is_none() {
            // Events behind a replay come after what was held back meanwhile.
            tail.until = tail.until.min(until);
            tail.end = Some((until, reason));
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
            let cursor = self.engine.cursor(position);
            if !self.delivery.live.has(cursor, framing) {
                let id = IdLine::new(cursor);
                let live = &mut self.delivery.live;
                self.hub.groups.take_due(joined, (floor, head), Due::Live, |position, frame, keeps| {
                    let id = Some(&id).filter(|_| keeps == Keeps::Replayable);
                    live.encode(Cursor { position, ..cursor }, frame, id, framing);
                    true
                });
            }
            if !self.delivery.live.has(cursor, framing) {
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
        if joined == Joined::NONE || !self.hub.groups.has_walks() {
            return;
        }
        if planted::is("token-sends-overtake-group-sends") {
            return;
        }
        if self.end_with_groups(now, connection) || reached.is_lagging() {
            return;
        }
        let head = self.hub.groups.head();
        if connection.out.refused() == 0 {
            self.append_due(now, connection, head, Due::Live);
        } else {
            let floor = self.position_of(reached);
            if self.hub.groups.owes(joined, floor) {
                self.fall_behind(now, connection, floor);
            }
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
        let until = self.end_of_pull(connection, reached);
        if !reached.is_lagging() {
            return false;
        }
        let position = reached.position();
        if !self.is_behind_history(joined, (position, until)) {
            self.pages.discard(connection.id);
            return self.collect(connection, until, Due::Kept);
        }
        let framing = Self::framing(connection, reached);
        self.is_recallable(joined, position) && self.offer_page(connection.id, (joined, position), until, framing)
    }

    /// Whether something was dropped of what a stream is owed.
    fn is_behind_history(&self, joined: Joined, (position, until): (Position, Position)) -> bool {
        // A slow reader misses events and is not told.
        let is_lost = self.hub.groups.is_lost(joined, position) && !planted::is("slow-members-skip-what-was-dropped");
        position < until && is_lost
    }

    fn end_of_pull(&self, connection: &Connection, reached: Reached) -> Position {
        self.tail_of(connection, reached).map_or(self.hub.groups.head(), |tail| tail.until)
    }

    /// What follows once a stream has caught up.
    fn tail_of(&self, connection: &Connection, reached: Reached) -> Option<&Tail> {
        if reached.has_tail() { self.delivery.tails.get(&connection.id.slot()) } else { None }
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
        if !taken.all {
            // It would be kept for as long as the socket is full.
            self.pages.discard(connection.id);
        }
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
        match taken.rest {
            Rest::Nothing => {}
            Rest::Copied(bytes) => self.outbox.bytes(now, &mut connection.out).extend_from_slice(&bytes),
            Rest::Shared(bytes) => self.outbox.share(now, &mut connection.out, bytes),
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
            // It was more than fits into one write: the socket is offered the rest before anything else.
            Some(_) | None if taken.is_room_left => {
                if let Some(reached) = Self::reached_mut(connection) {
                    reached.set_position(position);
                }
                self.outbox.queue(connection.id, &mut connection.out);
                self.delivery.unfinished = Some(connection.id);
            }
            Some(_) | None => self.fall_behind(now, connection, position),
        }
    }

    /// A lagging stream has nothing unsent and no offer: it has caught up, or has fallen too far behind.
    pub(super) fn end_pull(&mut self, now: Millis, connection: &mut Connection) {
        let Some((joined, reached)) = Self::membership(connection) else { return };
        if !reached.is_lagging() {
            return;
        }
        let until = self.end_of_pull(connection, reached);
        let position = reached.position();
        let is_over = if self.is_behind_history(joined, (position, until)) {
            if !self.is_recallable(joined, position) {
                return self.cut_stream(now, connection, EndReason::error(Detail::SlowConsumer));
            }
            let is_over = self.is_page_over(connection.id, (joined, position), until);
            // The socket is full, and would keep it.
            self.pages.discard(connection.id);
            is_over
        } else {
            !self.hub.groups.owes_kept(joined, (position, until))
        };
        if is_over {
            self.catch_up_with(now, connection, until);
            // There may be more behind what was held back, and no edge tells of it.
            if connection.is_lagging() && !planted::is("end-of-a-replay-is-taken-for-the-last-news") {
                self.outbox.queue(connection.id, &mut connection.out);
            }
        }
    }

    /// A lagging stream has reached `position`, and gets what follows there.
    fn catch_up_with(&mut self, now: Millis, connection: &mut Connection, position: Position) {
        let tail = self.delivery.tails.remove(&connection.id.slot());
        let head = self.hub.groups.head();
        let Some(reached) = Self::reached_mut(connection) else { return };
        reached.set_tail(false);
        reached.set_position(position);
        self.set_lagging(connection, position < head);
        let Some(tail) = tail else { return };
        if !tail.held.is_empty() {
            self.outbox.frames(now, &mut connection.out).extend_from_slice(&tail.held);
            self.stats.sent(tail.held_events, tail.held.len());
            self.outbox.queue(connection.id, &mut connection.out);
        }
        match tail.end {
            Some((until, reason)) if position < until => self.end_behind(connection, until, reason),
            Some((_, reason)) => self.end_stream(now, connection, reason),
            None => {}
        }
    }

    /// The `id` of a stream's position, if it has one.
    pub(super) fn position_line(&self, connection: &Connection) -> Option<IdLine> {
        let (_, reached) = Self::membership(connection).filter(|(_, reached)| reached.is_resumable())?;
        // One that is still to enter its groups has no position of its own.
        let has_position = self.following.is_empty() || self.following.entering(connection.id).is_none();
        // Events lost, if the client leaves behind a heartbeat that comes between two slices.
        let is_ahead = planted::is("heartbeats-tell-positions-ahead-of-the-walk");
        has_position.then(|| self.id_line(if is_ahead { self.hub.groups.head() } else { self.position_of(reached) }))
    }
}
